"""kill -9 at every boundary of the journal, full disks, newer versions."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from maestro_orchestration_core import (
    Budget,
    Journal,
    Orchestrator,
    Plan,
    Task,
    errors,
)

from .conftest import agent

# Runs alone in a process: kills itself at event k, is run again until it is done.
CHILD = textwrap.dedent(
    """
    import asyncio, json, os, signal, sys
    from maestro_orchestration_core import *

    kind, folder, when, first, last, step = sys.argv[1:]
    effect = "unsafe" if kind == "unsafe" else "pure"

    def log(line):
        fd = os.open(f"{folder}/calls", os.O_APPEND | os.O_CREAT | os.O_WRONLY)
        os.write(fd, (line + chr(10)).encode())
        os.close(fd)

    class Model:
        name = "m"
        async def complete(self, request):
            text = request.messages[-1]["content"]
            log(text)
            return Reply("answer to " + text, usage=Usage(input_tokens=10, output_tokens=5))

    async def mail(turn):
        log("mail " + turn.task)
        return "sent"

    def build(k):
        def fault(seq, moment):
            if seq == k and moment == when:
                os.kill(os.getpid(), signal.SIGKILL)
        agents = [Agent(Persona(name="m"), Model()),
                  Agent(Persona(name="mailer"), mail, effect=effect)]
        return Orchestrator(agents, journal=f"{folder}/{k}.db", workers=2,
                            budget=Budget(tokens=60, mode="warn", warn=[0.5]),
                            fault=fault if k else None)

    plan = Plan([Task("a", "A", agent="m"), Task("b", "B", agent="m"),
                 Task("c", "C", agent="m", after=["a"]),
                 Task("mail", agent="mailer", after=["a"]),
                 Task("d", "D", agent="m", after=["b", "c"])])

    def forked(fn):
        pid = os.fork()
        if pid == 0:
            try:
                fn()
            except BaseException as error:
                print(repr(error), file=sys.stderr)
                os._exit(1)
            os._exit(0)
        return os.waitpid(pid, 0)[1]

    def once(k, fault):
        maestro = build(k)
        if not fault:
            maestro.fault = None
        report = asyncio.run(maestro.run(plan, run_id="r"))
        json.dump([report.digest, report.why(), report.status],
                  open(f"{folder}/{k}.json", "w"))

    for k in range(int(first), int(last), int(step)):
        open(f"{folder}/calls", "w").close()
        status = forked(lambda: once(k, True))
        crashed = os.WIFSIGNALED(status)
        before = open(f"{folder}/calls").read().split(chr(10))[:-1]
        if crashed:
            journal = Journal(f"{folder}/{k}.db")
            done = [e for e in journal.events("r") if e.type == "turn.completed"]
            known = sorted(e.task for e in done)
            started = [e for e in journal.events("r")
                       if e.type == "turn.started" and e.task == "mail"]
            journal.close()
            assert forked(lambda: once(k, False)) == 0
        else:
            known, started = [], []
        calls = open(f"{folder}/calls").read().split(chr(10))[:-1]
        result = json.load(open(f"{folder}/{k}.json"))
        journal = Journal(f"{folder}/{k}.db")
        warnings = sum(e.type == "budget.warning" and e.data["share"] == 0.5
                       for e in journal.events("r"))
        journal.close()
        print(json.dumps({"k": k, "crashed": crashed, "known": known,
                          "in_doubt": bool(started) and "mail" not in known,
                          "before": before, "after": calls[len(before):],
                          "result": result, "warnings": warnings}), flush=True)
        if not crashed:
            break
    """
)


def drive(tmp_path: Path, kind: str, when: str, first: int, last: int, step: int):
    """Return what the child prints, one dict per boundary."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, kind, str(tmp_path), when,
         str(first), str(last), str(step)],
        capture_output=True, encoding="utf-8", check=False, cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "PYTHONWARNDEFAULTENCODING"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


PROMPT = {"a": "A", "b": "B", "c": "C", "d": "D", "mail": "mail mail"}


def judge(rows, *, unsafe):
    """Check one series of crashes."""
    assert sum(row["crashed"] for row in rows) >= 8
    digests = set()
    for row in rows:
        # What the journal knew as completed was not called again.
        repeated = [t for t in row["known"]
                    if any(line.startswith(PROMPT[t]) for line in row["after"])]  # fmt: skip
        assert not repeated, row
        assert row["warnings"] == 1, row
        if unsafe and row["crashed"] and row["in_doubt"]:
            assert "in_doubt" in row["result"][1], row
            assert "mail mail" not in row["after"]
        else:
            assert row["result"][1] == "every task completed", row
            digests.add(row["result"][0])
    assert len(digests) == 1


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["pure", "unsafe"])
def test_killed_at_some_boundaries(tmp_path, kind, when):
    """A part of the drill, on every run of the tests."""
    judge(drive(tmp_path, kind, when, 1, 200, 4), unsafe=kind == "unsafe")


