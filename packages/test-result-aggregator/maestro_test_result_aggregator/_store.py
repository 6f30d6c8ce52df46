"""The history: runs and results in one SQLite file.

Results are kept by (test, run, attempt) without a rowid, so that the history of one
test lies together; names and failure texts are kept once. A run, or a shard of one,
is a single transaction: after a crash it is there whole or not at all.
"""

import contextlib
import hashlib
import json
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ._ctrf import from_ctrf, to_ctrf
from ._model import (
    FAILURES,
    OUTCOMES,
    STATUS_OF,
    Attempt,
    Counts,
    Diagnostic,
    Outcome,
    TestResult,
    make,
)
from .errors import HistoryError, RunExists, RunNotFound

VERSION = 1
_APPLICATION = 0x4D745241
_CODE = {outcome: code for code, outcome in enumerate(OUTCOMES)}
_BAD = 6
_BATCH = 5000
_SCHEMA = """
CREATE TABLE run(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, started REAL NOT NULL,
  sha TEXT NOT NULL, branch TEXT NOT NULL, environment TEXT NOT NULL);
CREATE TABLE part(id INTEGER PRIMARY KEY, run INTEGER NOT NULL, shard TEXT NOT NULL,
  digest TEXT NOT NULL, counts TEXT NOT NULL, diagnostics TEXT NOT NULL, UNIQUE(run, shard));
CREATE TABLE test(id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
  file TEXT, line INTEGER, suite TEXT NOT NULL);
CREATE TABLE body(id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, message TEXT, data BLOB NOT NULL);
CREATE TABLE result(test INTEGER NOT NULL, run INTEGER NOT NULL, attempt INTEGER NOT NULL,
  outcome INTEGER NOT NULL, us INTEGER NOT NULL, start INTEGER, part INTEGER NOT NULL, body INTEGER,
  PRIMARY KEY(test, run, attempt)) WITHOUT ROWID;
CREATE INDEX result_run ON result(run);
CREATE INDEX result_bad ON result(run, test) WHERE outcome >= 6;
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """A run in the history.

    Attributes:
        run_id: Its name.
        started: Seconds since 1970.
        shards: The shards that were ingested, "" for an unsharded one.
        counts: Sums over its shards.
        duration: Seconds of test time, summed.
        wall: Seconds from the first start to the last stop, where the reports tell.
    """

    run_id: str
    started: float
    commit: str = ""
    branch: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    shards: tuple[str, ...] = ()
    counts: Counts = field(default_factory=Counts)
    duration: float = 0.0
    wall: float | None = None
    diagnostics: tuple[Diagnostic, ...] = ()
    number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One run of one test: its last outcome, and those of the attempts before."""

    run_id: str
    started: float
    commit: str
    outcome: Outcome
    duration: float
    attempts: tuple[Outcome, ...] = ()
    message: str | None = None


