"""Trying again: retries and throttles around calls, supervision of services.

Source of the supervision: OTP design principles, supervisor behaviour. A child
never repairs itself; when restarts do not help within the window, the
supervisor gives up and its own owner decides.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar, final

from .errors import (
    ModelError,
    RateLimitedError,
    RestartLimitError,
    SettingsError,
    UnhealthyError,
)

T = TypeVar("T")


@final
class Throttle:
    """Concurrency, requests and tokens per minute for one provider.

    A 429 freezes it for everybody until Retry-After; the concurrency is then
    halved and grows by one with each `concurrency` good answers.
    """

    def __init__(
        self,
        *,
        concurrency: int = 16,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._most = self._now = float(max(1, concurrency))
        self._requests, self._tokens = requests_per_minute, tokens_per_minute
        self._clock, self._sleep, self._rng = clock, sleep, rng
        self._seen: deque[tuple[float, int]] = deque()
        self._running = 0
        self._frozen_until = 0.0
        self._changed: asyncio.Event | None = None

    @asynccontextmanager
    async def slot(self, tokens: int = 0) -> AsyncIterator[None]:
        """Wait for room, then hold one place."""
        while (wait := self._wait(tokens)) is not None:
            await self._pause(wait)
        self._running += 1
        if self._requests or self._tokens:
            self._seen.append((self._clock(), tokens))
        try:
            yield
            self._now = min(self._most, self._now + 1 / self._now)
        except RateLimitedError as error:
            self._freeze(error.retry_after)
            raise
        finally:
            self._running -= 1
            self._wake()

    def _wait(self, tokens: int) -> float | None:
        """Return None to go, seconds to wait, or 0 for somebody to leave."""
        now = self._clock()
        if now < self._frozen_until:
            return self._frozen_until - now
        if self._running >= int(self._now):
            return 0.0
        while self._seen and self._seen[0][0] <= now - 60:
            self._seen.popleft()
        over = bool(self._requests) and len(self._seen) >= (self._requests or 0)
        used = sum(n for _, n in self._seen)
        if self._tokens and self._seen:
            over = over or used + tokens > self._tokens
        return self._seen[0][0] + 60 - now if over else None

    async def _pause(self, wait: float) -> None:
        if wait > 0:
            await self._sleep(wait)
            return
        if self._changed is None or self._changed.is_set():
            self._changed = asyncio.Event()
        await self._changed.wait()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()

    def _freeze(self, retry_after: float | None) -> None:
        wait = (retry_after if retry_after is not None else 1.0) * (
            1 + self._rng() / 10
        )
        self._frozen_until = max(self._frozen_until, self._clock() + wait)
        self._now = max(1.0, self._now / 2)


class CallPolicy(Protocol):
    """What is put around each model call: retries, breakers, time limits."""

    async def call(self, fn: Callable[[], Awaitable[T]], /) -> T:
        """Return what `fn` returns, called once or more; raise its last error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Call again what may succeed later, with full jitter, bounded by time.

    Any object with `async call(fn)` can take its place (`ports.CallPolicy`), such
    as `integrations.resilience.Policies`.
    """

    within: float = 60.0
    """Seconds after which no new try starts."""
    first: float = 0.5
    most: float = 20.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    rng: Callable[[], float] = random.random

    async def call(self, fn: Callable[[], Awaitable[T]]) -> T:
        """Return what `fn` returns; raise its last error."""
        started = self.clock()
        tries = 0
        while True:
            try:
                return await fn()
            except ModelError as error:
                wait = self.rng() * min(self.most, self.first * 2**tries)
                if (
                    isinstance(error, RateLimitedError)
                    and error.retry_after is not None
                ):
                    wait = error.retry_after
                late = self.clock() - started + wait > self.within
                if not error.retry or late:
                    raise
            tries += 1
            await self.sleep(wait)


Strategy = Literal["one_for_one", "one_for_all", "rest_for_one"]


@dataclass(frozen=True, slots=True)
class Child:
    """One coroutine to keep alive.

    `permanent` is restarted always, `transient` after an error, `temporary` never.
    """

    name: str
    start: Callable[[], Awaitable[object]]
    restart: Literal["permanent", "transient", "temporary"] = "transient"
    healthy: Callable[[], Awaitable[bool]] | None = field(default=None, kw_only=True)
    """Asked every `check_every` seconds; False counts as a failure."""
    check_every: float = field(default=5.0, kw_only=True)


@final
class Supervisor:
    """Run children until all are done; restart them by a strategy.

    Cancelling `run` stops every child, the last one first.
    """

    def __init__(
        self,
        children: Sequence[Child],
        *,
        strategy: Strategy = "one_for_one",
        max_restarts: int = 3,
        within: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        on_restart: Callable[[str, BaseException | None], None] | None = None,
    ) -> None:
        names = [child.name for child in children]
        if len(set(names)) != len(names):
            raise SettingsError("two children have the same name", key="children")
        if strategy not in {"one_for_one", "one_for_all", "rest_for_one"}:
            raise SettingsError(f"{strategy!r} is no strategy", key="strategy")
        self._children = {child.name: child for child in children}
        self._strategy = strategy
        self._max, self._within, self._clock = max_restarts, within, clock
        self._on_restart = on_restart
        self._restarts: deque[float] = deque()
        self._jobs: dict[str, asyncio.Task[object]] = {}
        self._told: list[Callable[[str, BaseException | None], None]] = []

    async def run(
        self, *, on_restart: Callable[[str, BaseException | None], None] | None = None
    ) -> None:
        """Start all and return when all are done; raise RestartLimitError.

        Args:
            on_restart: Told of each restart besides the supervisor's own listener.
        """
        if self._jobs:
            raise SettingsError("runs already; make one per run", key="supervisor")
        self._restarts.clear()
        self._told = [f for f in (self._on_restart, on_restart) if f]
        try:
            for name in self._children:
                self._start(name)
            while self._jobs:
                await asyncio.wait(
                    self._jobs.values(), return_when=asyncio.FIRST_COMPLETED
                )
                for name in [n for n, job in self._jobs.items() if job.done()]:
                    if name in self._jobs and self._jobs[name].done():
                        await self._ended(name)
        finally:
            await self._stop(list(self._jobs))

    def _start(self, name: str) -> None:
        self._jobs[name] = asyncio.create_task(
            self._guarded(self._children[name]), name=name
        )

    async def _guarded(self, child: Child) -> object:
        work = asyncio.ensure_future(child.start())
        try:
            while child.healthy is not None and not work.done():
                await asyncio.wait({work}, timeout=child.check_every)
                if not work.done() and not await child.healthy():
                    raise UnhealthyError(f"{child.name!r} is not healthy")
            return await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    async def _ended(self, name: str) -> None:
        child = self._children[name]
        job = self._jobs.pop(name)
        error = None if job.cancelled() else job.exception()
        failed = job.cancelled() or error is not None
        again = child.restart == "permanent" or (
            child.restart == "transient" and failed
        )
        if not again:
            return
        now = self._clock()
        self._restarts.append(now)
        while self._restarts[0] < now - self._within:
            self._restarts.popleft()
        if len(self._restarts) > self._max:
            raise RestartLimitError(name, self._max, self._within) from error
        group = self._group(name)
        await self._stop([n for n in group if n in self._jobs])
        for tell in self._told:
            tell(name, error)
        for other in group:
            if other == name or self._children[other].restart != "temporary":
                self._start(other)

    def _group(self, name: str) -> list[str]:
        names = list(self._children)
        if self._strategy == "one_for_one":
            return [name]
        if self._strategy == "one_for_all":
            return names
        return names[names.index(name) :]

    async def _stop(self, names: Sequence[str]) -> None:
        for name in reversed(names):
            job = self._jobs.pop(name)
            job.cancel()
            await asyncio.gather(job, return_exceptions=True)
