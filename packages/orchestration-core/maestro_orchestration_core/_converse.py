"""A conversation with a model: messages, tools, structured answers and repairs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ._agent import Agent
from ._call import Call, answer
from ._digest import digest
from ._messages import Model, Reply, Request, Usage, structured
from ._tokens import message_tokens
from .errors import LoopError, OutputError

if TYPE_CHECKING:
    from ._turn import Turn

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
