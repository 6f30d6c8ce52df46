"""What happened in one run, and where it is kept: memory or the journal's file."""

import fnmatch
import hashlib
import json
import sqlite3
import time
import zlib
from collections.abc import Callable, Collection, Mapping
from json.encoder import encode_basestring
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, Protocol, final

from .errors import JournalError, JournalWriteError

if TYPE_CHECKING:
    from ._journal import Journal


class Event(NamedTuple):
    """One entry of the journal; `seq` is the only order that counts.

    A tuple, as two are made per turn: a frozen dataclass takes four times as long.
    """

    seq: int
    """Position in the run, from 1, without gaps."""
    run: str
    at_ns: int
    """Wall clock, nanoseconds since 1970; may jump, never used for order."""
    type: str
    """Such as `task.completed` or `usage.recorded`."""
    data: Mapping[str, Any]
    task: str = ""
    attempt: int = 0
    actor: str = ""
    """Persona or person that caused it."""
    v: int = 1

    def matches(self, patterns: Collection[str]) -> bool:
        """Tell whether the type matches one of the patterns, such as `task.*`."""
        return not patterns or any(fnmatch.fnmatchcase(self.type, p) for p in patterns)

    def to_json(self) -> dict[str, Any]:
        """Return the event as plain data."""
        return {**self._asdict(), "data": dict(self.data)}


# Kept: json.dumps makes an encoder per call when its options are not the defaults.
_CANONICAL: Final = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":")
)


def dump(value: object) -> str:
    """Return JSON in one canonical form, so that equal data has equal digests."""
    return _CANONICAL.encode(value)


def digest(value: object) -> str:
    """Return a short SHA-256 over the canonical JSON of `value`."""
    return _hash(dump(value))


def pair_digest(left: str, right: str) -> str:
    """Return `digest([left, right])`, at a third of the cost."""
    return _hash(f"[{encode_basestring(left)},{encode_basestring(right)}]")


def _hash(text: str) -> str:
    # surrogatepass: an endpoint may answer with half of a surrogate pair.
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


_BLOB_OVER: Final = 8192
_Row = tuple[str, int, int, str, str, int, str, int, str]


