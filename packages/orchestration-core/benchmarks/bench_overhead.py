"""Cost of one turn with agents that do nothing, of the journal, and of the import.

python bench_overhead.py [--short] [--json FILE] [--crewai PYTHON]
CPU time; peers as pinned in requirements*.txt, interleaved in rounds. In each round
what is short is repeated, so that both meet the same noise. Figures are the least of
the rounds, ratios the median of the rounds' ratios.
CrewAI pins other versions of what the peers share and has an environment of its own;
tools/bench.py makes it and names it in BENCH_CREWAI. The short mode leaves it out.
"""

import argparse
import asyncio
import gc
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

TURNS = 400  # in memory; starting and ending an event loop is shared among them
DURABLE = 100  # what LangGraph writes grows with the square
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
    assert count == turns


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
            found = await build(None).ainvoke({"said": []}, config)
        else:
            async with AsyncSqliteSaver.from_conn_string(str(path)) as saver:
                found = await build(saver).ainvoke({"said": []}, config)
        assert len(found["said"]) == turns

    asyncio.run(main())


def framework_turns(turns):
    from agent_framework import Executor, WorkflowBuilder, WorkflowContext, handler

    count = 0

    class Player(Executor):
        @handler
        async def take(self, message: str, ctx: WorkflowContext[str]) -> None:
            nonlocal count
            count += 1
            if count < turns:
                await ctx.send_message(f"{count} ping")

    async def main():
        ping, pong = Player(id="ping"), Player(id="pong")
        made = WorkflowBuilder(start_executor=ping, max_iterations=turns + 10)
        await made.add_edge(ping, pong).add_edge(pong, ping).build().run("go")

    asyncio.run(main())
    assert count == turns


def sdk_turns(turns):
    from agents import Agent, ModelResponse, Runner, Usage, set_tracing_disabled
    from agents.models.interface import Model
    from openai.types.responses import ResponseOutputMessage, ResponseOutputText

    set_tracing_disabled(disabled=True)
    count = 0

    class Echo(Model):
        async def get_response(self, *args, **kwargs):
            nonlocal count
            count += 1
            text = ResponseOutputText(
                text=f"{count} ping", type="output_text", annotations=[]
            )
            message = ResponseOutputMessage(
                id="m", content=[text], role="assistant", status="completed",
                type="message",
            )  # fmt: skip
            return ModelResponse([message], Usage(), None)

        def stream_response(self, *args, **kwargs):
            raise NotImplementedError

    pair = [Agent(name=name, model=Echo()) for name in ("ping", "pong")]

    async def main():
        said = "go"
        for n in range(turns):
            said = (await Runner.run(pair[n % 2], said)).final_output

    asyncio.run(main())
    assert count == turns


CREWAI = """
import os, sys, time
os.environ |= {
    "CREWAI_DISABLE_TELEMETRY": "true", "OTEL_SDK_DISABLED": "true",
    "CREWAI_TRACING_ENABLED": "false", "CREWAI_DISABLE_VERSION_CHECK": "true",
}
from crewai import Agent, BaseLLM, Crew, Task
count = 0
class Echo(BaseLLM):
    def call(self, messages, *args, **kwargs):
        global count
        count += 1
        return f"Thought: I know it.\\nFinal Answer: {count} ping"
    def supports_function_calling(self): return False
    def get_context_window_size(self): return 8192
def one(name):
    return Agent(role=name, goal="say it", backstory="plays", llm=Echo(model="echo"))
pair = [one("ping"), one("pong")]
def play(turns):
    tasks = [
        Task(description="say it", expected_output="a word", agent=pair[n % 2])
        for n in range(turns)
    ]
    Crew(agents=pair, tasks=tasks).kickoff()
play(4)
count, start = 0, time.process_time()
play(int(sys.argv[1]))
assert count == int(sys.argv[1])
print()
print(time.process_time() - start)
"""
CREWAI_TURNS = 40


