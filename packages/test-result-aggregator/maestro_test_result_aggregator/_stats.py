"""Statistics that hold with little data: intervals, flakiness, durations.

Flakiness is a Bayes factor. A flaky test fails like a coin, each run by itself; a
broken one stays broken until somebody mends it. So each history is weighed under two
models: independent failures with a Beta prior on the rate, and a sticky two-state
Markov chain with Beta priors on breaking and mending. A failure counts less the more
tests failed in the same run, since then the run was at fault (an outage). Runs of one
commit that disagree, and retries that recovered, are direct evidence.

Sources: Wilson, JASA 22 (1927), for the interval; Kass and Raftery, "Bayes Factors",
JASA 90 (1995); Kowalczyk et al., ICSE-SEIP 2020, and Machalica et al. (Meta, 2020)
for version-aware and probabilistic flakiness; Rousseeuw and Croux, JASA 88 (1993),
for the median absolute deviation.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

FlakeClass = Literal[
    "flaky", "broken", "new-failure", "fixed", "outage", "not-enough-data", "healthy"
]


@dataclass(frozen=True, slots=True)
class Interval:
    """A rate and the bounds it lies between with 95% confidence."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.1%} ({self.low:.1%} to {self.high:.1%})"


def wilson(failures: float, runs: float, *, z: float = 1.959964) -> Interval:
    """Return the failure rate with Wilson's interval; without runs it is 0 to 1."""
    if runs <= 0:
        return Interval(0.0, 0.0, 1.0)
    rate = failures / runs
    scale = 1 + z * z / runs
    middle = (rate + z * z / (2 * runs)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / runs + z * z / (4 * runs * runs))
    return Interval(rate, max(0.0, middle - half), min(1.0, middle + half))


