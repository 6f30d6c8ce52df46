"""Every release in an audit log: who, what, which bytes, when.

The log is written by maestro-audit-logger, so a later change of it is found by
`maestro-release verify`. Without that package nothing is recorded.
"""

import getpass
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from maestro_release.errors import VerifyFailed

NAME = "audit"
ORIGIN = "maestro/release"


def record(
    folder: Path, action: str, *, package: str, version: str, data: Mapping[str, Any]
) -> bool:
    """Record one action on one version; tell whether there is a log to do it in."""
    try:
        from maestro_audit_logger import Actor, AuditLogger
    except ImportError:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    with AuditLogger(folder / NAME, origin=ORIGIN) as log:
        log.record(
            action,
            actor=Actor.user(who()),
            resource=("package", f"{package}=={version}"),
            data=dict(data),
        )
    return True


def who() -> str:
    """Return the name of the account that runs this."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid-{os.getuid()}"


def verify(folder: Path) -> int | None:
    """Check the whole log; return how many records it has, None without a log.

    Raises:
        VerifyFailed: the log was changed after it was written.
    """
    if not (folder / NAME).exists():
        return None
    try:
        from maestro_audit_logger import verify_log
    except ImportError:
        return None
    report = verify_log(folder / NAME, full=True)
    if report.status == "tampered":
        raise VerifyFailed(f"the record of releases was changed:\n{report.explain()}")
    return report.records