class History:
    """Runs and their results, in a file or in memory.

    Thread-safe. Several processes may write one file: they take turns.

    Args:
        path: The file; None keeps the history in memory.
        timeout: Seconds to wait for another writer.
    """

    def __init__(
        self, path: str | Path | None = None, *, timeout: float = 60.0
    ) -> None:
        self.path = str(path) if path is not None else ":memory:"
        self._timeout = timeout
        self._lock = threading.RLock()
        try:
            if path is not None:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                self.path,
                timeout=timeout,
                isolation_level=None,
                check_same_thread=False,
            )
        except (sqlite3.Error, OSError) as error:
            raise HistoryError(self.path, f"cannot be opened: {error}") from error
        try:
            self._open()
        except sqlite3.Error as error:
            self._db.close()
            raise HistoryError(
                self.path, f"cannot be used as a history: {error}"
            ) from error
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        db = self._db
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise HistoryError(
                self.path,
                f"written by a later version (layout {version}, this one knows {VERSION}); upgrade the package",
            )
        _switch_to_wal(db, self._timeout)
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA cache_size = -65536")
        db.execute("PRAGMA temp_store = MEMORY")
        if version == 0:
            db.execute("BEGIN IMMEDIATE")  # a second process may be doing the same
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                    db.execute("ROLLBACK")
                    raise HistoryError(self.path, "is a database of something else")
                for statement in _SCHEMA.split(";"):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {_APPLICATION}")
                db.execute(f"PRAGMA user_version = {VERSION}")
            db.execute("COMMIT")

    def close(self) -> None:
        """Close the file. Any number of times."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                self._undo()
                raise HistoryError(
                    self.path, f"not written, nothing of this run is kept: {error}"
                ) from error
            except BaseException:
                self._undo()
                raise

    def _undo(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            try:
                return self._db.execute(sql, values).fetchall()
            except sqlite3.Error as error:
                raise HistoryError(self.path, f"cannot be read: {error}") from error

    def record(
        self,
        results: Iterable[TestResult],
        *,
        run_id: str,
        started: float,
        commit: str = "",
        branch: str = "",
        shard: str = "",
        environment: dict[str, str] | None = None,
        digest: str = "",
        replace: bool = False,
        diagnostics: list[Diagnostic] | None = None,
    ) -> bool:
        """Keep the results of a run, or of one more shard of it.

        Nothing is kept unless everything is. The same run, shard and digest again
        changes nothing.

        Args:
            results: Taken one by one; a test met again becomes its next attempt.
            run_id: Name of the run; shards of one run share it.
            started: Seconds since 1970; orders the runs. A later shard keeps the
                first one's.
            commit: What was tested.
            branch: Where.
            shard: Such as `2/8`.
            environment: Whatever tells runs apart.
            digest: Of the reports' content; tells a repetition from a conflict.
            replace: Whether to put these results in the place of other ones.
            diagnostics: Read once the results are used up, and kept with the run.

        Returns:
            False if the run was there already.

        Raises:
            RunExists: It is there with another digest, and `replace` is not set.
        """
        with self._writing() as db:
            row = db.execute("SELECT id FROM run WHERE name = ?", (run_id,)).fetchone()
            if row is None:
                run = db.execute(
                    "INSERT INTO run(name, started, sha, branch, environment) VALUES(?,?,?,?,?)",
                    (run_id, started, commit, branch, json.dumps(environment or {})),
                ).lastrowid
            else:
                run = row[0]
                old = db.execute(
                    "SELECT id, digest FROM part WHERE run = ? AND shard = ?",
                    (run, shard),
                ).fetchone()
                if old and not replace:
                    if digest and old[1] == digest:
                        return False
                    raise RunExists(self.path, run_id, shard)
                if old:
                    db.execute(
                        "DELETE FROM result WHERE run = ? AND part = ?", (run, old[0])
                    )
                    db.execute("DELETE FROM part WHERE id = ?", (old[0],))
            part = db.execute(
                "INSERT INTO part(run, shard, digest, counts, diagnostics) VALUES(?,?,?,'','')",
                (run, shard, digest),
            ).lastrowid
            loader = _Loader(db, run or 0, part or 0)
            loader.load(results)
            told = diagnostics if diagnostics is not None else []
            told += loader.told()
            db.execute(
                "UPDATE part SET counts = ?, diagnostics = ? WHERE id = ?",
                (
                    json.dumps(loader.sums()),
                    json.dumps([[d.path, d.message, d.line, d.level] for d in told]),
                    part,
                ),
            )
        return True

    def runs(
        self,
        *,
        branch: str | None = None,
        last: int | None = None,
        since: float | None = None,
    ) -> list[RunInfo]:
        """Return runs, oldest first.

        Args:
            branch: Only of this branch.
            last: Only the latest so many.
            since: Only those that started then or later, in seconds since 1970.
        """
        where, values = ["1"], []
        if branch is not None:
            where.append("branch = ?")
            values.append(branch)
        if since is not None:
            where.append("started >= ?")
            values.append(str(since))
        sql = (
            f"SELECT id, name, started, sha, branch, environment FROM run WHERE {' AND '.join(where)}"  # noqa: S608 - fixed words
            " ORDER BY started DESC, id DESC LIMIT ?"
        )
        if since is not None:
            values[-1] = since  # type: ignore[call-overload]  # a number among the texts
        rows = self._rows(sql, [*values, -1 if last is None else last])[::-1]
        parts: dict[int, list[Any]] = {}
        for row in self._rows(
            "SELECT run, shard, counts, diagnostics FROM part ORDER BY id"
        ):
            parts.setdefault(row[0], []).append(row)
        return [_info(row, parts.get(row[0], [])) for row in rows]

    def run(self, run_id: str) -> RunInfo:
        """Return one run.

        Raises:
            RunNotFound: There is none of this name.
        """
        rows = self._rows(
            "SELECT id, name, started, sha, branch, environment FROM run WHERE name = ?",
            (run_id,),
        )
        if not rows:
            known = [
                r[0]
                for r in self._rows("SELECT name FROM run ORDER BY id DESC LIMIT 1000")
            ]
            raise RunNotFound(self.path, run_id, known)
        parts = self._rows(
            "SELECT run, shard, counts, diagnostics FROM part WHERE run = ? ORDER BY id",
            (rows[0][0],),
        )
        return _info(rows[0], parts)

    def results(self, run_id: str, *, failed: bool = False) -> list[TestResult]:
        """Return the results of a run, or only its failures, in the order of ids."""
        info = self.run(run_id)
        only = (
            "AND r.test IN (SELECT test FROM result WHERE run = ? AND outcome >= 6)"
            if failed
            else ""
        )
        rows = self._rows(  # `only` is one of two fixed texts
            "SELECT t.key, t.name, t.file, t.line, t.suite, r.attempt, r.outcome, r.us, r.start, b.data"  # noqa: S608
            f" FROM result r JOIN test t ON t.id = r.test LEFT JOIN body b ON b.id = r.body WHERE r.run = ? {only}"
            " ORDER BY t.key, r.attempt",
            (info.number, info.number) if failed else (info.number,),
        )
        made: dict[str, TestResult] = {}
        for row in rows:
            result = _result(row)
            earlier = made.get(result.id)
            made[result.id] = result.after(earlier) if earlier else result
        return [r for r in made.values() if not failed or r.failed]

    def of_test(
        self, test: str, *, last: int = 100, branch: str | None = None
    ) -> list[Execution]:
        """Return the last executions of a test, oldest first; empty if it is unknown."""
        rows = self._rows(
            "SELECT u.name, u.started, u.sha, r.outcome, r.us, r.attempt, b.message FROM test t JOIN result r ON r.test = t.id"
            " JOIN run u ON u.id = r.run LEFT JOIN body b ON b.id = r.body WHERE t.key = ? AND (? IS NULL OR u.branch = ?)"
            " ORDER BY u.started, u.id, r.attempt",
            (test, branch, branch),
        )
        made: dict[str, Execution] = {}
        for name, started, sha, outcome, us, _, message in rows:
            past = made.get(name)
            made[name] = Execution(
                run_id=name, started=started, commit=sha, outcome=OUTCOMES[outcome], duration=us / 1e6,
                attempts=(*past.attempts, past.outcome) if past else (), message=message,
            )  # fmt: skip
        return list(made.values())[-last:]

    def failing(self, runs: Sequence[RunInfo]) -> list[tuple[int, int, int, int]]:
        """Return (test, run, attempt, outcome code) of tests that ever failed in `runs`."""
        numbers = json.dumps([run.number for run in runs])
        return self._rows(
            "WITH w(run) AS MATERIALIZED (SELECT value FROM json_each(?)), b(test) AS MATERIALIZED (SELECT DISTINCT test"
            " FROM result WHERE outcome >= 6 AND run IN (SELECT run FROM w))"
            " SELECT r.test, r.run, r.attempt, r.outcome FROM b CROSS JOIN result r ON r.test = b.test"
            " WHERE r.run IN (SELECT run FROM w) ORDER BY r.test, r.run, r.attempt",
            (numbers,),
        )

    def durations(self, runs: Sequence[RunInfo]) -> list[tuple[int, int, int]]:
        """Return (test, run, microseconds) of every passed last attempt in `runs`."""
        return self._rows(
            "SELECT test, run, us FROM result WHERE run IN (SELECT value FROM json_each(?)) AND outcome = 0 ORDER BY test, run, attempt",
            (json.dumps([run.number for run in runs]),),
        )

    def keys(
        self, numbers: Iterable[int] | None = None
    ) -> dict[int, tuple[str, str | None]]:
        """Return the id and file of tests by number; of all without numbers."""
        if numbers is None:
            rows = self._rows("SELECT id, key, file FROM test")
        else:
            rows = self._rows(
                "SELECT id, key, file FROM test WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(list(numbers)),),
            )
        return {number: (key, file) for number, key, file in rows}

    def executed(self, run_id: str) -> dict[str, tuple[Outcome, float]]:
        """Return id -> (last outcome, seconds) of a run."""
        rows = self._rows(
            "SELECT t.key, r.outcome, r.us FROM result r JOIN test t ON t.id = r.test WHERE r.run = ? ORDER BY r.attempt",
            (self.run(run_id).number,),
        )
        return {key: (OUTCOMES[outcome], us / 1e6) for key, outcome, us in rows}

    def rename(self, old: str, new: str) -> int:
        """Carry the history of a test over to its new id; returns the runs moved."""
        with self._writing() as db:
            row = db.execute("SELECT id FROM test WHERE key = ?", (old,)).fetchone()
            if row is None:
                return 0
            target = db.execute("SELECT id FROM test WHERE key = ?", (new,)).fetchone()
            moved = db.execute(
                "SELECT count(DISTINCT run) FROM result WHERE test = ?", row
            ).fetchone()[0]
            if target is None:
                db.execute("UPDATE test SET key = ? WHERE id = ?", (new, row[0]))
            else:  # both ran in one run: the new name's result stands
                db.execute(
                    "UPDATE OR IGNORE result SET test = ? WHERE test = ?",
                    (target[0], row[0]),
                )
                db.execute("DELETE FROM result WHERE test = ?", row)
                db.execute("DELETE FROM test WHERE id = ?", row)
        return int(moved)

    def prune(self, *, keep: int | None = None, before: float | None = None) -> int:
        """Forget old runs and give their space back; returns how many.

        Args:
            keep: Keep the latest so many runs of each branch.
            before: Forget what started earlier, in seconds since 1970.
        """
        with self._writing() as db:
            rows = db.execute(
                "SELECT id, branch, started FROM run ORDER BY started DESC, id DESC"
            ).fetchall()
            seen: dict[str, int] = {}
            gone = []
            for number, branch, started in rows:
                seen[branch] = seen.get(branch, 0) + 1
                if (keep is not None and seen[branch] > keep) or (
                    before is not None and started < before
                ):
                    gone.append((number,))
            for table, column in (("result", "run"), ("part", "run"), ("run", "id")):
                db.executemany(f"DELETE FROM {table} WHERE {column} = ?", gone)  # noqa: S608 - fixed words
            if gone:
                db.execute("DELETE FROM test WHERE id NOT IN (SELECT test FROM result)")
                db.execute(
                    "DELETE FROM body WHERE id NOT IN (SELECT body FROM result WHERE body IS NOT NULL)"
                )
        if gone:
            with self._lock:
                self._db.execute("VACUUM")
        return len(gone)


class _Loader:
    """Puts results into the open transaction of a part."""

    def __init__(self, db: sqlite3.Connection, run: int, part: int) -> None:
        self.db = db
        self.run = run
        self.part = part
        self.tests: dict[str, int] = dict(db.execute("SELECT key, id FROM test"))
        # The attempts there are, by test: from other shards, then from this one.
        self.attempts: dict[int, int] = dict(
            db.execute(
                "SELECT test, max(attempt) FROM result WHERE run = ? GROUP BY test",
                (run,),
            )
        )
        self.elsewhere = frozenset(self.attempts)
        self.next = (db.execute("SELECT max(id) FROM test").fetchone()[0] or 0) + 1
        self.last: dict[int, bool] = {}
        self.counts = dict.fromkeys(
            ("tests", "passed", "failed", "skipped", "pending", "other", "flaky"), 0
        )
        self.us = 0
        self.first: float | None = None
        self.stop: float | None = None
        self.again = 0

    def load(self, results: Iterable[TestResult]) -> None:
        rows: list[tuple[Any, ...]] = []
        new: list[tuple[Any, ...]] = []
        tests, attempts, run, part = self.tests, self.attempts, self.run, self.part
        finals: dict[int, int] = {}
        flaky: set[int] = set()
        for result in results:
            key = result.id
            number = tests.get(key)
            if number is None:
                number = tests[key] = self.next
                self.next += 1
                new.append(
                    (
                        number,
                        key,
                        result.name,
                        result.file,
                        result.line,
                        json.dumps(result.suite),
                    )
                )
            if result.attempts:
                for attempt in result.attempts:
                    attempts[number] = at = attempts.get(number, 0) + 1
                    rows.append(self.attempt(number, at, attempt))
            attempts[number] = at = attempts.get(number, 0) + 1
            code = _CODE[result.outcome]
            us = int(result.duration * 1e6 + 0.5)
            self.us += us
            start = result.start
            if start is not None:
                if self.first is None or start < self.first:
                    self.first = start
                if self.stop is None or start + result.duration > self.stop:
                    self.stop = start + result.duration
                start = int(start * 1e6)
            if at > 1:
                self.again += number in finals or number in self.elsewhere
                if code < _BAD and (result.flaky or finals.get(number, 0) >= _BAD):
                    flaky.add(number)
                elif code >= _BAD:
                    flaky.discard(number)
            finals[number] = code
            body = None
            # A result that says no more than these keys needs no body.
            if len(result.__dict__) > 5:
                body = self.body(result)
            rows.append((number, run, at, code, us, start, part, body))
            if len(rows) >= _BATCH:
                self.flush(rows, new)
        self.flush(rows, new)
        self.counts["tests"] = len(finals)
        self.counts["flaky"] = len(flaky)
        for code in finals.values():
            self.counts[STATUS_OF[OUTCOMES[code]]] += 1

    def flush(self, rows: list[tuple[Any, ...]], new: list[tuple[Any, ...]]) -> None:
        self.db.executemany(
            "INSERT INTO test(id, key, name, file, line, suite) VALUES(?,?,?,?,?,?)",
            new,
        )
        rows.sort()
        self.db.executemany("INSERT INTO result VALUES(?,?,?,?,?,?,?,?)", rows)
        rows.clear()
        new.clear()

    def attempt(self, number: int, at: int, attempt: Attempt) -> tuple[Any, ...]:
        known = {
            key: getattr(attempt, key) for key in ("message", "trace", "stdout", "stderr")
            if getattr(attempt, key)
        }  # fmt: skip
        body = None
        if known:
            body = self.body(
                make({"id": "", "name": "-", "outcome": attempt.outcome, **known})
            )
        start = None if attempt.start is None else int(attempt.start * 1e6)
        us = int(attempt.duration * 1e6 + 0.5)
        return number, self.run, at, _CODE[attempt.outcome], us, start, self.part, body

    def body(self, result: TestResult) -> int | None:
        made = to_ctrf(result)
        extra = made.pop("extra")
        for key in (
            "maestro.id",
            "maestro.outcome",
            "maestro.seconds",
            "maestro.start",
        ):
            extra.pop(key, None)
        if extra == {"maestro.absent": ["rawStatus"]}:
            extra = {}
        for key in (
            "name",
            "status",
            "duration",
            "start",
            "stop",
            "retries",
            "retryAttempts",
            "flaky",
        ):
            made.pop(key, None)
        if result.raw_status is None:
            made.pop("rawStatus")
        for key in ("filePath", "line", "suite"):
            made.pop(key, None)
        if extra:
            made["extra"] = extra
        if not made:
            return None
        data = json.dumps(made, ensure_ascii=False, sort_keys=True).encode(
            "utf-8", "surrogatepass"
        )
        digest = hashlib.blake2b(data, digest_size=16).digest()
        row = self.db.execute(
            "SELECT id FROM body WHERE digest = ?", (digest,)
        ).fetchone()
        if row:
            return int(row[0])
        return self.db.execute(
            "INSERT INTO body(digest, message, data) VALUES(?,?,?)",
            (digest, _safe(result.message), zlib.compress(data, 6)),
        ).lastrowid

    def sums(self) -> dict[str, Any]:
        return {**self.counts, "us": self.us, "first": self.first, "stop": self.stop}

    def told(self) -> list[Diagnostic]:
        if not self.again:
            return []
        text = f"{self.again} results of tests that were there already; kept as later attempts"
        return [Diagnostic(path="", message=text, level="warning")]


def _switch_to_wal(db: sqlite3.Connection, patience: float) -> None:
    # SQLite does not wait here by itself when two processes open a new file at once.
    deadline = time.monotonic() + patience
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return


def _safe(text: str | None) -> str | None:
    return text and text.encode("utf-8", "replace").decode("utf-8")


def _info(row: Any, parts: list[Any]) -> RunInfo:
    number, name, started, sha, branch, environment = row
    sums = [json.loads(part[2]) for part in parts]
    firsts = [s["first"] for s in sums if s["first"] is not None]
    stops = [s["stop"] for s in sums if s["stop"] is not None]
    return RunInfo(
        run_id=name, started=started, commit=sha, branch=branch, number=number,
        environment=json.loads(environment), shards=tuple(part[1] for part in parts),
        counts=Counts(**{key: sum(s[key] for s in sums) for key in Counts.__dataclass_fields__}),
        duration=sum(s["us"] for s in sums) / 1e6,
        wall=max(stops) - min(firsts) if firsts else None,
        diagnostics=tuple(
            Diagnostic(path=d[0], message=d[1], line=d[2], level=d[3])
            for part in parts for d in json.loads(part[3])
        ),
    )  # fmt: skip


def _result(row: Any) -> TestResult:
    key, name, file, line, suite, _, outcome, us, start, data = row
    fields: dict[str, Any] = {"id": key, "name": name, "outcome": OUTCOMES[outcome],
                              "duration": us / 1e6, "suite": tuple(json.loads(suite))}  # fmt: skip
    if file is not None:
        fields["file"] = file
    if line is not None:
        fields["line"] = line
    if start is not None:
        fields["start"] = start / 1e6
    if data is not None:
        made = json.loads(zlib.decompress(data).decode("utf-8", "surrogatepass"))
        told = from_ctrf({"name": name or "-", "status": "other", **made})
        fields = {**told.__dict__, **fields}
    return make(fields)


__all__ = ["FAILURES", "Execution", "History", "RunInfo"]
