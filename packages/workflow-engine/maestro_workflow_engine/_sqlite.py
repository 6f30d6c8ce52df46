"""SQLite's errors, turned into ours."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from .errors import (
    JournalCorruptError,
    JournalError,
    JournalFullError,
    JournalReadOnlyError,
)


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn SQLite's and the system's errors into ours, saying what to do."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(path, error) from error
    except OSError as error:
        where = error.filename or path
        text = f"{where} cannot be written: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            text += "; what is committed is safe: free some space, then resume the run"
            raise JournalFullError(path, text) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            text += "; check that this user may write there, then resume the run"
            raise JournalReadOnlyError(path, text) from error
        raise JournalError(path, text) from error


def _translate(path: Path, error: sqlite3.Error) -> JournalError:
    text = str(error)
    if "full" in text or "disk I/O" in text:
        return JournalFullError(
            path,
            f"{path} cannot grow ({text}); what is committed is safe: free some space, "
            "then resume the run",
        )
    if "readonly" in text or "unable to open" in text:
        return JournalReadOnlyError(
            path,
            f"{path} cannot be opened for writing ({text}); check that its folder "
            "exists and may be written by this user",
        )
    if "not a database" in text or "malformed" in text:
        return JournalCorruptError(path, f"{path} is not a journal ({text})")
    return JournalError(path, f"{path}: {text}")
