"""A file on another server, read piece by piece.

Enough of a file for `zipfile`: the directory of a wheel stands at its end, and
its METADATA mostly close to it, so a large wheel costs one or two requests.
"""

import io
from collections.abc import Callable

BLOCK = 128 * 1024  # bytes asked for at once

# Takes a Range header; returns the bytes and the size of the whole file.
Fetch = Callable[[str], tuple[bytes, int]]


class RemoteFile(io.RawIOBase):
    """A readable, seekable file behind ranged requests.

    What was read once is not asked for again. Not thread-safe.
    """

    def __init__(self, fetch: Fetch) -> None:
        """Ask for the end of the file, which also tells its size."""
        tail, self._size = fetch(f"bytes=-{BLOCK}")
        self._fetch = fetch
        self._known = [(self._size - len(tail), tail)]  # first byte, content
        self._at = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return where the next read begins."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move; return the new place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}
        self._at = max(0, base[whence] + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes; all that follow for a negative size."""
        end = self._size if size < 0 else min(self._at + size, self._size)
        if end <= self._at:
            return b""
        piece = self._piece(self._at, end)
        self._at = end
        return piece

    def _piece(self, start: int, end: int) -> bytes:
        for first, content in self._known:
            if first <= start and end <= first + len(content):
                return content[start - first : end - first]
        last = min(max(end, start + BLOCK), self._size)
        content, _ = self._fetch(f"bytes={start}-{last - 1}")
        self._known.append((start, content))
        return content[: end - start]
