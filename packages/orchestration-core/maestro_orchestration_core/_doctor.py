"""Check what a run needs before it needs it."""

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ._journal import Journal
from ._openai import OpenAICompatible
from ._orchestrator import Orchestrator
from ._plan import Task
from ._settings import RunFile
from .errors import OrchestrationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found."""

    what: str
    ok: bool
    detail: str


def examine(run_file: RunFile | None, journal: Path) -> list[Finding]:
    """Return a finding per check; nothing is changed."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("journal", lambda: _journal(journal)),
        ("git", _git),
    ]
    if run_file is not None:
        maestro = run_file.build()
        checks.append(("plan", lambda: maestro.explain(run_file.plan).split("\n")[0]))
        checks += [
            (f"task {task.name}", partial(_route, maestro, task))
            for task in run_file.plan
        ]
        if maestro.workspace:
            checks.append(("workspace", maestro.workspace.examine))
        for agent in maestro.agents.values():
            if isinstance(agent.model, OpenAICompatible):
                checks.append((f"model of {agent.name}", partial(_model, agent.model)))
        budget = run_file.budget
        checks.append(
            ("budget", lambda: str(budget.limits()) if budget else "no limits")
        )
    return [_finding(what, check) for what, check in checks]


def _finding(what: str, check: Callable[[], str]) -> Finding:
    try:
        return Finding(what=what, ok=True, detail=check())
    except (OrchestrationError, OSError, sqlite3.Error) as error:
        return Finding(what=what, ok=False, detail=str(error))


def _route(maestro: Orchestrator, task: Task) -> str:
    return maestro.route(task).why


def _journal(path: Path) -> str:
    if not path.exists():
        return "none yet, it will be made"
    with Journal(path, read_only=True) as journal:
        verdict = journal.connection.execute("PRAGMA quick_check").fetchone()[0]
        if verdict != "ok":
            raise OrchestrationError(f"damaged: {verdict}")
        runs = journal.runs()
        return f"{len(runs)} runs, {journal.size() / 1e6:.1f} MB"


def _git() -> str:
    found = shutil.which("git")
    if found is None:
        raise OrchestrationError("git is not installed; worktrees need 2.38 or later")
    return found


def _model(model: OpenAICompatible) -> str:
    with model:
        names = [str(m.get("id")) for m in model.health().get("data", [])]
    return f"answers; models: {', '.join(names[:5]) or 'none listed'}"
