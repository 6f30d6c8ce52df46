"""For the tests of code that audits: events in a list, no disk to look at."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, final

from maestro_audit_logger._event import Actor, Event
from maestro_audit_logger._files import Files

if TYPE_CHECKING:
    from maestro_audit_logger._logger import AuditLogger


@final
class Captured:
    """The events of a logger under test, read when asked for."""

    def __init__(self, audit: AuditLogger) -> None:
        self.audit = audit

    @property
    def events(self) -> list[Event]:
        """Return what was recorded so far."""
        return list(self.audit.query())

    @property
    def actions(self) -> list[str]:
        """Return the actions in order."""
        return [event.action for event in self.events]

    def one(self, action: str) -> Event:
        """Return the only event of this action; AssertionError if there is not one."""
        found = [event for event in self.events if event.action == action]
        assert len(found) == 1, f"expected one {action}, got {self.actions}"
        return found[0]


@contextmanager
def capture(
    actor: Actor | None = None, *, files: Files | None = None
) -> Iterator[Captured]:
    """Give a real logger in a temporary folder, without syncs.

    Args:
        actor: who acts by default; a system actor `test` when left out.
        files: `FullDisk()` to see what your code does then.
    """
    from maestro_audit_logger._logger import AuditLogger

    with tempfile.TemporaryDirectory(prefix="audit-") as folder:
        with AuditLogger(
            f"{folder}/audit",
            origin="test",
            durability="os",
            actor=actor or Actor.system("test"),
            files=files,
        ) as audit:
            yield Captured(audit)


@final
class FullDisk(Files):
    """A disk with room for so many bytes; set `room` to None to free it."""

    def __init__(self) -> None:
        self.room: int | None = None

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write what fits, then raise ENOSPC."""
        if self.room is None:
            return super().write(fd, data)
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = super().write(fd, data[: self.room])
        self.room -= count
        return count
