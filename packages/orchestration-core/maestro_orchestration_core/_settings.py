"""Run files, and the check of everything that they need."""

import importlib
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
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

_Kinds = Mapping[str, tuple[type, ...]]
_TEXT: Final = (str,)
_WORDS: Final = (str, list)
_NUMBER: Final = (int, float)
_TOP: Final[_Kinds] = {
    "journal": _TEXT, "personas": _WORDS, "workers": (int,), "barrier": (bool,),
    "prices": _TEXT, "unpriced": _TEXT, "budget": (dict,), "workspace": (dict,),
    "gates": (list,), "agents": (dict,), "tasks": (list,),
}  # fmt: skip
_AGENT: Final[_Kinds] = {
    "command": _WORDS, "python": _TEXT, "model": (dict,), "effect": _TEXT,
    "timeout": _NUMBER, "cpu": _NUMBER, "memory": (str, int), "env": (dict,),
    "stdin": _TEXT, "logs": _TEXT, "max_steps": (int,),
}  # fmt: skip
_MODEL: Final[_Kinds] = {
    "base_url": _TEXT, "name": _TEXT, "key_env": _TEXT, "timeout": _NUMBER,
}  # fmt: skip
_WORKSPACE: Final[_Kinds] = {
    "repository": _TEXT, "into": _TEXT, "base": _TEXT, "folder": _TEXT,
    "allow_dirty": (bool,),
}  # fmt: skip
_GATE: Final[_Kinds] = {
    "pytest": _WORDS, "command": _WORDS, "python": _TEXT, "name": _TEXT, "on": _TEXT,
    "timeout": _NUMBER, "only": (list,),
}  # fmt: skip
_CALLED: Final = {
    str: "text", list: "a list", int: "a whole number", float: "a number",
    bool: "true or false", dict: "a table",
}  # fmt: skip
_INSTEAD: Final = {
    "agents": "; write [agents.NAME] for each",
    "personas": "; write [[personas]] with a name for each, or the name of a folder",
    "tasks": "; write [[tasks]] with a name for each",
    "gates": "; write [[gates]] for each",
}


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
        _shape(data, str(file))
        with _in_file(str(file)):
            return cls._checked(file, data)

    @classmethod
    def _checked(cls, file: Path, data: dict[str, Any]) -> "RunFile":
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
        with _in_file(str(self.path)):
            return self._build(journal, workers, budget)

    def _build(
        self, journal: Path | None, workers: int | None, budget: Budget | None
    ) -> Orchestrator:
        data, where = self.data, str(self.path)
        agents = data.get("agents", {})
        if not agents:
            raise SettingsError("a run needs agents", source=where, key="agents")
        workspace = None
        if table := data.get("workspace"):
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
            if not callable(found):
                raise TypeError(f"{attribute} is not a function")
        except Exception as error:  # a module of the user's may raise anything
            raise SettingsError(
                f"{name!r} is not module:function: {error}",
                source=str(self.path), key=key,
            ) from error  # fmt: skip
        return found

    def _gate(self, n: int, table: Mapping[str, Any]) -> Gate:
        where, key = str(self.path), f"gates[{n}]"
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


def _known(table: Any, known: _Kinds, source: str, prefix: str) -> None:
    if not isinstance(table, dict):
        raise SettingsError(
            f"expected a table, got {table!r}", source=source, key=prefix.rstrip(".")
        )
    for key, value in table.items():
        where = f"{prefix}{key}"
        if key not in known:
            raise SettingsError(
                f"unknown key{did_you_mean(str(key), known)}", source=source, key=where
            )
        kinds = known[key]
        right = isinstance(value, kinds) and (bool in kinds or (value is not True
                                              and value is not False))  # fmt: skip
        if not right:
            wanted = " or ".join(_CALLED[kind] for kind in kinds)
            raise SettingsError(
                f"expected {wanted}, got {value!r}{_INSTEAD.get(where, '')}",
                source=source, key=where,
            )  # fmt: skip
        if isinstance(value, list) and key in {"command", "pytest", "only"}:
            wrong = [one for one in value if not isinstance(one, str)]
            if wrong:
                raise SettingsError(
                    f"expected a list of texts, got {wrong[0]!r}",
                    source=source, key=where,
                )  # fmt: skip


def _shape(data: dict[str, Any], where: str) -> None:
    """Raise SettingsError for a key or a kind that a run file cannot have."""
    _known(data, _TOP, where, "")
    for name, table in data.get("agents", {}).items():
        _known(table, _AGENT, where, f"agents.{name}.")
        _known(table.get("model", {}), _MODEL, where, f"agents.{name}.model.")
        for key, value in table.get("env", {}).items():
            _known({key: value}, {key: _TEXT}, where, f"agents.{name}.env.")
    for n, table in enumerate(data.get("gates", [])):
        _known(table, _GATE, where, f"gates[{n}].")
    _known(data.get("workspace", {}), _WORKSPACE, where, "workspace.")
    if isinstance(data.get("personas"), list):
        for n, persona in enumerate(data["personas"]):
            if not isinstance(persona, dict):
                raise SettingsError(
                    f"expected a table, got {persona!r}",
                    source=where, key=f"personas[{n}]",
                )  # fmt: skip


@contextmanager
def _in_file(where: str) -> Iterator[None]:
    """Name the file in a SettingsError that does not."""
    try:
        yield
    except SettingsError as error:
        if not error.source:
            error.source = where
            error.args = (f"{where}: {error}",)
        raise


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
