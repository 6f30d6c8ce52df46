"""Calls: answered from the journal, or made once, budgeted and journaled.

Every call has a key (task, attempt, path). A call whose answer is in the
journal is not made again: it is answered from there. That one rule is resume,
replay and fork. A model's answer takes as many calls as it wants tools.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ._agent import Agent
from ._budget import Reservation
from ._context import estimate_tokens, message_tokens
from ._log import digest
from ._messages import Model, Reply, Request, Usage, structured
from ._session import Context, Key, amounts
from .errors import InDoubtError, LoopError, ModelError, OutputError, ReplayError

if TYPE_CHECKING:
    from ._turn import Turn


@dataclass(slots=True)
class Call:
    """What is asked, and the most that it may take."""

    path: str
    actor: str
    given: str
    """Digest of the input: another input is another call."""
    effect: str
    upper: Usage
    model: str = ""
    tool: str = ""
    keep: bool = False
    """Whether the workspace's content is recorded with the answer."""


async def answer(
    turn: "Turn", call: Call, run: Callable[[], Awaitable[Reply]]
) -> Reply:
    """Return the remembered answer, or make the call and remember it."""
    context = turn.context
    key = (turn.task, turn.attempt, call.path)
    known = context.memo.get(key)
    if known is not None and known.get("in") == call.given:
        return Reply.from_json(known["out"])
    _admit(context, key, recorded=known is not None)
    reservation = await _reserve(turn, call) if context.ledger.limited else None
    _emit_started(turn, call)
    usage: dict[str, Any] | None = None
    try:
        if call.effect == "unsafe":
            context.commit_now(full=True)
        reply = await run()
        usage = _usage(context, call, reply, turn.chain)
        await _emit_completed(turn, call, reply, usage)
    except BaseException as error:
        _failed(turn, call, reservation, error, usage)
        raise
    if reservation is not None:
        context.settle(reservation, amounts(usage))
    await context.commit()
    return reply


def _admit(context: Context, key: Key, *, recorded: bool) -> None:
    if not context.live:
        why = (
            "it was recorded with another input" if recorded else "it was not recorded"
        )
        raise ReplayError(f"{key[0]}/{key[1]}/{key[2]}", why)
    if key in context.open_unsafe:
        raise InDoubtError(key[0], key[2])
    context.count_turn()


async def _reserve(turn: "Turn", call: Call) -> Reservation | None:
    upper = call.upper
    worst = turn.context.cost(call.model, upper, turn.chain)
    wanted = {"tokens": upper.tokens, "calls": upper.calls, "usd_micro": worst or 0}
    return await turn.context.reserve(
        turn.chain, wanted, patient=len(turn.lineage) <= 1
    )


def _emit_started(turn: "Turn", call: Call) -> None:
    data: dict[str, Any] = {"key": call.path, "effect": call.effect}
    if call.tool:
        data["tool"] = call.tool
    if call.effect == "unsafe":
        data |= {"in": call.given, "chain": list(turn.chain)}
    turn.context.emit(
        "turn.started", data, task=turn.task, attempt=turn.attempt, actor=call.actor
    )


async def _emit_completed(
    turn: "Turn", call: Call, reply: Reply, usage: dict[str, Any]
) -> None:
    data: dict[str, Any] = {
        "key": call.path, "in": call.given, "out": reply.to_json(),
        "chain": turn.chain, "usage": usage,
    }  # fmt: skip
    if call.model:
        data["model"] = call.model
    if call.tool:
        data["tool"] = call.tool
    if call.keep and turn.workspace is not None:
        data["at"] = await asyncio.to_thread(
            turn.workspace.snapshot, f"{turn.task}: {call.actor}"
        )
    context = turn.context
    context.emit(
        "turn.completed", data, task=turn.task, attempt=turn.attempt, actor=call.actor
    )
    if usage["usd_micro"] is None:
        context.emit(
            "usage.unpriced", {"key": call.path, "model": call.model},
            task=turn.task, attempt=turn.attempt, actor=call.actor,
        )  # fmt: skip


def _failed(
    turn: "Turn",
    call: Call,
    reservation: Reservation | None,
    error: BaseException,
    usage: dict[str, Any] | None,
) -> None:
    """Journal a call that failed, with what it took."""
    context = turn.context
    if call.effect == "unsafe" and not isinstance(error, Exception):
        # Cancelled, or a second ^C: nobody knows whether it took effect.
        context.open_unsafe.add((turn.task, turn.attempt, call.path))
        context.settle(reservation, {})
        return
    if usage is None:
        usage = _failed_usage(context, call, error, turn.chain)
    data = {
        "key": call.path, "error": f"{type(error).__name__}: {error}"[:1000],
        "chain": turn.chain, "usage": usage,
    }  # fmt: skip
    context.emit(
        "turn.failed", data, task=turn.task, attempt=turn.attempt, actor=call.actor
    )
    context.settle(reservation, amounts(usage))


def _usage(
    context: Context, call: Call, reply: Reply, chain: tuple[str, ...]
) -> dict[str, Any]:
    if reply.usage is not None or not call.model:
        return _spent(context, call, reply.usage, chain)
    guessed = _spent(context, call, _guess(context, call, reply), chain)
    return {**guessed, "estimated": True}


