"""Group commit without a background thread.

The first thread into an empty batch leads it: it waits for the previous
leader, closes the batch, writes and syncs it, and wakes the others. While one
batch is on its way to the device the next one fills. There is no thread that
could be missing after a fork or still busy at exit.

A leader can be interrupted anywhere (a signal handler that raises), even while
it wakes the others. A follower therefore waits with patience. It takes the turn
itself when it finds its batch without an outcome: a batch that was not begun it
writes, of one that was cut short in the writing it says so.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import get_ident
from time import monotonic
from typing import Literal, final

from maestro_audit_logger._store import Appended, Store
from maestro_audit_logger.errors import (
    AuditUnavailable,
    InvalidSetting,
    LogClosed,
    LogDamaged,
    cause,
)

Stored = tuple[int, str]
Durability = Literal["commit", "os"] | float
_INTERRUPTED = "the thread that wrote for several was interrupted"
_PATIENCE_S = 1.0  # above what a device takes to sync
_committers: weakref.WeakSet[Committer] = weakref.WeakSet()


@final
class _Batch:
    __slots__ = ("begun", "bodies", "error", "stored", "uncertain", "waiters")

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.waiters: list[threading.Lock] = []
        self.stored: list[Stored] = []
        self.error: BaseException | None = None
        self.uncertain = False
        self.begun = False  # set by the leader once it has the turn

    @property
    def settled(self) -> bool:
        """Tell whether there is an outcome."""
        return bool(self.stored) or self.error is not None


@final
class Committer:
    """Let many threads write and sync together.

    Args:
        store: the writing end of the log.
        sync_every_s: 0 syncs before each acknowledgement, a positive number at
            most that often, None never (the operating system decides).
        max_batch: bodies in one batch; later ones wait for the next.
        after: called by the leader after its batch, still alone with the store,
            with the number of the last line.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        store: Store,
        *,
        sync_every_s: float | None,
        after: Callable[[int], None],
        max_batch: int = 4096,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._store = store
        self._sync_every_s = sync_every_s
        self._after = after
        self._max_batch = max_batch
        self._clock = clock
        self._last_sync = clock()
        self.syncs = 0
        self.closed = False
        self._reset()
        _committers.add(self)

    def _reset(self) -> None:
        self._mutex = threading.Lock()  # guards _open and the batch in it
        self._turn = threading.Lock()  # held by the leader: guards the store
        self._open: _Batch | None = None
        self._alone = 0  # the thread that holds _turn without a batch
        self._busy: set[int] = set()  # the threads in any of the other ways

    def after_fork(self) -> None:
        """Start afresh in a forked child: its threads and their batch are gone."""
        self._reset()
        self._store.close()

    def commit(self, body: bytes) -> Stored:
        """Store one body; return its number and leaf hash once it is durable.

        Raises:
            AuditUnavailable: it is not stored.
        """
        me = get_ident()
        # A thread that finds the turn taken, or a batch open, joins it.
        if self._open is not None or self._turn.locked():
            return self._join(body, me)
        with self._turn:
            self._alone = me
            try:
                return self._commit_alone(body)
            finally:
                self._alone = 0

    def _commit_alone(self, body: bytes) -> Stored:
        """Do as a leader without followers does, for less."""
        written = False
        try:
            if self.closed:
                raise LogClosed("the audit logger is closed")
            stored = self._store.append_one(body)
            written = True
            if self._sync_every_s is not None:
                self._sync_if_due()
            self._after(stored[0])
        except (OSError, LogDamaged) as error:
            raise self.failure(error, uncertain=written) from error
        return stored

    def commit_many(
        self, bodies: Sequence[bytes]
    ) -> tuple[list[Stored], Exception | None]:
        """Store bodies in this order; return what was stored, and the failure."""
        batch = _Batch()
        batch.bodies = list(bodies)
        with self.exclusively():
            self._run(batch)
            if batch.error is None:
                self._after(batch.stored[-1][0])
        if batch.error is None:
            return batch.stored, None
        return batch.stored, self.failure(batch.error, uncertain=batch.uncertain)

    @contextmanager
    def exclusively(self) -> Iterator[None]:
        """Keep other threads from the store."""
        me = self._enter(get_ident())
        try:
            self._busy.add(me)
            with self._turn:
                yield
        finally:
            self._busy.discard(me)

    def sync(self) -> None:
        """Sync what is written but not yet synced."""
        with self.exclusively():
            self._store.sync()

    def failure(self, error: BaseException | None, *, uncertain: bool) -> Exception:
        """Say in the caller's terms why a record is not stored."""
        if isinstance(error, LogClosed):
            return LogClosed("the audit logger is closed")
        return AuditUnavailable(
            str(self._store.folder), cause(error), uncertain=uncertain
        )

    def _enter(self, me: int) -> int:
        """Refuse to wait for oneself, which a signal handler would do."""
        if me == self._alone or me in self._busy:
            raise AuditUnavailable(
                str(self._store.folder),
                "a signal handler called it while this thread was writing",
            )
        return me

    def _join(self, body: bytes, me: int) -> Stored:
        self._enter(me)
        batch, leading, waiter = None, False, threading.Lock()
        waiter.acquire()
        try:
            self._busy.add(me)
            with self._mutex:
                batch = self._open
                if batch is None or len(batch.bodies) >= self._max_batch:
                    fresh = _Batch()
                    # No call between these: an interrupt cannot leave an open
                    # batch behind that nobody leads.
                    batch = self._open = fresh
                    leading = True
                else:
                    batch.waiters.append(waiter)
                place = len(batch.bodies)
                batch.bodies.append(body)
            if not leading:
                waiter.acquire(timeout=_PATIENCE_S)
            if leading or not batch.settled:
                self._lead(batch)
        finally:
            try:
                if leading and batch is not None:
                    self._shut(batch)
                    self._release(batch)
            finally:
                self._busy.discard(me)
        if place < len(batch.stored):
            return batch.stored[place]
        raise self.failure(batch.error, uncertain=batch.uncertain) from batch.error

    def _lead(self, batch: _Batch) -> None:
        with self._turn:
            if batch.begun:  # by another, who has not woken all
                if not batch.settled:
                    batch.error, batch.uncertain = InterruptedError(_INTERRUPTED), True
                return
            self._shut(batch)
            batch.begun = True
            self._run(batch)
            self._release(batch)
            if batch.error is None:
                self._after(batch.stored[-1][0])

    def _shut(self, batch: _Batch) -> None:
        with self._mutex:
            if self._open is batch:
                self._open = None

    def _release(self, batch: _Batch) -> None:
        while True:
            try:
                waiter = batch.waiters.pop()
            except IndexError:
                return
            waiter.release()

    def _run(self, batch: _Batch) -> None:
        """Write and sync one batch; `_turn` is held."""
        if self.closed:
            batch.error = LogClosed("the audit logger is closed")
            return
        result: Appended = self._store.append(batch.bodies)
        batch.error = result.error
        if not result.stored:
            return
        try:
            self._sync_if_due()
        except OSError as error:
            batch.error, batch.uncertain = error, True
            return
        batch.stored = result.stored

    def _sync_if_due(self) -> None:
        if self._sync_every_s is None:
            return
        if self._sync_every_s:
            now = self._clock()
            if now - self._last_sync < self._sync_every_s:
                return
            self._last_sync = now
        self._store.sync()
        self.syncs += 1

    def close(self) -> None:
        """Sync, then refuse further records; idempotent."""
        with self.exclusively():
            if not self.closed:
                self.closed = True
                if self._sync_every_s is not None:
                    self._store.sync()
                self._store.close()


def sync_interval(durability: object) -> float | None:
    """Return 0 for each time, None for never, or the seconds between two syncs."""
    if durability == "commit":
        return 0
    if durability == "os":
        return None
    known = type(durability) in {int, float}  # True is a number too
    if known and 0 < durability < float("inf"):  # type: ignore[operator]  # as tested
        return float(durability)  # type: ignore[arg-type]
    raise InvalidSetting(
        "durability", "'commit', 'os' or a number of seconds above 0", durability
    )


def _reset_in_child() -> None:
    for committer in list(_committers):
        committer.after_fork()


os.register_at_fork(after_in_child=_reset_in_child)
