"""Checking a whole workflow at once, with the place of every problem."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

from ._graph import find_cycle
from ._model import Node
from .errors import CycleError, DefinitionError, Problem, did_you_mean

if TYPE_CHECKING:
    from ._define import Workflow


def validate(workflow: Workflow) -> None:
    """Raise DefinitionError with everything that is wrong, or return.

    A circle raises CycleError, unless there are other problems to tell as well.
    """
    problems = [
        problem
        for node in _representatives(workflow)
        for problem in _node_problems(workflow, node)
    ]
    needs = [node.needs for node in workflow.nodes]
    circle = find_cycle(needs, workflow.graph())
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


def _representatives(workflow: Workflow) -> list[Node]:
    """One node of each kind of call: a million equal calls are checked once."""
    shapes = {
        (
            id(node.spec),
            len(node.args),
            node.kwargs and (*node.kwargs,),
            node.mapping is None,
        ): node
        for node in workflow.nodes
    }
    return list(shapes.values())


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
