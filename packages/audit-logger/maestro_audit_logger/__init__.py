"""An append-only, tamper-evident audit log for Python services.

    with AuditLogger("audit", origin="app.example/audit") as audit:
        audit.record("invoice.approve", actor=Actor.user("u-42"))

Names load when they are first used: importing the package imports none of
asyncio, sqlite3 and the extras.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maestro_audit_logger._crypto import Ed25519Signer
    from maestro_audit_logger._encode import ResourceLike
    from maestro_audit_logger._event import (
        Actor,
        Event,
        Outcome,
        Private,
        Receipt,
        Resource,
        Secret,
    )
    from maestro_audit_logger._logger import AuditLogger
    from maestro_audit_logger._note import Checkpoint, parse_checkpoint, parse_note
    from maestro_audit_logger._prove import (
        check_consistency,
        check_proof,
        prove,
        prove_consistency,
    )
    from maestro_audit_logger._query import Query, follow, run_query
    from maestro_audit_logger._redact import DEFAULT_REDACT
    from maestro_audit_logger._signers import HmacRatchet, Signer
    from maestro_audit_logger._verify import Finding, VerifyReport, verify_log
    from maestro_audit_logger.errors import (
        AuditError,
        AuditUnavailable,
        InvalidEvent,
        InvalidNote,
        InvalidProof,
        InvalidSetting,
        KeyExists,
        LogClosed,
        LogDamaged,
        LogNotFound,
        MissingActor,
        UnknownFormat,
        UntrustedNote,
        WrongOrigin,
    )

_HOMES = {
    "_crypto": ["Ed25519Signer"],
    "_encode": ["ResourceLike"],
    "_event": ["Actor", "Event", "Outcome", "Private", "Receipt", "Resource", "Secret"],
    "_logger": ["AuditLogger"],
    "_note": ["Checkpoint", "parse_checkpoint", "parse_note"],
    "_prove": ["check_consistency", "check_proof", "prove", "prove_consistency"],
    "_query": ["Query", "follow", "run_query"],
    "_redact": ["DEFAULT_REDACT"],
    "_signers": ["HmacRatchet", "Signer"],
    "_verify": ["Finding", "VerifyReport", "verify_log"],
    "errors": [
        "AuditError",
        "AuditUnavailable",
        "InvalidEvent",
        "InvalidNote",
        "InvalidProof",
        "InvalidSetting",
        "KeyExists",
        "LogClosed",
        "LogDamaged",
        "LogNotFound",
        "MissingActor",
        "UnknownFormat",
        "UntrustedNote",
        "WrongOrigin",
    ],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "DEFAULT_REDACT",
    "Actor",
    "AuditError",
    "AuditLogger",
    "AuditUnavailable",
    "Checkpoint",
    "Ed25519Signer",
    "Event",
    "Finding",
    "HmacRatchet",
    "InvalidEvent",
    "InvalidNote",
    "InvalidProof",
    "InvalidSetting",
    "KeyExists",
    "LogClosed",
    "LogDamaged",
    "LogNotFound",
    "MissingActor",
    "Outcome",
    "Private",
    "Query",
    "Receipt",
    "Resource",
    "ResourceLike",
    "Secret",
    "Signer",
    "UnknownFormat",
    "UntrustedNote",
    "VerifyReport",
    "WrongOrigin",
    "check_consistency",
    "check_proof",
    "follow",
    "parse_checkpoint",
    "parse_note",
    "prove",
    "prove_consistency",
    "run_query",
    "verify_log",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
