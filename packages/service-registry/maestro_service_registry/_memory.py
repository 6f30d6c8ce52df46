"""A store inside this process: for tests and for programs that are one process.

Nothing outlives the process. Readers never wait for writers: a commit replaces the
records it changes, and a read copies only references.
"""

import threading
import time
import uuid
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

from ._clock import Clock, Process, SystemClock
from ._fork import hold_across_fork
from ._store import (
    BATCH,
    KEPT_EVENTS,
    Batch,
    Delete,
    Event,
    Lease,
    Op,
    Record,
    Snapshot,
)
from .errors import Compacted, Conflict, LeaseLost, StoreUnavailable

__all__ = ["MemoryStore"]


@final
class MemoryStore:
    """Records, leases and events in dictionaries."""

    expires_itself = False
    shared_by_pid = True

    def __init__(self, *, clock: Clock | None = None, keep: int = KEPT_EVENTS) -> None:
        self._clock = clock or SystemClock()
        self._keep = keep
        lock = threading.RLock()  # guards everything below
        self._changed = threading.Condition(lock)
        hold_across_fork(self, lock)
        self._records: dict[str, Record] = {}
        self._keys: list[str] = []  # of the records, sorted
        self._held: dict[str, set[str]] = {}  # the keys that hang on each lease
        self._leases: dict[str, tuple[Lease, float]] = {}  # with the time it is due
        self._events: list[Event] = []
        self._revision = 0
        self._compacted = 0
        self._closed = False

    def read(self, prefix: str) -> Snapshot:
        """Return every record whose key starts with `prefix`."""
        found = []
        with self._changed:
            keys = self._keys
            for at in range(bisect_left(keys, prefix), len(keys)):
                if not keys[at].startswith(prefix):
                    break
                found.append(self._records[keys[at]])
            return Snapshot(tuple(found), self._revision)

    def commit(self, ops: Sequence[Op], expect: Mapping[str, int] | None = None) -> int:
        """Apply all operations at one new revision and return it."""
        with self._changed:
            self._check_open()
            for key, wanted in (expect or {}).items():
                record = self._records.get(key)
                if (record.revision if record else 0) != wanted:
                    raise Conflict(key, wanted)
            for op in ops:
                lease = None if isinstance(op, Delete) else op.lease
                if lease is not None and lease not in self._leases:
                    raise LeaseLost(lease, "it ended before the commit")
            return self._apply(ops)

    def grant(self, ttl: float, *, strict: bool, owner: Process | None) -> str:
        """Create a lease of `ttl` seconds and return its id."""
        id = uuid.uuid4().hex
        with self._changed:
            self._check_open()
            lease = Lease(id, ttl, ttl, strict, owner)
            self._leases[id] = (lease, self._clock.elapsed() + ttl)
        return id

    def renew(self, leases: Sequence[str]) -> frozenset[str]:
        """Start the time of each lease anew; return those that are gone."""
        gone = set()
        with self._changed:
            self._check_open()
            now = self._clock.elapsed()
            for id in leases:
                lease, due = self._leases.get(id, (None, 0.0))
                if lease is None or (lease.strict and due <= now):
                    gone.add(id)
                else:
                    self._leases[id] = (lease, now + lease.ttl)
        return frozenset(gone)

    def revoke(self, leases: Sequence[str], *, only_late: bool = False) -> int:
        """End leases and remove their records; return how many ended."""
        with self._changed:
            now = self._clock.elapsed()
            ended = {
                id
                for id in leases
                if id in self._leases and (not only_late or self._leases[id][1] <= now)
            }
            for id in ended:
                del self._leases[id]
            keys = {key for id in ended for key in self._held.get(id, ())}
            if keys:
                self._apply([Delete(key) for key in sorted(keys)])
            return len(ended)

    def expired(self) -> tuple[Lease, ...]:
        """Return the leases that are late and not swept yet."""
        return tuple(lease for lease in self.leases() if lease.left <= 0)

    def leases(self) -> tuple[Lease, ...]:
        """Return all leases."""
        with self._changed:
            now = self._clock.elapsed()
            found = list(self._leases.values())
        return tuple(replace(lease, left=due - now) for lease, due in found)

    def events(self, prefix: str, since: int, timeout: float) -> Batch:
        """Return what happened after `since`, waiting up to `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                batch = self._after(prefix, since)
                left = deadline - time.monotonic()
                if batch.events or left <= 0 or self._closed:
                    return batch
                self._changed.wait(left)

    def now(self) -> float:
        """Return the calendar of this host."""
        return self._clock.utc()

    def close(self) -> None:
        """Refuse further writes and wake whoever waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def compact(self) -> None:
        """Forget all events; readers that are behind get `Compacted`."""
        with self._changed:
            self._events.clear()
            self._compacted = self._revision

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("the store is closed")

    def _apply(self, ops: Sequence[Op]) -> int:
        self._revision += 1
        for op in ops:
            old = self._records.get(op.key)
            if old and old.lease:
                self._let_go(old.lease, op.key)
            if isinstance(op, Delete):
                if old:
                    del self._records[op.key]
                    del self._keys[bisect_left(self._keys, op.key)]
                    self._events.append(Event(op.key, self._revision, None))
                continue
            created = old.created if old else self._revision
            record = Record(op.key, op.value, created, self._revision, op.lease)
            if not old:
                insort(self._keys, op.key)
            if op.lease:
                self._held.setdefault(op.lease, set()).add(op.key)
            self._records[op.key] = record
            self._events.append(Event(op.key, self._revision, record))
        if len(self._events) > 2 * self._keep:
            cut = self._events[-self._keep].revision
            self._events = [e for e in self._events if e.revision >= cut]
            self._compacted = cut - 1
        self._changed.notify_all()
        return self._revision

    def _let_go(self, lease: str, key: str) -> None:
        self._held[lease].discard(key)
        if not self._held[lease]:
            del self._held[lease]

    def _after(self, prefix: str, since: int) -> Batch:
        if since < self._compacted or since > self._revision:
            raise Compacted(since, self._compacted + 1)
        found: list[Event] = []
        start = len(self._events)
        while start and self._events[start - 1].revision > since:
            start -= 1
        for event in self._events[start:]:
            # A revision is never cut in two, so the next call starts behind it.
            if len(found) >= BATCH and event.revision != found[-1].revision:
                return Batch(tuple(found), found[-1].revision)
            if event.key.startswith(prefix):
                found.append(event)
        return Batch(tuple(found), self._revision)
