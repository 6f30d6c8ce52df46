"""Hedge: ask again when an answer is late, and take the first that comes.

Source: J. Dean and L. Barroso, "The Tail at Scale", CACM 56(2), 2013.
"""

from __future__ import annotations

from maestro_resilience import _checks
from maestro_resilience._policy import Policy, settings
from maestro_resilience._runtime import SWITCH
from maestro_resilience._signals import tell

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable
    from typing import Any

    from maestro_resilience._runtime import Clock
    from maestro_resilience.events import Listener


class Hedge(Policy):
    """Start the call again after `delay` without an answer; the first success wins.

    A failed attempt starts the next one at once. When all fail, the first error is
    raised. Async losers are cancelled and awaited. Sync attempts run on daemon
    threads, and losers run on to their end: hedge only what may happen twice.

    Args:
        delay: seconds between starts; more than 0.
        attempts: calls in all, the first included; at least 2.
        name: appears in events.
        clock: unused; the waiting is real.
        listeners: functions that get this policy's events.
    """

    __slots__ = ("_attempts", "_delay")

    kind = "hedge"

    def __init__(
        self,
        delay: float,
        *,
        attempts: int = 2,
        name: str | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        config = settings(locals(), type(self).__init__)
        super().__init__(name, clock=clock, listeners=listeners, config=config)
        me = f"Hedge {self.name!r}"
        self._delay = _checks.number(me, "delay", delay, above=0)
        self._attempts = _checks.whole(me, "attempts", attempts, least=2)

    def _async(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        async def hedge(*args: Any, **kwargs: Any) -> Any:
            if not SWITCH.enabled:
                return await fn(*args, **kwargs)
            import asyncio

            tasks: list[asyncio.Task[Any]] = []
            try:
                return await self._race(tasks, lambda: fn(*args, **kwargs))
            finally:
                for task in tasks:
                    task.cancel()
                # Awaited, so that no loser outlives the call; its error is nobody's.
                await asyncio.gather(*tasks, return_exceptions=True)
                tasks.clear()

        return hedge

    async def _race(
        self, tasks: list[asyncio.Task[Any]], start: Callable[[], Any]
    ) -> Any:
        import asyncio

        while True:
            if len(tasks) < self._attempts:
                if tasks:
                    tell(self, "HedgeStarted", attempt=len(tasks) + 1)
                tasks.append(asyncio.ensure_future(start()))
            running = [task for task in tasks if not task.done()]
            last = len(tasks) == self._attempts
            if running:
                await asyncio.wait(
                    running,
                    timeout=None if last else self._delay,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            for task in tasks:
                if task.done() and not _lost(task):
                    return task.result()
            if last and all(task.done() for task in tasks):
                return tasks[0].result()

    def _sync(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        def hedge(*args: Any, **kwargs: Any) -> Any:
            if not SWITCH.enabled:
                return fn(*args, **kwargs)
            return self._race_threads(fn, args, kwargs)

        return hedge

    def _race_threads(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        import queue

        from maestro_resilience._workers import WORKERS, Job

        ended: queue.SimpleQueue[Job] = queue.SimpleQueue()
        first_bad: Job | None = None
        started = failed = 0
        while failed < self._attempts:
            if started < self._attempts:
                if started:
                    tell(self, "HedgeStarted", attempt=started + 1)
                job = Job(fn, args, kwargs)
                job.late = ended.put
                WORKERS.start(job)
                started += 1
            last = started == self._attempts
            try:
                job = ended.get(timeout=None if last else self._delay)
            except queue.Empty:
                continue
            if not isinstance(job.error, Exception):
                return job.outcome()
            first_bad = first_bad or job
            failed += 1
        return first_bad.outcome() if first_bad is not None else None


def _lost(task: asyncio.Task[Any]) -> bool:
    """Tell whether an attempt failed in a way that another one may still mend."""
    return not task.cancelled() and isinstance(task.exception(), Exception)
