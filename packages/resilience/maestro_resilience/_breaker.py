"""The circuit breaker: stop calling what keeps failing, and find out when to resume.

    closed ----- too many failures or slow calls ----> open
    open ------- `open_for` seconds later, next call -> half_open
    half_open -- `probes` calls succeeded -----------> closed
    half_open -- one probe failed -------------------> open, for longer

Three more states are entered by hand and left by `reset()`: isolated (rejects
everything), disabled (lets everything pass, counts nothing) and metrics_only
(lets everything pass, counts, never trips).
"""

from __future__ import annotations

import threading

from maestro_resilience import _checks
from maestro_resilience._judgement import BadResult, Judge, Rates
from maestro_resilience._policy import OPEN_GATE, Gate, settings
from maestro_resilience._recovery import BreakTime, ProbeRound
from maestro_resilience._runtime import SWITCH, renew_after_fork
from maestro_resilience._signals import tell
from maestro_resilience._state import (
    CLOSED,
    DISABLED,
    HALF_OPEN,
    ISOLATED,
    METRICS_ONLY,
    OPEN,
    State,
)
from maestro_resilience._window import OK, new_window
from maestro_resilience.errors import CircuitOpen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

    from maestro_resilience._checks import ExceptionTest
    from maestro_resilience._metrics import BreakerMetrics
    from maestro_resilience._recovery import Probe
    from maestro_resilience._runtime import Clock
    from maestro_resilience._shared import Link
    from maestro_resilience._window import Window
    from maestro_resilience.events import Listener
    from maestro_resilience.store import BreakerStore, SharedView


