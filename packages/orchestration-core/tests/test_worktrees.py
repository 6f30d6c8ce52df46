"""Real git: worktrees, merges, gates on the merged result."""

import asyncio
import random
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from maestro_orchestration_core import (
    Agent,
    Gate,
    Orchestrator,
    Persona,
    Plan,
    Task,
    Worktrees,
    errors,
    subprocess_agent,
)
from maestro_orchestration_core._worktrees import Git

from .conftest import agent

# An agent that runs the Python program in its prompt.
PROGRAM = subprocess_agent(["python3", "-c", "{prompt}"], timeout=60)


def left_behind(git, repository):
    """Return worktrees and folders that should be gone."""
    listed = git(repository, "worktree", "list", "--porcelain").count("worktree ")
    folder = repository / ".git" / "maestro-worktrees"
    return listed - 1, list(folder.rglob("*")) if folder.exists() else []


def write(path, text):
    return f"open({path!r}, 'w').write({text!r})"


def test_work_is_merged_and_the_checkout_is_not_touched(repository, git):
    """Two tasks change two files; both are in the branch, none in the checkout."""
    maestro = Orchestrator([agent(body=PROGRAM)], workspace=Worktrees(repository))
    plan = Plan([Task("a", write("a.txt", "A")), Task("b", write("b.txt", "B"))])
    report = asyncio.run(maestro.run(plan))
    assert report.ok, report.why()
    files = git(repository, "ls-tree", "--name-only", "integration").split()
    assert {"a.txt", "b.txt"} <= set(files)
    assert not (repository / "a.txt").exists()
    assert git(repository, "status", "--porcelain") == ""
    assert left_behind(git, repository) == (0, [])
    assert git(repository, "for-each-ref", "refs/maestro") == ""


def test_a_conflict_names_the_paths_and_a_retry_starts_from_the_new_base(
    repository, git
):
    """The second try sees what was merged before."""

    async def edit(turn):
        path = turn.folder / "numbers.py"
        await asyncio.sleep(0.5 if turn.task == "late" and turn.attempt == 1 else 0)
        text = f"ONE = {turn.task!r}\n"
        path.write_text(text, encoding="utf-8")
        return turn.feedback

    maestro = Orchestrator(
        [agent(body=edit)], workspace=Worktrees(repository), backoff=lambda n: 0
    )

    async def main():
        plan = Plan([Task("early"), Task("late")])
        async with maestro.start(plan) as run:
            return await run.result(), run.history()

    report, events = asyncio.run(main())
    assert report.tasks["late"].reason == "conflict"
    assert "numbers.py" in report.tasks["late"].detail
    conflict = next(e for e in events if e.type == "workspace.conflict")
    assert conflict.data["paths"] == ["numbers.py"]
    kept = git(repository, "for-each-ref", "--format=%(refname)", "refs/maestro")
    assert kept.endswith("/late/1")  # the work that was not merged
    assert "late" in git(repository, "show", f"{kept}:numbers.py")

    async def again():
        plan = Plan([Task("early"), Task("late", tries=2)])
        git(repository, "branch", "-D", "integration")
        return await maestro.run(plan)

    second = asyncio.run(again())
    assert second.tasks["late"].attempt == 2
    assert second.ok, second.why()


def test_a_semantic_conflict_is_caught_on_the_merged_candidate(repository, git):
    """Two changes that merge cleanly and break each other do not both get in."""
    check = "import sys; sys.path.insert(0, '.'); import user"
    script = f"test ! -e user.py || python3 -B -c {check!r}"
    gate = Gate.command(["sh", "-c", script], name="imports")
    started = []

    async def body(turn):
        started.append(turn.task)
        while len(started) < 2:  # both have the same base
            await asyncio.sleep(0.01)
        if turn.task == "use":
            text = "from numbers import ONE\n"
            (turn.folder / "user.py").write_text(text, encoding="utf-8")
        else:
            path = turn.folder / "numbers.py"
            text = path.read_text(encoding="utf-8").replace("ONE", "FIRST")
            path.write_text(text, encoding="utf-8")

    maestro = Orchestrator(
        [agent(body=body)], workspace=Worktrees(repository), gates=[gate]
    )
    report = asyncio.run(maestro.run(Plan([Task("use"), Task("rename")])))
    reasons = sorted(t.reason for t in report.tasks.values())
    assert reasons == ["gate", "ok"], report.why()
    assert "ImportError" in report.why()
    assert left_behind(git, repository) == (0, [])


def test_a_pytest_gate_counts_and_refuses_an_empty_suite(repository, git):
    """No test collected is not a pass; counts come from the report."""
    maestro = Orchestrator(
        [agent(body=PROGRAM)],
        workspace=Worktrees(repository),
        gates=[Gate.pytest()],
    )

    async def main(prompt):
        async with maestro.start(Plan([Task("a", prompt)])) as run:
            return await run.result(), run.history()

    report, _ = asyncio.run(main(write("a.txt", "x")))
    assert "no test was collected" in report.tasks["a"].detail
    good = write("test_a.py", "def test_it():\n    assert True\n")
    report, events = asyncio.run(main(good))
    assert report.ok, report.why()
    passed = next(e for e in events if e.type == "gate.passed")
    assert passed.data["counts"]["tests"] == 1


def test_twenty_four_worktrees_at_once(repository, git):
    """Nothing fails, nothing is left, everything is merged."""
    tasks = [Task(f"t{n}", write(f"f{n}.txt", str(n))) for n in range(24)]
    maestro = Orchestrator(
        [agent(body=PROGRAM)], workspace=Worktrees(repository), workers=24
    )
    report = asyncio.run(maestro.run(Plan(tasks)))
    assert report.ok, report.why()
    files = git(repository, "ls-tree", "--name-only", "integration").split()
    assert {f"f{n}.txt" for n in range(24)} <= set(files)
    assert left_behind(git, repository) == (0, [])