def crewai_turn(python):
    """Return the CPU seconds of one turn, without the start of the interpreter."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [python, "-c", CREWAI, str(CREWAI_TURNS)], capture_output=True,
            encoding="utf-8", check=True, timeout=300, env=os.environ | {"HOME": home},
        )  # fmt: skip
    return float(done.stdout.split()[-1]) / CREWAI_TURNS


MEMORY = {
    "langgraph": langgraph_turns,
    "agent-framework-core": framework_turns,
    "openai-agents": sdk_turns,
}
REPEATS, ENOUGH_S = 60, 0.5
# The import as it is written, and with the names that a program begins with:
# this package and the Agent Framework load those on first use.
IMPORTS = {
    "import": {
        "ours": "import maestro_orchestration_core",
        "langgraph": "import langgraph.graph",
        "agent-framework-core": "import agent_framework",
        "openai-agents": "import agents",
        "crewai": "import crewai",
    },
    "import of what a run needs": {
        "ours": "from maestro_orchestration_core import Agent, Orchestrator, Persona, Plan",
        "langgraph": "from langgraph.graph import END, START, StateGraph",
        "agent-framework-core": "from agent_framework import Executor, WorkflowBuilder",
        "openai-agents": "from agents import Agent, Runner",
        "crewai": "from crewai import Agent, Crew, Task",
    },
}
PEERS = ("langgraph", "agent-framework-core", "openai-agents", "crewai")


def import_cpu(statement, python=sys.executable):
    code = (
        "import time; a = time.process_time(); "
        f"{statement}; print(time.process_time() - a)"
    )
    done = subprocess.run(
        [python, "-c", code], capture_output=True, encoding="utf-8", check=True,
        timeout=120,
    )  # fmt: skip
    return float(done.stdout.split()[-1])


def size(path):
    return sum(p.stat().st_size for p in Path(path).parent.iterdir() if p.is_file())


def installed(name, python=None):
    if python:
        code = f"from importlib.metadata import version; print(version({name!r}))"
        done = subprocess.run(
            [python, "-c", code], capture_output=True, encoding="utf-8", check=False
        )
        return done.stdout.strip() or None
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def measured(work, unit, peer, scale, rounds, ours, theirs, **goal):
    """Return a row of interleaved rounds; without `theirs` the peer is not there."""
    left, right = [], []
    for _ in range(rounds):
        left.append(average(ours) * scale)
        right.append(average(theirs) * scale if theirs else None)
    return row(work, unit, peer, left, right if theirs else [], **goal)


def average(work):
    """Return the CPU seconds of some work, which is repeated for half a second."""
    spent, began = [], time.perf_counter()
    while len(spent) < REPEATS and time.perf_counter() - began < ENOUGH_S:
        spent.append(work())
    return statistics.mean(spent)


def row(work, unit, peer, left, right, target=None, target_of="ratio"):
    mine = min(left)
    ratios = [a / b for a, b in zip(left, right, strict=False)]
    ratio = statistics.median(ratios) if ratios else None
    judged = mine if target_of == "ours" else ratio
    return {
        "work": work, "unit": unit, "peer": peer,
        "peer_value": min(right) if right else None, "ours": mine,
        "ratio": ratio, "spread": max(ratios) - min(ratios) if ratios else None,
        "target": target, "target_of": target_of,
        "met": None if target is None or judged is None else judged <= target,
        "direction": "lower", "note": "" if right else "not installed",
    }  # fmt: skip


def measure(rounds, imports, versions, crewai):
    """Return all rows.

    Args:
        rounds: of turns; CrewAI takes three.
        imports: rounds of imports.
        versions: of the peers.
        crewai: the Python of its environment; None leaves it out.
    """
    rows = []
    with tempfile.TemporaryDirectory() as folder:

        def fresh():
            return Path(tempfile.mkdtemp(dir=folder)) / "r.db"

        ours_turns(TURNS)
        for peer, play in MEMORY.items():
            if versions[peer] != "not installed":
                play(10)
        gc.collect()
        gc.freeze()  # else each turn pays for the modules of all peers
        for peer, play in MEMORY.items():
            there = versions[peer] != "not installed"
            rows.append(
                measured(
                    "ping-pong turn in memory", "us", peer, 1e6 / TURNS, rounds,
                    lambda: cpu(lambda: ours_turns(TURNS)),
                    (lambda p=play: cpu(lambda: p(TURNS))) if there else None,
                    target=20.0, target_of="ours",
                )
            )  # fmt: skip
        if crewai:
            rows.append(
                measured(
                    "ping-pong turn in memory", "us", "crewai", 1e6, 3,
                    lambda: cpu(lambda: ours_turns(TURNS)) / TURNS,
                    (lambda: crewai_turn(crewai))
                    if versions["crewai"] != "not installed" else None,
                    target=20.0, target_of="ours",
                )
            )  # fmt: skip
        graph = versions["langgraph"] != "not installed"
        rows.append(
            measured(
                "ping-pong turn, SQLite", "us", "langgraph", 1e6 / DURABLE, rounds,
                lambda: cpu(lambda: ours_turns(DURABLE, fresh())),
                (lambda: cpu(lambda: langgraph_turns(DURABLE, fresh())))
                if graph else None,
                target=1 / 7,
            )
        )  # fmt: skip
        mine, theirs = fresh(), fresh()
        ours_turns(400, mine, KB)
        if graph:
            langgraph_turns(400, theirs, KB)
        rows.append(
            row(
                "journal of 400 turns of 1 KB", "MB", "langgraph", [size(mine) / 1e6],
                [size(theirs) / 1e6] if graph else [], target=1.0, target_of="ours",
            )
        )  # fmt: skip
    for work, statements in IMPORTS.items():
        for name in PEERS if crewai else PEERS[:-1]:
            python = crewai if name == "crewai" else sys.executable
            there = versions[name] != "not installed"
            mine, theirs = statements["ours"], statements[name]
            rows.append(
                measured(
                    work, "ms", name, 1e3, 3 if name == "crewai" else imports,
                    lambda s=mine: import_cpu(s),
                    (lambda s=theirs, p=python: import_cpu(s, p)) if there else None,
                    target=0.5,
                )
            )  # fmt: skip
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    crewai = None if args.short else os.environ.get("BENCH_CREWAI")
    versions = {
        name: installed(name, crewai if name == "crewai" else None) or "not installed"
        for name in PEERS
    }
    rounds, imports = (3, 2) if args.short else (7, 5)
    rows = measure(rounds, imports, versions, crewai)
    for r in rows:
        theirs = "-" if r["ratio"] is None else f"{r['peer_value']:10.2f}"
        ratio = "-" if r["ratio"] is None else f"{r['ratio']:.4f}"
        print(
            f"{r['work']:34} {r['peer']:22} {theirs:>10} {r['ours']:10.2f} "
            f"{r['unit']:3} ratio {ratio} met {r['met']} {r['note']}"
        )
    print(", ".join(f"{k} {v}" for k, v in versions.items()))
    if args.json:
        machine = {"python": platform.python_version(), "cpus": os.cpu_count()}
        found = {"benchmark": "overhead", "rows": rows, "versions": versions,
                 "machine": machine}  # fmt: skip
        args.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
