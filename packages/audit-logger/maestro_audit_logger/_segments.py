"""Where things are in a log's folder, and how a segment's lines are read.

A segment is named by the number of its first line. The number of a line in the
whole log is its `seq`; that also counts lines that a crash has left torn.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from maestro_audit_logger._merkle import leaf_hash
from maestro_audit_logger.errors import LogDamaged, LogNotFound

IDENTITY = "log.json"
FORMAT = 1
_NAME = re.compile(r"(\d{20})\.jsonl(\.gz)?\Z")
HEAD = re.compile(rb'\{"seq":(\d{1,20}),"prev":"([0-9a-f]{64})","ts":"([^"]{20,32})",')
_CHUNK = 1 << 17  # larger ones the allocator maps, and clears, anew each time
_TAIL_WINDOW = 1 << 20


@final
@dataclass(frozen=True, slots=True)
class Segment:
    """One file of the log."""

    path: Path
    first: int

    @property
    def packed(self) -> bool:
        """Tell whether the file is compressed; its hashes cover the plain bytes."""
        return self.path.suffix == ".gz"

    def read(self) -> bytes:
        """Return all plain bytes."""
        return b"".join(self._unpacked()) if self.packed else self.path.read_bytes()

    def chunks(self, limit: int | None = None) -> Iterator[bytes]:
        """Yield the plain bytes in pieces, up to `limit` of them."""
        if self.packed:
            yield from self._unpacked()
            return
        with self.path.open("rb") as file:
            left = limit
            while left is None or left > 0:
                piece = file.read(_CHUNK if left is None else min(_CHUNK, left))
                if not piece:
                    return
                if left is not None:
                    left -= len(piece)
                yield piece

    def _unpacked(self) -> Iterator[bytes]:
        try:
            with gzip.open(self.path) as file:
                while piece := file.read(_CHUNK):
                    yield piece
        except (OSError, EOFError, zlib.error) as error:
            raise LogDamaged(str(self.path), f"not a gzip file: {error}") from error

    def lines(self, limit: int | None = None) -> Iterator[tuple[bytes, bool]]:
        """Yield each line without its newline; False for a last one that has none."""
        rest = b""
        for chunk in self.chunks(limit):
            pieces = (rest + chunk).split(b"\n")
            rest = pieces.pop()
            for piece in pieces:
                yield piece, True
        if rest:
            yield rest, False


def segment_path(folder: Path, first: int) -> Path:
    """Return the path of the segment that starts with line `first`."""
    return folder / f"{first:020d}.jsonl"


def list_segments(folder: Path) -> list[Segment]:
    """Return the segments in order; a packed twin yields to its plain file."""
    found: dict[int, Segment] = {}
    try:
        present = sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        raise LogNotFound(str(folder)) from None
    for name in present:
        match = _NAME.match(name)
        if match:
            found.setdefault(int(match[1]), Segment(folder / name, int(match[1])))
    return [found[first] for first in sorted(found)]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What `log.json` says; its bytes are the root of the chain."""

    origin: str
    log_id: str
    created: str
    raw: bytes

    @property
    def chain_start(self) -> str:
        """Return the `prev` of line 1."""
        return leaf_hash(self.raw).hex()

    @classmethod
    def make(cls, *, origin: str, log_id: str, created: str) -> Identity:
        """Describe a new log."""
        stored = {
            "format": FORMAT,
            "origin": origin,
            "log_id": log_id,
            "hash": "sha256",
            "created": created,
        }
        raw = json.dumps(stored, ensure_ascii=True, indent=1).encode() + b"\n"
        return cls(origin=origin, log_id=log_id, created=created, raw=raw)

    @classmethod
    def load(cls, folder: Path) -> Identity:
        """Read log.json.

        Raises:
            LogNotFound: there is none.
            LogDamaged: it is not ours, or of a later format.
        """
        path = folder / IDENTITY
        try:
            raw = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise LogNotFound(str(folder)) from None
        try:
            stored: dict[str, Any] = json.loads(raw)
            if stored["format"] != FORMAT:
                raise LogDamaged(
                    str(path), f"expected format {FORMAT}, got {stored['format']!r}"
                )
            return cls(
                origin=stored["origin"],
                log_id=stored["log_id"],
                created=stored["created"],
                raw=raw,
            )
        except (ValueError, KeyError, TypeError) as error:
            message = f"not the identity of an audit log: {error!r}"
            raise LogDamaged(str(path), message) from error


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """Lines at the end of a log that are not records, as after a crash."""

    first: int
    last: int
    size: int
    sha256: str


@final
@dataclass(slots=True, kw_only=True)
class Tail:
    """The end of the log, from which the next record continues.

    `sound_seq` and `sound_prev` are those of the last line before any damage.
    """

    path: Path
    name: str
    first: int
    inode: int
    end: int
    seq: int
    prev: str
    day: bytes
    sound_seq: int = 0
    sound_prev: str = ""
    torn: bool = False
    damage: Damage | None = None


