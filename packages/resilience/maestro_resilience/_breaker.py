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
from enum import StrEnum

from maestro_resilience import _checks
from maestro_resilience._policy import OPEN_GATE, Gate, settings
from maestro_resilience._runtime import SWITCH, renew_after_fork
from maestro_resilience._signals import tell
from maestro_resilience._window import FAILED, OK, SLOW_FAILED, SLOW_OK, new_window
from maestro_resilience.errors import CircuitOpen, ConfigurationError, Rejected

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, NoReturn

    from maestro_resilience._checks import ExceptionTest
    from maestro_resilience._metrics import BreakerMetrics
    from maestro_resilience._runtime import Clock
    from maestro_resilience._shared import Link
    from maestro_resilience._window import Window
    from maestro_resilience.events import Listener
    from maestro_resilience.store import BreakerStore, SharedView


class State(StrEnum):
    """Where a circuit breaker stands; equal to its lower-case name."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    ISOLATED = "isolated"
    DISABLED = "disabled"
    METRICS_ONLY = "metrics_only"


# Enum attribute access costs a descriptor call; these names are read on every call.
CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN
ISOLATED, DISABLED, METRICS_ONLY = State.ISOLATED, State.DISABLED, State.METRICS_ONLY


class ProbeRound:
    """One half-open period: which probes run, and how many have succeeded."""

    __slots__ = ("leases", "succeeded")

    def __init__(self) -> None:
        self.leases: dict[Probe, float] = {}  # probe -> when its lease ends
        self.succeeded = 0


class Probe:
    """The token of a call that tries out a half-open circuit."""

    __slots__ = ("breaker", "round")

    def __init__(self, breaker: CircuitBreaker, probe_round: ProbeRound) -> None:
        self.breaker = breaker
        self.round = probe_round

    def succeeded(self, started: float) -> None:
        """Count the probe as good, unless it was slow."""
        self.breaker._probe_succeeded(self, started)

    def failed(self, error: BaseException, started: float) -> None:
        """Count the probe as bad, or give its slot back where the error says nothing."""
        self.breaker._probe_failed(self, error)


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
        "_failure_rate",
        "_growth",
        "_ignore",
        "_lock",
        "_max_open",
        "_minimum_calls",
        "_on_result",
        "_open_for",
        "_open_s",
        "_probe_lease",
        "_probes",
        "_reason",
        "_record",
        "_record_all",
        "_round",
        "_shared",
        "_slow_call",
        "_slow_rate",
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
        self._failure_rate = _checks.number(
            me, "failure_rate", failure_rate, above=0, most=1
        )
        self._minimum_calls = _checks.whole(me, "minimum_calls", minimum_calls)
        self._window_s = _checks.number(me, "window", window, above=0)
        self._window_calls = window_calls
        if window_calls is not None:
            _checks.whole(me, "window_calls", window_calls)
            if window_calls < minimum_calls:
                raise ConfigurationError(
                    me,
                    "minimum_calls",
                    minimum_calls,
                    f"at most window_calls ({window_calls}): the window never holds more",
                )
        self._slow_call = (
            None
            if slow_call is None
            else _checks.number(me, "slow_call", slow_call, above=0)
        )
        self._slow_rate = _checks.number(me, "slow_rate", slow_rate, above=0, most=1)
        self._open_for = _checks.number(me, "open_for", open_for, above=0)
        self._growth = _checks.number(me, "growth", growth, least=1)
        self._max_open = _checks.number(me, "max_open", max_open, above=0)
        self._probes = _checks.whole(me, "probes", probes)
        self._probe_lease = _checks.number(me, "probe_lease", probe_lease, above=0)
        self._record = _checks.ExceptionFilter(me, "record", record)
        self._record_all = record is Exception
        self._ignore = (
            _checks.ExceptionFilter(me, "ignore", ignore) if ignore != () else None
        )
        self._on_result = (
            None
            if on_result is None
            else _checks.predicate(me, "on_result", on_result, "True for a failure")
        )
        self._lock = threading.RLock()
        self._state: State = CLOSED
        self._reason = ""
        self._until = 0.0
        self._open_s = self._open_for
        self._round: ProbeRound | None = None
        self._shared: Link | None = None
        if store is not None:
            from maestro_resilience._shared import connect

            self._shared = connect(self, store)
        # The window of this closed period; None whenever calls need the slow path.
        self._window: Window | None = self._new_window()
        if self._shared is not None:
            self._shared.ensure_thread()
        renew_after_fork(self)

    def _new_window(self) -> Window:
        return new_window(self, self._window_s, self._window_calls, self._slow_call)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        if self._shared is not None:
            self._shared.renew()

    # --- looking and steering -----------------------------------------------------

    @property
    def state(self) -> State:
        """Where the breaker stands now; open turns half-open with the next call."""
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
                self._open_s = self._open_for
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
                    self._open_s = self._open_for
                self._enter_state(new, view.reason)
                self._until = self._clock.monotonic() + view.left
        self._tell_change(old, new, view.reason)

    # --- transitions: the caller holds the lock -------------------------------------

    def _enter_state(self, new: State, cause: str) -> State:
        old, self._state = self._state, new
        self._reason = cause
        self._round = ProbeRound() if new is HALF_OPEN else None
        self._window = self._new_window() if new in {CLOSED, METRICS_ONLY} else None
        if new is OPEN:
            self._until = self._clock.monotonic() + self._open_s
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
        if self._shared is not None and self._state in {OPEN, HALF_OPEN}:
            answer = self._shared.lease(self)
            if answer is not None:
                return self._admitted(answer)
        changed: State | None = None
        cause = "open time is over"
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
        if self._window is None and self._shared is not None:
            import asyncio

            # The store may block for its timeout; the event loop must not.
            return await asyncio.to_thread(self._enter)
        return self._enter()

    def _lease(self, now: float) -> tuple[Probe | None, float | None]:
        """Return a probe, or None and the seconds to wait; the caller holds the lock."""
        state = self._state
        if state is OPEN:
            return None, max(0.0, self._until - now)
        probe_round = self._round
        if probe_round is None:
            return None, None
        for probe, end in list(probe_round.leases.items()):
            if end <= now:  # it may have died with its thread: others may try
                del probe_round.leases[probe]
        if len(probe_round.leases) + probe_round.succeeded < self._probes:
            probe = Probe(self, probe_round)
            probe_round.leases[probe] = now + self._probe_lease
            return probe, None
        return None, max(0.0, min(probe_round.leases.values()) - now)

    def _reject(self, retry_after: float | None) -> NoReturn:
        error = CircuitOpen(self.name, retry_after, self._state, self._reason)
        if self._listeners or SWITCH.listeners:
            tell(self, "CallRejected", error=error)
        raise error

    # --- outcomes -----------------------------------------------------------------------

    def _verdict(self, error: BaseException) -> int | None:
        """Return FAILED, OK, or None when the exception counts as neither."""
        if not isinstance(error, Exception) or isinstance(error, Rejected):
            return None
        if isinstance(error, BadResult):
            return FAILED
        if self._ignore is not None and self._ignore(error):
            return None
        return FAILED if self._record_all or self._record(error) else OK

    def _closed_failure(
        self, window: Window, error: BaseException, started: float
    ) -> None:
        verdict = self._verdict(error)
        if verdict is None:
            return
        slow = self._slow_call
        if slow is not None and self._clock.monotonic() - started >= slow:
            verdict = SLOW_OK if verdict == OK else SLOW_FAILED
        self._count(window, verdict)

    def _count(self, window: Window, outcome: int) -> None:
        """Count an outcome and trip when a rate is reached."""
        with self._lock:
            window.add(outcome)
            if window is not self._window or self._state is not CLOSED:
                return
            cause = "" if outcome == OK else self._trip_cause(window)
            if not cause:
                return
            old = self._enter_state(OPEN, cause)
        self._tell_change(old, OPEN, cause)
        if self._shared is not None:
            self._shared.tripped(self, cause)

    def _trip_cause(self, window: Window) -> str:
        calls, failures, slow = window.totals()
        if calls < self._minimum_calls:
            return ""
        if failures / calls >= self._failure_rate:
            return f"{failures} of {calls} calls failed"
        if self._slow_call is not None and slow / calls >= self._slow_rate:
            return f"{slow} of {calls} calls took {self._slow_call:g} s or more"
        return ""

    def _settle(self, token: Any, started: float, result: Any) -> None:
        if self._on_result is not None and self._judge(token, started, result):
            return
        token.succeeded(started)

    def _judge(self, token: Any, started: float, result: Any) -> bool:
        """Count a returned value as a failure where `on_result` says so."""
        test = self._on_result
        try:
            bad = test is not None and test(result)
        except BaseException:
            # A predicate that raises must not keep a probe's slot.
            token.failed(GeneratorExit(), started)
            raise
        if bad:
            token.failed(BadResult(), started)
        return bad

    def _probe_succeeded(self, probe: Probe, started: float) -> None:
        slow = self._slow_call
        if slow is not None and self._clock.monotonic() - started >= slow:
            self._probe_reopens(probe, f"a probe took {slow:g} s or more")
            return
        with self._lock:
            probe_round = probe.round
            if probe_round is not self._round or probe not in probe_round.leases:
                return  # an earlier round, or the lease was over
            del probe_round.leases[probe]
            probe_round.succeeded += 1
            if probe_round.succeeded < self._probes:
                return
            self._open_s = self._open_for
            cause = f"{self._probes} probes succeeded"
            old = self._enter_state(CLOSED, cause)
        self._tell_change(old, CLOSED, cause)

    def _probe_failed(self, probe: Probe, error: BaseException) -> None:
        verdict = self._verdict(error)
        if verdict == FAILED:
            self._probe_reopens(probe, f"a probe failed with {type(error).__name__}")
        elif verdict == OK:
            self._probe_succeeded(probe, self._clock.monotonic())
        else:
            with self._lock:
                probe.round.leases.pop(probe, None)

    def _probe_reopens(self, probe: Probe, cause: str) -> None:
        with self._lock:
            if probe.round is not self._round or probe not in probe.round.leases:
                return
            self._open_s = min(self._open_s * self._growth, self._max_open)
            old = self._enter_state(OPEN, cause)
        self._tell_change(old, OPEN, cause)

    # --- the layers, written out because they are the ones that must be cheap -----------

    def _sync(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if self._slow_call is not None or self._on_result is not None:
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
        if self._slow_call is not None or self._on_result is not None:
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


class BadResult(Exception):
    """Stand for a returned value that `on_result` calls a failure."""
