"""Runs beside each other: two of them, or sums by day."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from ._model import FAILURES, Outcome
from ._runs import RunInfo
from ._stats import DurationChange
from ._store import History


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two runs beside each other; every field holds ids, sorted."""

    base: str
    head: str
    new_failures: tuple[str, ...]
    fixed: tuple[str, ...]
    still_failing: tuple[str, ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    slower: tuple[DurationChange, ...]
    faster: tuple[DurationChange, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """Runs of one day."""

    day: str
    runs: int
    tests: int
    failed: int
    flaky: int
    duration: float


def compare(
    history: History, base: str, head: str, *, factor: float, at_least: float
) -> Comparison:
    """Set two runs beside each other."""
    old, new = history.executed(base), history.executed(head)
    was = {test for test, (outcome, _) in old.items() if outcome in FAILURES}
    now = {test for test, (outcome, _) in new.items() if outcome in FAILURES}
    moved = _moved(old, new, factor, at_least)
    return Comparison(
        base=base, head=head, new_failures=tuple(sorted(now - was)),
        fixed=tuple(sorted(t for t in was if t in new and new[t][0] == "passed")),
        still_failing=tuple(sorted(now & was)), added=tuple(sorted(new.keys() - old.keys())),
        removed=tuple(sorted(old.keys() - new.keys())),
        slower=tuple(c for c in moved if c.ratio > 1), faster=tuple(c for c in moved if c.ratio < 1),
    )  # fmt: skip


def _moved(
    old: dict[str, tuple[Outcome, float]],
    new: dict[str, tuple[Outcome, float]],
    factor: float,
    at_least: float,
) -> list[DurationChange]:
    """Return the tests that passed in both and took another time, largest change first."""
    moved = []
    for test in old.keys() & new.keys():
        before, after = old[test][1], new[test][1]
        ratio = max(after, 1e-6) / max(before, 1e-6)
        if (
            old[test][0] == new[test][0] == "passed"
            and abs(after - before) >= at_least
            and max(ratio, 1 / ratio) >= factor
        ):
            moved.append(
                DurationChange(
                    test=test, before=before, after=after, ratio=ratio, score=0.0
                )
            )
    return sorted(moved, key=lambda c: (-abs(c.after - c.before), c.test))


def by_day(runs: Sequence[RunInfo], days: int) -> list[Trend]:
    """Sum runs by day (UTC), oldest first, over the days up to the latest one."""
    if not runs:
        return []
    since = runs[-1].started - days * 86400
    made: dict[str, list[RunInfo]] = {}
    for run in runs:
        if run.started >= since:
            made.setdefault(
                time.strftime("%Y-%m-%d", time.gmtime(run.started)), []
            ).append(run)
    return [
        Trend(
            day=day, runs=len(group), tests=sum(r.counts.tests for r in group),
            failed=sum(r.counts.failed for r in group), flaky=sum(r.counts.flaky for r in group),
            duration=sum(r.duration for r in group) / len(group),
        )
        for day, group in made.items()
    ]  # fmt: skip
