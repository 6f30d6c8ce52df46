"""The journal: one SQLite file that holds every run, so that none is lost.

Events are only ever added; a run's state is a fold of them. One process owns a run
at a time (an epoch that only grows, and a lease that its owner renews), and checks
that in the same transaction in which it writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count, repeat
from operator import add
from pathlib import Path
from typing import Any, Literal, final

from ._arguments import hinted, wrong
from ._history import read_durations, write_durations
from ._lease import LEASE_SECONDS, disown, owner_lives, owner_name
from ._past import Past, last_event, read_past, starts_of
from ._results import Results
from ._shape import Shape
from ._sqlite import translated
from .errors import (
    JournalBusyError,
    JournalCorruptError,
    JournalError,
    JournalVersionError,
    LeaseLostError,
    RunNotFoundError,
    did_you_mean,
)

VERSION = 1

_SCHEMA = """
CREATE TABLE run(
  key INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, workflow TEXT NOT NULL,
  source TEXT, params TEXT NOT NULL, digest TEXT NOT NULL, steps BLOB NOT NULL,
  workers INTEGER NOT NULL, executor TEXT NOT NULL,
  state TEXT NOT NULL, created REAL NOT NULL, finished REAL,
  epoch INTEGER NOT NULL, owner TEXT NOT NULL, lease_until REAL NOT NULL);
CREATE TABLE event(
  run INTEGER NOT NULL, seq INTEGER NOT NULL, step TEXT NOT NULL,
  attempt INTEGER NOT NULL, kind TEXT NOT NULL, at REAL NOT NULL,
  seconds REAL, worker TEXT, value TEXT, note TEXT,
  PRIMARY KEY(run, seq)) WITHOUT ROWID;
CREATE TABLE control(
  seq INTEGER PRIMARY KEY, run INTEGER NOT NULL, verb TEXT NOT NULL,
  argument TEXT, at REAL NOT NULL);
CREATE TABLE duration(
  workflow TEXT NOT NULL, run INTEGER NOT NULL, epoch INTEGER NOT NULL,
  seconds BLOB NOT NULL, PRIMARY KEY(workflow, run, epoch)) WITHOUT ROWID;
CREATE TABLE cache(key TEXT PRIMARY KEY, value TEXT NOT NULL, at REAL NOT NULL)
  WITHOUT ROWID;
CREATE INDEX control_run ON control(run, seq);
"""

# step, attempt, kind, at, seconds, worker, value, note
Row = tuple[str, int, str, float, float | None, str | None, str | None, str | None]
_INSERT = (
    "INSERT INTO event(run,seq,step,attempt,kind,at,seconds,worker,value,note) "
    "VALUES(?,?,?,?,?,?,?,?,?,?)"
)
Durability = Literal["process", "power"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What the journal knows of one run without reading its events."""

    id: str
    workflow: str
    source: str | None
    params: Mapping[str, Any]
    digest: str
    state: str
    workers: int
    executor: str
    created: float
    finished: float | None
    epoch: int
    owner: str
    lease_until: float
    key: int

    @property
    def live(self) -> bool:
        """Whether a process that can still be alive owns the run."""
        return owner_lives(self.owner, self.lease_until)


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEvent:
    """One line of the journal, as `Journal.events` yields it."""

    seq: int
    step: str
    attempt: int
    kind: str
    at: float
    seconds: float | None
    worker: str | None
    value: str | None
    note: str | None


