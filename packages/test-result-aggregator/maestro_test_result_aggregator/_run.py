"""One run, and what is asked about it."""

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ._cluster import FailureCluster
from ._cluster import cluster as _cluster
from ._model import Counts, Diagnostic, TestResult
from ._past import streak
from ._runs import RunInfo
from ._wording import count

if TYPE_CHECKING:
    from ._aggregator import TestResultAggregator


class Run:
    """One run, with questions about it. Made by `ingest` and `run`."""

    def __init__(
        self, owner: "TestResultAggregator", info: RunInfo, *, added: bool = True
    ) -> None:
        self._owner = owner
        self.info = info
        self.added = added

    def __repr__(self) -> str:
        bad = sum(one.level == "error" for one in self.diagnostics)
        told = f", {count(bad, 'problem')} in the reports" if bad else ""
        return f"<Run {self.run_id!r}: {self.counts.passed} passed, {self.counts.failed} failed{told}>"

    @property
    def run_id(self) -> str:
        """Its name."""
        return self.info.run_id

    @property
    def counts(self) -> Counts:
        """How many tests ended how."""
        return self.info.counts

    @property
    def duration(self) -> float:
        """Seconds from the first start to the last stop, else the sum of all tests."""
        return self.info.duration if self.info.wall is None else self.info.wall

    @property
    def diagnostics(self) -> tuple[Diagnostic, ...]:
        """What could not be read."""
        return self.info.diagnostics

    def results(self) -> list[TestResult]:
        """Return its results, each with its attempts, by id."""
        return self._owner.store.results(self.run_id)

    @cached_property
    def _executed(self) -> dict[str, Any]:
        return self._owner.store.executed(self.run_id)

    @cached_property
    def failed_results(self) -> list[TestResult]:
        """The failed results."""
        return self._owner.store.results(self.run_id, failed=True)

    @cached_property
    def _before(self) -> dict[str, tuple[bool, str, str]]:
        """Of each test that fails now: whether the trunk has it too, and since when."""
        return {
            r.id: streak(self._owner.store, r.id, self.info, self._owner.trunk)
            for r in self.failed_results
        }

    @property
    def new_failures(self) -> list[str]:
        """Ids of tests that fail, and do not fail on the baseline branch.

        On the baseline branch itself, and without an earlier run of it, each failure
        is new until it is mended: `failures()` says since when, `compare` what
        changed between two runs.
        """
        return [test for test, (old, _, _) in self._before.items() if not old]

    @property
    def fixed(self) -> list[str]:
        """Ids of tests that pass, and failed in the run that this one is set against."""
        base = self.base()
        if base is None:
            return []
        failed = [r.id for r in self._owner.store.results(base.run_id, failed=True)]
        now = self._executed
        return [test for test in failed if test in now and now[test][0] == "passed"]

    def failures(self, *, cluster: bool = True) -> list[FailureCluster]:
        """Return failures by cause, with owner, first run and first bad commit.

        Without `cluster`, each failure stands for itself.
        """
        results = self.failed_results
        groups = (
            _cluster(results)
            if cluster
            else [one for result in results for one in _cluster([result])]
        )
        files = {r.id: r.file for r in results}
        made = []
        for one in groups:
            owners = dict.fromkeys(
                owner
                for test in one.tests
                for owner in self._owner.owners.of(files[test])
            )
            starts = [self._before[test] for test in one.tests]
            first = next((s for s in starts if s[0]), starts[0])
            made.append(
                replace(
                    one,
                    owners=tuple(owners),
                    first_seen=first[1],
                    first_commit=first[2],
                )
            )
        return made

    def base(self) -> RunInfo | None:
        """Return the run that this one is set against, never one of the same commit.

        The newest one before it of the baseline branch; without such a run, of another
        branch; for a run of the baseline branch, or where all have one branch, of the
        same.
        """
        trunk, mine = self._owner.trunk, self.info.branch
        place = (self.info.started, self.info.number)
        runs = [
            r
            for r in self._owner.store.runs()
            if (r.started, r.number) < place
            and not (self.info.commit and r.commit == self.info.commit)
        ]
        same = [r for r in runs if r.branch == mine]
        others = [r for r in runs if r.branch != mine]
        target = [r for r in runs if r.branch in trunk]
        known = same if mine in trunk else target or others or same
        return known[-1] if known else None

    def previous(self) -> RunInfo | None:
        """Return the run before, of the same branch if that has one."""
        place = (self.info.started, self.info.number)
        runs = [r for r in self._owner.store.runs() if (r.started, r.number) < place]
        same = [r for r in runs if r.branch == self.info.branch]
        known = same or runs
        return known[-1] if known else None
