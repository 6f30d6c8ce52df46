"""Results as the journal keeps them: small ones as text, large ones by content."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zlib
from pathlib import Path
from typing import Any, final

from ._sqlite import translated
from .errors import JournalCorruptError, ResultError

INLINE_BYTES = 4_096  # larger results go to the folder of objects


@final
class Results:
    """Turns results into text and back.

    Args:
        path: the journal's; large results go to `PATH.objects` beside it.
        synced: write large results through to the disk.
    """

    def __init__(self, path: Path, *, synced: bool) -> None:
        self.path = path
        self.objects = Path(f"{path}.objects")
        self._synced = synced
        self._safe: set[Path] = set()  # what is known to be on the disk
        self._encode = json.JSONEncoder(
            ensure_ascii=False, separators=(",", ":"), allow_nan=False
        ).encode

    def encode(self, step: str, attempt: int, value: Any) -> str:
        """Return what stands for a result in an event.

        Raises:
            ResultError: JSON cannot hold it.
        """
        if value is None:
            return "null"
        try:
            text = self._encode(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise ResultError(
                step,
                attempt,
                f"step {step!r} returned a {type(value).__name__} that the journal "
                f"cannot keep ({error}); return plain data, or write a file and return "
                "its path",
            ) from None
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:  # half a character, as in some names of files
                text = json.dumps(value, separators=(",", ":"))
        if len(text) <= INLINE_BYTES:
            return text
        return "@" + self._store(text.encode())

    def decode(self, text: str) -> Any:
        """Return the result that `encode` wrote down."""
        if not text.startswith("@"):
            return json.loads(text)
        digest = text[1:]
        path = self.objects / digest[:2] / digest[2:]
        try:
            body = zlib.decompress(path.read_bytes())
        except (OSError, zlib.error) as error:
            raise JournalCorruptError(
                path, f"the stored result {path} cannot be read: {error}"
            ) from error
        if hashlib.sha256(body).hexdigest() != digest:
            raise JournalCorruptError(path, f"the stored result {path} was changed")
        return json.loads(body)

    def _store(self, body: bytes) -> str:
        """Keep a large result under its hash; the same content is kept once."""
        digest = hashlib.sha256(body).hexdigest()
        path = self.objects / digest[:2] / digest[2:]
        with translated(self.path):
            if not _holds(path, body):
                path.parent.mkdir(parents=True, exist_ok=True)
                # Of this thread alone: another may write the same just now.
                partial = path.with_name(
                    f"{path.name}.{os.getpid()}.{threading.get_ident()}"
                )
                try:
                    partial.write_bytes(zlib.compress(body, 1))
                    if self._synced:
                        _sync(partial)
                    partial.replace(path)
                except BaseException:
                    partial.unlink(missing_ok=True)
                    raise
            if self._synced and path not in self._safe:
                # The file, and the names that lead to it: whoever wrote it may not
                # have done so.
                folders = (self.objects.parent, self.objects, path.parent)
                for each in (path, *folders):
                    _sync(each)
                self._safe.add(path)
        return digest


def _holds(path: Path, body: bytes) -> bool:
    """Tell whether a file has a result whole; power loss may have cut an earlier one."""
    try:
        return zlib.decompress(path.read_bytes()) == body
    except (FileNotFoundError, zlib.error):
        return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
