"""Find events in place.

We own the encoder, so an actor, action or resource is an exact byte string in
its line: search for that, then parse the hits only.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from fnmatch import fnmatchcase
from json.encoder import encode_basestring_ascii as quote
from pathlib import Path
from typing import Any, final

from maestro_audit_logger._event import (
    OUTCOMES,
    SYSTEM_PREFIX,
    Actor,
    Event,
    event_from,
)
from maestro_audit_logger._segments import HEAD, Identity, Segment, list_segments
from maestro_audit_logger.errors import InvalidSetting

_AGO = re.compile(r"-(\d+)([smhdw])\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_GLOB = re.compile(r"[*?\[]")
Buffer = bytes | mmap.mmap


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What to look for; everything given must hold.

    Attributes:
        actor: the actor's id, or `type:id`.
        action: a name or a shell pattern such as `invoice.*`.
        resource: the id, or `(type, id)`.
        outcome: success, failure, denied or unknown.
        since: from this time on: a datetime, RFC 3339 text, or `-7d`, `-15m`.
        until: up to, and not with, this time.
        after: only lines after this number: for paging forward.
        before: only lines before this number: for paging backward.
        where: any other condition on the event.
        newest_first: the order; line numbers decide, never clocks.
        limit: at most so many.
        system: also the log's own records.
    """

    actor: str | None = None
    action: str | None = None
    resource: str | tuple[str, str] | None = None
    outcome: str | None = None
    since: str | datetime | None = None
    until: str | datetime | None = None
    after: int = 0
    before: int | None = None
    where: Callable[[Event], bool] | None = None
    newest_first: bool = False
    limit: int | None = None
    system: bool = False

    def __post_init__(self) -> None:
        """Refuse what would match nothing, or fail in the midst of a log."""
        for name in ("actor", "action", "outcome"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                hint = f", such as {value.id!r}" if isinstance(value, Actor) else ""
                raise InvalidSetting(name, f"a text{hint}", value)
        if self.outcome is not None and self.outcome not in OUTCOMES:
            near = get_close_matches(self.outcome, OUTCOMES, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise InvalidSetting(
                "outcome", f"one of {', '.join(OUTCOMES)}{hint}", self.outcome
            )
        if self.resource is not None and not _is_resource(self.resource):
            raise InvalidSetting("resource", "an id or (type, id)", self.resource)
        for name in ("after", "before", "limit"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 0):
                raise InvalidSetting(name, "a whole number of at least 0", value)
        if self.where is not None and not callable(self.where):
            raise InvalidSetting("where", "a function of an event", self.where)

    @classmethod
    def from_criteria(cls, criteria: dict[str, Any]) -> Query:
        """Build a query from keyword arguments.

        Raises:
            TypeError: there is no such criterion.
            InvalidSetting: its value can match nothing.
        """
        known = [field.name for field in fields(cls)]
        for name in criteria:
            if name not in known:
                near = get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise TypeError(
                    f"no criterion {name!r}, there are {', '.join(known)}{hint}"
                )
        return cls(**criteria)


def _is_resource(value: object) -> bool:
    if isinstance(value, tuple):
        return len(value) == 2 and all(isinstance(part, str) for part in value)
    return isinstance(value, str)


def run_query(path: str | os.PathLike[str], query: Query) -> Iterator[Event]:
    """Yield the events of a log that match, in line order or newest first.

    Lines that a crash has torn are no events and are left out. Each call sees
    the log as it is when it reaches a segment.
    """
    folder = Path(path)
    Identity.load(folder)
    return _limited(_search(folder, _Filter(query)), query.limit)


def follow(
    path: str | os.PathLike[str],
    query: Query,
    *,
    poll_s: float = 0.5,
    sleep: Callable[[float], object] = time.sleep,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Yield matching events as they come, for ever or until `stop()` is true.

    Starts after line `query.after`; 0 starts with the first.
    """
    folder = Path(path)
    Identity.load(folder)
    last = query.after
    settings = {field.name: getattr(query, field.name) for field in fields(Query)}
    while True:
        fresh = Query(**{**settings, "after": last, "newest_first": False})
        everything = _Filter(Query(after=last, system=True))
        for event in _search(folder, everything):
            last = event.seq
            if _Filter(fresh).matches(event):
                yield event
        if stop():
            return
        sleep(poll_s)


def _limited(events: Iterator[Event], limit: int | None) -> Iterator[Event]:
    if limit is None:
        yield from events
        return
    for _ in range(limit):
        event = next(events, None)
        if event is None:
            return
        yield event


@final
class _Filter:
    """A query with its times resolved and its byte string to search for."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self.since = moment_text(query.since)
        self.until = moment_text(query.until)
        kind, _, name = (query.actor or "").partition(":")
        self._actor_type, self._actor_id = (kind, name) if name else ("", kind)
        resource = query.resource
        self._resource = ("", resource) if isinstance(resource, str) else resource
        action = query.action or ""
        self._glob = bool(_GLOB.search(action))
        self._system = query.system or action.startswith(SYSTEM_PREFIX)
        self.needle = self._needle()

    def _needle(self) -> bytes:
        query = self.query
        if self._actor_id and self._actor_type:
            return (
                f'"actor":{{"type":{quote(self._actor_type)},"id":{quote(self._actor_id)}'
            ).encode()
        if self._actor_id:
            return f'"id":{quote(self._actor_id)}'.encode()
        if self._resource:
            return f'"id":{quote(self._resource[1])}'.encode()
        if query.action and not self._glob:
            return f'"action":{quote(query.action)}'.encode()
        if query.action:
            prefix = _GLOB.split(query.action)[0]
            return f'"action":"{prefix}'.encode()
        if query.outcome and query.outcome != "success":
            return f'"outcome":{quote(query.outcome)}'.encode()
        return b""

    def in_range(self, line: bytes) -> bool:
        """Tell from the first bytes whether number and time can match."""
        head = HEAD.match(line)
        if head is None:
            return False
        seq, ts = int(head[1]), head[3].decode()
        return (
            seq > self.query.after
            and (self.query.before is None or seq < self.query.before)
            and (not self.since or ts >= self.since)
            and (not self.until or ts < self.until)
        )

    def matches(self, event: Event) -> bool:
        """Tell whether the event matches, but for number and time."""
        query = self.query
        if event.is_system and not self._system:
            return False
        if self._actor_id and event.actor.id != self._actor_id:
            return False
        if self._actor_type and event.actor.type != self._actor_type:
            return False
        if query.action and not self._action_matches(event.action):
            return False
        if query.outcome and event.outcome != query.outcome:
            return False
        if self._resource and not self._resource_matches(event):
            return False
        return query.where is None or query.where(event)

    def _action_matches(self, action: str) -> bool:
        wanted = self.query.action or ""
        return fnmatchcase(action, wanted) if self._glob else action == wanted

    def _resource_matches(self, event: Event) -> bool:
        assert self._resource is not None  # the caller asks only then
        kind, name = self._resource
        found = event.resource
        return found is not None and found.id == name and kind in {"", found.type}


def moment_text(moment: str | datetime | None) -> str:
    """Return a time as it is stored, so that text order is time order.

    Raises:
        ValueError: it is no time, or has no time zone.
    """
    if moment is None:
        return ""
    if not isinstance(moment, str | datetime):
        raise InvalidSetting("time", "a datetime, RFC 3339 text or -7d", moment)
    if isinstance(moment, str):
        ago = _AGO.match(moment)
        if ago:
            span = timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            moment = datetime.now(UTC) - span
        else:
            text = moment
            try:
                moment = datetime.fromisoformat(text)
            except ValueError as error:
                raise ValueError(
                    f"expected a time such as 2026-11-01 or -7d, got {text!r}"
                ) from error
            if len(text) == len("2026-11-01"):
                moment = moment.replace(tzinfo=UTC)
    if moment.tzinfo is None:
        raise ValueError(f"expected a time with a time zone, got {moment!r}")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _search(folder: Path, wanted: _Filter) -> Iterator[Event]:
    segments = list_segments(folder)
    query = wanted.query
    following = [s.first for s in segments[1:]]
    pairs = list(zip(segments, [*following, None], strict=True))
    for segment, end in reversed(pairs) if query.newest_first else pairs:
        if end is not None and end - 1 <= query.after:
            continue
        if query.before is not None and segment.first >= query.before:
            continue
        if end is not None and not _times_overlap(segment, wanted):
            continue
        yield from _in_segment(segment, wanted)


def _in_segment(segment: Segment, wanted: _Filter) -> Iterator[Event]:
    if segment.packed:
        yield from _in_buffer(segment.read(), wanted)
        return
    try:
        file = segment.path.open("rb")
    except FileNotFoundError:
        return  # pruned while we were reading the one before
    with file:
        if os.fstat(file.fileno()).st_size == 0:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            yield from _in_buffer(buffer, wanted)


def _in_buffer(buffer: Buffer, wanted: _Filter) -> Iterator[Event]:
    scan = _backward if wanted.query.newest_first else _forward
    for line in scan(buffer, wanted.needle):
        if not wanted.in_range(line):
            continue
        try:
            event = event_from(json.loads(line), line)
        except (ValueError, KeyError, TypeError):
            continue  # a torn line
        if wanted.matches(event):
            yield event


def _forward(buffer: Buffer, needle: bytes) -> Iterator[bytes]:
    end = buffer.rfind(b"\n") + 1
    at = 0
    while at < end:
        if needle:
            hit = buffer.find(needle, at, end)
            if hit < 0:
                return
            at = buffer.rfind(b"\n", at, hit) + 1 or at
        stop = buffer.find(b"\n", at, end)
        yield buffer[at:stop]
        at = stop + 1


def _backward(buffer: Buffer, needle: bytes) -> Iterator[bytes]:
    end = buffer.rfind(b"\n") + 1
    while end > 0:
        if needle:
            hit = buffer.rfind(needle, 0, end)
            if hit < 0:
                return
            stop = buffer.find(b"\n", hit, end)
        else:
            stop = end - 1
        start = buffer.rfind(b"\n", 0, stop) + 1
        yield buffer[start:stop]
        end = start


def _times_overlap(segment: Segment, wanted: _Filter) -> bool:
    """Ask the seal of a segment whether it can hold anything of that time."""
    if not (wanted.since or wanted.until) or segment.packed:
        return True
    with segment.path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - 4096))
        line = file.read().removesuffix(b"\n").rpartition(b"\n")[2]
    try:
        seal = json.loads(line)
        if seal["action"] != "audit.rotated":
            return True
        low, high = seal["data"]["min_ts"], max(seal["data"]["max_ts"], seal["ts"])
    except (ValueError, KeyError, TypeError):
        return True
    return bool(
        (not wanted.since or high >= wanted.since)
        and (not wanted.until or low < wanted.until)
    )