def _guess(context: Context, call: Call, reply: Reply) -> Usage:
    """Return about what a model took that does not say: never nothing."""
    said = estimate_tokens(reply.text + str(reply.tool_calls or ""))
    guess = int(said * max(1.0, context.calibration.ratio(call.model)))
    most = call.upper.output_tokens or guess
    return Usage(input_tokens=call.upper.input_tokens, output_tokens=min(guess, most))


def _failed_usage(
    context: Context, call: Call, error: BaseException, chain: tuple[str, ...]
) -> dict[str, Any]:
    """Return what a failed call counts: all it might take, if it was answered.

    A provider that refused (an HTTP error) took nothing; one whose answer
    broke or was cut off has been at work, and nobody said how much.
    """
    refused = isinstance(error, ModelError) and error.status not in {0, 200}
    cut = isinstance(error, (ModelError, asyncio.CancelledError)) and not refused
    if not call.model or not cut:
        return _spent(context, call, None, chain)
    return {**_spent(context, call, call.upper, chain), "estimated": True}


def _spent(
    context: Context, call: Call, usage: Usage | None, chain: tuple[str, ...]
) -> dict[str, Any]:
    """Return what the journal says a call took; calls that failed count too."""
    if usage is None:
        return {"in": 0, "out": 0, "calls": call.upper.calls, "usd_micro": 0}
    return {
        "in": usage.input_tokens,
        "out": usage.output_tokens,
        "calls": usage.calls if call.upper.calls else 0,
        "usd_micro": context.cost(call.model, usage, chain),
    }


_REPAIRS: Final = 2
_PROMPT_MARGIN: Final = 1.3  # the estimate's documented error
_DEFAULT_OUTPUT: Final = 1024


async def converse(
    turn: "Turn",
    agent: Agent,
    model: Model,
    history: Sequence[Mapping[str, Any]],
    schema: Mapping[str, Any] | None,
) -> Reply:
    """Return the model's answer, after the tools it wanted and up to two repairs."""
    prompt = {"role": "user", "content": turn.prompt}
    messages = [*_system(turn, agent), *history, prompt]
    repairs = 0
    for step in range(1, agent.max_steps + 1):
        reply = await _model_call(turn, agent, model, messages, schema, step)
        if reply.tool_calls:
            messages += await _use_tools(turn, agent, reply)
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


async def _use_tools(turn: "Turn", agent: Agent, reply: Reply) -> list[Any]:
    said: list[Any] = [_assistant(reply)]
    for call in reply.tool_calls:
        result = await turn.tool(call.name, call.arguments, agent=agent)
        said.append({"role": "tool", "tool_call_id": call.id, "content": result.text})
    return said


def _system(turn: "Turn", agent: Agent) -> list[dict[str, Any]]:
    parts = [agent.persona.instructions.strip()]
    root = turn.folder or Path()
    for name in agent.persona.instruction_files:
        file = root / name
        if file.is_file():
            parts.append(file.read_text(encoding="utf-8"))
    text = "\n\n".join(part for part in parts if part)
    return [{"role": "system", "content": text}] if text else []


async def _model_call(
    turn: "Turn",
    agent: Agent,
    model: Model,
    messages: list[Any],
    schema: Mapping[str, Any] | None,
    step: int,
) -> Reply:
    calibration = turn.context.calibration
    fitted = _fit(turn, agent, model, messages)
    estimated = message_tokens(fitted)
    request = _request(turn, agent, fitted, schema)

    async def once() -> Reply:
        if agent.throttle is None:
            return await model.complete(request)
        async with agent.throttle.slot(estimated):
            return await model.complete(request)

    async def send() -> Reply:
        reply = await (agent.retry.call(once) if agent.retry else once())
        if reply.usage:
            calibration.learn(
                model.name, estimated=estimated, real=reply.usage.input_tokens
            )
        return reply

    ratio = max(1.0, calibration.ratio(model.name))
    upper = Usage(
        input_tokens=int(estimated * ratio * _PROMPT_MARGIN),
        output_tokens=request.max_output or 0,
    )
    call = Call(
        f"{turn.path}#{step}", agent.name, digest([agent.name, model.name, fitted]),
        agent.effect or agent.persona.effect or "pure", upper, model.name,
    )  # fmt: skip
    return await answer(turn, call, send)


def _request(
    turn: "Turn", agent: Agent, messages: list[Any], schema: Mapping[str, Any] | None
) -> Request:
    settings = agent.persona.model
    limited = turn.context.ledger.limited
    return Request(
        messages=list(messages),
        tools=[turn.known_tool(name).spec() for name in agent.persona.tools],
        schema=schema,
        temperature=settings.get("temperature"),
        max_output=settings.get("max_output") or (_DEFAULT_OUTPUT if limited else None),
        seed=settings.get("seed"),
        extra=settings.get("extra"),
    )


def _fit(turn: "Turn", agent: Agent, model: Model, messages: list[Any]) -> list[Any]:
    if agent.window is None:
        return messages
    ratio = turn.context.calibration.ratio(model.name)
    fitted = agent.window.fit(messages, ratio=ratio)
    if fitted is not messages:
        data = {
            "before": message_tokens(messages), "after": message_tokens(fitted),
            "dropped": len(messages) - len(fitted),
        }  # fmt: skip
        turn.context.emit(
            "context.compacted", data, task=turn.task, attempt=turn.attempt,
            actor=agent.name,
        )  # fmt: skip
    return fitted


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
