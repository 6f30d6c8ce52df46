"""Freeze windows: times in which services must not be modified.

A window names services by a pattern (`payments-*`), has a start and an end in UTC, and
may come again every week until a last day. Who is in `allow` is not bound by it.
"""

import fnmatch
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, final

from ._args import named, words
from ._notice import dump, guarded, instant, iso, load, some_text
from ._store import Delete, Put, Record, Store, join_key
from .errors import InvalidInput, UnknownEntry

__all__ = ["Window", "Windows"]

WEEK = 7 * 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """One freeze; times in seconds since 1970, `until` ends a weekly one."""

    id: str
    pattern: str
    start: float
    end: float
    reason: str
    by: str = ""
    allow: frozenset[str] = frozenset()
    weekly: bool = False
    until: float | None = None

    def covers(self, service: str, at: float) -> bool:
        """Tell whether it forbids modifying a service at a time."""
        return fnmatch.fnmatchcase(service, self.pattern) and self.active(at)

    def active(self, at: float) -> bool:
        """Tell whether it is open at a time; the end is not part of it."""
        if not self.weekly:
            return self.start <= at < self.end
        if at < self.start or (self.until is not None and at >= self.until):
            return False
        return (at - self.start) % WEEK < self.end - self.start

    def __str__(self) -> str:
        again = " every week" if self.weekly else ""
        return (
            f"freeze {self.id} of {self.pattern} from {iso(self.start)} "
            f"to {iso(self.end)}{again} ({self.reason})"
        )


@final
class Windows:
    """The freeze windows of a registry."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @named
    def add(
        self,
        pattern: str,
        start: Any,
        end: Any,
        *,
        reason: str,
        by: str = "",
        allow: Iterable[str] = (),
        weekly: bool = False,
        until: Any = None,
    ) -> Window:
        """Forbid modifications of the services that match, and return the window."""
        if not re.fullmatch(r"[a-z0-9*?\[\]!-]{1,63}", str(pattern)):
            expected = "a service name, or a pattern with *, ? and [...]"
            raise InvalidInput("pattern", pattern, expected)
        window = Window(
            id=uuid.uuid4().hex[:12],
            pattern=pattern,
            start=instant("start", start),
            end=instant("end", end),
            reason=some_text("reason", reason),
            by=by,
            allow=frozenset(words("allow", allow)),
            weekly=weekly,
            until=None if until is None else instant("until", until),
        )
        if window.end <= window.start:
            raise InvalidInput("end", iso(window.end), f"after {iso(window.start)}")
        if weekly and window.end - window.start > WEEK:
            raise InvalidInput("end", iso(window.end), "within a week of the start")
        raw = {name: getattr(window, name) for name in window.__slots__}
        raw["allow"] = sorted(window.allow)
        put = Put(join_key("w", window.id), dump(raw))
        guarded(self._store, lambda: ([put], None))
        return window

    def remove(self, id: str) -> None:
        """Take a window back."""
        key = join_key("w", id)
        if not any(record.key == key for record in self._store.read(key).records):
            raise UnknownEntry("window", id)
        guarded(self._store, lambda: ([Delete(key)], None))

    def all(self) -> tuple[Window, ...]:
        """Return every window, past ones too, in order of start."""
        found = [_window(record) for record in self._store.read("w/").records]
        return tuple(sorted(found, key=lambda w: (w.start, w.id)))

    def covering(
        self, service: str, at: float, *, by: str | None = None
    ) -> tuple[Window, ...]:
        """Return the windows that forbid `by` to modify a service at a time."""
        return tuple(
            w for w in self.all() if w.covers(service, at) and by not in w.allow
        )


def _window(record: Record) -> Window:
    raw = load(record)
    raw["allow"] = frozenset(raw["allow"])
    return Window(**{k: v for k, v in raw.items() if k in Window.__slots__})
