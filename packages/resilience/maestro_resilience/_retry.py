"""Retry: try again after a wait, within limits.

The strategies (when to retry, how long to wait, when to stop) may be tenacity's;
the loop is our own. It costs nothing until the first failure, raises the original
error, never catches what is not an Exception, and respects deadlines.
"""

from __future__ import annotations

import sys
from contextvars import ContextVar

from maestro_resilience import _checks
from maestro_resilience._attempt import AttemptState, NextAction
from maestro_resilience._deadline import DEADLINE, check_deadline
from maestro_resilience._policy import Delegation, Policy, settings
from maestro_resilience._runtime import SWITCH
from maestro_resilience._signals import heard, tell
from maestro_resilience._waits import as_wait
from maestro_resilience.errors import (
    CircuitOpen,
    ConfigurationError,
    DeadlineExceeded,
    Rejected,
    TimeoutExceeded,
)
from maestro_resilience.http import retry_after_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        AsyncIterator,
        Callable,
        Generator,
        Iterable,
        Iterator,
        Sequence,
    )
    from types import TracebackType
    from typing import Any, Self

    from tenacity import RetryCallState
    from tenacity.retry import retry_base

    from maestro_resilience._budget import RetryBudget
    from maestro_resilience._checks import ExceptionTest
    from maestro_resilience._policy import Guard
    from maestro_resilience._runtime import Clock
    from maestro_resilience.events import Listener

# True while an enclosing Retry runs its second or a later attempt.
RETRYING: ContextVar[bool] = ContextVar("maestro_retrying", default=False)

DEFAULT_ATTEMPTS = 3
_NOTE = "maestro-resilience: "


