"""How well do scores find flaky tests? Average precision on histories of known truth.

    python bench_flaky.py [--short] [--json FILE]

Simulators give flaky tests a failure rate, add regressions that last, and outages that
hit many tests at once; then every score ranks the same tests. The rates are published:
W. Lam, S. Winter, A. Astorga, V. Stodden, D. Marinov, "Understanding Reproducibility
and Characteristics of Flaky Tests Through Test Reruns in Java Projects", ISSRE 2020,
repository TestingResearchIllinois/rerunning-no-tests, failRates.csv: 107 tests over
4,000 runs of their suites (the first simulator), and those of them that also failed
when run alone (the second). A third set has the shape that was measured on FlakeFlagger's
data (Alshammari et al., ICSE 2021; 10,000 runs): 55 % of the flaky tests fail in at most
1 of 100 runs; 37, 63 and 83 % of them fail at all in 30, 100 and 300 runs; of all
distributions that agree with these four figures, the one of largest entropy.

How often tests break and how outages look is assumed; the parameters are printed. The
oracle is the posterior of the generating model itself, with its true rates, outages
and chances: no score can do better on average. Seeds are fixed. AP is averaged over
the seeds.
"""

import argparse
import json
import math
import platform
import random
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import accumulate, pairwise

from maestro_test_result_aggregator import Priors, wilson
from maestro_test_result_aggregator._flaky import Panel, learned, outages
from maestro_test_result_aggregator.testing import Simulation, histories

# Failure rate: number of tests.
TOGETHER = {
    0.00025: 9, 0.0005: 8, 0.00075: 11, 0.001: 10, 0.00125: 1, 0.0015: 5, 0.00225:
    1, 0.0025: 1, 0.00275: 1, 0.00325: 1, 0.00375: 2, 0.004: 2, 0.00475: 2, 0.005:
    1, 0.00525: 2, 0.00625: 1, 0.0065: 1, 0.007: 2, 0.0075: 2, 0.008: 1, 0.01125: 2,
    0.01175: 1, 0.01225: 1, 0.01275: 1, 0.01425: 1, 0.0155: 2, 0.01575: 1, 0.016: 2,
    0.01625: 1, 0.017: 2, 0.01825: 2, 0.019: 1, 0.01925: 1, 0.02: 1, 0.02125: 1,
    0.0225: 1, 0.0235: 1, 0.02375: 1, 0.025: 3, 0.02525: 1, 0.027: 1, 0.02725: 2,
    0.0275: 1, 0.0295: 1, 0.03175: 1, 0.05: 2, 0.0505: 1, 0.1: 2, 0.11075: 1,
    0.11375: 1, 0.5: 2, 0.51: 1,
}  # fmt: skip
ALONE = {
    0.00025: 5, 0.001: 1, 0.0015: 1, 0.00175: 1, 0.002: 2, 0.003: 3, 0.00375: 1,
    0.00525: 1, 0.00775: 1, 0.008: 2, 0.00875: 1, 0.009: 1, 0.00975: 1, 0.01: 2,
    0.01025: 1, 0.01075: 4, 0.013: 1, 0.01525: 1, 0.02375: 1, 0.02675: 1, 0.028: 1,
    0.0295: 1, 0.0365: 1, 0.042: 1, 0.1485: 1, 0.15325: 1, 0.15725: 1, 0.158: 1,
    0.15875: 1, 0.161: 1, 0.16325: 1, 0.165: 2, 0.166: 1, 0.3905: 1, 0.5705: 1,
    0.5855: 1, 0.682: 1,
}  # fmt: skip
SHAPE = {"at most 0.01": 0.55, 30: 0.37, 100: 0.63, 300: 0.83}


def spread(counts: dict[float, int]) -> list[float]:
    return [rate for rate, count in sorted(counts.items()) for _ in range(count)]


