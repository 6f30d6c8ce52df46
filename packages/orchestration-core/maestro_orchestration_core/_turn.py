"""A turn: whom an agent may ask, and ways for several to work together.

Inside an agent's body pass its `turn`: calls are journaled, budgeted and
guarded with the task. Elsewhere use `conversation`, with a journal or without.
"""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from ._agent import Agent, Tool
from ._budget import Budget, Ledger
from ._call import Call, answer, converse
from ._journal import Journal
from ._log import EventStore, MemoryLog, digest, pair_digest
from ._messages import Price, Prices, Reply, Usage, as_reply, structured
from ._session import Context, LoopLimits, Workspace
from .errors import (
    ContractError,
    GuardError,
    LoopError,
    NoAgentError,
    SettingsError,
    did_you_mean,
)

_NOTHING: Final = Usage()
_NO_CALL: Final = Usage(calls=0)


@final
@dataclass(slots=True)
class Turn:
    """What an agent's body sees: its task, its inputs, and whom it may ask."""

    context: Context
    task: str = ""
    prompt: str = ""
    attempt: int = 1
    persona: str = ""
    path: str = ""
    args: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Reply] = field(default_factory=dict)
    """Answers of the tasks that this one waits for, by name."""
    workspace: Workspace | None = None
    feedback: str = ""
    """Why the attempt before failed."""
    chain: tuple[str, ...] = ("run",)
    lineage: tuple[tuple[str, str], ...] = ()
    _asked: int = 0
    _seen: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The same for every repeat of this call: an idempotency key."""
        return f"{self.context.run}/{self.task}/{self.attempt}/{self.path}"

    @property
    def folder(self) -> Path | None:
        """The workspace's folder, if there is one."""
        return self.workspace.path if self.workspace else None

    async def ask(
        self,
        agent: Agent,
        prompt: str,
        *,
        history: Sequence[Mapping[str, Any]] = (),
        schema: Mapping[str, Any] | None = None,
    ) -> Reply:
        """Return the agent's answer, made now or remembered."""
        child = self._child(agent, prompt)
        for guard in agent.input_guards:
            if why := guard(prompt):
                raise GuardError("input", agent.name, why)
        wanted = schema or agent.persona.output
        model = agent.model
        if model is None:
            reply = await child._call_body(agent, history, wanted)
        else:
            reply = await converse(child, agent, model, history, wanted)
        for guard in agent.output_guards:
            if why := guard(reply.text):
                raise GuardError("output", agent.name, why)
        return reply

    def _child(self, agent: Agent, prompt: str) -> "Turn":
        persona, limits = agent.persona, self.context.limits
        who = (persona.name, prompt)
        if len(self.lineage) >= limits.max_depth:
            names = " -> ".join(name for name, _ in (*self.lineage, who))
            raise LoopError("max_depth", f"{limits.max_depth} agents wait: {names}")
        if who in self.lineage:
            raise LoopError("cycle", f"{who[0]!r} is asked again what it is asking")
        self._seen[who] = times = self._seen.get(who, 0) + 1
        if times > limits.repeats:
            raise LoopError("repeats", f"{who[0]!r} got the same input {times} times")
        return Turn(
            self.context, self.task, prompt, self.attempt, persona.name,
            self._next_path(""), self.args, self.inputs, self.workspace,
            self.feedback, self.context.chain(self.chain, persona),
            (*self.lineage, who), 0, self._seen,
        )  # fmt: skip

    def _next_path(self, kind: str) -> str:
        self._asked += 1
        own = f"{kind}{self._asked}"
        return f"{self.path}.{own}" if self.path or kind else own

    async def _call_body(
        self,
        agent: Agent,
        history: Sequence[Mapping[str, Any]],
        schema: Mapping[str, Any] | None,
    ) -> Reply:
        body: Any = agent.body

        async def run() -> Reply:
            reply = await _awaited(body(self))
            return structured(reply, schema) if schema else reply

        name, prompt = self.persona, self.prompt
        if history:
            given = digest([name, prompt, list(history)])
        else:
            given = pair_digest(name, prompt)
        upper = agent.upper or _NOTHING
        call = Call(self.path, name, given, agent.effect_class, upper, keep=True)
        return await answer(self, call, run)

    def known_tool(self, name: str) -> Tool:
        """Return a tool of the run; raise SettingsError."""
        try:
            return self.context.tools[name]
        except KeyError:
            raise SettingsError(
                f"persona {self.persona!r} wants unknown tool {name!r}"
                f"{did_you_mean(name, self.context.tools)}"
            ) from None

    async def tool(
        self, name: str, arguments: Mapping[str, Any], *, agent: Agent | None = None
    ) -> Reply:
        """Run a tool once; a wrong call comes back to the model as its result."""
        path = self._next_path("t")
        if agent is not None and name not in agent.persona.tools:
            known = ", ".join(agent.persona.tools) or "none"
            return Reply(f"error: no tool {name!r}; there are: {known}")
        tool = self.known_tool(name)

        async def run() -> Reply:
            try:
                return await _awaited(tool.fn(**arguments))
            except Exception as error:  # the model's fault as often as ours: it is told
                return Reply(f"error: {type(error).__name__}: {error}")

        actor = agent.name if agent else self.persona
        given = digest([name, dict(arguments)])
        call = Call(path, actor, given, tool.effect, _NO_CALL, tool=name)
        return await answer(self, call, run)

    async def once(
        self, name: str, fn: Callable[[], Any], *, effect: str = "idempotent"
    ) -> Any:
        """Return what `fn` returned the first time; JSON data only."""

        async def run() -> Reply:
            result = fn()
            if inspect.isawaitable(result):
                result = await result
            return Reply("", result)

        path, given = self._next_path("o"), digest([name])
        call = Call(path, self.persona, given, effect, _NO_CALL, tool=name)
        return (await answer(self, call, run)).data

    def note(self, kind: str, data: Mapping[str, Any]) -> None:
        """Put an event `note.<kind>` into the journal."""
        self.context.emit(
            f"note.{kind}", data, task=self.task, attempt=self.attempt,
            actor=self.persona,
        )  # fmt: skip


async def _awaited(result: Any) -> Reply:
    if type(result) is str:
        return Reply(result)
    if inspect.isawaitable(result):
        result = await result
    return as_reply(result)


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