def _is_tenacity(value: object) -> bool:
    """Tell one of tenacity's retry objects, which ask the state, from a predicate."""
    if "tenacity" not in sys.modules:  # then nobody can have made one
        return False
    from tenacity.retry import retry_base

    return isinstance(value, retry_base)


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
    An open circuit is waited for if it opens within `max_retry_after`; an isolated
    one ends the retries at once.
    """

    __slots__ = (
        "_attempts",
        "_budget",
        "_max_retry_after",
        "_multiply",
        "_on",
        "_on_result",
        "_plain_result",
        "_retry_abandoned",
        "_retry_after",
        "_stop",
        "_timed",
        "_wait",
        "_wants",
    )

    kind = "retry"
    _instead = "use `for attempt in retry: with attempt: ...`"

    def __init__(
        self,
        attempts: int | None = None,
        *,
        on: ExceptionTest | retry_base | Callable[[RetryCallState], bool] = Exception,
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
        self._wants: Callable[[Any], Any] | None = None
        self._on: _checks.ExceptionFilter | None = None
        if _is_tenacity(on):
            self._wants = on  # type: ignore[assignment]  # a function of the state
        else:
            self._on = _checks.ExceptionFilter(me, "on", on)
        if on_result is not None and self._wants is not None:
            raise ConfigurationError(
                me, "on_result", on_result, "None beside one of tenacity's strategies"
            )
        self._on_result = (
            None
            if on_result is None
            else _checks.predicate(me, "on_result", on_result, "True to try again")
        )
        self._wait = as_wait(me, wait)
        if stop is not None and (isinstance(stop, type) or not callable(stop)):
            raise ConfigurationError(
                me, "stop", stop, "a strategy such as tenacity.stop_after_delay(10)"
            )
        self._stop = stop
        self._budget = budget
        if budget is not None and not hasattr(budget, "withdraw"):
            raise ConfigurationError(me, "budget", budget, "a RetryBudget")
        self._retry_after = retry_after
        self._max_retry_after = _checks.number(
            me, "max_retry_after", max_retry_after, least=0
        )
        self._multiply = multiply
        self._retry_abandoned = retry_abandoned
        # Only strategies from outside ask when the call began.
        self._timed = stop is not None or callable(wait) or self._wants is not None
        # A returned value ends the call without anybody being asked.
        self._plain_result = on_result is None and self._wants is None

    # --- the decision, shared by all shells ----------------------------------------

    def _begin(self) -> float:
        """Note a new call; return when it began where a strategy asks for it."""
        if self._budget is not None:
            self._budget.deposit()
        if DEADLINE.get() is not None:
            check_deadline(self.name, self._clock)
        return self._clock.monotonic() if self._timed else 0.0

    def _wanted(self, state: AttemptState) -> Any:
        """Tell whether the outcome asks for another attempt; perhaps as an awaitable."""
        outcome = state.outcome
        if outcome is None:
            return False
        if self._timed:
            state.outcome_timestamp = self._clock.monotonic()
        error = outcome.exception()
        try:
            if self._wants is not None:
                return not isinstance(error, DeadlineExceeded) and self._wants(state)
            if error is None:
                return self._wants_result(outcome.result())
            if isinstance(error, DeadlineExceeded) or self._on is None:
                return False
            return self._on(error)
        finally:
            del error, outcome

    def _wants_result(self, result: Any) -> bool:
        return self._on_result is not None and bool(self._on_result(result))

    def _plan(self, state: AttemptState) -> float | None:
        """Return the seconds to wait before the next attempt; None to give up."""
        wait = self._wait(state)
        state.upcoming_sleep = wait
        reason = self._objection(state)
        error = state.outcome.exception() if state.outcome is not None else None
        try:
            if not reason and error is not None:
                wait, reason = self._heed(error, wait)
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

    def _heed(self, error: Exception, wait: float) -> tuple[float, str]:
        """Return the wait after the error had its say, or a reason to give up."""
        if isinstance(error, TimeoutExceeded):
            gone = error.abandoned and not self._retry_abandoned
            return wait, "abandoned" if gone else ""
        if isinstance(error, CircuitOpen) and error.retry_after is None:
            return wait, "retry_after"
        if not self._retry_after:
            return wait, ""
        asked = retry_after_of(error)
        if asked is None:
            return wait, ""
        if asked > self._max_retry_after:
            if isinstance(error, Rejected):
                return wait, "retry_after"  # waiting less would only be rejected again
            asked = self._max_retry_after
        return max(wait, asked), ""

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
            mark = RETRYING.set(True)
            try:
                self._attempt(fn, state)
            finally:
                RETRYING.reset(mark)

    async def _resume_async(self, fn: Callable[..., Any], state: AttemptState) -> Any:
        while True:
            wait = await self._decide_async(state)
            if wait is None:
                return state.settle()
            state.advance(wait)
            await self._clock.async_sleep(wait)
            mark = RETRYING.set(True)
            try:
                await self._attempt_async(fn, state)
            finally:
                RETRYING.reset(mark)

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

    # --- streams: retried until the first item, which cannot be taken back -----------

    def _generator(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        def first(*args: Any, **kwargs: Any) -> tuple[Any, Any, bool]:
            stream = fn(*args, **kwargs)
            try:
                return stream, next(stream), True
            except StopIteration as end:
                return stream, end.value, False

        start = self._without_results()._sync(first)

        def retry(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            stream, item, running = start(*args, **kwargs)
            while running:
                try:
                    sent = yield item
                except GeneratorExit:
                    stream.close()
                    raise
                except BaseException as thrown:
                    step: Callable[[], Any] = partial_throw(stream, thrown)
                else:
                    step = partial_send(stream, sent)
                try:
                    item = step()
                except StopIteration as end:
                    item, running = end.value, False
            return item

        return retry

    def _async_generator(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        async def first(*args: Any, **kwargs: Any) -> tuple[Delegation, Any]:
            walk = Delegation(fn(*args, **kwargs))
            return walk, await walk.start()

        start = self._without_results()._async(first)

        async def retry(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            walk, item = await start(*args, **kwargs)
            while walk.running:
                try:
                    sent = yield item
                except GeneratorExit:
                    await walk.stream.aclose()
                    raise
                except BaseException as thrown:
                    item = await walk.throw(thrown)
                else:
                    item = await walk.send(sent)

        return retry

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


def partial_throw(stream: Generator[Any, Any, Any], error: BaseException) -> Any:
    """Return a step that throws into a generator."""
    return lambda: stream.throw(error)


def partial_send(stream: Generator[Any, Any, Any], value: Any) -> Any:
    """Return a step that sends into a generator."""
    return lambda: stream.send(value)


class Block:
    """The state of one `for attempt in retry:` loop."""

    __slots__ = ("retry", "running", "state", "wait")

    def __init__(self, retry: Retry) -> None:
        self.retry = retry
        self.running = True
        self.wait: float | None = None
        self.state = AttemptState(None, (), {}, retry._clock, retry._begin())

    def decide(self) -> bool:
        """Plan the next attempt; return whether there is one."""
        self.wait = self.retry._decide(self.state) if SWITCH.enabled else None
        if self.wait is None:
            self.running = False
        else:
            self.state.advance(self.wait)
        return self.running


class Attempt:
    """One try of a block; `number` counts from 1.

    An error inside the block is swallowed when another attempt follows, and
    passes through when none does.
    """

    __slots__ = ("_block", "_result", "number")

    def __init__(self, block: Block) -> None:
        self._block = block
        self._result: Any = None
        self.number = block.state.attempt_number

    def set_result(self, value: Any) -> None:
        """Give the value that `on_result` looks at."""
        self._result = value

    def __enter__(self) -> Self:
        # A block that succeeds, or is left by `break`, must not go on.
        self._block.running = False
        self._block.wait = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        block = self._block
        if error is None:
            block.state.returned(self._result)
            if not block.retry._plain_result:
                block.running = True
                block.decide()
            return False
        if not isinstance(error, Exception):
            return False
        block.state.failed(error)
        block.running = True
        again = block.decide()
        block.state.outcome = None
        return again

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        return self.__exit__(kind, error, trace)
