"""Which streams and groups exist: data, and the means to put it into Redis."""

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from maestro_workflow_engine._arguments import hinted, wrong
from maestro_workflow_engine.streams._redis import Client, check_url
from maestro_workflow_engine.streams.errors import StreamsError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9:._-]{0,199}")


@hinted
@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A consumer group: each job goes to one of its workers."""

    name: str

    def __post_init__(self) -> None:
        """Check the name."""
        check_name("group", self.name)


@hinted
@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One queue and its rules.

    Args:
        name: the Redis key. Beside it stand `:high` (urgent jobs), `:delayed`,
            `:dlq` (dead letters) and `:dedupe:<key>`.
        groups: who reads it. With one group, finished jobs are deleted; with
            several they stay until `trim`, since another group may need them.
        idle: seconds without a heartbeat after which a job is taken from a
            worker. A live worker beats three times as often.
        max_deliveries: how often a job is tried before it is a dead letter.
        max_length: jobs waiting at most; None for no limit.
        max_payload: bytes of JSON.
        dedupe_for: seconds a dedupe key is remembered.
        keep_dead: dead letters kept, oldest dropped first.
    """

    name: str
    groups: tuple[Group, ...]
    idle: float = 30.0
    max_deliveries: int = 5
    max_length: int | None = None
    max_payload: int = 1024 * 1024
    dedupe_for: float = 86_400.0
    keep_dead: int = 100_000

    def __post_init__(self) -> None:
        """Check every field; a wrong one is named with its range."""
        check_name("stream", self.name)
        given: object = self.groups
        if not isinstance(given, tuple | list) or not all(
            isinstance(group, Group) for group in given
        ):
            raise StreamsError(
                f"stream {self.name!r}: groups must be a tuple such as "
                f"(Group(name='workers'),), is {given!r}"
            )
        object.__setattr__(self, "groups", tuple(given))
        if not self.groups:
            raise StreamsError(f"stream {self.name!r} has no group; name at least one")
        for name, low in (
            ("idle", 0.05),
            ("max_deliveries", 1),
            ("max_length", 1),
            ("max_payload", 1),
            ("dedupe_for", 0.001),
            ("keep_dead", 1),
        ):
            value = getattr(self, name)
            if value is None and name == "max_length":
                continue
            kind = "a whole number" if isinstance(low, int) else "a number"
            if (
                isinstance(value, bool)
                or not isinstance(value, int if isinstance(low, int) else int | float)
                or not value >= low
            ):
                raise StreamsError(
                    f"stream {self.name!r}: {name} must be at least {low} ({kind}), "
                    f"is {value!r}"
                )

    @property
    def high(self) -> str:
        """The key of the urgent jobs."""
        return f"{self.name}:high"

    @property
    def delayed(self) -> str:
        """The key of jobs that are not due."""
        return f"{self.name}:delayed"

    @property
    def dlq(self) -> str:
        """The key of the dead letters."""
        return f"{self.name}:dlq"

    @property
    def keys(self) -> tuple[str, str]:
        """The keys that workers read, urgent first."""
        return (self.high, self.name)

    @property
    def deletes(self) -> bool:
        """Whether a finished job is removed at once."""
        return len(self.groups) == 1


