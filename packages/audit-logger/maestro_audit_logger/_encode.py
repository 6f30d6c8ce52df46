"""Turn a caller's event into the bytes that are stored, and never again.

Keys of the envelope have a fixed order, the rest is sorted, everything is
ASCII: no separator of any alphabet can split a line, and a search for
`"actor":{"type":"user","id":"u-1"` finds every record of that actor.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from json.encoder import encode_basestring_ascii as quote
from pathlib import PurePath
from typing import Any, final
from uuid import UUID

from maestro_audit_logger._event import (
    OUTCOMES,
    SYSTEM_PREFIX,
    Actor,
    Private,
    Resource,
    Secret,
)
from maestro_audit_logger._redact import REDACTED, Redactor
from maestro_audit_logger.errors import InvalidEvent

MAX_LINE = 65_535  # the entry limit of C2SP tlog-tiles
MAX_DEPTH = 64
ENVELOPE_ROOM = 160  # seq, prev and punctuation, added when the line is chained
_MAX_INT = 2**63 - 1
_PLAIN = frozenset({str, bool, type(None)})
_ACTION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,127}\Z")
_encoder = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True
)
# JSONEncoder builds its C encoder anew for each call, which costs as much as
# encoding a small event. Cycles need no look-out: the walk bounds the depth.
_make: Any = getattr(json.encoder, "c_make_encoder", None)  # CPython has it
_prepared = _make and _make(
    None, _encoder.default, quote, None, ":", ",", True, False, False
)


def _dumps(value: Any) -> str:
    return "".join(_prepared(value, 0)) if _prepared else _encoder.encode(value)


ResourceLike = Resource | tuple[str, str] | None


@final
@dataclass(frozen=True, slots=True)
class Sealed:
    """One erasable value on its way to the private store."""

    commitment: str
    salt: bytes
    value: str
    subject: str


def commit_to(salt: bytes, value_json: str) -> str:
    """Return the commitment that stands for a private value, hex.

    Without the salt, which is erased with the value, not even a guess of the
    value can be confirmed.
    """
    return hmac.digest(salt, value_json.encode(), "sha256").hex()


@final
class Encoder:
    """Check, redact and encode; stateless but for small caches.

    Args:
        redactor: decides which values are hidden.
        clock_ns: nanoseconds since the epoch.
        random_bytes: the source of salts.
    """

    def __init__(
        self,
        redactor: Redactor,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._redactor = redactor
        self._clock_ns = clock_ns
        self._random = random_bytes
        self._second = (-1, "")
        self._actions: set[str] = set()

    def now(self) -> str:
        """Return the time as RFC 3339 in UTC with microseconds."""
        seconds, rest = divmod(self._clock_ns(), 1_000_000_000)
        last, text = self._second
        if seconds != last:
            moment = datetime.fromtimestamp(seconds, UTC)
            text = moment.strftime("%Y-%m-%dT%H:%M:%S")
            self._second = (seconds, text)
        return f"{text}.{rest // 1000:06d}Z"

    def body(
        self,
        *,
        ts: str,
        actor_json: str,
        action: str,
        resource: ResourceLike,
        outcome: str,
        ctx_json: str,
        data: Mapping[str, Any] | None,
        subject: str,
        system: bool = False,
    ) -> tuple[bytes, list[Sealed]]:
        """Encode everything after `prev`, with the private values found in it."""
        if action not in self._actions:
            self._check_action(action, system=system)
        if outcome not in OUTCOMES:
            raise InvalidEvent(
                "$.outcome", f"expected one of {', '.join(OUTCOMES)}, got {outcome!r}"
            )
        sealed: list[Sealed] = []
        data_json = self.mapping(data, "$.data", subject, sealed) if data else "{}"
        head = (
            f'"ts":"{ts}","actor":{actor_json},"action":"{action}",'
            f'"resource":{self._resource(resource)},"outcome":"{outcome}",'
            f'"ctx":{ctx_json},"data":'
        )
        if len(head) + len(data_json) + ENVELOPE_ROOM > MAX_LINE:
            if len(head) + 2 * ENVELOPE_ROOM > MAX_LINE:
                raise InvalidEvent(
                    "$",
                    f"expected at most {MAX_LINE} bytes, got {len(head)} without data",
                )
            data_json, sealed = _truncated(data_json), []
        return f"{head}{data_json}}}".encode("ascii"), sealed

    def actor(self, actor: Actor) -> str:
        """Encode the actor; done once per `bind`."""
        if not isinstance(actor, Actor):
            raise InvalidEvent("$.actor", f"expected an Actor, got {actor!r}")
        return self._identified("$.actor", actor.type, actor.id, actor.attributes)

    def mapping(
        self,
        value: Mapping[str, Any],
        where: str,
        subject: str = "",
        sealed: list[Sealed] | None = None,
    ) -> str:
        """Check, redact and encode a mapping.

        Private values are allowed only where `sealed` collects them.
        """
        if not isinstance(value, Mapping):
            raise InvalidEvent(where, f"expected a mapping, got {_kind(value)}")
        walk = _Walk(self._redactor, subject, sealed, self._random)
        try:
            return _dumps(walk.mapping(value, "", 1))
        except _BadValue as bad:
            raise InvalidEvent(where + bad.path(), bad.message) from None

    def _check_action(self, action: object, *, system: bool) -> None:
        if not isinstance(action, str) or not _ACTION.match(action):
            raise InvalidEvent(
                "$.action",
                "expected 1 to 128 letters, digits and any of _.:/- "
                f"such as 'invoice.approve', got {action!r}",
            )
        if system:
            return
        if action.startswith(SYSTEM_PREFIX):
            raise InvalidEvent(
                "$.action",
                f"{action!r}: names that start with {SYSTEM_PREFIX!r} "
                "are for the log's own records",
            )
        if len(self._actions) < 4096:
            self._actions.add(action)

    def _resource(self, resource: object) -> str:
        if resource is None:
            return "null"
        if isinstance(resource, Resource):
            return self._identified(
                "$.resource", resource.type, resource.id, resource.attributes
            )
        if isinstance(resource, tuple) and len(resource) == 2:
            return self._identified("$.resource", resource[0], resource[1], {})
        raise InvalidEvent(
            "$.resource", f"expected (type, id) or a Resource, got {resource!r}"
        )

    def _identified(
        self, where: str, kind: object, name: object, attributes: Mapping[str, Any]
    ) -> str:
        if not isinstance(kind, str) or not kind:
            raise InvalidEvent(
                f"{where}.type", f"expected a non-empty string, got {kind!r}"
            )
        if not isinstance(name, str) or not name:
            raise InvalidEvent(
                f"{where}.id", f"expected a non-empty string, got {name!r}"
            )
        text = f'{{"type":{quote(kind)},"id":{quote(name)}'
        if not attributes:
            return text + "}"
        for reserved in ("type", "id"):
            if reserved in attributes:
                raise InvalidEvent(
                    f"{where}.{reserved}", "given twice, also as an attribute"
                )
        return f"{text},{self.mapping(attributes, where)[1:]}"


class _BadValue(Exception):
    """Carries the path upwards, so that good values need not build one."""

    def __init__(self, message: str) -> None:
        self.message = message
        self.steps: list[str] = []

    def path(self) -> str:
        return "".join(reversed(self.steps))


@final
class _Walk:
    """One pass over a value: checks, redaction, conversion, private values."""

    def __init__(
        self,
        redactor: Redactor,
        subject: str,
        sealed: list[Sealed] | None,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._hides = redactor.hides
        self._known = redactor.known
        self._by_path = redactor.by_path
        self._subject = subject
        self._sealed = sealed
        self._random = random_bytes

    def mapping(self, value: Mapping[Any, Any], path: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _BadValue(f"expected at most {MAX_DEPTH} levels, got more")
        known, by_path = self._known, self._by_path
        if not by_path:
            for key, item in value.items():
                if known.get(key) is not False or type(item) not in _PLAIN:
                    break
            else:
                return value  # known names and plain values: nothing to change
        clean: dict[str, Any] = {}
        for key, item in value.items():
            if type(key) is not str:
                raise _BadValue(f"expected string keys, got {key!r}")
            below = f"{path}.{key}" if by_path else ""
            hidden = None if by_path else known.get(key)
            if hidden is None:
                hidden = self._hides(key, below[1:])
            if hidden:
                clean[key] = REDACTED
            elif type(item) in _PLAIN or (
                type(item) is int and -_MAX_INT <= item <= _MAX_INT
            ):
                clean[key] = item
            else:
                try:
                    clean[key] = self.value(item, below, depth + 1)
                except _BadValue as bad:
                    bad.steps.append(f".{key}")
                    raise
        return clean

    def value(self, value: Any, path: str, depth: int) -> Any:
        kind = type(value)
        if kind is str or value is None or kind is bool:
            return value
        if kind is int:
            if -_MAX_INT <= value <= _MAX_INT:
                return value
            raise _BadValue("expected an integer of at most 64 bits; use a string")
        if kind is float:
            if math.isfinite(value):
                return value
            raise _BadValue(f"expected a finite number, got {value!r}")
        if isinstance(value, Mapping):
            return self.mapping(value, path, depth)
        if isinstance(value, list | tuple):
            return self._items(value, path, depth)
        if kind is Secret:
            return "[secret]"
        if kind is Private:
            return self._private(value, path, depth)
        return _converted(value)

    def _items(self, values: list[Any] | tuple[Any, ...], path: str, depth: int) -> Any:
        if depth > MAX_DEPTH:
            raise _BadValue(f"expected at most {MAX_DEPTH} levels, got more")
        if all(type(item) in _PLAIN for item in values):
            return values
        clean = []
        for index, item in enumerate(values):
            try:
                clean.append(self.value(item, path, depth + 1))
            except _BadValue as bad:
                bad.steps.append(f"[{index}]")
                raise
        return clean

    def _private(self, private: Private, path: str, depth: int) -> Any:
        if self._sealed is None:
            raise _BadValue("private values are allowed in data only")
        subject = private.subject or self._subject
        value = _dumps(self.value(private.value, path, depth))
        salt = self._random(16)
        commitment = commit_to(salt, value)
        self._sealed.append(Sealed(commitment, salt, value, subject))
        return {"$private": commitment}


def _converted(value: Any) -> Any:
    """Write a few common types as text; refuse the rest by name."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise _BadValue("expected a datetime with a time zone, got a naive one")
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, UUID | Decimal | PurePath):
        return str(value)
    if isinstance(value, Enum):
        inner = value.value
        return inner if isinstance(inner, str | int) else value.name
    if isinstance(value, str):
        return str.__str__(value)
    raise _BadValue(
        "expected a JSON value, datetime, date, UUID, Decimal, Path, Enum, Secret "
        f"or Private, got {_kind(value)}"
    )


def _kind(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix(
        "builtins."
    )


def _truncated(data_json: str) -> str:
    """Replace data over the limit by its size and digest: bounded, but not silent."""
    raw = data_json.encode("ascii")
    digest = hashlib.sha256(raw).hexdigest()
    return _dumps({"truncated": True, "bytes": len(raw), "sha256": digest})
