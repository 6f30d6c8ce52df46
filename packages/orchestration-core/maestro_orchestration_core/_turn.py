"""A turn: what an agent's body sees, and whom it may ask."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, final

from ._agent import Agent, Tool
from ._call import Call, answer, converse
from ._log import digest, pair_digest
from ._messages import Reply, Usage, as_reply, structured
from ._session import Context, Workspace
from .errors import GuardError, LoopError, SettingsError, did_you_mean

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
