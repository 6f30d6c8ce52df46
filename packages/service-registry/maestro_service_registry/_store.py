"""The one interface to every place where a registry can live.

A store keeps records under keys, each with the revision that created and the one
that last changed it; leases, with which their records go; and events, so that a
reader can go on from any revision. A commit is all or nothing. A commit whose answer
got lost may have happened: callers that retry look for their own record first.

Keys in use: `i/<service>/<id>` instances, `l/<lock>/<ticket>` lock queues, `c/` claims,
`w/` freeze windows, `a/` announcements, `f/` fence gates, `g/` guards, `k/` and `s/`
Consul's keys and sessions, `o/` overrides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from ._clock import Clock, Process, SystemClock
from .errors import InvalidInput

__all__ = [
    "Batch",
    "Delete",
    "Event",
    "Lease",
    "Op",
    "Put",
    "Record",
    "Snapshot",
    "Store",
    "join_key",
    "open_store",
    "split_key",
]

KEPT_EVENTS = 10_000
BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Record:
    """One stored value with its revisions and, when it has one, its lease."""

    key: str
    value: str
    created: int
    revision: int
    lease: str | None = None


@dataclass(frozen=True, slots=True)
class Put:
    """Write `value` at `key`; with a lease, the record ends when the lease does."""

    key: str
    value: str
    lease: str | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove `key`; nothing happens when it is not there."""

    key: str


Op = Put | Delete


@dataclass(frozen=True, slots=True)
class Event:
    """What happened to a key; `record` is None when it was removed."""

    key: str
    revision: int
    record: Record | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Records in key order, as they were at `revision`."""

    records: tuple[Record, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Events in order; nothing was left out up to `revision`."""

    events: tuple[Event, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A promise to be heard from; times in seconds, `left` below zero when late.

    A strict lease (locks, sessions) cannot be renewed once it is late. A lenient
    one (instances) can, until it is swept.
    """

    id: str
    ttl: float
    left: float
    strict: bool
    owner: Process | None = None


class Store(Protocol):
    """What a registry needs from its store; safe to use from several threads."""

    expires_itself: bool  # False: a sweeper must call `expired` and `revoke`
    shared_by_pid: bool  # True: every user is on this host, so pids tell who lives

    def read(self, prefix: str) -> Snapshot:
        """Return every record whose key starts with `prefix`."""
        ...

    def commit(self, ops: Sequence[Op], expect: Mapping[str, int] | None = None) -> int:
        """Apply all operations at one new revision and return it.

        Args:
            ops: what to do; no key twice.
            expect: for some keys, the revision they must be at; 0 means absent.

        Raises:
            Conflict: an expectation did not hold; nothing was applied.
            LeaseLost: a record's lease does not exist (any more).
        """
        ...

    def grant(self, ttl: float, *, strict: bool, owner: Process | None) -> str:
        """Create a lease of `ttl` seconds and return its id."""
        ...

    def renew(self, leases: Sequence[str]) -> frozenset[str]:
        """Start the time of each lease anew; return those that are gone."""
        ...

    def revoke(self, leases: Sequence[str], *, only_late: bool = False) -> int:
        """End leases and remove their records; return how many ended."""
        ...

    def expired(self) -> tuple[Lease, ...]:
        """Return the leases that are late and not swept yet."""
        ...

    def leases(self) -> tuple[Lease, ...]:
        """Return all leases."""
        ...

    def events(self, prefix: str, since: int, timeout: float) -> Batch:
        """Return what happened after `since`, waiting up to `timeout` seconds.

        Raises:
            Compacted: `since` is too old, or lies in the future of this store.
        """
        ...

    def now(self) -> float:
        """Return the store's calendar: seconds since 1970 in UTC."""
        ...

    def close(self) -> None:
        """Let go of files and connections, and wake whoever waits."""
        ...


def join_key(*parts: str) -> str:
    """Build a key whose parts may hold any text."""
    return "/".join(quote(part, safe="") for part in parts)


def split_key(key: str) -> list[str]:
    """Undo `join_key`."""
    return [unquote(part) for part in key.split("/")]


def open_store(url: str, *, clock: Clock | None = None, **options: Any) -> Store:
    """Open the store that a URL names.

    `memory://` this process · `sqlite:///relative.db`, `sqlite:////absolute.db` this
    host · `http(s)://host:port` a registry server · `redis://`, `rediss://` ·
    `etcd://host:port`, `etcds://host:port`.
    """
    scheme = urlsplit(url).scheme
    clock = clock or SystemClock()
    if scheme == "memory":
        from ._memory import MemoryStore

        return MemoryStore(clock=clock, **options)
    if scheme == "sqlite":
        from ._sqlite import SqliteStore

        path = url.removeprefix("sqlite://")
        return SqliteStore(unquote(path.removeprefix("/")), clock=clock, **options)
    if scheme in ("http", "https"):
        from ._http import HttpStore

        return HttpStore(url, **options)
    if scheme in ("redis", "rediss", "unix"):
        from ._redis import RedisStore

        return RedisStore(url, **options)
    if scheme in ("etcd", "etcds"):
        from ._etcd import EtcdStore

        return EtcdStore(url, **options)
    expected = (
        "memory://, sqlite:///file.db, http://host:port, redis://host or etcd://host"
    )
    raise InvalidInput("store url", url, expected)
