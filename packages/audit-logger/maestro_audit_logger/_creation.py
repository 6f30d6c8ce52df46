"""Find the log of a folder, or make it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from pathlib import Path

from maestro_audit_logger._files import Files, FolderLock
from maestro_audit_logger._segments import (
    IDENTITY,
    Identity,
    list_segments,
    segment_path,
)
from maestro_audit_logger.errors import (
    AuditUnavailable,
    InvalidSetting,
    LogDamaged,
    LogNotFound,
    WrongOrigin,
    cause,
)

FirstBody = Callable[[str], tuple[str, bytes]]  # log id -> time, body of line 1


def identify(
    path: Path, origin: str | None, files: Files, first_body: FirstBody
) -> Identity:
    """Return what log.json says; make the log first when there is none.

    Raises:
        LogNotFound: there is none, and no origin to make one.
        AuditUnavailable: it cannot be made.
        WrongOrigin: it is the log of another one.
    """
    if origin is not None:
        checked_name("origin", origin)
    try:
        found = Identity.load(path)
    except LogNotFound:
        if origin is None:
            raise
        try:
            return _create(path, origin, files, first_body)
        except OSError as error:
            raise AuditUnavailable(str(path), cause(error)) from error
    if origin not in {None, found.origin}:
        raise WrongOrigin(str(path), str(origin), found.origin)
    return found


def checked_name(setting: str, value: object) -> str:
    """Return a name that can stand in a signed note."""
    if (
        not isinstance(value, str)
        or not value
        or any(c.isspace() or c == "+" for c in value)
    ):
        raise InvalidSetting(
            setting, "a name without spaces and '+', such as app.example/audit", value
        )
    return value


def _create(path: Path, origin: str, files: Files, first_body: FirstBody) -> Identity:
    """Make a log with its first record; log.json comes last and makes it one."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing or [path]:  # who made it may have crashed before this
        files.sync_parent(folder)
    lock = FolderLock(path)
    try:
        with lock.held():
            return _create_locked(path, origin, files, first_body)
    finally:
        lock.close()


def _create_locked(
    path: Path, origin: str, files: Files, first_body: FirstBody
) -> Identity:
    if (path / IDENTITY).exists():
        return Identity.load(path)
    _refuse_leftovers(path)
    log_id = secrets.token_hex(16)
    created, body = first_body(log_id)
    identity = Identity.make(origin=origin, log_id=log_id, created=created)
    prev = identity.chain_start.encode()
    line = b'{"seq":1,"prev":"%s",%s\n' % (prev, body)
    files.replace(segment_path(path, 1), line)
    files.replace(path / IDENTITY, identity.raw)
    return identity


def _refuse_leftovers(path: Path) -> None:
    """Take over a creation that a crash cut short, but no log without log.json."""
    segments = list_segments(path)
    if not segments:
        return
    if len(segments) > 1 or segments[0].read().count(b"\n") > 1:
        raise LogDamaged(str(path), "there are segments, but log.json is missing")
