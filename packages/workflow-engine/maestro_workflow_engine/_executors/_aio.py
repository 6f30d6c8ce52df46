"""Run async steps on an event loop in a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from time import time
from typing import Any, final

from .._cause import as_failure  # noqa: TID252
from .._model import Attempt, Outcome  # noqa: TID252 - a private subpackage
from ..errors import StepCancelledError  # noqa: TID252

_Done = Callable[[Outcome], None]
_GRACE = 10.0  # seconds that steps have to end when they are cancelled


@final
class AsyncExecutor:
    """One event loop for all async steps; plain functions run in its thread pool."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._tasks: dict[Attempt, asyncio.Task[None]] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="maestro-asyncio", daemon=True
        )
        self._thread.start()

    def start(self, attempts: Sequence[Attempt], done: _Done) -> None:
        """Make a task of each attempt."""
        self._loop.call_soon_threadsafe(self._begin, tuple(attempts), done)

    def _begin(self, attempts: Sequence[Attempt], done: _Done) -> None:
        for attempt in attempts:
            task = self._loop.create_task(self._run(attempt, done))
            self._tasks[attempt] = task

    async def _run(self, attempt: Attempt, done: _Done) -> None:
        started = time()
        error: BaseException | None = None
        value: Any = None
        try:
            value = await self._call(attempt)
        except asyncio.CancelledError:
            error = StepCancelledError(attempt.step, attempt.number, "stopped")
        except BaseException as caught:  # sys.exit() too: it would end the loop
            error = as_failure(caught)
        finally:
            self._tasks.pop(attempt, None)
        done(Outcome(attempt, value, error, started, time(), "asyncio"))

    async def _call(self, attempt: Attempt) -> Any:
        target = attempt.spec.target
        assert target is not None
        if attempt.spec.kind != "async":
            return await asyncio.to_thread(attempt.call)
        if attempt.chunked:
            return [await target(item, **attempt.kwargs) for item in attempt.args[0]]
        return await target(*attempt.args, **attempt.kwargs)

    def cancel(self, attempt: Attempt) -> None:
        """Cancel the attempt's task; its outcome follows when it has ended."""
        if attempt.flag is not None:
            attempt.flag.append(True)
        self._loop.call_soon_threadsafe(self._cancel, attempt)

    def _cancel(self, attempt: Attempt) -> None:
        task = self._tasks.get(attempt)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """Cancel what still runs, and stop the loop."""
        if self._loop.is_closed():
            return
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._drain(), self._loop)
            # A step that blocks the loop, or will not end, is left behind with it.
            self._thread.join(_GRACE)
        if not self._thread.is_alive():
            self._loop.close()

    async def _drain(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()
        self._loop.call_soon(self._loop.stop)