def largest_entropy() -> list[float]:
    """200 quantiles of the distribution over 40 rates that agrees with SHAPE."""
    grid = [10 ** (-4 + i * (math.log10(0.9) + 4) / 39) for i in range(40)]
    features = [
        [float(p <= 0.01), *(1 - (1 - p) ** n for n in (30, 100, 300))] for p in grid
    ]
    goal, slopes = list(SHAPE.values()), [0.0] * 4
    for _ in range(20_000):
        weights = [math.exp(sum(map(float.__mul__, slopes, f))) for f in features]
        total = sum(weights)
        made = [
            sum(w * f[j] for w, f in zip(weights, features, strict=True)) / total
            for j in range(4)
        ]
        slopes = [s + 2 * (g - m) for s, g, m in zip(slopes, goal, made, strict=True)]
    reached = list(accumulate(weights))
    return [
        next(
            p
            for p, r in zip(grid, reached, strict=True)
            if r >= (i + 0.5) / 200 * total
        )
        for i in range(200)
    ]


def simulations() -> dict[str, Simulation]:
    together, alone, shape = spread(TOGETHER), spread(ALONE), largest_entropy()
    return {
        "first": Simulation(rates=together, tests=3000, flaky=0.036),
        "second": Simulation(
            rates=alone, tests=3000, flaky=0.02, regressions=0.1, commits_broken=8.0,
            outages=0.05, outage_share=0.3,
        ),
        "FlakeFlagger's shape": Simulation(rates=shape, tests=3000, flaky=0.036),
        "first, 2 runs a commit": Simulation(rates=together, tests=3000, flaky=0.036, per_commit=2),
        "first, 30 runs": Simulation(rates=together, tests=3000, flaky=0.036, runs=30),
        "first, 300 runs": Simulation(rates=together, tests=3000, flaky=0.036, runs=300),
    }  # fmt: skip


TARGETS = {"flip rate": 1.3, "failure rate, Wilson low": 2.5}
JUDGED = ("first", "second")


def entropy(failed: Sequence[bool]) -> float:
    p = sum(failed) / len(failed)
    return 0.0 if p in (0, 1) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)


def flips(failed: Sequence[bool]) -> float:
    return sum(a != b for a, b in pairwise(failed)) / (len(failed) - 1)


def allure(failed: Sequence[bool]) -> float:
    """Allure 3: fails now, and among the five before a pass is more recent than a failure."""
    last = list(failed[-6:-1])
    return float(failed[-1] and True in last and not last[-1])


PEERS: dict[str, Callable[[Sequence[bool]], float]] = {
    "failure rate": lambda f: sum(f) / len(f),
    "failure rate, Wilson low": lambda f: wilson(sum(f), len(f)).low if any(f) else 0.0,
    "flip rate": flips,
    "entropy": entropy,
    "entropy x flips": lambda f: entropy(f) * flips(f),
    "Allure 3's rule": allure,
}


def average_precision(scores: Sequence[float], truth: Sequence[bool]) -> float:
    """Ties count as their expected order: a run of equal scores shares its precision."""
    groups: dict[float, list[bool]] = {}
    for score, true in zip(scores, truth, strict=True):
        groups.setdefault(score, []).append(true)
    seen = hits = 0
    total = 0.0
    for score in sorted(groups, reverse=True):
        group = groups[score]
        good = sum(group)
        seen += len(group)
        hits += good
        total += good * hits / seen
    return total / max(sum(truth), 1)


