"""Retry: try again after a wait, within limits.

The strategies (when to retry, how long to wait, when to stop) may be tenacity's;
the loop is our own. It costs nothing until the first failure, raises the original
error, never catches what is not an Exception, and respects deadlines.
"""

from __future__ import annotations

from contextvars import ContextVar

from maestro_resilience import _checks
from maestro_resilience._attempt import AttemptState, NextAction
from maestro_resilience._deadline import DEADLINE, check_deadline
from maestro_resilience._policy import Policy, settings
from maestro_resilience._retry_block import Attempt, Block
from maestro_resilience._retry_when import AskedWait, When
from maestro_resilience._runtime import SWITCH
from maestro_resilience._signals import heard, tell
from maestro_resilience._waits import as_wait
from maestro_resilience.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterator,
        Callable,
        Iterable,
        Iterator,
        Sequence,
    )
    from typing import Any

    from maestro_resilience._budget import RetryBudget
    from maestro_resilience._policy import Guard
    from maestro_resilience._retry_when import RetryTest
    from maestro_resilience._runtime import Clock
    from maestro_resilience.events import Listener

# True while an enclosing Retry runs its second or a later attempt.
RETRYING: ContextVar[bool] = ContextVar("maestro_retrying", default=False)

DEFAULT_ATTEMPTS = 3
_NOTE = "maestro-resilience: "


