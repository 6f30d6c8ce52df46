"""Look for what will make a log fail: space, rights, old checkpoints, local clocks."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from maestro_audit_logger._checkpoints import LATEST
from maestro_audit_logger._segments import Identity, list_segments

_ROOM = 256 << 20
_OLD_S = 86_400
Check = tuple[str, bool, str]


def examine(folder: Path) -> list[Check]:
    """Return name, verdict and message of each check."""
    identity = Identity.load(folder)
    free = shutil.disk_usage(folder).free
    writable = os.access(folder, os.W_OK)
    segments = list_segments(folder)
    size = sum(s.path.stat().st_size for s in segments)
    return [
        ("identity", True, f"{identity.origin}, format 1, since {identity.created}"),
        (
            "segments",
            bool(segments),
            f"{len(segments)} files, {size:,} bytes",
        ),
        ("space", free >= _ROOM, f"{free:,} bytes free"),
        ("rights", writable, "writable" if writable else "not writable by this user"),
        _checkpoint_age(folder, segments[-1].path if segments else None),
        _private_rights(folder),
    ]


def _checkpoint_age(folder: Path, newest: Path | None) -> Check:
    path = folder / LATEST
    if not path.exists():
        return "checkpoint", False, "none yet: run maestro-audit checkpoint"
    behind = newest.stat().st_mtime - path.stat().st_mtime if newest else 0.0
    age = time.time() - path.stat().st_mtime
    message = f"{age:,.0f} s old, the log has grown {max(behind, 0):,.0f} s longer"
    return "checkpoint", behind < _OLD_S, message


def _private_rights(folder: Path) -> Check:
    path = folder / "private.sqlite"
    if not path.exists():
        return "private values", True, "none"
    mode = path.stat().st_mode & 0o007
    return (
        "private values",
        not mode,
        "closed to others" if not mode else "others can read",
    )
