"""The front door: ingest reports, ask the history, decide, show."""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from ._cluster import FailureCluster, cluster
from ._model import FAILURES, OUTCOMES, Counts, Diagnostic, TestResult
from ._read import expand, read_all
from ._rules import GateResult, GateRules, Owners, Quarantine
from ._stats import (
    DurationChange,
    FlakeClass,
    Interval,
    Point,
    Priors,
    duration_change,
    judge,
    outage_weights,
    shards,
)
from ._store import Execution, History, RunInfo
from .errors import RunNotFound

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
_BAD = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Flake:
    """What history says of a test that has failed at least once.

    Attributes:
        score: Probability that it is flaky; what lists are ranked by.
        rate: Failure rate with Wilson's 95% interval.
        class_: `flaky`, `broken`, `new-failure`, `fixed`, `outage`, `not-enough-data`.
        evidence: What speaks for it, in words.
        seen: Runs in which it ran.
        row: A character a run, oldest first: `.` passed, `F` failed, `r` recovered
            on retry, `-` not run.
    """

    test: str
    score: float
    rate: Interval
    class_: FlakeClass
    evidence: tuple[str, ...]
    seen: int
    failures: int
    file: str | None
    row: str


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


class Run:
    """One run, with questions about it. Made by `ingest` and `run`."""

    def __init__(
        self, owner: "TestResultAggregator", info: RunInfo, *, added: bool = True
    ) -> None:
        self._owner = owner
        self.info = info
        self.added = added

    def __repr__(self) -> str:
        return f"<Run {self.run_id!r}: {self.counts.passed} passed, {self.counts.failed} failed>"

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
        """Of each test that fails now: whether it failed in its run before, and since when."""
        return {r.id: self._owner._streak(r.id, self.info) for r in self.failed_results}

    @property
    def new_failures(self) -> list[str]:
        """Ids of tests that fail, and passed or were not there in their run before."""
        return [test for test, (old, _, _) in self._before.items() if not old]

    @property
    def fixed(self) -> list[str]:
        """Ids of tests that pass, and failed in the run before."""
        base = self._owner._previous(self.info)
        if base is None:
            return []
        failed = [r.id for r in self._owner.store.results(base.run_id, failed=True)]
        now = self._executed
        return [test for test in failed if test in now and now[test][0] == "passed"]

    def failures(self, *, cluster: bool = True) -> list[FailureCluster]:
        """Return failures by cause, with owner, first run and first bad commit.

        Without `cluster`, each failure stands for itself.
        """
        return self._owner._clusters(self, self.failed_results, together=cluster)


