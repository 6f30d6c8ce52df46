"""End what is dead: late leases, and processes of this host that died.

Strict leases (locks, sessions) end as soon as they are late. Lenient ones (instances)
end too, unless more than `share` of at least `minimum` are late at once: then the
network or the store is more likely at fault than the instances, so they are marked
stale, are used last, and go a few per sweep once `patience` times their TTL has passed.
A sweeper that was itself stopped gives everybody one more turn.

On one host nobody waits for a TTL: the reaper holds a pidfd per owner and ends the
leases of a killed process within milliseconds.
"""

import contextlib
import json
import logging
import os
import random
import select
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

from ._args import check_number
from ._clock import Clock, Process
from ._model import Instance, instance_key
from ._store import Lease, Put, Record, Store, split_key
from .errors import Conflict, LeaseLost, StoreError

__all__ = ["Eviction", "Reaper", "Sweeper", "decode", "decode_all"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Eviction:
    """When late instances are kept, and how fast they go.

    Attributes:
        minimum: with fewer instances than this, late ones simply end.
        share: more late instances than this share at once are kept for now.
        patience: they are kept for this many times their TTL after the last beat.
        cap: and then end at most this share per sweep, at least one.
    """

    minimum: int = 10
    share: float = 0.15
    patience: float = 5.0
    cap: float = 0.15

    def __post_init__(self) -> None:
        check_number("minimum", self.minimum, 0, 1e9, "how many")
        check_number("share", self.share, 0, 1, "a share")
        check_number("patience", self.patience, 1, 1e6, "times the TTL")
        check_number("cap", self.cap, 0, 1, "a share")

    def plan(
        self, late: Sequence[Lease], total: int, rng: random.Random
    ) -> tuple[list[Lease], list[Lease]]:
        """Divide late lenient leases into those that end now and those kept."""
        if total < self.minimum or len(late) <= self.share * total:
            return list(late), []
        overdue = [x for x in late if -x.left > (self.patience - 1) * x.ttl]
        rng.shuffle(overdue)  # so that no service loses all its instances first
        ended = overdue[: max(1, int(self.cap * total))]
        gone = {lease.id for lease in ended}
        return ended, [lease for lease in late if lease.id not in gone]


def decode(record: Record) -> Instance:
    """Read an instance from its record."""
    return Instance.from_dict(
        json.loads(record.value),
        lease=record.lease,
        created=record.created,
        revision=record.revision,
    )


def decode_all(records: Iterable[Record]) -> Iterator[Instance]:
    """Read many records; one that cannot be read is logged and left out."""
    for record in records:
        try:
            yield decode(record)
        except (ValueError, TypeError, AttributeError) as error:
            _log.warning("record %r cannot be read: %s", record.key, error)


@final
class Sweeper:
    """Calls `expired` now and then and ends what should end."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock,
        rng: random.Random,
        eviction: Eviction,
        interval: float,
    ) -> None:
        self._store, self._clock, self._rng = store, clock, rng
        self._eviction = eviction
        self.interval = interval
        self._last: float | None = None
        self._marked = True  # another process may have marked before us
        self._lock = threading.Lock()  # one sweep at a time

    def sweep(self) -> int:
        """End what is late; return how many leases ended."""
        if self._store.expires_itself:
            return 0
        with self._lock:
            return self._sweep()

    def sweep_strict(self) -> None:
        """End late locks and sessions only; what a lock's next holder needs."""
        if not self._store.expires_itself:
            late = [x.id for x in self._store.expired() if x.strict]
            if late:
                self._store.revoke(late, only_late=True)

    def _sweep(self) -> int:
        now = self._clock.elapsed()
        paused = 0.0 if self._last is None else now - self._last - 2 * self.interval
        self._last = now
        late = self._store.expired()
        strict = [lease.id for lease in late if lease.strict]
        lenient = [x for x in late if not x.strict and -x.left > max(0.0, paused)]
        ended, kept = list[Lease](), list[Lease]()
        if lenient:
            total = sum(not lease.strict for lease in self._store.leases())
            ended, kept = self._eviction.plan(lenient, total, self._rng)
        condemned = [lease.id for lease in ended] + self._mark(kept)
        ids = strict + condemned
        return self._store.revoke(ids, only_late=True) if ids else 0

    def _mark(self, kept: list[Lease]) -> list[str]:
        """Mark the kept as stale, unmark who beats again; return who is critical."""
        if not kept and not self._marked:
            return []
        late = {lease.id for lease in kept}
        critical = []
        self._marked = bool(kept)
        records = {record.key: record for record in self._store.read("i/").records}
        for instance in decode_all(records.values()):
            record = records[instance_key(*instance.key)]
            stale = instance.lease in late
            if stale and instance.health == "critical" and instance.lease:
                critical.append(instance.lease)  # a check says it is dead, not silent
            elif stale != instance.stale:
                text = replace(instance, stale=stale).to_json()
                with contextlib.suppress(Conflict, LeaseLost):
                    self._store.commit(
                        [Put(record.key, text, record.lease)],
                        {record.key: record.revision},
                    )
        return critical


@final
class Reaper:
    """One thread that waits for processes of this host to die."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()  # guards the two tables and the thread
        self._leases: dict[Process, set[str]] = {}
        self._fds: dict[int, Process] = {}
        self._thread: threading.Thread | None = None
        self._wake: int | None = None
        self._poll = select.poll()
        self._closed = False
        self.works = hasattr(os, "pidfd_open") and store.shared_by_pid

    def watch(self, process: Process | None, lease: str | None) -> None:
        """End `lease` as soon as `process` is dead."""
        if not self.works or process is None or lease is None:
            return
        if process.pid == os.getpid():
            return
        if process not in self._leases and not process.visible():
            return
        with self._lock:
            known = self._leases.get(process)
            if known is not None:
                known.add(lease)
                return
            fd = self._open(process)
            if fd is not None and not self._closed:
                self._leases[process] = {lease}
                self._fds[fd] = process
                self._poll.register(fd, select.POLLIN)
                self._ensure_thread()
                return
            if fd is not None:
                os.close(fd)
        self._end({lease})

    def forget(self, lease: str) -> None:
        """Stop caring for a lease that ended."""
        with self._lock:
            for leases in self._leases.values():
                leases.discard(lease)

    def close(self) -> None:
        """Stop the thread and close every pidfd."""
        with self._lock:
            self._closed = True
            if self._wake is not None:
                os.eventfd_write(self._wake, 1)
        if self._thread:
            self._thread.join(5)
        with self._lock:
            for fd in self._fds:
                os.close(fd)
            if self._wake is not None:
                os.close(self._wake)
            self._fds.clear()
            self._wake = None

    def _open(self, process: Process) -> int | None:
        try:
            fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return None
        if process.alive():  # the fd is of this process, not of a later one
            return fd
        os.close(fd)
        return None

    def _ensure_thread(self) -> None:
        if self._wake is None:
            self._wake = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self._poll.register(self._wake, select.POLLIN)
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._run, name="maestro-registry-reaper", daemon=True
            )
            self._thread.start()
        else:
            os.eventfd_write(self._wake, 1)  # poll again, with the new one

    def _run(self) -> None:
        while not self._closed:
            dead = set[str]()
            for fd, _ in self._poll.poll():
                with self._lock:
                    if fd == self._wake:
                        with contextlib.suppress(BlockingIOError):
                            os.eventfd_read(fd)
                    elif fd in self._fds:
                        self._poll.unregister(fd)
                        dead |= self._leases.pop(self._fds.pop(fd))
                        os.close(fd)
            if dead and not self._closed:
                self._end(dead)

    def _end(self, leases: set[str]) -> None:
        # Should the store fail now, the leases end by their TTL all the same.
        with contextlib.suppress(StoreError):
            self._store.revoke(sorted(leases))


def instance_of(key: str) -> tuple[str, str]:
    """Return service and id of an instance's key."""
    _, service, id = split_key(key)
    return service, id