def describe_damage(first: int, lines: list[bytes]) -> Damage:
    """Commit to damaged lines: their place, size and digest."""
    raw = b"\n".join(lines)
    return Damage(
        first=first,
        last=first + len(lines) - 1,
        size=len(raw),
        sha256=hashlib.sha256(raw).hexdigest(),
    )


def explains(line: bytes, damage: Damage) -> bool:
    """Tell whether this line is the recovery record of exactly that damage."""
    if b'"action":"audit.recovered"' not in line:
        return False
    try:
        stored = json.loads(line)
        data = stored["data"]
        found = (data["first"], data["last"], data["bytes"], data["sha256"])
        action = stored["action"]
    except (ValueError, KeyError, TypeError):
        return False
    wanted = (damage.first, damage.last, damage.size, damage.sha256)
    return bool(action == "audit.recovered" and found == wanted)


def torn_at_braces(lines: Sequence[bytes]) -> list[bytes]:
    """Return the last of these sound lines as far as they are no JSON objects.

    A crash can tear a line just behind an inner brace: it looks whole. The next
    writer closed it, and died before it could say so; perhaps just there, too.
    """
    start = len(lines)
    while start and not _is_object(lines[start - 1]):
        start -= 1
    return list(lines[start:])


def _is_object(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def read_tail(folder: Path, identity: Identity) -> Tail | None:
    """Find the end of the log; None when there is no segment at all."""
    segments = list_segments(folder)
    if not segments:
        return None
    return _tail_of(segments, identity)


def _tail_of(segments: list[Segment], identity: Identity) -> Tail:
    segment = segments[-1]
    data, inode, end, whole = _window(segment)
    lines = data.split(b"\n")
    torn = lines.pop()
    if not whole:
        # The window starts in mid-line, and may hold nothing but damage.
        lines = lines[1:]
        while lines and not HEAD.match(lines[0]):
            lines = lines[1:]
        if not lines:
            lines, whole = segment.read().split(b"\n"), True
            torn = lines.pop()
    first = HEAD.match(lines[0]) if lines and not whole else None
    if first is not None:
        number, prev = int(first[1]), first[2].decode()
    else:
        number, prev = segment.first, _end_of_previous(segments, identity)
    day, sound_seq, sound_prev = b"", number - 1, prev
    bad: list[bytes] = []
    good: list[bytes] = []
    for line in lines:
        head = HEAD.match(line)
        sound = (
            head is not None
            and int(head[1]) == number
            and head[2].decode() == prev
            and line.endswith(b"}")
        )
        if not sound and not bad:
            bad = torn_at_braces(good)
        if bad:
            explained = sound and explains(
                line, describe_damage(number - len(bad), bad)
            )
            if explained:
                bad = []
            else:
                bad.append(line)
        elif not sound:
            bad.append(line)
        prev = leaf_hash(line).hex()
        if not bad and head is not None:
            day = head[3][:10]
            sound_seq, sound_prev = number, prev
            good.append(line)
        number += 1
    looked_sound = torn_at_braces(good)
    bad = bad or looked_sound[:]
    head = HEAD.match(looked_sound[0]) if looked_sound else None
    if head is not None:
        sound_seq, sound_prev = int(head[1]) - 1, head[2].decode()
    if torn:
        bad.append(torn)
        prev = leaf_hash(torn).hex()
        number += 1
    return Tail(
        path=segment.path,
        name=str(segment.path),
        first=segment.first,
        inode=inode,
        end=end,
        seq=number - 1,
        prev=prev,
        day=day,
        sound_seq=sound_seq,
        sound_prev=sound_prev,
        torn=bool(torn),
        damage=describe_damage(number - len(bad), bad) if bad else None,
    )


def _window(segment: Segment) -> tuple[bytes, int, int, bool]:
    """Return the last bytes, the inode, the size, and whether that is all."""
    if segment.packed:
        data = segment.read()
        return data, segment.path.stat().st_ino, len(data), True
    with segment.path.open("rb") as file:
        status = os.fstat(file.fileno())
        start = max(0, status.st_size - _TAIL_WINDOW)
        file.seek(start)
        data = file.read(status.st_size - start)
    return data, status.st_ino, status.st_size, start == 0


def _end_of_previous(segments: list[Segment], identity: Identity) -> str:
    if len(segments) == 1:
        if segments[0].first == 1:
            return identity.chain_start
        # Everything before was pruned: the first line says what it continues.
        head = HEAD.match(segments[0].read()[:200])
        return head[2].decode() if head else identity.chain_start
    return leaf_hash(_last_line(segments[-2])).hex()


def _last_line(segment: Segment) -> bytes:
    data = _window(segment)[0].removesuffix(b"\n")
    return data[data.rfind(b"\n") + 1 :]
