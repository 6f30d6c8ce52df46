"""Many agents, one plan: budgets that hold, work that survives, checked merges.

An agent is a callable, a subprocess or an OpenAI-compatible endpoint. Importing
this package imports nothing else; names load when they are first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._agent import Agent, Tool
    from ._budget import Budget, Ledger
    from ._context import Window, estimate_tokens
    from ._fold import TRANSITIONS, State
    from ._gates import Gate, GateInput, GateResult
    from ._journal import Journal
    from ._log import Event
    from ._messages import Model, Price, PriceTable, Reply, Request, ToolCall, Usage
    from ._openai import OpenAICompatible, openai_compatible
    from ._persona import Persona, PersonaRegistry
    from ._plan import Plan, Task
    from ._processes import run_process, subprocess_agent
    from ._report import RunReport
    from ._retry import Child, Retry, Supervisor, Throttle
    from ._run import Orchestrator, Run
    from ._session import LoopLimits
    from ._touches import JournalLeases
    from ._turn import (
        Said,
        Turn,
        conversation,
        debate,
        group_chat,
        handoff,
        hierarchical,
        parallel,
        sequential,
    )
    from ._worktrees import Worktrees

_WHERE = {
    "_run": "Run Orchestrator",
    "_turn": "Turn Said conversation debate group_chat handoff hierarchical parallel sequential",
    "_retry": "Retry Throttle Child Supervisor",
    "_messages": "Model Reply Request ToolCall Usage Price PriceTable",
    "_touches": "JournalLeases",
    "_report": "RunReport",
    "_agent": "Agent Tool",
    "_worktrees": "Worktrees",
    "_fold": "State TRANSITIONS",
    "_context": "estimate_tokens Window",
    "_log": "Event",
    "_budget": "Budget Ledger",
    "_gates": "Gate GateInput GateResult",
    "_journal": "Journal",
    "_openai": "OpenAICompatible openai_compatible",
    "_persona": "Persona PersonaRegistry",
    "_plan": "Plan Task",
    "_processes": "run_process subprocess_agent",
    "_session": "LoopLimits",
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names.split()}

__all__ = [
    "TRANSITIONS",
    "Agent",
    "Budget",
    "Child",
    "Event",
    "Gate",
    "GateInput",
    "GateResult",
    "Journal",
    "JournalLeases",
    "Ledger",
    "LoopLimits",
    "Model",
    "OpenAICompatible",
    "Orchestrator",
    "Persona",
    "PersonaRegistry",
    "Plan",
    "Price",
    "PriceTable",
    "Reply",
    "Request",
    "Retry",
    "Run",
    "RunReport",
    "Said",
    "State",
    "Supervisor",
    "Task",
    "Throttle",
    "Tool",
    "ToolCall",
    "Turn",
    "Usage",
    "Window",
    "Worktrees",
    "conversation",
    "debate",
    "estimate_tokens",
    "group_chat",
    "handoff",
    "hierarchical",
    "openai_compatible",
    "parallel",
    "run_process",
    "sequential",
    "subprocess_agent",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted({*globals(), *__all__})
