"""Walking through an async generator for somebody else."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable
    from typing import Any


class Delegation:
    """What `yield from` does for sync generators, step by step for async ones."""

    __slots__ = ("running", "stream")

    def __init__(self, stream: AsyncGenerator[Any, Any]) -> None:
        self.stream = stream
        self.running = True

    async def start(self) -> Any:
        """Return the first item; `running` is False when there is none."""
        return await self._step(self.stream.__anext__())

    async def send(self, value: Any) -> Any:
        """Pass on what the consumer sent and return the next item."""
        return await self._step(self.stream.asend(value))  # codespell:ignore asend

    async def throw(self, error: BaseException) -> Any:
        """Pass on what the consumer threw in and return the next item."""
        return await self._step(self.stream.athrow(error))

    async def _step(self, step: Awaitable[Any]) -> Any:
        try:
            return await step
        except StopAsyncIteration:
            self.running = False
            return None
