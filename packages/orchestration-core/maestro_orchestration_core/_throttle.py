"""Rate limits shared by all agents of one provider, and retries of model calls.

The throttle is taken around one HTTP request, never around an agent: an agent
that waits for a child holds nothing, so a full throttle cannot deadlock.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar, final

from .errors import ModelError, RateLimitedError

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
