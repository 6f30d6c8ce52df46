"""The usual pipelines as one function instead of nested layers.

Only the first attempt is fused, and only while every policy is in its ordinary
state: breaker closed, a free slot, no deadline around, nobody listening to the
whole process. In all other states the nested layers run, from the start. After a
failed first attempt Retry and Fallback go on with their own code. So the layers
stay the one definition of what happens; tests compare the two.

A ^C may arrive after any call that these functions make, and at the start of any
Python function. The order of the steps keeps it harmless: a slot that nobody holds
gives itself back, and the deadline is cleared before any function is entered.

Measured by benchmarks/bench_pipeline.py.
"""

from __future__ import annotations

from math import inf

from maestro_resilience._attempt import AttemptState
from maestro_resilience._breaker import CircuitBreaker
from maestro_resilience._bulkhead import Bulkhead
from maestro_resilience._deadline import DEADLINE
from maestro_resilience._fallback import Fallback
from maestro_resilience._policy import SYNC, Policy
from maestro_resilience._retry import Retry
from maestro_resilience._runtime import SWITCH
from maestro_resilience._timeout import Timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from maestro_resilience._bulkhead import Slot
    from maestro_resilience._watchdog import Watchdog
    from maestro_resilience._window import Window

    Function = Callable[..., Any]

ORDER: tuple[type[Policy], ...] = (Fallback, Retry, CircuitBreaker, Bulkhead, Timeout)


def fuse(
    fn: Function, kind: str, policies: tuple[Policy, ...], nested: Function
) -> Function | None:
    """Return the fused function, or None for policies that have no fused form."""
    found: dict[type[Policy], Any] = {}
    ranks = []
    for policy in policies:
        if type(policy) not in ORDER:
            return None
        ranks.append(ORDER.index(type(policy)))
        found[type(policy)] = policy
    if len(policies) < 2 or ranks != sorted(set(ranks)):
        return None
    if any(policy._clock is not policies[0]._clock for policy in policies):
        return None  # one reading of the clock serves them all
    breaker: CircuitBreaker | None = found.get(CircuitBreaker)
    timeout: Timeout | None = found.get(Timeout)
    if breaker is not None and breaker._judge.on_result is not None:
        return None
    if timeout is not None and kind == SYNC and timeout._mode != "deadline":
        return None
    inner = fn
    for policy in reversed(policies):
        if not isinstance(policy, (Fallback, Retry)):
            inner = policy._build(inner)
    fusion = Fusion(found, inner)
    if kind == SYNC:
        return _fuse_sync(fn, nested, fusion)
    return (_fuse_untimed if timeout is None else _fuse_async)(fn, nested, fusion)


