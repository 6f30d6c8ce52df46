"""Defining workflows in Python: decorators whose calls return placeholders."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar, Token
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final, overload

from ._expression import Expression, Text
from ._graph import Graph, compile_graph, with_barriers
from ._model import Kind, Mapping_, Node, Ref, Retry, RunOn, Spec, seconds
from .errors import DefinitionError, ParameterError, Problem, did_you_mean

if TYPE_CHECKING:
    from ._plan import Plan

_building: ContextVar[Workflow | None] = ContextVar("maestro_building", default=None)
_RESERVED = ("after", "when")


def _options(
    *,
    retry: Retry | int | None = None,
    timeout: float | str | None = None,
    pool: str | None = None,
    resources: Mapping[str, int] | None = None,
    estimate: float | str | None = None,
    compensate: Step | Callable[..., Any] | None = None,
    **rest: Any,
) -> dict[str, Any]:
    """Turn what users write into what a Spec holds."""
    pools: dict[str, Any] = dict(resources or {})
    if pool is not None:
        pools[pool] = pools.get(pool, 0) + 1
    for name, amount in pools.items():
        if isinstance(amount, bool) or not isinstance(amount, int) or amount < 1:
            raise ValueError(
                f"expected 1 or more units of resource {name!r}, got {amount!r}"
            )
    if compensate is not None:
        rest["compensate"] = (
            compensate.spec if isinstance(compensate, Step) else _spec(compensate, {})
        )
    return {
        "retry": Retry(retry) if isinstance(retry, int) else retry,
        "timeout": None if timeout is None else seconds(timeout),
        "pools": tuple(sorted(pools.items())),
        "estimate": None if estimate is None else seconds(estimate),
        **rest,
    }


def _spec(function: Callable[..., Any], options: dict[str, Any]) -> Spec:
    kind: Kind = "async" if inspect.iscoroutinefunction(function) else "python"
    try:
        names = tuple(
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is not parameter.VAR_POSITIONAL
        )
    except (TypeError, ValueError):  # some C functions have no signature
        names = ()
    name = options.pop("name", None) or getattr(function, "__name__", "step")
    if clash := [n for n in names if n in _RESERVED]:
        raise TypeError(
            f"step {name!r} has a parameter {clash[0]!r}, which workflows use "
            "themselves; rename it"
        )
    module = getattr(function, "__module__", None)
    qualname = getattr(function, "__qualname__", "<locals>")
    ref = f"{module}:{qualname}" if module and "<" not in qualname else None
    return Spec(
        name=name,
        kind=kind,
        target=function,
        ref=ref,
        wants_ctx="ctx" in names,
        **options,
    )


@final
class Step:
    """A function or command that can be a step of workflows.

    Called inside a workflow it adds a step and returns a placeholder for its
    result; called elsewhere it is the plain function.
    """

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        target = spec.target
        self.__doc__ = getattr(target, "__doc__", None)
        self.__name__ = getattr(target, "__name__", spec.name)
        self.__qualname__ = getattr(target, "__qualname__", spec.name)
        self.__module__ = getattr(target, "__module__", __name__)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        workflow = _building.get()
        if workflow is not None:
            return workflow.add(self, *args, **kwargs)
        if self.spec.target is None:
            raise TypeError(
                f"{self.spec.name!r} is a {self.spec.kind}; call it inside a workflow"
            )
        return self.spec.target(*args, **kwargs)

    def map(
        self,
        items: Any,
        *,
        chunk: int = 1,
        expect: int = 1,
        after: Iterable[Ref] = (),
        when: Any = True,
        **fixed: Any,
    ) -> Any:
        """Run the step once for each item; the result is the list of results.

        Args:
            items: a list, or the placeholder of a step that returns one.
            chunk: items that one attempt handles, for very small work.
            expect: how many items a plan assumes while they are not known.
            after: steps to wait for without using their results.
            when: see `Workflow.add`.
            fixed: keyword arguments that every call gets.
        """
        workflow = _building.get()
        if workflow is None:
            return [self(item, **fixed) for item in items]
        if chunk < 1:
            raise ValueError(f"expected a chunk of 1 or more, got {chunk!r}")
        if not isinstance(items, Ref | Text | Expression):
            items = list(items)
        return workflow._add(
            self.spec, (), fixed, after, when, Mapping_(items, chunk, expect)
        )

    def options(
        self,
        *,
        name: str | None = None,
        retry: Retry | int | None = None,
        timeout: float | str | None = None,
        estimate: float | str | None = None,
        run_on: RunOn | None = None,
        cache: bool | None = None,
    ) -> Step:
        """Return the same step with some options changed, for one call of it."""
        new: dict[str, Any] = {
            "name": name,
            "retry": Retry(retry) if isinstance(retry, int) else retry,
            "timeout": None if timeout is None else seconds(timeout),
            "estimate": None if estimate is None else seconds(estimate),
            "run_on": run_on,
            "cache": cache,
        }
        given = {key: value for key, value in new.items() if value is not None}
        return Step(replace(self.spec, **given))

    def __reduce__(self) -> str | tuple[Any, ...]:
        # By name, as functions are: the decorated name is this object.
        return self.__qualname__

    def __repr__(self) -> str:
        return f"<step {self.spec.name}>"


@overload
def step(function: Callable[..., Any], /) -> Step: ...
@overload
def step(
    *,
    name: str | None = None,
    retry: Retry | int | None = None,
    timeout: float | str | None = None,
    pool: str | None = None,
    resources: Mapping[str, int] | None = None,
    estimate: float | str | None = None,
    cache: bool = False,
    version: str | None = None,
    once: bool = False,
    compensate: Step | Callable[..., Any] | None = None,
    run_on: RunOn = "success",
) -> Callable[[Callable[..., Any]], Step]: ...
def step(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function, plain or async, a step of workflows.

    Args:
        function: given when the decorator is used without brackets.
        options: `name`, by default the function's.
            `retry`: a `Retry`, or the number of attempts in all.
            `timeout`: seconds or a text such as "5m", for each attempt.
            `pool`: the pool of which a running attempt holds one slot.
            `resources`: several pools, each with the units that it takes.
            `estimate`: the expected duration, until the journal knows better.
            `cache`: reuse the result of equal code and equal arguments.
            `version`: what stands for the code in the cache's key.
            `once`: never run again after a crash without being asked.
            `compensate`: called with the result when the run fails later on.
            `run_on`: "success" of what it waits for, "failure", or "always".
    """
    if function is not None:
        return Step(_spec(function, {}))

    def decorate(function: Callable[..., Any]) -> Step:
        return Step(_spec(function, _options(**options)))

    return decorate