class Retry(Policy):
    """Call again when a call fails, with growing, random waits.

    Args:
        attempts: calls in all, the first included; default 3, or without limit
            when `stop` is given.
        on: what is worth another try: exception classes, functions of the
            exception, or one of tenacity's retry objects.
        on_result: tells of a returned value whether to try again; when attempts
            run out the last value is returned.
        wait: seconds, a list of seconds (the last one repeats), or a strategy:
            full_jitter (default), equal_jitter, decorrelated_jitter, one of
            tenacity's wait objects, any function of the attempt's state.
        stop: one of tenacity's stop objects, or a function of the state.
        budget: limits the share of retries over all calls, see RetryBudget.
        retry_after: honour the wait that an error asks for (`retry_after`
            attribute or HTTP header): the wait is at least as long.
        max_retry_after: seconds; the longest such wait that is honoured. A longer
            one of a server is cut to it; a rejection that asks for more is final.
        multiply: with False, make only one attempt while an enclosing Retry is
            already at its second or later one, so nested retries add up instead
            of multiplying.
        retry_abandoned: whether to try again while the timed-out attempt still
            runs on its worker thread.
        clock: time source and sleep.
        listeners: functions that get this policy's events.

    The last error itself is raised, with a note that says how often it was tried.
    Where `on` takes in CircuitOpen, as its default does, an open circuit is waited
    for if it half-opens within `max_retry_after`: the caller may stand still for up
    to a minute. `max_retry_after=0`, or an `on` without it, gives up at once; so does
    an isolated circuit in any case.
    """

    __slots__ = (
        "_asked",
        "_attempts",
        "_budget",
        "_multiply",
        "_plain_result",
        "_stop",
        "_timed",
        "_wait",
        "_when",
    )

    kind = "retry"
    _instead = "use `for attempt in retry: with attempt: ...`"

    def __init__(
        self,
        attempts: int | None = None,
        *,
        on: RetryTest = Exception,
        on_result: Callable[[Any], bool] | None = None,
        wait: float | Sequence[float] | Callable[[Any], float] | None = None,
        stop: Callable[[Any], bool] | None = None,
        budget: RetryBudget | None = None,
        retry_after: bool = True,
        max_retry_after: float = 60.0,
        multiply: bool = True,
        retry_abandoned: bool = True,
        name: str | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        given = settings(locals(), type(self).__init__)
        super().__init__(name, clock=clock, listeners=listeners, config=given)
        me = f"Retry {self.name!r}"
        if attempts is not None:
            _checks.whole(me, "attempts", attempts)
        elif stop is None:
            attempts = DEFAULT_ATTEMPTS
        self._attempts = attempts
        self._when = When(me, on, on_result)
        self._wait = as_wait(me, wait)
        if stop is not None and (isinstance(stop, type) or not callable(stop)):
            raise ConfigurationError(
                me, "stop", stop, "a strategy such as tenacity.stop_after_delay(10)"
            )
        self._stop = stop
        self._budget = budget
        if budget is not None and not hasattr(budget, "withdraw"):
            raise ConfigurationError(me, "budget", budget, "a RetryBudget")
        self._asked = AskedWait(
            honour=_checks.flag(me, "retry_after", retry_after),
            most=_checks.number(me, "max_retry_after", max_retry_after, least=0),
            abandoned=_checks.flag(me, "retry_abandoned", retry_abandoned),
        )
        self._multiply = _checks.flag(me, "multiply", multiply)
        # Only strategies from outside ask when the call began.
        asks_state = self._when.asks_state is not None
        self._timed = stop is not None or callable(wait) or asks_state
        self._plain_result = self._when.ignores_results

    # --- the decision, shared by all shells ----------------------------------------

    def _begin(self) -> float:
        """Note a new call; return when it began where a strategy asks for it."""
        if self._budget is not None:
            self._budget.deposit()
        if DEADLINE.get() is not None:
            check_deadline(self.name, self._clock)
        return self._clock.monotonic() if self._timed else 0.0

    def _wanted(self, state: AttemptState) -> Any:
        if self._timed:
            state.outcome_timestamp = self._clock.monotonic()
        return self._when.wanted(state)

    def _plan(self, state: AttemptState) -> float | None:
        """Return the seconds to wait before the next attempt; None to give up."""
        wait = self._wait(state)
        state.upcoming_sleep = wait
        reason = self._objection(state)
        error = state.outcome.exception() if state.outcome is not None else None
        try:
            if not reason and error is not None:
                wait, reason = self._asked.heed(error, wait)
            if not reason:
                until = DEADLINE.get()
                if until is not None and self._clock.monotonic() + wait >= until:
                    reason = "deadline"
            if not reason and self._budget is not None:
                reason = "" if self._budget.withdraw() else "budget"
            if reason:
                self._give_up(state, reason, error)
                return None
            state.next_action = NextAction(wait)
            if heard(self):
                tell(
                    self,
                    "RetryScheduled",
                    attempt=state.attempt_number,
                    wait=wait,
                    error=error,
                )
            return wait
        finally:
            del error

    def _objection(self, state: AttemptState) -> str:
        limit = SWITCH.attempt_limit or self._attempts
        if limit is not None and state.attempt_number >= limit:
            return "attempts"
        if self._stop is not None and self._stop(state):
            return "stop"
        if not self._multiply and RETRYING.get():
            return "nested"
        return ""

    def _give_up(
        self, state: AttemptState, reason: str, error: Exception | None
    ) -> None:
        if error is not None:
            # Not add_note: an error object that is raised again would collect them.
            notes = [
                n for n in getattr(error, "__notes__", []) if not n.startswith(_NOTE)
            ]
            number = state.attempt_number
            tries = "attempt" if number == 1 else "attempts"
            notes.append(
                f"{_NOTE}{self.name} gave up after {number} {tries} "
                f"and {state.idle_for:.3g} s of waiting ({reason})"
            )
            error.__notes__ = notes
        if heard(self):
            tell(
                self,
                "RetriesExhausted",
                attempts=state.attempt_number,
                waited=state.idle_for,
                reason=reason,
                error=error,
            )

    def _decide(self, state: AttemptState) -> float | None:
        wanted = self._wanted(state)
        if hasattr(wanted, "__await__"):
            wanted.close()
            raise TypeError(
                f"{self!r} has an async retry strategy and guards sync code; "
                "use the sync one of the same name"
            )
        return self._plan(state) if wanted else None

    async def _decide_async(self, state: AttemptState) -> float | None:
        wanted = self._wanted(state)
        if hasattr(wanted, "__await__"):
            wanted = await wanted
        return self._plan(state) if wanted else None

    # --- the shells -----------------------------------------------------------------

    def _sync(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        plain = self._plain_result

        def retry(*args: Any, **kwargs: Any) -> Any:
            if not SWITCH.plain:
                return self._loop(fn, args, kwargs)
            began = self._begin()
            try:
                result = fn(*args, **kwargs)
            except Exception as error:
                state = AttemptState(fn, args, kwargs, self._clock, began)
                state.failed(error)
            else:
                if plain:
                    return result
                state = AttemptState(fn, args, kwargs, self._clock, began)
                state.returned(result)
            return self._resume(fn, state)

        return retry

    def _async(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        plain = self._plain_result

        async def retry(*args: Any, **kwargs: Any) -> Any:
            if not SWITCH.plain:
                return await self._loop_async(fn, args, kwargs)
            began = self._begin()
            try:
                result = await fn(*args, **kwargs)
            except Exception as error:
                state = AttemptState(fn, args, kwargs, self._clock, began)
                state.failed(error)
            else:
                if plain:
                    return result
                state = AttemptState(fn, args, kwargs, self._clock, began)
                state.returned(result)
            return await self._resume_async(fn, state)

        return retry

    def _loop(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a call while somebody listens to every attempt, or all is disabled."""
        if not SWITCH.enabled:
            return fn(*args, **kwargs)
        state = AttemptState(fn, args, kwargs, self._clock, self._begin())
        self._attempt(fn, state)
        return self._resume(fn, state)

    async def _loop_async(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if not SWITCH.enabled:
            return await fn(*args, **kwargs)
        state = AttemptState(fn, args, kwargs, self._clock, self._begin())
        await self._attempt_async(fn, state)
        return await self._resume_async(fn, state)

    def _resume(self, fn: Callable[..., Any], state: AttemptState) -> Any:
        """Go on from the outcome of the first attempt to the end."""
        while True:
            wait = self._decide(state)
            if wait is None:
                return state.settle()
            state.advance(wait)
            self._clock.sleep(wait)
            outer = RETRYING.get()
            try:
                RETRYING.set(True)
                self._attempt(fn, state)
            finally:
                RETRYING.set(outer)

    async def _resume_async(self, fn: Callable[..., Any], state: AttemptState) -> Any:
        while True:
            wait = await self._decide_async(state)
            if wait is None:
                return state.settle()
            state.advance(wait)
            await self._clock.async_sleep(wait)
            outer = RETRYING.get()
            try:
                RETRYING.set(True)
                await self._attempt_async(fn, state)
            finally:
                RETRYING.set(outer)

    def _attempt(self, fn: Callable[..., Any], state: AttemptState) -> None:
        started = self._clock.monotonic() if heard(self) else 0.0
        try:
            state.returned(fn(*state.args, **state.kwargs))
        except Exception as error:
            state.failed(error)
        if heard(self):
            self._tell_attempt(state, started)

    async def _attempt_async(self, fn: Callable[..., Any], state: AttemptState) -> None:
        started = self._clock.monotonic() if heard(self) else 0.0
        try:
            state.returned(await fn(*state.args, **state.kwargs))
        except Exception as error:
            state.failed(error)
        if heard(self):
            self._tell_attempt(state, started)

    def _tell_attempt(self, state: AttemptState, started: float) -> None:
        outcome = state.outcome
        error = outcome.exception() if outcome is not None else None
        tell(
            self,
            "AttemptFinished",
            attempt=state.attempt_number,
            seconds=self._clock.monotonic() - started,
            outcome="ok" if error is None else "error",
            error_type=None if error is None else type(error).__qualname__,
        )
        del error, outcome

    # --- streams ---------------------------------------------------------------------

    def _generator(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        from maestro_resilience._retry_stream import guarded_generator

        return guarded_generator(self._without_results(), fn)

    def _async_generator(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        from maestro_resilience._retry_stream import guarded_async_generator

        return guarded_async_generator(self._without_results(), fn)

    def _without_results(self) -> Retry:
        if not self._plain_result:
            raise TypeError(
                f"{self!r} looks at results, and a stream has none before its end; "
                "use on= with exception classes"
            )
        return self

    # --- block form -------------------------------------------------------------------

    def __iter__(self) -> Iterator[Attempt]:
        """Yield attempts: `for attempt in retry:` with `with attempt:` inside."""
        block = Block(self)
        while block.running:
            yield Attempt(block)
            if block.wait is not None:
                self._clock.sleep(block.wait)

    async def __aiter__(self) -> AsyncIterator[Attempt]:
        """Yield attempts: `async for attempt in retry:` with `with attempt:` inside."""
        block = Block(self)
        while block.running:
            yield Attempt(block)
            if block.wait is not None:
                await self._clock.async_sleep(block.wait)

    def guard(self) -> Guard:
        """Raise TypeError: a block cannot be run again; iterate over the Retry."""
        return super().guard()
