"""Supervision after Erlang/OTP: who is restarted when one fails, and how often.

Source: OTP design principles, supervisor behaviour. A child never repairs
itself; when restarts do not help within the window, the supervisor gives up and
its own owner decides.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, final

from .errors import RestartLimitError, SettingsError, UnhealthyError

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
