"""Wake the other processes that use the same SQLite file.

Each waiter owns a Unix datagram socket in the folder `<file>.bells`; a writer sends
one byte to each, to the caches of all instances last. A bell that rings in vain costs
nothing, a bell that is missed costs one second: waiters also look for themselves.
Sockets whose owner died are removed by the next writer.
"""

import contextlib
import os
import select
import socket
import time
import uuid
from pathlib import Path
from typing import final

__all__ = ["Bell", "BellTower"]

LATER = "~"  # sorts after every digit


@final
class Bell:
    """One socket that wakes its owner."""

    def __init__(self, folder: int, *, first: bool) -> None:
        # /proc/self/fd keeps the address short: sun_path holds 107 bytes.
        self._folder, self.first = folder, first
        self._name = f"{'' if first else LATER}{os.getpid()}-{uuid.uuid4().hex[:12]}"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(f"/proc/self/fd/{folder}/{self._name}")
        self._poll = select.poll()  # select() ends at file 1023
        self._poll.register(self._socket, select.POLLIN)

    def wait(self, seconds: float) -> bool:
        """Wait until it rings, or has rung since `hush`; False when it did not."""
        return bool(self._poll.poll(1000 * max(0.0, seconds)))

    def hush(self) -> None:
        """Forget that it rang."""
        with contextlib.suppress(BlockingIOError):
            while self._socket.recv(16):
                pass

    def close(self) -> None:
        """Remove the socket."""
        self._socket.close()
        with contextlib.suppress(OSError):
            os.unlink(self._name, dir_fd=self._folder)


@final
class BellTower:
    """All bells of one file, and a pool of this process's own."""

    def __init__(self, file: Path) -> None:
        folder = file.with_name(file.name + ".bells")
        folder.mkdir(mode=0o700, exist_ok=True)
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._idle: dict[bool, list[Bell]] = {True: [], False: []}
        self._sender = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sender.setblocking(False)
        self._seen: tuple[int, list[str]] = (-1, [])

    def borrow(self, *, first: bool) -> Bell:
        """Return a bell of this process that nobody waits on."""
        try:
            return self._idle[first].pop()
        except IndexError:
            return Bell(self._folder, first=first)

    def give_back(self, bell: Bell) -> None:
        """Keep a bell for the next waiter."""
        self._idle[bell.first].append(bell)

    def ring(self) -> None:
        """Wake every waiter of every process."""
        for name in self._names():
            try:
                self._sender.sendto(b"!", f"/proc/self/fd/{self._folder}/{name}")
            except BlockingIOError:
                continue  # its queue is full: it is awake
            except (ConnectionRefusedError, FileNotFoundError):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=self._folder)
            except OSError:
                continue

    def close(self) -> None:
        """Close everything of this process."""
        for bells in self._idle.values():
            while bells:
                bells.pop().close()
        self._sender.close()
        os.close(self._folder)

    def _names(self) -> list[str]:
        # The folder's time changes with each socket that comes or goes.
        changed = os.fstat(self._folder).st_mtime_ns
        if changed != self._seen[0]:
            names = sorted(os.listdir(self._folder))  # noqa: PTH208 - by descriptor
            # File times move in steps of some ms: a fresh one may hide a newcomer.
            settled = abs(time.time_ns() - changed) > 50_000_000
            self._seen = (changed if settled else -1, names)
        return self._seen[1]
