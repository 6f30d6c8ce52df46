"""Locks and elections with fencing tokens.

A lock is a queue of tickets in the store; the oldest ticket holds it, so waiters are
served in order. The ticket's creation revision is the `fence`: it rises with every new
holder, across crashes and restarts. A holder whose lease ran out, whose process was
stopped or cut off, learns it: `lost` is set, `guard()` raises from a margin before the
moment when somebody else can hold the lock. What a late writer may still send is
refused by checking the fence where the write arrives: `FenceGate` does that, or a
condition in your own storage.

Waiters that give up, or whose lease ends while they wait, leave nothing behind.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import Any, final

from ._args import check_number
from ._clock import Clock, Process
from ._heart import Beat, Heart
from ._model import check_ttl
from ._store import Put, Record, Snapshot, Store, join_key
from ._sweep import Reaper, Sweeper
from .errors import (
    Compacted,
    Conflict,
    InvalidInput,
    LeaseLost,
    LockError,
    LockLost,
    LockNotAcquired,
    StaleFence,
    StoreError,
    StoreUnavailable,
)

__all__ = ["FenceGate", "Lock", "LockHolder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LockHolder:
    """Who holds a lock, with the fence that was given."""

    name: str
    holder: str
    fence: int
    since: float


@final
class Lock:
    """A named lock; one `Lock` object is one contender. Use it with `with`."""

    def __init__(
        self,
        name: Any,
        *,
        store: Store,
        heart: Heart,
        sweeper: Sweeper,
        reaper: Reaper,
        clock: Clock,
        ttl: float,
        timeout: float | None,
        holder: str | None,
    ) -> None:
        if not isinstance(name, str) or not 1 <= len(name) <= 253:
            raise InvalidInput("lock name", name, "a text of 1 to 253 characters")
        self.name: str = name
        if timeout is not None:
            check_number("timeout", timeout, 0, float("inf"), "seconds, None for ever")
        if holder is not None and not isinstance(holder, str):
            raise InvalidInput("holder", holder, "a text")
        self.ttl = check_ttl(ttl)
        self.holder = holder or f"{socket.gethostname()}:{os.getpid()}"
        self.lost = threading.Event()
        self._timeout = timeout
        self._store, self._heart, self._clock = store, heart, clock
        self._sweeper, self._reaper = sweeper, reaper
        self._prefix = join_key("l", name) + "/"
        self._beat: Beat | None = None
        self._key = ""
        self._fence: int | None = None
        self._why = "its lease ended"
        self._abandoned = False
        self._turn = threading.Lock()  # between acquire's end and give_up
        self._pid = os.getpid()

    @property
    def fence(self) -> int:
        """Return the fencing token; pass it along with every write."""
        if self._fence is None:
            raise LockError(f"lock {self.name!r} is not held; call acquire() first")
        return self._fence

    @property
    def held(self) -> bool:
        """Tell whether it is held, as far as this process can know without asking."""
        return self._fence is not None and not self._late()

    def acquire(self, timeout: float | None = None) -> int:
        """Wait for the lock and return its fence.

        Args:
            timeout: seconds to wait; 0 tries once, None waits as the lock was told.

        Raises:
            LockNotAcquired: the time ran out; nothing is left behind.
            LockLost: the lease ended while waiting.
        """
        if timeout is not None:
            check_number("timeout", timeout, 0, float("inf"), "seconds")
        if self._fence is not None:
            raise LockError(f"lock {self.name!r} is held already; it is not reentrant")
        patience = self._timeout if timeout is None else timeout
        deadline = None if patience is None else time.monotonic() + patience
        self._pid = os.getpid()
        self.lost.clear()
        try:
            created = self._enqueue(deadline)
            self._wait(created, deadline, patience or 0.0)
            with self._turn:
                self._check_wanted(created)
                self._fence = created
        except BaseException:
            self._leave()
            raise
        return created

    def guard(self, *, verify: bool = False) -> int:
        """Return the fence, or raise when the lock may be somebody else's.

        Call it before every write. It costs a comparison of times; with `verify` it
        also asks the store.
        """
        fence = self.fence
        if self._late():
            raise LockLost(self.name, fence, self._why)
        if verify and self._mine(self._store.read(self._prefix)) is None:
            self._gone("the store does not know the ticket any more")
            raise LockLost(self.name, fence, self._why)
        return fence

    def give_up(self) -> bool:
        """End an `acquire` on another thread, a later one too, with LockLost.

        Return True when it is held already; then it stays so until `release`.
        """
        with self._turn:
            self._abandoned = True
            beat, held = self._beat, self._fence is not None
        if beat is not None and not held:
            with contextlib.suppress(StoreError):
                self._store.revoke([beat.lease])  # the waiter wakes up
        return held

    def release(self) -> None:
        """Let the next one in; nothing happens when the lock is not held."""
        self._fence = None
        self._leave()

    def __enter__(self) -> "Lock":
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Lock {self.name!r} fence={self._fence} lost={self.lost.is_set()}>"

    def _enqueue(self, deadline: float | None) -> int:
        self._check_wanted(0)
        started = self._clock.elapsed()
        me = Process.current()
        lease = self._store.grant(self.ttl, strict=True, owner=me)
        self._beat = Beat(lease, self.ttl, strict=True, gone=self._gone)
        self._heart.add(self._beat, started)
        self._key = self._prefix + uuid.uuid4().hex
        ticket = {"holder": self.holder, "process": me.to_dict()}
        value = json.dumps(ticket | {"since": self._store.now()})
        while True:
            try:
                return self._store.commit(
                    [Put(self._key, value, lease)], {self._key: 0}
                )
            except LeaseLost as error:
                raise LockLost(self.name, 0, "its lease ended while waiting") from error
            except (StoreUnavailable, Conflict):
                # The answer may be lost, not the ticket: look for it before retrying.
                found = self._find_ticket(deadline)
                if found is not None:
                    return found.created

    def _find_ticket(self, deadline: float | None) -> Record | None:
        while True:
            try:
                found = self._store.read(self._key).records
                return found[0] if found else None
            except StoreUnavailable:
                if deadline is None or time.monotonic() > deadline or self._late():
                    raise
                time.sleep(0.05)

    def _wait(self, created: int, deadline: float | None, patience: float) -> None:
        while True:
            self._check_wanted(created)
            self._sweeper.sweep_strict()
            queue = self._store.read(self._prefix)
            mine = self._mine(queue)
            if mine is None or self.lost.is_set():
                raise LockLost(self.name, created, "its lease ended while waiting")
            ahead = [r for r in queue.records if r.created < mine.created]
            if not ahead:
                return
            for record in ahead:
                self._reaper.watch(_process(record), record.lease)
            left = 1.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                first = min(ahead, key=lambda r: r.created)
                holder = json.loads(first.value)["holder"]
                raise LockNotAcquired(self.name, patience, holder)
            step = min(left, 1.0, self.ttl / 4)
            with contextlib.suppress(Compacted):  # then simply look again
                self._store.events(self._prefix, queue.revision, step)

    def _check_wanted(self, created: int) -> None:
        if self._abandoned:
            raise LockLost(self.name, created, "the waiter gave up")

    def _mine(self, queue: Snapshot) -> Record | None:
        return next((r for r in queue.records if r.key == self._key), None)

    def _late(self) -> bool:
        beat = self._beat
        if self.lost.is_set() or beat is None:
            return True
        if self._pid != os.getpid():
            self._why = "it belongs to the parent process"
            return True
        if self._clock.elapsed() >= beat.deadline - beat.margin:
            self._gone(f"no heartbeat got through for {self.ttl:g} s")
            return True
        return False

    def _gone(self, why: str) -> None:
        self._why = why
        self.lost.set()

    def _leave(self) -> None:
        beat, self._beat = self._beat, None
        if beat is None or self._pid != os.getpid():
            return
        self._heart.remove(beat.lease)
        # Unreachable now: the lease ends by itself, since nobody renews it.
        with contextlib.suppress(StoreError):
            self._store.revoke([beat.lease])


def holder_of(store: Store, name: str) -> LockHolder | None:
    """Return who holds a lock now."""
    records = store.read(join_key("l", name) + "/").records
    if not records:
        return None
    first = min(records, key=lambda record: record.created)
    raw = json.loads(first.value)
    return LockHolder(
        name=name, holder=raw["holder"], fence=first.created, since=raw["since"]
    )


@final
class FenceGate:
    """Lets a write through only when no later holder has written.

    The check belongs beside the data: where your storage can compare a number, let it
    do so; where it cannot, ask this gate first.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.name = name
        self._store = store
        self._key = join_key("f", name)

    def admit(self, fence: int) -> None:
        """Note `fence`, or raise StaleFence when a higher one was here."""
        while True:
            found = self._store.read(self._key).records
            record = next((r for r in found if r.key == self._key), None)
            latest = int(record.value) if record else 0
            if fence < latest:
                raise StaleFence(self.name, fence, latest)
            if fence == latest:
                return
            expect = {self._key: record.revision if record else 0}
            with contextlib.suppress(Conflict):
                self._store.commit([Put(self._key, str(fence))], expect)
                return


def _process(record: Record) -> Process | None:
    raw: Any = json.loads(record.value)
    return Process.of(raw.get("process"))