@pytest.mark.drill
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("kind", ["pure", "unsafe"])
def test_killed_at_every_boundary(tmp_path, kind, when):
    """kill -9 at event k for all k: nothing completed is repeated, same digest."""
    rows = drive(tmp_path, kind, when, 1, 200, 1)
    assert not rows[-1]["crashed"]  # beyond the last event: all k were tried
    judge(rows, unsafe=kind == "unsafe")


def test_a_killed_orchestrator_leaves_processes_that_the_next_one_ends(tmp_path):
    """The worker of a run that was killed -9 is found and stopped on resume."""
    from maestro_orchestration_core._processes import identify

    script = tmp_path / "first.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import asyncio
            from maestro_orchestration_core import *
            body = subprocess_agent(["sh", "-c", "echo $$ > {tmp_path}/pid; sleep 600"])
            m = Orchestrator([Agent(Persona(name="worker"), body)],
                             journal="{tmp_path}/r.db")
            asyncio.run(m.run(Plan([Task("a")]), run_id="r"))
            """
        ),
        encoding="utf-8",
    )
    with subprocess.Popen([sys.executable, str(script)]) as process:
        pid_file = tmp_path / "pid"
        for _ in range(1000):
            if pid_file.exists() and pid_file.read_text(encoding="utf-8").strip():
                break
            try:
                process.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
        process.send_signal(signal.SIGKILL)
    pid = int(pid_file.read_text(encoding="utf-8"))
    assert identify(pid) is not None
    maestro = Orchestrator([agent()], journal=tmp_path / "r.db")
    assert asyncio.run(maestro.run(Plan([Task("a")]), run_id="r")).ok
    assert identify(pid) is None


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path):
    """What was acknowledged is there; more room and the run goes on."""
    plan = Plan([Task(f"t{n}", "x") for n in range(40)])
    journal = Journal(tmp_path / "r.db")
    pages = journal.connection.execute("PRAGMA page_count").fetchone()[0]
    journal.connection.execute(f"PRAGMA max_page_count = {pages + 12}")
    import random

    rng = random.Random(1)
    calls = []

    def body(turn):
        calls.append(turn.task)
        return rng.randbytes(2000).hex()

    full = Orchestrator([agent(body=body)], journal=journal, workers=2)
    with pytest.raises(errors.JournalWriteError, match="full"):
        asyncio.run(full.run(plan, run_id="r"))
    journal.close()
    with Journal(tmp_path / "r.db") as journal:
        done = [e.task for e in journal.events("r") if e.type == "turn.completed"]
    assert done
    before = len(calls)
    more = Orchestrator([agent(body=body)], journal=tmp_path / "r.db")
    assert asyncio.run(more.run(plan, run_id="r")).ok
    assert not set(done) & set(calls[before:])


def test_a_newer_journal_is_refused_and_left_as_it_is(tmp_path):
    """The file is not changed by a release that cannot read it."""
    path = tmp_path / "r.db"
    Journal(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    before = path.read_bytes()
    with pytest.raises(errors.JournalVersionError) as caught:
        Journal(path)
    assert caught.value.found == 99
    assert path.read_bytes() == before


def test_other_files_are_not_journals(tmp_path):
    """Text and databases of others are refused."""
    (tmp_path / "text").write_text("no database " * 100, encoding="utf-8")
    with pytest.raises(errors.JournalError, match="not a usable journal"):
        Journal(tmp_path / "text")
    db = sqlite3.connect(tmp_path / "other.db")
    db.execute("CREATE TABLE mine(x)")
    db.close()
    with pytest.raises(errors.JournalError, match="something else"):
        Journal(tmp_path / "other.db")


def test_gc_keeps_what_is_not_finished(tmp_path):
    """Large answers of old finished runs go; states and usage stay."""
    big = "".join(str(n) for n in range(9000))
    maestro = Orchestrator([agent(body=lambda t: big)], journal=tmp_path / "r.db")
    asyncio.run(maestro.run(Plan([Task("a")]), run_id="done"))
    waiting = Plan([Task("a"), Task("b", after=["a"], approval="before")])
    maestro = Orchestrator([agent(body=lambda t: big + "x")], journal=tmp_path / "r.db")
    asyncio.run(maestro.run(waiting, run_id="open"))
    with Journal(tmp_path / "r.db") as journal:
        assert journal.gc(keep_s=3600) == 0
        assert journal.gc(keep_s=-1) > 0
        kinds = {e.type: e.data for e in journal.events("done")}
        assert "$gone" in kinds["turn.completed"]
        kept = {e.type: e.data for e in journal.events("open")}
        assert kept["turn.completed"]["out"]["text"].endswith("x")


def test_a_warning_fires_once_across_a_restart(tmp_path):
    """The journal remembers that it warned."""
    plan = Plan([Task("a"), Task("b"), Task("c", approval="before")])
    budget = Budget(calls=4, warn=[0.5], mode="warn")
    maestro = Orchestrator([agent()], journal=tmp_path / "r.db", budget=budget)
    for _ in range(3):
        asyncio.run(maestro.run(plan, run_id="r"))
    with Journal(tmp_path / "r.db") as journal:
        found = [e for e in journal.events("r") if e.type == "budget.warning"]
    assert len(found) == 1
