"""What goes to an agent and what comes back."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ._schema import problems
from .errors import OutputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one call took. Totals are sums over events, never counters on clients."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Part of input_tokens that the provider had cached."""
    calls: int = 1
    usd_micro: int | None = None
    """Known cost in millionths of a dollar; None asks the price table."""

    @property
    def tokens(self) -> int:
        """Tokens in and out."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A model's wish to run a tool."""

    id: str
    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """What an agent answered."""

    text: str = ""
    data: Any = None
    """Plain JSON data: a structured answer."""
    usage: Usage | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    finish: str = "stop"
    handoff: str = ""
    """Persona to hand over to, empty for none."""

    def to_json(self) -> dict[str, Any]:
        """Return what the journal keeps; usage is an event of its own."""
        found: dict[str, Any] = {"text": self.text}
        if self.data is not None:
            found["data"] = self.data
        if self.tool_calls:
            found["tool_calls"] = [
                {"id": c.id, "name": c.name, "arguments": dict(c.arguments)}
                for c in self.tool_calls
            ]
        if self.finish != "stop":
            found["finish"] = self.finish
        if self.handoff:
            found["handoff"] = self.handoff
        return found

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Reply":
        """Return the reply that the journal kept."""
        calls = tuple(ToolCall(**c) for c in data.get("tool_calls", ()))
        return cls(
            data.get("text", ""), data.get("data"), None, calls,
            data.get("finish", "stop"), data.get("handoff", ""),
        )  # fmt: skip


def as_reply(value: object) -> Reply:
    """Turn what a callable returned into a Reply: text, Reply or plain data."""
    if isinstance(value, Reply):
        return value
    if isinstance(value, str):
        return Reply(value)
    if value is None:
        return Reply()
    return Reply(json.dumps(value, ensure_ascii=False), value)


def structured(reply: Reply, schema: Mapping[str, Any]) -> Reply:
    """Return the reply with checked data; raise OutputError with each problem."""
    data = reply.data
    if data is None:
        text = reply.text.strip()
        if text.startswith("```"):
            text = text.strip("`").removeprefix("json").strip()
        try:
            data = json.loads(text)
        except ValueError as error:
            raise OutputError([f"$: not JSON: {error}"]) from error
    found = problems(data, schema)
    if found:
        raise OutputError(found)
    return Reply(
        reply.text, data, reply.usage, reply.tool_calls, reply.finish, reply.handoff
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One model call."""

    messages: Sequence[Mapping[str, Any]]
    """In the chat format: role, content, tool_calls, tool_call_id."""
    tools: Sequence[Mapping[str, Any]] = ()
    schema: Mapping[str, Any] | None = None
    temperature: float | None = None
    max_output: int | None = None
    seed: int | None = None
    extra: Mapping[str, Any] | None = None


class Model(Protocol):
    """Anything that answers a model call."""

    name: str
    """What the price table knows it by."""

    async def complete(self, request: Request) -> Reply:
        """Answer with usage filled in."""
