"""Workflows of Python functions and commands: planned, run, and resumed exactly.

Define steps with `@step` and workflows with `@workflow`, or load a document with
`Workflow.load`. `Workflow.plan` forecasts a run, `WorkflowEngine` runs it, and with a
journal it survives the death of the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._define import Step, command, gate, step
    from ._dispatch import Policy
    from ._engine import WorkflowEngine
    from ._executors._futures import FuturesExecutor
    from ._journal import Journal
    from ._model import (
        Attempt,
        Event,
        Outcome,
        Ref,
        Retry,
        StepContext,
        StepExecutor,
    )
    from ._plan import Plan, PlanRow
    from ._run import Run, RunHandle, StepReport
    from ._template import Template, workflow
    from ._workflow import Workflow
    from .errors import WorkflowError

__all__ = [
    "Attempt",
    "Event",
    "FuturesExecutor",
    "Journal",
    "Outcome",
    "Plan",
    "PlanRow",
    "Policy",
    "Ref",
    "Retry",
    "Run",
    "RunHandle",
    "Step",
    "StepContext",
    "StepExecutor",
    "StepReport",
    "Template",
    "Workflow",
    "WorkflowEngine",
    "WorkflowError",
    "command",
    "gate",
    "step",
    "workflow",
]

_HOME = {
    "_define": ("Step", "command", "gate", "step"),
    "_dispatch": ("Policy",),
    "_engine": ("WorkflowEngine",),
    "_executors._futures": ("FuturesExecutor",),
    "_journal": ("Journal",),
    "_model": (
        "Attempt", "Event", "Outcome", "Ref", "Retry", "StepContext", "StepExecutor",
    ),
    "_plan": ("Plan", "PlanRow"),
    "_run": ("Run", "RunHandle", "StepReport"),
    "_template": ("Template", "workflow"),
    "_workflow": ("Workflow",),
    "errors": ("WorkflowError",),
}  # fmt: skip
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for."""
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    found = getattr(importlib.import_module(f".{module}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
