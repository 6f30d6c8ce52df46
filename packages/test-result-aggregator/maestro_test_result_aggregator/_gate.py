"""May a run pass? Rules, checked."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._rules import GateResult, GateRules
from ._run import Run
from .errors import InvalidArgument

if TYPE_CHECKING:
    from ._aggregator import TestResultAggregator


@dataclass(frozen=True, slots=True)
class Gate:
    """Rules, ready to be checked against runs."""

    owner: "TestResultAggregator"
    rules: GateRules

    def check(self, run: Run | str) -> GateResult:
        """Say whether a run may pass, with a sentence for each broken rule.

        Args:
            run: The run, or its name.

        Raises:
            RunNotFound: There is none of this name.
        """
        if isinstance(run, str):
            run = self.owner.run(run)
        elif not isinstance(run, Run):
            raise InvalidArgument("run", "a Run or the name of one", run)
        quarantine = self.owner.quarantine
        every = [r.id for r in run.failed_results]
        held = {test for test in every if quarantine.active(test)}
        new = set(run.new_failures)
        flakes = self._known_flakes(run, {t for t in every if t in new} - held)
        failed = [test for test in every if test not in held and test not in flakes]
        notes = []
        if held:
            notes.append(f"{_n(len(held), 'quarantined failure')} left out of account")
        notes += [
            f"quarantine of {entry.test} ended on {entry.expires} (owner {entry.owner})"
            for entry in quarantine.expired()
        ]
        if flakes:
            notes.append(
                f"{_n(len(flakes), 'failure')} of known flaky tests left out of account"
            )
        if failed and not self._comparable(run):
            branches = " or ".join(self.owner.trunk)
            notes.append(
                f"no earlier run of branch {branches} to compare with: each failure "
                "counts as new (baseline= or --baseline names another branch)"
            )
        reasons = (
            *self._failures(run, failed, [test for test in failed if test in new]),
            *self._durations(run),
            *self._completeness(run),
        )
        return GateResult(
            ok=not reasons, reasons=reasons, notes=tuple(notes),
            new_failures=tuple(t for t in failed if t in new),
            old_failures=tuple(t for t in failed if t not in new),
            ignored=(*(t for t in every if t in held), *sorted(flakes)),
        )  # fmt: skip

    def _comparable(self, run: Run) -> bool:
        trunk, base = self.owner.trunk, run.base()
        return run.info.branch in trunk or (base is not None and base.branch in trunk)

    def _known_flakes(self, run: Run, failed: set[str]) -> set[str]:
        """Return those of the tests that were known as flaky before the run."""
        before = run.base() if self.rules.ignore_known_flakes and failed else None
        if before is None:
            return set()
        known = self.owner.flaky(branch=before.branch, until=before)
        return failed & {flake.test for flake in known}

    def _failures(
        self, run: Run, failed: Sequence[str], new: Sequence[str]
    ) -> Iterator[str]:
        rules, counts = self.rules, run.counts
        yield from _most("failure", len(failed), rules.max_failures, failed)
        yield from _most("new failure", len(new), rules.max_new_failures, new)
        yield from _most("flaky test", counts.flaky, rules.max_flaky)
        ran = counts.passed + counts.failed
        if rules.min_tests is not None and ran < rules.min_tests:
            yield f"{_n(ran, 'test')} ran, at least {rules.min_tests} must"
        rate = counts.passed / max(counts.passed + len(failed), 1)
        if rules.min_pass_rate is not None and rate < rules.min_pass_rate:
            yield f"{rate:.2%} passed, at least {rules.min_pass_rate:.2%} must"

    def _durations(self, run: Run) -> Iterator[str]:
        rules = self.rules
        if rules.max_duration is not None and run.duration > rules.max_duration:
            yield (
                f"took {run.duration:.1f} s, at most {rules.max_duration:g} s are allowed"
            )
        if rules.max_slower is not None:
            changes = self.owner.regressions(until=run.info)
            slower = [change.test for change in changes if change.ratio > 1]
            yield from _most("slower test", len(slower), rules.max_slower, slower)

    def _completeness(self, run: Run) -> Iterator[str]:
        rules, shards = self.rules, run.info.shards
        if rules.max_missing is not None:
            base = run.base()
            gone = self.owner.compare(base.run_id, run.run_id).removed if base else ()
            yield from _most("missing test", len(gone), rules.max_missing, gone)
        if rules.require_shards is not None and len(shards) < rules.require_shards:
            there = ", ".join(filter(None, shards)) or "one without a name"
            yield (
                f"{_n(len(shards), 'shard')} of {rules.require_shards} arrived ({there})"
            )
        errors = [d for d in run.diagnostics if d.level == "error"]
        if errors and not rules.allow_broken_reports:
            yield f"{_n(len(errors), 'problem')} in the reports: {errors[0]}"


def _n(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _most(
    noun: str, count: int, limit: int | None, tests: Sequence[str] = ()
) -> Iterator[str]:
    """Yield a sentence if there are more than allowed."""
    if limit is None or count <= limit:
        return
    some = ", ".join(tests[:3]) + (", ..." if len(tests) > 3 else "")
    yield f"{_n(count, noun)}, at most {limit} allowed" + (f": {some}" if some else "")
