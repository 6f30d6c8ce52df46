"""The journal: one SQLite file that holds every run, so that none is lost.

Events are only ever added; a run's state is a fold of them. One process owns a run
at a time (an epoch that only grows, and a lease that its owner renews), and checks
that in the same transaction in which it writes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import socket
import sqlite3
import sys
import threading
import time
import zlib
from array import array
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, count, repeat
from operator import add
from pathlib import Path
from typing import Any, Literal, TypeVar, final

from .errors import (
    JournalBusyError,
    JournalCorruptError,
    JournalError,
    JournalFullError,
    JournalReadOnlyError,
    JournalVersionError,
    LeaseLostError,
    ResultError,
    RunNotFoundError,
    did_you_mean,
)

VERSION = 1
INLINE_BYTES = 4_096  # larger results go to the folder of objects
_WINDOW = 4_096  # events read at a time
HISTORY = 9  # durations of a step that count
HISTORY_RUNS = 27  # runs of a workflow whose durations are kept
HISTORY_READ = 300_000  # durations that are enough to know, for very large workflows
LEASE_SECONDS = 15.0

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
# What nearly all of a journal is: first starts, alone or together, and successes.
_BEGUN = "kind='started' AND attempt=1 AND step!=''"
_TOGETHER = "kind='started' AND step='' AND note IS NULL"
_PLAIN = (
    f"SELECT total({_BEGUN}),group_concat(CASE WHEN {_BEGUN} THEN step END,char(30)),"  # noqa: S608
    f"group_concat(CASE WHEN {_TOGETHER} THEN value END),total(kind='succeeded'),"
    "group_concat(CASE WHEN kind='succeeded' THEN step END,char(30)),"
    "group_concat(CASE WHEN kind='succeeded' THEN value END,char(30)) "
    "FROM event WHERE run=? AND seq>? AND seq<=?"
)
_ONE_BY_ONE = (
    "SELECT kind,step,value FROM event WHERE run=? AND seq>? AND seq<=? AND "  # noqa: S608
    f"({_BEGUN} OR kind='succeeded')"
)
_N = TypeVar("_N", int, float)
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The steps of a run: names, what each was made of, and what each waits for."""

    names: list[str]
    digests: list[str]
    needs: Sequence[Sequence[int]]

    def marks(self) -> dict[str, tuple[str, ...]]:
        """Return for each step what changes when the step does.

        By names, not positions: a new step must not change the others.
        """
        names = self.names
        return {
            name: (digest, *[names[i] for i in needs])
            for name, digest, needs in zip(names, self.digests, self.needs, strict=True)
        }

    def _body(self) -> bytes:
        # One line of JSON, then numbers: which digest each step has, how many needs,
        # and all needs in a row. JSON alone would take five times as long.
        kinds = list(dict.fromkeys(self.digests))
        place = dict(zip(kinds, count(), strict=False))
        head = json.dumps([self.names, kinds], separators=(",", ":")).encode()
        numbers = array("I", map(place.__getitem__, self.digests))
        numbers.extend(map(len, self.needs))
        numbers.extend(chain.from_iterable(self.needs))
        return head + b"\n" + _little(numbers).tobytes()

    def whole(self) -> str:
        """Return one digest over all steps."""
        return hashlib.sha256(self._body()).hexdigest()

    def pack(self) -> tuple[str, bytes]:
        """Return that digest, and the shape as the journal keeps it."""
        body = self._body()
        return hashlib.sha256(body).hexdigest(), zlib.compress(body, 1)

    @classmethod
    def unpack(cls, body: bytes) -> Shape:
        """Read what `pack` wrote."""
        head, _, rest = zlib.decompress(body).partition(b"\n")
        names, kinds = json.loads(head)
        numbers = array("I")
        numbers.frombytes(rest)
        numbers = _little(numbers)
        steps, place = len(names), 2 * len(names)
        needs = []
        for length in numbers[steps:place]:
            needs.append(numbers[place : place + length].tolist())
            place += length
        digests = [kinds[number] for number in numbers[:steps]]
        return cls(names=names, digests=digests, needs=needs)