class TestResultAggregator:
    """Read reports, keep their history, and say whether a run may be merged.

    Thread-safe as far as the store is; several processes may share a store.

    Args:
        store: History file; None keeps the history in memory.
        clock: Seconds since 1970.
        priors: What the flakiness score starts from.
        owners: A CODEOWNERS file.
    """

    __test__ = False

    def __init__(
        self,
        store: str | os.PathLike[str] | History | None = None,
        *,
        clock: Callable[[], float] = time.time,
        priors: Priors | None = None,
        owners: str | os.PathLike[str] | None = None,
    ) -> None:
        self.store = (
            store
            if isinstance(store, History)
            else History(Path(store) if store is not None else None)
        )
        self.quarantine = Quarantine()
        self.owners = Owners.load(owners) if owners is not None else Owners()
        self._clock = clock
        self._priors = priors or Priors()

    def close(self) -> None:
        """Close the store."""
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ingest(
        self,
        paths: Paths,
        *,
        run_id: str | None = None,
        commit: str = "",
        branch: str = "",
        shard: str = "",
        started: float | None = None,
        environment: Mapping[str, str] | None = None,
        format: str | None = None,
        replace: bool = False,
        progress: Callable[[Path], None] | None = None,
    ) -> Run:
        """Read reports into the history as one run, or as one shard of a run.

        All or nothing, also when the process is killed. The same files again change
        nothing. Reports that cannot be read are told in `Run.diagnostics`.

        Args:
            paths: Files, folders, patterns (`out/**/*.xml`); any mix of formats.
            run_id: Name of the run; without it, made from the content.
            started: Seconds since 1970; orders runs. Without it, now.
            commit: What was tested.
            branch: Where; runs are compared within one.
            shard: Such as `2/8`, if the run comes in several calls.
            environment: Whatever tells runs apart, such as the operating system.
            format: Name of the format, if its content does not tell.
            replace: Whether to replace a run (or shard) that is there.
            progress: Called with each file before it is read.

        Raises:
            RunExists: The run is there with other content.
            HistoryError: The store could not be written; nothing is kept.
        """
        told: list[Diagnostic] = []
        files = expand(paths, told.append)
        digest = _digest(files)
        name = run_id or digest[:16]
        added = self.store.record(
            read_all(files, told.append, progress, format=format),
            run_id=name, started=self._clock() if started is None else started,
            commit=commit, branch=branch, shard=shard, environment=dict(environment or {}),
            digest=digest, replace=replace, diagnostics=told,
        )  # fmt: skip
        return Run(self, self.store.run(name), added=added)

    def add(
        self,
        results: Iterable[TestResult],
        *,
        run_id: str,
        started: float | None = None,
        commit: str = "",
        branch: str = "",
        shard: str = "",
    ) -> Run:
        """Keep results that are at hand as one run."""
        when = self._clock() if started is None else started
        self.store.record(
            results,
            run_id=run_id,
            started=when,
            commit=commit,
            branch=branch,
            shard=shard,
        )
        return self.run(run_id)

    def run(self, run_id: str | None = None) -> Run:
        """Return a run; without a name, the latest one.

        Raises:
            RunNotFound: There is none.
        """
        if run_id is not None:
            return Run(self, self.store.run(run_id))
        latest = self.store.runs(last=1)
        if not latest:
            raise RunNotFound(self.store.path, "(latest)")
        return Run(self, latest[0])

    def history(
        self, test: str, *, last: int = 100, branch: str | None = None
    ) -> list[Execution]:
        """Return the last executions of a test, oldest first."""
        return self.store.of_test(test, last=last, branch=branch)

    def flaky(
        self,
        *,
        branch: str | None = None,
        last: int = 100,
        classes: Sequence[FlakeClass] | None = ("flaky",),
        until: RunInfo | None = None,
    ) -> list[Flake]:
        """Return tests by how probably they are flaky, highest first.

        Args:
            branch: Only runs of this branch.
            last: Only the latest so many runs.
            classes: What to return; None returns every test that ever failed or
                recovered. Tests that never failed are not judged: most flaky tests
                fail in under one run of a hundred, so no failure proves little.
            until: The last run to look at.
        """
        runs = self.store.runs(branch=branch, last=None if until else last)
        if until:
            runs = [
                r
                for r in runs
                if (r.started, r.number) <= (until.started, until.number)
            ][-last:]
        found = [
            flake
            for flake in self._judged(runs)
            if classes is None or flake.class_ in classes
        ]
        return sorted(found, key=lambda f: (-f.score, -f.failures, f.test))

    def _judged(self, runs: Sequence[RunInfo]) -> Iterator[Flake]:
        rows = self.store.failing(runs)
        order = {run.number: at for at, run in enumerate(runs)}
        bad = [0] * len(runs)
        histories: dict[int, dict[int, int]] = {}
        for test, run, attempt, code in rows:
            at = order[run]
            known = histories.get(test)
            if known is None:
                known = histories[test] = {}
            # 2 is recovered: it failed in an earlier attempt and passed in the last.
            failed = code >= _BAD
            if attempt > 1 and not failed and known.get(at) in (1, 2):
                known[at] = 2
            elif failed or code in (0, 3):  # only what ran counts
                known[at] = int(failed)
        for known in histories.values():
            for at, code in known.items():
                if code == 1:
                    bad[at] += 1
        shares = [
            b / max(r.counts.passed + r.counts.failed, 1)
            for b, r in zip(bad, runs, strict=True)
        ]
        weights = outage_weights(shares)
        commits = [run.commit for run in runs]
        # Runs of a commit that was seen once cannot disagree.
        twice = {c for c in commits if c and commits.count(c) > 1}
        plain = [
            [Point(failed=f, recovered=r, weight=w, commit=c if c in twice else "")
             for f, r in ((False, False), (True, False), (False, True))]
            for w, c in zip(weights, commits, strict=True)
        ]  # fmt: skip
        names = self.store.keys(histories)
        for test, known in histories.items():
            places = sorted(known)
            verdict = judge(
                [plain[at][known[at]] for at in places], priors=self._priors
            )
            key, file = names[test]
            yield Flake(
                test=key, score=verdict.score, rate=verdict.rate, class_=verdict.class_,
                evidence=verdict.evidence, seen=verdict.seen, failures=verdict.failures, file=file,
                row="".join(".Fr"[known[at]] if at in known else "-" for at in range(len(runs))),
            )  # fmt: skip

    def trend(self, *, days: int = 30, branch: str | None = None) -> list[Trend]:
        """Return sums by day (UTC), oldest first, of the days up to the latest run."""
        runs = self.store.runs(branch=branch)
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

    def slowest(
        self, count: int = 20, *, run_id: str | None = None
    ) -> list[tuple[str, float]]:
        """Return the slowest tests of a run (the latest without a name), with seconds."""
        executed = self.store.executed(self.run(run_id).run_id)
        rows = sorted(
            ((test, took) for test, (_, took) in executed.items()),
            key=lambda r: (-r[1], r[0]),
        )
        return rows[:count]

    def regressions(
        self, *, branch: str | None = None, last: int = 50, **limits: Any
    ) -> list[DurationChange]:
        """Return tests that became slower or faster, largest change first.

        Args:
            branch: Only runs of this branch.
            last: Only the latest so many runs.
            limits: See `duration_change`: recent, factor, at_least, deviations.
        """
        runs = self.store.runs(branch=branch, last=last)
        order = {run.number: at for at, run in enumerate(runs)}
        series: dict[int, dict[int, float]] = {}
        for test, run, us in self.store.durations(runs):
            series.setdefault(test, {})[order[run]] = us / 1e6
        found = []
        for test, known in series.items():
            change = duration_change("", [known[at] for at in sorted(known)], **limits)
            if change:
                found.append((test, change))
        names = self.store.keys([test for test, _ in found])
        changes = [replace(change, test=names[test][0]) for test, change in found]
        return sorted(changes, key=lambda c: (-abs(c.after - c.before), c.test))

    def compare(
        self, base: str, head: str, *, factor: float = 1.5, at_least: float = 0.5
    ) -> Comparison:
        """Set two runs beside each other; single durations are noisy, so limits are wide."""
        old, new = self.store.executed(base), self.store.executed(head)
        was = {test for test, (outcome, _) in old.items() if outcome in FAILURES}
        now = {test for test, (outcome, _) in new.items() if outcome in FAILURES}
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
        moved.sort(key=lambda c: (-abs(c.after - c.before), c.test))
        return Comparison(
            base=base, head=head, new_failures=tuple(sorted(now - was)),
            fixed=tuple(sorted(t for t in was if t in new and new[t][0] == "passed")),
            still_failing=tuple(sorted(now & was)), added=tuple(sorted(new.keys() - old.keys())),
            removed=tuple(sorted(old.keys() - new.keys())),
            slower=tuple(c for c in moved if c.ratio > 1), faster=tuple(c for c in moved if c.ratio < 1),
        )  # fmt: skip

    def shards(
        self,
        count: int,
        *,
        by: str = "file",
        tests: Sequence[str] | None = None,
        last: int = 10,
    ) -> list[list[str]]:
        """Split tests into lists of about equal time, by the median of recent runs.

        Args:
            count: Number of shards.
            by: `file` keeps the tests of a file together, `test` does not.
            tests: The tests to split, if not those of the latest run.
            last: Runs to take durations from.
        """
        import statistics

        if by not in ("file", "test"):
            raise ValueError(f"by must be 'file' or 'test', got {by!r}")
        runs = self.store.runs(last=last)
        series: dict[int, list[float]] = {}
        for test, _, us in self.store.durations(runs):
            series.setdefault(test, []).append(us / 1e6)
        names = self.store.keys()
        times = {
            names[test][0]: statistics.median(values) for test, values in series.items()
        }
        wanted = (
            list(tests)
            if tests is not None
            else list(self.store.executed(self.run().run_id))
        )
        files = dict(names.values()) if by == "file" else {}
        groups = (
            {test: files.get(test) or _group(test) for test in wanted}
            if by == "file"
            else {}
        )
        known = {test: times[test] for test in wanted if test in times}
        return shards(
            known, count, groups=groups, unseen=[t for t in wanted if t not in times]
        )

    def gate(
        self,
        rules: GateRules | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    ) -> "Gate":
        """Return a gate; `gate(rules).check(run)` says whether the run may pass.

        Args:
            rules: `GateRules`, a mapping of their names, or a TOML file.
        """
        if rules is None:
            rules = GateRules()
        elif isinstance(rules, Mapping):
            rules = GateRules.of(rules)
        elif not isinstance(rules, GateRules):
            rules = GateRules.load(rules)
        return Gate(self, rules)

    def report_html(
        self,
        path: str | os.PathLike[str],
        *,
        run_id: str | None = None,
        last: int = 100,
        rules: GateRules | None = None,
    ) -> Path:
        """Write one HTML file about a run and its history; needs no network or script."""
        from ._html import page
        from ._write import write_whole

        target = Path(path)
        write_whole(target, page(self, self.run(run_id), last=last, rules=rules))
        return target

    def summary_markdown(
        self,
        *,
        run_id: str | None = None,
        limit: int = 65_000,
        rules: GateRules | None = None,
    ) -> str:
        """Return a summary of a run, at most `limit` bytes of UTF-8; says what it left out."""
        from ._markdown import summary

        return summary(self, self.run(run_id), limit=limit, rules=rules)

    def to_dataframe(self, what: str = "results", **options: Any) -> Any:
        """Return a typed pandas frame: results, runs, flaky or durations.

        Needs the `analytics` extra.
        """
        from ._frames import frame

        return frame(self, what, **options)

    def prune(self, *, keep: int | None = None, days: float | None = None) -> int:
        """Forget old runs: all but the latest `keep` of a branch, or those over `days` old."""
        return self.store.prune(
            keep=keep, before=None if days is None else self._clock() - days * 86400
        )

    def _previous(self, info: RunInfo) -> RunInfo | None:
        """Return the run before, of the same branch if that has one."""
        runs = [
            r
            for r in self.store.runs()
            if (r.started, r.number) < (info.started, info.number)
        ]
        same = [r for r in runs if r.branch == info.branch]
        known = same or runs
        return known[-1] if known else None

    def _streak(self, test: str, info: RunInfo) -> tuple[bool, str, str]:
        """Return whether the run before failed too, and run and commit of the first failure."""
        first = (info.run_id, info.commit)
        earlier = [
            e for e in self.store.of_test(test, last=1000) if e.started < info.started
        ]
        old = False
        for at, one in enumerate(reversed(earlier)):
            if one.outcome not in FAILURES:
                break
            old = old or at == 0
            first = (one.run_id, one.commit)
        return old, *first

    def _clusters(
        self, run: Run, results: list[TestResult], *, together: bool
    ) -> list[FailureCluster]:
        groups = (
            cluster(results) if together else [c for r in results for c in cluster([r])]
        )
        files = {r.id: r.file for r in results}
        made = []
        for one in groups:
            owners = dict.fromkeys(
                o for t in one.tests for o in self.owners.of(files[t])
            )
            starts = [run._before[t] for t in one.tests]
            old = next((s for s in starts if s[0]), starts[0])
            made.append(
                replace(
                    one, owners=tuple(owners), first_seen=old[1], first_commit=old[2]
                )
            )
        return made


