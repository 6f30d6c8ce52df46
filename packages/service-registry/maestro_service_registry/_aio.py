"""The same registry for asyncio.

Picking needs no await: it reads the same cache. What talks to the store runs on a pool
of threads, so the loop never waits for a disk. What waits for others (locks, watches,
`wait_ready`) gets a thread of its own: any number of waiters leave the pool free for
the holder's release. A wait for a lock that is cancelled leaves no ticket behind.
"""

import asyncio
import functools
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, final

from ._lock import Lock
from ._model import Instance
from ._policy import Decision
from ._registration import Registration
from ._registry import ServiceRegistry
from ._service import Service
from ._watch import Change

__all__ = ["AsyncServiceRegistry"]

P = ParamSpec("P")
T = TypeVar("T")
SLICE = 0.5  # a cancelled wait ends on its thread after this many seconds


@final
class AsyncServiceRegistry:
    """A `ServiceRegistry` whose blocking verbs are awaited; `sync` is the plain one."""

    def __init__(self, registry: ServiceRegistry) -> None:
        self.sync = registry
        self._pool = ThreadPoolExecutor(8, thread_name_prefix="maestro-registry-io")

    @classmethod
    async def open(
        cls, url: str = "memory://", **options: Any
    ) -> "AsyncServiceRegistry":
        """Open the registry that lives at a URL, as `ServiceRegistry.open` does."""
        opener = functools.partial(ServiceRegistry.open, url, **options)
        return cls(await asyncio.to_thread(opener))

    async def register(self, service: str, **details: Any) -> "AsyncRegistration":
        """Register an instance; `async with` the result to deregister at the end."""
        handle = await self._run(self.sync.register, service, **details)
        return AsyncRegistration(handle, self._run)

    async def find(self, service: str, **details: Any) -> tuple[Instance, ...]:
        """Return the registered instances, read from the store just now."""
        return await self._run(self.sync.find, service, **details)

    async def service(self, name: str, **details: Any) -> Service:
        """Return a cached view; its `pick` and `call` do not wait."""
        return await self._run(self.sync.service, name, **details)

    async def watch(
        self, service: str | None = None, *, since: int | None = None
    ) -> AsyncIterator[Change]:
        """Yield changes from now or from a revision on; stop by leaving the loop."""
        watch = await self._run(self.sync.watch, service, since=since)
        try:
            while True:
                for change in await _wait_for(watch.poll, SLICE):
                    yield change
        finally:
            watch.close()

    @asynccontextmanager
    async def lock(
        self, name: str, *, timeout: float | None = None, **details: Any
    ) -> AsyncIterator[Lock]:
        """Hold a lock; waiters are served without starving each other.

        Raises:
            LockNotAcquired: the time ran out.
        """
        lock = self.sync.lock(name, **details)
        taking = _wait_for(lock.acquire, timeout)
        try:
            await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(_read_result)
            await asyncio.shield(self._start(_abandon, lock))
            raise
        try:
            yield lock
        finally:
            await asyncio.shield(self._start(lock.release))

    async def wait_ready(self, services: Iterable[str], timeout: float = 30.0) -> None:
        """Wait until these services and all they require have passing instances."""
        await _wait_for(self.sync.wait_ready, services, timeout)

    async def may(self, action: str, service: str, *args: Any, **more: Any) -> Decision:
        """Tell whether an action is allowed now."""
        return await self._run(self.sync.may, action, service, *args, **more)

    async def close(self) -> None:
        """Deregister, stop all threads, close the store."""
        await asyncio.to_thread(self.sync.close)
        await asyncio.to_thread(self._pool.shutdown)

    async def __aenter__(self) -> "AsyncServiceRegistry":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(
        self, function: Callable[P, T], *args: P.args, **details: P.kwargs
    ) -> T:
        return await self._start(function, *args, **details)

    def _start(
        self, function: Callable[P, T], *args: P.args, **details: P.kwargs
    ) -> "asyncio.Future[T]":
        call = functools.partial(function, *args, **details)
        return asyncio.get_running_loop().run_in_executor(self._pool, call)


@final
class AsyncRegistration:
    """A registration whose changes are awaited; `sync` is the plain handle."""

    def __init__(self, handle: Registration, run: Callable[..., Any]) -> None:
        self.sync = handle
        self._run = run

    @property
    def instance(self) -> Instance:
        """Return what is registered."""
        return self.sync.instance

    async def update(self, **changes: Any) -> None:
        """Change fields of the instance."""
        await self._run(functools.partial(self.sync.update, **changes))

    async def drain(self) -> None:
        """Stay registered but get no new work."""
        await self._run(self.sync.drain)

    async def close(self) -> None:
        """Deregister; safe to call again."""
        await asyncio.shield(self._run(self.sync.close))

    async def __aenter__(self) -> "AsyncRegistration":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()


def _wait_for(
    function: Callable[P, T], *args: P.args, **details: P.kwargs
) -> "asyncio.Future[T]":
    """Run what may wait long on a thread of its own."""
    told: Future[T] = Future()

    def run() -> None:
        try:
            result = function(*args, **details)
        except BaseException as error:  # the awaiting task gets it
            told.set_exception(error)
        else:
            told.set_result(result)

    told.set_running_or_notify_cancel()
    threading.Thread(target=run, name="maestro-registry-wait", daemon=True).start()
    return asyncio.wrap_future(told)


def _abandon(lock: Lock) -> None:
    if lock.give_up():
        lock.release()


def _read_result(taking: "asyncio.Future[Any]") -> None:
    # Nobody awaits it any more; asyncio would complain of an error nobody read.
    if not taking.cancelled():
        taking.exception()
