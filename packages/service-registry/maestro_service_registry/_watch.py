"""Follow changes: a shared cache of all instances, and resumable watches.

A watch holds no thread and no queue: it reads the store's events from its own
revision, so a slow reader delays nobody. When it fell too far behind, or the store
started anew, it gets one `Resync` with the present instances instead of an error.
Iterating ends when the watch or the registry is closed.

The cache (`Feed`) keeps the last state while the store cannot be reached. A full
re-read that lost nine tenths of the instances is believed only when a second one,
a little later, says the same.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, final

from ._model import Instance
from ._store import Event, Snapshot, Store, join_key
from ._sweep import Reaper, decode_all, instance_of
from .errors import Compacted, StoreError

__all__ = ["Added", "Change", "Changed", "Feed", "Removed", "Resync", "Watch"]

_log = logging.getLogger(__name__)
SLICE = 30.0  # one blocking call to the store lasts no longer
GUARD_FROM = 5  # with fewer instances a loss of nine tenths is nothing special


@dataclass(frozen=True, slots=True)
class Added:
    """An instance appeared."""

    instance: Instance
    revision: int


@dataclass(frozen=True, slots=True)
class Changed:
    """An instance changed: health, status, metadata ..."""

    instance: Instance
    revision: int


@dataclass(frozen=True, slots=True)
class Removed:
    """An instance is gone: deregistered, expired or killed."""

    service: str
    id: str
    revision: int


@dataclass(frozen=True, slots=True)
class Resync:
    """Events were lost; these are all instances at `revision`."""

    instances: tuple[Instance, ...]
    revision: int


Change = Added | Changed | Removed | Resync


@final
class Watch:
    """Iterates over changes from a revision on; use it as a context manager."""

    def __init__(self, store: Store, prefix: str, since: int | None) -> None:
        self._store, self._prefix = store, prefix
        self.revision, self._history = since or 0, ""
        if since is None:
            self._read()
        self._closed = False
        self._ready: list[Change] = []

    def poll(self, timeout: float = 0.0) -> list[Change]:
        """Return the changes since the last call, waiting up to `timeout` seconds."""
        try:
            batch = self._store.events(self._prefix, self.revision, timeout)
        except Compacted:
            return self._start_anew()
        if self._history and batch.history != self._history:
            return self._start_anew()
        self.revision, self._history = batch.revision, batch.history
        return _changes(batch.events)

    def _start_anew(self) -> list[Change]:
        everything = tuple(decode_all(self._read().records))
        return [Resync(everything, self.revision)]

    def _read(self) -> Snapshot:
        found = self._store.read(self._prefix)
        self.revision, self._history = found.revision, found.history
        return found

    def close(self) -> None:
        """End the iteration, at the latest after the current wait."""
        self._closed = True

    def closed(self) -> bool:
        """Tell whether it was closed, by any thread."""
        return self._closed

    def __iter__(self) -> Iterator[Change]:
        pause = 0.1
        while not self.closed():
            try:
                changes = self.poll(1.0)
                pause = 0.1
            except StoreError as error:
                if self.closed():
                    return
                _log.warning("watch waits for the store: %s", error)
                time.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(5.0, 2 * pause)
                continue
            yield from changes

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _changes(events: tuple[Event, ...]) -> list[Change]:
    found: list[Change] = []
    for event in events:
        if event.record is None:
            service, id = instance_of(event.key)
            found.append(Removed(service, id, event.revision))
            continue
        kind = Added if event.record.created == event.revision else Changed
        found += [
            kind(instance, event.revision) for instance in decode_all([event.record])
        ]
    return found


@final
class Feed:
    """All instances of the store, kept up to date by one thread.

    `services` maps a name to a tuple that is replaced, never changed: reading it takes
    no lock.
    """

    def __init__(
        self,
        store: Store,
        reaper: Reaper,
        *,
        rng: random.Random,
        confirm_after: float = 1.0,
    ) -> None:
        self._store, self._reaper, self._rng = store, reaper, rng
        self._confirm_after = confirm_after
        self.services: dict[str, tuple[Instance, ...]] = {}
        self.connected = False
        self.revision, self._history = 0, ""
        self._lock = threading.Lock()  # guards starting, and the listeners
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()
        self._listeners: list[Callable[[Change], None]] = []
        self._changed = threading.Condition()

    def start(self) -> None:
        """Read everything once, then follow on a thread; quick when it runs."""
        if self._thread is not None:
            return
        with self._lock:
            if not self._closed.is_set() and not self._running():
                self._adopt(*self._load())
                self._follow_on_thread()

    def restart_in_child(self, reaper: Reaper) -> None:
        """Forget the parent's thread; follow again once somebody looks."""
        self._reaper = reaper
        if self._thread is None or self._closed.is_set():
            return
        self._thread, self._lock = None, threading.Lock()
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._listeners = []
        self.services = _Asleep(self.services, self)

    def wake(self) -> None:
        """Follow after a fork; while the store is away, with what was known."""
        try:
            self.start()
        except StoreError as error:
            _log.warning("keeping the last known instances: %s", error)
            with self._lock:
                if not self._closed.is_set() and not self._running():
                    self.services = dict(self.services)
                    self._follow_on_thread()

    def listen(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Call `listener` with every change; return what stops that."""
        with self._lock:
            self._listeners.append(listener)

        def stop() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return stop

    def wait_for(self, done: Callable[[], bool], timeout: float) -> bool:
        """Wait until `done()` holds; it is asked again after each change."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not done():
                left = deadline - time.monotonic()
                if left <= 0 or self._closed.is_set():
                    return False
                self._changed.wait(min(left, 1.0))
        return True

    def catch_up(self, service: str, timeout: float = 1.0) -> None:
        """Wait until what the store holds of a service now has arrived here.

        So a caller sees what it wrote itself. Does nothing while the store is away.
        """
        if not self.connected:
            return
        try:
            found = self._store.read(join_key("i", service) + "/")
        except StoreError:
            return
        newest = max((record.revision for record in found.records), default=0)
        ids = {instance.id for instance in decode_all(found.records)}

        def arrived() -> bool:
            known = {instance.id for instance in self.services.get(service, ())}
            return self.revision >= found.revision or (
                self.revision >= newest and known == ids
            )

        self.wait_for(arrived, timeout)

    def close(self) -> None:
        """Stop following."""
        self._closed.set()

    def join(self) -> None:
        """Wait for the thread, after the store was closed."""
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join(10)

    def _follow_on_thread(self) -> None:
        self._thread = threading.Thread(
            target=self._run, name="maestro-registry-feed", daemon=True
        )
        self._thread.start()

    def _running(self) -> bool:
        return self._thread is not None

    def _run(self) -> None:
        pause = 0.1
        while not self._closed.is_set():
            try:
                self._follow()
                pause = 0.1
            except StoreError as error:
                if self._closed.is_set():
                    return
                self.connected = False
                _log.warning("keeping the last known instances: %s", error)
                self._closed.wait(pause * self._rng.uniform(0.5, 1.5))
                pause = min(10.0, 2 * pause)

    def _follow(self) -> None:
        # After an outage without waiting: what is known may be history.
        patience = SLICE if self.connected else 0.0
        try:
            batch = self._store.events("i/", self.revision, patience)
        except Compacted:
            self._resync()
            return
        if batch.history != self._history:
            self._resync()
            return
        self.connected = True
        if batch.events:
            self._take(batch.events, batch.revision)
        self.revision = batch.revision

    def _load(self) -> tuple[list[Instance], Snapshot]:
        found = self._store.read("i/")
        self.connected = True
        return list(decode_all(found.records)), found

    def _resync(self) -> None:
        instances, found = self._load()
        before = sum(map(len, self.services.values()))
        if before >= GUARD_FROM and len(instances) * 10 <= before:
            _log.warning(
                "%d of %d instances vanished; asking again",
                before - len(instances),
                before,
            )
            if self._closed.wait(self._confirm_after):
                return
            instances, found = self._load()
        self._adopt(instances, found)
        self._tell([Resync(tuple(instances), found.revision)])

    def _adopt(self, instances: list[Instance], found: Snapshot) -> None:
        grouped: dict[str, list[Instance]] = {}
        for instance in instances:
            grouped.setdefault(instance.service, []).append(instance)
            self._reaper.watch(instance.process, instance.lease)
        self.services = {name: tuple(group) for name, group in grouped.items()}
        self.revision, self._history = found.revision, found.history

    def _take(self, events: tuple[Event, ...], revision: int) -> None:
        changes = _changes(events)
        services = dict(self.services)
        touched: dict[str, dict[str, Instance]] = {}
        for change in changes:
            if isinstance(change, Removed):
                service, id = change.service, change.id
            elif isinstance(change, Added | Changed):
                service, id = change.instance.key
                self._reaper.watch(change.instance.process, change.instance.lease)
            else:
                continue
            if service not in touched:
                touched[service] = {i.id: i for i in services.get(service, ())}
            if isinstance(change, Removed):
                touched[service].pop(id, None)
            else:
                touched[service][id] = change.instance
        for service, group in touched.items():
            services[service] = tuple(group[id] for id in sorted(group))
            if not group:
                del services[service]
        self.services = services
        self.revision = revision
        self._tell(changes)

    def _tell(self, changes: list[Change]) -> None:
        with self._changed:
            self._changed.notify_all()
        with self._lock:
            listeners = list(self._listeners)
        for change in changes:
            for listener in listeners:
                try:
                    listener(change)
                except Exception:  # one listener's fault must not stop the others
                    _log.exception("a listener failed; the others go on")


class _Asleep(dict[str, tuple[Instance, ...]]):
    """What a forked child knew; the first look makes its feed follow by itself."""

    def __init__(self, known: Mapping[str, tuple[Instance, ...]], feed: Feed) -> None:
        super().__init__(known)
        self._feed = feed

    def get(self, name: str, default: Any = None) -> Any:
        """Return what is known once the feed follows again."""
        self._feed.wake()
        awake = self._feed.services
        return super().get(name, default) if awake is self else awake.get(name, default)
