"""Pure functions over a graph of steps: order, levels, critical path, tiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._model import Node, Spec

if TYPE_CHECKING:
    from ._workflow import Workflow


@dataclass(slots=True, kw_only=True)
class Graph:
    """A workflow as lists of integers: position of a step, and of those after it."""

    successors: list[list[int]]
    waits: list[int]  # how many others each step waits for
    order: list[int]  # one topological order

    def __len__(self) -> int:
        return len(self.waits)


def compile_graph(needs: Sequence[Sequence[int]]) -> Graph:
    """Turn "waits for" into "is waited for by", with a topological order.

    Steps in a circle are missing from `order`; `find_cycle` names them.
    O(steps + dependencies).
    """
    successors: list[list[int]] = [[] for _ in needs]
    forward = True
    for index, before in enumerate(needs):
        for other in before:
            successors[other].append(index)
            if other >= index:
                forward = False
    waits = list(map(len, needs))
    if forward:
        return Graph(successors=successors, waits=waits, order=list(range(len(waits))))
    roots = [index for index, count in enumerate(waits) if not count]
    return Graph(
        successors=successors, waits=waits, order=_ordered(roots, successors, waits)
    )


def compile_rest(count: int, needs: Mapping[int, Sequence[int]]) -> Graph:
    """Do so for the steps that are left of `count`, by position.

    They wait only for each other. The rest waits for nothing, nothing waits for it,
    and it is not in `order`. O(steps and dependencies that are left).
    """
    none: list[int] = []  # one for all that are done; nobody adds to it
    successors, waits = [none] * count, [0] * count
    for index in needs:
        successors[index] = []
    forward = True
    for index, before in needs.items():
        waits[index] = len(before)
        for other in before:
            successors[other].append(index)
            if other >= index:
                forward = False
    order = list(needs)
    if not forward:
        roots = [index for index in needs if not waits[index]]
        order = _ordered(roots, successors, waits)
    return Graph(successors=successors, waits=waits, order=order)


def _ordered(
    order: list[int], successors: Sequence[Sequence[int]], waits: Sequence[int]
) -> list[int]:
    """Extend the steps that wait for nothing to an order of all."""
    left = [*waits]
    push = order.append
    for index in order:  # grows while we walk it: Kahn's algorithm
        for other in successors[index]:
            left[other] -= 1
            if not left[other]:
                push(other)
    return order


def find_cycle(needs: Sequence[Sequence[int]], graph: Graph) -> list[int]:
    """Return a circle as positions, first and last the same; empty without one."""
    stuck = set(range(len(needs))).difference(graph.order)
    if not stuck:
        return []
    # Every step in or behind a circle waits for another such step: follow one.
    index = min(stuck)
    seen: dict[int, int] = {}
    path: list[int] = []
    while index not in seen:
        seen[index] = len(path)
        path.append(index)
        index = next(other for other in needs[index] if other in stuck)
    circle = path[seen[index] :]
    circle.reverse()  # from what comes first to what waits for it
    start = circle.index(min(circle))
    circle = circle[start:] + circle[:start]
    return [*circle, circle[0]]


def levels(graph: Graph) -> list[int]:
    """Return each step's level: 0, or one more than the highest that it waits for."""
    level = [0] * len(graph)
    for index in graph.order:
        after = level[index] + 1
        for other in graph.successors[index]:
            level[other] = max(level[other], after)
    return level


def bottom_levels(graph: Graph, durations: Sequence[float]) -> list[float]:
    """Return for each step the longest way from its start to the end of the run.

    The priority of highest-level-first scheduling (HLFET: Adam, Chandy and Dickson,
    "A comparison of list schedules for parallel processing systems", CACM 1974).
    """
    found = list(durations)
    successors = graph.successors
    for index in reversed(graph.order):
        after = successors[index]
        if after:
            longest = 0.0
            for other in after:
                if found[other] > longest:  # noqa: PLR1730 - half the time of max()
                    longest = found[other]
            found[index] += longest
    return found


def critical_path(graph: Graph, bottom: Sequence[float]) -> list[int]:
    """Return the longest chain, first step first."""
    roots = [index for index in range(len(graph)) if not graph.waits[index]]
    path: list[int] = []
    following = roots
    while following:
        index = max(following, key=lambda i: (bottom[i], -i))
        path.append(index)
        following = graph.successors[index]
    return path


def with_barriers(workflow: Workflow) -> Workflow:
    """Return a copy with a barrier step between each level and the next."""
    from ._workflow import Workflow

    graph = compile_graph([node.needs for node in workflow.nodes])
    level = levels(graph)
    tiered = Workflow(
        workflow.name,
        pools=workflow.pools,
        params=workflow.params,
        source=workflow.source,
    )
    tiered.nodes = [
        Node(n.name, n.spec, n.args, n.kwargs, n.needs, n.after, n.when, n.mapping)
        for n in workflow.nodes
    ]
    tiered.index = dict(workflow.index)
    members: list[list[int]] = [[] for _ in range(max(level, default=-1) + 1)]
    for index, number in enumerate(level):
        members[number].append(index)
    for number in range(1, len(members)):
        before = tuple(members[number - 1])
        name = f"barrier-{number}"
        position = len(tiered.nodes)
        # Always: a step that failed or was skipped ends its tier too.
        spec = Spec(name=name, kind="barrier", run_on="always")
        tiered.nodes.append(Node(name, spec, needs=before, after=before))
        tiered.index[name] = position
        for index in members[number]:
            node = tiered.nodes[index]
            node.needs = (*node.needs, position)
            node.after = (*node.after, position)
    return tiered
