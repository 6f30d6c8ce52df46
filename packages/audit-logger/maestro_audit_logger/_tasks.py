"""Group commit for asyncio: tasks of one loop share a write and a sync."""

from __future__ import annotations

import asyncio
from typing import final
from weakref import WeakKeyDictionary

from maestro_audit_logger._commit import Committer, Stored

_Waiting = list[tuple[bytes, "asyncio.Future[Stored]"]]
_MAX_BATCH = 4096


@final
class _Queue:
    """The waiting records of one event loop and the task that stores them."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._waiting: _Waiting = []
        self._task: asyncio.Task[None] | None = None

    async def submit(self, body: bytes) -> Stored:
        future: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, future))
        if self._task is None:
            self._task = asyncio.create_task(self._drain())
        return await future

    async def _drain(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch = self._waiting[:_MAX_BATCH]
                del self._waiting[:_MAX_BATCH]
                bodies = [body for body, _ in batch]
                try:
                    stored, error = await loop.run_in_executor(
                        None, self._committer.commit_many, bodies
                    )
                except Exception as failure:  # handed to every waiter
                    stored, error = [], failure
                _settle(batch, stored, error)
        finally:
            self._task = None
            for _, future in self._waiting:
                future.cancel()
            self._waiting.clear()


def _settle(batch: _Waiting, stored: list[Stored], error: Exception | None) -> None:
    for place, (_, future) in enumerate(batch):
        if future.done():
            continue  # the caller was cancelled; its record is stored all the same
        if place < len(stored):
            future.set_result(stored[place])
        else:
            future.set_exception(error or RuntimeError("no result"))


@final
class AsyncCommitter:
    """One queue per event loop."""

    def __init__(self, committer: Committer) -> None:
        self._committer = committer
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue] = (
            WeakKeyDictionary()
        )

    async def commit(self, body: bytes) -> Stored:
        """Store one body; see `Committer.commit`."""
        loop = asyncio.get_running_loop()
        queue = self._queues.get(loop)
        if queue is None:
            queue = self._queues[loop] = _Queue(self._committer)
        return await queue.submit(body)
