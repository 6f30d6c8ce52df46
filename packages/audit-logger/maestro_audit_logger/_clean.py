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


def plain_json(
    value: dict[Any, Any], names: Mapping[str, str], depth: int
) -> str | None:
    """Encode a mapping that needs no change; None when it may need one.

    Nearly all events are such: known names that are not hidden, plain values.
    Checking and encoding them in one pass costs less than doing one after the
    other. The result is that of `dumps`.

    Args:
        value: the mapping.
        names: names that are never hidden, each with its JSON and a colon.
        depth: how deep the mapping lies.
    """
    try:
        keys = sorted(value)
    except TypeError:
        return None  # not all of them are strings
    parts = []
    name = names.get
    for key in keys:
        prefix = name(key)
        if prefix is None:
            return None
        item = value[key]
        kind = type(item)
        if kind is str:
            parts.append(prefix + quote(item))
        elif kind is int and -MAX_INT <= item <= MAX_INT:
            parts.append(prefix + str(item))
        else:
            text = _plain_item(item, names, depth)
            if text is None:
                return None
            parts.append(prefix + text)
    return "{" + ",".join(parts) + "}"


def _plain_item(item: Any, names: Mapping[str, str], depth: int) -> str | None:
    kind = type(item)
    if item is None:
        return "null"
    if kind is bool:
        return "true" if item else "false"
    if kind is str:
        return quote(item)
    if kind is int:
        return str(item) if -MAX_INT <= item <= MAX_INT else None
    if kind is float:
        return repr(item) if math.isfinite(item) else None
    if depth >= MAX_DEPTH:
        return None
    if kind is dict:
        return plain_json(item, names, depth + 1)
    if kind is list or kind is tuple:
        parts = []
        for each in item:
            text = (
                quote(each)
                if type(each) is str
                else _plain_item(each, names, depth + 1)
            )
            if text is None:
                return None
            parts.append(text)
        return "[" + ",".join(parts) + "]"
    return None


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
