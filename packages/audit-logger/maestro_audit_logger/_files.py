"""The few file operations that durability depends on, replaceable in tests."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_SH, LOCK_UN, flock
from pathlib import Path
from typing import TYPE_CHECKING, final

if TYPE_CHECKING:
    from collections.abc import Iterator

_sync = getattr(os, "fdatasync", os.fsync)


class Files:
    """The operating system's files; subclass it to make them fail."""

    def open_append(self, path: Path) -> int:
        """Open or create a file for appending."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        return os.open(path, flags, 0o640)

    def write(self, fd: int, data: bytes | memoryview) -> int:
        """Write once; may write less than asked."""
        return os.write(fd, data)

    def sync(self, fd: int) -> None:
        """Return once the file's data is on the device."""
        _sync(fd)

    def sync_folder(self, path: Path) -> None:
        """Return once the names in the folder are on the device."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_parent(self, path: Path) -> None:
        """Put the name of a new file or folder on the device, where that is allowed.

        Who may make something in a folder may still not open the folder itself.
        """
        with suppress(PermissionError):
            self.sync_folder(path.absolute().parent)

    def replace(self, path: Path, data: bytes, *, durable: bool = True) -> None:
        """Put a whole file in place: readers see the old one or the new one."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        fd = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640
        )
        try:
            self.write_all(fd, data)
            if durable:
                self.sync(fd)
        except BaseException:
            os.close(fd)
            temporary.unlink(missing_ok=True)
            raise
        os.close(fd)
        temporary.replace(path)
        if durable:
            self.sync_folder(path.parent)

    def write_all(self, fd: int, data: bytes) -> None:
        """Write everything or raise."""
        view = memoryview(data)
        while view:
            view = view[self.write(fd, view) :]


@final
class FolderLock:
    """One writer at a time, over threads, logger objects and processes (flock).

    The kernel releases it when the process dies, so it cannot stay behind.
    """

    def __init__(self, path: Path) -> None:
        self._path = path / "lock"
        self._fd: int | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock exclusively."""
        fd = self.open()
        try:
            flock(fd, LOCK_EX)
            yield
        finally:
            flock(fd, LOCK_UN)

    def open(self) -> int:
        """Return the file to lock, for those to whom a context manager costs much.

        They call `flock` themselves, as `held` does: between a Python function
        and its caller an interrupt could leave the lock behind.
        """
        if self._fd is None:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o640)
        return self._fd

    def close(self) -> None:
        """Close the file; idempotent. In a forked child the parent keeps its lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


@contextmanager
def quiet(path: Path) -> Iterator[None]:
    """Hold writers off while a reader looks at sizes; needs no write permission."""
    try:
        fd = os.open(path / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        yield
        return
    try:
        flock(fd, LOCK_SH)
        yield
    finally:
        os.close(fd)