class Fusion:
    """The policies of one fused function, and what it does off the ordinary path."""

    __slots__ = (
        "breaker",
        "budget",
        "bulkhead",
        "checked",
        "clock",
        "clocked",
        "fallback",
        "inner",
        "line",
        "retry",
        "slow",
        "timed",
        "timeout",
    )

    def __init__(self, found: dict[type[Policy], Any], inner: Function) -> None:
        self.fallback: Fallback | None = found.get(Fallback)
        self.retry: Retry | None = found.get(Retry)
        self.breaker: CircuitBreaker | None = found.get(CircuitBreaker)
        self.bulkhead: Bulkhead | None = found.get(Bulkhead)
        self.timeout: Timeout | None = found.get(Timeout)
        self.inner = inner
        self.line: Any = () if self.bulkhead is None else self.bulkhead._line
        self.clock = next(iter(found.values()))._clock
        self.budget = None if self.retry is None else self.retry._budget
        # Whether a returned value must be shown to the Retry.
        self.checked = self.retry is not None and not self.retry._plain_result
        timed = self.retry is not None and self.retry._timed
        breaker = self.breaker
        self.timed = breaker is not None and breaker._window_calls is None
        self.slow = inf if breaker is None else breaker._slow_call or inf
        self.clocked = timed or self.slow < inf or self.timeout is not None

    def left(
        self,
        error: BaseException,
        slot: Slot | None,
        window: Window | None,
        started: float,
    ) -> None:
        """Undo the entering after the call has raised, innermost first."""
        if slot is not None:
            slot.failed(error, started)
        if window is not None:
            window.failed(error, started)

    def left_timed(
        self,
        error: BaseException,
        dog: Watchdog,
        token: Any,
        slot: Slot | None,
        window: Window | None,
        started: float,
    ) -> Exception | None:
        """Do the same where a Timeout watched; return what the call has raised.

        None stands for what is no Exception and passes through.
        """
        failure, timeout = error, self.timeout
        dog.pending.pop(id(token), None)
        expiry = dog.expired.pop(id(token), None)
        if expiry is not None and expiry.timed_out(error) and timeout is not None:
            failure = timeout._expired(timeout.seconds, clamped=False)
            failure.__cause__ = error
        self.left(failure, slot, window, started)
        try:
            return failure if isinstance(failure, Exception) else None
        finally:
            del failure

    def failed(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], began: float, error: Any
    ) -> AttemptState:
        """Return the state after a first attempt that raised."""
        state = AttemptState(self.inner, args, kwargs, self.clock, began)
        state.failed(error)
        return state

    def returned(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], began: float, result: Any
    ) -> AttemptState:
        """Return the state after a first attempt that returned a value."""
        state = AttemptState(self.inner, args, kwargs, self.clock, began)
        state.returned(result)
        return state

    def rest(self) -> Function:
        """Return what goes on after a first attempt that did not settle the call."""
        retry, inner = self.retry, self.inner

        def go_on(state: AttemptState) -> Any:
            return state.settle() if retry is None else retry._resume(inner, state)

        return go_on if self.fallback is None else self.fallback._sync(go_on)

    def rest_async(self) -> Function:
        """Return the same as `rest`, for coroutines."""
        retry, inner = self.retry, self.inner

        async def go_on(state: AttemptState) -> Any:
            if retry is None:
                return state.settle()
            return await retry._resume_async(inner, state)

        return go_on if self.fallback is None else self.fallback._async(go_on)


def _fuse_sync(fn: Function, nested: Function, fusion: Fusion) -> Function:
    rest, breaker, bulkhead = fusion.rest(), fusion.breaker, fusion.bulkhead
    budget, checked, clocked = fusion.budget, fusion.checked, fusion.clocked
    timeout, clock, line = fusion.timeout, fusion.clock, fusion.line
    seconds = 0.0 if timeout is None else timeout.seconds
    timed, slow = fusion.timed, fusion.slow

    def pipeline(*args: Any, **kwargs: Any) -> Any:
        if not SWITCH.plain or DEADLINE.get() is not None or line:
            return nested(*args, **kwargs)
        window: Any = None
        slots: Any = None
        slot = token = None
        started = 0.0
        if breaker is not None:
            window = breaker._window
            if window is None:
                return nested(*args, **kwargs)
        if bulkhead is not None:
            slots = bulkhead._slots
            try:
                slot = slots.pop()
            except IndexError:
                return nested(*args, **kwargs)
        try:
            if budget is not None:
                budget.deposit()
            if clocked:
                started = clock.monotonic()
                if timeout is not None:
                    token = DEADLINE.set(started + seconds)
            # An empty ** would still be copied.
            result = fn(*args, **kwargs) if kwargs else fn(*args)
        except BaseException as error:
            if timeout is not None:
                DEADLINE.set(None)  # not reset: a ^C may come before there is a token
            fusion.left(error, slot, window, started)
            if not isinstance(error, Exception):
                raise
            state = fusion.failed(args, kwargs, started, error)
        else:
            if token is not None:
                DEADLINE.reset(token)
            if slot is not None:
                slots.append(slot)
                if line:
                    bulkhead._wake_line()  # type: ignore[union-attr]  # it gave the slot
            now = clock.monotonic() if timed else 0.0
            # TimeWindow.succeeded written out, to save a call.
            if timed and now < window.bucket.end and now - started < slow:
                window.bucket.ok += 1
            elif window is not None:
                window.succeeded(started)
            if not checked:
                return result
            state = fusion.returned(args, kwargs, started, result)
        return rest(state)

    return pipeline


