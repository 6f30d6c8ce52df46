"""Jobs as stream entries: encoding, decoding, typed payloads."""

import dataclasses
import json
import types
import typing
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from maestro_workflow_engine.streams.errors import BadPayload

VERSION = "1"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What stands in a stream entry."""

    id: str  # of the job; the same over all tries
    type: str
    payload: str  # JSON
    key: str = ""  # dedupe key
    put: int = 0  # ms since 1970, server's clock
    tries: int = 0  # failed tries before this delivery
    reply: str = ""  # stream that wants the outcome

    def fields(self) -> list[str]:
        """Return the flat list for XADD; the server adds `put` when it is 0."""
        found = ["v", VERSION, "id", self.id, "type", self.type]
        found += ["payload", self.payload]
        for name in ("key", "tries", "reply"):
            value = getattr(self, name)
            if value:
                found += [name, str(value)]
        if self.put:
            found += ["put", str(self.put)]
        return found


def new_message(
    type_: str, payload: object, *, key: str | None, reply: str | None, limit: int
) -> Message:
    """Return a job to be put.

    Raises:
        BadPayload: not JSON, or more than `limit` bytes.
    """
    if not type_ or not isinstance(type_, str):
        raise BadPayload(f"a job's type must be a name, is {type_!r}")
    return Message(
        id=uuid.uuid4().hex,
        type=type_,
        payload=encode(payload, limit),
        key=key or "",
        reply=reply or "",
    )


def encode(payload: object, limit: int) -> str:
    """Return a payload as JSON; dataclasses become objects.

    Raises:
        BadPayload: not JSON, or too large.
    """
    if dataclasses.is_dataclass(payload) and not isinstance(payload, type):
        payload = dataclasses.asdict(payload)
    try:
        text = json.dumps(payload, ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise BadPayload(f"the payload is not JSON: {error}") from error
    if size > limit:
        raise BadPayload(
            f"the payload has {size} bytes, the stream takes {limit}: "
            "store it elsewhere and send its address"
        )
    return text


def text(value: bytes) -> str:
    """Return bytes as text that can be shown, whatever they are."""
    return value.decode("utf-8", "backslashreplace")


def parse_fields(raw: Sequence[bytes]) -> dict[str, str]:
    """Return an entry's flat list as a mapping."""
    return pairs([text(part) for part in raw])


def pairs(flat: Sequence[str]) -> dict[str, str]:
    """Return a list of names and values as a mapping."""
    return dict(zip(flat[::2], flat[1::2], strict=False))


def parse(fields: Mapping[str, str], limit: int) -> Message:
    """Return the job in an entry.

    Raises:
        BadPayload: fields are missing, of another version, or too large.
    """
    if fields.get("v") != VERSION:
        raise BadPayload(
            f"field 'v' must be {VERSION!r}, is {fields.get('v')!r}: "
            "not written by this protocol"
        )
    missing = [name for name in ("id", "type", "payload") if not fields.get(name)]
    if missing:
        raise BadPayload(f"fields missing: {', '.join(missing)}")
    if len(fields["payload"].encode()) > limit:
        raise BadPayload(f"the payload is larger than {limit} bytes")
    try:
        return Message(
            id=fields["id"],
            type=fields["type"],
            payload=fields["payload"],
            key=fields.get("key", ""),
            put=int(fields.get("put", 0)),
            tries=int(fields.get("tries", 0)),
            reply=fields.get("reply", ""),
        )
    except ValueError as error:
        raise BadPayload(f"put and tries must be whole numbers: {error}") from error


def decode(payload: str, wanted: type[T] | None) -> Any:
    """Return a payload as plain data, or as the dataclass `wanted`.

    Raises:
        BadPayload: not JSON, or not of that shape; the message names the field.
    """
    try:
        data = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise BadPayload(f"the payload is not JSON: {error}") from error
    return data if wanted is None else _build(wanted, data, "payload")


def _build(wanted: Any, data: Any, where: str) -> Any:
    if dataclasses.is_dataclass(wanted) and isinstance(wanted, type):
        return _build_dataclass(wanted, data, where)
    origin, arguments = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return data
    if origin in {typing.Union, types.UnionType}:
        return _build_union(arguments, data, where)
    if origin in {list, tuple} and isinstance(data, list):
        inner = arguments[0] if arguments else Any
        items = [_build(inner, item, f"{where}[{i}]") for i, item in enumerate(data)]
        return items if origin is list else tuple(items)
    if origin is dict and isinstance(data, dict):
        return {k: _build(arguments[1], v, f"{where}.{k}") for k, v in data.items()}
    if wanted in {None, type(None)} and data is None:
        return None
    if wanted is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    plain = wanted if isinstance(wanted, type) else origin
    truth_as_number = plain is int and isinstance(data, bool)
    if isinstance(plain, type) and isinstance(data, plain) and not truth_as_number:
        return data
    name = getattr(wanted, "__name__", str(wanted))
    raise BadPayload(f"{where} must be {name}, is {data!r}")


def _build_union(arguments: tuple[Any, ...], data: Any, where: str) -> Any:
    for argument in arguments:
        try:
            return _build(argument, data, where)
        except BadPayload:
            continue
    names = " or ".join(getattr(a, "__name__", str(a)) for a in arguments)
    raise BadPayload(f"{where} must be {names}, is {data!r}")


def _build_dataclass(wanted: type, data: Any, where: str) -> Any:
    if not isinstance(data, dict):
        raise BadPayload(
            f"{where} must be an object for {wanted.__name__}, is {data!r}"
        )
    hints = typing.get_type_hints(wanted)
    known = {f.name: f for f in dataclasses.fields(wanted) if f.init}
    extra = sorted(set(data) - set(known))
    if extra:
        raise BadPayload(f"{where} has unknown fields: {', '.join(extra)}")
    for name, f in known.items():
        required = (
            f.default is dataclasses.MISSING
            and f.default_factory is dataclasses.MISSING
        )
        if required and name not in data:
            raise BadPayload(f"{where}.{name} is missing")
    values = {k: _build(hints[k], v, f"{where}.{k}") for k, v in data.items()}
    try:
        return wanted(**values)
    except (TypeError, ValueError) as error:
        raise BadPayload(f"{where} is no {wanted.__name__}: {error}") from error
