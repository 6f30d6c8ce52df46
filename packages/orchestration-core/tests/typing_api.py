"""What users write, checked by mypy: not run."""

from collections.abc import Awaitable, Callable
from typing import TypeVar, assert_type

from maestro_orchestration_core import (
    Agent,
    Budget,
    Orchestrator,
    Persona,
    Plan,
    Reply,
    Request,
    Retry,
    RunReport,
    Task,
    Turn,
)
from maestro_orchestration_core.ports import CallPolicy, LeaseStore, Model
from maestro_orchestration_core.testing import ScriptedModel

T = TypeVar("T")


class Once:
    """A policy of a user."""

    async def call(self, fn: Callable[[], Awaitable[T]]) -> T:
        """Call once."""
        return await fn()


class Echo:
    """A model of a user."""

    name = "echo"

    async def complete(self, request: Request) -> Reply:
        """Answer."""
        return Reply(str(request.messages[-1]["content"]))


async def body(turn: Turn) -> str:
    """Answer with the prompt."""
    reply = await turn.ask(Agent(Persona(name="e"), Echo(), retry=Once()), turn.prompt)
    return assert_type(reply, Reply).text


async def use(leases: LeaseStore) -> None:
    """Run a plan."""
    policy: CallPolicy = Retry()
    model: Model = ScriptedModel("x")
    agents = [
        Agent(Persona(name="a"), body),
        Agent(Persona(name="b"), model, retry=policy),
    ]
    maestro = Orchestrator(agents, budget=Budget(calls=3), leases=leases)
    report = await maestro.run(Plan([Task("t")]))
    assert_type(report, RunReport)