def command(
    name: str,
    argv: Sequence[Any],
    *,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    capture: Literal["text", "lines", "json", "none"] = "text",
    **options: Any,
) -> Step:
    """Make a step that runs a program; its result is what the program prints.

    Args:
        name: the step's name.
        argv: program and arguments; no shell reads them. Text such as "${build}"
            stands for the result of a step, `${params.day}` for a parameter.
        cwd: the folder to run it in.
        env: variables added to the environment.
        capture: the result: the output without its last newline as "text", as
            "lines", parsed as "json", or "none".
        options: as for `step`.
    """
    if isinstance(argv, str) or not argv:
        raise TypeError(
            f"expected a list such as ['make', 'test'] for command {name!r}, "
            f"got {argv!r}"
        )
    return Step(
        Spec(
            name=name,
            kind="command",
            argv=tuple(argv),
            cwd=None if cwd is None else str(cwd),
            env=env,
            capture=capture,
            **_options(**options),
        )
    )


def gate(name: str, *, after: Iterable[Ref] = (), when: Any = True) -> Any:
    """Add a point where the run waits for somebody's approval.

    A run with nothing else left to do ends in the state "waiting"; approve with
    `engine.resume(run, approve=[name])` or `maestro-workflow continue RUN --gate
    NAME`.
    """
    workflow = _building.get()
    if workflow is None:
        raise TypeError(f"gate({name!r}) works inside a workflow only")
    return workflow._add(Spec(name=name, kind="gate"), (), {}, after, when)


