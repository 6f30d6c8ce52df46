"""One release at a time in a checkout.

The lock is a flock on dist/.lock, so that a kill frees it. An upload that was
under way then may still arrive at the index after the lock is free; the next
release finds the same bytes there, before its own upload or as the answer to it.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from maestro_release.errors import Busy

PAUSE = 0.1  # seconds between two tries


@contextmanager
def release_lock(
    folder: Path, *, wait: float, waiting: Callable[[str], None]
) -> Iterator[None]:
    """Hold the lock of a checkout.

    Args:
        folder: dist/.
        wait: seconds to wait for another release.
        waiting: told once, in a sentence, when there is something to wait for.

    Raises:
        Busy: the other release did not end in time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        take(descriptor, path, wait, waiting)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def take(
    descriptor: int, path: Path, wait: float, waiting: Callable[[str], None]
) -> None:
    """Take the lock, or wait for it."""
    deadline = time.monotonic() + wait
    told = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = path.read_text(encoding="utf-8").strip() or "unknown"
            if time.monotonic() >= deadline:
                raise Busy(
                    f"another release (process {owner}) runs in this checkout and "
                    f"did not end within {wait:.0f} s; wait for it, then run this again"
                ) from None
            if not told:
                waiting(f"waiting for another release (process {owner}) to end")
                told = True
            time.sleep(PAUSE)
        else:
            return
