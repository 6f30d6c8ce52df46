"""How probably a test is flaky, from its history and from those of its neighbours.

A flaky test fails like a coin, each run by itself, at a rate of its own. A broken one
fails in every run until somebody mends it. And a run may be at fault itself: an outage
fails healthy tests. A history is weighed under all three at once. Code is a two-state
Markov chain, good or broken, that changes between commits only; in good code a run
fails a healthy test with the share of its outage, a flaky one also with its rate. The
score is the posterior probability of a rate above zero. So one failure amid passes is
told from a regression by how often tests here break for a single commit, a failure
amid many others says little, and runs of one commit that disagree, or a retry that
recovered, say much: code cannot change in between.

What is common among the tests is not assumed but learned from all of them (empirical
Bayes): the share of flaky tests and their rates by expectation maximisation with a
Dirichlet prior, outages from the median number of failures in a run, breaking and
mending from streaks of three commits or more. With few tests the priors stand.

Sources: Rabiner, Proc. IEEE 77 (1989), for the forward recursion; Dempster, Laird and
Rubin, JRSS B 39 (1977), for expectation maximisation; Efron, "Large-Scale Inference"
(2010), for empirical Bayes; Machalica et al. (Meta, 2020) and Kowalczyk et al.,
ICSE-SEIP 2020, for flakiness as a probability given the version under test.
"""

import math
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ._stats import Interval, wilson

FlakeClass = Literal[
    "flaky", "broken", "new-failure", "fixed", "outage", "not-enough-data", "healthy"
]
_STREAK = re.compile("[Fr]+")
_LONG = 3
_ROUNDS = 6
_RATES = tuple(0.0003 * 10 ** (step / 3) for step in range(11))


