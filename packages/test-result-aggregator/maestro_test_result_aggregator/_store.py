"""The history: runs and results in one SQLite file.

A run, or a shard of one, is a single transaction: after a crash it is there whole or
not at all. Names, failure texts and lists of tests are kept once.
"""

import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Self

from ._loader import Loader, keep_roster, unpack
from ._model import OUTCOMES, Diagnostic, Outcome, TestResult
from ._past import executions
from ._runs import Execution, RunInfo, run_info, stored_result
from ._schema import open_layout
from .errors import HistoryError, RunExists, RunNotFound


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
            raise HistoryError(
                self.path, f"cannot be opened: {_cause(self.path, error)}"
            ) from error
        try:
            open_layout(self._db, self.path, timeout)
        except sqlite3.Error as error:
            self._db.close()
            raise HistoryError(
                self.path,
                f"cannot be used as a history: {_cause(self.path, error)}",
            ) from error
        except BaseException:
            self._db.close()
            raise

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

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of a query."""
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
            RunExists: It is there with another digest, commit or branch, and
                `replace` is not set.
        """
        with self._writing() as db:
            run, other = _run_number(
                db, run_id, started, commit, branch, environment or {}
            )
            old = db.execute(
                "SELECT id, digest FROM part WHERE run = ? AND shard = ?", (run, shard)
            ).fetchone()
            if other and not replace:
                raise RunExists(self.path, run_id, shard, other)
            if old and not replace:
                if digest and old[1] == digest:
                    return False
                raise RunExists(self.path, run_id, shard)
            if old:
                db.execute(
                    "DELETE FROM result WHERE run = ? AND part = ?", (run, old[0])
                )
                db.execute("DELETE FROM part WHERE id = ?", (old[0],))
            loader = Loader(db, run, shard, digest)
            loader.load(results)
            loader.finish([] if diagnostics is None else diagnostics)
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
        rows = self.rows(sql, [*values, -1 if last is None else last])[::-1]
        parts: dict[int, list[Any]] = {}
        for row in self.rows(
            "SELECT run, shard, counts, diagnostics FROM part ORDER BY id"
        ):
            parts.setdefault(row[0], []).append(row)
        return [run_info(row, parts.get(row[0], [])) for row in rows]

    def run(self, run_id: str) -> RunInfo:
        """Return one run.

        Raises:
            RunNotFound: There is none of this name.
        """
        rows = self.rows(
            "SELECT id, name, started, sha, branch, environment FROM run WHERE name = ?",
            (run_id,),
        )
        if not rows:
            known = [
                r[0]
                for r in self.rows("SELECT name FROM run ORDER BY id DESC LIMIT 1000")
            ]
            raise RunNotFound(self.path, run_id, known)
        parts = self.rows(
            "SELECT run, shard, counts, diagnostics FROM part WHERE run = ? ORDER BY id",
            (rows[0][0],),
        )
        return run_info(rows[0], parts)

    def results(self, run_id: str, *, failed: bool = False) -> list[TestResult]:
        """Return the results of a run, or only its failures, in the order of ids."""
        info = self.run(run_id)
        only = (
            "AND r.test IN (SELECT test FROM result WHERE run = ? AND outcome >= 6)"
            if failed
            else ""
        )
        rows = self.rows(  # `only` is one of two fixed texts
            "SELECT t.key, t.name, t.file, t.line, t.suite, r.attempt, r.outcome, r.us, r.start, b.data"  # noqa: S608
            f" FROM result r JOIN test t ON t.id = r.test LEFT JOIN body b ON b.id = r.body WHERE r.run = ? {only}"
            " ORDER BY t.key, r.attempt",
            (info.number, info.number) if failed else (info.number,),
        )
        made: dict[str, TestResult] = {}
        for row in rows:
            result = stored_result(row)
            earlier = made.get(result.id)
            made[result.id] = result.after(earlier) if earlier else result
        return [r for r in made.values() if not failed or r.failed]

    def of_test(
        self,
        test: str,
        *,
        last: int = 100,
        branch: str | None = None,
        before: RunInfo | None = None,
    ) -> list[Execution]:
        """Return the last executions of a test, oldest first; empty if it is unknown.

        Args:
            test: Its id.
            last: At most so many.
            branch: Only runs of this branch.
            before: Only runs before this one.
        """
        return list(
            islice(
                executions(self, test, None if branch is None else (branch,), before),
                last,
            )
        )[::-1]

    def durations(self, runs: Sequence[RunInfo]) -> list[tuple[int, int, int]]:
        """Return (test, run, microseconds) of every passed last attempt in `runs`."""
        return self.rows(
            "SELECT test, run, us FROM result WHERE run IN (SELECT value FROM json_each(?)) AND outcome = 0 ORDER BY test, run, attempt",
            (json.dumps([run.number for run in runs]),),
        )

    def keys(
        self, numbers: Iterable[int] | None = None
    ) -> dict[int, tuple[str, str | None]]:
        """Return the id and file of tests by number; of all without numbers."""
        if numbers is None:
            rows = self.rows("SELECT id, key, file FROM test")
        else:
            rows = self.rows(
                "SELECT id, key, file FROM test WHERE id IN (SELECT value FROM json_each(?))",
                (json.dumps(list(numbers)),),
            )
        return {number: (key, file) for number, key, file in rows}

    def executed(self, run_id: str) -> dict[str, tuple[Outcome, float]]:
        """Return id -> (last outcome, seconds) of a run."""
        rows = self.rows(
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
                _replace_in_rosters(db, row[0], target[0])
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
                db.execute(
                    "DELETE FROM roster WHERE id NOT IN (SELECT roster FROM part)"
                )
        if gone:
            with self._lock:
                self._db.execute("VACUUM")
        return len(gone)


def _cause(path: str, error: Exception) -> str:
    """Say what SQLite leaves out: which of the usual causes it is."""
    text = str(getattr(error, "strerror", None) or error)
    if isinstance(error, OSError):
        return f"{text} ({error.filename})"
    if "unable to open" not in text and "readonly" not in text:
        return text
    folder = Path(path).parent
    if Path(path).is_dir():
        return f"it is a folder; expected a file in it, such as {path}/results.db"
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"{text}: this user may not write in {folder}"
    return f"{text}: check that this user may write the file and its folder"


def _run_number(
    db: sqlite3.Connection,
    name: str,
    started: float,
    commit: str,
    branch: str,
    environment: Mapping[str, str],
) -> tuple[int, str]:
    """Return the number of a run, new or known, and what contradicts the known one."""
    row = db.execute(
        "SELECT id, sha, branch FROM run WHERE name = ?", (name,)
    ).fetchone()
    if row is not None:
        other = [
            f"{word} ({known!r}, now {told!r})"
            for word, known, told in (
                ("commit", row[1], commit),
                ("branch", row[2], branch),
            )
            if told and known and told != known
        ]
        if commit or branch:  # a later shard may be the first that knows them
            db.execute(
                "UPDATE run SET sha = coalesce(nullif(?, ''), sha),"
                " branch = coalesce(nullif(?, ''), branch) WHERE id = ?",
                (commit, branch, row[0]),
            )
        return int(row[0]), " and ".join(other)
    made = db.execute(
        "INSERT INTO run(name, started, sha, branch, environment) VALUES(?,?,?,?,?)",
        (name, started, commit, branch, json.dumps(dict(environment))),
    ).lastrowid
    return made or 0, ""


def _replace_in_rosters(db: sqlite3.Connection, old: int, new: int) -> None:
    for number, data in db.execute("SELECT id, tests FROM roster").fetchall():
        tests = set(unpack(data))
        if old in tests:
            made = keep_roster(db, sorted(tests - {old} | {new}))
            db.execute("UPDATE part SET roster = ? WHERE roster = ?", (made, number))
            db.execute("DELETE FROM roster WHERE id = ?", (number,))
