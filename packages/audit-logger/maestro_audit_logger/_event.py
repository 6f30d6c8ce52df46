"""The values that callers meet: who, what, and the proof of having stored it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, final

Outcome = Literal["success", "failure", "denied", "unknown"]
OUTCOMES: tuple[Outcome, ...] = ("success", "failure", "denied", "unknown")
SYSTEM_PREFIX = "audit."


@final
@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts. Made with `Actor.user("u-42", ip="...")` and its siblings."""

    type: str
    id: str
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def user(cls, id: str, **attributes: Any) -> Actor:
        """Name a person by an opaque, stable id."""
        return cls("user", id, attributes)

    @classmethod
    def service(cls, id: str, **attributes: Any) -> Actor:
        """Name another program that authenticated itself."""
        return cls("service", id, attributes)

    @classmethod
    def system(cls, id: str, **attributes: Any) -> Actor:
        """Name this program itself, for work that nobody requested."""
        return cls("system", id, attributes)


def how_to_name(given: object) -> str:
    """Say how to name an actor, where a text was given for one."""
    if not isinstance(given, str):
        return ""
    ways = ", ".join(f"Actor.{kind}({given!r})" for kind in ("user", "service"))
    return f"; write {ways} or Actor.system({given!r})"


@final
@dataclass(frozen=True, slots=True)
class Resource:
    """What is acted on; `("invoice", "inv-7")` does as well."""

    type: str
    id: str
    attributes: Mapping[str, Any] = field(default_factory=dict, hash=False)


@final
class Secret:
    """A value that is never written: the record shows `[secret]`."""

    __slots__ = ()

    def __init__(self, value: object) -> None:
        """Forget the value at once: what is not kept cannot leak."""
        del value

    def __repr__(self) -> str:
        return "Secret(...)"


@final
class Private:
    """A value that can be erased later without breaking the chain.

    The record holds a salted commitment; the value itself lies in
    `private.sqlite` until `erase(subject)` removes it.

    Args:
        value: any JSON value.
        subject: whose value it is; the actor's id when left out.
    """

    __slots__ = ("subject", "value")

    def __init__(self, value: Any, *, subject: str | None = None) -> None:
        self.value = value
        self.subject = subject

    def __repr__(self) -> str:
        return "Private(...)"


@final
class Receipt(NamedTuple):
    """What `record` returns once the event is stored.

    A tuple, because one is made for every event and a frozen dataclass costs
    three times as much to make.

    Attributes:
        seq: the line number in the log, from 1; 0 when spilled or dropped.
        ts: the recorded time, RFC 3339 in UTC with microseconds.
        leaf_hash: SHA-256 of 0x00 and the stored bytes, hex (RFC 6962 leaf).
        fate: `stored`, or what the failure policy made of it.
    """

    seq: int
    ts: str
    leaf_hash: str
    fate: Literal["stored", "spilled", "dropped"] = "stored"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One record as read back."""

    seq: int
    prev: str
    ts: str
    actor: Actor
    action: str
    resource: Resource | None
    outcome: str
    ctx: Mapping[str, Any]
    data: Mapping[str, Any]
    raw: bytes = field(repr=False)

    @property
    def time(self) -> datetime:
        """Return the recorded time as an aware datetime in UTC."""
        return datetime.fromisoformat(self.ts)

    @property
    def leaf_hash(self) -> str:
        """Return the RFC 6962 leaf hash of the stored bytes, hex."""
        return hashlib.sha256(b"\0" + self.raw).hexdigest()

    @property
    def is_system(self) -> bool:
        """Tell whether the log wrote this record about itself."""
        return self.action.startswith(SYSTEM_PREFIX)

    def as_dict(self) -> dict[str, Any]:
        """Return the stored object, decoded."""
        decoded: dict[str, Any] = json.loads(self.raw)
        return decoded


def event_from(stored: dict[str, Any], line: bytes) -> Event:
    """Build an event from its decoded form.

    Raises:
        ValueError, KeyError, TypeError: it is not what this package writes.
    """
    actor = dict(stored["actor"])
    resource = stored.get("resource")
    if resource is not None:
        resource = dict(resource)
        resource = Resource(resource.pop("type"), resource.pop("id"), resource)
    event = Event(
        seq=stored["seq"],
        prev=stored["prev"],
        ts=stored["ts"],
        actor=Actor(actor.pop("type"), actor.pop("id"), actor),
        action=stored["action"],
        resource=resource,
        outcome=stored["outcome"],
        ctx=stored.get("ctx", {}),
        data=stored.get("data", {}),
        raw=line,
    )
    _check_types(event)
    return event


def _check_types(event: Event) -> None:
    """Keep what a forger wrote from reaching code that trusts the types."""
    texts = [event.prev, event.ts, event.action, event.outcome]
    texts += [event.actor.type, event.actor.id]
    if event.resource is not None:
        texts += [event.resource.type, event.resource.id]
    if (
        type(event.seq) is not int
        or not all(type(text) is str for text in texts)
        or not type(event.ctx) is type(event.data) is dict
    ):
        raise ValueError("a value of the record has the wrong type")
