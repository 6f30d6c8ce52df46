"""What wait, stop and retry strategies are told about an attempt.

The attribute names are those of tenacity's RetryCallState, so tenacity's
strategies work on it without tenacity's loop.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from maestro_resilience._runtime import Clock


class Outcome:
    """How an attempt ended, with the methods of a finished future."""

    __slots__ = ("_error", "_result", "attempt_number")

    def __init__(self, error: Exception | None, result: Any, attempt: int) -> None:
        self._error = error
        self._result = result
        self.attempt_number = attempt

    @property
    def failed(self) -> bool:
        """Whether the attempt raised."""
        return self._error is not None

    def done(self) -> bool:
        """Return True: an outcome exists only after the attempt."""
        return True

    def exception(self, timeout: float | None = None) -> Exception | None:
        """Return what the attempt raised, or None."""
        return self._error

    def result(self, timeout: float | None = None) -> Any:
        """Return what the attempt returned, or raise what it raised."""
        if self._error is not None:
            raise self._error
        return self._result


class NextAction:
    """The wait that has been decided on."""

    __slots__ = ("name", "sleep")

    def __init__(self, sleep: float) -> None:
        self.name = "retry"
        self.sleep = sleep


class AttemptState:
    """One call under a Retry: how many attempts, how long, with what outcome."""

    __slots__ = (
        "_clock",
        "args",
        "attempt_number",
        "fn",
        "idle_for",
        "kwargs",
        "last_wait",
        "next_action",
        "outcome",
        "outcome_timestamp",
        "retry_object",
        "start_time",
        "upcoming_sleep",
    )

    def __init__(
        self,
        fn: Callable[..., Any] | None,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        clock: Clock,
        start_time: float,
    ) -> None:
        self._clock = clock
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.attempt_number = 1
        self.start_time = start_time
        self.outcome: Outcome | None = None
        self.outcome_timestamp: float | None = None
        self.idle_for = 0.0
        self.last_wait = 0.0
        self.upcoming_sleep = 0.0
        self.next_action: NextAction | None = None
        self.retry_object: Any = None

    @property
    def seconds_since_start(self) -> float | None:
        """Seconds from the first attempt to the outcome; None before any."""
        if self.outcome_timestamp is None:
            return None
        return self.outcome_timestamp - self.start_time

    def failed(self, error: Exception) -> None:
        """Note that the attempt raised."""
        self.outcome = Outcome(error, None, self.attempt_number)

    def returned(self, result: Any) -> None:
        """Note that the attempt returned a value."""
        self.outcome = Outcome(None, result, self.attempt_number)

    def advance(self, wait: float) -> None:
        """Go to the next attempt after a wait of so many seconds."""
        self.idle_for += wait
        self.last_wait = wait
        self.attempt_number += 1
        self.next_action = None
        # The error's frames hold the caller's data: let go before sleeping. An error
        # object that is raised again would also collect a longer traceback each time.
        outcome, self.outcome = self.outcome, None
        error = outcome.exception() if outcome is not None else None
        if error is not None:
            error.__traceback__ = None

    def settle(self) -> Any:
        """Return the last result, or raise the last error itself."""
        outcome, self.outcome = self.outcome, None
        if outcome is None:
            raise RuntimeError("a Retry settled before its first outcome")
        error = outcome.exception()
        if error is None:
            return outcome.result()
        try:
            raise error
        finally:
            del error, outcome  # error -> traceback -> this frame -> error
