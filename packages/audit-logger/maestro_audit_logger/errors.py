"""What this package raises.

AuditError
 +-- AuditUnavailable        the record could not be stored (OSError as cause)
 +-- InvalidEvent            the caller's event cannot be stored (also ValueError)
 |    +-- MissingActor       nobody said who acts
 +-- InvalidSetting          a setting that cannot be (also ValueError)
 |    +-- WrongOrigin        the folder holds the log of another origin
 +-- KeyExists               a file is there where a new key should go (FileExistsError)
 +-- LogNotFound             no log at this path
 +-- LogDamaged              the files cannot be read as a log
 +-- LogClosed               the logger was closed
 +-- InvalidNote             a checkpoint or key is malformed (also ValueError)
 |    +-- UntrustedNote      no signature by a known key, or a false one
 +-- InvalidProof            a proof does not prove what it says
 +-- UnknownFormat           no exporter of that name (also ValueError)
"""

from __future__ import annotations

import os
from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class AuditError(Exception):
    """Root of every error of this package."""


class AuditUnavailable(AuditError):
    """The record is not stored: the caller should refuse to go on.

    Attributes:
        path: the folder of the log.
        reason: what went wrong, one phrase.
        uncertain: true when the record may nevertheless be on disk, as after a
            failed fsync.
    """

    def __init__(self, path: str, reason: str, *, uncertain: bool = False) -> None:
        self.path = path
        self.reason = reason
        self.uncertain = uncertain
        state = "may or may not be stored" if uncertain else "is not stored"
        super().__init__(f"the audit record {state} in {path}: {reason}")


class InvalidEvent(AuditError, ValueError):
    """The event cannot be stored as it is.

    Attributes:
        where: the path in the event, such as `$.data.items[2]`.
    """

    def __init__(self, where: str, message: str) -> None:
        self.where = where
        super().__init__(f"{where}: {message}")


class MissingActor(InvalidEvent):
    """Nobody said who acts."""

    def __init__(self) -> None:
        super().__init__(
            "$.actor",
            "expected an actor, got none; pass actor=, use bind(actor=...), or say "
            "Actor.system('name') for work that no person started",
        )


class InvalidSetting(AuditError, ValueError):
    """An argument is not what it should be.

    Attributes:
        setting: its name.
        value: what was given.
    """

    def __init__(self, setting: str, expected: str, value: object) -> None:
        self.setting = setting
        self.value = value
        super().__init__(f"{setting}: expected {expected}, got {value!r}")


class WrongOrigin(InvalidSetting):
    """The folder holds a sound log, but that of another origin.

    Attributes:
        path: the folder.
        found: the origin of its log.
    """

    def __init__(self, path: str, wanted: str, found: str) -> None:
        self.path = path
        self.found = found
        super().__init__(
            "origin",
            f"{found!r}, whose log is in {path} (leave origin out to open any log), "
            "or another folder",
            wanted,
        )


class KeyExists(AuditError, FileExistsError):
    """There is a file already where a new key should go; it is left alone."""

    def __init__(self, path: str, opener: str) -> None:
        super().__init__(
            f"{path}: a file is there already, and a key is made once; open it with "
            f"{opener}({path!r}), or name another file"
        )


class LogNotFound(AuditError):
    """There is no log at this path."""

    def __init__(self, path: str) -> None:
        self.path = path
        if os.path.isfile(path):  # noqa: PTH113 - pathlib is not in the verifier
            super().__init__(f"{path}: expected the folder of a log, got a file")
            return
        super().__init__(
            f"no audit log in {path}: log.json is missing; create it with "
            "AuditLogger(path, origin=...) or `maestro-audit init`"
        )


class LogDamaged(AuditError):
    """The files cannot be read as an audit log; `verify` says more."""

    def __init__(self, path: str, message: str) -> None:
        self.path = path
        super().__init__(f"{path}: {message}")


class LogClosed(AuditError):
    """The logger was closed."""


class InvalidNote(AuditError, ValueError):
    """A checkpoint, signed note or key is malformed."""


class UntrustedNote(InvalidNote):
    """The note carries no signature by a known key, or a false one."""


class InvalidProof(AuditError):
    """The proof does not prove what it says."""


class UnknownFormat(AuditError, ValueError):
    """There is no exporter of that name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = sorted(known)
        near = get_close_matches(name, self.known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        super().__init__(
            f"no export format {name!r}, there are {', '.join(self.known)}{hint}"
        )


def cause(error: BaseException | None) -> str:
    """Say what the operating system refused, and for which file, without its number."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    return error.strerror + (f": {error.filename}" if error.filename else "")
