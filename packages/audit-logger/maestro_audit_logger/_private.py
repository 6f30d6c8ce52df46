"""The erasable values of a log, in SQLite with secure deletion."""

from __future__ import annotations

import hmac
import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, final

from maestro_audit_logger._clean import Sealed, commit_to

PRIVATE_FILE = "private.sqlite"
_SCHEMA = """
create table if not exists private (
    commitment text primary key, salt blob not null,
    value text not null, subject text not null
) without rowid;
create index if not exists by_subject on private (subject);
pragma user_version = 1;
"""


@final
class PrivateValues:
    """Keep, reveal and erase the values behind commitments. Thread-safe.

    Each call opens its own connection: private values are rare, and no
    connection can leak into a forked child.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / PRIVATE_FILE

    def put(self, values: Sequence[Sealed]) -> None:
        """Store values durably, before the records that point at them."""
        with closing(self._connect()) as connection, connection:
            connection.executemany(
                "insert into private values (?, ?, ?, ?)",
                [(v.commitment, v.salt, v.value, v.subject) for v in values],
            )

    def get(self, commitment: str) -> Any:
        """Return the value, checked against its commitment.

        Raises:
            KeyError: it was erased, or replaced by another.
        """
        if not self._path.exists():
            raise KeyError(commitment)
        with closing(self._connect()) as connection:
            row = connection.execute(
                "select salt, value from private where commitment = ?", (commitment,)
            ).fetchone()
        if row is None or not hmac.compare_digest(commit_to(*row), commitment):
            raise KeyError(commitment)
        return json.loads(row[1])

    def erase(self, subject: str) -> int:
        """Remove all values of a subject from the disk; return how many."""
        if not self._path.exists():
            return 0
        with closing(self._connect()) as connection:
            with connection:
                gone = connection.execute(
                    "delete from private where subject = ?", (subject,)
                ).rowcount
            connection.execute("vacuum")
        return gone

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=30)
        try:
            # No write-ahead log: it would keep erased values until the next
            # checkpoint.
            connection.execute("pragma journal_mode = delete")
            connection.execute("pragma synchronous = full")
            connection.execute("pragma secure_delete = on")
            if connection.execute("pragma user_version").fetchone()[0] == 0:
                connection.executescript(_SCHEMA)
        except BaseException:
            connection.close()
            raise
        return connection
