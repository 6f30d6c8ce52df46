"""Cost of one turn with agents that do nothing, of the journal, and of the import.

python bench_overhead.py [--short] [--json FILE]
CPU time; peers as pinned in requirements.txt, interleaved, medians of rounds.
"""

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

TURNS = 100
KB = "x" * 1024


def cpu(fn):
    start = time.process_time()
    fn()
    return time.process_time() - start


def ours_turns(turns, journal=None, text="ping"):
    from maestro_orchestration_core import Agent, Persona, conversation

    count = 0

    def body(turn):
        nonlocal count
        count += 1
        return f"{count} {text}"

    pair = [Agent(Persona(name=n), body) for n in ("ping", "pong")]

    async def main():
        async with conversation(journal=journal) as turn:
            said = "go"
            for n in range(turns):
                said = (await turn.ask(pair[n % 2], said)).text

    asyncio.run(main())


def langgraph_turns(turns, path=None, text="ping"):
    import operator
    from typing import Annotated, TypedDict

    from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    from langgraph.graph import END, START, StateGraph

    class State(TypedDict):
        said: Annotated[list, operator.add]

    def build(saver):
        graph = StateGraph(State)
        for name, other in (("ping", "pong"), ("pong", "ping")):
            graph.add_node(name, lambda s: {"said": [f"{len(s['said'])} {text}"]})
            graph.add_conditional_edges(
                name, lambda s, o=other: END if len(s["said"]) >= turns else o
            )
        graph.add_edge(START, "ping")
        return graph.compile(checkpointer=saver)

    async def main():
        config = {"recursion_limit": turns + 10, "configurable": {"thread_id": "1"}}
        if path is None:
            await build(None).ainvoke({"said": []}, config)
            return
        async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
            await build(saver).ainvoke({"said": []}, config)

    asyncio.run(main())


def import_cpu(module):
    code = (
        "import time; a = time.process_time(); "
        f"import {module}; print(time.process_time() - a)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False
    )
    return float(done.stdout) if done.returncode == 0 else None


def size(path):
    return sum(p.stat().st_size for p in Path(path).parent.iterdir() if p.is_file())


def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def interleaved(rounds, ours, peer):
    left, right = [], []
    for _ in range(rounds):
        left.append(ours())
        right.append(peer() if peer else 0.0)
    return left, right


def row(work, unit, peer, left, right, target, scale):
    mine, theirs = statistics.median(left) * scale, statistics.median(right) * scale
    ratios = [a / b for a, b in zip(left, right, strict=True) if b]
    ratio = statistics.median(ratios) if ratios else None
    spread = max(ratios) - min(ratios) if ratios else 0.0
    return {
        "work": work, "unit": unit, "peer": peer, "peer_value": theirs, "ours": mine,
        "ratio": ratio, "spread": spread, "target": target,
        "met": None if target is None or ratio is None else ratio <= target,
        "direction": "lower",
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rounds = 3 if args.short else 7
    peers = ("langgraph", "agent-framework-core", "openai-agents")
    versions = {name: installed(name) or "not installed" for name in peers}
    has = versions["langgraph"] != "not installed"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        n = 0

        def fresh():
            nonlocal n
            n += 1
            path = Path(folder) / str(n)
            path.mkdir()
            return path / "r.db"

        ours_turns(10)
        if has:
            langgraph_turns(10)
        left, right = interleaved(
            rounds,
            lambda: cpu(lambda: ours_turns(TURNS)),
            (lambda: cpu(lambda: langgraph_turns(TURNS))) if has else None,
        )
        rows.append(
            row(
                "ping-pong turn in memory",
                "us",
                "langgraph",
                left,
                right,
                None,
                1e6 / TURNS,
            )
        )
        left, right = interleaved(
            rounds,
            lambda: cpu(lambda: ours_turns(TURNS, fresh())),
            (lambda: cpu(lambda: langgraph_turns(TURNS, fresh()))) if has else None,
        )
        rows.append(
            row(
                "ping-pong turn, SQLite",
                "us",
                "langgraph",
                left,
                right,
                1 / 7,
                1e6 / TURNS,
            )
        )
        path, theirs = fresh(), fresh()
        ours_turns(400, path, KB)
        if has:
            langgraph_turns(400, theirs, KB)
        rows.append(
            row("journal of 400 turns of 1 KB", "MB", "langgraph", [size(path)],
                [size(theirs) if has else 0], None, 1e-6)
        )  # fmt: skip
    modules = {"langgraph": "langgraph.graph", "agent-framework-core": "agent_framework",
               "openai-agents": "agents"}  # fmt: skip
    for name, module in modules.items():
        if versions[name] == "not installed":
            continue
        use = "maestro_orchestration_core._run"
        left, right = interleaved(
            rounds, lambda u=use: import_cpu(u), lambda m=module: import_cpu(m)
        )
        if None not in right:
            rows.append(
                row(
                    "import of everything a run needs",
                    "ms",
                    name,
                    left,
                    right,
                    0.5,
                    1e3,
                )
            )
    for r in rows:
        ratio = "-" if r["ratio"] is None else f"{r['ratio']:.3f}"
        print(
            f"{r['work']:34} {r['peer']:22} {r['peer_value']:10.2f} {r['ours']:10.2f} {r['unit']:3} ratio {ratio} met {r['met']}"
        )
    print(", ".join(f"{k} {v}" for k, v in versions.items()))
    if args.json:
        machine = {"python": platform.python_version(), "cpus": os.cpu_count()}
        found = {
            "benchmark": "overhead",
            "rows": rows,
            "versions": versions,
            "machine": machine,
        }
        args.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
