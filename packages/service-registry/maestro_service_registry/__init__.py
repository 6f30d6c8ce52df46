"""Find, check and pick services; hold fenced locks; coordinate changes.

    from maestro_service_registry import ServiceRegistry

    with ServiceRegistry.open("sqlite:///registry.db") as registry:
        with registry.register("billing", port=8080, version="1.4.2"):
            print(registry.service("billing").pick().url("/health"))

Everything is loaded when first used: importing the package costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ._aio import AsyncServiceRegistry
    from ._checks import Call, Grpc, Http, Script, Tcp, Ttl, Verdict
    from ._claims import Claim
    from ._clock import Clock, Process, SystemClock
    from ._contracts import Announcement
    from ._graph import Graph
    from ._lock import FenceGate, Lock, LockHolder
    from ._model import CheckReport, Instance
    from ._notice import Notice
    from ._outliers import Ejection
    from ._policy import Decision, Rules
    from ._registration import Registration
    from ._registry import ServiceRegistry, Timing
    from ._semver import Version, VersionRange, parse_range, parse_version
    from ._service import Service, ServiceStats
    from ._store import Lease, Store, open_store
    from ._sweep import Eviction
    from ._watch import Added, Changed, Removed, Resync, Watch
    from ._windows import Window
    from .errors import (
        AccessDenied,
        ClaimRefused,
        Compacted,
        Conflict,
        CoordinationError,
        CycleError,
        InvalidInput,
        LeaseLost,
        LockError,
        LockLost,
        LockNotAcquired,
        NoInstances,
        NoticeTooShort,
        NotReady,
        RegistryError,
        StaleFence,
        StoreError,
        StoreMissing,
        StoreUnavailable,
        UnknownEntry,
        UnsafeStore,
    )

_PLACES = {
    "_aio": "AsyncServiceRegistry",
    "_checks": "Call Grpc Http Script Tcp Ttl Verdict",
    "_claims": "Claim",
    "_clock": "Clock Process SystemClock",
    "_contracts": "Announcement",
    "_graph": "Graph",
    "_lock": "FenceGate Lock LockHolder",
    "_model": "CheckReport Instance",
    "_notice": "Notice",
    "_outliers": "Ejection",
    "_policy": "Decision Rules",
    "_registration": "Registration",
    "_registry": "ServiceRegistry Timing",
    "_semver": "Version VersionRange parse_range parse_version",
    "_service": "Service ServiceStats",
    "_store": "Lease Store open_store",
    "_sweep": "Eviction",
    "_watch": "Added Changed Removed Resync Watch",
    "_windows": "Window",
    "errors": "AccessDenied ClaimRefused Compacted Conflict CoordinationError "
    "CycleError InvalidInput LeaseLost LockError LockLost LockNotAcquired NoInstances "
    "NoticeTooShort NotReady RegistryError StaleFence StoreError StoreMissing "
    "StoreUnavailable UnknownEntry UnsafeStore",
}
_HOMES = {name: module for module, names in _PLACES.items() for name in names.split()}

__all__ = [
    "AccessDenied",
    "Added",
    "Announcement",
    "AsyncServiceRegistry",
    "Call",
    "Changed",
    "CheckReport",
    "Claim",
    "ClaimRefused",
    "Clock",
    "Compacted",
    "Conflict",
    "CoordinationError",
    "CycleError",
    "Decision",
    "Ejection",
    "Eviction",
    "FenceGate",
    "Graph",
    "Grpc",
    "Http",
    "Instance",
    "InvalidInput",
    "Lease",
    "LeaseLost",
    "Lock",
    "LockError",
    "LockHolder",
    "LockLost",
    "LockNotAcquired",
    "NoInstances",
    "NotReady",
    "Notice",
    "NoticeTooShort",
    "Process",
    "Registration",
    "RegistryError",
    "Removed",
    "Resync",
    "Rules",
    "Script",
    "Service",
    "ServiceRegistry",
    "ServiceStats",
    "StaleFence",
    "Store",
    "StoreError",
    "StoreMissing",
    "StoreUnavailable",
    "SystemClock",
    "Tcp",
    "Timing",
    "Ttl",
    "UnknownEntry",
    "UnsafeStore",
    "Verdict",
    "Version",
    "VersionRange",
    "Watch",
    "Window",
    "open_store",
    "parse_range",
    "parse_version",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
