"""Leases on names and path patterns, with fencing tokens and freezes."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Protocol, final

from ._globs import overlap
from ._journal import Journal
from .errors import LeaseError

FREEZE: Final = "freeze"


class LeaseStore(Protocol):
    """Who may change what, now."""

    def take(self, name: str, holder: str, *, ttl: float, shared: bool = False) -> int:
        """Return a fencing token, larger than all before; raise LeaseError."""

    def release(self, name: str, holder: str) -> None:
        """Let go; nothing happens when it was not held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One lease that is held."""

    name: str
    holder: str
    shared: bool
    until_ns: int
    fence: int


@final
class JournalLeases:
    """Leases in the journal's file: for all runs and processes that use it."""

    def __init__(
        self,
        journal: Journal,
        *,
        run: str = "",
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._db = journal.connection
        self._run = run
        self._clock = clock

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def take(self, name: str, holder: str, *, ttl: float, shared: bool = False) -> int:
        """Return a fencing token; raise LeaseError naming the holder."""
        now = self._clock()
        with self._transaction() as db:
            db.execute("DELETE FROM lease WHERE until <= ?", (now,))
            for lease in self.held():
                mine = lease.holder == holder
                both_shared = shared and lease.shared
                if not mine and not both_shared and overlap(lease.name, name):
                    raise LeaseError(name, f"{lease.holder} ({lease.name})")
            db.execute("UPDATE fence SET value = value + 1")
            fence: int = db.execute("SELECT value FROM fence").fetchone()[0]
            db.execute(
                "INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?, ?, ?)",
                (name, holder, int(shared), now + int(ttl * 1e9), fence, self._run),
            )
        return fence

    def release(self, name: str, holder: str) -> None:
        """Let go."""
        self._db.execute(
            "DELETE FROM lease WHERE name = ? AND holder = ?", (name, holder)
        )

    def freeze(self, name: str, *, seconds: float, why: str = "") -> int:
        """Refuse everybody for a time: a calendar freeze."""
        return self.take(name, f"{FREEZE}: {why}" if why else FREEZE, ttl=seconds)

    def held(self) -> list[Lease]:
        """Return the leases that have not run out."""
        rows = self._db.execute(
            "SELECT name, holder, shared, until, fence FROM lease WHERE until > ? "
            "ORDER BY fence",
            (self._clock(),),
        ).fetchall()
        return [
            Lease(name=n, holder=h, shared=bool(s), until_ns=u, fence=f)
            for n, h, s, u, f in rows
        ]
