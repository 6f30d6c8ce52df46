"""Wake waiting requests: one thread follows the store for all of them.

Each topic (a service, a key) has its own index, the revision that last changed its
content, so a write wakes only those who wait for what it wrote. A thousand waiting
requests cost a thousand coroutines, no thread.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Callable, Iterable
from typing import final

from maestro_service_registry._store import Batch, Event, Store
from maestro_service_registry.errors import Compacted, StoreError

__all__ = ["Pulse"]

_log = logging.getLogger(__name__)


@final
class Pulse:
    """Indexes by topic, and the coroutines that wait for them to rise."""

    def __init__(self, store: Store, on_event: Callable[[Event], None]) -> None:
        self._store, self._on_event = store, on_event
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._indexes: dict[str, int] = {}
        self._base = 1
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Follow the store; call it on the loop that the requests run on."""
        self._loop = asyncio.get_running_loop()
        self._reset()
        self._thread = threading.Thread(
            target=self._run, name="maestro-registry-pulse", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop following; every waiting request is answered."""
        self._closed.set()
        for events in self._waiting.values():
            for event in events:
                event.set()

    def index(self, topics: Iterable[str]) -> int:
        """Return the highest index of some topics, at least 1."""
        found = self._indexes
        return max([self._base, *(found.get(topic, 0) for topic in topics)])

    async def wait(self, topics: list[str], index: int, timeout: float) -> None:
        """Wait until one of the topics has another index than `index`."""
        if self.index(topics) != index or self._closed.is_set():
            return
        event = asyncio.Event()
        for topic in topics:
            self._waiting.setdefault(topic, set()).add(event)
        try:
            async with asyncio.timeout(timeout):
                await event.wait()
        except TimeoutError:
            return
        finally:
            for topic in topics:
                events = self._waiting.get(topic, set())
                events.discard(event)
                if not events:
                    self._waiting.pop(topic, None)

    def _reset(self) -> None:
        found = self._store.read("")
        self._revision, self._history = found.revision, found.history
        indexes: dict[str, int] = {}
        for record in found.records:
            for topic in topics_of(record.key):
                indexes[topic] = max(indexes.get(topic, 0), record.revision)
        self._base = max(1, found.revision)
        self._indexes = indexes

    def _run(self) -> None:
        while not self._closed.is_set():
            try:
                batch = self._next()
            except StoreError as error:
                if self._closed.wait(0.5):
                    return
                _log.warning("waiting requests wait for the store: %s", error)
                continue
            if batch is None:
                self._wake(None)
                continue
            self._revision = batch.revision
            touched = set()
            for event in batch.events:
                for topic in topics_of(event.key):
                    self._indexes[topic] = event.revision
                    touched.add(topic)
            if touched:
                self._wake(touched)
            for event in batch.events:
                try:
                    self._on_event(event)
                except Exception:  # one bad record must not stop all waiters
                    _log.exception("event of %r not handled", event.key)

    def _next(self) -> Batch | None:
        """Return the next events; None when all was read anew instead."""
        with contextlib.suppress(Compacted):
            batch = self._store.events("", self._revision, 1.0)
            if batch.history == self._history:
                return batch
        self._reset()
        return None

    def _wake(self, touched: set[str] | None) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._set, touched)

    def _set(self, touched: set[str] | None) -> None:
        for topic in list(self._waiting) if touched is None else touched:
            for event in self._waiting.get(topic, ()):
                event.set()


def topics_of(key: str) -> tuple[str, ...]:
    """Return what a key belongs to: everything, its kind, its service or itself."""
    kind, _, rest = key.partition("/")
    if kind == "i":
        return ("", "i", f"i/{rest.partition('/')[0]}")
    return ("", kind, key)
