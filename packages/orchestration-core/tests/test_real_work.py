"""Thirteen tasks of real tools on a real repository: one conflict, one failing gate."""

import asyncio
import sys

import pytest
from maestro_orchestration_core import (
    Agent,
    Gate,
    Journal,
    Orchestrator,
    Persona,
    Plan,
    State,
    Task,
    Worktrees,
    subprocess_agent,
)

TOOL = '''
"""A coding tool: `module NAME N` writes a module with its test, and so on."""
import pathlib, sys, textwrap

what, *words = sys.argv[1].split()
if what == "module":
    name, number = words
    pathlib.Path(name + ".py").write_text(f"def value():\\n    return {number}\\n")
    pathlib.Path(f"test_{name}.py").write_text(
        f"import {name}\\ndef test_{name}():\\n    assert {name}.value() == {number}\\n"
    )
elif what == "replace":
    name, old, new = words
    path = pathlib.Path(name)
    path.write_text(path.read_text().replace(old, new))
elif what == "total":
    names = sorted(p.stem for p in pathlib.Path(".").glob("part*.py"))
    body = "".join(f"import {n}\\n" for n in names)
    body += "def total():\\n    return " + " + ".join(f"{n}.value()" for n in names)
    pathlib.Path("total.py").write_text(body + "\\n")
print("did", what, *words)
'''


@pytest.fixture
def project(repository, git, tmp_path):
    """Return a repository with a version and a test, and the tool beside it."""
    (tmp_path / "tool.py").write_text(TOOL, encoding="utf-8")
    (repository / "version.py").write_text("VERSION = 'one'\n", encoding="utf-8")
    (repository / "test_version.py").write_text(
        "import version\ndef test_version():\n    assert version.VERSION != 'broken'\n",
        encoding="utf-8",
    )
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "a project")
    return repository


def test_thirteen_tasks_one_conflict_and_one_failing_gate(
    project, git, tmp_path, monkeypatch
):
    """What passes is in the branch; what does not is named, and kept under a ref."""
    # Half of a gate's time here would be plugins that this project does not use.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    coder = Agent(
        Persona(name="coder"),
        subprocess_agent(
            [sys.executable, str(tmp_path / "tool.py"), "{prompt}"], timeout=60
        ),
    )
    maestro = Orchestrator(
        [coder],
        journal=tmp_path / "runs.db",
        workers=4,
        workspace=Worktrees(project, into="integration"),
        gates=[Gate.pytest("-x")],
    )
    parts = [Task(f"part{n}", f"module part{n} {n}") for n in range(1, 9)]
    plan = Plan(
        [
            *parts,
            Task(
                "total", "total", after=[p.name for p in parts], produces=["total.py"]
            ),
            # Both change the same line: the second to merge conflicts.
            Task("two", "replace version.py one two"),
            Task("three", "replace version.py one three"),
            # Merges cleanly and breaks the tests.
            Task("break", "replace test_version.py != =="),
            Task("release", "replace README hello released", after=["break"]),
        ]
    )
    report = asyncio.run(maestro.run(plan, run_id="r"))
    states = {name: task.state for name, task in report.tasks.items()}
    assert len(states) == 13
    for name in [*(p.name for p in parts), "total"]:
        assert states[name] is State.COMPLETED, report.why()
    sides = sorted([report.tasks["two"], report.tasks["three"]], key=lambda t: t.reason)
    assert [side.reason for side in sides] == ["conflict", "ok"]
    assert "version.py" in sides[0].detail
    assert (states["break"], report.tasks["break"].reason) == (State.FAILED, "gate")
    assert "test_version" in report.tasks["break"].detail
    assert states["release"] is State.SKIPPED

    def show(name):
        return git(project, "show", f"integration:{name}")

    assert f"VERSION = '{sides[1].name}'" in show("version.py")
    assert "!=" in show("test_version.py")
    assert "part1.value() + part2.value()" in show("total.py")
    assert git(project, "status", "--porcelain") == ""
    assert git(project, "worktree", "list").count("\n") == 0
    kept = git(project, "for-each-ref", "--format=%(refname)", "refs/maestro")
    assert f"{sides[0].name}" in kept
    assert "break" in kept
    with Journal(tmp_path / "runs.db") as journal:
        events = list(journal.events("r"))
    merged = [e.task for e in events if e.type == "workspace.merged"]
    assert len(merged) == 10
    gates = [e for e in events if e.type == "gate.passed"]
    assert all(e.data["counts"]["tests"] >= 1 for e in gates)
    # The gate saw the merged tree: later merges run the tests of earlier ones.
    assert gates[-1].data["counts"]["tests"] > gates[0].data["counts"]["tests"]
