"""For tests of code that uses this package: results, and histories with known truth."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ._model import Outcome, TestResult


def result(id: str, outcome: Outcome = "passed", **fields: Any) -> TestResult:
    """Return a result with a name made from its id."""
    fields.setdefault("name", id.rpartition("::")[2])
    return TestResult(id=id, outcome=outcome, **fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What `histories` makes up.

    Attributes:
        rates: Failure rates; each flaky test draws one.
        tests: How many tests.
        runs: How many runs.
        flaky: Share of tests that are flaky.
        regressions: Share of tests that break once.
        commits_broken: Mean length of a regression in commits, geometric.
        outages: Share of runs that are outages.
        outage_share: Share of tests that fail in an outage.
        per_commit: Runs of each commit.
    """

    rates: Sequence[float]
    tests: int = 2000
    runs: int = 100
    flaky: float = 0.1
    regressions: float = 0.04
    commits_broken: float = 4.0
    outages: float = 0.02
    outage_share: float = 0.1
    per_commit: int = 1


def histories(
    simulation: Simulation, *, seed: int
) -> Iterator[tuple[bool, list[bool]]]:
    """Yield, for each test, whether it is flaky and in which runs it failed."""
    s, rng = simulation, random.Random(seed)
    outages = [rng.random() < s.outages for _ in range(s.runs)]
    for _ in range(s.tests):
        flaky = rng.random() < s.flaky
        rate = rng.choice(s.rates) if flaky else 0.0
        broken = range(0)
        if rng.random() < s.regressions:
            # A commit breaks it: from the first run of that commit on.
            start = rng.randrange(s.runs)
            start -= start % s.per_commit
            length = 1
            while rng.random() > 1 / s.commits_broken:
                length += 1
            broken = range(start, start + length * s.per_commit)
        yield (
            flaky,
            [
                rng.random() < rate
                or run in broken
                or (outages[run] and rng.random() < s.outage_share)
                for run in range(s.runs)
            ],
        )
