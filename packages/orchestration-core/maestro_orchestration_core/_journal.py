"""The journal: append-only events in SQLite, the only truth about a run.

One process writes a run at a time (a file lock that the kernel drops with the
process). People and other processes talk to it through the `inbox` table. Data
over 8 KiB goes to a compressed, content-addressed blob. Opening a run is
resuming it: there is no separate save.
"""

import fcntl
import json
import os
import re
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Literal, final

from ._log import Event, RunLog, dump
from .errors import (
    JournalError,
    JournalVersionError,
    JournalWriteError,
    RunLockedError,
    UnknownRunError,
)

VERSION: Final = 1
_SCHEMA: Final = """
CREATE TABLE event(run TEXT NOT NULL, seq INTEGER NOT NULL, at INTEGER NOT NULL,
  type TEXT NOT NULL, task TEXT NOT NULL, attempt INTEGER NOT NULL,
  actor TEXT NOT NULL, v INTEGER NOT NULL, data TEXT NOT NULL,
  PRIMARY KEY(run, seq)) STRICT;
CREATE TABLE blob(sha TEXT PRIMARY KEY, body BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE inbox(id INTEGER PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL,
  kind TEXT NOT NULL, data TEXT NOT NULL, at INTEGER NOT NULL) STRICT;
CREATE TABLE cursor(name TEXT, run TEXT, seq INTEGER NOT NULL,
  PRIMARY KEY(name, run)) STRICT, WITHOUT ROWID;
CREATE TABLE lease(name TEXT, holder TEXT, shared INTEGER NOT NULL,
  until INTEGER NOT NULL, fence INTEGER NOT NULL, run TEXT NOT NULL,
  PRIMARY KEY(name, holder)) STRICT, WITHOUT ROWID;
CREATE TABLE fence(one INTEGER PRIMARY KEY CHECK(one = 1), value INTEGER NOT NULL)
  STRICT;
INSERT INTO fence VALUES (1, 0);
"""
_RUN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_run_id(run: str) -> str:
    """Return `run` if it can name a run: letters, digits, dot, dash, underscore."""
    if not _RUN_ID.fullmatch(run):
        raise JournalError(
            f"run id {run!r} must be 1 to 100 letters, digits, '.', '_' or '-' "
            "and start with a letter or digit"
        )
    return run