@final
class Workflow:
    """A graph of steps under a name. Build it in a `with` block, or with `add`."""

    def __init__(
        self,
        name: str,
        *,
        pools: Mapping[str, int] | None = None,
        params: Mapping[str, Any] | None = None,
        source: str | None = None,
    ) -> None:
        self.name = name
        self.pools = dict(pools or {})
        self.params = dict(params or {})
        self.source = source
        self.nodes: list[Node] = []
        self.index: dict[str, int] = {}
        self.places: dict[str, str] = {}
        self._graph: Graph | None = None
        self._prefix = ""
        self._taken: dict[str, int] = {}
        self._token: Token[Workflow | None] | None = None

    def __enter__(self) -> Workflow:
        self._token = _building.set(self)
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._token is not None
        _building.reset(self._token)

    def __len__(self) -> int:
        return len(self.nodes)

    def __repr__(self) -> str:
        return f"<workflow {self.name}: {len(self.nodes)} steps>"

    @property
    def steps(self) -> tuple[str, ...]:
        """The names of the steps, in the order of their definition."""
        return tuple(node.name for node in self.nodes)

    def add(
        self,
        step: Step | Callable[..., Any],
        *args: Any,
        after: Iterable[Ref] = (),
        when: Any = True,
        **kwargs: Any,
    ) -> Ref:
        """Add a step and return the placeholder of its result.

        Args:
            step: a step, or a function to make one of.
            args: for the function; placeholders may stand anywhere inside.
            after: steps to wait for without using their results.
            when: False or None leaves the step out of this run; a placeholder or
                a text such as "params.day != 'never'" is looked at when the step's
                turn comes.
            kwargs: for the function.
        """
        spec = step.spec if isinstance(step, Step) else _spec(step, {})
        return self._add(spec, args, kwargs, after, when)

    def _add(
        self,
        spec: Spec,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        after: Iterable[Ref],
        when: Any,
        mapping: Mapping_ | None = None,
    ) -> Ref:
        needs: dict[int, None] = {}
        direct = not (kwargs or spec.argv or mapping is not None or when is not True)
        for value in args:
            if type(value) is Ref and not value.path:
                self._own(value)
                needs[value.index] = None
            else:
                direct = False
                self._collect(value, needs)
        if kwargs:
            for value in kwargs.values():
                self._collect(value, needs)
        if spec.argv:
            args = args or spec.argv
            args = tuple(self._late(value, needs) for value in args)
        if mapping is not None:
            self._collect(mapping.items, needs)
        order: dict[int, None] = {}
        if after:
            for ref in (after,) if isinstance(after, Ref) else after:
                self._collect_after(ref, order)
        if when is not True:
            when = Expression(when) if isinstance(when, str) else when
            self._collect(when, order)
        name = self._name(spec.name)
        index = len(self.nodes)
        extra = tuple(i for i in order if i not in needs) if order else ()
        direct = direct and not extra and len(needs) == len(args)
        node = Node(
            name, spec, args, kwargs or None, (*needs, *extra), extra, when, mapping,
            direct,
        )  # fmt: skip
        self.nodes.append(node)
        self.index[name] = index
        return Ref(index, name)

    def _late(self, value: Any, needs: dict[int, None]) -> Any:
        """Turn a text with `${...}` into one that is filled in when the step starts."""
        if isinstance(value, str) and "${" in value:
            value = Text(value)
        self._collect(value, needs)
        return value

    def _collect(self, value: Any, needs: dict[int, None]) -> None:
        """Note the steps whose results stand somewhere in an argument."""
        kind = type(value)
        if kind is Ref:
            self._own(value)
            needs[value.index] = None
        elif kind is list or kind is tuple:
            for item in value:
                self._collect(item, needs)
        elif kind is dict:
            for item in value.values():
                self._collect(item, needs)
        elif kind is Expression or kind is Text:
            for name in value.names:
                needs[self._lookup(name)] = None

    def _collect_after(self, ref: Any, order: dict[int, None]) -> None:
        if isinstance(ref, list | tuple):
            for item in ref:
                self._collect_after(item, order)
        elif isinstance(ref, str):
            order[self._lookup(ref)] = None
        elif isinstance(ref, Ref):
            self._own(ref)
            order[ref.index] = None
        elif ref is not None:
            raise TypeError(
                f"expected placeholders of steps in after=, got {ref!r} "
                f"({type(ref).__name__})"
            )

    def _own(self, ref: Ref) -> None:
        nodes = self.nodes
        if ref.index >= len(nodes) or nodes[ref.index].name != ref.name:
            raise DefinitionError(
                [
                    Problem(
                        where=self.name,
                        message=f"{ref!r} belongs to another workflow",
                    )
                ]
            )

    def _lookup(self, name: str) -> int:
        found = self.index.get(self._prefix + name, self.index.get(name))
        if found is None:
            raise DefinitionError(
                [
                    Problem(
                        where=self.name,
                        message=f"there is no step {name!r}"
                        f"{did_you_mean(name, self.index)}",
                    )
                ]
            )
        return found

    def _name(self, name: str) -> str:
        name = self._prefix + name
        if name not in self.index:
            return name
        # A second call of the same step: load, load-2, load-3.
        number = self._taken.get(name, 1) + 1
        while f"{name}-{number}" in self.index:
            number += 1
        self._taken[name] = number
        return f"{name}-{number}"

    def include(self, other: Workflow, *, prefix: str) -> None:
        """Add all steps of another workflow, their names under a prefix."""
        shift = len(self.nodes)
        for node in other.nodes:
            name = f"{prefix}/{node.name}"
            if name in self.index:
                raise DefinitionError(
                    [Problem(where=self.name, message=f"step {name!r} exists twice")]
                )
            copy = moved(node, shift, prefix)
            copy.name = name
            self.index[name] = len(self.nodes)
            self.nodes.append(copy)
        self.pools.update({k: v for k, v in other.pools.items() if k not in self.pools})

    def graph(self) -> Graph:
        """Return the graph of the steps; for code that looks at workflows."""
        if self._graph is None or len(self._graph) != len(self.nodes):
            self._graph = compile_graph([node.needs for node in self.nodes])
        return self._graph

    def validate(self) -> None:
        """Raise one error that names everything wrong with this workflow."""
        from ._validate import validate

        validate(self)

    def plan(
        self,
        workers: int | Iterable[int] = (1, 2, 4, 8),
        *,
        durations: Mapping[str, float] | None = None,
        search: int = 0,
    ) -> Plan:
        """Forecast runs of this workflow; see `Plan`."""
        from ._plan import make_plan

        return make_plan(self, workers, durations=durations, search=search)

    def with_barriers(self) -> Workflow:
        """Return the same steps in tiers: none starts before the tier before it ends.

        It costs time (the plan says how much); for people who need the tiers.
        """
        return with_barriers(self)

    @classmethod
    def from_dict(
        cls, document: Mapping[str, Any], params: Mapping[str, Any] | None = None
    ) -> Workflow:
        """Build a workflow from a document; see the README for its keys."""
        from ._document import build

        return build(document, params or {})

    @classmethod
    def load(
        cls, path: str | Path, params: Mapping[str, Any] | None = None
    ) -> Workflow:
        """Build a workflow from a JSON file, or a YAML file with the extra `yaml`."""
        from ._document import load

        return load(Path(path), params or {})


