"""Small things that claims, windows and announcements share."""

import contextlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from ._store import Op, Put, Record, Store
from .errors import Conflict, InvalidInput

__all__ = ["Notice", "Override", "guarded", "instant", "iso"]

GUARD = "g/coordination"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that an audit wants to know: an override, an emergency.

    Attributes:
        kind: claim-override or emergency-announcement.
        at: seconds since 1970, by the store's clock.
        by: who did it.
        details: what was done, with reason and approver.
    """

    kind: str
    at: float
    by: str
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Why a rule does not hold this once, and who agreed."""

    reason: str
    approver: str

    def __post_init__(self) -> None:
        for name in ("reason", "approver"):
            some_text(f"override.{name}", getattr(self, name))


def instant(name: str, value: Any) -> float:
    """Read a moment: seconds since 1970, an aware datetime or ISO 8601 with a zone."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = datetime.fromisoformat(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    expected = "seconds since 1970, or a time with its zone such as 2026-12-01T08:00Z"
    raise InvalidInput(name, value, expected)


def iso(seconds: float) -> str:
    """Write a moment as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def some_text(name: str, value: Any) -> str:
    """Return a text that says something."""
    if not isinstance(value, str) or not value.strip() or len(value) > 4096:
        raise InvalidInput(name, value, "a text of 1 to 4096 characters")
    return value


def guarded(
    store: Store, decide: Callable[[], tuple[Sequence[Op], T]]
) -> tuple[int, T]:
    """Commit what `decide` says, deciding anew when something changed meanwhile."""
    while True:
        found = store.read(GUARD).records
        at = found[0].revision if found else 0
        ops, result = decide()
        try:
            put = Put(GUARD, uuid.uuid4().hex)
            return store.commit([put, *ops], {GUARD: at}), result
        except Conflict:
            continue


def load(record: Record) -> dict[str, Any]:
    """Return a record's JSON object."""
    return dict(json.loads(record.value))


def dump(raw: Mapping[str, Any]) -> str:
    """Return what is stored for a mapping."""
    return json.dumps(raw, separators=(",", ":"), ensure_ascii=False, sort_keys=True)