@dataclass(frozen=True, slots=True, kw_only=True)
class Priors:
    """What is believed of tests before their history is seen.

    Attributes:
        flaky: Share of tests that are flaky.
        rates: Failure rates that a flaky test may have.
        shares: How the flaky tests are spread over the rates; None is evenly.
        breaks: Probability that a commit breaks a test.
        mends: Probability that a commit mends a broken test.
        glitch: Probability that a healthy test fails in a run that is no outage.
        tests: How many tests these beliefs weigh as much as.
    """

    flaky: float = 0.05
    rates: tuple[float, ...] = _RATES
    shares: tuple[float, ...] | None = None
    breaks: float = 0.001
    mends: float = 0.25
    glitch: float = 1e-5
    tests: float = 100.0

    @property
    def weights(self) -> list[float]:
        """Probability of being healthy, then of each rate."""
        shares = self.shares or (1 / len(self.rates),) * len(self.rates)
        return [1 - self.flaky, *(self.flaky * share for share in shares)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run of a test, for the statistics.

    Attributes:
        failed: Whether its last attempt failed.
        recovered: Whether it passed after a failed attempt.
        outage: Share of healthy tests that failed in this run; 0 in a usual run.
        commit: What was tested; "" if not known.
    """

    failed: bool
    recovered: bool = False
    outage: float = 0.0
    commit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a history says of one test.

    Attributes:
        score: Probability that it is flaky; 0 to 1.
        evidence: What speaks for it, in words.
        isolated: Failures with a pass right before and after.
        failures: Failed last attempts.
        seen: Runs in which it ran.
    """

    score: float
    rate: Interval
    class_: FlakeClass
    evidence: tuple[str, ...]
    isolated: int
    failures: int
    seen: int


def judge(
    history: Sequence[Point], *, priors: Priors | None = None, enough: int = 10
) -> Verdict:
    """Weigh one history, oldest run first, by the priors alone.

    Args:
        history: One point a run in which the test ran.
        priors: Beliefs to start from.
        enough: Runs under which a class is given on direct evidence only.
    """
    row = "".join("F" if p.failed else "r" if p.recovered else "." for p in history)
    panel = Panel(
        outages=[p.outage for p in history],
        commits=[p.commit for p in history],
        priors=priors or Priors(),
    )
    return panel.verdict(row, enough=enough)


def outages(failed: Sequence[int], ran: Sequence[int]) -> list[float]:
    """Return, by run, the share of tests whose failure is the run's own fault.

    A run is an outage if its failures are over four standard deviations above the
    median run's; 0 for the others.

    Args:
        failed: Tests that failed, by run.
        ran: Tests that ran, by run.
    """
    if not failed:
        return []
    usual = statistics.median(failed)
    limit = usual + 4 * math.sqrt(max(usual, 1.0))
    return [
        (bad - usual) / max(all_, 1) if bad > limit else 0.0
        for bad, all_ in zip(failed, ran, strict=True)
    ]


@dataclass(slots=True, kw_only=True)
class Panel:
    """Runs that several tests share, and what was learned from those tests.

    A history is a row: a character a run, oldest first: `.` passed, `F` failed, `r`
    recovered on retry, `-` not run.
    """

    outages: Sequence[float]
    commits: Sequence[str]
    priors: Priors
    weights: list[float] = field(init=False)
    _order: list[int] | None = field(init=False)
    _known: dict[tuple[object, ...], list[float]] = field(
        init=False, default_factory=dict
    )
    _rows: dict[str, list[float]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = self.priors.weights
        # Runs of one commit are weighed together, where its first run stood.
        first: dict[object, int] = {}
        keys = [
            first.setdefault(commit or (at,), at)
            for at, commit in enumerate(self.commits)
        ]
        order = sorted(range(len(keys)), key=lambda at: (keys[at], at))
        self._order = order if order != list(range(len(keys))) else None

    def learn(self, rows: Mapping[str, int], *, healthy: int, seen: float) -> None:
        """Take what is common from all tests.

        Args:
            rows: How many tests have each row, of those that failed or recovered.
            healthy: Tests that did neither.
            seen: Runs that a healthy test was seen in, on average.
        """
        self.priors = self._streaks(rows, healthy)
        self._known.clear()
        self._rows.clear()
        prior = [self.priors.tests * share for share in self.priors.weights]
        weights = self.priors.weights
        passed = [(1 - rate) ** seen for rate in (0.0, *self.priors.rates)]
        groups = [(self._likelihoods(row), count) for row, count in rows.items()]
        groups.append((passed, healthy))
        for _ in range(_ROUNDS):
            sums = list(prior)
            for likelihoods, count in groups:
                parts = [a * b for a, b in zip(weights, likelihoods, strict=True)]
                scale = count / sum(parts)
                sums = [a + scale * b for a, b in zip(sums, parts, strict=True)]
            total = sum(sums)
            weights = [value / total for value in sums]
        self.weights = weights

    def score(self, row: str) -> float:
        """Return the probability that a test with this row is flaky."""
        if "F" not in row and "r" not in row:
            return 0.0
        parts = [
            a * b for a, b in zip(self.weights, self._likelihoods(row), strict=True)
        ]
        return max(1 - parts[0] / sum(parts), 0.0)

    def verdict(self, row: str, *, enough: int = 10) -> Verdict:
        """Return everything that is to be said of a row."""
        ran = row.replace("-", "")
        failures, recovered = ran.count("F"), ran.count("r")
        # What failed in an outage is no failure of the test's own.
        own = "".join(
            mark
            for mark, outage in zip(row, self.outages, strict=True)
            if mark != "-" and not (mark == "F" and outage)
        )
        isolated, same = _isolated(own), self._disagreements(row)
        other = failures - own.count("F")
        evidence = []
        if isolated:
            evidence.append(f"failed alone {isolated}x")
        if same:
            evidence.append(f"same commit disagreed {same}x")
        if recovered:
            evidence.append(f"recovered on retry {recovered}x")
        if other:
            evidence.append(f"failed in an outage {other}x")
        score = self.score(row)
        return Verdict(
            score=score, rate=wilson(failures, len(ran)), evidence=tuple(evidence),
            class_="outage" if other == failures > 0 == same + recovered
            else _class(own, score, direct=same + recovered, isolated=isolated, enough=enough),
            isolated=isolated, failures=failures, seen=len(ran),
        )  # fmt: skip

    def _likelihoods(self, row: str) -> list[float]:
        """Return the likelihood of a row given each rate, relative to the largest."""
        known = self._rows.get(row)
        if known is not None:
            return known
        marks = "".join(row[at] for at in self._order) if self._order else row
        places: Sequence[int] = self._order or range(len(row))
        if "-" in marks:
            places = [at for at, mark in zip(places, marks, strict=True) if mark != "-"]
            marks = marks.replace("-", "")
        passes = marks.count(".")
        logs = [0.0, *(passes * math.log1p(-rate) for rate in self.priors.rates)]
        for streak in _STREAK.finditer(marks):
            start, end = streak.span()
            key = (streak[0], *places[max(start - 1, 0) : end + 1], start > 0)
            found = self._known.get(key)
            if found is None:
                found = self._known[key] = self._streak(streak[0], places, start, end)
            logs = [a + b for a, b in zip(logs, found, strict=True)]
        top = max(logs)
        made = self._rows[row] = [math.exp(value - top) for value in logs]
        return made

    def _streak(
        self, marks: str, places: Sequence[int], start: int, end: int
    ) -> list[float]:
        """Log likelihoods of failures between two passes (or ends), for each rate."""
        priors = self.priors
        steps = [
            (
                mark == "r",
                self._change(places, at, priors.breaks, priors.mends),
                1 - max(self.outages[places[at]], priors.glitch),
            )
            for at, mark in enumerate(marks, start)
        ]
        last = self._change(places, end, priors.breaks, priors.mends)
        logs = []
        for rate in (0.0, *priors.rates):
            good, broken = 1.0, 0.0
            for recovered, (breaks, mends), quiet in steps:
                fails = 1 - (1 - rate) * quiet
                good, broken = (
                    (good * (1 - breaks) + broken * mends) * fails,
                    good * breaks + broken * (1 - mends),
                )
                if recovered:  # the same code passed right after
                    good, broken = good * (1 - rate), 0.0
            if end < len(places):
                good, broken = good * (1 - last[0]) + broken * last[1], 0.0
            logs.append(math.log(max(good + broken, 1e-300)))
        return logs

    def _change(
        self, places: Sequence[int], at: int, breaks: float, mends: float
    ) -> tuple[float, float]:
        """Probabilities of breaking and mending before the run at a place."""
        if at == 0:  # what came before the history may have broken it
            return min(breaks / max(mends, 1e-3), 0.5), mends
        if at < len(places):
            commit = self.commits[places[at]]
            if commit and commit == self.commits[places[at - 1]]:
                return 0.0, 0.0
        return breaks, mends

    def _streaks(self, rows: Mapping[str, int], healthy: int) -> Priors:
        """Estimate breaking and mending from streaks too long for most coins."""
        numbers: dict[object, int] = {}
        commit = [
            numbers.setdefault(name or (at,), len(numbers))
            for at, name in enumerate(self.commits)
        ]
        lengths: list[int] = []
        for row, count in rows.items():
            spans = [s.span() for s in re.finditer("F[F-]*", row)]
            if len(spans) > 3:
                continue
            for start, end in spans:
                length = len({commit[at] for at in range(start, end) if row[at] == "F"})
                if length >= _LONG:
                    lengths += [length] * count
        weight = self.priors.tests
        # As if one long streak had been seen in as many tests as the priors weigh.
        excess = 1 / self.priors.mends - 1
        mean = (sum(lengths) - _LONG * len(lengths) + excess) / (len(lengths) + 1)
        mends = 1 / (1 + max(mean, 0.1))
        steps = (sum(rows.values()) + healthy) * max(len(numbers), 1)
        believed = self.priors.breaks * weight * 10
        breaks = (len(lengths) / (1 - mends) ** (_LONG - 1) + believed) / (
            steps + weight * 10
        )
        return replace(self.priors, breaks=min(breaks, 0.2), mends=mends)

    def _disagreements(self, row: str) -> int:
        """Count disagreements between runs of one commit, outages left out.

        One failure beside a pass is one: the runs that passed are not flaky as well.
        """
        found: dict[str, list[int]] = {}
        if len(set(self.commits)) == len(self.commits):
            return 0
        for at, commit in enumerate(self.commits):
            if commit and row[at] != "-" and not (row[at] == "F" and self.outages[at]):
                found.setdefault(commit, [0, 0])[row[at] == "F"] += 1
        return sum(min(pair) for pair in found.values())


def _isolated(ran: str) -> int:
    return len(re.findall(r"(?<=[^F])F(?=[^F])", ran))


def _class(
    own: str, score: float, *, direct: int, isolated: int, enough: int
) -> FlakeClass:
    failures = own.count("F")
    if direct and score >= 0.5:
        return "flaky"
    if not failures:
        return "healthy" if len(own) >= enough else "not-enough-data"
    if own.endswith("F") and failures == len(own) - len(own.rstrip("F")):
        return "new-failure" if failures == 1 else "broken"
    if len(own) < enough:
        return "not-enough-data"
    if isolated == failures == 1:  # may be a quick repair
        return "not-enough-data"
    if score >= 0.5 and isolated:
        return "flaky" if isolated > 1 else "not-enough-data"
    return "broken" if own.endswith("F") else "fixed"


def learned(
    rows: Sequence[str], *, panel: Panel, healthy: int, seen: float
) -> list[Verdict]:
    """Learn from rows and judge each; verdicts in the order of the rows."""
    counted = Counter(rows)
    panel.learn(counted, healthy=healthy, seen=seen)
    made = {row: panel.verdict(row) for row in counted}
    return [made[row] for row in rows]
