"""The front door: ingest reports, ask the history, decide, show."""

import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from ._compare import Comparison, Trend, by_day, compare
from ._flaky import FlakeClass, Priors
from ._gate import Gate
from ._judged import Flake, judged
from ._model import Diagnostic, TestResult
from ._read import found, read_all
from ._rules import GateRules, Owners, Quarantine
from ._run import Run
from ._runs import Execution, RunInfo
from ._sharding import split
from ._stats import DurationChange, duration_change
from ._store import History
from .errors import InvalidArgument, RunNotFound

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


class TestResultAggregator:
    """Read reports, keep their history, and say whether a run may be merged.

    Thread-safe as far as the store is; several processes may share a store.

    Args:
        store: History file; None keeps the history in memory.
        clock: Seconds since 1970.
        priors: What the flakiness score starts from.
        owners: A CODEOWNERS file.
        baseline: The branch that runs are compared with: a failure is old if the
            newest run of this branch has it too. Without it, `main` or `master`.

    Raises:
        InvalidArgument: One of these is of a wrong type.
        HistoryError: The file cannot be used as a history.
    """

    __test__ = False

    def __init__(
        self,
        store: str | os.PathLike[str] | History | None = None,
        *,
        clock: Callable[[], float] = time.time,
        priors: Priors | None = None,
        owners: str | os.PathLike[str] | None = None,
        baseline: str | None = None,
    ) -> None:
        if not isinstance(store, str | os.PathLike | History | None):
            raise InvalidArgument("store", "a file or a History", store)
        self.trunk = _trunk(baseline)
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
        nothing. Reports that cannot be read are told in `Run.diagnostics`; the first
        of `paths` is named in an error if none of them leads to a file.

        Args:
            paths: Files, folders, patterns (`out/**/*.xml`); any mix of formats.
            run_id: Name of the run; without it, made from content, commit and branch.
            started: Seconds since 1970; orders runs. Without it, now.
            commit: What was tested.
            branch: Where; failures are compared with those of the baseline branch.
            shard: Such as `2/8`, if the run comes in several calls.
            environment: Whatever tells runs apart, such as the operating system.
            format: Name of the format, if its content does not tell.
            replace: Whether to replace a run (or shard) that is there.
            progress: Called with each file before it is read.

        Raises:
            ReportError: There is no such file; nothing is kept.
            RunExists: The run is there with other content, commit or branch.
            HistoryError: The store could not be written; nothing is kept.
        """
        told: list[Diagnostic] = []
        files = found(paths, told.append)
        digest = _digest(files, told)
        name = run_id or _name(digest, commit, branch)
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
            for flake in judged(self.store, runs, self._priors)
            if classes is None or flake.class_ in classes
        ]
        return sorted(found, key=lambda f: (-f.score, -f.failures, f.test))

    def trend(self, *, days: int = 30, branch: str | None = None) -> list[Trend]:
        """Return sums by day (UTC), oldest first, of the days up to the latest run."""
        return by_day(self.store.runs(branch=branch), days)

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
        self,
        *,
        branch: str | None = None,
        last: int = 50,
        until: RunInfo | None = None,
        **limits: Any,
    ) -> list[DurationChange]:
        """Return tests that became slower or faster, largest change first.

        Args:
            branch: Only runs of this branch.
            last: Only the latest so many runs.
            until: The last run to look at, instead of `branch`: those of its branch up
                to it, and before them those of the branch that it is set against.
            limits: See `duration_change`: recent, factor, at_least, deviations.
        """
        if until is None:
            runs = self.store.runs(branch=branch, last=last)
        else:
            runs = self._leading_to(until, last)
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

    def _leading_to(self, run: RunInfo, last: int) -> list[RunInfo]:
        base = Run(self, run).base()
        known = [
            r
            for r in self.store.runs()
            if (r.started, r.number) <= (run.started, run.number)
        ]
        own = [r for r in known if r.branch == run.branch]
        if base is None or base.branch == run.branch:
            return own[-last:]
        return [*(r for r in known if r.branch == base.branch), *own][-last:]

    def compare(
        self, base: str, head: str, *, factor: float = 1.5, at_least: float = 0.5
    ) -> Comparison:
        """Set two runs beside each other; single durations are noisy, so limits are wide.

        Args:
            base: Name of the run before.
            head: Name of the run after.
            factor: Smallest ratio of durations, either way, that is reported.
            at_least: Smallest difference in seconds that is reported.
        """
        return compare(self.store, base, head, factor=factor, at_least=at_least)

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
        if by not in ("file", "test"):
            raise InvalidArgument("by", "'file' or 'test'", by)
        wanted = (
            list(tests)
            if tests is not None
            else list(self.store.executed(self.run().run_id))
        )
        return split(self.store, wanted, count, together=by == "file", last=last)

    def gate(
        self,
        rules: GateRules | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    ) -> Gate:
        """Return a gate; `gate(rules).check(run)` says whether the run may pass.

        Args:
            rules: `GateRules`, a mapping of their names, or a TOML file.

        Raises:
            RulesError: A rule that there is not, or a value that it cannot have.
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


def _trunk(baseline: object) -> tuple[str, ...]:
    if baseline is None:
        return ("main", "master")
    if not isinstance(baseline, str) or not baseline:
        raise InvalidArgument("baseline", "the name of a branch", baseline)
    return (baseline,)


def _name(digest: str, commit: str, branch: str) -> str:
    """Make the name of a run; the same report of another commit is another run."""
    if not commit and not branch:
        return digest[:16]
    whole = f"{digest}\0{commit}\0{branch}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(whole, digest_size=8).hexdigest()


def _digest(files: Sequence[Path], missing: Sequence[Diagnostic]) -> str:
    made = hashlib.blake2b(digest_size=20)
    for one in missing:
        made.update(b"\0\0" + one.path.encode("utf-8", "replace"))
    for file in files:
        if str(file) == "-":  # what stdin holds is not known before it is read
            made.update(str(time.time_ns()).encode())
            continue
        made.update(b"\0" + file.name.encode("utf-8", "replace"))
        try:
            with file.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    made.update(chunk)
        except OSError:
            continue  # told as a diagnostic when it is read
    return made.hexdigest()


__all__ = ["Paths", "TestResultAggregator"]
