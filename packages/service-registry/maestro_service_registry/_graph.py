"""Which service requires which, and in what order they can start.

Edges come from the `requires` of registered instances, and from what the caller adds.
A circle raises `CycleError` with its path; it is found in the order of names, so the
same graph always gives the same answer.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

from ._args import words
from ._model import Instance
from ._semver import parse_range
from .errors import CycleError

__all__ = ["Graph", "graph_of"]


@final
@dataclass(frozen=True, slots=True)
class Graph:
    """Services and the version ranges that they require of others."""

    edges: Mapping[str, Mapping[str, frozenset[str]]]

    @property
    def services(self) -> tuple[str, ...]:
        """Return every service, also those that are only required."""
        names = set(self.edges)
        for needs in self.edges.values():
            names |= set(needs)
        return tuple(sorted(names))

    def requires(self, service: str) -> tuple[str, ...]:
        """Return what a service needs directly."""
        return tuple(sorted(self.edges.get(service, ())))

    def consumers(self, service: str) -> tuple[str, ...]:
        """Return who needs a service directly."""
        return tuple(sorted(s for s, needs in self.edges.items() if service in needs))

    def closure(self, services: Iterable[str]) -> tuple[str, ...]:
        """Return these services and everything they need, directly or not."""
        found, todo = set[str](), words("services", services)
        while todo:
            name = todo.pop()
            if name not in found:
                found.add(name)
                todo += self.requires(name)
        return tuple(sorted(found))

    def order(self, services: Iterable[str] | None = None) -> list[list[str]]:
        """Return layers to start one after the other, each sorted by name.

        Raises:
            CycleError: with the path of a circle.
        """
        names = self.services if services is None else self.closure(services)
        depth: dict[str, int] = {}
        for name in names:
            self._measure(name, depth)
        layers: list[list[str]] = [
            [] for _ in range(max(depth.values(), default=-1) + 1)
        ]
        for name in names:
            layers[depth[name]].append(name)
        return layers

    def dot(self) -> str:
        """Return the graph in Graphviz's language."""
        lines = ["digraph services {"]
        lines += [f'  "{name}";' for name in self.services]
        for service in sorted(self.edges):
            for need in self.requires(service):
                ranges = ", ".join(sorted(self.edges[service][need]))
                lines.append(f'  "{service}" -> "{need}" [label="{ranges}"];')
        return "\n".join([*lines, "}"])

    def unmet(
        self, service: str, instances: Mapping[str, Iterable[Instance]]
    ) -> str | None:
        """Return what a service lacks, or None when it is ready."""
        mine = [i for i in instances.get(service, ()) if i.usable]
        if not mine:
            return "no passing instance"
        for need, ranges in sorted(self.edges.get(service, {}).items()):
            for text in sorted(ranges):
                wanted = parse_range(text)
                others = instances.get(need, ())
                if not any(i.usable and i.version in wanted for i in others):
                    return f"requires {need} {text}, and no passing instance has it"
        return None

    def _measure(self, start: str, depth: dict[str, int]) -> None:
        """Find how deep a service lies, without recursion: chains may be long."""
        path: list[str] = []
        todo = [(start, False)]
        while todo:
            name, done = todo.pop()
            if done:
                path.pop()
                needs = self.requires(name)
                depth[name] = 1 + max((depth[n] for n in needs), default=-1)
            elif name in path:
                raise CycleError([*path[path.index(name) :], name])
            elif name not in depth:
                path.append(name)
                todo.append((name, True))
                todo += [(need, False) for need in reversed(self.requires(name))]


def graph_of(
    instances: Iterable[Instance],
    extra: Mapping[str, Mapping[str, str]] | None = None,
) -> Graph:
    """Build the graph of the instances' requirements and some more."""
    edges: dict[str, dict[str, set[str]]] = {}
    for instance in instances:
        needs = edges.setdefault(instance.service, {})
        for need, text in instance.requires.items():
            needs.setdefault(need, set()).add(text)
    for service, more in (extra or {}).items():
        needs = edges.setdefault(service, {})
        for need, text in more.items():
            parse_range(text)
            needs.setdefault(need, set()).add(text)
    return Graph(
        {s: {n: frozenset(r) for n, r in needs.items()} for s, needs in edges.items()}
    )
