"""Append to the chain: one order over threads and processes.

Everything here runs under the folder's lock. What a writer remembers of the
end of the log is compared with the files on each append; what does not fit is
written down, never smoothed over:

- `audit.recovered`: lines that a crash has left damaged, with their digest.
- `audit.alarm`: somebody cut, replaced or removed what this writer had seen.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Sequence
from fcntl import LOCK_EX, LOCK_UN, flock
from hashlib import sha256
from pathlib import Path
from typing import Any, final

from maestro_audit_logger._files import Files, FolderLock
from maestro_audit_logger._segments import (
    HEAD,
    Identity,
    Segment,
    Tail,
    list_segments,
    read_tail,
    segment_path,
)
from maestro_audit_logger.errors import LogDamaged

SystemBody = Callable[[str, dict[str, Any]], bytes]
_ROTATED = b'"action":"audit.rotated"'
_GROWTH_READ = 1 << 20
_REMEMBERED_LEAVES = 4096


@final
class Appended:
    """What became of a batch: receipts of the stored ones, then the failure."""

    __slots__ = ("error", "stored")

    def __init__(self) -> None:
        self.stored: list[tuple[int, str]] = []
        self.error: OSError | LogDamaged | None = None


@final
class Store:
    """The writing end of a log's folder. Not thread-safe: one caller at a time.

    Args:
        folder: the log's folder.
        identity: what its log.json says.
        system_body: encodes a record that the log writes about itself.
        max_bytes: a segment is sealed before it grows beyond this.
        daily: seal a segment also when the day (UTC) changes.
        files: the file operations.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        *,
        system_body: SystemBody,
        max_bytes: int,
        daily: bool,
        files: Files,
    ) -> None:
        self.folder = folder
        self.identity = identity
        self.lock = FolderLock(folder)
        self._system_body = system_body
        self._max_bytes = max_bytes
        self._daily = daily
        self._files = files
        # Without the detour when nobody has replaced it: this is the hot path.
        self._write_once = os.write if type(files) is Files else files.write
        self._tail: Tail | None = None
        self._recent: deque[tuple[int, str]] = deque(maxlen=_REMEMBERED_LEAVES)
        self._fd: int | None = None
        self._poisoned: Path | None = None

    @property
    def seq(self) -> int:
        """Return the number of the last line that this writer knows."""
        return self._tail.seq if self._tail else 0

    def append(self, bodies: Sequence[bytes]) -> Appended:
        """Write the bodies as the next lines; the caller syncs afterwards."""
        result = Appended()
        try:
            lock = self.lock.open()
            try:
                flock(lock, LOCK_EX)
                self._write(self._ready(bodies), bodies, result)
            finally:
                flock(lock, LOCK_UN)
        except (OSError, LogDamaged) as error:
            result.error = error
        return result

    def append_one(self, body: bytes) -> tuple[int, str]:
        """Write one body as the next line: `append` without its lists.

        Raises:
            OSError: it is not stored, but a part of it may be in the file.
            LogDamaged: the files cannot be read.
        """
        lock = self.lock.open()
        try:
            flock(lock, LOCK_EX)
            tail = self._ready_for(body)
            seq = tail.seq + 1
            line = b'{"seq":%d,"prev":"%s",%s' % (seq, tail.prev.encode(), body)
            leaf = sha256(b"\0" + line).hexdigest()
            written, error = self._write_out(line + b"\n")
            if error is not None:
                tail.end = -1  # read it again: the line may be torn
                raise error
            stored = (seq, leaf)
            self._recent.append(stored)
            # No call between these: an interrupt finds all of them or none.
            tail.end += written
            tail.seq, tail.prev = stored
            if not tail.day:
                tail.day = body[6:16]
            return stored
        finally:
            flock(lock, LOCK_UN)

    def leaves(self, done: int) -> list[bytes] | None:
        """Return the leaf hashes after line `done`; None when not all are known.

        They are those of the bytes as they were written: an edit between the
        writing and the checkpoint does not get into the checkpoint.
        """
        count = self.seq - done
        if not 0 < count <= len(self._recent):
            return None
        recent = list(self._recent)[-count:]
        # Numbers only grow, so that with both ends in place none is missing.
        if recent[0][0] != done + 1 or recent[-1][0] != self.seq:
            return None
        return [bytes.fromhex(leaf) for _, leaf in recent]

    def refresh(self) -> int:
        """Read the end of the log again, under the lock; return its last number."""
        self._synchronise()
        return self.seq

    def sync(self) -> None:
        """Put what was written on the device.

        After a failure the kernel may call lost pages clean, so a second try
        would lie: the file is given up and the next record opens a new segment.
        """
        if self._fd is None:
            return
        try:
            self._files.sync(self._fd)
        except OSError:
            self._poisoned = self._tail.path if self._tail else None
            self.forget()
            raise

    def seal(self) -> int:
        """Close the current segment and start the next; return the last number."""
        with self.lock.held():
            tail = self._synchronise()
            if self._count(tail):
                self._rotate(tail)
            return self.seq

    def forget(self) -> None:
        """Close the files; the next append opens and reads them again."""
        self._tail = None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def close(self) -> None:
        """Close the files and the lock; idempotent."""
        self.forget()
        self.lock.close()

    def _ready(self, bodies: Sequence[bytes]) -> Tail:
        return self._ready_for(bodies[0], sum(map(len, bodies)) + 100 * len(bodies))

    def _ready_for(self, body: bytes, size: int = 0) -> Tail:
        """Return the end to write at, of a new segment when one is due."""
        tail = self._synchronise()
        full = tail.end + (size or len(body) + 100) > self._max_bytes
        # every body starts with "ts":"YYYY-MM-DD
        later = self._daily and bool(tail.day) and body[6:16] > tail.day
        if full or later or self._poisoned is not None:
            due = full or later or self._poisoned == tail.path
            if due and self._count(tail):
                tail = self._rotate(tail)
        return tail

    def _count(self, tail: Tail) -> int:
        return tail.seq - tail.first + 1

    def _synchronise(self) -> Tail:
        """Compare the remembered end of the log with the files."""
        known = self._tail
        if known is not None:
            try:
                status = os.stat(known.name)  # noqa: PTH116 - on the hot path
            except FileNotFoundError:
                status = None
            if status is not None and status.st_ino == known.inode:
                if status.st_size == known.end:
                    return known
                if status.st_size > known.end and self._follow(known, status.st_size):
                    return known
        return self._reread(known)

    def _follow(self, known: Tail, size: int) -> bool:
        """Take in what other processes have appended to the same segment."""
        if known.end < 0 or size - known.end > _GROWTH_READ or self._fd is None:
            return False
        lines = os.pread(self._fd, size - known.end, known.end).split(b"\n")
        if lines.pop() or _ROTATED in lines[-1]:
            return False
        seq, prev = known.seq, known.prev
        for line in lines:
            head = HEAD.match(line)
            if not head or int(head[1]) != seq + 1 or head[2].decode() != prev:
                return False
            seq, prev = seq + 1, sha256(b"\0" + line).hexdigest()
            self._recent.append((seq, prev))
        known.seq, known.prev, known.end = seq, prev, size
        return True

    def _reread(self, known: Tail | None) -> Tail:
        self.forget()
        self._recent.clear()
        found = read_tail(self.folder, self.identity)
        notices = []
        if found is None:
            first = known.seq + 1 if known else 1
            prev = known.prev if known else self.identity.chain_start
            found = self._new_segment(first, prev)
            if known is not None:
                notices.append(self._alarm(known, None))
        elif known is not None and not self._continues(known, found):
            notices.append(self._alarm(known, found))
        if found.path.suffix == ".gz":
            found = self._new_segment(found.seq + 1, found.prev)
        if self._fd is None:
            self._fd = self._files.open_append(found.path)
        if found.damage is not None:
            damage = found.damage
            if found.torn:
                self._files.write_all(self._fd, b"\n")
                found.end += 1
            notices.insert(
                0,
                self._system_body(
                    "audit.recovered",
                    {
                        "first": damage.first,
                        "last": damage.last,
                        "bytes": damage.size,
                        "sha256": damage.sha256,
                    },
                ),
            )
            found.damage, found.torn = None, False
        self._tail = found
        if notices:
            result = Appended()
            self._write(found, notices, result)
            if result.error is not None:
                raise result.error
        return found

    def _continues(self, known: Tail, found: Tail) -> bool:
        """Tell whether what this writer saw last is still part of the log."""
        if found.sound_seq == known.seq:
            return found.sound_prev == known.prev
        if found.sound_seq < known.seq:
            return False
        following = known.seq + 1
        segments = list_segments(self.folder)
        holder = next((s for s in reversed(segments) if s.first <= following), None)
        return holder is not None and self._links(holder, following, known.prev)

    def _links(self, segment: Segment, number: int, prev: str) -> bool:
        """Tell whether line `number`, if it is a record, continues `prev`."""
        needle = b'{"seq":%d,"prev":"' % number
        data = segment.read()
        at = 0 if data.startswith(needle) else data.find(b"\n" + needle) + 1
        if at == 0 and not data.startswith(needle):
            # A torn line by another writer: its recovery record vouches for it.
            return b'"first":%d,"last":' % number in data
        start = at + len(needle)
        return data[start : start + 64] == prev.encode()

    def _alarm(self, known: Tail, found: Tail | None) -> bytes:
        return self._system_body(
            "audit.alarm",
            {
                "reason": "the files changed under the writer",
                "expected_seq": known.seq,
                "expected_leaf": known.prev,
                "found_seq": found.seq if found else 0,
                "found_leaf": found.prev if found else "",
            },
        )

    def _write(self, tail: Tail, bodies: Sequence[bytes], result: Appended) -> None:
        seq, prev = tail.seq, tail.prev.encode()
        lines: list[bytes] = []
        leaves: list[tuple[int, str]] = []
        for body in bodies:
            seq += 1
            line = b'{"seq":%d,"prev":"%s",%s' % (seq, prev, body)
            leaf = sha256(b"\0" + line).hexdigest()
            prev = leaf.encode()
            lines.append(line)
            leaves.append((seq, leaf))
        lines.append(b"")
        buffer = b"\n".join(lines)
        written, result.error = self._write_out(buffer)
        if result.error is None:
            tail.end += written
            tail.seq, tail.prev = leaves[-1]
            self._recent.extend(leaves)
            if not tail.day:
                tail.day = bodies[0][6:16]
            result.stored += leaves
            return
        # Whole lines are stored, whatever became of the rest. The file is read
        # again by the next append, which closes and explains a torn line.
        whole = buffer[:written].count(b"\n")
        result.stored += leaves[:whole]
        if whole:
            tail.seq, tail.prev = leaves[whole - 1]
        tail.end = -1

    def _write_out(self, buffer: bytes) -> tuple[int, OSError | None]:
        """Write all of it; return how much was written, and why not more."""
        fd = self._fd
        assert fd is not None  # _synchronise has opened it
        written = 0
        try:
            written = self._write_once(fd, buffer)
            while written < len(buffer):
                count = self._write_once(fd, memoryview(buffer)[written:])
                if count == 0:
                    return written, OSError(errno.EIO, "wrote nothing")
                written += count
        except OSError as error:
            return written, error
        return written, None

    def _rotate(self, tail: Tail) -> Tail:
        """Write the seal as the segment's last line, then open the next segment."""
        low, high = _time_range(Segment(tail.path, tail.first))
        seal = self._system_body(
            "audit.rotated",
            {
                "first": tail.first,
                "count": self._count(tail) + 1,
                "min_ts": low,
                "max_ts": high,
            },
        )
        result = Appended()
        self._write(tail, [seal], result)
        if result.error is not None:
            raise result.error
        if self._poisoned != tail.path:
            self.sync()
        self._poisoned = None
        seq, prev = tail.seq, tail.prev
        self.forget()
        self._tail = self._new_segment(seq + 1, prev)
        return self._tail

    def _new_segment(self, first: int, prev: str) -> Tail:
        path = segment_path(self.folder, first)
        self._fd = self._files.open_append(path)
        self._files.sync_folder(self.folder)
        status = os.fstat(self._fd)
        return Tail(
            path=path,
            name=str(path),
            first=first,
            inode=status.st_ino,
            end=status.st_size,
            seq=first - 1,
            prev=prev,
            day=b"",
        )


def _time_range(segment: Segment) -> tuple[str, str]:
    """Return the least and the greatest time in a segment: clocks do go back."""
    low, high = "~", ""
    for line, _ in segment.lines():
        head = HEAD.match(line)
        if head:
            ts = head[3].decode()
            low, high = min(low, ts), max(high, ts)
    return low, high
