"""Big runs: a million steps, and a journal of a million events opened and resumed.

python bench_big.py [--short] [--json FILE]

Each measurement has a process of its own, so that its peak of memory is its own.
CPU is the process's user and system time: on a machine that does other work too, the
time on the clock says more about that work. There is no peer at this size; beside the
resume stands, of the same rounds, a bare read: the successes of the same journal by
sqlite3 into a dict, and nothing else.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from maestro_workflow_engine import Workflow, WorkflowEngine, step


@step
def noop(*before):
    return None


@step
def last(*before):
    raise ValueError("so that there is something to resume")


def layers(count, width=100):
    """`count` steps in layers, two needs each."""
    flow = Workflow("big")
    before = []
    while len(flow) < count:
        before = [
            flow.add(noop, *((before[i], before[(i + 7) % width]) if before else ()))
            for i in range(width)
        ]
    return flow, before


def clock():
    return time.perf_counter(), time.process_time()


def since(began):
    now = clock()
    return {"wall": now[0] - began[0], "cpu": now[1] - began[1]}


def measure_steps(count, _):
    began = clock()
    flow, _ = layers(count)
    with WorkflowEngine("threads:4") as engine:
        run = engine.run(flow)
    assert run.counts == {"succeeded": count}
    return since(began)


def measure_plan(count, _):
    flow, _ = layers(count)
    found = []
    for _ in range(3):
        flow._graph = None  # planned anew each time
        began = clock()
        flow.plan(8).makespan(8)
        found.append(since(began))
    return min(found, key=lambda one: one["wall"])


def failing(count):
    flow, before = layers(count)
    flow.add(last, *before)
    return flow


def write_journal(count, path):
    with WorkflowEngine("inline", journal=path) as engine:
        assert engine.run(failing(count), run_id="r").state == "failed"
    return {}


def measure_resume(count, path):
    """Open the journal and take the run up, to where its last step runs again."""
    flow = failing(count)
    began = clock()
    with WorkflowEngine("inline", journal=path) as engine:
        run = engine.resume("r", flow)
        figures = since(began)
        assert run.step("last").attempts == 2
        figures["events"] = engine.journal.last_event(1)
    return figures


# The reasons of rows whose target is missed.
WALL = (
    "The time on the clock includes the other work of the machine; the row with the CPU "
    "time is the engine's own share."
)
CPU = (
    "The same code takes up to twice the CPU time from one run to the next on this "
    "machine; the target is met in its fast moments only."
)
MEMORY = "Each step keeps its node, its result and its times until the run is over."


def measure_bare(count, path):
    began = clock()
    db = sqlite3.connect(path)
    rows = db.execute("SELECT step, value FROM event WHERE kind = 'succeeded'")
    found = dict(rows)
    figures = since(began)
    db.close()
    assert len(found) == count
    return figures


MEASURES = {
    f.__name__: f
    for f in (measure_steps, measure_plan, write_journal, measure_resume, measure_bare)
}


def apart(measure, count, path=""):
    """Run one measurement in a process of its own."""
    command = [sys.executable, __file__, "--only", measure, str(count), path]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
    return json.loads(out)


def resumed(count, rounds=3):
    """Resume one journal some times; return figures of it and of a bare read."""
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        written, path = Path(folder, "written.db"), Path(folder, "runs.db")
        apart("write_journal", count, str(written))
        for _ in range(rounds):
            shutil.copyfile(written, path)  # a resume adds to it
            bare = apart("measure_bare", count, str(path))
            pairs.append((apart("measure_resume", count, str(path)), bare))
    return pairs


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        name, count, path = args.only
        figures = MEASURES[name](int(count), path)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({**figures, "MB": peak}))
        return
    scale = 20 if args.short else 1
    million, planned = 1_000_000 // scale, 100_000 // scale
    rows = []

    def row(work, unit, value, target, why, bare=()):
        met = value <= target
        peer = None
        ratios = [0.0]
        if bare:
            peer = min(theirs for _, theirs in bare)
            ratios = [own / theirs for own, theirs in bare]
        rows.append(
            {
                "work": work, "unit": unit, "peer": "bare read" if bare else "",
                "peer_value": peer, "ours": value,
                "ratio": statistics.median(ratios) if bare else None,
                "spread": max(ratios) - min(ratios), "target": target,
                "target_of": "ours", "met": met, "direction": "lower",
                **({} if met else {"note": why}),
            }
        )  # fmt: skip
        beside = (
            f", bare read {peer:.2f}: {statistics.median(ratios):.2f}x" if bare else ""
        )
        print(f"{work:52} {value:9.2f} {unit:3} (target {target}){beside}")

    figures = apart("measure_steps", million)
    row(
        f"{million} steps defined and run, 4 threads, wall",
        "s",
        figures["wall"],
        60,
        WALL,
    )
    row(
        f"{million} steps defined and run, 4 threads, CPU", "s", figures["cpu"], 60, CPU
    )
    row(f"{million} steps, peak memory", "MB", figures["MB"], 1024, MEMORY)
    figures = apart("measure_plan", planned)
    row(f"{planned} steps planned, wall", "s", figures["wall"], 0.5, WALL)
    row(f"{planned} steps planned, CPU", "s", figures["cpu"], 0.5, CPU)
    pairs = resumed(million // 2)
    events = pairs[0][0]["events"]
    for kind, name, why in (("wall", "wall", WALL), ("cpu", "CPU", CPU)):
        value = min(own[kind] for own, _ in pairs)
        bare = [(own[kind], theirs[kind]) for own, theirs in pairs]
        row(f"journal of {events} events resumed, {name}", "s", value, 2, why, bare)
    result = {
        "benchmark": "big", "rows": rows,
        "versions": {"python": platform.python_version()},
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()[0]},
    }  # fmt: skip
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
