"""Overhead per no-op step against peers, planning, and big runs.

python bench_engine.py [--short] [--json FILE]

Each round runs every candidate once on the same graph (layers of 100, two needs each);
figures are medians, ratios are per round. Peers come from requirements.txt; one that
does not import is reported as not installed.
"""

import argparse
import json
import os
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path

from maestro_workflow_engine import Workflow, WorkflowEngine, step


@step
def noop(*before):
    return None


def shape(count, width=100):
    rng = random.Random(1)
    return [
        rng.sample(range(i - i % width - width, i - i % width), 2) if i >= width else []
        for i in range(count)
    ]


def workflow(needs):
    flow = Workflow("bench")
    refs = []
    for before in needs:
        refs.append(flow.add(noop, *[refs[b] for b in before]))
    return flow


def ours(executor, journal=None):
    def run(needs):
        flow = workflow(needs)
        began = time.perf_counter()
        with WorkflowEngine(executor, journal=journal and journal()) as engine:
            engine.run(flow).check()
        return time.perf_counter() - began

    return run


def plain(*before):
    return None


def dask_threaded(needs):
    from dask.threaded import get

    graph = {f"s{i}": (plain, *[f"s{b}" for b in n]) for i, n in enumerate(needs)}
    ends = [f"s{i}" for i in range(len(needs) - 100, len(needs))]
    began = time.perf_counter()
    get(graph, ends, num_workers=4)
    return time.perf_counter() - began


def graphlib_pool(needs):
    from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
    from graphlib import TopologicalSorter

    began = time.perf_counter()
    sorter = TopologicalSorter(dict(enumerate(needs)))
    sorter.prepare()
    with ThreadPoolExecutor(4) as pool:
        running = {}
        while sorter.is_active():
            for i in sorter.get_ready():
                running[pool.submit(plain)] = i
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                sorter.done(running.pop(future))
    return time.perf_counter() - began


def peer_or_none(name, run, needs):
    try:
        run(needs)
    except ImportError:
        print(f"{name}: not installed")
        return None
    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json")
    args = parser.parse_args()
    rounds, count = (3, 3_000) if args.short else (7, 10_000)
    needs = shape(count)
    folder = Path(tempfile.mkdtemp())
    number = iter(range(10**6))
    fresh = lambda: folder / f"{next(number)}.db"  # noqa: E731
    candidates = {
        "inline": ours("inline"),
        "threads": ours("threads:4"),
        "durable inline": ours("inline", fresh),
        "durable threads": ours("threads:4", fresh),
    }
    peers = {"dask threaded": dask_threaded, "graphlib+pool": graphlib_pool}
    peers = {n: r for n, r in peers.items() if peer_or_none(n, r, shape(300))}
    times = {name: [] for name in (*candidates, *peers)}
    for _ in range(rounds):
        order = [*candidates.items(), *peers.items()]
        random.shuffle(order)
        for name, run in order:
            times[name].append(run(needs) / count * 1e6)
    targets = {"inline": 5, "threads": 12, "durable inline": 20, "durable threads": 20}
    rows = []
    for name in candidates:
        for peer in peers:
            ratios = [a / b for a, b in zip(times[name], times[peer], strict=True)]
            own = statistics.median(times[name])
            rows.append(
                {
                    "work": f"no-op step, {name}", "unit": "us", "peer": peer,
                    "peer_value": statistics.median(times[peer]), "ours": own,
                    "ratio": statistics.median(ratios),
                    "spread": max(ratios) - min(ratios), "target": targets[name],
                    "met": own <= targets[name], "direction": "lower",
                }
            )  # fmt: skip
    big = workflow(shape(20_000 if args.short else 100_000))
    lengths = []
    for _ in range(3):
        big._graph = None  # planned anew each time
        began = time.perf_counter()
        big.plan(8).makespan(8)
        lengths.append(time.perf_counter() - began)
    rows.append(
        {
            "work": f"plan of {len(big)} steps", "unit": "s", "peer": "", "peer_value": None,
            "ours": min(lengths), "ratio": None, "spread": max(lengths) - min(lengths),
            "target": 0.5, "met": min(lengths) <= 0.5, "direction": "lower",
        }
    )  # fmt: skip
    for row in rows:
        peer = f"{row['peer']} {row['peer_value']:.1f}" if row["peer"] else ""
        print(f"{row['work']:28} {row['ours']:8.2f} {row['unit']:3} {peer}")
    result = {
        "benchmark": "engine", "rows": rows, "versions": {"python": platform.python_version()},
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
    }  # fmt: skip
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