def _little(numbers: array[_N]) -> array[_N]:
    """Turn numbers into little-endian ones, or back."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


@dataclass(slots=True, kw_only=True)
class Past:
    """What a run's events say, as far as a resume cares.

    Results are as the journal keeps them: by position for the steps that were known
    beforehand, by name for those that were added while the run went.
    """

    last: int
    texts: list[str | None]
    extra: dict[str, str] = field(default_factory=dict)
    # The number of a step's latest attempt; 1 for others that succeeded, else 0.
    tries: dict[str, int] = field(default_factory=dict)
    interrupted: list[str] = field(default_factory=list)
    approved: set[str] = field(default_factory=set)
    decided: dict[str, str] = field(default_factory=dict)
    compensating: bool = False
    added: list[str] = field(default_factory=list)

    def keep(
        self, index: Mapping[str, int], names: list[str], texts: list[str]
    ) -> None:
        """Note the results of steps."""
        places = list(map(index.get, names))
        own = self.texts
        if None not in places:
            for place, text in zip(places, texts, strict=True):
                own[place] = text  # type: ignore[index] # None was looked for
            return
        for name, place, text in zip(names, places, texts, strict=True):
            if place is None:
                self.extra[name] = text
            else:
                own[place] = text

    def text(self, name: str, place: int | None) -> str | None:
        """Return the result of a step, None when it has not succeeded."""
        return self.extra.get(name) if place is None else self.texts[place]


# The runs that this process owns just now: the one thing that a process table cannot
# tell. Each name is added and removed by whoever runs the run.
_OWNED: set[str] = set()


def owner_name() -> str:
    """Name a new owner so that others can tell whether it is still alive."""
    pid = os.getpid()
    name = f"{socket.gethostname()}:{pid}:{_started(pid)}/{secrets.token_hex(4)}"
    _OWNED.add(name)
    return name


def disown(info: RunInfo) -> None:
    """Say that this process no longer works on a run, however that ended."""
    _OWNED.discard(info.owner)


def _started(pid: int) -> str:
    """Return when a process began, as the kernel counts; tells pids apart."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return "?"
    fields = text.rpartition(")")[2].split()
    # A zombie has ended; only its parent has not looked yet.
    return "?" if fields[0] == "Z" else fields[19]


def owner_lives(owner: str, lease_until: float) -> bool:
    """Tell whether a run's owner may still be at work.

    On this machine the process table answers at once; elsewhere the lease does.
    """
    if not owner:
        return False
    host, _, rest = owner.rpartition(":")[0].rpartition(":")
    if host == socket.gethostname() and Path("/proc").is_dir():
        if int(rest) == os.getpid():
            return owner in _OWNED
        started = owner.rpartition(":")[2].partition("/")[0]
        return started != "?" and _started(int(rest)) == started
    return time.time() < lease_until


