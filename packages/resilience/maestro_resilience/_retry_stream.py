"""Retry for generators: only until the first item, which cannot be taken back."""

from __future__ import annotations

from functools import partial

from maestro_resilience._streams import Delegation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator
    from typing import Any

    from maestro_resilience._retry import Retry


def guarded_generator(retry: Retry, fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return a generator function that retries `fn` until its first item."""

    def first(*args: Any, **kwargs: Any) -> tuple[Any, Any, bool]:
        stream = fn(*args, **kwargs)
        try:
            return stream, next(stream), True
        except StopIteration as end:
            return stream, end.value, False

    start = retry._sync(first)

    def stream_of(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        stream, item, running = start(*args, **kwargs)
        while running:
            try:
                sent = yield item
            except GeneratorExit:
                stream.close()
                raise
            except BaseException as thrown:
                step: Callable[[], Any] = partial(stream.throw, thrown)
            else:
                step = partial(stream.send, sent)
            try:
                item = step()
            except StopIteration as end:
                item, running = end.value, False
        return item

    return stream_of


def guarded_async_generator(retry: Retry, fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return an async generator function that retries `fn` until its first item."""

    async def first(*args: Any, **kwargs: Any) -> tuple[Delegation, Any]:
        walk = Delegation(fn(*args, **kwargs))
        return walk, await walk.start()

    start = retry._async(first)

    async def stream_of(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        walk, item = await start(*args, **kwargs)
        while walk.running:
            try:
                sent = yield item
            except GeneratorExit:
                await walk.stream.aclose()
                raise
            except BaseException as thrown:
                item = await walk.throw(thrown)
            else:
                item = await walk.send(sent)

    return stream_of
