"""Test code that uses these policies: no waiting, time on a string, events on a list.

>>> from maestro_resilience import Retry
>>> from maestro_resilience.testing import instant
>>> @Retry(attempts=3, wait=2.0)
... def flaky() -> None:
...     raise ConnectionError
>>> with instant() as sleeps:
...     try:
...         flaky()
...     except ConnectionError:
...         print(sleeps)
[2.0, 2.0]
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from maestro_resilience import _checks
from maestro_resilience._policy import OPEN_GATE, Gate
from maestro_resilience._runtime import SWITCH, SYSTEM, uniform
from maestro_resilience.events import Event, subscribe

__all__ = [
    "FakeClock",
    "attempts",
    "capture",
    "disabled",
    "fake_clock",
    "inject",
    "instant",
]


class FakeClock:
    """A clock that moves only by `advance()` and by sleeping on it.

    Pass it to a policy as `clock=`, or use `fake_clock()` for all policies that
    have none of their own. `sleeps` lists what was slept.
    """

    def __init__(self, start: float = 1000.0) -> None:
        self._now = start
        self._lock = threading.Lock()
        self.sleeps: list[float] = []

    def monotonic(self) -> float:
        """Return the reading."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the reading forward."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock does not go back: {seconds!r}")
        with self._lock:
            self._now += seconds

    def sleep(self, seconds: float) -> None:
        """Advance instead of waiting."""
        self.sleeps.append(seconds)
        self.advance(seconds)

    async def async_sleep(self, seconds: float) -> None:
        """Advance instead of waiting; other tasks get a turn."""
        import asyncio

        self.sleep(seconds)
        await asyncio.sleep(0)


@contextmanager
def fake_clock(start: float = 1000.0) -> Iterator[FakeClock]:
    """Put every policy without a clock of its own on a FakeClock."""
    clock = FakeClock(start)
    before = (SYSTEM.monotonic, SYSTEM.sleep, SYSTEM.async_sleep)
    SYSTEM.monotonic = clock.monotonic
    SYSTEM.sleep = clock.sleep
    SYSTEM.async_sleep = clock.async_sleep
    try:
        yield clock
    finally:
        SYSTEM.monotonic, SYSTEM.sleep, SYSTEM.async_sleep = before


@contextmanager
def instant() -> Iterator[list[float]]:
    """Skip every sleep and give the list of what would have been slept.

    Time itself goes on as usual; use `fake_clock()` to stop it.
    """
    sleeps: list[float] = []

    async def async_sleep(seconds: float) -> None:
        import asyncio

        sleeps.append(seconds)
        await asyncio.sleep(0)

    before = (SYSTEM.sleep, SYSTEM.async_sleep)
    SYSTEM.sleep, SYSTEM.async_sleep = sleeps.append, async_sleep
    try:
        yield sleeps
    finally:
        SYSTEM.sleep, SYSTEM.async_sleep = before


@contextmanager
def disabled() -> Iterator[None]:
    """Let every policy of the process pass its calls through untouched."""
    before, SWITCH.enabled = SWITCH.enabled, False
    SWITCH.update()
    try:
        yield
    finally:
        SWITCH.enabled = before
        SWITCH.update()


@contextmanager
def attempts(limit: int) -> Iterator[None]:
    """Cap the attempts of every Retry, whatever its own settings say."""
    if limit < 1:
        raise ValueError(f"limit must be at least 1, got {limit!r}")
    before, SWITCH.attempt_limit = SWITCH.attempt_limit, limit
    SWITCH.update()
    try:
        yield
    finally:
        SWITCH.attempt_limit = before
        SWITCH.update()


@contextmanager
def capture() -> Iterator[list[Event]]:
    """Collect the events of every policy of the process."""
    events: list[Event] = []
    with subscribe(events.append):
        yield events


class inject(Gate):  # noqa: N801 - reads as a setting: Pipeline(..., inject(rate=0.1))
    """Fail or delay a share of calls, as an ordinary policy in a pipeline.

    Args:
        rate: share of the calls that are hit; from 0 to 1.
        error: what they raise: an exception, or a function that returns one.
        latency: seconds that they wait first.
        random: returns a float in [0, 1).
    """

    __slots__ = ("_error", "_latency", "_random", "_rate")

    kind = "inject"

    def __init__(
        self,
        *,
        rate: float = 1.0,
        error: Exception | Callable[[], Exception] | None = None,
        latency: float = 0.0,
        random: Callable[[], float] = uniform,
    ) -> None:
        config = {"rate": rate, "error": error, "latency": latency, "random": random}
        super().__init__(None, clock=None, listeners=(), config=config)
        self._rate = _checks.number("inject", "rate", rate, least=0, most=1)
        self._latency = _checks.number("inject", "latency", latency, least=0)
        self._error = error
        self._random = random

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error if isinstance(self._error, Exception) else self._error()

    def _enter(self) -> Any:
        if self._random() < self._rate:
            if self._latency:
                self._clock.sleep(self._latency)
            self._raise()
        return OPEN_GATE

    async def _enter_async(self) -> Any:
        if self._random() < self._rate:
            if self._latency:
                await self._clock.async_sleep(self._latency)
            self._raise()
        return OPEN_GATE
