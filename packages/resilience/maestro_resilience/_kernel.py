"""The usual pipelines as one function instead of nested layers.

Only the first attempt is fused, and only while every policy is in its ordinary
state: breaker closed, a free slot, no deadline around, nobody listening to the
whole process. In all other states the nested layers run, from the start. After a
failed first attempt Retry and Fallback go on with their own code. So the layers
stay the one definition of what happens; tests compare the two.

Measured by benchmarks/bench_pipeline.py.
"""

from __future__ import annotations

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
    breaker: CircuitBreaker | None = found.get(CircuitBreaker)
    timeout: Timeout | None = found.get(Timeout)
    if breaker is not None and breaker._on_result is not None:
        return None
    if timeout is not None and kind == SYNC and timeout._mode != "deadline":
        return None
    build = _fuse_sync if kind == SYNC else _fuse_async
    inner = fn
    for policy in reversed(policies):
        if not isinstance(policy, (Fallback, Retry)):
            inner = policy._build(inner)
    return build(
        fn,
        nested,
        inner,
        found.get(Fallback),
        found.get(Retry),
        breaker,
        found.get(Bulkhead),
        timeout,
    )


def _fuse_sync(
    fn: Function,
    nested: Function,
    inner: Function,
    fallback: Fallback | None,
    retry: Retry | None,
    breaker: CircuitBreaker | None,
    bulkhead: Bulkhead | None,
    timeout: Timeout | None,
) -> Function:
    def go_on(state: AttemptState) -> Any:
        return state.settle() if retry is None else retry._resume(inner, state)

    rest = go_on if fallback is None else fallback._sync(go_on)
    budget = None if retry is None else retry._budget
    timed = retry is not None and retry._timed
    checked = retry is not None and not retry._plain_result
    slow = breaker is not None and breaker._slow_call is not None
    slots = None if bulkhead is None else bulkhead._slots
    line = None if bulkhead is None else bulkhead._line
    clock = next(p._clock for p in (breaker, retry, timeout, bulkhead, fallback) if p)
    policy_clock = clock if retry is None else retry._clock

    def pipeline(*args: Any, **kwargs: Any) -> Any:
        if not SWITCH.plain or DEADLINE.get() is not None:
            return nested(*args, **kwargs)
        window = slot = token = None
        if breaker is not None:
            window = breaker._window
            if window is None:
                return nested(*args, **kwargs)
        if slots is not None:
            if line:
                return nested(*args, **kwargs)
            try:
                slot = slots.pop()
            except IndexError:
                return nested(*args, **kwargs)
        began = started = 0.0
        try:
            if budget is not None:
                budget.deposit()
            if timed:
                began = policy_clock.monotonic()
            if slow:
                started = clock.monotonic()
            if timeout is not None:
                token = DEADLINE.set(timeout._clock.monotonic() + timeout.seconds)
            result = fn(*args, **kwargs)
        except BaseException as error:
            if token is not None:
                DEADLINE.reset(token)
            if slot is not None:
                bulkhead._release(slot)  # type: ignore[union-attr]  # it gave the slot
            if window is not None:
                window.failed(error, started)
            if not isinstance(error, Exception):
                raise
            state = AttemptState(inner, args, kwargs, policy_clock, began)
            state.failed(error)
        else:
            if token is not None:
                DEADLINE.reset(token)
            if slot is not None:
                slots.append(slot)  # type: ignore[union-attr]  # it held the slot
                if line:
                    bulkhead._wake_line()  # type: ignore[union-attr]  # as above
            if window is not None:
                window.succeeded(started)
            if not checked:
                return result
            state = AttemptState(inner, args, kwargs, policy_clock, began)
            state.returned(result)
        return rest(state)

    return pipeline


def _fuse_async(
    fn: Function,
    nested: Function,
    inner: Function,
    fallback: Fallback | None,
    retry: Retry | None,
    breaker: CircuitBreaker | None,
    bulkhead: Bulkhead | None,
    timeout: Timeout | None,
) -> Function:
    from asyncio import current_task, get_running_loop

    from maestro_resilience._watchdog import Entry, Watchdogs

    async def go_on(state: AttemptState) -> Any:
        if retry is None:
            return state.settle()
        return await retry._resume_async(inner, state)

    rest = go_on if fallback is None else fallback._async(go_on)
    budget = None if retry is None else retry._budget
    timed = retry is not None and retry._timed
    checked = retry is not None and not retry._plain_result
    slow = breaker is not None and breaker._slow_call is not None
    slots = None if bulkhead is None else bulkhead._slots
    line = None if bulkhead is None else bulkhead._line
    clock = next(p._clock for p in (breaker, retry, timeout, bulkhead, fallback) if p)
    policy_clock = clock if retry is None else retry._clock
    seconds = 0.0 if timeout is None else timeout.seconds
    dogs = None
    if timeout is not None:
        dogs = timeout._dogs = timeout._dogs or Watchdogs()

    async def pipeline(*args: Any, **kwargs: Any) -> Any:
        if not SWITCH.plain or DEADLINE.get() is not None:
            return await nested(*args, **kwargs)
        window = slot = token = entry = dog = None
        if breaker is not None:
            window = breaker._window
            if window is None:
                return await nested(*args, **kwargs)
        if slots is not None:
            if line:
                return await nested(*args, **kwargs)
            try:
                slot = slots.pop()
            except IndexError:
                return await nested(*args, **kwargs)
        began = started = 0.0
        try:
            if budget is not None:
                budget.deposit()
            if timed:
                began = policy_clock.monotonic()
            if slow:
                started = clock.monotonic()
            if timeout is not None:
                loop = get_running_loop()
                entry = Entry(current_task(loop), loop.time() + seconds)  # type: ignore[arg-type]  # inside a task
                known, dog = dogs._last  # type: ignore[union-attr]  # made with the timeout
                if known() is not loop:
                    dog = timeout._dog(loop)
                dog.pending[entry] = None
                if not dog._armed:
                    dog._arm(entry)
                token = DEADLINE.set(timeout._clock.monotonic() + seconds)
            result = await fn(*args, **kwargs)
        except BaseException as error:
            failure = error
            if token is not None:
                DEADLINE.reset(token)
            if entry is not None:
                dog.pending.pop(entry, None)  # type: ignore[union-attr]  # it watches
                if entry.timed_out(error):
                    failure = timeout._expired(seconds, clamped=False)  # type: ignore[union-attr]  # it timed out
                    failure.__cause__ = error
            if slot is not None:
                bulkhead._release(slot)  # type: ignore[union-attr]  # it gave the slot
            if window is not None:
                window.failed(failure, started)
            if not isinstance(failure, Exception):
                del failure
                raise
            state = AttemptState(inner, args, kwargs, policy_clock, began)
            state.failed(failure)
            del failure
        else:
            if entry is not None:
                DEADLINE.reset(token)  # type: ignore[arg-type]  # set with the entry
                dog.pending.pop(entry, None)  # type: ignore[union-attr]  # it watches
                if entry.expired:
                    entry.timed_out(None)
            if slot is not None:
                slots.append(slot)  # type: ignore[union-attr]  # it held the slot
                if line:
                    bulkhead._wake_line()  # type: ignore[union-attr]  # as above
            if window is not None:
                window.succeeded(started)
            if not checked:
                return result
            state = AttemptState(inner, args, kwargs, policy_clock, began)
            state.returned(result)
        return await rest(state)

    return pipeline
