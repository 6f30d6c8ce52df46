"""Overhead per no-op step, against peers.

python bench_engine.py [--short] [--json FILE]

Each round runs every peer once, right after all our executors, so that a ratio is of
neighbours in time; all on graphs of one shape (layers of 100, two needs each), but
pydantic-graph, which has no such fan-in, runs a chain, and Prefect calls of a task in a
flow. The bare loop only calls the functions in an order that is right.
Figures are the least of the rounds, ratios the median of the rounds' ratios. Slow peers
get fewer steps.
Times are CPU of this process and its ended children per step: on a machine that does
other work too, the time on the clock says more about that work. Prefect's server, a
process of its own that goes on, is not in its figure. The clock is in the JSON as
`wall`. Peers come from requirements.txt; one that does not import is reported as not
installed.
"""

import argparse
import contextlib
import gc
import io
import json
import os
import platform
import random
import resource
import statistics
import tempfile
import time
import warnings
from dataclasses import dataclass
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


def clock():
    """The time on the clock, and the CPU of this process and its ended children."""
    used = [
        resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    return time.perf_counter(), sum(u.ru_utime + u.ru_stime for u in used)


def since(began):
    now = clock()
    return now[0] - began[0], now[1] - began[1]


def ours(executor, journal=None):
    def run(needs):
        flow = workflow(needs)
        began = clock()
        with WorkflowEngine(executor, journal=journal and journal()) as engine:
            engine.run(flow).check()
        return since(began)

    return run


def plain(*before):
    return None


def bare_loop(needs):
    """Call each step once its needs have results, and nothing else."""
    from collections import deque

    began = clock()
    waits = list(map(len, needs))
    after = [[] for _ in needs]
    for i, before in enumerate(needs):
        for b in before:
            after[b].append(i)
    results = [None] * len(needs)
    ready = deque(i for i, count in enumerate(waits) if not count)
    while ready:
        i = ready.popleft()
        results[i] = plain(*[results[b] for b in needs[i]])
        for other in after[i]:
            waits[other] -= 1
            if not waits[other]:
                ready.append(other)
    return since(began)


def dask_threaded(needs):
    from dask.threaded import get

    graph = {f"s{i}": (plain, *[f"s{b}" for b in n]) for i, n in enumerate(needs)}
    ends = [f"s{i}" for i in range(len(needs) - 100, len(needs))]
    began = clock()
    get(graph, ends, num_workers=4)
    return since(began)


def graphlib_pool(needs):
    from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
    from graphlib import TopologicalSorter

    began = clock()
    sorter = TopologicalSorter(dict(enumerate(needs)))
    sorter.prepare()
    with ThreadPoolExecutor(4) as pool:
        running = {}
        while sorter.is_active():
            for i in sorter.get_ready():
                running[pool.submit(plain)] = i
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                sorter.done(running.pop(future))
    return since(began)


def doit_run(needs):
    from doit.cmd_base import ModuleTaskLoader
    from doit.doit_cmd import DoitMain

    def tasks():
        for i, before in enumerate(needs):
            yield {
                "name": str(i), "actions": [(plain,)],
                "task_dep": [f"work:{b}" for b in before],
            }  # fmt: skip

    with tempfile.TemporaryDirectory() as folder:
        config = {"dep_file": f"{folder}/doit.db", "verbosity": 0, "reporter": "zero"}
        main = DoitMain(ModuleTaskLoader({"task_work": tasks, "DOIT_CONFIG": config}))
        began = clock()
        assert main.run(["run"]) == 0
        return since(began)


def luigi_run(needs):
    import luigi

    done = set()

    class Work(luigi.Task):
        number = luigi.IntParameter()

        def requires(self):
            return [Work(number=b) for b in needs[self.number]]

        def complete(self):
            return self.number in done

        def run(self):
            done.add(self.number)

    ends = [Work(number=i) for i in range(len(needs) - 100, len(needs))]
    began = clock()
    assert luigi.build(ends, local_scheduler=True, log_level="ERROR")
    return since(began)


def pydantic_graph_run(needs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its new builder has no such graphs
        from pydantic_graph import BaseNode, End, Graph

    @dataclass
    class Work(BaseNode[None, None, int]):
        left: int

        async def run(self, ctx) -> "Work | End[int]":
            return Work(self.left - 1) if self.left else End(0)

    graph = Graph(nodes=(Work,))
    began = clock()
    graph.run_sync(Work(len(needs)))
    return since(began)


def prefect_run(needs):
    from prefect import flow, task

    @task
    def work():
        return None

    @flow
    def everything():
        for _ in needs:
            work()

    began = clock()
    everything()
    return since(began)


def quiet_prefect(folder):
    """Prefect reads its settings when it is imported; its server is its own."""
    os.environ.update(
        PREFECT_HOME=str(folder), PREFECT_LOGGING_LEVEL="CRITICAL", DO_NOT_TRACK="1",
        PREFECT_LOGGING_TO_API_ENABLED="false",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS="120",
    )  # fmt: skip


# How many steps a peer gets: what it runs in about a second. The bare loop is no
# peer: no Python can do less, so it tells how fast the machine was in these rounds.
PEERS = {
    "bare loop": (bare_loop, 10_000),
    "dask threaded": (dask_threaded, 3_000),
    "graphlib+pool": (graphlib_pool, 10_000),
    "pydantic-graph": (pydantic_graph_run, 1_000),
    "doit": (doit_run, 1_000),
    "luigi": (luigi_run, 200),
    "Prefect": (prefect_run, 100),
}
# The reason of a row whose target is missed.
NOTE = (
    "The same code takes up to twice the CPU time from one run to the next on this "
    "machine; the ratios to the bare loop and to peers, of the same rounds, are steadier."
)
TARGETS = {"inline": 5, "threads": 12, "durable inline": 20, "durable threads": 20}


def measured(name, run, needs, times):
    """Note microseconds per step, by the clock and of CPU."""
    noise = io.StringIO()
    with contextlib.redirect_stdout(noise), contextlib.redirect_stderr(noise):
        wall, cpu = run(needs)
    times.setdefault(name, []).append((cpu / len(needs) * 1e6, wall / len(needs) * 1e6))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json")
    args = parser.parse_args()
    rounds, scale = (2, 10) if args.short else (15, 1)
    folder = Path(tempfile.mkdtemp())
    quiet_prefect(folder)
    number = iter(range(10**6))
    fresh = lambda: folder / f"{next(number)}.db"  # noqa: E731
    steps = shape(10_000)
    candidates = {
        "inline": (ours("inline"), steps),
        "threads": (ours("threads:4"), steps),
        "durable inline": (ours("inline", fresh), steps),
        "durable threads": (ours("threads:4", fresh), steps),
    }
    peers = {}
    for name, (run, count) in PEERS.items():
        try:
            measured(name, run, shape(200), {})  # also what it does only once
        except ImportError as error:
            print(f"{name}: not installed ({error})")
        else:
            peers[name] = (run, shape(max(100, count // scale)))
    gc.freeze()  # or each collection walks the peers' modules, for whom it meets
    times = {}
    for _ in range(rounds):
        for peer, (run, needs) in random.sample(list(peers.items()), len(peers)):
            for name, (own_run, own_needs) in candidates.items():
                measured((name, peer), own_run, own_needs, times)
            measured(peer, run, needs, times)
    rows = []
    for name in candidates:
        everywhere = [pair for peer in peers for pair in times[name, peer]]
        own = min(cpu for cpu, _ in everywhere)
        wall = min(wall for _, wall in everywhere)
        print(f"{name:20} {own:8.1f} us CPU, {wall:8.1f} us by the clock")
        for peer in peers:
            met = own <= TARGETS[name]
            ratios = [
                a[0] / b[0] for a, b in zip(times[name, peer], times[peer], strict=True)
            ]
            rows.append(
                {
                    "work": f"no-op step, {name}", "unit": "us", "peer": peer,
                    "peer_value": min(cpu for cpu, _ in times[peer]),
                    "peer_wall": min(wall for _, wall in times[peer]),
                    "ours": own, "wall": wall, "ratio": statistics.median(ratios),
                    "spread": max(ratios) - min(ratios), "target": TARGETS[name],
                    "target_of": "ours", "met": met, "direction": "lower",
                    **({} if met else {"note": NOTE}),
                }
            )  # fmt: skip
    for row in rows[: len(peers)]:
        print(
            f"{row['peer']:20} {row['peer_value']:8.1f} us CPU, {row['peer_wall']:8.1f} us by the clock"
        )
    result = {
        "benchmark": "engine", "rows": rows, "versions": {"python": platform.python_version()},
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
    }  # fmt: skip
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