@dataclass(frozen=True, slots=True)
class Gate:
    """Rules, ready to be checked against runs."""

    owner: TestResultAggregator
    rules: GateRules

    def check(self, run: Run) -> GateResult:
        """Say whether a run may pass, with a sentence for each broken rule."""
        rules, counts = self.rules, run.counts
        reasons: list[str] = []
        notes: list[str] = []
        quarantine = self.owner.quarantine
        failed = [r.id for r in run.failed_results]
        held = [test for test in failed if quarantine.active(test)]
        failed = [test for test in failed if test not in set(held)]
        if held:
            notes.append(f"{_n(len(held), 'quarantined failure')} left out of account")
        notes += [
            f"quarantine of {entry.test} ended on {entry.expires} (owner {entry.owner})"
            for entry in quarantine.expired()
        ]
        new = set(run.new_failures)
        flakes: set[str] = set()
        if rules.ignore_known_flakes and failed:
            before = self.owner._previous(run.info)
            if before:
                known = {
                    f.test for f in self.owner.flaky(branch=before.branch, until=before)
                }
                flakes = known & set(failed) & new
        if flakes:
            notes.append(
                f"{_n(len(flakes), 'failure')} of known flaky tests left out of account"
            )
            failed = [test for test in failed if test not in flakes]
        fresh = [test for test in failed if test in new]
        _most(reasons, "failure", len(failed), rules.max_failures, failed)
        _most(reasons, "new failure", len(fresh), rules.max_new_failures, fresh)
        _most(reasons, "flaky test", counts.flaky, rules.max_flaky)
        ran = counts.passed + counts.failed
        if rules.min_tests is not None and ran < rules.min_tests:
            reasons.append(f"{_n(ran, 'test')} ran, at least {rules.min_tests} must")
        blocking = len(failed)
        rate = counts.passed / max(counts.passed + blocking, 1)
        if rules.min_pass_rate is not None and rate < rules.min_pass_rate:
            reasons.append(
                f"{rate:.2%} passed, at least {rules.min_pass_rate:.2%} must"
            )
        if rules.max_duration is not None and run.duration > rules.max_duration:
            reasons.append(
                f"took {run.duration:.1f} s, at most {rules.max_duration:g} s are allowed"
            )
        if rules.max_slower is not None:
            slower = [
                c.test
                for c in self.owner.regressions(branch=run.info.branch)
                if c.ratio > 1
            ]
            _most(reasons, "slower test", len(slower), rules.max_slower, slower)
        if rules.max_missing is not None:
            base = self.owner._previous(run.info)
            gone = self.owner.compare(base.run_id, run.run_id).removed if base else ()
            _most(reasons, "missing test", len(gone), rules.max_missing, gone)
        if (
            rules.require_shards is not None
            and len(run.info.shards) < rules.require_shards
        ):
            there = ", ".join(filter(None, run.info.shards)) or "one without a name"
            reasons.append(
                f"{_n(len(run.info.shards), 'shard')} of {rules.require_shards} arrived ({there})"
            )
        errors = [d for d in run.diagnostics if d.level == "error"]
        if errors and not rules.allow_broken_reports:
            reasons.append(f"{_n(len(errors), 'problem')} in the reports: {errors[0]}")
        return GateResult(
            ok=not reasons, reasons=tuple(reasons), notes=tuple(notes), new_failures=tuple(fresh),
            old_failures=tuple(t for t in failed if t not in new), ignored=(*held, *sorted(flakes)),
        )  # fmt: skip


def _n(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _most(
    reasons: list[str],
    noun: str,
    count: int,
    limit: int | None,
    tests: Sequence[str] = (),
) -> None:
    if limit is None or count <= limit:
        return
    some = (
        ": " + ", ".join(tests[:3]) + (", ..." if len(tests) > 3 else "")
        if tests
        else ""
    )
    reasons.append(f"{_n(count, noun)}, at most {limit} allowed{some}")


def _group(test: str) -> str:
    return test.rpartition("::")[0] or test.rpartition(".")[0] or test


def _digest(files: Sequence[Path]) -> str:
    made = hashlib.blake2b(digest_size=20)
    for file in files:
        if str(file) == "-":  # what stdin holds is not known before it is read
            made.update(str(time.time_ns()).encode())
            continue
        try:
            with file.open("rb") as stream:
                made.update(b"\0" + file.name.encode("utf-8", "replace"))
                while chunk := stream.read(1 << 20):
                    made.update(chunk)
        except OSError:
            continue  # told as a diagnostic when it is read
    return made.hexdigest()


__all__ = [
    "OUTCOMES",
    "Comparison",
    "Flake",
    "Gate",
    "Run",
    "TestResultAggregator",
    "Trend",
]