@final
@hinted
class Journal:
    """Where runs are written down. Give it to `WorkflowEngine(journal=...)`.

    Args:
        path: the SQLite file; large results go to `PATH.objects` beside it.
        durability: "process" survives the death of the process (kill -9 included);
            "power" also that of the machine, and costs an fsync a turn.

    Raises:
        JournalError: it cannot be created, read or written here.

    One process writes a run at a time; any number may read. Not thread-safe: each
    thread opens its own.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, durability: Durability = "process"
    ) -> None:
        given: object = path
        if not isinstance(given, str | os.PathLike) or not str(given):
            raise wrong("Journal", "path", "the path of a file", path)
        if durability not in ("process", "power"):
            raise wrong("Journal", "durability", "'process' or 'power'", durability)
        self.path = Path(path)
        self.durability = durability
        results = Results(self.path, synced=durability == "power")
        self.objects = results.objects
        self.encode, self.decode = results.encode, results.decode
        # The epoch and the latest event of each run that this process writes.
        self._last: dict[int, tuple[int, int]] = {}
        self._encode = json.JSONEncoder(
            ensure_ascii=False, separators=(",", ":"), allow_nan=False
        ).encode
        with translated(self.path):
            self._db = self._open()
        try:
            with translated(self.path):
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(
            self.path, isolation_level=None, timeout=10, check_same_thread=False
        )

    def _prepare(self) -> None:
        db = self._db
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise JournalVersionError(
                self.path,
                f"{self.path} has journal version {version}, this package writes "
                f"{VERSION}; upgrade maestro-workflow-engine",
            )
        level = "FULL" if self.durability == "power" else "NORMAL"
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={level}")
        db.execute("PRAGMA wal_autocheckpoint=4000")
        db.execute("PRAGMA cache_size=-16000")
        if version == 0:
            with self.transaction():
                if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                    if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                        raise JournalCorruptError(
                            self.path,
                            f"{self.path} is an SQLite file of something else; choose "
                            "another path for the journal",
                        )
                    for statement in _SCHEMA.strip().split(";\n"):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version={VERSION}")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Journal({str(self.path)!r})"

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Do several writes as one: all or none."""
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        except BaseException:  # also of the COMMIT itself: the next one must begin
            if db.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
            raise

    # -- runs ---------------------------------------------------------------

    def create(
        self,
        run_id: str,
        *,
        workflow: str,
        source: str | None,
        params: Mapping[str, Any],
        shape: Shape,
        workers: int,
        executor: str,
        rows: Sequence[Row] = (),
    ) -> RunInfo:
        """Write a new run down, owned by this process, with events that it has had."""
        now = time.time()
        digest, steps = shape.pack()
        with translated(self.path):
            try:
                with self.transaction() as db:
                    key = db.execute(
                        "INSERT INTO run(id,workflow,source,params,digest,steps,workers,"
                        "executor,state,created,epoch,owner,lease_until) "
                        "VALUES(?,?,?,?,?,?,?,?,?,?,1,?,?)",
                        (
                            run_id, workflow, source, self._encode(dict(params)),
                            digest, steps, workers, executor,
                            "running", now, owner_name(), now + LEASE_SECONDS,
                        ),
                    ).lastrowid  # fmt: skip
                    db.executemany(_INSERT, map(add, zip(repeat(key), count(1)), rows))
            except sqlite3.IntegrityError:
                raise JournalError(
                    self.path,
                    f"run {run_id!r} exists already; resume it or choose another name",
                ) from None
        return self.info(run_id)

    def info(self, run_id: str) -> RunInfo:
        """Return a run by its id.

        Raises:
            RunNotFoundError: there is none.
        """
        with translated(self.path):
            found = list(self._infos("WHERE id=?", (run_id,)))
            if found:
                return found[0]
            known = [row[0] for row in self._db.execute("SELECT id FROM run")]
        raise RunNotFoundError(
            run_id,
            f"there is no run {run_id!r} in {self.path}{did_you_mean(run_id, known)}",
        )

    def runs(self, limit: int = 100) -> list[RunInfo]:
        """Return the latest runs, newest first."""
        with translated(self.path):
            return list(self._infos("ORDER BY key DESC LIMIT ?", (limit,)))

    def _infos(self, where: str, values: tuple[Any, ...]) -> Iterator[RunInfo]:
        rows = self._db.execute(
            "SELECT key,id,workflow,source,params,digest,state,workers,executor,"  # noqa: S608
            f"created,finished,epoch,owner,lease_until FROM run {where}",
            values,
        )
        for row in rows:
            yield RunInfo(
                key=row[0], id=row[1], workflow=row[2], source=row[3],
                params=json.loads(row[4]), digest=row[5], state=row[6],
                workers=row[7], executor=row[8], created=row[9], finished=row[10],
                epoch=row[11], owner=row[12], lease_until=row[13],
            )  # fmt: skip

    def shape(self, key: int) -> Shape:
        """Return the steps of a run as they were defined."""
        with translated(self.path):
            row = self._db.execute(
                "SELECT steps FROM run WHERE key=?", (key,)
            ).fetchone()
        return Shape.unpack(row[0])

    def take_over(self, run_id: str, shape: Shape | None = None) -> RunInfo:
        """Make this process the owner of a run that nobody else works on.

        Raises:
            JournalBusyError: its owner is alive.
        """
        with translated(self.path):
            with self.transaction() as db:
                info = self.info(run_id)
                if info.live:
                    raise JournalBusyError(self.path, run_id, info.owner)
                db.execute(
                    "UPDATE run SET epoch=epoch+1,owner=?,lease_until=?,state='running',"
                    "finished=NULL WHERE key=?",
                    (owner_name(), time.time() + LEASE_SECONDS, info.key),
                )
                if shape is not None:
                    db.execute(
                        "UPDATE run SET digest=?,steps=? WHERE key=?",
                        (*shape.pack(), info.key),
                    )
        return self.info(run_id)

    # -- events -------------------------------------------------------------

    def events(self, run_id: str, after: int = 0) -> Iterator[JournalEvent]:
        """Yield a run's events in their order, those after a sequence number."""
        key = self.info(run_id).key
        with translated(self.path):
            rows = self._db.execute(
                "SELECT seq,step,attempt,kind,at,seconds,worker,value,note FROM event "
                "WHERE run=? AND seq>? ORDER BY seq",
                (key, after),
            )
            for row in rows:
                if row[3] == "started" and not row[1]:  # a turn's starts
                    first = row[0] - row[2] + 1
                    for seq, (step, attempt) in enumerate(starts_of(*row[7:]), first):
                        if seq > after:
                            yield JournalEvent(
                                seq=seq, step=step, attempt=attempt, kind="started",
                                at=row[4], seconds=None, worker=None, value=None,
                                note=None,
                            )  # fmt: skip
                    continue
                yield JournalEvent(
                    seq=row[0], step=row[1], attempt=row[2], kind=row[3], at=row[4],
                    seconds=row[5], worker=row[6], value=row[7], note=row[8],
                )  # fmt: skip

    def past(self, key: int, index: Mapping[str, int] | None = None) -> Past:
        """Fold a run's events into what a resume has to know.

        Args:
            key: the run.
            index: the positions of its steps, as far as they are known.
        """
        with translated(self.path):
            return read_past(self._db, key, index or {})

    def last_event(self, key: int) -> int:
        """Return the number of a run's latest event."""
        with translated(self.path):
            return last_event(self._db, key)

    def commit(
        self,
        info: RunInfo,
        rows: Sequence[Row],
        starts: Sequence[tuple[str, int]] = (),
        at: float = 0.0,
    ) -> None:
        """Add a turn's events in one transaction, unless the run has a new owner.

        Args:
            info: the run.
            rows: what has ended.
            starts: steps that start after that, each with its attempt. They share a
                row: a start says nothing that its neighbours do not.
            at: when they start.
        """
        key = info.key
        with translated(self.path), self.transaction() as db:
            self._guard(db, info)
            owned = self._last.get(key)
            if owned is None or owned[0] != info.epoch:
                owned = (info.epoch, self.last_event(key))
            last = owned[1]
            db.executemany(_INSERT, map(add, zip(repeat(key), count(last + 1)), rows))
            last += len(rows)
            if starts:
                last += len(starts)  # the row has the number of its last event
                db.execute(_INSERT, (key, last, *self._together(starts, at)))
        self._last[key] = (info.epoch, last)

    def _together(self, starts: Sequence[tuple[str, int]], at: float) -> Row:
        if len(starts) == 1:
            return (*starts[0], "started", at, None, None, None, None)
        names = self._encode([step for step, _ in starts])
        numbers = None
        if any(number != 1 for _, number in starts):
            numbers = self._encode([number for _, number in starts])
        return ("", len(starts), "started", at, None, None, names, numbers)

    def _guard(self, db: sqlite3.Connection, info: RunInfo) -> None:
        row = db.execute("SELECT epoch FROM run WHERE key=?", (info.key,)).fetchone()
        if row is None or row[0] != info.epoch:
            raise LeaseLostError(
                self.path,
                f"run {info.id!r} was taken over by another process; this one stops",
            )

    def finish(self, info: RunInfo, state: str) -> None:
        """Write down how a run ended, and give it free."""
        with translated(self.path), self.transaction() as db:
            self._guard(db, info)
            finished = None if state in ("waiting", "paused") else time.time()
            db.execute(
                "UPDATE run SET state=?,finished=?,owner='',lease_until=0 WHERE key=?",
                (state, finished, info.key),
            )
        disown(info.owner)

    def set_state(self, info: RunInfo, state: str) -> None:
        """Write a live run's state down: "running" or "paused"."""
        with translated(self.path), self.transaction() as db:
            self._guard(db, info)
            db.execute("UPDATE run SET state=? WHERE key=?", (state, info.key))

    def renew(self, info: RunInfo) -> None:
        """Say that this process still works on the run."""
        with translated(self.path), self.transaction() as db:
            db.execute(
                "UPDATE run SET lease_until=? WHERE key=? AND epoch=?",
                (time.time() + LEASE_SECONDS, info.key, info.epoch),
            )

    # -- control, history, cache --------------------------------------------

    def tell(self, run_id: str, verb: str, argument: str | None = None) -> None:
        """Leave a message for the process that runs `run_id`."""
        key = self.info(run_id).key
        with translated(self.path), self.transaction() as db:
            db.execute(
                "INSERT INTO control(run,verb,argument,at) VALUES(?,?,?,?)",
                (key, verb, argument, time.time()),
            )

    def told(self, key: int, after: int) -> list[tuple[int, str, str | None]]:
        """Return the messages for a run after a sequence number."""
        with translated(self.path):
            return self._db.execute(
                "SELECT seq,verb,argument FROM control WHERE run=? AND seq>? ORDER BY seq",
                (key, after),
            ).fetchall()

    def last_control(self, key: int) -> int:
        """Return the number of the latest message, to listen from there."""
        with translated(self.path):
            row = self._db.execute(
                "SELECT coalesce(max(seq),0) FROM control WHERE run=?", (key,)
            ).fetchone()
        return int(row[0])

    def durations(
        self, workflow: str, wanted: Container[str] | None = None
    ) -> dict[str, float]:
        """Return the median of each step's latest durations, in seconds.

        Args:
            workflow: its name.
            wanted: the steps to tell of, by default all.
        """
        with translated(self.path):
            return read_durations(self._db, workflow, wanted)

    def remember(self, info: RunInfo, times: Iterable[tuple[str, float]]) -> None:
        """Add a run's durations to the history that plans use, and drop the oldest."""
        with translated(self.path), self.transaction() as db:
            write_durations(db, info.workflow, (info.key, info.epoch), times)

    def cached(self, key: str) -> str | None:
        """Return the encoded result that is cached under a key."""
        with translated(self.path):
            row = self._db.execute(
                "SELECT value FROM cache WHERE key=?", (key,)
            ).fetchone()
        return None if row is None else str(row[0])

    def keep(self, entries: Sequence[tuple[str, str]]) -> None:
        """Add results to the cache."""
        now = time.time()
        with translated(self.path), self.transaction() as db:
            db.executemany(
                "INSERT OR REPLACE INTO cache VALUES(?,?,?)",
                ((key, value, now) for key, value in entries),
            )
