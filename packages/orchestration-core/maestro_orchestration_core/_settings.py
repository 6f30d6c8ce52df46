"""Run files, and the check of everything that they need."""

import importlib
import shutil
import sqlite3
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from ._agent import Agent
from ._budget import Budget
from ._gates import Gate
from ._journal import Journal
from ._messages import PriceTable
from ._openai import OpenAICompatible
from ._persona import Persona, PersonaRegistry, read_settings
from ._plan import Plan, Task
from ._processes import subprocess_agent
from ._run import Orchestrator
from ._worktrees import Worktrees
from .errors import OrchestrationError, SettingsError, did_you_mean

_TOP: Final = {
    "journal", "personas", "workers", "barrier", "prices", "unpriced",
    "budget", "workspace", "gates", "agents", "tasks",
}  # fmt: skip
_AGENT: Final = {
    "command", "python", "model", "effect", "timeout", "cpu", "memory", "env",
    "stdin", "logs", "max_steps",
}  # fmt: skip
_MODEL: Final = {"base_url", "name", "key_env", "timeout"}
_WORKSPACE: Final = {"repository", "into", "base", "folder", "allow_dirty"}
_GATE: Final = {"pytest", "command", "python", "name", "on", "timeout", "only"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFile:
    """What a run file says, checked."""

    path: Path
    plan: Plan
    journal: Path
    workers: int
    budget: Budget | None
    personas: PersonaRegistry
    data: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | Path) -> "RunFile":
        """Read and check a run file; paths in it are relative to it."""
        file = Path(path)
        data = read_settings(file)
        _known(data, _TOP, str(file), "")
        personas = PersonaRegistry()
        if "personas" in data:
            value = data["personas"]
            if isinstance(value, list):
                personas = PersonaRegistry.from_dicts(value)
            else:
                personas = PersonaRegistry.load(file.parent / value)
        workers = data.get("workers", 4)
        if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
            raise SettingsError(
                f"expected a whole number from 1, got {workers!r}",
                source=str(file), key="workers",
            )  # fmt: skip
        return cls(
            path=file,
            plan=Plan.from_dict(data, source=str(file)),
            journal=file.parent / data.get("journal", "runs.db"),
            workers=workers,
            budget=Budget.from_dict(data["budget"]) if "budget" in data else None,
            personas=personas,
            data=data,
        )

    def people(self) -> list[Persona]:
        """Return the personas that have a body, or all of them when none has."""
        agents = self.data.get("agents", {})
        return [self._persona(name) for name in agents] or list(self.personas.values())

    def _persona(self, name: str) -> Persona:
        if name in self.personas:
            return self.personas[name]
        if self.personas:
            return self.personas[name]  # raises, with what there is
        return Persona(name=name)

    def build(
        self,
        *,
        journal: Path | None = None,
        workers: int | None = None,
        budget: Budget | None = None,
    ) -> Orchestrator:
        """Return the orchestrator that the file describes."""
        data, where = self.data, str(self.path)
        agents = data.get("agents", {})
        if not agents:
            raise SettingsError("a run needs agents", source=where, key="agents")
        workspace = None
        if table := data.get("workspace"):
            _known(table, _WORKSPACE, where, "workspace.")
            repository = self.path.parent / table.get("repository", ".")
            workspace = Worktrees(
                repository, **{k: v for k, v in table.items() if k != "repository"}
            )
        prices = data.get("prices")
        return Orchestrator(
            [self._agent(name, table) for name, table in agents.items()],
            journal=journal or self.journal,
            workers=workers or self.workers,
            budget=budget or self.budget,
            workspace=workspace,
            gates=[self._gate(n, t) for n, t in enumerate(data.get("gates", []))],
            prices=PriceTable.load(self.path.parent / prices) if prices else None,
            unpriced=data.get("unpriced", "error"),
        )

    def _agent(self, name: str, table: Mapping[str, Any]) -> Agent:
        where, key = str(self.path), f"agents.{name}."
        _known(table, _AGENT, where, key)
        bodies = [b for b in ("command", "python", "model") if b in table]
        if len(bodies) != 1:
            raise SettingsError(
                f"expected one of command, python, model, got {bodies or 'none'}",
                source=where, key=key.rstrip("."),
            )  # fmt: skip
        body: Any
        if bodies == ["command"]:
            options = {
                k: table[k]
                for k in ("timeout", "cpu", "memory", "env", "stdin")
                if k in table
            }
            logs = self.path.parent / table["logs"] if "logs" in table else None
            body = subprocess_agent(table["command"], logs=logs, **options)
        elif bodies == ["python"]:
            body = self._import(table["python"], key + "python")
        else:
            model = dict(table["model"])
            _known(model, _MODEL, where, key + "model.")
            try:
                body = OpenAICompatible(
                    model.pop("base_url"), model=model.pop("name"), **model
                )
            except KeyError as error:
                raise SettingsError(
                    "is missing", source=where, key=f"{key}model.{error.args[0]}"
                ) from error
        options = {k: table[k] for k in ("effect", "max_steps") if k in table}
        return Agent(self._persona(name), body, **options)

    def _import(self, name: str, key: str) -> Callable[..., Any]:
        module, _, attribute = name.partition(":")
        folder = str(self.path.parent.resolve())
        if folder not in sys.path:
            sys.path.insert(0, folder)
        try:
            found: Callable[..., Any] = getattr(
                importlib.import_module(module), attribute
            )
        except (ImportError, AttributeError, ValueError) as error:
            raise SettingsError(
                f"{name!r} is not module:function: {error}",
                source=str(self.path), key=key,
            ) from error  # fmt: skip
        return found

    def _gate(self, n: int, table: Mapping[str, Any]) -> Gate:
        where, key = str(self.path), f"gates[{n}]"
        _known(table, _GATE, where, f"{key}.")
        options = {k: table[k] for k in ("on", "timeout", "only") if k in table}
        if "pytest" in table:
            given = table["pytest"]
            args = [given] if isinstance(given, str) else list(given)
            return Gate.pytest(*args, **options)
        if "command" in table:
            return Gate.command(table["command"], name=table.get("name", ""), **options)
        if "python" in table:
            check = self._import(table["python"], f"{key}.python")
            options.pop("timeout", None)
            return Gate.function(check, name=table.get("name", ""), **options)
        raise SettingsError("expected pytest, command or python", source=where, key=key)


def _known(table: Any, known: set[str], source: str, prefix: str) -> None:
    if not isinstance(table, Mapping):
        raise SettingsError(
            f"expected a table, got {table!r}", source=source, key=prefix.rstrip(".")
        )
    for key in table:
        if key not in known:
            raise SettingsError(
                f"unknown key{did_you_mean(key, known)}",
                source=source,
                key=prefix + key,
            )


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
