"""Contracts: changes of a service are announced, breaking ones with notice.

The notice counts from the moment when the store took the announcement, by the store's
clock, in seconds: no time zone or daylight saving matters. An earlier date or a wider
scope is a new announcement as far as the notice goes. Consumers, the services that
require this one, acknowledge.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from email.utils import formatdate
from typing import Any, Literal, final

from ._args import named, words
from ._graph import graph_of
from ._model import check_name
from ._notice import Notice, Override, dump, guarded, instant, iso, load, some_text
from ._policy import Rules
from ._semver import parse_version
from ._store import Op, Put, Record, Store, join_key
from ._sweep import decode_all
from .errors import InvalidInput, NoticeTooShort, UnknownEntry

__all__ = ["Announcement", "Contracts", "in_days"]

State = Literal["announced", "acknowledged", "effective", "withdrawn", "closed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Announcement:
    """An announced change; times in seconds since 1970 by the store's clock.

    `noticed` is when the notice began to count.
    """

    id: str
    service: str
    change: str
    version: str
    breaking: bool
    effective: float
    noticed: float
    by: str = ""
    scope: tuple[str, ...] = ()
    consumers: tuple[str, ...] = ()
    acknowledged: Mapping[str, float] = field(default_factory=dict, hash=False)
    ended: Literal["", "withdrawn", "closed"] = ""
    emergency: Mapping[str, str] | None = field(default=None, hash=False)

    @property
    def missing(self) -> tuple[str, ...]:
        """Return the consumers that did not acknowledge."""
        return tuple(c for c in self.consumers if c not in self.acknowledged)

    def state(self, now: float) -> State:
        """Return where it stands at a time."""
        if self.ended:
            return self.ended
        if now >= self.effective:
            return "effective"
        return "announced" if self.missing else "acknowledged"

    def headers(self) -> dict[str, str]:
        """Return HTTP headers that tell clients: RFC 9745 and RFC 8594."""
        return {
            "Deprecation": f"@{int(self.noticed)}",
            "Sunset": formatdate(self.effective, usegmt=True),
        }


def in_days(days: float, *, now: float | None = None) -> float:
    """Return the moment so many times 24 hours from now."""
    import time

    return (time.time() if now is None else now) + days * 86_400


@final
class Contracts:
    """The announcements of a registry."""

    def __init__(
        self,
        store: Store,
        *,
        rules: Rules | None = None,
        notify: Callable[[Notice], None] = lambda _: None,
    ) -> None:
        self._store, self._notify = store, notify
        self._rules = rules or Rules()

    @named
    def announce(
        self,
        service: str,
        *,
        change: str,
        version: str,
        effective: Any,
        breaking: bool | None = None,
        by: str = "",
        scope: Iterable[str] = (),
        consumers: Iterable[str] = (),
        emergency: Override | None = None,
    ) -> Announcement:
        """Announce a change.

        Args:
            service: what changes.
            change: in a sentence, for those who use it.
            version: the version that brings it.
            effective: when.
            breaking: without it, a new major version counts as breaking.
            by: who announces.
            scope: names of what is touched; widening it later restarts the notice.
            consumers: who must acknowledge, beside those whose `requires` say so.
            emergency: skip the notice, for a reason and with an approver.

        Raises:
            NoticeTooShort: a breaking change too soon.
        """
        check_name("service", service)
        parse_version(version)
        extra = {check_name("consumer", name) for name in words("consumers", consumers)}
        new = Announcement(
            id=uuid.uuid4().hex[:12],
            service=service,
            change=some_text("change", change),
            version=version,
            breaking=breaks(self._store, service, version)
            if breaking is None
            else breaking,
            effective=instant("effective", effective),
            noticed=self._store.now(),
            by=by,
            scope=_scope(scope),
            consumers=tuple(sorted(extra | set(self._consumers(service)))),
            emergency=_plain(emergency),
        )
        self._check_notice(new)
        guarded(self._store, lambda: ([_put(new)], None))
        if emergency is not None:
            self._tell_emergency(new, by, emergency)
        return new

    def amend(
        self,
        id: str,
        *,
        effective: Any = None,
        change: str | None = None,
        scope: Iterable[str] | None = None,
        emergency: Override | None = None,
    ) -> Announcement:
        """Change an announcement; an earlier date or a wider scope counts as new.

        What counts as new loses its acknowledgements and needs the whole notice, or
        an emergency of its own: that of the announcement does not cover it.
        """

        def decide() -> tuple[Sequence[Op], Announcement]:
            old = self.get(id)
            new = replace(
                old,
                effective=old.effective
                if effective is None
                else instant("effective", effective),
                change=old.change if change is None else some_text("change", change),
                scope=old.scope if scope is None else _scope(scope),
            )
            wider = not set(new.scope) <= set(old.scope)
            if new.effective < old.effective or wider:
                new = replace(
                    new,
                    noticed=self._store.now(),
                    acknowledged={},
                    emergency=_plain(emergency),
                )
                self._check_notice(new)
            return [_put(new)], new

        found = guarded(self._store, decide)[1]
        if emergency is not None:
            self._tell_emergency(found, found.by, emergency)
        return found

    def acknowledge(self, id: str, *, by: str) -> Announcement:
        """Note that a consumer knows and is ready for the change."""
        check_name("consumer", by)

        def decide() -> tuple[Sequence[Op], Announcement]:
            old = self.get(id)
            if by not in old.consumers:
                known = ", ".join(old.consumers) or "none"
                raise InvalidInput("consumer", by, f"one of {known}")
            known_at = dict(old.acknowledged) | {by: self._store.now()}
            new = replace(old, acknowledged=known_at)
            return [_put(new)], new

        return guarded(self._store, decide)[1]

    def withdraw(self, id: str) -> Announcement:
        """Take an announcement back."""
        return self._end(id, "withdrawn")

    def finish(self, id: str) -> Announcement:
        """Close an announcement whose change is done everywhere."""
        return self._end(id, "closed")

    def get(self, id: str) -> Announcement:
        """Return one announcement, or raise UnknownEntry."""
        for found in self.all():
            if found.id == id:
                return found
        raise UnknownEntry("announcement", id)

    def all(self, service: str | None = None) -> tuple[Announcement, ...]:
        """Return the announcements, ended ones too, by date."""
        found = map(_announcement, self._store.read("a/").records)
        wanted = [a for a in found if service is None or a.service == service]
        return tuple(sorted(wanted, key=lambda a: (a.effective, a.id)))

    def _end(self, id: str, how: Literal["withdrawn", "closed"]) -> Announcement:
        def decide() -> tuple[Sequence[Op], Announcement]:
            new = replace(self.get(id), ended=how)
            return [_put(new)], new

        return guarded(self._store, decide)[1]

    def _tell_emergency(self, new: Announcement, by: str, why: Override) -> None:
        details = {"announcement": new.id, "service": new.service}
        details |= {"reason": why.reason, "approver": why.approver}
        kind = "emergency-announcement"
        self._notify(Notice(kind=kind, at=new.noticed, by=by, details=details))

    def _check_notice(self, new: Announcement) -> None:
        given = new.effective - new.noticed
        if new.breaking and new.emergency is None and given < self._rules.notice:
            raise NoticeTooShort(new.service, given, self._rules.notice)

    def _consumers(self, service: str) -> tuple[str, ...]:
        instances = decode_all(self._store.read("i/").records)
        return graph_of(instances).consumers(service)


def _scope(given: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({some_text("scope", name) for name in words("scope", given)}))


def breaks(store: Store, service: str, version: str) -> bool:
    """Tell whether a version breaks with the highest that is registered."""
    records = store.read(join_key("i", service) + "/").records
    now = max((parse_version(i.version) for i in decode_all(records)), default=None)
    new = parse_version(version)
    if now is None:
        return False
    if now.major == 0 and new.major == 0:  # before 1.0 a minor version may break
        return new.minor > now.minor
    return new.major > now.major


def _put(announcement: Announcement) -> Put:
    raw = {name: getattr(announcement, name) for name in announcement.__slots__}
    raw["acknowledged"] = dict(announcement.acknowledged)
    return Put(join_key("a", announcement.id), dump(raw))


def _announcement(record: Record) -> Announcement:
    raw = load(record)
    for name in ("scope", "consumers"):
        raw[name] = tuple(raw[name])
    return Announcement(**{k: v for k, v in raw.items() if k in Announcement.__slots__})


def _plain(override: Override | None) -> dict[str, str] | None:
    if override is None:
        return None
    return {"reason": override.reason, "approver": override.approver}


def describe(announcement: Announcement, now: float) -> str:
    """Return an announcement in one line."""
    return (
        f"announcement {announcement.id} of {announcement.service} "
        f"{announcement.version}, {announcement.state(now)}, "
        f"effective {iso(announcement.effective)}: {announcement.change}"
    )
