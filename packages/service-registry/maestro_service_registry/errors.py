"""Everything this package raises on purpose.

RegistryError
|-- InvalidInput (also a ValueError)   a name, port, version, url ... that cannot be
|-- NoInstances                        nothing to pick; `.reasons` says why
|-- NotReady                           `wait_ready` ran out of time; `.waiting_for`
|-- CycleError                         services require each other; `.path`
|-- LeaseLost                          the registration or session is gone
|-- LockError
|   |-- LockNotAcquired                somebody else holds it; `.holder`
|   |-- LockLost                       held once, no longer; stop writing
|   `-- StaleFence                     a later holder has written already
|-- CoordinationError
|   |-- ClaimRefused                   `.reasons`, each names claim or window
|   |-- NoticeTooShort                 `.needed` and `.given`, in seconds
|   `-- UnknownEntry                   no such claim, window or announcement
|-- AccessDenied                       the token does not allow this
`-- StoreError
|-- StoreUnavailable               try again: the store does not answer
|-- StoreMissing                   no store at this place; `.place`
|-- Conflict                       compare-and-set lost; `.key`
|-- Compacted                      the revision is no longer kept; read anew
`-- UnsafeStore                    a place where data would be lost
"""

from collections.abc import Sequence
from typing import Any

__all__ = [
    "AccessDenied",
    "ClaimRefused",
    "Compacted",
    "Conflict",
    "CoordinationError",
    "CycleError",
    "InvalidInput",
    "LeaseLost",
    "LockError",
    "LockLost",
    "LockNotAcquired",
    "NoInstances",
    "NotReady",
    "NoticeTooShort",
    "RegistryError",
    "StaleFence",
    "StoreError",
    "StoreMissing",
    "StoreUnavailable",
    "UnknownEntry",
    "UnsafeStore",
]


class RegistryError(Exception):
    """The root of this package's errors."""


class InvalidInput(RegistryError, ValueError):
    """A value that cannot be accepted: `field`, `value`, and what was expected."""

    def __init__(self, field: str, value: Any, expected: str) -> None:
        super().__init__(f"{field}: expected {expected}, got {value!r}")
        self.field, self.value, self.expected = field, value, expected


class NoInstances(RegistryError):
    """No instance of `service` can be picked; `reasons` counts what was left out."""

    def __init__(self, service: str, reasons: Sequence[str]) -> None:
        self.service, self.reasons = service, tuple(reasons)
        super().__init__(f"no instance of {service!r}: {'; '.join(self.reasons)}")


class NotReady(RegistryError):
    """Services that did not become ready in time, each with what it lacks."""

    def __init__(self, waiting_for: dict[str, str], timeout: float) -> None:
        self.waiting_for, self.timeout = waiting_for, timeout
        lines = "; ".join(f"{k}: {v}" for k, v in sorted(waiting_for.items()))
        super().__init__(f"not ready after {timeout:g} s: {lines}")


class CycleError(RegistryError):
    """Services that require each other in a circle; `path` starts and ends alike."""

    def __init__(self, path: Sequence[str]) -> None:
        self.path = tuple(path)
        super().__init__(
            f"services require each other: {' -> '.join(self.path)}; "
            "remove one of these requirements"
        )


class LeaseLost(RegistryError):
    """A lease that the store no longer knows, or that another owner replaced."""

    def __init__(self, lease: str, why: str) -> None:
        super().__init__(f"lease {lease} is lost: {why}")
        self.lease, self.why = lease, why


class LockError(RegistryError):
    """Something about a lock."""


class LockNotAcquired(LockError):
    """The lock stayed with somebody else for the whole waiting time."""

    def __init__(self, name: str, waited: float, holder: str | None) -> None:
        self.name, self.waited, self.holder = name, waited, holder
        held = f"held by {holder}" if holder else "its holder is not known"
        super().__init__(f"lock {name!r} not acquired after {waited:g} s: {held}")


class LockLost(LockError):
    """The lock was held and is not any more: another holder may be writing now."""

    def __init__(self, name: str, fence: int, why: str) -> None:
        self.name, self.fence, self.why = name, fence, why
        super().__init__(f"lock {name!r} (fence {fence}) is lost: {why}; stop writing")


class StaleFence(LockError):
    """A write with an old fence: `latest` has been here already."""

    def __init__(self, gate: str, fence: int, latest: int) -> None:
        self.gate, self.fence, self.latest = gate, fence, latest
        super().__init__(
            f"fence {fence} at gate {gate!r} is stale: fence {latest} wrote already"
        )


class CoordinationError(RegistryError):
    """Something about claims, freeze windows or announcements."""


class ClaimRefused(CoordinationError):
    """A claim that cannot be given now; each reason names what stands against it."""

    def __init__(self, services: Sequence[str], reasons: Sequence[str]) -> None:
        self.services, self.reasons = tuple(services), tuple(reasons)
        super().__init__(
            f"claim on {', '.join(self.services)} refused: {'; '.join(self.reasons)}"
        )


class NoticeTooShort(CoordinationError):
    """A breaking change announced too late; times in seconds."""

    def __init__(self, service: str, given: float, needed: float) -> None:
        self.service, self.given, self.needed = service, given, needed
        super().__init__(
            f"a breaking change of {service!r} needs {_days(needed)} of notice, "
            f"this one gives {_days(given)}; choose a later date, or pass "
            "emergency=True with a reason and an approver"
        )


class UnknownEntry(CoordinationError):
    """A claim, window or announcement that is not in the store."""

    def __init__(self, kind: str, id: str) -> None:
        self.kind, self.id = kind, id
        super().__init__(f"no {kind} {id!r}; it may have been withdrawn or have ended")


class AccessDenied(RegistryError):
    """The server refused the token for this."""


class StoreError(RegistryError):
    """Something about the place where the registry lives."""


class StoreUnavailable(StoreError):
    """The store did not answer; nothing is known about the last write."""


class StoreMissing(StoreError):
    """There is no store at `place`, and none was made."""

    def __init__(self, place: str) -> None:
        self.place = place
        super().__init__(
            f"no registry at {place}; check the path, or register something to make it"
        )


class Conflict(StoreError):
    """A compare-and-set that lost: `key` is not at the `expected` revision."""

    def __init__(self, key: str, expected: int) -> None:
        self.key, self.expected = key, expected
        super().__init__(
            f"{key!r} is not at revision {expected}; read it again and retry"
        )


class Compacted(StoreError):
    """Events after `since` are not kept any more; read everything anew."""

    def __init__(self, since: int, oldest: int) -> None:
        self.since, self.oldest = since, oldest
        super().__init__(f"events after revision {since} are gone, kept from {oldest}")


class UnsafeStore(StoreError):
    """A store in a place where it cannot keep its promises."""


def _days(seconds: float) -> str:
    days, rest = divmod(max(0, int(seconds)), 86400)
    hours, minutes = rest // 3600, rest % 3600 // 60
    return f"{days} d {hours} h" + (f" {minutes} min" if minutes else "")