def test_worktrees_from_threads(repository):
    """The lock holds for threads that add and remove at the same time."""
    trees = Worktrees(repository)
    trees.prepare()

    def once(n):
        tree = trees.acquire("r", f"t{n}", 1)
        (tree.path / f"{n}.txt").write_text("x", encoding="utf-8")
        tree.snapshot("x")
        trees.release(tree, merged=True)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(once, range(24)))


def test_a_dirty_repository_is_refused_and_left_alone(repository):
    """Uncommitted changes would be invisible to every agent."""
    (repository / "README").write_text("changed\n", encoding="utf-8")
    maestro = Orchestrator([agent()], workspace=Worktrees(repository))
    with pytest.raises(errors.DirtyWorktreeError) as caught:
        asyncio.run(maestro.run(Plan([Task("a")])))
    assert caught.value.files == ("README",)
    assert (repository / "README").read_text(encoding="utf-8") == "changed\n"


def test_what_cannot_be_a_workspace_says_so(tmp_path, repository, git):
    """Not a repository, no commit, a branch that is checked out."""
    with pytest.raises(errors.WorkspaceError, match="not a git repository"):
        Worktrees(tmp_path).prepare()
    with pytest.raises(errors.WorkspaceError, match="no commit"):
        Worktrees(repository, base="nowhere").prepare()
    with pytest.raises(errors.WorkspaceError, match="checked out"):
        Worktrees(repository, into="main").prepare()


def test_merge_verdicts_equal_git_merge(tmp_path, git):
    """On random edits our verdict and our tree are those of a real `git merge`."""
    rng = random.Random(7)
    folder = tmp_path / "r"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    conflicts = 0
    for number in range(25):
        edit(rng, folder, first=True)
        commit(git, folder, f"base {number}")
        base = git(folder, "rev-parse", "HEAD")
        for side in ("ours", "theirs"):
            git(folder, "checkout", "-q", "-B", side, base)
            edit(rng, folder, first=False)
            commit(git, folder, side)
        verdict = Git(folder).merge_tree("ours", "theirs")
        git(folder, "checkout", "-q", "ours")
        merged = subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@x", "merge", "-q",
             "--no-edit", "theirs"],
            cwd=folder, capture_output=True, check=False,
        )  # fmt: skip
        assert verdict.clean == (merged.returncode == 0)
        if verdict.clean:
            assert verdict.tree == git(folder, "rev-parse", "HEAD^{tree}")
        else:
            conflicts += 1
            unmerged = git(folder, "diff", "--name-only", "--diff-filter=U")
            assert set(verdict.paths) == set(unmerged.split())
            git(folder, "merge", "--abort")
    assert 3 < conflicts < 22  # both kinds were seen


def edit(rng, folder, *, first):
    """Change a few random lines of a few small files, or delete one."""
    for name in rng.sample(["a", "b", "c"], 2):
        path = folder / name
        if not first and path.exists() and rng.random() < 0.1:
            path.unlink()
            continue
        old = path.read_text(encoding="utf-8") if path.exists() else "\n" * 12
        lines = old.split("\n")
        lines[rng.randrange(len(lines))] = str(rng.random())
        path.write_text("\n".join(lines), encoding="utf-8")


def commit(git, folder, message):
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", message)


def test_a_cancelled_run_leaves_no_process(repository, git, tmp_path):
    """Not even a grandchild that called setsid, and no worktree."""
    from maestro_orchestration_core._processes import identify

    pids = tmp_path / "pids"
    program = (
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', "
        "'import time; time.sleep(600)'], start_new_session=True)\n"
        f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}} {{child.pid}} ')\n"
        "time.sleep(600)\n"
    )
    worker = Agent(Persona(name="w"), subprocess_agent(["python3", "-c", "{prompt}"]))
    maestro = Orchestrator([worker], workspace=Worktrees(repository))

    async def main():
        async with maestro.start(Plan([Task("a", program)])) as run:
            for _ in range(500):
                if pids.exists() and len(pids.read_text(encoding="utf-8").split()) == 2:
                    break
                await asyncio.sleep(0.02)
            await run.cancel(by="test")
            return await run.result()

    assert asyncio.run(main()).status == "cancelled"
    found = [int(p) for p in pids.read_text(encoding="utf-8").split()]
    assert len(found) == 2
    assert [identify(pid) for pid in found] == [None, None]
    assert left_behind(git, repository) == (0, [])


@pytest.mark.parametrize("seed", range(4))
def test_a_run_cancelled_in_a_gate_leaves_no_checkout(repository, git, seed):
    """Cancelled while the merged result is made, checked out or tested."""

    async def main():
        maestro = Orchestrator(
            [agent(body=PROGRAM)],
            workspace=Worktrees(repository),
            gates=[Gate.command("sleep 60", on="merged")],
        )
        async with maestro.start(Plan([Task("a", write("a.txt", "A"))])) as run:
            async for _ in run.events({"task.gating"}):
                await asyncio.sleep(random.Random(seed).random() / 5)
                await run.cancel()
            return await run.result()

    report = asyncio.run(main())
    assert report.tasks["a"].reason == "user"
    assert left_behind(git, repository) == (0, [])
    assert "a.txt" in git(
        repository, "ls-tree", "--name-only", "-r", *kept(git, repository)
    )


def kept(git, repository):
    """Return the refs of work that was not merged."""
    return git(
        repository, "for-each-ref", "--format=%(refname)", "refs/maestro"
    ).split()
