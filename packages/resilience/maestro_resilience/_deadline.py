"""The deadline that a block of code and everything it calls share.

It travels in a context variable as a reading of the monotonic clock, so tasks
and worker threads inherit it and nobody passes it on by hand.
"""

from __future__ import annotations

from contextvars import ContextVar

from maestro_resilience import _checks
from maestro_resilience._runtime import SYSTEM
from maestro_resilience.errors import DeadlineExceeded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, Self

    from maestro_resilience._runtime import Clock

DEADLINE: ContextVar[float | None] = ContextVar("maestro_deadline", default=None)


def time_remaining() -> float | None:
    """Return the seconds left until the nearest deadline, or None without one.

    Never negative: 0.0 means that the time is up. A Timeout around the caller
    counts as a deadline.
    """
    until = DEADLINE.get()
    if until is None:
        return None
    return max(0.0, until - SYSTEM.monotonic())


def check_deadline(policy: str, clock: Clock) -> None:
    """Raise DeadlineExceeded when the time is up."""
    until = DEADLINE.get()
    if until is not None and clock.monotonic() >= until:
        raise DeadlineExceeded(policy)


class deadline:  # noqa: N801 - used as `with deadline(5.0):`
    """Give a block and everything it calls so many seconds together.

    Retries do not start and waits do not last beyond it; a Timeout inside is cut
    to what remains; your own code asks `time_remaining()`. An inner deadline can
    only shorten an outer one. `with` never interrupts the block. `async with`
    does: it cancels the task's current wait and raises DeadlineExceeded.

    Args:
        seconds: from entering the block; more than 0.
    """

    __slots__ = ("_entered", "_guard", "_outer", "seconds")

    def __init__(self, seconds: float) -> None:
        self.seconds = _checks.number("deadline", "seconds", seconds, above=0)
        self._outer: float | None = None
        self._entered = False
        self._guard: Any = None

    def __enter__(self) -> Self:
        if self._entered:
            raise RuntimeError("a deadline is entered once; make one for each block")
        until = SYSTEM.monotonic() + self.seconds
        self._entered = True
        outer = self._outer = DEADLINE.get()
        if outer is not None and outer < until:
            until = outer
        try:
            DEADLINE.set(until)
        except BaseException:  # a ^C in this very moment
            DEADLINE.set(outer)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        DEADLINE.set(self._outer)

    async def __aenter__(self) -> Self:
        from maestro_resilience._timeout import Timeout, Watch

        self._guard = Watch(Timeout(self.seconds, name="deadline"))
        self._guard.enter()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._guard.leave(error):
            raise DeadlineExceeded("deadline", self.seconds) from error
