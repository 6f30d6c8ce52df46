"""One call of one agent: remembered, budgeted, guarded, journaled.

Every call has a key (task, attempt, path). A call whose answer is in the
journal is not made again: it is answered from there. That one rule is resume,
replay and fork.
"""

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol, final

from ._agent import Agent, Tool
from ._budget import Crossing, Ledger, Reservation
from ._events import Event
from ._journal import EventStore, MemoryLog, digest
from ._messages import Reply, Request, Usage, as_reply, structured
from ._prices import Price, Prices
from ._tokens import Calibration, estimate_tokens, message_tokens
from .errors import (
    BudgetExceededError,
    GuardError,
    InDoubtError,
    LoopError,
    ModelError,
    OrchestrationError,
    OutputError,
    ReplayError,
    SettingsError,
    UnknownPriceError,
    did_you_mean,
)

_REPAIRS: Final = 2
_PROMPT_MARGIN: Final = 1.3  # the estimate's documented error
_DEFAULT_OUTPUT: Final = 1024
Key = tuple[str, int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopLimits:
    """When agents that call each other are stopped; children share the counts."""

    max_turns: int = 10_000
    """Calls in the whole run."""
    max_depth: int = 8
    """Agents that wait for each other."""
    repeats: int = 3
    """The same persona with the same input in one attempt of a task."""


class Workspace(Protocol):
    """The folder that a task works in."""

    path: Path

    def snapshot(self, message: str) -> str:
        """Record the present content; return its id."""


@final
class Context:
    """What all calls of one run share."""

    def __init__(
        self,
        log: EventStore,
        *,
        run: str,
        ledger: Ledger | None = None,
        limits: LoopLimits | None = None,
        prices: Prices | None = None,
        unpriced: str | Price = "error",
        tools: Iterable[Tool] = (),
        live: bool = True,
    ) -> None:
        self.log, self.run = log, run
        self.ledger = ledger or Ledger()
        self.limits = limits or LoopLimits()
        self.prices, self.unpriced = prices, unpriced
        self.tools = {tool.name: tool for tool in tools}
        self.live = live
        self.calibration = Calibration()
        self.memo: dict[Key, Mapping[str, Any]] = {}
        self.open_unsafe: set[Key] = set()
        self.turns = 0
        self.listeners: list[Callable[[Event], None]] = []
        self.observer: Callable[[Event], None] | None = None
        self.broken: Exception | None = None
        self.on_broken: Callable[[Exception], None] | None = None
        self._fresh: list[Event] = []
        self._budget_waiters: list[asyncio.Future[None]] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._memory = isinstance(log, MemoryLog)

    def remember(self, events: Iterable[Event]) -> None:
        """Take in the calls that a journal knows."""
        for event in events:
            key = (event.task, event.attempt, str(event.data.get("key", "")))
            if event.type == "turn.completed":
                self.memo[key] = event.data
                self.open_unsafe.discard(key)
            elif event.type == "turn.failed":
                self.open_unsafe.discard(key)
            elif event.type == "turn.started" and event.data.get("effect") == "unsafe":
                self.open_unsafe.add(key)
            elif event.type == "task.ready" and "resolved" in event.data:
                self.open_unsafe.discard(
                    (event.task, event.attempt, str(event.data["resolved"]))
                )
            elif event.type == "budget.warning":
                data = event.data
                self.ledger.mark_warned(data["scope"], data["unit"], data["share"])
            elif event.type == "budget.raised":
                data = event.data
                self.ledger.raise_limit(data["scope"], data["unit"], data["limit"])
            if event.type in {"turn.completed", "turn.failed"}:
                self.turns += 1
                usage = event.data.get("usage") or {}
                self.ledger.spend(event.data.get("chain", ()), _amounts(usage))

    def emit(
        self,
        type: str,
        data: Mapping[str, Any] | None = None,
        *,
        task: str = "",
        attempt: int = 0,
        actor: str = "",
    ) -> Event:
        """Append an event; listeners see it once it is on disk."""
        event = self.log.append(
            type, data or {}, task=task, attempt=attempt, actor=actor
        )
        if self.observer:
            self.observer(event)
        if self.listeners:
            self._fresh.append(event)
        return event

    def commit_now(self, *, full: bool = False) -> None:
        """Write what was emitted and tell the listeners."""
        if self.broken:
            raise self.broken
        try:
            self.log.flush(full=full)
        except OrchestrationError as error:
            self.broken = error
            if self.on_broken:
                self.on_broken(error)
            raise
        fresh, self._fresh = self._fresh, []
        for event in fresh:
            for listener in self.listeners:
                listener(event)

    async def commit(self) -> None:
        """Wait until what was emitted is on disk; many callers share one write."""
        if self._memory:
            if self._fresh:
                self.commit_now()
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.append(waiter)
        if len(self._waiters) == 1:
            loop.call_soon(self._commit_group)
        await waiter

    def _commit_group(self) -> None:
        waiters, self._waiters = self._waiters, []
        try:
            self.commit_now()
        except Exception as error:  # handed to every waiter
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(error)
            return
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def cost(self, model: str, usage: Usage, chain: Sequence[str]) -> int | None:
        """Return micro-dollars; None when unknown and nobody limits money."""
        if usage.usd_micro is not None:
            return usage.usd_micro
        if not model:
            return 0
        price = self.prices.price(model) if self.prices else None
        if price is None and isinstance(self.unpriced, Price):
            price = self.unpriced
        if price is not None:
            return price.cost_micro(usage)
        if self.unpriced == "error" and self.ledger.limits_money(chain):
            raise UnknownPriceError(model)
        return None

    async def reserve(
        self, chain: Sequence[str], amounts: Mapping[str, int], *, patient: bool
    ) -> Reservation | None:
        """Hold what a call may take, once it fits.

        A call that would fit if the others took less than they hold waits for
        them. An impatient one (asked by an agent that holds a reservation itself)
        is refused at once, or the two could wait for each other.
        """
        while True:
            try:
                return self.ledger.reserve(chain, amounts)
            except BudgetExceededError as error:
                if not patient or not self.ledger.may_fit_later(error):
                    raise
            waiter = asyncio.get_running_loop().create_future()
            self._budget_waiters.append(waiter)
            await waiter

    def settle(self, reservation: Reservation | None, real: Mapping[str, int]) -> None:
        """Count what a call took and let those try again that wait for room."""
        if reservation is None:
            return
        self.warn(self.ledger.settle(reservation, real))
        self.wake()

    def wake(self) -> None:
        """Let calls that wait for room in the budget try again."""
        waiters, self._budget_waiters = self._budget_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def warn(self, crossings: Iterable[Crossing]) -> None:
        """Emit what was crossed, in the same write as the use that crossed it."""
        for c in crossings:
            data = {
                "scope": c.scope, "unit": c.unit, "share": c.share,
                "ratio": round(c.spent / c.limit, 4) if c.limit else 1.0,
                "spent": c.spent, "limit": c.limit,
            }  # fmt: skip
            self.emit("budget.warning", data)
            if c.share == 1.0:
                self.emit("budget.exhausted", data)


def _amounts(usage: Mapping[str, Any]) -> dict[str, int]:
    return {
        "tokens": usage.get("in", 0) + usage.get("out", 0),
        "calls": usage.get("calls", 1),
        "usd_micro": usage.get("usd_micro") or 0,
    }


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
    _seen: Counter[tuple[str, str]] = field(default_factory=Counter)

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
        self._asked += 1
        path = f"{self.path}.{self._asked}" if self.path else str(self._asked)
        child = self._child(agent, prompt, path)
        for guard in agent.input_guards:
            if why := guard(prompt):
                raise GuardError("input", agent.name, why)
        wanted = schema or agent.persona.output
        if agent.model is None:
            reply = await child._call_body(agent, prompt, history, wanted)
        else:
            reply = await child._converse(agent, prompt, history, wanted)
        for guard in agent.output_guards:
            if why := guard(reply.text):
                raise GuardError("output", agent.name, why)
        return reply

    def _child(self, agent: Agent, prompt: str, path: str) -> "Turn":
        limits = self.context.limits
        who = (agent.persona.name, prompt)
        if len(self.lineage) >= limits.max_depth:
            names = " -> ".join(name for name, _ in (*self.lineage, who))
            raise LoopError("max_depth", f"{limits.max_depth} agents wait: {names}")
        if who in self.lineage:
            raise LoopError("cycle", f"{who[0]!r} is asked again what it is asking")
        self._seen[who] += 1
        if self._seen[who] > limits.repeats:
            raise LoopError(
                "repeats", f"{who[0]!r} got the same input {self._seen[who]} times"
            )
        persona = agent.persona
        extra: tuple[str, ...] = (f"persona:{persona.name}",)
        if persona.team:
            extra = (f"team:{persona.team}", *extra)
        if persona.budget:
            self.context.ledger.add_scopes("persona", {persona.name: persona.budget})
        chain = (*(n for n in self.chain if n not in extra), *extra)
        return Turn(
            self.context, self.task, prompt, self.attempt, persona.name, path,
            self.args, self.inputs, self.workspace, self.feedback, chain,
            (*self.lineage, who), 0, self._seen,
        )  # fmt: skip

    async def _call_body(
        self,
        agent: Agent,
        prompt: str,
        history: Sequence[Mapping[str, Any]],
        schema: Mapping[str, Any] | None,
    ) -> Reply:
        body: Any = agent.body

        async def run() -> Reply:
            result = body(self)
            if inspect.isawaitable(result):
                result = await result
            reply = as_reply(result)
            return structured(reply, schema) if schema else reply

        return await self._remembered(
            self.path,
            agent,
            [agent.name, prompt, list(history)] if history else [agent.name, prompt],
            run,
            effect=agent.effect_class,
            upper=agent.upper or Usage(),
        )

    async def _converse(
        self,
        agent: Agent,
        prompt: str,
        history: Sequence[Mapping[str, Any]],
        schema: Mapping[str, Any] | None,
    ) -> Reply:
        messages = [*self._system(agent), *history, {"role": "user", "content": prompt}]
        repairs = 0
        for step in range(1, agent.max_steps + 1):
            reply = await self._model_call(agent, messages, schema, step)
            if reply.tool_calls:
                messages.append(_assistant(reply))
                for call in reply.tool_calls:
                    result = await self.tool(call.name, call.arguments, agent=agent)
                    messages.append(
                        {
                            "role": "tool",
                            "tool_call_id": call.id,
                            "content": result.text,
                        }
                    )
                continue
            if not schema:
                return reply
            try:
                return structured(reply, schema)
            except OutputError as error:
                repairs += 1
                if repairs > _REPAIRS:
                    raise
                messages.append(_assistant(reply))
                messages.append({"role": "user", "content": f"{error}. Answer again."})
        raise LoopError(
            "max_steps", f"{agent.name!r} made {agent.max_steps} calls, no answer"
        )

    def _system(self, agent: Agent) -> list[dict[str, Any]]:
        parts = [agent.persona.instructions.strip()]
        root = self.folder or Path()
        for name in agent.persona.instruction_files:
            file = root / name
            if file.is_file():
                parts.append(file.read_text(encoding="utf-8"))
        text = "\n\n".join(part for part in parts if part)
        return [{"role": "system", "content": text}] if text else []

    async def _model_call(
        self,
        agent: Agent,
        messages: list[Any],
        schema: Mapping[str, Any] | None,
        step: int,
    ) -> Reply:
        model = agent.model
        assert model is not None
        fitted = self._fit(agent, messages)
        settings = agent.persona.model
        most = settings.get("max_output")
        estimated = message_tokens(fitted)
        ratio = max(1.0, self.context.calibration.ratio(model.name))
        limited = bool(self.context.ledger.stats())
        request = Request(
            messages=list(fitted),
            tools=[self._tool(name).spec() for name in agent.persona.tools],
            schema=schema,
            temperature=settings.get("temperature"),
            max_output=most or (_DEFAULT_OUTPUT if limited else None),
            seed=settings.get("seed"),
            extra=settings.get("extra"),
        )

        async def send() -> Reply:
            async def once() -> Reply:
                if agent.throttle is None:
                    return await model.complete(request)
                async with agent.throttle.slot(estimated):
                    return await model.complete(request)

            reply = await (agent.retry.call(once) if agent.retry else once())
            if reply.usage:
                self.context.calibration.learn(
                    model.name, estimated=estimated, real=reply.usage.input_tokens
                )
            return reply

        upper = Usage(
            input_tokens=int(estimated * ratio * _PROMPT_MARGIN),
            output_tokens=request.max_output or 0,
        )
        return await self._remembered(
            f"{self.path}#{step}",
            agent,
            [agent.name, model.name, fitted],
            send,
            effect=agent.effect or agent.persona.effect or "pure",
            upper=upper,
            model=model.name,
        )

    def _fit(self, agent: Agent, messages: list[Any]) -> list[Any]:
        if agent.window is None or agent.model is None:
            return messages
        ratio = self.context.calibration.ratio(agent.model.name)
        fitted = agent.window.fit(messages, ratio=ratio)
        if fitted is not messages:
            self.context.emit(
                "context.compacted",
                {
                    "before": message_tokens(messages),
                    "after": message_tokens(fitted),
                    "dropped": len(messages) - len(fitted),
                },
                task=self.task,
                attempt=self.attempt,
                actor=agent.name,
            )
        return fitted

    def _tool(self, name: str) -> Tool:
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
        self._asked += 1
        path = f"{self.path}.t{self._asked}"
        if agent is not None and name not in agent.persona.tools:
            known = ", ".join(agent.persona.tools) or "none"
            return Reply(f"error: no tool {name!r}; there are: {known}")
        tool = self._tool(name)

        async def run() -> Reply:
            try:
                result = tool.fn(**arguments)
                if inspect.isawaitable(result):
                    result = await result
            except Exception as error:  # the model's fault as often as ours: it is told
                return Reply(f"error: {type(error).__name__}: {error}")
            return as_reply(result)

        return await self._remembered(
            path, agent, [name, dict(arguments)], run,
            effect=tool.effect, upper=Usage(calls=0), tool=name,
        )  # fmt: skip

    async def once(
        self, name: str, fn: Callable[[], Any], *, effect: str = "idempotent"
    ) -> Any:
        """Return what `fn` returned the first time; JSON data only."""

        async def run() -> Reply:
            result = fn()
            if inspect.isawaitable(result):
                result = await result
            return Reply("", result)

        self._asked += 1
        path = f"{self.path}.o{self._asked}"
        reply = await self._remembered(
            path, None, [name], run, effect=effect, upper=Usage(calls=0), tool=name
        )
        return reply.data

    def note(self, kind: str, data: Mapping[str, Any]) -> None:
        """Put an event `note.<kind>` into the journal."""
        self.context.emit(
            f"note.{kind}", data, task=self.task, attempt=self.attempt,
            actor=self.persona,
        )  # fmt: skip

    async def _remembered(
        self,
        path: str,
        agent: Agent | None,
        given: Any,
        run: Callable[[], Awaitable[Reply]],
        *,
        effect: str,
        upper: Usage,
        model: str = "",
        tool: str = "",
    ) -> Reply:
        context = self.context
        key = (self.task, self.attempt, path)
        given_digest = digest(given)
        known = context.memo.get(key)
        if known is not None and known.get("in") == given_digest:
            return Reply.from_json(known["out"])
        if not context.live:
            why = (
                "it was recorded with another input" if known else "it was not recorded"
            )
            raise ReplayError(f"{self.task}/{self.attempt}/{path}", why)
        if key in context.open_unsafe:
            raise InDoubtError(self.task, path)
        context.turns += 1
        if context.turns > context.limits.max_turns:
            raise LoopError(
                "max_turns", f"{context.limits.max_turns} calls in this run"
            )
        return await self._perform(
            path, agent, given_digest, run, effect, upper, model, tool
        )

    async def _perform(
        self,
        path: str,
        agent: Agent | None,
        given: str,
        run: Callable[[], Awaitable[Reply]],
        effect: str,
        upper: Usage,
        model: str,
        tool: str,
    ) -> Reply:
        context = self.context
        actor = agent.name if agent else self.persona
        worst = context.cost(model, upper, self.chain)
        reservation = await context.reserve(
            self.chain,
            {"tokens": upper.tokens, "calls": upper.calls, "usd_micro": worst or 0},
            patient=len(self.lineage) <= 1,
        )
        where: dict[str, Any] = {
            "task": self.task, "attempt": self.attempt, "actor": actor
        }  # fmt: skip
        started: dict[str, Any] = {"key": path, "effect": effect}
        if tool:
            started["tool"] = tool
        if effect == "unsafe":
            started |= {"in": given, "chain": list(self.chain)}
        context.emit("turn.started", started, **where)
        try:
            if effect == "unsafe":
                context.commit_now(full=True)
            reply = await run()
        except BaseException as error:
            failed: dict[str, Any] = {
                "key": path,
                "error": f"{type(error).__name__}: {error}"[:1000],
                "chain": list(self.chain),
                "usage": self._failed_usage(error, model, upper),
            }
            if effect == "unsafe" and isinstance(error, asyncio.CancelledError):
                context.open_unsafe.add((self.task, self.attempt, path))
                context.settle(reservation, {})
                raise  # nobody knows whether it took effect
            context.emit("turn.failed", failed, **where)
            context.settle(reservation, _amounts(failed["usage"]))
            raise
        usage = self._spent(
            reply.usage or self._guess(reply, model, upper), model, upper
        )
        if model and reply.usage is None:
            usage["estimated"] = True
        completed: dict[str, Any] = {
            "key": path, "in": given, "out": reply.to_json(),
            "chain": list(self.chain), "usage": usage,
        }  # fmt: skip
        if model:
            completed["model"] = model
        if tool:
            completed["tool"] = tool
        if self.workspace is not None and agent is not None and not model and not tool:
            completed["at"] = await asyncio.to_thread(
                self.workspace.snapshot, f"{self.task}: {actor}"
            )
        if usage["usd_micro"] is None:
            context.emit("usage.unpriced", {"key": path, "model": model}, **where)
        context.emit("turn.completed", completed, **where)
        context.settle(reservation, _amounts(usage))
        await context.commit()
        return reply

    def _guess(self, reply: Reply, model: str, upper: Usage) -> Usage | None:
        """Return about what a model took that does not say: never nothing."""
        if not model:
            return None
        said = estimate_tokens(reply.text + str(reply.tool_calls or ""))
        guess = int(said * max(1.0, self.context.calibration.ratio(model)))
        most = upper.output_tokens or guess
        return Usage(input_tokens=upper.input_tokens, output_tokens=min(guess, most))

    def _failed_usage(
        self, error: BaseException, model: str, upper: Usage
    ) -> dict[str, Any]:
        """Return what a failed call counts: all it might take, if it was answered.

        A provider that refused (an HTTP error) took nothing; one whose answer
        broke or was cut off has been at work, and nobody said how much.
        """
        refused = isinstance(error, ModelError) and error.status not in {0, 200}
        cut = isinstance(error, (ModelError, asyncio.CancelledError)) and not refused
        if not model or not cut:
            return self._spent(None, model, upper)
        return {**self._spent(upper, model, upper), "estimated": True}

    def _spent(self, usage: Usage | None, model: str, upper: Usage) -> dict[str, Any]:
        """Return what the journal says a call took; calls that failed count too."""
        if usage is None:
            return {"in": 0, "out": 0, "calls": upper.calls, "usd_micro": 0}
        return {
            "in": usage.input_tokens,
            "out": usage.output_tokens,
            "calls": usage.calls if upper.calls else 0,
            "usd_micro": self.context.cost(model, usage, self.chain),
        }


def _assistant(reply: Reply) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": reply.text}
    if reply.tool_calls:
        message["tool_calls"] = [
            {
                "id": c.id,
                "type": "function",
                "function": {"name": c.name, "arguments": dict(c.arguments)},
            }
            for c in reply.tool_calls
        ]
    return message
