"""Test plans: suites, cases, steps, fixtures, environments, matrices.

`TestPlan` checks what a file says; `TestPlan.mapping()` is the plain JSON data
that a runner executes, with defaults filled in and matrices expanded.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from ._diagnostics import did_you_mean
from ._expressions import ExpressionError, substitute
from ._matrix import Combination, Matrix
from ._paths import Path
from ._schema import Alias, Bounds, Context, Doc
from ._verbs import Step

Seconds = Annotated[float, Bounds(gt=0), Doc("seconds")]
Retries = Annotated[int, Bounds(ge=0, le=20)]
Name = Annotated[str, Bounds(min_length=1)]
Adapter = Literal["command", "playwright", "pytest", "selenium"]
Browser = Literal["chromium", "chrome", "firefox", "webkit", "edge", "safari"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where the cases run: a base address, a browser, variables."""

    base_url: str = ""
    browser: Browser | None = None
    variables: dict[str, str | int | float | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixture:
    """What is set up before cases and taken down after them."""

    scope: Literal["case", "suite", "plan"] = "case"
    setup: list[Step] = field(default_factory=list)
    teardown: list[Step] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What suites and cases have when they say nothing else."""

    adapter: Adapter = "command"
    environment: str | None = None
    timeout: Seconds | None = None
    retries: Retries = 0
    tags: list[str] = field(default_factory=list)
    fixtures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test: steps, run once for each combination of its matrix."""

    name: Name
    steps: Annotated[list[Step], Bounds(min_length=1)]
    description: str = ""
    tags: list[str] = field(default_factory=list)
    fixtures: list[str] = field(default_factory=list)
    environment: str | None = None
    timeout: Seconds | None = None
    retries: Retries | None = None
    needs: Annotated[list[str], Doc("cases of this suite that must pass first")] = (
        field(default_factory=list)
    )
    parameters: dict[str, Any] = field(default_factory=dict)
    matrix: Matrix = field(default_factory=Matrix)
    skip: Annotated[str, Doc("the reason not to run it")] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """Cases that share an adapter, an environment and fixtures."""

    name: Name
    cases: Annotated[list[Case], Bounds(min_length=1)]
    description: str = ""
    adapter: Adapter | None = None
    environment: str | None = None
    tags: list[str] = field(default_factory=list)
    fixtures: list[str] = field(default_factory=list)
    timeout: Seconds | None = None
    retries: Retries | None = None
    needs: Annotated[list[str], Doc("suites that must pass first")] = field(
        default_factory=list
    )
    parameters: dict[str, Any] = field(default_factory=dict)
    matrix: Matrix = field(default_factory=Matrix)
    skip: Annotated[str, Doc("the reason not to run it")] = ""

    def expand(self) -> list[tuple[Case, str, dict[str, Any]]]:
        """Return each case once per combination: the case, its id, its parameters."""
        made = []
        for case in self.cases:
            for suffix, values in _combinations(self.matrix, case.matrix):
                parameters = {**self.parameters, **case.parameters, **values}
                name = f"{self.name}/{case.name}" + (f"[{suffix}]" if suffix else "")
                made.append((case, name, parameters))
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class TestPlan:
    """A test plan: what to run, where, how often and in which order."""

    __test__ = False  # pytest must not collect it
    __label__ = "plan"

    name: Name
    suites: Annotated[list[Suite], Bounds(min_length=1)]
    plan: Annotated[Literal[1], Doc("version of the format")] = 1
    description: str = ""
    environments: dict[str, Environment] = field(default_factory=dict)
    fixtures: dict[str, Fixture] = field(default_factory=dict)
    defaults: Defaults = field(default_factory=Defaults)
    profiles: dict[str, Any] = field(default_factory=dict)
    extra: Annotated[Any, Alias("x"), Doc("ignored: a place for anchors")] = None

    def __check__(self, context: Context, path: Path) -> None:
        """Find names that refer to nothing, names used twice, and cycles."""
        _Check(self, context, path).run()

    def mapping(self) -> dict[str, Any]:
        """Return the plan as JSON data: expanded, defaults filled in.

        Raises:
            ValueError: an expression in a step has no value; says which.
        """
        return {
            "plan": 1,
            "name": self.name,
            "description": self.description,
            "environments": {
                n: dataclasses.asdict(e) for n, e in self.environments.items()
            },
            "fixtures": {
                n: {
                    "scope": f.scope,
                    "setup": [s.mapping() for s in f.setup],
                    "teardown": [s.mapping() for s in f.teardown],
                }
                for n, f in self.fixtures.items()
            },
            "suites": [self._suite(s) for s in self.suites],
        }

    def _suite(self, suite: Suite) -> dict[str, Any]:
        defaults = self.defaults
        environment = suite.environment or defaults.environment
        expanded = suite.expand()
        return {
            "name": suite.name,
            "description": suite.description,
            "adapter": suite.adapter or defaults.adapter,
            "environment": environment,
            "tags": _union(defaults.tags, suite.tags),
            "needs": suite.needs,
            "skip": suite.skip,
            "cases": [
                self._case(suite, case, name, parameters, expanded)
                for case, name, parameters in expanded
            ],
        }

    def _case(
        self,
        suite: Suite,
        case: Case,
        name: str,
        parameters: dict[str, Any],
        expanded: list[tuple[Case, str, dict[str, Any]]],
    ) -> dict[str, Any]:
        defaults = self.defaults
        environment = case.environment or suite.environment or defaults.environment
        place = self.environments.get(environment or "", Environment())
        names = {
            "parameters": parameters,
            "matrix": parameters,
            "variables": place.variables,
            "environment": {"name": environment, "base_url": place.base_url},
        }
        return {
            "id": name,
            "name": case.name,
            "description": case.description,
            "parameters": parameters,
            "tags": _union(defaults.tags, suite.tags, case.tags),
            "fixtures": _union(defaults.fixtures, suite.fixtures, case.fixtures),
            "environment": environment,
            "timeout": case.timeout or suite.timeout or defaults.timeout,
            "retries": _first(case.retries, suite.retries, defaults.retries),
            "needs": _needed(suite, case, name, expanded),
            "skip": suite.skip or case.skip,
            "steps": [_filled(s, names) for s in case.steps],
        }


def _combinations(outer: Matrix, inner: Matrix) -> Iterator[tuple[str, dict[str, Any]]]:
    nothing: list[Combination | None] = [None]
    for one in [*outer.expand()] or nothing:
        for two in [*inner.expand()] or nothing:
            chosen = [c for c in (one, two) if c is not None]
            values: dict[str, Any] = {}
            for c in chosen:
                values.update(c.values)
            yield "-".join(c.id for c in chosen), values


def _needed(
    suite: Suite,
    case: Case,
    name: str,
    expanded: list[tuple[Case, str, dict[str, Any]]],
) -> list[str]:
    """Return the ids that a case needs: its own combination, or else all."""
    suffix = name.removeprefix(f"{suite.name}/{case.name}")
    ids = []
    for need in case.needs:
        every = [i for c, i, _ in expanded if c.name == need]
        same = f"{suite.name}/{need}{suffix}"
        ids.extend([same] if same in every else every)
    return ids


def _filled(step: Step, names: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {**step.mapping(), "arguments": _replaced(step.arguments, names)}
    except ExpressionError as e:
        hint = f"; {e.hint}" if e.hint else ""
        raise ValueError(f"{step.file}:{step.line}: {e}{hint}") from e


def _replaced(value: Any, names: Mapping[str, Any]) -> Any:
    if isinstance(value, str):
        return substitute(value, names) if "${{" in value else value
    if isinstance(value, dict):
        return {k: _replaced(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [_replaced(v, names) for v in value]
    return value


def _union(*lists: list[str]) -> list[str]:
    return list(dict.fromkeys(item for one in lists for item in one))


def _first(*values: int | None) -> int:
    return next(v for v in values if v is not None)


class _Check:
    """References inside one plan, each reported at its own place."""

    def __init__(self, plan: TestPlan, context: Context, path: Path) -> None:
        self.plan = plan
        self.context = context
        self.path = path
        self.twice: set[str] = set()  # a name used twice has no needs of its own

    def run(self) -> None:
        plan = self.plan
        self._named([s.name for s in plan.suites], (*self.path, "suites"), "suite")
        self._references(plan.defaults, (*self.path, "defaults"))
        graph = {s.name: s.needs for s in plan.suites}
        for i, suite in enumerate(plan.suites):
            self._needs(graph, suite.name, (*self.path, "suites", i, "needs"), "suite")
        for i, suite in enumerate(plan.suites):
            here = (*self.path, "suites", i)
            self._references(suite, here)
            cases = {c.name: c.needs for c in suite.cases}
            self._named([c.name for c in suite.cases], (*here, "cases"), "case")
            for j, case in enumerate(suite.cases):
                there = (*here, "cases", j)
                self._references(case, there)
                self._needs(cases, case.name, (*there, "needs"), "case")
                self._size(suite, case, there)
                self._expressions(suite, case, there)

    def _named(self, names: list[str], path: Path, noun: str) -> None:
        seen: dict[str, int] = {}
        self.twice = {name for name in names if names.count(name) > 1}
        for i, name in enumerate(names):
            if name in seen:
                first = self.context.document.places_of((*path, seen[name], "name"))[0]
                line = first.source.place(first.value)[0]
                self.context.error(
                    (*path, i, "name"),
                    f"second {noun} named {name!r}, first at line {line}",
                    code="duplicate-name",
                )
            seen.setdefault(name, i)

    def _references(self, part: Defaults | Suite | Case, path: Path) -> None:
        known = self.plan.environments
        if part.environment is not None and part.environment not in known:
            self._unknown("environment", part.environment, known, path, "environment")
        for i, name in enumerate(part.fixtures):
            if name not in self.plan.fixtures:
                where = (*path, "fixtures", i)
                self._unknown("fixture", name, self.plan.fixtures, where)

    def _needs(
        self, graph: Mapping[str, list[str]], name: str, path: Path, noun: str
    ) -> None:
        if name in self.twice:
            return
        for i, need in enumerate(graph[name]):
            if need not in graph:
                self._unknown(noun, need, graph, (*path, i))
            elif _reaches(graph, need, name):
                self.context.error(
                    (*path, i), f"{noun} {name!r} needs itself through {need!r}",
                    code="cycle", hint="remove one of the needs",
                )  # fmt: skip

    def _unknown(
        self, noun: str, name: str, known: Mapping[str, Any], path: Path, *more: str
    ) -> None:
        near = did_you_mean(name, known)
        listed = ", ".join(known) or f"none is defined under '{noun}s'"
        self.context.error(
            (*path, *more), f"unknown {noun} {name!r}",
            code=f"unknown-{noun}", hint=near or f"known: {listed}",
        )  # fmt: skip

    def _size(self, suite: Suite, case: Case, path: Path) -> None:
        one, two = suite.matrix, case.matrix
        count = max(1, len(one.expand())) * max(1, len(two.expand()))
        most = max(one.max, two.max)
        if count > most:
            self.context.error(
                path, f"case {case.name!r} has {count} combinations, more than {most}",
                code="matrix", hint="raise max: in its matrix",
            )  # fmt: skip

    def _expressions(self, suite: Suite, case: Case, path: Path) -> None:
        """Try every expression once, so that a typo shows before the run."""
        plan = self.plan
        chosen = case.environment or suite.environment or plan.defaults.environment
        place = plan.environments.get(chosen or "", Environment())
        for _, values in _combinations(suite.matrix, case.matrix):
            parameters = {**suite.parameters, **case.parameters, **values}
            names = {
                "parameters": parameters,
                "matrix": parameters,
                "variables": place.variables,
                "environment": {"name": chosen, "base_url": place.base_url},
            }
            before = len(self.context.found)
            self._try(self.context.document.root, path, names)
            if len(self.context.found) > before:
                return

    def _try(self, root: Any, path: Path, names: Mapping[str, Any]) -> None:
        value = root
        for step in (*path, "steps"):
            value = value[step]
        todo: list[tuple[Path, Any]] = [((*path, "steps"), value)]
        while todo:
            here, value = todo.pop()
            if isinstance(value, str) and "${{" in value:
                try:
                    substitute(value, names)
                except ExpressionError as e:
                    self.context.error(here, str(e), code="expression", hint=e.hint)
            elif isinstance(value, dict):
                todo.extend(((*here, k), v) for k, v in value.items())
            elif isinstance(value, list):
                todo.extend(((*here, i), v) for i, v in enumerate(value))


def _reaches(graph: Mapping[str, list[str]], start: str, goal: str) -> bool:
    seen: set[str] = set()
    todo = [start]
    while todo:
        name = todo.pop()
        if name == goal:
            return True
        if name not in seen:
            seen.add(name)
            todo.extend(graph.get(name, ()))
    return False
