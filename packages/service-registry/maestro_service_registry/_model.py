"""What the registry keeps about one running instance of a service.

Values only: frozen, checked when they are built, and written as JSON in which fields
that a newer version added survive a read and a write by this one.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from ipaddress import ip_address
from operator import attrgetter
from typing import Any, Literal

from ._args import pairs, words
from ._clock import Process
from ._semver import parse_range, parse_version
from .errors import InvalidInput

__all__ = ["CheckReport", "Health", "Instance", "Status", "instance_key", "worst"]

Status = Literal["up", "draining", "down", "maintenance"]
Health = Literal["passing", "warning", "critical", "unknown"]

STATUSES = ("up", "draining", "down", "maintenance")
HEALTHS = ("passing", "warning", "critical", "unknown")
OUTPUT_BYTES = 4096
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_ID = re.compile(r"[^\x00-\x20\x7f]{1,253}")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]{0,31}")
_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckReport:
    """What one health check of an instance said last."""

    id: str
    name: str = ""
    kind: str = "ttl"
    status: Health = "critical"
    output: str = ""
    flapping: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance of one service: where it is, what it is, how it is.

    `stale` means that its lease is late but so are many others, so it is kept and
    used last. `created` and `revision` are the store's.
    """

    service: str
    id: str
    host: str
    port: int
    scheme: str = "http"
    version: str = "0.0.0"
    zone: str = ""
    region: str = ""
    weight: int = 100
    tags: frozenset[str] = frozenset()
    meta: Mapping[str, str] = field(default_factory=dict, hash=False)
    requires: Mapping[str, str] = field(default_factory=dict, hash=False)
    status: Status = "up"
    health: Health = "passing"
    since: float = 0.0
    output: str = ""
    checks: tuple[CheckReport, ...] = ()
    stale: bool = False
    ttl: float = 0.0
    lease: str | None = None
    process: Process | None = None
    created: int = 0
    revision: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)

    def __post_init__(self) -> None:
        if type(self.tags) is not frozenset:
            object.__setattr__(self, "tags", frozenset(words("tags", self.tags)))
        if type(self.meta) is not dict or type(self.requires) is not dict:
            object.__setattr__(self, "meta", pairs("meta", self.meta))
            object.__setattr__(self, "requires", pairs("requires", self.requires))
        simple = _SIMPLE(self)
        try:
            _check(*simple)
        except TypeError:  # what cannot be hashed is no right value
            _check.__wrapped__(*simple)
        _check_labels(self)

    @property
    def key(self) -> tuple[str, str]:
        """Return service and id, which no two instances share."""
        return (self.service, self.id)

    @property
    def address(self) -> tuple[str, int]:
        """Return host and port, as sockets want them."""
        return (self.host, self.port)

    @property
    def usable(self) -> bool:
        """Tell whether it should get new work: up, and passing or only warning."""
        return self.status == "up" and self.health in ("passing", "warning")

    def url(self, path: str = "/") -> str:
        """Return an address under this instance."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}/{path.lstrip('/')}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, with what this version does not know."""
        found = dict(self.extra)
        found.update(zip(_WRITTEN, _WRITTEN_OF(self), strict=True))
        found["tags"] = sorted(self.tags)
        found["meta"], found["requires"] = dict(self.meta), dict(self.requires)
        found["process"] = self.process.to_dict() if self.process else None
        found["checks"] = [_report_dict(report) for report in self.checks]
        return found

    def to_json(self) -> str:
        """Return what is stored."""
        return _encode(self.to_dict())

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], **known: Any) -> "Instance":
        """Read `to_dict`'s data; keep unknown fields in `extra`."""
        mine, extra = dict(raw), dict[str, Any]()
        if not raw.keys() <= _FIELDS:
            mine = {k: v for k, v in raw.items() if k in _FIELDS}
            extra = {k: v for k, v in raw.items() if k not in _FIELDS}
        mine["tags"] = frozenset(words("tags", raw.get("tags", ())))
        mine["process"] = Process.of(raw.get("process"))
        mine["checks"] = tuple(_report(r) for r in raw.get("checks", ()))
        return cls(**(mine | known), extra=extra)

    def with_reports(self, reports: Iterable[CheckReport], now: float) -> "Instance":
        """Return it with new check results; its health is the worst of them."""
        checks = tuple(reports)
        health = worst(report.status for report in checks)
        since = self.since if health == self.health else now
        bad = [f"{r.name or r.id}: {r.output}" for r in checks if r.status != "passing"]
        output = cut("; ".join(bad))
        return replace(self, checks=checks, health=health, since=since, output=output)


