"""Questions to the history that go over many runs: one test's past, and who failed."""

import json
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ._loader import unpack
from ._model import FAILURES, OUTCOMES
from ._runs import Execution, RunInfo

if TYPE_CHECKING:
    from ._store import History

_AT_ONCE = 50


def executions(
    history: "History",
    test: str,
    branches: Sequence[str] | None,
    before: RunInfo | None,
) -> Iterator[Execution]:
    """Yield the executions of a test, latest first, some runs at a time."""
    of = None if branches is None else json.dumps(list(branches))
    start, number = (before.started, before.number) if before else (math.inf, 0)
    while True:
        runs = history.rows(
            "SELECT id, name, started, sha FROM run WHERE (? IS NULL OR branch IN (SELECT value FROM json_each(?))) AND (started, id) < (?, ?)"
            " ORDER BY started DESC, id DESC LIMIT ?",
            (of, of, start, number, _AT_ONCE),
        )
        if not runs:
            return
        found: dict[int, list[Any]] = {}
        for row in history.rows(
            "SELECT r.run, r.attempt, r.outcome, r.us, b.message FROM test t CROSS JOIN json_each(?) u CROSS JOIN result r"
            " ON r.run = u.value AND r.test = t.id LEFT JOIN body b ON b.id = r.body WHERE t.key = ?",
            (json.dumps([run[0] for run in runs]), test),
        ):
            found.setdefault(row[0], []).append(row[1:])
        for run, name, began, sha in runs:
            tries = sorted(found.get(run, ()), key=lambda row: row[0])
            if tries:
                _, outcome, us, message = tries[-1]
                yield Execution(
                    run_id=name, started=began, commit=sha, outcome=OUTCOMES[outcome],
                    duration=us / 1e6, attempts=tuple(OUTCOMES[t[1]] for t in tries[:-1]), message=message,
                )  # fmt: skip
        number, start = runs[-1][0], runs[-1][2]


def streak(
    history: "History", test: str, run: RunInfo, trunk: Sequence[str]
) -> tuple[bool, str, str]:
    """Tell whether a test that fails in a run failed on the trunk before, and since when.

    Only the trunk excuses a failure, at its newest run of the test. What failed before
    on the run's own branch, on any other, or at the same commit does not: else a gate
    would open when the same run comes a second time.

    Returns:
        Whether it failed on the trunk too; name and commit of the first run since
        which it always failed, there or else on the run's own branch.
    """
    if run.branch not in trunk:
        since = None
        for one in executions(history, test, trunk, run):
            if run.commit and one.commit == run.commit:
                continue
            if one.outcome not in FAILURES:
                break
            since = (one.run_id, one.commit)
        if since is not None:
            return True, *since
    first = (run.run_id, run.commit)
    for one in executions(history, test, (run.branch,), run):
        if one.outcome not in FAILURES:
            break
        first = (one.run_id, one.commit)
    return False, *first


def failing(
    history: "History", runs: Sequence[RunInfo]
) -> dict[tuple[int, int], list[int]]:
    """Return (test, run) -> outcome codes by attempt, where an attempt failed."""
    found: dict[tuple[int, int], list[int]] = {}
    for test, run, code in history.rows(
        "WITH b AS MATERIALIZED (SELECT DISTINCT run, test FROM result INDEXED BY result_bad"
        " WHERE outcome >= 6 AND run IN (SELECT value FROM json_each(?)))"
        " SELECT r.test, r.run, r.outcome FROM b CROSS JOIN result r ON r.run = b.run AND r.test = b.test"
        " ORDER BY r.run, r.test, r.attempt",
        (json.dumps([run.number for run in runs]),),
    ):
        found.setdefault((test, run), []).append(code)
    return found


def rosters(history: "History", runs: Sequence[RunInfo]) -> dict[int, frozenset[int]]:
    """Return run -> the tests that passed or failed in it; equal ones are one object."""
    rows = history.rows(
        "SELECT run, roster FROM part WHERE run IN (SELECT value FROM json_each(?))",
        (json.dumps([run.number for run in runs]),),
    )
    parts: dict[int, tuple[int, ...]] = {}
    for run, roster in rows:
        parts[run] = tuple(sorted((*parts.get(run, ()), roster)))
    lists = {
        number: unpack(data)
        for number, data in history.rows(
            "SELECT id, tests FROM roster WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps(sorted({row[1] for row in rows})),),
        )
    }
    made = {
        which: frozenset().union(*(lists[number] for number in which))
        for which in set(parts.values())
    }
    return {run: made[which] for run, which in parts.items()}
