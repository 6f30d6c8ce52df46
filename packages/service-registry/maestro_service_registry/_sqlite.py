"""A store in one SQLite file: the default for many processes on one host.

A commit is a transaction: it survives kill -9 at any point. Records without a lease
are synced to the disk before the commit returns; leased ones are not, since they end
with the host anyway. After a restart of the machine all leases are void and revisions
jump ahead, so that no fence is given out twice. A full disk or a locked file raises
`StoreUnavailable` and changes nothing. A database of something else is refused before
anything is written to it. A file on a network file system is refused:
neither its locks nor its shared memory can be trusted.

A connection never crosses a fork: the child opens its own.
"""

import contextlib
import errno
import json
import os
import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, final

from ._args import check_number
from ._clock import Clock, Process, SystemClock, boot_id
from ._doorbell import BellTower
from ._fork import hold_across_fork
from ._store import (
    BATCH,
    KEPT_EVENTS,
    Batch,
    Delete,
    Event,
    Lease,
    Op,
    Put,
    Record,
    Snapshot,
)
from .errors import (
    Compacted,
    Conflict,
    InvalidInput,
    LeaseLost,
    StoreError,
    StoreMissing,
    StoreUnavailable,
    UnsafeStore,
)

__all__ = ["SqliteStore"]

SCHEMA_VERSION = 1
APPLICATION = 0x4D745352  # "MtSR" in the file's header
_TABLES = frozenset(["state", "records", "leases", "events"])
REBOOT_JUMP = 1_000_000  # more commits than can be lost unsynced with the machine
NETWORK_FILE_SYSTEMS = frozenset(
    [
        "9p",
        "afs",
        "ceph",
        "cifs",
        "fuse.ceph",
        "fuse.glusterfs",
        "fuse.s3fs",
        "fuse.sshfs",
        "gfs2",
        "glusterfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs4",
        "ocfs2",
        "smb3",
        "smbfs",
        "virtiofs",
    ]
)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS state (one INTEGER PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL, compacted INTEGER NOT NULL, boot TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, value TEXT NOT NULL,
    created INTEGER NOT NULL, revision INTEGER NOT NULL, lease TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS records_lease ON records (lease) WHERE lease IS NOT NULL;
CREATE TABLE IF NOT EXISTS leases (id TEXT PRIMARY KEY, ttl REAL NOT NULL,
    due REAL NOT NULL, strict INTEGER NOT NULL, owner TEXT) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS leases_due ON leases (due);
CREATE TABLE IF NOT EXISTS events (revision INTEGER NOT NULL, n INTEGER NOT NULL,
    key TEXT NOT NULL, value TEXT, created INTEGER, lease TEXT,
    PRIMARY KEY (revision, n)) WITHOUT ROWID;
"""
# One statement sees one state of the file: no BEGIN, no COMMIT.
_WITH = """
SELECT key, value, created, r.revision, lease, state.revision
FROM state LEFT JOIN records AS r ON key >= ? AND key < ?
WHERE one = 1 ORDER BY key
"""
_AFTER = """
SELECT key, e.revision, value, created, lease, state.revision, compacted
FROM state LEFT JOIN events AS e ON e.revision > ? AND key >= ? AND key < ?
WHERE one = 1 ORDER BY e.revision, n LIMIT ?
"""
_LEAKED: Final[list[sqlite3.Connection]] = []  # the parent's, seen from a forked child


@final
class SqliteStore:
    """Records, leases and events in a WAL file beside a folder of doorbells."""

    expires_itself = False
    shared_by_pid = True

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Clock | None = None,
        keep: int = KEPT_EVENTS,
        busy_timeout: float = 30.0,
        boot: Callable[[], str] = boot_id,
        mounts: str | Path = "/proc/self/mountinfo",
        create: bool = True,
    ) -> None:
        check_number("busy_timeout", busy_timeout, 0, 86_400, "seconds")
        check_number("keep", keep, 1, 1e9, "events")
        if not str(path):
            expected = "sqlite:///relative/file.db or sqlite:////absolute/file.db"
            raise InvalidInput("store url", str(path), expected)
        self.path = Path(path).absolute()
        _refuse_network_file_system(self.path, Path(mounts))
        self._clock = clock or SystemClock()
        self._keep = keep
        self._busy = busy_timeout
        self._boot = boot
        self._pid = 0
        self._closed = False
        self._lock = threading.RLock()  # guards the connection
        hold_across_fork(self, self._lock)
        self._open(create=create)

    def read(self, prefix: str) -> Snapshot:
        """Return every record whose key starts with `prefix`."""
        with self._connection() as db:
            rows = db.execute(_WITH, (prefix, prefix + "\U0010ffff")).fetchall()
        records = tuple(Record(*row[:5]) for row in rows if row[0] is not None)
        return Snapshot(records, rows[0][5])

    def commit(self, ops: Sequence[Op], expect: Mapping[str, int] | None = None) -> int:
        """Apply all operations in one transaction and return its revision."""
        with self._writing(durable=any(_unleased(op) for op in ops)) as db:
            for key, wanted in (expect or {}).items():
                row = db.execute(
                    "SELECT revision FROM records WHERE key = ?", (key,)
                ).fetchone()
                if (row[0] if row else 0) != wanted:
                    raise Conflict(key, wanted)
            revision = self._apply(db, ops)
        self._bells.ring()
        return revision

    def grant(self, ttl: float, *, strict: bool, owner: Process | None) -> str:
        """Create a lease of `ttl` seconds and return its id."""
        id = uuid.uuid4().hex
        person = json.dumps(owner.to_dict()) if owner else None
        with self._writing() as db:
            due = self._clock.elapsed() + ttl
            row = (id, ttl, due, int(strict), person)
            db.execute("INSERT INTO leases VALUES (?, ?, ?, ?, ?)", row)
        return id

    def renew(self, leases: Sequence[str]) -> frozenset[str]:
        """Start the time of each lease anew; return those that are gone."""
        gone = set()
        with self._writing() as db:
            now = self._clock.elapsed()
            for id in leases:
                changed = db.execute(
                    "UPDATE leases SET due = ? + ttl WHERE id = ? "
                    "AND (due > ? OR NOT strict)",
                    (now, id, now),
                ).rowcount
                if not changed:
                    gone.add(id)
        return frozenset(gone)

    def revoke(self, leases: Sequence[str], *, only_late: bool = False) -> int:
        """End leases and remove their records; return how many ended."""
        ended, keys = 0, []
        with self._writing() as db:
            now = self._clock.elapsed()
            for id in leases:
                found = db.execute(
                    "DELETE FROM leases WHERE id = ? AND (NOT ? OR due <= ?)",
                    (id, int(only_late), now),
                ).rowcount
                ended += found
                if found:
                    query = "SELECT key FROM records WHERE lease = ? ORDER BY key"
                    keys += [row[0] for row in db.execute(query, (id,))]
            if keys:
                self._apply(db, [Delete(key) for key in keys])
        if keys:
            self._bells.ring()
        return ended

    def expired(self) -> tuple[Lease, ...]:
        """Return the leases that are late and not swept yet."""
        return self._leases("WHERE due <= ?", self._clock.elapsed())

    def leases(self) -> tuple[Lease, ...]:
        """Return all leases."""
        return self._leases("WHERE due > ?", -1.0)

    def events(self, prefix: str, since: int, timeout: float) -> Batch:
        """Return what happened after `since`, waiting up to `timeout` seconds."""
        batch = self._after(prefix, since)
        if batch.events or timeout <= 0:
            return batch
        deadline = time.monotonic() + timeout
        bells = self._bells
        bell = bells.borrow(first=prefix != "i/")
        try:
            while True:  # look once more: the bell hung only after the first look
                bell.hush()
                batch = self._after(prefix, since)
                left = deadline - time.monotonic()
                if batch.events or left <= 0 or self._closed:
                    return batch
                if bell.wait(min(left, 1.0)):
                    batch = self._after(prefix, since)
                    if batch.events:
                        return batch
        finally:
            if self._closed or self._pid != os.getpid() or bells is not self._bells:
                bell.close()
            else:
                bells.give_back(bell)

    def now(self) -> float:
        """Return the calendar of this host."""
        return self._clock.utc()

    def close(self) -> None:
        """Close the file and wake whoever waits."""
        if self._closed:
            return
        self._closed = True
        if self._pid == os.getpid():
            self._bells.ring()
            with self._lock:
                self._db.close()
                self._bells.close()

    def compact(self) -> None:
        """Forget all events; readers that are behind get `Compacted`."""
        with self._writing() as db:
            db.execute("DELETE FROM events")
            db.execute("UPDATE state SET compacted = revision")

    def _open(self, *, create: bool = True) -> None:
        """Connect; make the tables when the file is new."""
        if not create and not self.path.exists():
            raise StoreMissing(str(self.path))
        try:
            db = sqlite3.connect(
                self.path,
                timeout=self._busy,
                isolation_level=None,
                check_same_thread=False,
                cached_statements=64,
            )
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        try:
            self._prepare(db, create=create)
            bells = BellTower(self.path)
        except (OSError, sqlite3.Error) as error:
            db.close()
            raise self._unusable(error) from error
        except BaseException:
            db.close()
            raise
        self._db, self._bells = db, bells
        self._durable = False  # what the connection's `synchronous` is set for
        self._pid = os.getpid()

    def _unusable(self, error: Exception) -> StoreError:
        """Say why the file cannot be used, and what to look at."""
        if "not a database" in str(error):
            return UnsafeStore(
                f"{self.path} is no SQLite file; nothing was written, choose another"
            )
        why = _obstacle(self.path) or str(error)
        return StoreUnavailable(f"cannot open the registry {self.path}: {why}")

    def _prepare(self, db: sqlite3.Connection, *, create: bool) -> None:
        fresh = self._check_owner(db)  # before anything is written
        if fresh and not create:
            raise StoreMissing(str(self.path))
        _switch_to_wal(db, self._busy)
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("BEGIN IMMEDIATE")
        self._check_owner(db)  # another program may have been quicker
        for statement in _SCHEMA.split(";"):
            db.execute(statement)
        if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
            db.execute(f"PRAGMA application_id = {APPLICATION}")
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        boot = self._boot()
        db.execute("INSERT OR IGNORE INTO state VALUES (1, 0, 0, ?)", (boot,))
        if db.execute("SELECT boot FROM state").fetchone()[0] != boot:
            self._start_after_reboot(db, boot)
        db.execute("COMMIT")

    def _check_owner(self, db: sqlite3.Connection) -> bool:
        """Refuse what is not a registry; return True when nothing is in the file."""
        rows = db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        tables = {row[0] for row in rows}
        id = db.execute("PRAGMA application_id").fetchone()[0]
        found = db.execute("PRAGMA user_version").fetchone()[0]
        if not tables and not id and not found:
            return True
        # The first files were written without an id: they are known by their tables.
        if id != APPLICATION and (id or not tables >= _TABLES):
            what = f"tables {', '.join(sorted(tables)[:4])}" if tables else "no tables"
            raise UnsafeStore(
                f"{self.path} is a database of something else ({what}); nothing was "
                "written, choose another file"
            )
        if found > SCHEMA_VERSION:
            expected = f"a registry file of version {SCHEMA_VERSION} or older"
            raise InvalidInput(str(self.path), f"version {found}", expected)
        return False

    def _start_after_reboot(self, db: sqlite3.Connection, boot: str) -> None:
        # Lease times counted from the last boot mean nothing now, and commits that
        # were never synced may be missing: skip their revisions.
        db.execute("DELETE FROM records WHERE lease IS NOT NULL")
        db.execute("DELETE FROM leases")
        db.execute("DELETE FROM events")
        db.execute(
            "UPDATE state SET revision = revision + ?, boot = ?", (REBOOT_JUMP, boot)
        )
        db.execute("UPDATE state SET compacted = revision")

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._pid != os.getpid():  # forked: this connection is the parent's
                _LEAKED.append(self._db)
                self._open()
            if self._closed:
                raise StoreUnavailable(f"{self.path} is closed")
            try:
                yield self._db
            except sqlite3.Error as error:
                raise StoreUnavailable(f"{self.path}: {error}") from error

    @contextmanager
    def _writing(self, *, durable: bool = False) -> Iterator[sqlite3.Connection]:
        with self._connection() as db:
            if durable is not self._durable:
                db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self._durable = durable
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                _end(db, "ROLLBACK")
                raise

    def _apply(self, db: sqlite3.Connection, ops: Sequence[Op]) -> int:
        row = db.execute(
            "UPDATE state SET revision = revision + 1 RETURNING revision"
        ).fetchone()
        revision = int(row[0])
        for n, op in enumerate(ops):
            if isinstance(op, Delete):
                gone = db.execute("DELETE FROM records WHERE key = ?", (op.key,))
                if gone.rowcount:
                    _log_event(db, revision, n, op.key, None, None, None)
                continue
            created = _put(db, op, revision)
            _log_event(db, revision, n, op.key, op.value, created, op.lease)
        if revision % 1000 == 0:
            self._prune(db, revision - self._keep)
        return revision

    def _prune(self, db: sqlite3.Connection, below: int) -> None:
        if below > db.execute("SELECT compacted FROM state").fetchone()[0]:
            db.execute("DELETE FROM events WHERE revision <= ?", (below,))
            db.execute("UPDATE state SET compacted = ?", (below,))

    def _leases(self, where: str, due: float) -> tuple[Lease, ...]:
        query = f"SELECT id, ttl, due, strict, owner FROM leases {where}"  # noqa: S608 - one of two constants
        with self._connection() as db:
            rows = db.execute(query, (due,)).fetchall()
        now = self._clock.elapsed()
        return tuple(
            Lease(id, ttl, due - now, bool(strict), _owner(owner))
            for id, ttl, due, strict, owner in rows
        )

    def _after(self, prefix: str, since: int, most: int = BATCH) -> Batch:
        limits = (since, prefix, prefix + "\U0010ffff", most + 1)
        with self._connection() as db:
            rows = db.execute(_AFTER, limits).fetchall()
        revision, compacted = rows[0][5:]
        if since == revision:
            return Batch((), revision)
        if since < compacted or since > revision:
            raise Compacted(since, compacted + 1)
        if rows[0][0] is None:  # nothing under this prefix
            return Batch((), revision)
        if len(rows) > most:  # cut it between two revisions, never inside one
            revision = rows[-1][1] - 1
            rows = [row for row in rows if row[1] <= revision]
            if not rows:
                return self._after(prefix, since, 1 << 60)
        return Batch(tuple(map(_event, rows)), revision)


def _put(db: sqlite3.Connection, op: Put, revision: int) -> int:
    """Write a record; return the revision that created it."""
    row = db.execute(  # a record ends with its lease: there is one, there is the other
        "UPDATE records SET value = ?, revision = ? WHERE key = ? AND lease IS ? "
        "RETURNING created",
        (op.value, revision, op.key, op.lease),
    ).fetchone()
    if row:
        return int(row[0])
    if op.lease is not None and not _exists(db, op.lease):
        raise LeaseLost(op.lease, "it ended before the commit")
    row = db.execute(
        "INSERT INTO records VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO "
        "UPDATE SET value = excluded.value, revision = excluded.revision, "
        "lease = excluded.lease RETURNING created",
        (op.key, op.value, revision, revision, op.lease),
    ).fetchone()
    return int(row[0])


def _log_event(db: sqlite3.Connection, *row: object) -> None:
    db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?)", row)


def _event(row: Any) -> Event:
    key, revision, value, created, lease = row[:5]
    if value is None:
        return Event(key, revision, None)
    return Event(key, revision, Record(key, value, created, revision, lease))


def _exists(db: sqlite3.Connection, lease: str) -> bool:
    query = "SELECT 1 FROM leases WHERE id = ?"
    return db.execute(query, (lease,)).fetchone() is not None


def _owner(text: str | None) -> Process | None:
    return Process.of(json.loads(text)) if text else None


def _unleased(op: Op) -> bool:
    return not isinstance(op, Delete) and op.lease is None


def _end(db: sqlite3.Connection, statement: str) -> None:
    if db.in_transaction:  # SQLite ends it by itself on some errors, a full disk too
        with contextlib.suppress(sqlite3.Error):
            db.execute(statement)


def _obstacle(path: Path) -> str:
    """Return what stands in the way of a file, with what to do, or nothing."""
    folder = path.parent
    # os.path: Path's questions raise where a folder above may not be entered.
    if not os.path.isdir(folder):  # noqa: PTH112
        if os.path.lexists(folder):
            return f"{folder} is not a folder that can be entered; check the path"
        return f"there is no folder {folder}; make it, or check the path"
    if os.path.isdir(path):  # noqa: PTH112
        return "it is a folder; name a file in it"
    who = f"user {os.geteuid()}"
    if os.path.exists(path) and not os.access(path, os.R_OK | os.W_OK):  # noqa: PTH110
        return f"{who} may not read and write it; check its owner and mode"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{who} may not write in the folder {folder}; check its owner and mode"
    return ""


def _switch_to_wal(db: sqlite3.Connection, patience: float) -> None:
    # The switch needs the file alone and does not wait by itself.
    deadline = time.monotonic() + patience
    while True:
        try:
            mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            if mode != "wal":
                raise UnsafeStore(f"this file system cannot do WAL, mode is {mode!r}")
            return


def _refuse_network_file_system(path: Path, mounts: Path) -> None:
    """Raise UnsafeStore when `path` lies on a file system that other hosts share."""
    try:
        lines = mounts.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        if error.errno == errno.ENOENT:  # no /proc: not Linux, nothing to ask
            return
        raise
    real = os.path.realpath(path.parent)
    best, kind = "", ""
    for line in lines:
        left, _, right = line.partition(" - ")
        point = left.split(" ")[4].replace("\\040", " ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split(" ")[0]
    if kind in NETWORK_FILE_SYSTEMS:
        raise UnsafeStore(
            f"{path} is on {kind} ({best}), a network file system, where SQLite's "
            "locks cannot be trusted; use a local disk, or run `maestro-registry "
            "serve` on one host and open its http:// address"
        )
