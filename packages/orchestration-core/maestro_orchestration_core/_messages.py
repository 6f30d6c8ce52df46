"""What goes to an agent, what comes back (checked against a schema), what it costs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from pathlib import Path
from typing import Any, Final, Protocol, final

from ._budget import usd_to_micro
from .errors import OutputError, SettingsError

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "object": (dict,), "array": (list,), "string": (str,), "boolean": (bool,),
    "integer": (int,), "number": (int, float), "null": (type(None),),
}  # fmt: skip


def problems(value: Any, schema: Mapping[str, Any], where: str = "$") -> list[str]:
    """Return what is wrong with `value`, each with its path; empty when right.

    Knows type, enum, const, properties, required, additionalProperties (false),
    items, minItems, maxItems, minLength, maxLength, minimum, maximum, anyOf.
    """
    found = _type_problem(value, schema, where)
    if found:
        return found
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{where}: {value!r} is not one of {schema['enum']}")
    if "const" in schema and value != schema["const"]:
        found.append(f"{where}: expected {schema['const']!r}, got {value!r}")
    if "anyOf" in schema and all(problems(value, s, where) for s in schema["anyOf"]):
        found.append(f"{where}: fits none of {len(schema['anyOf'])} alternatives")
    if isinstance(value, dict):
        found += _object(value, schema, where)
    elif isinstance(value, list):
        found += _size(len(value), schema, where, "Items")
        inner = schema.get("items")
        if inner:
            for n, item in enumerate(value):
                found += problems(item, inner, f"{where}[{n}]")
    elif isinstance(value, str):
        found += _size(len(value), schema, where, "Length")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        if value < schema.get("minimum", value):
            found.append(f"{where}: {value} is below {schema['minimum']}")
        if value > schema.get("maximum", value):
            found.append(f"{where}: {value} is above {schema['maximum']}")
    return found


def _type_problem(value: Any, schema: Mapping[str, Any], where: str) -> list[str]:
    wanted = schema.get("type")
    if wanted is None:
        return []
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in names:
        fits = isinstance(value, _TYPES.get(name, (object,)))
        if fits and not (isinstance(value, bool) and name in {"integer", "number"}):
            return []
    return [f"{where}: expected {' or '.join(names)}, got {value!r:.60}"]


def _object(value: dict[str, Any], schema: Mapping[str, Any], where: str) -> list[str]:
    known = schema.get("properties", {})
    found = [
        f"{where}.{k}: missing" for k in schema.get("required", ()) if k not in value
    ]
    for key, item in value.items():
        if key in known:
            found += problems(item, known[key], f"{where}.{key}")
        elif schema.get("additionalProperties") is False:
            found.append(f"{where}.{key}: not expected")
    return found


def _size(n: int, schema: Mapping[str, Any], where: str, what: str) -> list[str]:
    low, high = schema.get(f"min{what}"), schema.get(f"max{what}")
    if low is not None and n < low:
        return [f"{where}: {n} is fewer than {low}"]
    if high is not None and n > high:
        return [f"{where}: {n} is more than {high}"]
    return []


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Dollars per million tokens, and per call."""

    input: Decimal | str | float = 0
    output: Decimal | str | float = 0
    cached: Decimal | str | float | None = None
    """For input tokens from the provider's cache; None: the input price."""
    call: Decimal | str | float = 0

    def cost_micro(self, usage: Usage) -> int:
        """Return micro-dollars for a call, rounded up."""
        fresh = usage.input_tokens - usage.cached_tokens
        cached = self.input if self.cached is None else self.cached
        # Dollars per million tokens are micro-dollars per token.
        micro = (
            Decimal(str(self.input)) * fresh
            + Decimal(str(cached)) * usage.cached_tokens
            + Decimal(str(self.output)) * usage.output_tokens
        )
        whole = int(micro.to_integral_value(ROUND_CEILING))
        return whole + usd_to_micro(self.call) * usage.calls


class Prices(Protocol):
    """Where prices come from."""

    def price(self, model: str) -> Price | None:
        """Return the price of a model, None when unknown."""


@final
class PriceTable:
    """Prices by model name, from code or from a file."""

    def __init__(self, prices: Mapping[str, Price]) -> None:
        self._prices = dict(prices)

    @classmethod
    def load(cls, path: str | Path) -> "PriceTable":
        """Read a TOML file: one table per model with input, output, cached, call."""
        import tomllib

        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
            return cls({name: Price(**row) for name, row in data.items()})
        except (ValueError, TypeError, OSError) as error:
            raise SettingsError(
                f"not a price table: {error}", source=str(path)
            ) from error

    @classmethod
    def from_litellm(cls, path: str | Path) -> "PriceTable":
        """Read the JSON price file that LiteLLM publishes (dollars per token)."""
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, OSError) as error:
            raise SettingsError(
                f"not a price file: {error}", source=str(path)
            ) from error
        return cls({k: _litellm(v) for k, v in data.items() if _priced(v)})

    def price(self, model: str) -> Price | None:
        """Return the price of a model, None when unknown."""
        return self._prices.get(model)


def _priced(row: Any) -> bool:
    return isinstance(row, dict) and row.get("input_cost_per_token") is not None


def _litellm(row: Mapping[str, Any]) -> Price:
    def million(key: str) -> Decimal:
        return Decimal(str(row.get(key) or 0)) * 1_000_000

    cached = row.get("cache_read_input_token_cost")
    return Price(
        input=million("input_cost_per_token"),
        output=million("output_cost_per_token"),
        cached=million("cache_read_input_token_cost") if cached is not None else None,
    )
