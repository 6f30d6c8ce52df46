"""Check values before they are encoded: types, sizes, redaction, private values."""

from __future__ import annotations

import hmac
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from json.encoder import encode_basestring_ascii as quote
from pathlib import PurePath
from typing import Any, final
from uuid import UUID

from maestro_audit_logger._event import Private, Secret
from maestro_audit_logger._redact import REDACTED, Redactor

MAX_DEPTH = 64
MAX_INT = 2**63 - 1
_PLAIN = frozenset({str, bool, type(None)})
# The encoder itself refuses what is not finite; only then is the place looked for.
_AS_IS = _PLAIN | {float}
_encoder = json.JSONEncoder(
    ensure_ascii=True, allow_nan=False, separators=(",", ":"), sort_keys=True
)
# JSONEncoder builds its C encoder anew for each call, which costs as much as
# encoding a small event. Cycles need no look-out: the walk bounds the depth.
_make: Any = getattr(json.encoder, "c_make_encoder", None)  # CPython has it
_prepared = _make and _make(
    None, _encoder.default, quote, None, ":", ",", True, False, False
)


def dumps(value: Any) -> str:
    """Encode as ASCII JSON with sorted keys; ValueError when not finite."""
    return "".join(_prepared(value, 0)) if _prepared else _encoder.encode(value)


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


def as_is(value: dict[Any, Any], names: frozenset[str] | set[str], depth: int) -> bool:
    """Tell whether a mapping can be encoded without any change.

    So it is in nearly all events: known names that are not hidden, plain values.
    """
    if not names.issuperset(value):
        return False
    return _items_as_is(value.values(), names, depth)


def _items_as_is(items: Any, names: frozenset[str] | set[str], depth: int) -> bool:
    for item in items:
        kind = type(item)
        if kind in _AS_IS:
            continue
        if kind is int:
            if -MAX_INT <= item <= MAX_INT:
                continue
        elif depth >= MAX_DEPTH:
            return False
        elif kind is dict:
            if as_is(item, names, depth + 1):
                continue
        elif (kind is list or kind is tuple) and _items_as_is(item, names, depth + 1):
            continue
        return False
    return True


class BadValue(Exception):
    """Carries the path upwards, so that good values need not build one."""

    def __init__(self, message: str) -> None:
        self.message = message
        self.steps: list[str] = []

    def path(self) -> str:
        return "".join(reversed(self.steps))


@final
class Walk:
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
            raise BadValue(f"expected at most {MAX_DEPTH} levels, got more")
        known, by_path = self._known, self._by_path
        clean: dict[str, Any] = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise BadValue(f"expected string keys, got {key!r}")
            below = f"{path}.{key}" if by_path else ""
            hidden = None if by_path else known.get(key)
            if hidden is None:
                hidden = self._hides(key, below[1:])
            if hidden:
                clean[key] = REDACTED
            elif type(item) in _PLAIN or (
                type(item) is int and -MAX_INT <= item <= MAX_INT
            ):
                clean[key] = item
            else:
                try:
                    clean[key] = self.value(item, below, depth + 1)
                except BadValue as bad:
                    bad.steps.append(f".{key}")
                    raise
        return clean

    def value(self, value: Any, path: str, depth: int) -> Any:
        kind = type(value)
        if kind is str or value is None or kind is bool:
            return value
        if kind is int:
            if -MAX_INT <= value <= MAX_INT:
                return value
            raise BadValue("expected an integer of at most 64 bits; use a string")
        if kind is float:
            if math.isfinite(value):
                return value
            raise BadValue(f"expected a finite number, got {value!r}")
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
            raise BadValue(f"expected at most {MAX_DEPTH} levels, got more")
        if all(type(item) in _PLAIN for item in values):
            return values
        clean = []
        for index, item in enumerate(values):
            try:
                clean.append(self.value(item, path, depth + 1))
            except BadValue as bad:
                bad.steps.append(f"[{index}]")
                raise
        return clean

    def _private(self, private: Private, path: str, depth: int) -> Any:
        if self._sealed is None:
            raise BadValue("private values are allowed in data only")
        subject = private.subject or self._subject
        value = dumps(self.value(private.value, path, depth))
        salt = self._random(16)
        commitment = commit_to(salt, value)
        self._sealed.append(Sealed(commitment, salt, value, subject))
        return {"$private": commitment}


def _converted(value: Any) -> Any:
    """Write a few common types as text; refuse the rest by name."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise BadValue("expected a datetime with a time zone, got a naive one")
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
    raise BadValue(
        "expected a JSON value, datetime, date, UUID, Decimal, Path, Enum, Secret "
        f"or Private, got {kind_of(value)}"
    )


def kind_of(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix(
        "builtins."
    )
