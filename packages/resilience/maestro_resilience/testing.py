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
from maestro_resilience.store import BreakerStore

__all__ = [
    "FakeClock",
    "attempts",
    "capture",
    "check_breaker_store",
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


def check_breaker_store(store: BreakerStore, wait: Callable[[float], object]) -> None:
    """Check that a store keeps the promises of BreakerStore; raise AssertionError.

    Args:
        store: an empty one.
        wait: lets so many seconds of the store's time pass.
    """
    first = store.load("a")
    assert (first.version, first.state) == (0, "closed"), first
    opened = store.change("a", 0, "open", 0.2, "test")
    assert (opened.version, opened.state, opened.reason) == (1, "open", "test"), opened
    assert 0.0 < opened.left < 0.201, opened
    late = store.change("a", 0, "open", 99.0, "a stale version must change nothing")
    assert (late.version, late.reason) == (1, "test"), late
    assert store.load("b").state == "closed", "names must not share a record"
    assert store.lease("a", "p0", 2, 5.0)[0] is False, "still open"
    wait(0.25)
    grants = [store.lease("a", f"p{i}", 2, 5.0)[0] for i in range(4)]
    assert grants == [True, True, False, False], grants
    store.report("a", "p0", "released", 2, 0.2)
    assert store.lease("a", "p4", 2, 0.1)[0] is True, "a released slot is free"
    assert store.report("a", "p9", "failed", 2, 0.2).state == "half_open", "no lease"
    wait(0.15)
    assert store.report("a", "p4", "failed", 2, 0.2).state == "half_open", "too late"
    assert store.lease("a", "p5", 2, 5.0)[0] is True, "a lease ends by itself"
    assert store.report("a", "p1", "ok", 2, 0.2).state == "half_open", "one of two"
    assert store.lease("a", "p6", 2, 5.0)[0] is False, "a success keeps its place"
    closed = store.report("a", "p5", "ok", 2, 0.2)
    assert (closed.state, closed.left) == ("closed", 0.0), closed
    store.change("a", closed.version, "open", 0.05, "again")
    wait(0.1)
    assert store.lease("a", "q0", 2, 5.0)[0] is True, "a new round starts empty"
    failed = store.report("a", "q0", "failed", 2, 0.3)
    assert failed.state == "open", failed
    assert 0.1 < failed.left < 0.301, failed
    ahead = store.change("a", failed.version + 7, "closed", 0.0, "the store forgot")
    assert ahead.version == failed.version + 8, ahead
    assert ahead.state == "closed", ahead
    isolated = store.change("a", None, "isolated", 0.0, "by hand")
    assert isolated.version > ahead.version, isolated
    assert store.lease("a", "q1", 2, 5.0)[0] is False, "isolated admits nobody"
