"""Who owns a run: names of owners, whether one lives, and its heartbeat."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, final

from .errors import JournalError

if TYPE_CHECKING:
    from ._journal import Journal, RunInfo

LEASE_SECONDS = 15.0

# The runs that this process owns just now: the one thing that a process table cannot
# tell. Each name is added and removed by whoever runs the run.
_OWNED: set[str] = set()


def owner_name() -> str:
    """Name a new owner so that others can tell whether it is still alive."""
    pid = os.getpid()
    name = f"{socket.gethostname()}:{pid}:{_started(pid)}/{secrets.token_hex(4)}"
    _OWNED.add(name)
    return name


def disown(owner: str) -> None:
    """Say that this process no longer works on a run, however that ended."""
    _OWNED.discard(owner)


def _started(pid: int) -> str:
    """Return when a process began, as the kernel counts; tells pids apart."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return "?"
    fields = text.rpartition(")")[2].split()
    # A zombie has ended; only its parent has not looked yet.
    return "?" if fields[0] == "Z" else fields[19]


def owner_lives(owner: str, lease_until: float) -> bool:
    """Tell whether a run's owner may still be at work.

    On this machine the process table answers at once; elsewhere the lease does.
    """
    if not owner:
        return False
    host, _, rest = owner.rpartition(":")[0].rpartition(":")
    if host == socket.gethostname() and Path("/proc").is_dir():
        if int(rest) == os.getpid():
            return owner in _OWNED
        started = owner.rpartition(":")[2].partition("/")[0]
        return started != "?" and _started(int(rest)) == started
    return time.time() < lease_until


@final
class Heartbeat:
    """Renews a run's lease from a thread of its own, also while a step blocks."""

    def __init__(self, path: Path, info: RunInfo) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._beat, args=(path, info), name="maestro-lease", daemon=True
        )
        self._thread.start()

    def _beat(self, path: Path, info: RunInfo) -> None:
        from ._journal import Journal

        journal: Journal | None = None
        while not self._stop.wait(LEASE_SECONDS / 3):
            # A full disk or a busy moment is the scheduler's to report; try again.
            with contextlib.suppress(JournalError):
                journal = journal or Journal(path)
                journal.renew(info)
        if journal is not None:
            journal.close()

    def stop(self) -> None:
        """Stop and wait for the thread."""
        self._stop.set()
        self._thread.join()
