"""`may`: one question, one answer, with every reason.

A modification is refused inside a freeze window, and while somebody else holds an
exclusive claim. A release that breaks is refused until an announcement of it is
effective and, unless the rules say otherwise, every consumer has acknowledged.
Consumers whose ranges leave the version out are told as warnings: old and new
versions may run side by side, since callers pick by range.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._args import check_number, near
from ._model import check_name
from ._semver import parse_range, parse_version
from ._store import Store
from .errors import InvalidInput

if TYPE_CHECKING:
    from ._contracts import Announcement

__all__ = ["ACTIONS", "Decision", "Rules", "decide"]

ACTIONS = ("release", "deploy", "modify", "restart", "remove")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a registry asks for; `notice` in seconds."""

    notice: float = 14 * 86_400.0
    acknowledged: bool = True

    def __post_init__(self) -> None:
        check_number("notice", self.notice, 0, 1e10, "seconds")


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The answer; true when allowed."""

    ok: bool
    action: str
    service: str
    reasons: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.ok


def decide(
    store: Store,
    action: str,
    service: str,
    version: str | None,
    *,
    by: str | None,
    rules: Rules | None,
) -> Decision:
    """Answer by the store's clock."""
    from ._claims import Claims
    from ._windows import Windows

    if action not in ACTIONS:
        expected = f"one of {', '.join(ACTIONS)}{near(action, ACTIONS)}"
        raise InvalidInput("action", action, expected)
    check_name("service", service)
    now = store.now()
    reasons = [str(w) for w in Windows(store).covering(service, now, by=by)]
    reasons += [
        str(claim)
        for claim in Claims(store).active()
        if service in claim.services and claim.mode == "exclusive" and claim.by != by
    ]
    warnings: list[str] = []
    if version is not None and action in ("release", "deploy"):
        parse_version(version)
        reasons += _contract_reasons(store, service, version, now, rules or Rules())
        warnings = _left_behind(store, service, version)
    elif action == "remove":
        reasons += _still_needed(store, service)
    return Decision(
        ok=not reasons,
        action=action,
        service=service,
        reasons=tuple(reasons),
        warnings=tuple(warnings),
    )


def _contract_reasons(
    store: Store, service: str, version: str, now: float, rules: Rules
) -> list[str]:
    from ._contracts import Contracts, breaks

    contracts = Contracts(store, rules=rules)
    open_ones = [
        a for a in contracts.all(service) if not a.ended and _concerns(a, version)
    ]
    breaking = [a for a in open_ones if a.breaking]
    if not breaking and breaks(store, service, version):
        days = rules.notice / 86_400
        return [
            f"{version} breaks {service} and was not announced; {days:g} d of notice"
        ]
    reasons = []
    for found in breaking:
        reasons += _pending(found, now, rules)
    return reasons


def _pending(found: "Announcement", now: float, rules: Rules) -> list[str]:
    from ._contracts import describe

    reasons = []
    if now < found.effective:
        reasons.append(describe(found, now))
    if rules.acknowledged and found.missing and found.emergency is None:
        names = ", ".join(found.missing)
        reasons.append(f"announcement {found.id} not acknowledged by {names}")
    return reasons


def _concerns(found: "Announcement", version: str) -> bool:
    """Tell whether a release of `version` brings the announced change along."""
    return parse_version(version) >= parse_version(found.version)


def _left_behind(store: Store, service: str, version: str) -> list[str]:
    from ._sweep import decode_all

    left = set()
    for instance in decode_all(store.read("i/").records):
        text = instance.requires.get(service)
        if text is not None and version not in parse_range(text):
            left.add(f"{instance.service} requires {service} {text}")
    return sorted(left)


def _still_needed(store: Store, service: str) -> list[str]:
    from ._graph import graph_of
    from ._sweep import decode_all

    users = graph_of(decode_all(store.read("i/").records)).consumers(service)
    return [f"{user} requires {service}" for user in users]