@dataclass(frozen=True, slots=True, kw_only=True)
class Priors:
    """What is believed of tests before their history is seen.

    Attributes:
        coin: Beta prior on the failure rate of a flaky test; most fail rarely.
        breaks: Beta prior on a healthy test breaking between two runs.
        mends: Beta prior on a broken test being mended between two runs.
        flaky: Odds that a test that has failed is flaky, before its history is seen.
        direct: Log odds for each disagreement on one commit or recovered retry.
    """

    coin: tuple[float, float] = (1.0, 3.0)
    breaks: tuple[float, float] = (0.2, 20.0)
    mends: tuple[float, float] = (1.0, 3.0)
    flaky: float = 0.5
    direct: float = 2.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One run of a test, for the statistics.

    Attributes:
        failed: Whether its last attempt failed.
        recovered: Whether it passed after a failed attempt.
        weight: How much a failure counts, 0 to 1; less in an outage.
        commit: What was tested; "" if not known.
    """

    failed: bool
    recovered: bool = False
    weight: float = 1.0
    commit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a history says of one test.

    Attributes:
        score: Probability that it is flaky, given the priors; 0 to 1.
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


def outage_weights(shares: Sequence[float]) -> list[float]:
    """Return what a failure in each run counts, from the share of tests that failed.

    A failure counts fully in a usual run, and less in proportion to how far the run's
    share is above twice the median of the runs with failures.
    """
    positive = [share for share in shares if share > 0]
    if not positive:
        return [1.0] * len(shares)
    usual = 2 * statistics.median(positive)
    return [min(1.0, usual / share) if share > 0 else 1.0 for share in shares]


def judge(
    history: Sequence[Point], *, priors: Priors | None = None, enough: int = 10
) -> Verdict:
    """Weigh one history, oldest run first.

    Args:
        history: One point a run in which the test ran.
        priors: Beliefs to start from.
        enough: Runs under which a class is given on direct evidence only.
    """
    priors = priors or Priors()
    failures = sum(p.failed for p in history)
    retries = sum(p.weight for p in history if p.recovered)
    same = _same_commit(history)
    isolated = sum(
        p.failed and not history[i].failed and not history[i + 2].failed
        for i, p in enumerate(history[1:-1])
    )
    direct = priors.direct * (retries + same)
    weight = sum(p.weight for p in history if p.failed)
    score = 0.0
    if failures or retries:
        score = _logistic(
            math.log(priors.flaky) + _log_factor(history, priors) + direct
        )
    evidence = []
    if isolated:
        evidence.append(f"failed alone {isolated}x")
    if same:
        evidence.append(f"same commit disagreed {math.ceil(same)}x")
    recovered = sum(p.recovered for p in history)
    if recovered:
        evidence.append(f"recovered on retry {recovered}x")
    if failures and weight < failures / 2:
        evidence.append(f"{failures - round(weight)} failures in outages")
    return Verdict(
        score=score, rate=wilson(failures, len(history)), evidence=tuple(evidence),
        class_=_class(history, score, weight, direct, isolated, enough),
        isolated=isolated, failures=failures, seen=len(history),
    )  # fmt: skip


def _log_factor(history: Sequence[Point], priors: Priors) -> float:
    """Log Bayes factor of independent failures against a sticky state."""
    bad = good = 0.0
    breaks = stays = mends = remains = 0.0
    before: Point | None = None
    for point in history:
        if point.failed:
            bad += point.weight
        else:
            good += 1.0
        if before is not None:
            if before.failed:
                both = (
                    min(before.weight, point.weight) if point.failed else before.weight
                )
                if point.failed:
                    remains += both
                else:
                    mends += both
            elif point.failed:
                breaks += point.weight
            else:
                stays += 1.0
        elif point.failed:
            breaks += point.weight
        before = point
    coin = _log_beta(priors.coin, bad, good)
    sticky = _log_beta(priors.breaks, breaks, stays) + _log_beta(
        priors.mends, mends, remains
    )
    return coin - sticky


def _log_beta(prior: tuple[float, float], hits: float, misses: float) -> float:
    a, b = prior
    return (
        math.lgamma(a + hits) + math.lgamma(b + misses) - math.lgamma(a + b + hits + misses)
        - math.lgamma(a) - math.lgamma(b) + math.lgamma(a + b)
    )  # fmt: skip


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def _same_commit(history: Sequence[Point]) -> float:
    """Count disagreements between runs of one commit, outages discounted.

    One disagreement is one failure beside a pass: the runs that passed are not
    counted as flaky as well.
    """
    commits: dict[str, tuple[float, int]] = {}
    for point in history:
        if point.commit:
            bad, good = commits.get(point.commit, (0.0, 0))
            commits[point.commit] = (
                bad + point.weight * point.failed,
                good + (not point.failed),
            )
    return sum(min(bad, good) for bad, good in commits.values())


def _class(
    history: Sequence[Point],
    score: float,
    weight: float,
    direct: float,
    isolated: int,
    enough: int,
) -> FlakeClass:
    failures = sum(p.failed for p in history)
    if direct >= 1.0 and score >= 0.5:
        return "flaky"
    if not failures:
        return "healthy" if len(history) >= enough else "not-enough-data"
    if weight < 0.5 * failures and weight < 1.0:
        return "outage"
    if history[-1].failed and failures == _tail(history):
        return "new-failure" if failures == 1 else "broken"
    if len(history) < enough:
        return "not-enough-data"
    if score >= 0.5 and isolated:  # once alone may be chance, or a quick repair
        return "flaky" if isolated > 1 else "not-enough-data"
    return "broken" if history[-1].failed else "fixed"


def _tail(history: Sequence[Point]) -> int:
    """Count the failures at the end."""
    count = 0
    for point in reversed(history):
        if not point.failed:
            break
        count += 1
    return count


@dataclass(frozen=True, slots=True, kw_only=True)
class DurationChange:
    """A test that became slower or faster.

    Attributes:
        before: Median seconds of the runs before.
        after: Median seconds of the recent runs.
        ratio: after / before.
        score: Distance in robust standard deviations of the logarithm.
    """

    test: str
    before: float
    after: float
    ratio: float
    score: float


def duration_change(
    test: str, seconds: Sequence[float], *, recent: int = 5, factor: float = 1.3,
    at_least: float = 0.1, deviations: float = 4.0,
) -> DurationChange | None:  # fmt: skip
    """Tell whether the recent runs of a test differ from those before.

    Compares medians of logarithms; the spread is the median absolute deviation of the
    runs before, and never under 2 %, so that a steady test is not noise-sensitive.

    Args:
        test: Its id, for the answer.
        seconds: Durations of passed runs, oldest first.
        recent: How many of the last ones are recent.
        factor: Smallest ratio, either way, that is reported.
        at_least: Smallest difference in seconds that is reported.
        deviations: Smallest distance in robust standard deviations.
    """
    base, now = seconds[:-recent], seconds[-recent:]
    if len(base) < recent or len(now) < recent:
        return None
    logs = [math.log(max(s, 1e-6)) for s in base]
    middle = statistics.median(logs)
    spread = max(1.4826 * statistics.median(abs(x - middle) for x in logs), 0.02)
    before, after = statistics.median(base), statistics.median(now)
    ratio = max(after, 1e-6) / max(before, 1e-6)
    score = (math.log(max(after, 1e-6)) - middle) / spread
    if (
        abs(after - before) < at_least
        or abs(math.log(ratio)) < math.log(factor)
        or abs(score) < deviations
    ):
        return None
    return DurationChange(
        test=test, before=before, after=after, ratio=ratio, score=score
    )


def shards(
    durations: Mapping[str, float], count: int, *, groups: Mapping[str, str] | None = None,
    unseen: Sequence[str] = (),
) -> list[list[str]]:  # fmt: skip
    """Split tests into `count` lists of about equal time, none empty while tests last.

    Longest processing time first (Graham, SIAM J. Appl. Math. 17, 1969), by group, so
    that fixtures of a file are set up once. Deterministic. A group that alone is over
    its fair share is split.

    Args:
        durations: Seconds by test.
        count: Number of shards.
        groups: Group of each test, such as its file.
        unseen: Tests without a duration; each takes the mean of its group, or of all.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    groups = groups or {}
    times = dict(durations)
    mean = statistics.fmean(times.values()) if times else 1.0
    bundles: dict[str, list[str]] = {}
    for test in times:
        bundles.setdefault(groups.get(test, test), []).append(test)
    means = {
        g: statistics.fmean(times[t] for t in tests) for g, tests in bundles.items()
    }
    for test in unseen:
        if test not in times:
            group = groups.get(test, test)
            times[test] = means.get(group, mean)
            bundles.setdefault(group, []).append(test)
    fair = sum(times.values()) / count
    pieces: list[tuple[float, list[str]]] = []
    for _, tests in sorted(bundles.items()):
        total = sum(times[t] for t in tests)
        if (total > fair or len(bundles) < count) and len(tests) > 1:
            pieces += [(times[t], [t]) for t in tests]
        else:
            pieces.append((total, tests))
    pieces.sort(key=lambda piece: (-piece[0], piece[1][0]))
    loads = [(0.0, 0, n) for n in range(count)]
    made: list[list[str]] = [[] for _ in range(count)]
    import heapq

    for total, tests in pieces:
        load, size, n = heapq.heappop(loads)
        made[n] += tests
        heapq.heappush(loads, (load + total, size + len(tests), n))
    return [sorted(tests) for tests in made]
