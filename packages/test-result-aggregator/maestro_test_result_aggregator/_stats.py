"""Statistics that hold with little data: intervals and durations.

Sources: Wilson, JASA 22 (1927), for the interval; Rousseeuw and Croux, JASA 88 (1993),
for the median absolute deviation.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


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