@dataclass(frozen=True, slots=True)
class Topology:
    """A set of streams; `apply` puts them into Redis any number of times."""

    streams: tuple[Stream, ...]
    _by_name: Mapping[str, Stream] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a name that stands twice."""
        given: object = self.streams
        if not isinstance(given, tuple | list) or not all(
            isinstance(stream, Stream) for stream in given
        ):
            raise StreamsError(f"streams must be a tuple of Stream, is {given!r:.200}")
        object.__setattr__(self, "streams", tuple(given))
        by_name = {stream.name: stream for stream in self.streams}
        if len(by_name) != len(self.streams):
            raise StreamsError("a stream stands twice in the topology")
        object.__setattr__(self, "_by_name", by_name)

    def __getitem__(self, name: str) -> Stream:
        """Return a stream by its name, or by the last part of it.

        Raises:
            StreamsError: no such stream; the message lists those there are.
        """
        found = self._by_name.get(name)
        short = [s for s in self.streams if s.name.rpartition(":")[2] == name]
        if found is None and len(short) == 1:
            found = short[0]
        if found is None:
            names = ", ".join(self._by_name)
            raise StreamsError(f"no stream {name!r} in the topology; there are {names}")
        return found

    def apply(self, redis: Client) -> list[str]:
        """Create what is missing and return it as lines; nothing is removed."""
        done = []
        for difference, command in self._missing(redis):
            redis.execute_command(*command)
            done.append(difference)
        return done

    def check(self, redis: Client) -> list[str]:
        """Return how Redis differs from the topology; empty when it does not."""
        found = [difference for difference, _ in self._missing(redis)]
        for stream in self.streams:
            known = {group.name for group in stream.groups}
            for key in stream.keys:
                extra = sorted(existing_groups(redis, key) - known)
                found += [
                    f"{key}: group {name!r} is not in the topology" for name in extra
                ]
        return found

    def commands(self) -> list[str]:
        """Return `apply` as redis-cli lines, for those without Python."""
        return [
            "redis-cli " + " ".join(create_group(key, group.name))
            for stream in self.streams
            for key in stream.keys
            for group in stream.groups
        ]

    def _missing(self, redis: Client) -> list[tuple[str, tuple[str, ...]]]:
        found = []
        for stream in self.streams:
            for key in stream.keys:
                kind = redis.type(key)
                if kind not in {b"stream", b"none", "stream", "none"}:
                    text = kind.decode() if isinstance(kind, bytes) else kind
                    raise StreamsError(
                        f"key {key!r} is a {text}, not a stream: another program "
                        "uses this name"
                    )
                have = existing_groups(redis, key)
                found += [
                    (
                        f"{key}: group {group.name!r} is missing",
                        create_group(key, group.name),
                    )
                    for group in stream.groups
                    if group.name not in have
                ]
        return found

    @classmethod
    def load(cls, path: str | Path) -> "Topology":
        """Read a topology from a TOML or JSON file.

        The file has `[[streams]]` tables with the fields of `Stream`; `groups`
        is a list of names.

        Raises:
            StreamsError: naming the file, the stream and the key.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            data = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        except OSError as error:
            raise StreamsError(f"{path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise StreamsError(f"{path}: {error}") from error
        entries = data.get("streams") if isinstance(data, dict) else None
        if not isinstance(entries, list) or not entries:
            raise StreamsError(f"{path}: expected streams, such as [[streams]] in TOML")
        try:
            return cls(tuple(_stream(entry) for entry in entries))
        except StreamsError as error:
            raise StreamsError(f"{path}: {error}") from error


def _stream(entry: Mapping[str, Any]) -> Stream:
    if not isinstance(entry, dict):
        raise StreamsError(
            f"a stream is a table with 'name' and 'groups', got {entry!r}"
        )
    known = {f.name for f in fields(Stream)}
    for key in entry:
        if key not in known:
            from difflib import get_close_matches

            near = get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise StreamsError(
                f"stream {entry.get('name')!r}: unknown key {key!r}{hint}"
            )
    if "name" not in entry or "groups" not in entry:
        raise StreamsError("a stream needs 'name' and 'groups'")
    if not isinstance(entry["groups"], list):
        raise StreamsError(
            f"stream {entry['name']!r}: groups is a list such as ['workers'], "
            f"got {entry['groups']!r}"
        )
    groups = tuple(Group(name=name) for name in entry["groups"])
    return Stream(**{**entry, "groups": groups})


def check_name(what: str, name: object) -> None:
    """Refuse names that would not survive a command line or a key."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise StreamsError(
            f"{what} name {name!r}: use letters, digits, '.', '_', '-' and ':', "
            "at most 200, starting with a letter or digit"
        )


def check_queue(owner: str, url: object, stream: object) -> None:
    """Refuse what is no URL, and what is no stream."""
    check_url(owner, url)
    if not isinstance(stream, Stream):
        hint = "a Stream such as AUTOMATION['jobs']"
        raise wrong(owner, "stream", hint, stream)


def create_group(key: str, group: str) -> tuple[str, ...]:
    """Return the command that makes a group.

    It starts at 0, not at "$": jobs put before the first worker count too.
    """
    return ("XGROUP", "CREATE", key, group, "0", "MKSTREAM")


def existing_groups(redis: Client, key: str) -> set[str]:
    """Return the names of a key's groups; none when there is no key."""
    if not redis.exists(key):
        return set()
    rows = redis.xinfo_groups(key)
    return {
        r["name"].decode() if isinstance(r["name"], bytes) else r["name"] for r in rows
    }


_PREFIX = "maestro:streams:automation"

AUTOMATION = Topology(
    (
        Stream(name=f"{_PREFIX}:jobs", groups=(Group(name="automation-workers"),)),
        Stream(name=f"{_PREFIX}:errors", groups=(Group(name="automation-healers"),)),
        Stream(name=f"{_PREFIX}:healing", groups=(Group(name="automation-fixers"),)),
        Stream(
            name=f"{_PREFIX}:validation", groups=(Group(name="automation-validators"),)
        ),
    )
)
"""The platform's automation streams."""
