"""Checking a whole workflow at once, with the place of every problem."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._graph import find_cycle
from ._model import Node, Spec
from .errors import CycleError, DefinitionError, Problem, did_you_mean

if TYPE_CHECKING:
    from ._workflow import Workflow


def validate(workflow: Workflow) -> None:
    """Raise DefinitionError with everything that is wrong, or return.

    A circle raises CycleError, unless there are other problems to tell as well.
    """
    kinds, odd = _representatives(workflow.nodes)
    problems = [problem for node in kinds for problem in _node_problems(workflow, node)]
    circle = _circle(workflow, odd)
    if circle:
        names = [workflow.nodes[index].name for index in circle]
        error = CycleError(names, _where(workflow, names[0]))
        if not problems:
            raise error
        problems += error.problems
    pools: dict[str, object] = {**workflow.pools}
    for name, units in pools.items():
        if isinstance(units, bool) or not isinstance(units, int) or units < 1:
            problems.append(
                Problem(
                    where=workflow.places.get(f"pool {name}", workflow.name),
                    message=f"pool {name!r} needs 1 or more units, got {units!r}",
                )
            )
    if problems:
        raise DefinitionError(problems)


def _circle(workflow: Workflow, odd: Sequence[int]) -> list[int]:
    nodes = workflow.nodes
    # Direct nodes are made by calls, so each stands after what it needs.
    if all(max(nodes[index].needs, default=-1) < index for index in odd):
        return []
    return find_cycle([node.needs for node in nodes], workflow.graph())


def _representatives(nodes: Sequence[Node]) -> tuple[list[Node], list[int]]:
    """One node of each kind of call: a million equal calls are checked once.

    And the positions of those that are not direct.
    """
    calls: dict[int, dict[int, Node]] = {}
    known: dict[int, Node] = {}
    last: Spec | None = None
    odd: list[int] = []
    for index, node in enumerate(nodes):
        if not node.direct:
            odd.append(index)
            continue
        spec = node.spec
        if spec is not last:  # neighbours often share theirs
            last = spec
            known = calls.setdefault(id(spec), {})
        known[len(node.args)] = node
    found = [node for kinds in calls.values() for node in kinds.values()]
    shapes = {
        (
            id(node.spec),
            len(node.args),
            node.kwargs and (*node.kwargs,),
            node.mapping is None,
        ): node
        for node in map(nodes.__getitem__, odd)
    }
    found += shapes.values()
    return found, odd


def _where(workflow: Workflow, name: str) -> str:
    return workflow.places.get(name, f"{workflow.name}.{name}")


def _node_problems(workflow: Workflow, node: Node) -> list[Problem]:
    where = _where(workflow, node.name)
    found = []
    for pool, amount in node.spec.pools:
        units = workflow.pools.get(pool)
        if units is None:
            hint = did_you_mean(pool, workflow.pools)
            message = (
                f"there is no pool {pool!r}{hint}; the workflow's pools= names all"
            )
            found.append(Problem(where=where, message=message))
        elif amount > units:
            message = f"takes {amount} of pool {pool!r}, which has only {units}"
            found.append(Problem(where=where, message=message))
    target = node.spec.target
    if target is not None and (message := _call_problem(node, target)):
        found.append(Problem(where=where, message=message))
    return found


def _call_problem(node: Node, target: object) -> str:
    try:
        signature = inspect.signature(target)  # type: ignore[arg-type] # any callable
    except (TypeError, ValueError):
        return ""
    args = node.args if node.mapping is None else (None,)
    kwargs = dict(node.kwargs or {})
    if node.spec.wants_ctx:
        kwargs["ctx"] = None
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        return f"{node.spec.name}{signature} cannot be called so: {error}"
    return ""