def ours(simulation: Simulation, made: Sequence[list[bool]]) -> list[float]:
    """What the aggregator does with a history of these runs."""
    runs = range(simulation.runs)
    rows = ["".join(".F"[bad] for bad in failed) for failed in made]
    known = [row for row in rows if "F" in row]
    panel = Panel(
        outages=outages([sum(f[run] for f in made) for run in runs], [len(made)] * simulation.runs),
        commits=[str(run // simulation.per_commit) for run in runs],
        priors=Priors(),
    )  # fmt: skip
    verdicts = learned(
        known, panel=panel, healthy=len(rows) - len(known), seen=simulation.runs
    )
    found = dict(zip(known, verdicts, strict=True))
    return [found[row].score if row in found else 0.0 for row in rows]


def oracle(s: Simulation, seed: int, made: Sequence[list[bool]]) -> list[float]:
    """The posterior given the model that made the histories, and its outages."""
    rng = random.Random(seed)
    quiet = [1 - s.outage_share * (rng.random() < s.outages) for _ in range(s.runs)]
    counts: dict[float, float] = {0.0: 1 - s.flaky}
    for rate in s.rates:
        counts[rate] = counts.get(rate, 0.0) + s.flaky / len(s.rates)
    known: dict[tuple[bool, ...], float] = {}
    for failed in made:
        key = tuple(failed)
        if key not in known:
            logs = [
                likelihood(s, failed, quiet, rate) + math.log(w)
                for rate, w in counts.items()
            ]
            top = max(logs)
            parts = [math.exp(x - top) for x in logs]
            known[key] = 1 - parts[0] / sum(parts)
    return [known[tuple(failed)] if any(failed) else 0.0 for failed in made]


def likelihood(
    s: Simulation, failed: Sequence[bool], quiet: Sequence[float], rate: float
) -> float:
    """Log probability of a history, summed over every regression it may hold."""
    n = s.runs
    steps = [
        math.log(max(1 - (1 - rate) * q if bad else (1 - rate) * q, 1e-300))
        for bad, q in zip(failed, quiet, strict=True)
    ]
    sums = [0.0, *accumulate(steps)]
    cases = [math.log(1 - s.regressions) + sums[-1]]
    starts = range(0, n, s.per_commit)
    for start in starts:
        length = 1
        while all(failed[start : min(start + length * s.per_commit, n)]):
            end = min(start + length * s.per_commit, n)
            chance = (1 - 1 / s.commits_broken) ** (length - 1)
            if end < n:
                chance /= s.commits_broken
            cases.append(
                math.log(s.regressions / len(starts) * chance)
                + sums[start]
                + sums[-1]
                - sums[end]
            )
            if end == n:
                break
            length += 1
    top = max(cases)
    return top + math.log(sum(math.exp(case - top) for case in cases))


def scores(simulation: Simulation, seed: int) -> dict[str, float]:
    pairs = list(histories(simulation, seed=seed))
    truth, made = [flaky for flaky, _ in pairs], [failed for _, failed in pairs]
    result = {
        "ours": average_precision(ours(simulation, made), truth),
        "oracle": average_precision(oracle(simulation, seed, made), truth),
    }
    for name, peer in PEERS.items():
        result[name] = average_precision([peer(failed) for failed in made], truth)
    result["seen"] = sum(t and any(f) for t, f in pairs) / sum(truth)
    return result


def report(name: str, runs: Sequence[dict[str, float]]) -> list[dict[str, object]]:
    def mean(key: str) -> float:
        return sum(run[key] for run in runs) / len(runs)

    mine, rows = mean("ours"), []
    print(
        f"  {'ours':26}{mine:.3f}   (flaky tests that failed at all: {mean('seen'):.0%})"
    )
    for peer in ("oracle", *PEERS):
        value = mean(peer)
        ratios = sorted(run["ours"] / max(run[peer], 1e-9) for run in runs)
        target = TARGETS.get(peer) if name in JUDGED else None
        ratio = mine / max(value, 1e-9)
        met = None if target is None else ratio >= target
        told = (
            "" if target is None else f", target {target}x {'met' if met else 'MISSED'}"
        )
        print(f"  {peer:26}{value:.3f}   ours is {ratio:.2f}x{told}")
        rows.append({
            "work": f"average precision, {name}", "unit": "AP", "peer": peer, "peer_value": value,
            "ours": mine, "ratio": ratio, "spread": ratios[-1] - ratios[0], "target": target,
            "met": met, "direction": "higher",
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json")
    options = parser.parse_args()
    seeds = range(1, 3 if options.short else 11)
    rows: list[dict[str, object]] = []
    with ProcessPoolExecutor() as pool:  # nothing here is timed
        for name, simulation in simulations().items():
            told = repr(simulation).replace(
                repr(simulation.rates), f"<{len(simulation.rates)} rates>"
            )
            print(f"\n{name}: {told}, seeds {list(seeds)}", flush=True)
            rows += report(name, list(pool.map(partial(scores, simulation), seeds)))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"benchmark": "flaky", "rows": rows, "versions": {"python": sys.version.split()[0]},
                       "machine": {"machine": platform.machine(), "date": time.strftime("%Y-%m-%d")}}, file, indent=1)  # fmt: skip


if __name__ == "__main__":
    main()