def _advice(path: Path, error: str) -> str:
    """Return what to look at when SQLite cannot open or write a file."""
    if "unable to open" not in error and "readonly" not in error:
        return ""
    folder = path.resolve().parent
    if not folder.is_dir():
        return f"; there is no folder {folder}, make it or choose another path"
    if path.is_dir():
        return "; it is a folder, give a file in it"
    return (
        f"; user {os.geteuid()} needs to read and write the file and its folder {folder}, "
        "check their owner and mode (ls -ld)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """One line about a run in the journal."""

    run: str
    started_ns: int
    last_ns: int
    events: int
    status: str
    """started, resumed, paused, or how it finished."""


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


@final
class Journal:
    """The runs in one SQLite file. Use it from one thread; readers may be many.

    Args:
        path: The file; made when missing, refused on a newer version.
        durability: `normal` survives kill -9 of any process; unsafe effects and
            merges wait for the disk besides. `full` waits for the disk each time.
        create: Whether a missing file is made.
        read_only: Only look: nothing is made or changed, a write raises.
        clock: Nanoseconds since 1970.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        durability: Literal["normal", "full"] = "normal",
        create: bool = True,
        read_only: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.path = Path(path)
        self.durability = durability
        self.clock = clock
        self._logs: list[RunLog] = []
        self._read_only = read_only
        if (read_only or not create) and not self.path.exists():
            raise JournalError("there is no such journal", path=path)
        try:
            target = (
                f"{self.path.resolve().as_uri()}?mode={'ro' if read_only else 'rwc'}"
            )
            self.connection = sqlite3.connect(
                target, isolation_level=None, timeout=30, uri=True
            )
            self._prepare()
        except sqlite3.DatabaseError as error:
            if hasattr(self, "connection"):
                self.connection.close()
            advice = _advice(self.path, str(error))
            raise JournalError(
                f"not a usable journal: {error}{advice}", path=path
            ) from error
        except BaseException:
            if hasattr(self, "connection"):
                self.connection.close()
            raise

    def _prepare(self) -> None:
        db = self.connection
        found = self._identify()
        if self._read_only:
            if found == 0:
                raise JournalError("not a journal", path=self.path)
            return
        db.execute("PRAGMA journal_mode=WAL")
        level = "FULL" if self.durability == "full" else "NORMAL"
        db.execute(f"PRAGMA synchronous={level}")
        if found == 0:
            db.execute("BEGIN IMMEDIATE")
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                for statement in _SCHEMA.split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA user_version={VERSION}")
            db.execute("COMMIT")

    def _identify(self) -> int:
        """Return the version of the file, 0 for a new one, before it is changed."""
        db = self.connection
        db.execute("BEGIN")  # both at one moment: another process may be making it
        found: int = db.execute("PRAGMA user_version").fetchone()[0]
        names = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
        db.execute("COMMIT")
        if found > VERSION:
            raise JournalVersionError(self.path, found=found, supported=VERSION)
        if ("event" not in names) if found else names:
            raise JournalError(
                "a SQLite file of something else; choose another path", path=self.path
            )
        return found

    def open_run(
        self, run: str, *, fault: Callable[[int, str], None] | None = None
    ) -> RunLog:
        """Take the run for this process; raise RunLockedError if another has it."""
        check_run_id(run)
        lock = self._lock(run)
        try:
            log = RunLog(self, run, lock=lock, fault=fault)
        except BaseException:
            lock.close()
            raise
        self._logs.append(log)
        return log

    def _lock_path(self, run: str) -> Path:
        return self.path.with_name(self.path.name + ".locks") / run

    def _lock(self, run: str) -> IO[bytes]:
        path = self._lock_path(run)
        path.parent.mkdir(exist_ok=True)
        while True:
            lock = path.open("ab")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                lock.close()
                raise RunLockedError(run, self.path) from None
            if _is_at(lock, path):
                return lock
            lock.close()  # it was discarded between the open and the lock

    def begin(self) -> None:
        """Begin to write, and undo what an interrupt left open before."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")
        self.connection.execute("BEGIN IMMEDIATE")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Give the connection; what it writes is kept whole or not at all."""
        db = self.connection
        try:
            self.begin()
            yield db
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise JournalWriteError(
                f"nothing was changed: {error}", path=self.path
            ) from error
        finally:
            if db.in_transaction:
                db.execute("ROLLBACK")

    def forget(self, log: RunLog) -> None:
        """Drop a closed run log."""
        if log in self._logs:
            self._logs.remove(log)

    def is_running(self, run: str) -> bool:
        """Tell whether a process has this run open now."""
        path = self._lock_path(run)
        if not path.exists():
            return False
        with path.open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return True
        return False

    def events(self, run: str, *, after: int = 0) -> Iterator[Event]:
        """Yield the events of a run after position `after`, in order."""
        try:
            rows = self.connection.execute(
                "SELECT seq, at, type, task, attempt, actor, v, data FROM event "
                "WHERE run = ? AND seq > ? ORDER BY seq",
                (run, after),
            ).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"cannot be read: {error}", path=self.path) from error
        for seq, at, kind, task, attempt, actor, v, data in rows:
            yield Event(
                seq=seq, run=run, at_ns=at, type=kind, task=task, attempt=attempt,
                actor=actor, v=v, data=self._load(data),
            )  # fmt: skip

    def _load(self, text: str) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(text)
        if "$blob" not in value:
            return value
        row = self.connection.execute(
            "SELECT body FROM blob WHERE sha = ?", (value["$blob"],)
        ).fetchone()
        if row is None:
            return {"$gone": value["$blob"], "size": value["size"]}
        loaded: dict[str, Any] = json.loads(zlib.decompress(row[0]))
        return loaded

    def runs(self) -> list[RunSummary]:
        """Return the runs, the oldest first."""
        rows = self.connection.execute(
            "SELECT run, min(at), max(at), count(*) FROM event GROUP BY run ORDER BY 2"
        ).fetchall()
        return [
            RunSummary(
                run=run, started_ns=first, last_ns=last, events=n,
                status=self._status(run),
            )
            for run, first, last, n in rows
        ]  # fmt: skip

    def _status(self, run: str) -> str:
        row = self.connection.execute(
            "SELECT type, data FROM event WHERE run = ? AND type LIKE 'run.%' "
            "ORDER BY seq DESC LIMIT 1",
            (run,),
        ).fetchone()
        if row is None:
            return "empty"
        if row[0] == "run.finished":
            return str(json.loads(row[1]).get("status", "finished"))
        return str(row[0].removeprefix("run."))

    def require(self, run: str) -> str:
        """Return `run` if the journal knows it, else raise UnknownRunError."""
        if not self._knows(run):
            raise UnknownRunError(run, [one.run for one in self.runs()], self.path)
        return run

    def _knows(self, run: str) -> bool:
        found = self.connection.execute(
            "SELECT 1 FROM event WHERE run = ? LIMIT 1", (run,)
        )
        return found.fetchone() is not None

    def post(self, run: str, kind: str, data: Mapping[str, Any]) -> None:
        """Leave a message for the process that runs `run`, now or later."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO inbox(run, kind, data, at) VALUES (?, ?, ?, ?)",
                (run, kind, dump(data), self.clock()),
            )
        for log in self._logs:
            log.read_again()

    def cursor(self, name: str, run: str) -> int:
        """Return up to which event the reader `name` has taken a run; 0 at first."""
        row = self.connection.execute(
            "SELECT seq FROM cursor WHERE name = ? AND run = ?", (name, run)
        ).fetchone()
        return row[0] if row else 0

    def move_cursor(self, name: str, run: str, seq: int) -> None:
        """Note that the reader `name` is done with a run up to event `seq`."""
        with self.transaction() as db:
            db.execute(
                "INSERT INTO cursor VALUES (?, ?, ?) ON CONFLICT(name, run) DO UPDATE "
                "SET seq = max(seq, excluded.seq)",
                (name, run, seq),
            )

    def fork(self, run: str, new: str, *, at: int | None = None) -> int:
        """Copy the first `at` events of a run to a new one; return how many."""
        self.require(run)
        check_run_id(new)
        last = at if at is not None else 2**62
        with self.transaction() as db:
            if self._knows(new):
                raise JournalError(f"run {new!r} exists already", path=self.path)
            done = db.execute(
                "INSERT INTO event SELECT ?, seq, at, type, task, attempt, actor, v, "
                "data FROM event WHERE run = ? AND seq <= ? AND type != 'run.finished'",
                (new, run, last),
            )
        return done.rowcount

    def discard(self, run: str) -> None:
        """Delete a run that no process has open."""
        self.require(run)
        with self._lock(run):
            with self.transaction() as db:
                for table in ("event", "inbox", "lease", "cursor"):
                    db.execute(f"DELETE FROM {table} WHERE run = ?", (run,))  # noqa: S608 - names above
            self._lock_path(run).unlink()

    def gc(self, *, keep_s: float = 30 * 86400) -> int:
        """Drop the blobs of runs finished over `keep_s` ago; return bytes freed.

        States, reasons and usage stay: only large prompts and answers go. A run
        that has not finished keeps everything.
        """
        before = self.clock() - int(keep_s * 1e9)
        # Looked at and deleted at one moment: a run may be writing a blob meanwhile.
        with self.transaction() as db:
            live = [s.run for s in self.runs() if not self._old(s, before)]
            marks = ",".join("?" * len(live))
            used = {
                json.loads(row[0])["$blob"]
                for row in db.execute(
                    f"SELECT data FROM event WHERE run IN ({marks}) "  # noqa: S608 - marks
                    "AND data LIKE '{\"$blob\"%'",
                    live,
                )
            }
            rows = db.execute("SELECT sha, length(body) FROM blob").fetchall()
            drop = [(sha, size) for sha, size in rows if sha not in used]
            db.executemany("DELETE FROM blob WHERE sha = ?", [d[:1] for d in drop])
        if drop:
            self.connection.execute("VACUUM")
        return sum(size for _, size in drop)

    def _old(self, summary: RunSummary, before: int) -> bool:
        unfinished = {"started", "resumed", "paused", "empty", "forked"}
        return summary.status not in unfinished and summary.last_ns < before

    def size(self) -> int:
        """Return the bytes on disk, the write-ahead log included."""
        names = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(p.stat().st_size for p in names if p.exists())

    def close(self) -> None:
        """Close the open runs and the file."""
        for log in list(self._logs):
            log.close()
        self.connection.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