class EventStore(Protocol):
    """What a run needs from a journal."""

    def append(
        self,
        type: str,
        data: Mapping[str, Any],
        *,
        task: str = "",
        attempt: int = 0,
        actor: str = "",
    ) -> Event:
        """Add an event; it counts once `flush` returned."""

    def flush(self, *, full: bool = False) -> None:
        """Write what was appended; `full` waits for the disk itself."""

    def history(self) -> list[Event]:
        """Return the events of this run so far, in order."""

    def inbox(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Return messages of other processes and forget them at the next flush."""

    def close(self) -> None:
        """Flush and let go of the run."""


@final
class MemoryLog:
    """Events of one run in a list: for tests, patterns and dry runs."""

    def __init__(
        self,
        run: str = "memory",
        *,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._run = run
        self._clock = clock
        self._events: list[Event] = []

    def append(
        self,
        type: str,
        data: Mapping[str, Any],
        *,
        task: str = "",
        attempt: int = 0,
        actor: str = "",
    ) -> Event:
        """Add an event."""
        event = Event(
            len(self._events) + 1, self._run, self._clock(), type, data, task,
            attempt, actor,
        )  # fmt: skip
        self._events.append(event)
        return event

    def flush(self, *, full: bool = False) -> None:
        """Do nothing: memory is as far as these events go."""

    def history(self) -> list[Event]:
        """Return the events so far."""
        return list(self._events)

    def inbox(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Return nothing: no other process can reach this."""
        return []

    def close(self) -> None:
        """Do nothing."""


@final
class RunLog:
    """The one writer of one run. Not for several threads."""

    def __init__(
        self,
        journal: "Journal",
        run: str,
        *,
        lock: IO[bytes],
        fault: Callable[[int, str], None] | None = None,
    ) -> None:
        self._journal, self._run, self._lock, self._fault = journal, run, lock, fault
        self._pending: list[_Row] = []
        self._taken: list[int] = []
        self._broken = ""
        self._cut = False
        self._seq = self._last_on_disk()
        self._inbox_version = -1

    def append(
        self,
        type: str,
        data: Mapping[str, Any],
        *,
        task: str = "",
        attempt: int = 0,
        actor: str = "",
    ) -> Event:
        """Add an event; it counts once `flush` returned."""
        at = self._journal.clock()
        text = _text(type, data)
        self._seq = seq = self._seq + 1
        self._pending.append((self._run, seq, at, type, task, attempt, actor, 1, text))
        return Event(seq, self._run, at, type, data, task, attempt, actor)

    def flush(self, *, full: bool = False) -> None:
        """Write what was appended in one transaction; raise JournalWriteError."""
        if self._broken:
            raise JournalWriteError(
                f"nothing more can be written: {self._broken}", path=self._journal.path
            )
        if not self._pending and not self._taken:
            return
        if self._fault:
            for row in self._pending:
                self._fault(row[1], "before")
        try:
            if self._cut:
                self._look_again()
            self._cut = True
            self._write(full=full)
        except sqlite3.Error as error:
            self._broken = f"a write failed: {error}"
            raise JournalWriteError(
                f"cannot write {len(self._pending)} events: {error}; run again once "
                "there is room, it goes on from the last event on disk",
                path=self._journal.path,
            ) from error
        written, self._pending, self._taken = self._pending, [], []
        self._cut = False
        if self._fault:
            for row in written:
                self._fault(row[1], "after")

    def _last_on_disk(self) -> int:
        found = self._journal.connection.execute(
            "SELECT max(seq) FROM event WHERE run = ?", (self._run,)
        )
        return found.fetchone()[0] or 0

    def _look_again(self) -> None:
        """Forget what is on disk: ^C cut the write before, nobody knows where."""
        self._journal.begin()  # undoes what is not
        last = self._last_on_disk()
        self._pending = [row for row in self._pending if row[1] > last]

    def _write(self, *, full: bool) -> None:
        db = self._journal.connection
        full = full or self._journal.durability == "full"
        if full:
            db.execute("PRAGMA synchronous=FULL")
        try:
            self._journal.begin()
            db.executemany(
                "INSERT INTO event VALUES (?,?,?,?,?,?,?,?,?)",
                [_stored(db, row) for row in self._pending],
            )
            if self._taken:
                db.executemany(
                    "DELETE FROM inbox WHERE id = ?", [(n,) for n in self._taken]
                )
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
        finally:
            if full and self._journal.durability != "full":
                db.execute("PRAGMA synchronous=NORMAL")

    def history(self) -> list[Event]:
        """Return the events of this run on disk, in order."""
        return list(self._journal.events(self._run))

    def read_again(self) -> None:
        """Look at the inbox next time: SQLite tells of other connections' posts only."""
        self._inbox_version = -1

    def inbox(self) -> list[tuple[int, str, dict[str, Any]]]:
        """Return messages of other processes; they go with the next flush."""
        db = self._journal.connection
        version = db.execute("PRAGMA data_version").fetchone()[0]
        if version == self._inbox_version:
            return []
        self._inbox_version = version
        rows = db.execute(
            "SELECT id, kind, data FROM inbox WHERE run = ? ORDER BY id", (self._run,)
        ).fetchall()
        new = [row for row in rows if row[0] not in self._taken]
        self._taken.extend(row[0] for row in new)
        return [(n, kind, json.loads(data)) for n, kind, data in new]

    def close(self) -> None:
        """Flush and let another process have the run."""
        try:
            if not self._broken:
                self.flush()
        finally:
            self._broken = self._broken or "the run was closed"
            self._lock.close()
            self._journal.forget(self)


def _text(kind: str, data: Mapping[str, Any]) -> str:
    """Return what goes to disk; raise JournalError here, where the cause is known."""
    try:
        text = dump(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise JournalError(f"{kind} has data that is not plain JSON: {error}") from None
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair: escaped, it can be stored
        return json.dumps(data, sort_keys=True, separators=(",", ":"))
    return text


def _stored(db: sqlite3.Connection, row: _Row) -> _Row:
    text = row[-1]
    if len(text) <= _BLOB_OVER:
        return row
    raw = text.encode()
    sha = hashlib.sha256(raw).hexdigest()
    db.execute("INSERT OR IGNORE INTO blob VALUES (?, ?)", (sha, zlib.compress(raw)))
    return (*row[:-1], dump({"$blob": sha, "size": len(raw)}))
