"""The one interface to every place where a registry can live.

A store keeps records under keys, each with the revision that created and the one
that last changed it; leases, with which their records go; and events, so that a
reader can go on from any revision. A commit is all or nothing. A commit whose answer
got lost may have happened: callers that retry look for their own record first.

Keys in use: `i/<service>/<id>` instances, `l/<lock>/<ticket>` lock queues, `c/` claims,
`w/` freeze windows, `a/` announcements, `f/` fence gates, `g/` guards, `k/` and `s/`
Consul's keys and sessions, `o/` overrides.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote, urlsplit

from ._args import names_of, near, refuse
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
    """Records in key order, as they were at `revision` of a history."""

    records: tuple[Record, ...]
    revision: int
    history: str = ""


@dataclass(frozen=True, slots=True)
class Batch:
    """Events in order; nothing was left out up to `revision`.

    Unless `history` is another one than that of what the reader knows: then the store
    may have forgotten commits since, and only reading everything anew helps. A store
    that finds out by itself, and raises Compacted, has no names for its histories.
    """

    events: tuple[Event, ...]
    revision: int
    history: str = ""


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


def open_store(
    url: str, *, clock: Clock | None = None, create: bool = True, **options: Any
) -> Store:
    """Open the store that a URL names.

    `memory://` this process · `sqlite:///relative.db`, `sqlite:////absolute.db` this
    host · `http(s)://host:port` a registry server · `redis://`, `rediss://` ·
    `etcd://host:port`, `etcds://host:port`.

    Args:
        url: where it lives; the folder of a SQLite file must be there.
        clock: for the stores on this host.
        create: False raises StoreMissing when the SQLite file is not there.
        options: as the store's class takes them.
    """
    _check_url(url)
    scheme = urlsplit(url).scheme
    clock = clock or SystemClock()
    if scheme == "memory":
        from ._memory import MemoryStore

        return _made(MemoryStore, options, clock=clock)
    if scheme == "sqlite":
        from ._sqlite import SqliteStore

        path = _path_of(url)
        return _made(SqliteStore, options, path, clock=clock, create=create)
    if scheme in ("http", "https"):
        from ._http import HttpStore

        return _made(HttpStore, options, url)
    if scheme in ("redis", "rediss", "unix"):
        from ._redis import RedisStore

        return _made(RedisStore, options, url)
    if scheme in ("etcd", "etcds"):
        from ._etcd import EtcdStore

        return _made(EtcdStore, options, url)
    expected = (
        "memory://, sqlite:///file.db, http://host:port, redis://host or etcd://host"
    )
    if "://" not in url:
        expected += f"; a file is sqlite:///{url}"
    raise InvalidInput("store url", shown(url), expected + near(scheme, _SCHEMES))


_SCHEMES = ("memory", "sqlite", "https", "redis", "rediss", "etcd", "etcds")


def shown(url: str) -> str:
    """Return a URL as it may be printed: a file's whole path, no password."""
    if url.startswith("sqlite:///"):
        return f"sqlite:///{Path(unquote(url.removeprefix('sqlite:///'))).absolute()}"
    before, at, after = url.rpartition("@")
    return f"{before.partition('://')[0]}://***@{after}" if at else url


def _check_url(url: Any) -> None:
    if not isinstance(url, str):
        example = f"sqlite:///{url}" if isinstance(url, Path) else "sqlite:///file.db"
        raise InvalidInput("store url", url, f'a text such as "{example}"')


def _made(kind: Callable[..., Store], options: Any, *args: Any, **more: Any) -> Store:
    init: Any = vars(kind)["__init__"]
    refuse("open()", options, set(names_of(init)) - {"url", "path", *more})
    return kind(*args, **more, **options)


def _path_of(url: str) -> str:
    """Return the file that a sqlite URL names: after three slashes."""
    rest = url.removeprefix("sqlite:")
    if not rest.startswith("///"):
        name = rest.lstrip("/") or "file.db"
        advice = f"three slashes before a relative path: sqlite:///{name}"
        raise InvalidInput("store url", url, advice)
    path = rest.removeprefix("///")
    if path == ":memory:":
        raise InvalidInput("store url", url, "memory:// for a store in memory")
    if "?" in path:
        expected = "a path without a query; options are arguments of open()"
        raise InvalidInput("store url", url, expected)
    return unquote(path)