@final
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
        self.path = Path(path)
        self.durability = durability
        self.objects = Path(f"{self.path}.objects")
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
        db.execute("BEGIN IMMEDIATE")
        try:
            yield db
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise
        db.execute("COMMIT")

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
                    for seq, (step, attempt) in enumerate(_starts(*row[7:]), first):
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
        index = index or {}
        found = Past(last=self.last_event(key), texts=[None] * len(index))
        begun: set[str] = set()  # once, and not succeeded so far as we have read
        ended: dict[str, int] = {}
        with translated(self.path):
            for low in range(0, found.last, _WINDOW):
                window = (key, low, low + _WINDOW)
                started, names, texts = self._plain(window)
                begun.update(started)
                self._odd(window, found, ended)
                begun.difference_update(names)
                found.keep(index, names, texts)
        tries = found.tries
        for step in begun:
            tries.setdefault(step, 1)
        found.interrupted = sorted(
            step
            for step, number in tries.items()
            if number
            and ended.get(step) != number
            and found.text(step, index.get(step)) is None
        )
        return found

    def _plain(
        self, window: tuple[int, int, int]
    ) -> tuple[Iterable[str], list[str], list[str]]:
        """Read a window's first starts, and its successes with their results.

        SQLite joins them to one text, which is a third of the time of a row for each.
        """
        query = self._db.execute(_PLAIN, window)
        begun, first, together, many, steps, values = query.fetchone()
        names, texts = _split(steps, many), _split(values, many)
        started = _split(first, begun)
        if None in (names, texts, started):
            # A step has the separator in its name: read them one by one.
            rows = self._db.execute(_ONE_BY_ONE, window).fetchall()
            started = [row[1] for row in rows if row[0] == "started"]
            names = [row[1] for row in rows if row[0] == "succeeded"]
            texts = [row[2] for row in rows if row[0] == "succeeded"]
        more = json.loads(f"[{together}]") if together else ()
        assert names is not None
        assert texts is not None
        return chain(started or (), *more), names, texts

    def _odd(
        self,
        window: tuple[int, int, int],
        found: Past,
        ended: dict[str, int],
    ) -> None:
        """Take in what is not a first start or a success at the first attempt."""
        rows = self._db.execute(
            "SELECT step,attempt,kind,value,note FROM event WHERE run=? AND seq>? AND "  # noqa: S608 - only our own text
            f"seq<=? AND NOT({_BEGUN} OR {_TOGETHER} OR kind='succeeded' AND attempt=1) "
            "ORDER BY seq",
            window,
        )
        tries = found.tries
        for step, attempt, kind, value, note in rows:
            if kind == "started" and not step:
                tries.update(_starts(value, note))
            elif kind in ("started", "succeeded"):
                tries[step] = attempt
            elif kind in ("failed", "retrying", "cancelled"):
                ended[step] = attempt
            elif kind == "approved":
                found.approved.add(step)
            elif kind == "decided":
                found.decided[step] = str(note)
            elif kind == "compensating":
                found.compensating = True
            elif kind == "added":
                found.added.append(str(note))

    def last_event(self, key: int) -> int:
        """Return the number of a run's latest event."""
        with translated(self.path):
            row = self._db.execute(
                "SELECT coalesce(max(seq),0) FROM event WHERE run=?", (key,)
            ).fetchone()
        return int(row[0])

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
        disown(info)

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

    # -- results ------------------------------------------------------------

    def encode(self, step: str, attempt: int, value: Any) -> str:
        """Return what stands for a result in an event.

        Raises:
            ResultError: JSON cannot hold it.
        """
        if value is None:
            return "null"
        try:
            text = self._encode(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise ResultError(
                step,
                attempt,
                f"step {step!r} returned a {type(value).__name__} that the journal "
                f"cannot keep ({error}); return plain data, or write a file and return "
                "its path",
            ) from None
        if len(text) <= INLINE_BYTES:
            return text
        return "@" + self._store(text.encode())

    def decode(self, text: str) -> Any:
        """Return the result that `encode` wrote down."""
        if not text.startswith("@"):
            return json.loads(text)
        digest = text[1:]
        path = self.objects / digest[:2] / digest[2:]
        try:
            body = zlib.decompress(path.read_bytes())
        except (OSError, zlib.error) as error:
            raise JournalCorruptError(
                path, f"the stored result {path} cannot be read: {error}"
            ) from error
        if hashlib.sha256(body).hexdigest() != digest:
            raise JournalCorruptError(path, f"the stored result {path} was changed")
        return json.loads(body)

    def _store(self, body: bytes) -> str:
        """Keep a large result under its hash; the same content is kept once."""
        digest = hashlib.sha256(body).hexdigest()
        path = self.objects / digest[:2] / digest[2:]
        if not path.exists():
            with translated(self.path):
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_name(f"{path.name}.{os.getpid()}")
                with partial.open("wb") as file:
                    file.write(zlib.compress(body, 1))
                    file.flush()
                    if self.durability == "power":
                        os.fsync(file.fileno())
                partial.replace(path)
        return digest

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
        runs: list[dict[str, float]] = []
        with translated(self.path):
            rows = self._db.execute(
                "SELECT seconds FROM duration WHERE workflow=? "
                "ORDER BY run DESC, epoch DESC",
                (workflow,),
            )
            read = 0
            for (body,) in rows:
                runs.append(_times(body, wanted))
                read += len(runs[-1])
                if read > HISTORY_READ:
                    break
        if len(runs) == 1:
            return runs[0]
        found: dict[str, list[float]] = {}
        for run in runs:
            for step, length in run.items():
                times = found.setdefault(step, [])
                if len(times) < HISTORY:
                    times.append(length)
        return {step: sorted(times)[len(times) // 2] for step, times in found.items()}

    def remember(self, info: RunInfo, times: Iterable[tuple[str, float]]) -> None:
        """Add a run's durations to the history that plans use, and drop the oldest."""
        known = dict(times)
        head = json.dumps(list(known)).encode()
        numbers = _little(array("f", known.values())).tobytes()
        body = zlib.compress(head + b"\n" + numbers, 1)
        with translated(self.path), self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO duration VALUES(?,?,?,?)",
                (info.workflow, info.key, info.epoch, body),
            )
            db.execute(
                "DELETE FROM duration WHERE workflow=? AND (run,epoch)<=(SELECT "
                "run,epoch FROM duration WHERE workflow=? ORDER BY run DESC, epoch DESC "
                "LIMIT 1 OFFSET ?)",
                (info.workflow, info.workflow, HISTORY_RUNS),
            )

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


def _split(text: str | None, count: float) -> list[str] | None:
    """Take apart what SQLite joined; None when it cannot be told apart."""
    parts = [] if text is None else text.split("\x1e")
    return parts if len(parts) == count else None


def _times(body: bytes, wanted: Container[str] | None) -> dict[str, float]:
    """Read back the durations of one run."""
    head, _, rest = zlib.decompress(body).partition(b"\n")
    numbers = array("f")
    numbers.frombytes(rest)
    pairs = zip(json.loads(head), _little(numbers), strict=True)
    if wanted is None:
        return dict(pairs)
    return {step: length for step, length in pairs if step in wanted}


def _starts(names: str, numbers: str | None) -> Iterator[tuple[str, int]]:
    """Read back what one row says about several starts."""
    return zip(
        json.loads(names), json.loads(numbers) if numbers else repeat(1), strict=False
    )


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into ours, saying what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(path, error) from error
    except OSError as error:
        raise JournalFullError(path, f"{path} cannot be written: {error}") from error


def _translate(path: Path, error: sqlite3.Error) -> JournalError:
    text = str(error)
    if "full" in text or "disk I/O" in text:
        return JournalFullError(
            path,
            f"{path} cannot grow ({text}); what is committed is safe: free some space, "
            "then resume the run",
        )
    if "readonly" in text or "unable to open" in text:
        return JournalReadOnlyError(
            path,
            f"{path} cannot be opened for writing ({text}); check that its folder "
            "exists and may be written by this user",
        )
    if "not a database" in text or "malformed" in text:
        return JournalCorruptError(path, f"{path} is not a journal ({text})")
    return JournalError(path, f"{path}: {text}")


@final
class Heartbeat:
    """Renews a run's lease from a thread of its own, also while a step blocks."""

    def __init__(self, path: Path, info: RunInfo) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._beat, args=(path, info), name="maestro-lease", daemon=True
        )
        self._thread.start()

    def _beat(self, path: Path, info: RunInfo) -> None:
        journal: Journal | None = None
        while not self._stop.wait(LEASE_SECONDS / 3):
            # A full disk or a busy moment is the scheduler's to report; try again.
            with contextlib.suppress(JournalError):
                journal = journal or Journal(path)
                journal.renew(info)
        if journal is not None:
            journal.close()

    def stop(self) -> None:
        """Stop and wait for the thread."""
        self._stop.set()
        self._thread.join()