class CircuitBreaker(Gate):
    """Reject calls for a while once too many of them fail.

    Closed, it never serialises calls and takes no lock on success. Half-open, it
    admits exactly `probes` calls; a cancelled probe gives its slot back and one
    that never returns loses it after `probe_lease`.

    Args:
        name: appears in errors and events.
        failure_rate: trips at this share of failed calls; above 0, at most 1.
        minimum_calls: the rates count only with so many calls in the window.
        window: length of the time window in seconds.
        window_calls: look at the last N calls instead of a time window.
        slow_call: a call of at least so many seconds is slow; None: never.
        slow_rate: trips at this share of slow calls; above 0, at most 1.
        open_for: seconds that an open circuit rejects everything.
        growth: each failed probe round multiplies `open_for` by this; at least 1.
        max_open: the longest that growth can make it, in seconds.
        probes: calls admitted, and needed to succeed, in the half-open state.
        probe_lease: seconds after which a probe without an answer loses its slot.
        record: exceptions that count as failures; all others count as success.
        ignore: exceptions that count as neither.
        on_result: tells of a returned value whether it is a failure.
        store: state shared with other processes, see `BreakerStore`.
        clock: time source, see `maestro_resilience.testing.FakeClock`.
        listeners: functions that get this breaker's events.

    Exceptions outside Exception (KeyboardInterrupt, SystemExit, GeneratorExit,
    CancelledError) and rejections by policies inside count as neither.

    Source: M. Nygard, Release It!, "Circuit Breaker"; rates and minimum calls as
    in resilience4j and Polly.
    """

    __slots__ = (
        "_break_time",
        "_judge",
        "_lock",
        "_parked",
        "_probe_lease",
        "_probes",
        "_rates",
        "_reason",
        "_round",
        "_shared",
        "_slow_call",
        "_state",
        "_until",
        "_window",
        "_window_calls",
        "_window_s",
    )

    kind = "circuit_breaker"

    def __init__(
        self,
        name: str | None = None,
        *,
        failure_rate: float = 0.5,
        minimum_calls: int = 10,
        window: float = 30.0,
        window_calls: int | None = None,
        slow_call: float | None = None,
        slow_rate: float = 0.5,
        open_for: float = 30.0,
        growth: float = 1.0,
        max_open: float = 3600.0,
        probes: int = 1,
        probe_lease: float = 60.0,
        record: ExceptionTest = Exception,
        ignore: ExceptionTest = (),
        on_result: Callable[[Any], bool] | None = None,
        store: BreakerStore | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        config = settings(locals(), type(self).__init__)
        super().__init__(name, clock=clock, listeners=listeners, config=config)
        me = f"CircuitBreaker {self.name!r}"
        self._rates = Rates(me, failure_rate, minimum_calls, slow_call, slow_rate)
        self._slow_call = self._rates.slow_call
        self._judge = Judge(me, record, ignore, on_result)
        self._window_s = _checks.number(me, "window", window, above=0)
        self._window_calls = self._rates.fit_into(me, window_calls)
        self._break_time = BreakTime(me, open_for, growth, max_open)
        self._probes = _checks.whole(me, "probes", probes)
        self._probe_lease = _checks.number(me, "probe_lease", probe_lease, above=0)
        self._lock = threading.RLock()
        self._state: State = CLOSED
        self._reason = ""
        self._until = 0.0
        self._round: ProbeRound | None = None
        # The window of this closed period; None whenever calls need the slow path.
        self._window: Window | None = self._new_window()
        self._parked: Window | None = None
        self._shared: Link | None = None
        if store is not None:
            _checks.offers(
                me, "store", store, "a BreakerStore, such as RedisBreakerStore(url)",
                "load", "change", "lease", "report",
            )  # fmt: skip
            from maestro_resilience._shared import Link

            self._shared = Link(self, store)
            self._shared.ensure_thread()
        renew_after_fork(self)

    def _new_window(self) -> Window:
        return new_window(self, self._window_s, self._window_calls, self._slow_call)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        if self._shared is not None:
            # The first call takes the slow path and starts a thread of this process.
            self._shared.renew()
            self._parked, self._window = self._window or self._parked, None

    def _unpark(self, link: Link) -> None:
        link.ensure_thread()
        with self._lock:
            if self._parked is not None:
                self._window, self._parked = self._parked, None

    # --- looking and steering -----------------------------------------------------

    @property
    def state(self) -> State:
        """Where the breaker stands now; open turns half-open with the next call."""
        if self._shared is not None:
            self._shared.ensure_thread()  # also in a forked child that only looks
        return self._state

    @property
    def metrics(self) -> BreakerMetrics:
        """A snapshot of the current window; all zero while the circuit is not closed."""
        from maestro_resilience._metrics import BreakerMetrics

        with self._lock:
            window = self._window
            calls, failures, slow = window.totals() if window else (0, 0, 0)
            return BreakerMetrics(
                state=self._state,
                calls=calls,
                failures=failures,
                slow_calls=slow,
                failure_rate=failures / calls if calls else 0.0,
                slow_rate=slow / calls if calls else 0.0,
            )

    def isolate(self, reason: str = "isolated by hand") -> None:
        """Reject every call until `reset()`."""
        self._go(ISOLATED, reason)

    def disable(self) -> None:
        """Let every call pass and count nothing until `reset()`."""
        self._go(DISABLED, "disabled by hand")

    def metrics_only(self) -> None:
        """Let every call pass and count, but never trip, until `reset()`."""
        self._go(METRICS_ONLY, "metrics only, by hand")

    def reset(self) -> None:
        """Close the circuit with an empty window, from any state."""
        self._go(CLOSED, "reset by hand")

    def _go(self, new: State, cause: str) -> None:
        with self._lock:
            if new is CLOSED:
                self._break_time.start_over()
            old = self._enter_state(new, cause)
        self._tell_change(old, new, cause)
        if self._shared is not None and new in {CLOSED, ISOLATED}:
            self._shared.steered(self, new.value, cause)

    def _follow(self, view: SharedView) -> None:
        """Take over the shared state, unless this breaker was switched off by hand."""
        new = State(view.state)
        with self._lock:
            if self._state in {DISABLED, METRICS_ONLY}:
                return
            old = self._state
            if old is not new or new is OPEN:
                if new is CLOSED:
                    self._break_time.start_over()
                self._enter_state(new, view.reason)
                self._until = self._clock.monotonic() + view.left
        self._tell_change(old, new, view.reason)

    # --- transitions: the caller holds the lock -------------------------------------

    def _enter_state(self, new: State, cause: str) -> State:
        # First everything that is a call, which a ^C may interrupt, then the stores.
        probe_round = ProbeRound() if new is HALF_OPEN else None
        window = self._new_window() if new in {CLOSED, METRICS_ONLY} else None
        until = self._until
        if new is OPEN:
            until = self._clock.monotonic() + self._break_time.seconds
        old = self._state
        self._state = new
        self._reason = cause
        self._round = probe_round
        self._window = window
        self._parked = None
        self._until = until
        return old

    def _tell_change(self, old: State, new: State, cause: str) -> None:
        # After the lock is released: a listener may use the breaker.
        if old is not new:
            tell(self, "StateChanged", old=old.value, new=new.value, cause=cause)

    # --- entering ---------------------------------------------------------------------

    def _started(self) -> float:
        return 0.0 if self._slow_call is None else self._clock.monotonic()

    def _enter(self) -> Any:
        return self._window or self._enter_slowly()

    def _enter_slowly(self) -> Any:
        """Return a token, or raise CircuitOpen: for every state but the closed one."""
        if self._state is OPEN:  # one read, no lock: rejections must be cheap
            left = self._until - self._clock.monotonic()
            if left > 0:
                if self._listeners or SWITCH.listeners:
                    self._reject(left)
                raise CircuitOpen(self.name, left, OPEN, self._reason)
        if self._shared is not None:
            self._unpark(self._shared)
            if self._state in {OPEN, HALF_OPEN}:
                answer = self._shared.lease(self)
                if answer is not None:
                    return self._admitted(answer)
        return self._enter_alone()

    def _enter_alone(self) -> Any:
        token: Probe | None = None
        changed: State | None = None
        cause = "open time is over"
        try:
            with self._lock:
                state = self._state
                if state is DISABLED:
                    return OPEN_GATE
                if self._window is not None:
                    return self._window
                now = self._clock.monotonic()
                if state is OPEN and now >= self._until:
                    changed = self._enter_state(HALF_OPEN, cause)
                token, wait = self._lease(now)
            if changed is not None:
                self._tell_change(changed, HALF_OPEN, cause)
        except BaseException:  # a ^C, or one from a listener
            if token is not None:
                token.withdraw()
            raise
        if token is None:
            self._reject(wait)
        return token

    def _admitted(self, answer: tuple[Any, float | None]) -> Any:
        """Return the token of a probe that the store admitted, or what is due now."""
        token, wait = answer
        if token is not None:
            return token
        if self._window is not None:  # somebody else has closed it in the meantime
            return self._window
        return self._reject(wait)

    async def _enter_async(self) -> Any:
        if self._shared is None or not self._asks_store():
            return self._enter()
        import asyncio

        # The store may block for its timeout; the event loop must not. A token that
        # a cancelled task does not take gives itself back.
        return await asyncio.to_thread(self._enter)

    def _asks_store(self) -> bool:
        state = self._state
        if state is OPEN:
            return self._clock.monotonic() >= self._until
        return state is HALF_OPEN

    def _lease(self, now: float) -> tuple[Probe | None, float | None]:
        """Return a probe, or None and the seconds to wait; the caller holds the lock."""
        if self._state is OPEN:
            return None, max(0.0, self._until - now)
        return (None, None) if self._round is None else self._round.lease(self, now)

    def _reject(self, retry_after: float | None) -> NoReturn:
        error = CircuitOpen(self.name, retry_after, self._state, self._reason)
        if self._listeners or SWITCH.listeners:
            tell(self, "CallRejected", error=error)
        raise error

    # --- outcomes -----------------------------------------------------------------------

    def _count(self, window: Window, outcome: int) -> None:
        """Count an outcome and trip when a rate is reached."""
        with self._lock:
            window.add(outcome)
            if window is not self._window or self._state is not CLOSED:
                return
            cause = "" if outcome == OK else self._rates.cause(*window.totals())
            if not cause:
                return
            old = self._enter_state(OPEN, cause)
        self._tell_change(old, OPEN, cause)
        if self._shared is not None:
            self._shared.tripped(self, cause)

    def _settle(self, token: Any, started: float, result: Any) -> None:
        if self._judge.on_result is not None and self._is_bad(token, started, result):
            return
        token.succeeded(started)

    def _is_bad(self, token: Any, started: float, result: Any) -> bool:
        """Count a returned value as a failure where `on_result` says so."""
        test = self._judge.on_result
        try:
            bad = test is not None and test(result)
        except BaseException:
            # A predicate that raises must not keep a probe's slot.
            token.failed(GeneratorExit(), started)
            raise
        if bad:
            token.failed(BadResult(), started)
        return bad

    # --- the layers, written out because they are the ones that must be cheap -----------

    def _sync(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if self._slow_call is not None or self._judge.on_result is not None:
            return super()._sync(fn)

        def breaker(*args: Any, **kwargs: Any) -> Any:
            if not SWITCH.enabled:
                return fn(*args, **kwargs)
            token = self._window or self._enter_slowly()
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:
                token.failed(error, 0.0)
                raise
            token.succeeded(0.0)
            return result

        return breaker

    def _async(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if self._slow_call is not None or self._judge.on_result is not None:
            return super()._async(fn)

        async def breaker(*args: Any, **kwargs: Any) -> Any:
            if not SWITCH.enabled:
                return await fn(*args, **kwargs)
            token = self._window or await self._enter_async()
            try:
                result = await fn(*args, **kwargs)
            except BaseException as error:
                token.failed(error, 0.0)
                raise
            token.succeeded(0.0)
            return result

        return breaker