def moved(node: Node, shift: int, prefix: str) -> Node:
    """Copy a node to where its workflow's first node stands at `shift`."""

    def move(value: Any) -> Any:
        kind = type(value)
        if kind is Ref:
            return Ref(value.index + shift, f"{prefix}/{value.name}", value.path)
        if kind is list or kind is tuple:
            return kind(move(item) for item in value)
        if kind is dict:
            return {key: move(item) for key, item in value.items()}
        return value

    mapping = node.mapping
    return Node(
        node.name,
        node.spec,
        move(node.args),
        move(node.kwargs),
        tuple(i + shift for i in node.needs),
        tuple(i + shift for i in node.after),
        move(node.when),
        mapping and mapping._replace(items=move(mapping.items)),
        node.direct,
    )


@final
class Template:
    """A workflow with typed parameters: what `@workflow` makes of a function.

    Called inside another workflow it adds its steps there, under its name. Called
    elsewhere, or with `build`, it returns a `Workflow`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str | None,
        pools: Mapping[str, int] | None,
        barriers: bool,  # noqa: FBT001 - private
    ) -> None:
        self.function = function
        self.name = name or function.__name__
        self.pools = dict(pools or {})
        self.barriers = barriers
        self.__doc__ = function.__doc__
        self.__name__ = function.__name__
        self.__module__ = function.__module__
        self.signature = inspect.signature(function, eval_str=True)
        self.source = f"{function.__module__}:{function.__qualname__}"

    def __call__(self, *args: Any, **params: Any) -> Any:
        outer = _building.get()
        if outer is None:
            return self.build(*args, **params)
        outer.pools.update(
            {k: v for k, v in self.pools.items() if k not in outer.pools}
        )
        prefix = outer._prefix
        count = outer._taken.get(f"{prefix}{self.name}/", 0) + 1
        outer._taken[f"{prefix}{self.name}/"] = count
        own = self.name if count == 1 else f"{self.name}-{count}"
        outer._prefix = f"{prefix}{own}/"
        try:
            return self.function(*args, **params)
        finally:
            outer._prefix = prefix

    def build(self, *args: Any, **params: Any) -> Workflow:
        """Return the workflow for these parameters.

        Raises:
            ParameterError: one is missing, unknown, or not of its annotated type.
        """
        bound = self._bind(args, params)
        built = Workflow(
            self.name,
            pools=self.pools,
            params=dict(bound.arguments),
            source=self.source,
        )
        with built:
            self.function(*bound.args, **bound.kwargs)
        return built.with_barriers() if self.barriers else built

    def _bind(
        self, args: tuple[Any, ...], params: dict[str, Any]
    ) -> inspect.BoundArguments:
        known = self.signature.parameters
        for name in params:
            if name not in known:
                raise ParameterError(
                    name,
                    f"workflow {self.name!r} has no parameter {name!r}"
                    f"{did_you_mean(name, known)}",
                )
        try:
            bound = self.signature.bind(*args, **params)
        except TypeError as error:
            missing = [
                p.name
                for p in known.values()
                if p.default is p.empty and p.name not in params
            ]
            raise ParameterError(
                ", ".join(missing), f"workflow {self.name!r}: {error}"
            ) from None
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            check_type(self.name, name, value, known[name].annotation)
        return bound

    def parse(self, texts: Mapping[str, str]) -> dict[str, Any]:
        """Turn texts from a command line into parameters of the annotated types."""
        found: dict[str, Any] = {}
        for name, text in texts.items():
            parameter = self.signature.parameters.get(name)
            annotation = parameter.annotation if parameter else str
            found[name] = from_text(self.name, name, text, annotation)
        return found

    def plan(
        self, workers: int | Iterable[int] = (1, 2, 4, 8), /, **params: Any
    ) -> Plan:
        """Forecast runs with these parameters; see `Plan`."""
        return self.build(**params).plan(workers)

    def __repr__(self) -> str:
        return f"<workflow template {self.name}{self.signature}>"


@overload
def workflow(function: Callable[..., Any], /) -> Template: ...
@overload
def workflow(
    *,
    name: str | None = None,
    pools: Mapping[str, int] | None = None,
    barriers: bool = False,
) -> Callable[[Callable[..., Any]], Template]: ...
def workflow(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    pools: Mapping[str, int] | None = None,
    barriers: bool = False,
) -> Any:
    """Make a function that calls steps a workflow; its parameters are the template's.

    Args:
        function: given when the decorator is used without brackets.
        name: the workflow's name, by default the function's.
        pools: the units of each pool and resource.
        barriers: run in tiers; see `Workflow.with_barriers`.
    """
    if function is not None:
        return Template(function, name, pools, barriers)
    return lambda function: Template(function, name, pools, barriers)


_PLAIN = {str: "a text", int: "a whole number", float: "a number", bool: "true or false",
          list: "a list", dict: "a mapping"}  # fmt: skip


def check_type(where: str, name: str, value: Any, annotation: Any) -> None:
    """Raise ParameterError when a value does not fit a simple annotation."""
    if annotation not in _PLAIN or isinstance(value, Ref):
        return
    fits = isinstance(value, annotation) and not (
        isinstance(value, bool) and annotation is not bool
    )
    if annotation is float and isinstance(value, int) and not isinstance(value, bool):
        fits = True
    if not fits:
        raise ParameterError(
            name,
            f"parameter {name!r} of workflow {where!r} should be "
            f"{_PLAIN[annotation]}, got {value!r}",
        )


def from_text(where: str, name: str, text: str, annotation: Any) -> Any:
    """Turn one text of a command line into a value of a simple annotation."""
    words = {
        "true": True,
        "yes": True,
        "1": True,
        "false": False,
        "no": False,
        "0": False,
    }
    try:
        if annotation is bool:
            return words[text.lower()]
        if annotation in (int, float):
            return annotation(text)
        if annotation in (list, dict):
            import json

            return json.loads(text)
    except (KeyError, ValueError):
        raise ParameterError(
            name,
            f"parameter {name!r} of workflow {where!r} should be "
            f"{_PLAIN[annotation]}, got {text!r}",
        ) from None
    return text
