"""A workflow: steps under a name, each with what it waits for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextvars import Token
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from ._arguments import hinted, mapping, named
from ._define import Step, _building, _spec
from ._expression import Expression, Text
from ._graph import Graph, compile_graph, with_barriers
from ._model import Mapping_, Node, Ref, Spec
from .errors import DefinitionError, Problem, did_you_mean

if TYPE_CHECKING:
    from ._plan import Plan


@final
@hinted
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
        self.name: str = named("Workflow", "name", name)
        self.pools = mapping("Workflow", "pools", pools)
        self.params = mapping("Workflow", "params", params)
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
