"""How well do scores find flaky tests? Average precision on histories of known truth.

    python bench_flaky.py [--short] [--json FILE]

Simulators draw flaky rates, add regressions that last, and outages that hit many
tests at once, then every score ranks the same tests. The rates are assumptions, not
a published data set: in the first simulator a bit over half of the flaky tests fail
in at most 1 of 100 runs and 3.6 % of the tests are flaky; the second has other rates,
longer regressions and more outages.
Seeds are fixed. AP is averaged over the seeds.
"""

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Sequence
from itertools import pairwise

from maestro_test_result_aggregator import Point, judge, wilson
from maestro_test_result_aggregator._stats import outage_weights
from maestro_test_result_aggregator.testing import Simulation, histories

# Log-uniform steps; 11 of 20 are at or under 1 %.
RATES = [0.0005, 0.001, 0.0015, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008, 0.01,
         0.015, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.35, 0.5]  # fmt: skip
SIMULATIONS = {
    "first": Simulation(rates=RATES, tests=3000, flaky=0.036),
    "first, 2 runs a commit": Simulation(rates=RATES, tests=3000, flaky=0.036, per_commit=2),
    "first, 30 runs": Simulation(rates=RATES, tests=3000, flaky=0.036, runs=30),
    "first, 300 runs": Simulation(rates=RATES, tests=3000, flaky=0.036, runs=300),
    "second": Simulation(
        rates=[0.003, 0.01, 0.02, 0.05, 0.1, 0.3], tests=3000, flaky=0.02, regressions=0.1,
        commits_broken=8.0, outages=0.05, outage_share=0.3,
    ),
}  # fmt: skip
TARGETS = {"flip rate": 1.3, "failure rate, Wilson low": 2.5}


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


def scores(simulation: Simulation, seed: int) -> dict[str, float]:
    made = list(histories(simulation, seed=seed))
    truth = [flaky for flaky, _ in made]
    shares = [
        sum(f[run] for _, f in made) / len(made) for run in range(simulation.runs)
    ]
    weights = outage_weights(shares)
    ours = [
        judge([
            Point(failed=bad, weight=weights[i],
                  commit=str(i // simulation.per_commit) if simulation.per_commit > 1 else "")
            for i, bad in enumerate(failed)
        ]).score
        for _, failed in made
    ]  # fmt: skip
    result = {"ours": average_precision(ours, truth)}
    for name, peer in PEERS.items():
        result[name] = average_precision([peer(f) for _, f in made], truth)
    result["seen"] = sum(t and any(f) for t, f in made) / sum(truth)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json")
    options = parser.parse_args()
    seeds = range(1, 3 if options.short else 6)
    rows = []
    for name, simulation in SIMULATIONS.items():
        print(f"\n{name}: {simulation}, seeds {list(seeds)}")
        runs = [scores(simulation, seed) for seed in seeds]
        ours = sum(r["ours"] for r in runs) / len(runs)
        print(
            f"  {'ours':26}{ours:.3f}   (flaky tests that failed at all: {sum(r['seen'] for r in runs) / len(runs):.0%})"
        )
        for peer in PEERS:
            value = sum(r[peer] for r in runs) / len(runs)
            ratios = sorted(r["ours"] / max(r[peer], 1e-9) for r in runs)
            target = TARGETS.get(peer) if name in ("first", "second") else None
            ratio = ours / max(value, 1e-9)
            print(
                f"  {peer:26}{value:.3f}   ours is {ratio:.2f}x"
                + (
                    ""
                    if target is None
                    else f", target {target}x {'met' if ratio >= target else 'MISSED'}"
                )
            )
            rows.append({
                "work": f"average precision, {name}", "unit": "AP", "peer": peer, "peer_value": value,
                "ours": ours, "ratio": ratio, "spread": ratios[-1] - ratios[0], "target": target,
                "met": None if target is None else ratio >= target, "direction": "higher",
            })  # fmt: skip
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"benchmark": "flaky", "rows": rows, "versions": {"python": sys.version.split()[0]},
                       "machine": {"machine": platform.machine(), "date": time.strftime("%Y-%m-%d")}}, file, indent=1)  # fmt: skip


if __name__ == "__main__":
    main()