_FIELDS = {item.name for item in fields(Instance)} - {"extra", "created", "revision"}
_WRITTEN = [item.name for item in fields(Instance) if item.name in _FIELDS - {"lease"}]
_ALL = Instance.__slots__
_ALL_OF = attrgetter(*_ALL)
_WRITTEN_OF = attrgetter(*_WRITTEN)
_SIMPLE = attrgetter(
    *("service", "id", "host", "port", "scheme"),
    *("version", "zone", "region", "weight", "status", "health"),
)
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode


def changed(instance: Instance, changes: Mapping[str, Any]) -> Instance:
    """Do what `replace` does, faster."""
    return Instance(**dict(zip(_ALL, _ALL_OF(instance), strict=True), **changes))


def instance_key(service: str, id: str) -> str:
    """Return the store's key of an instance."""
    from ._store import join_key

    return join_key("i", service, id)


def worst(healths: Iterable[Health]) -> Health:
    """Return the worst of several; passing when there is none."""
    order: tuple[Health, ...] = ("critical", "unknown", "warning")
    found = set(healths)
    return next((health for health in order if health in found), "passing")


def cut(text: str) -> str:
    """Shorten a check's output to what is kept."""
    raw = text.encode("utf-8", "replace")
    return (
        text
        if len(raw) <= OUTPUT_BYTES
        else raw[:OUTPUT_BYTES].decode("utf-8", "ignore")
    )


def check_name(field_name: str, value: Any) -> str:
    """Return a service name, or say why it is none."""
    if not isinstance(value, str) or not _LABEL.fullmatch(value):
        expected = (
            "a DNS label (RFC 1123): 1 to 63 of a-z, 0-9 and -, "
            "not starting or ending with -"
        )
        raise InvalidInput(field_name, value, expected)
    return value


def check_ttl(value: Any) -> float:
    """Return a time to live in seconds, or say why it is none."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not 0.1 <= value <= 86_400:
        raise InvalidInput("ttl", value, "0.1 to 86400 seconds")
    return float(value)


@lru_cache(maxsize=4096, typed=True)  # typed: 1, 1.0 and True are equal
def _check(*simple: Any) -> None:
    # Any: these come from users and from other programs, whatever the types say.
    service, id, host, port, scheme, version, zone, region = simple[:8]
    weight, status, health = simple[8:]
    check_name("service", service)
    if not isinstance(id, str) or not _ID.fullmatch(id):
        expected = "1 to 253 characters without spaces or control characters"
        raise InvalidInput("id", id, expected)
    if not isinstance(host, str) or not _is_host(host):
        raise InvalidInput("host", host, "a host name or an IP address")
    if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port <= 65535:
        raise InvalidInput("port", port, "a number from 0 to 65535 (0: no port)")
    if not _SCHEME.fullmatch(str(scheme)):
        raise InvalidInput("scheme", scheme, "a URL scheme such as http")
    parse_version(version)
    for field_name, value in (("zone", zone), ("region", region)):
        if value:
            check_name(field_name, value)
    if (
        not isinstance(weight, int)
        or isinstance(weight, bool)
        or not 0 <= weight <= 65535
    ):
        raise InvalidInput("weight", weight, "a number from 0 to 65535")
    if status not in STATUSES:
        raise InvalidInput("status", status, f"one of {', '.join(STATUSES)}")
    if health not in HEALTHS:
        raise InvalidInput("health", health, f"one of {', '.join(HEALTHS)}")


def _check_labels(instance: Any) -> None:
    for tag in instance.tags:
        if not isinstance(tag, str) or not 1 <= len(tag) <= 255:
            raise InvalidInput("tags", tag, "texts of 1 to 255 characters")
    if len(instance.meta) > 64:
        raise InvalidInput("meta", len(instance.meta), "at most 64 entries")
    for key, text in instance.meta.items():
        if not isinstance(text, str) or len(text.encode("utf-8")) > 512:
            raise InvalidInput(f"meta[{key!r}]", text, "a text of at most 512 bytes")
    for service, wanted in instance.requires.items():
        check_name("requires", service)
        try:
            parse_range(wanted)
        except InvalidInput as error:
            name = f"requires[{service!r}]"
            raise InvalidInput(name, wanted, error.expected) from None


def _is_host(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return _HOST.fullmatch(text) is not None
    return True


def _report_dict(report: CheckReport) -> dict[str, Any]:
    return {name: getattr(report, name) for name in CheckReport.__slots__}


def _report(raw: Mapping[str, Any]) -> CheckReport:
    known = CheckReport.__slots__
    return CheckReport(**{k: v for k, v in raw.items() if k in known})