def _fuse_async(fn: Function, nested: Function, fusion: Fusion) -> Function:
    from asyncio import current_task, get_running_loop

    rest, breaker, bulkhead = fusion.rest_async(), fusion.breaker, fusion.bulkhead
    budget, checked, clock = fusion.budget, fusion.checked, fusion.clock
    timeout: Any = fusion.timeout
    line, dogs, seconds = fusion.line, timeout._all_dogs(), timeout.seconds

    async def pipeline(*args: Any, **kwargs: Any) -> Any:
        task = current_task(loop := get_running_loop())
        known, dog = dogs.last
        window: Any = None if breaker is None else breaker._window
        shut = window is None and breaker is not None
        outer = DEADLINE.get()
        if shut or line or task is None or outer is not None or not SWITCH.plain:
            return await nested(*args, **kwargs)
        slots: Any = None
        slot = token = None
        started = (read := clock.monotonic)()
        if bulkhead is not None:
            slots = bulkhead._slots
            try:
                slot = slots.pop()
            except IndexError:
                return await nested(*args, **kwargs)
        try:
            if budget is not None:
                budget.deposit()
            if known() is not loop:
                dog = dogs.find(loop)
            token = DEADLINE.set(until := started + seconds)
            end = until if read is dog.time else loop.time() + seconds
            dog.pending[key := id(token)] = (task, end, task.cancelling())
            if not dog.armed:
                dog.arm(loop, end)
            result = await fn(*args, **kwargs)
        except BaseException as error:
            DEADLINE.set(None)
            failure = fusion.left_timed(error, dog, token, slot, window, started)
            if not isinstance(failure, Exception):
                raise
            state = fusion.failed(args, kwargs, started, failure)
            del failure  # failure -> traceback -> this frame -> failure
        else:
            DEADLINE.reset(token)
            if dog.pending.pop(key, None) is None:
                dog.expired.pop(key).timed_out(None)
            if slot is not None:
                slots.append(slot)
                if line:
                    bulkhead._wake_line()  # type: ignore[union-attr]  # it gave the slot
            if window is not None:
                window.succeeded(started)
            if not checked:
                return result
            state = fusion.returned(args, kwargs, started, result)
        return await rest(state)

    return pipeline


def _fuse_untimed(fn: Function, nested: Function, fusion: Fusion) -> Function:
    rest, breaker, bulkhead = fusion.rest_async(), fusion.breaker, fusion.bulkhead
    budget, checked, clocked = fusion.budget, fusion.checked, fusion.clocked
    clock, line = fusion.clock, fusion.line

    async def pipeline(*args: Any, **kwargs: Any) -> Any:
        window: Any = None if breaker is None else breaker._window
        shut = window is None and breaker is not None
        if shut or line or DEADLINE.get() is not None or not SWITCH.plain:
            return await nested(*args, **kwargs)
        slots: Any = None
        slot = None
        if bulkhead is not None:
            slots = bulkhead._slots
            try:
                slot = slots.pop()
            except IndexError:
                return await nested(*args, **kwargs)
        started = 0.0
        try:
            if budget is not None:
                budget.deposit()
            if clocked:
                started = clock.monotonic()
            result = await fn(*args, **kwargs)
        except BaseException as error:
            fusion.left(error, slot, window, started)
            if not isinstance(error, Exception):
                raise
            state = fusion.failed(args, kwargs, started, error)
        else:
            if slot is not None:
                slots.append(slot)
                if line:
                    bulkhead._wake_line()  # type: ignore[union-attr]  # it gave the slot
            if window is not None:
                window.succeeded(started)
            if not checked:
                return result
            state = fusion.returned(args, kwargs, started, result)
        return await rest(state)

    return pipeline
