"""How much longer a plan is than the proven optimum, beside the orders of peers.

python bench_makespan.py [--short] [--json FILE]

The Standard Task Graph Set (Kasahara Laboratory, Waseda University) with its proven
optima for 2, 4, 8 and 16 workers stands beside the repository, in shared/data/stg;
without it there is nothing to measure. A peer is the order in which it would start
ready steps, on the same simulated workers; it needs no clock, so that there are no
rounds and no noise. Every second case is measured, in the short mode every twelfth;
the drills search all.
"""

import argparse
import heapq
import importlib.metadata
import json
import statistics
from pathlib import Path

from maestro_workflow_engine import Workflow, step

STG = Path(__file__).resolve().parents[4] / "shared" / "data" / "stg"
CRITICAL_PATH, BEST_OF_32 = 0.5, 0.2  # percent over the optimum, at most


def graphs():
    """Return the durations and needs of each graph by name."""
    found = {}
    for size in (50, 100):
        texts = json.loads((STG / f"graphs-{size}.json").read_text(encoding="utf-8"))
        for name, text in texts.items():
            lines = [line.split() for line in text.splitlines() if line[0] != "#"]
            steps = [fields for fields in lines[1:] if len(fields) >= 3]
            durations = [float(fields[1]) for fields in steps]
            needs = [[int(x) for x in f[3 : 3 + int(f[2])]] for f in steps]
            found[f"{size}/{name}"] = durations, needs
    return found


def workflow(durations, needs):
    flow, refs = Workflow("stg"), []
    for i, (length, before) in enumerate(zip(durations, needs, strict=True)):
        one = step(name=f"s{i}", estimate=length)(lambda *a: None)
        refs.append(flow.add(one, *[refs[b] for b in before]))
    return flow


def list_schedule(durations, needs, workers, rank):
    """Return the makespan where a free worker takes the ready step of lowest rank."""
    left = [len(before) for before in needs]
    after = [[] for _ in needs]
    for i, before in enumerate(needs):
        for b in before:
            after[b].append(i)
    now, ready, running, arrived = 0.0, [], [], 0
    for i in (i for i, count in enumerate(left) if not count):
        heapq.heappush(ready, (rank(i, arrived), i))
        arrived += 1
    while ready or running:
        while ready and len(running) < workers:
            _, i = heapq.heappop(ready)
            heapq.heappush(running, (now + durations[i], i))
        now, ended = heapq.heappop(running)
        for i in after[ended]:
            left[i] -= 1
            if not left[i]:
                heapq.heappush(ready, (rank(i, arrived), i))
                arrived += 1
    return now


def first_ready(durations, needs, workers):
    return list_schedule(durations, needs, workers, lambda _, arrived: arrived)


def dask_order(durations, needs, workers):
    from dask.order import order

    graph = {i: (max, *before) for i, before in enumerate(needs)}
    rank = order(graph)
    return list_schedule(durations, needs, workers, lambda i, _: rank[i])


def waves(durations, needs, workers):
    """Each level on all workers, then wait for all of it."""
    level = []
    for before in needs:
        level.append(1 + max((level[b] for b in before), default=-1))
    total = 0.0
    for one in range(max(level) + 1):
        free = [0.0] * workers
        for i, where in enumerate(level):
            if where == one:
                heapq.heapreplace(free, free[0] + durations[i])
        total += max(free)
    return total


PEERS = {
    "graphlib+pool": first_ready,
    "dask.order": dask_order,
    "waves": waves,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = measure(12 if args.short else 2) if STG.is_dir() else []
    if not rows:
        print(f"the Standard Task Graph Set is not at {STG.parent.name}/{STG.name}")
    for row in rows:
        print(
            f"{row['work']:44} {row['peer']:14} {row['peer_value']:6.2f} %  "
            f"ours {row['ours']:5.2f} %  met {row['met']}"
        )
    if args.json:
        versions = {"dask": importlib.metadata.version("dask")}
        found = {"benchmark": "makespan", "rows": rows, "versions": versions}
        args.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


def measure(every):
    """Return a row for each of our two plans and each peer: means over the cases."""
    table = json.loads((STG / "optimum.json").read_text(encoding="utf-8"))
    cases = [(name, m, low) for name, m, low, high, _ in table if low == high]
    made = {name: (*graph, workflow(*graph)) for name, graph in graphs().items()}
    over = {name: [] for name in ("plan", "search", *PEERS)}
    for name, workers, best in cases[::every]:
        durations, needs, flow = made[name]
        lengths = {
            "plan": flow.plan(workers).makespan(workers),
            "search": flow.plan(workers, search=32).makespan(workers),
        }
        for peer, schedule in PEERS.items():
            lengths[peer] = schedule(durations, needs, workers)
        for who, length in lengths.items():
            assert length >= best, (name, workers, who)
            over[who].append(100 * (length / best - 1))
    mean = {who: statistics.fmean(found) for who, found in over.items()}
    works = {
        "makespan over the optimum": ("plan", CRITICAL_PATH),
        "makespan over the optimum, best of 32 plans": ("search", BEST_OF_32),
    }
    return [
        {
            "work": work, "unit": "%", "peer": peer, "peer_value": mean[peer],
            "ours": mean[who], "ratio": mean[who] / mean[peer], "spread": 0.0,
            "target": target, "target_of": "ours", "met": mean[who] <= target,
            "direction": "lower",
        }
        for work, (who, target) in works.items()
        for peer in PEERS
    ]  # fmt: skip


if __name__ == "__main__":
    main()
