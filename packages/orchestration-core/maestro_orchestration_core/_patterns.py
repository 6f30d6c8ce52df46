"""Ways for agents to work together, as functions of agents and a turn.

Inside an agent's body pass its `turn`: calls are journaled, budgeted and
guarded with the task. Elsewhere use `conversation`, with a journal or without.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ._agent import Agent, Tool
from ._budget import Budget, Ledger
from ._journal import Journal
from ._log import EventStore, MemoryLog
from ._messages import Price, Prices, Reply
from ._session import Context, LoopLimits
from ._turn import Turn
from .errors import ContractError, NoAgentError, SettingsError, did_you_mean

_ANSWER: Final = {
    "type": "object",
    "required": ["steps"],
    "properties": {
        "steps": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["agent", "prompt"],
                "properties": {
                    "agent": {"type": "string"}, "prompt": {"type": "string"}
                },
            },
        }
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Said:
    """One contribution."""

    agent: str
    reply: Reply

    @property
    def text(self) -> str:
        """What was said."""
        return self.reply.text


@asynccontextmanager
async def conversation(
    *,
    journal: str | Path | None = None,
    run_id: str = "conversation",
    budget: Budget | None = None,
    prices: Prices | None = None,
    unpriced: str | Price = "error",
    limits: LoopLimits | None = None,
    tools: Sequence[Tool] = (),
) -> AsyncIterator[Turn]:
    """Give a turn outside of a plan; with a journal, the same run_id goes on.

    The caller's own code must ask in the same order again to be answered from
    the journal.
    """
    opened = Journal(journal) if journal is not None else None
    log: EventStore = opened.open_run(run_id) if opened else MemoryLog(run_id)
    try:
        context = Context(
            log, run=run_id, ledger=Ledger(budget), limits=limits, prices=prices,
            unpriced=unpriced, tools=tools,
        )  # fmt: skip
        context.remember(log.history())
        yield Turn(context, task="conversation")
        context.commit_now()
    finally:
        log.close()
        if opened:
            opened.close()


async def sequential(agents: Sequence[Agent], prompt: str, *, turn: Turn) -> list[Said]:
    """Let each agent work on what the one before answered."""
    said: list[Said] = []
    for agent in agents:
        text = said[-1].text if said else prompt
        said.append(Said(agent.name, await turn.ask(agent, text)))
    return said


async def parallel(agents: Sequence[Agent], prompt: str, *, turn: Turn) -> list[Said]:
    """Ask all at the same time; answers come in the order of the agents."""
    async with asyncio.TaskGroup() as group:
        asked = [group.create_task(turn.ask(agent, prompt)) for agent in agents]
    return [
        Said(agent.name, job.result()) for agent, job in zip(agents, asked, strict=True)
    ]


async def hierarchical(
    manager: Agent, workers: Sequence[Agent], prompt: str, *, turn: Turn
) -> Said:
    """Let a manager split the work, the workers do it, and the manager sum up."""
    names = {agent.name: agent for agent in workers}
    listed = "\n".join(f"- {a.name}: {a.persona.summary}" for a in workers)
    answer = await turn.ask(
        manager, f"{prompt}\n\nGive steps to these agents:\n{listed}", schema=_ANSWER
    )
    for step in answer.data["steps"]:
        if step["agent"] not in names:
            raise NoAgentError(
                turn.task,
                f"{manager.name!r} gave a step to {step['agent']!r}"
                f"{did_you_mean(step['agent'], names)}",
            )
    async with asyncio.TaskGroup() as group:
        asked = [
            (
                step["agent"],
                group.create_task(turn.ask(names[step["agent"]], step["prompt"])),
            )
            for step in answer.data["steps"]
        ]
    done = "\n\n".join(f"{name}:\n{job.result().text}" for name, job in asked)
    return Said(manager.name, await turn.ask(manager, f"{prompt}\n\nDone:\n{done}"))


async def handoff(
    agents: Sequence[Agent], prompt: str, *, turn: Turn, start: str = "",
    max_handoffs: int = 20,
) -> list[Said]:  # fmt: skip
    """Pass the work on until an agent answers without `Reply.handoff`.

    A persona's `handoff` rules hold: whom it may name and what it must bring.
    """
    names = {agent.name: agent for agent in agents}
    current = names[start] if start else agents[0]
    said: list[Said] = []
    text = prompt
    for _ in range(max_handoffs + 1):
        reply = await turn.ask(current, text)
        said.append(Said(current.name, reply))
        if not reply.handoff:
            return said
        _check_handoff(current, reply, names)
        current, text = names[reply.handoff], reply.text
    raise ContractError(turn.task, "finishes within", [f"{max_handoffs} handoffs"])


def _check_handoff(agent: Agent, reply: Reply, names: dict[str, Agent]) -> None:
    persona = agent.persona
    allowed = persona.handoff_to or tuple(names)
    if reply.handoff not in allowed or reply.handoff not in names:
        raise ContractError(
            agent.name, "may hand over to",
            [f"{reply.handoff!r} (allowed: {', '.join(allowed)})"],
        )  # fmt: skip
    has: Any = reply.data if isinstance(reply.data, dict) else {}
    missing = [key for key in persona.handoff_needs if key not in has]
    if missing:
        raise ContractError(agent.name, "must bring", missing)


async def group_chat(
    agents: Sequence[Agent],
    prompt: str,
    *,
    turn: Turn,
    rounds: int = 2,
    select: Callable[[Sequence[Said]], str | None] | None = None,
) -> list[Said]:
    """Let agents speak in turn, each seeing all that was said.

    `select` names the next speaker, or None to end; without it they go round.
    """
    if rounds < 1:
        raise SettingsError(f"{rounds!r} is below 1", key="rounds")
    names = {agent.name: agent for agent in agents}
    said: list[Said] = []
    for n in range(rounds * len(agents)):
        name = select(said) if select else agents[n % len(agents)].name
        if name is None:
            break
        reply = await turn.ask(names[name], _transcript(prompt, said))
        said.append(Said(name, reply))
    return said


async def debate(
    agents: Sequence[Agent], question: str, *, judge: Agent, turn: Turn, rounds: int = 2
) -> Said:
    """Let agents answer, see each other's answers and answer again; a judge decides."""
    if rounds < 1:
        raise SettingsError(f"{rounds!r} is below 1", key="rounds")
    said: list[Said] = []
    everything: list[Said] = []
    for n in range(rounds):
        text = _transcript(question, said)
        if n:
            text += f"\n\nRound {n + 1}: answer again."
        said = await parallel(agents, text, turn=turn)
        everything += said
    verdict = await turn.ask(judge, _transcript(question, everything) + "\n\nDecide.")
    return Said(judge.name, verdict)


def _transcript(prompt: str, said: Sequence[Said]) -> str:
    return "\n\n".join([prompt, *(f"{one.agent}: {one.text}" for one in said)])
