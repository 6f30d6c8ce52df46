"""Tests split into lists of about equal time.

Source: Graham, SIAM J. Appl. Math. 17 (1969), longest processing time first.
"""

import heapq
import statistics
from collections.abc import Mapping, Sequence

from ._store import History


def split(
    history: History, wanted: Sequence[str], count: int, *, together: bool, last: int
) -> list[list[str]]:
    """Split tests by the median duration of recent runs; `together` keeps files whole."""
    series: dict[int, list[float]] = {}
    for test, _, us in history.durations(history.runs(last=last)):
        series.setdefault(test, []).append(us / 1e6)
    names = history.keys()
    times = {names[test][0]: statistics.median(took) for test, took in series.items()}
    files = dict(names.values())
    groups = {t: files.get(t) or _group(t) for t in wanted} if together else {}
    return shards(
        {test: times[test] for test in wanted if test in times}, count,
        groups=groups, unseen=[test for test in wanted if test not in times],
    )  # fmt: skip


def _group(test: str) -> str:
    return test.rpartition("::")[0] or test.rpartition(".")[0] or test


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
    for total, tests in pieces:
        load, size, n = heapq.heappop(loads)
        made[n] += tests
        heapq.heappush(loads, (load + total, size + len(tests), n))
    return [sorted(tests) for tests in made]
