"""Check the lines of a log: numbers, links, tree, damage and its explanation."""

from __future__ import annotations

import json
import os
from binascii import hexlify
from collections.abc import Sequence
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from typing import Any, final

from maestro_audit_logger._event import SYSTEM_PREFIX, event_from
from maestro_audit_logger._findings import Findings
from maestro_audit_logger._merkle import GrowingTree, leaf_hash
from maestro_audit_logger._segments import (
    HEAD,
    Segment,
    describe_damage,
    explains,
    torn_at_braces,
)
from maestro_audit_logger._tiles import TILE_HEIGHT, TILE_WIDTH, Tiles, tile_name
from maestro_audit_logger.errors import LogDamaged

_SYSTEM = f'"action":"{SYSTEM_PREFIX}'.encode()
_MAX_DAMAGE = 4 << 20
_BRACES = {ord("}")}
_LAST_BYTE = itemgetter(-1)
_FIRST = b'{"seq":%d,"prev":"'
_HEAD = _FIRST + b'%s",'
_REMEMBERED = 16  # lines that crash after crash may have torn
_LEAF = sha256(b"\0")  # to copy it costs less than to make a new one
ENVELOPE = [
    "seq",
    "prev",
    "ts",
    "actor",
    "action",
    "resource",
    "outcome",
    "ctx",
    "data",
]
Target = tuple[int, bytes, str]


@final
class LineCheck:
    """One pass over all lines of a log.

    Args:
        folder: the log's folder.
        findings: where to say what is wrong.
        prev: the link of line 1, hex.
        targets: size, root and name of what the tree must match on its way.
        newest: the size of the newest checkpoint, up to which there are tiles.
        full: also parse every line.

    Attributes:
        number: the last line.
        first: the first line on disk.
        records: lines checked.
        compared: targets compared.
    """

    def __init__(
        self,
        folder: Path,
        findings: Findings,
        *,
        prev: str,
        targets: Sequence[Target],
        newest: int,
        full: bool,
    ) -> None:
        self._folder = folder
        self._prefix = f"{folder}{os.sep}"
        self._findings = findings
        self._full = full
        self._targets = sorted(targets, key=lambda t: -t[0])
        self._newest = newest
        self._tree = GrowingTree(TILE_HEIGHT)
        self._tree_broken = False
        self._prev = prev.encode()
        self._bad: list[bytes] = []
        self._bad_size = 0
        self._bad_where = ""
        self._torn_before: list[bytes] = []  # the lines before, torn at inner braces
        self._recent: list[bytes] = []
        self._unparsed: list[tuple[int, str, str]] = []  # line, file, why
        self._differing: dict[str, int] = {}
        self.number = 0
        self.first = 1
        self.records = 0
        self.compared = 0

    def run(self, segments: Sequence[Segment], sizes: Sequence[int]) -> None:
        """Check the segments, each up to its size."""
        if segments[0].first != 1:
            self._skip_pruned(segments[0])
        for segment, size in zip(segments, sizes, strict=True):
            self._segment(segment, size, last=segment is segments[-1])
        self._end_damage()

    def end(self) -> str:
        """Name the targets that were not reached; return the root, hex."""
        self._end_unparsed()
        for size, _, name in reversed(self._targets):
            if size > self.number:
                self._findings.tampered(
                    "truncated",
                    self.number + 1,
                    name,
                    f"the {name} covers {size} lines, the log ends at {self.number}",
                )
        later = self._differing.get("checkpoint", 0) - 1
        if later > 0:
            self._findings.tampered(
                "roots-differ",
                self.number,
                "checkpoint",
                f"nor do the {later} checkpoints after the first such fit the lines",
            )
        return "" if self._tree_broken else self._tree.root().hex()

    def _segment(self, segment: Segment, size: int, *, last: bool) -> None:
        name = segment.path.name
        if segment.first != self.number + 1:
            self._end_damage()
            self._findings.tampered(
                "segment-missing",
                self.number + 1,
                name,
                f"expected a segment from line {self.number + 1}, "
                f"the next starts at {segment.first}",
            )
            self._tree_broken = True
            self.number = segment.first - 1
            self._prev = b""
        rest = b""
        try:
            for chunk in segment.chunks(None if segment.packed else size):
                chunk = rest + chunk  # noqa: PLW2901 - two chunks would cost memory
                lines = chunk.split(b"\n")
                rest = lines.pop()
                # Backwards, which is faster here than `in`.
                plain = not self._full and chunk.rfind(_SYSTEM) < 0
                self._take(lines, name, plain=plain)
        except LogDamaged as error:
            self._findings.tampered("unreadable", self.number + 1, name, str(error))
            return
        if rest:
            self._torn(rest, name, last=last)
        elif self.number < segment.first and not last:
            self._findings.tampered(
                "segment-empty", segment.first, name, "the segment is empty"
            )
        elif self.number == 0:
            self._findings.tampered(
                "emptied", 1, name, "not even the first record is there"
            )

    def _take(self, lines: list[bytes], where: str, *, plain: bool) -> None:
        """Check whole lines; `plain` ones hold no record of the log about itself."""
        self.records += len(lines)
        at = 0
        while at < len(lines):
            good = self._stretch(lines, at) if plain and not self._bad else 0
            if not good:
                self._one(lines[at], where)
            at += good or 1

    def _stretch(self, lines: list[bytes], at: int) -> int:
        """Check lines up to the next comparison; return how many were good.

        This loop and the next function are the cost of verification: keep them bare.
        """
        leaves = self._tree.partial
        before = len(leaves)
        number = self.number
        room = min(TILE_WIDTH - before, 10 ** len(str(number + 1)) - number - 1)
        if self._targets:
            room = max(0, min(room, self._targets[-1][0] - number))
        batch = lines[at : at + room]
        if not batch:
            return 0
        new, add = _LEAF.copy, leaves.append
        for line in batch:
            hasher = new()
            hasher.update(line)
            add(hasher.digest())
        digests = leaves[before:]
        good = len(batch)
        if not self._linked(batch, digests):
            good = self._count_linked(batch, digests)
            del leaves[before + good :]
        if good:
            self.number += good
            self._prev = hexlify(digests[good - 1])
            self._remember(batch[:good])
            self._compare()
        return good

    def _linked(self, lines: list[bytes], digests: list[bytes]) -> bool:
        """Whether all lines continue; their numbers have equally many digits.

        Heads of one width that are equal when joined are equal each.
        """
        numbers = tuple(range(self.number + 1, self.number + len(lines) + 1))
        links = self._prev
        if len(digests) > 1:
            links += b"|" + hexlify(b"".join(digests[:-1]), b"|", 32)
        heads = _FIRST + links.replace(b"|", b'",' + _FIRST) + b'",'
        width = len(_HEAD % (self.number + 1, self._prev))
        return (
            b"".join([line[:width] for line in lines]) == heads % numbers
            and set(map(_LAST_BYTE, lines)) == _BRACES
        )

    def _count_linked(self, lines: list[bytes], digests: list[bytes]) -> int:
        prev = self._prev
        for good, (line, digest) in enumerate(zip(lines, digests, strict=True)):
            if not _continues(line, self.number + good + 1, prev):
                return good
            prev = hexlify(digest)
        return len(lines)

    def _remember(self, lines: list[bytes]) -> None:
        self._recent = [*self._recent, *lines][-_REMEMBERED:]

    def _one(self, line: bytes, where: str) -> None:
        """Check one line that may be anything."""
        self.number += 1
        if self._bad or not _continues(line, self.number, self._prev):
            self._odd_line(line, where)
        elif _SYSTEM in line:
            self._system_line(line, where)
        if self._full and not self._bad:
            self._parse(self.number, line, where)
        digest = sha256(b"\0" + line).digest()
        self._prev = hexlify(digest)
        self._remember([line])
        self._tree.partial.append(digest)
        self._compare()

    def _compare(self) -> None:
        """Compare the tree with what is known of this size."""
        while self._targets and self._targets[-1][0] <= self.number:
            self._reach(*self._targets.pop())
        if len(self._tree.partial) == TILE_WIDTH:
            self._compare_tile()
            self._tree.fold()

    def _odd_line(self, line: bytes, where: str) -> None:
        """Handle a line that does not continue, or that follows such a one."""
        number = self.number
        if self._bad:
            torn = self._torn_before + self._bad
            damage = describe_damage(number - len(torn), torn)
            head = HEAD.match(line)
            continues = (
                head is not None and int(head[1]) == number and head[2] == self._prev
            )
            if continues and explains(line, damage):
                self._explained(damage.first, damage.last, damage.size)
                self._bad = []
                self._bad_size = 0
                return
        else:
            self._bad_where = where
            self._torn_before = torn_at_braces(self._recent)
        self._bad.append(line)
        self._bad_size += len(line)
        if self._bad_size > _MAX_DAMAGE:
            self._end_damage()

    def _end_damage(self) -> None:
        """Nothing has explained the damaged lines: say where it began."""
        if not self._bad:
            return
        bad, self._bad, self._bad_size = self._bad, [], 0
        self._end_unparsed()
        first = self.number - len(bad) + 1
        changed = self._changed_before(first)
        if changed:
            message = f"record {changed} was changed after it was sealed"
            self._findings.tampered("record-changed", changed, self._bad_where, message)
        else:
            self._findings.tampered(
                "chain-broken",
                first,
                self._bad_where,
                f"line {first} does not continue line {first - 1}: one of them was "
                "changed, or lines were removed or inserted here",
            )
        head = HEAD.match(bad[-1])
        if head and int(head[1]) != self.number:
            self._tree_broken = True
            self.number = int(head[1])

    def _changed_before(self, first: int) -> int:
        """Ask the tiles whether the line before a break is the changed one."""
        index = first - 2
        if index < 0 or self._newest < first - 1 or self._tree_broken:
            return 0
        at = index - self._tree.size
        if not 0 <= at < len(self._tree.partial):
            return 0
        try:
            kept = Tiles(self._folder, self._newest).leaves(index, index + 1)
        except (LogDamaged, OSError):
            return 0
        return first - 1 if kept and kept[0] != self._tree.partial[at] else 0

    def _end_unparsed(self) -> None:
        """Nothing has explained the lines that are no JSON: say so."""
        for unparsed in self._unparsed:
            self._findings.tampered("not-a-record", *unparsed)
        self._unparsed = []

    def _torn(self, rest: bytes, where: str, *, last: bool) -> None:
        self._end_damage()
        self.number += 1
        self.records += 1
        self._tree.partial.append(leaf_hash(rest))
        self._prev = leaf_hash(rest).hex().encode()
        if last:
            self._findings.add(
                "torn-tail",
                self.number,
                where,
                f"{len(rest)} bytes without an end, as a crash leaves them; the next "
                "record will close and explain them",
                "damaged",
            )
        else:
            self._findings.tampered(
                "segment-cut", self.number, where, "a sealed segment ends in mid-line"
            )

    def _system_line(self, line: bytes, where: str) -> None:
        number = self.number
        try:
            stored = json.loads(line)
            action, data = stored["action"], stored["data"]
        except (ValueError, KeyError, TypeError):
            return
        if action == "audit.recovered":
            torn = torn_at_braces(self._recent) or self._recent[-1:]
            before = describe_damage(number - len(torn), torn)
            if explains(line, before):
                self._explained(before.first, before.last, before.size)
            else:
                self._findings.tampered(
                    "false-recovery",
                    number,
                    where,
                    "a recovery record does not fit the lines before it",
                )
        elif action == "audit.alarm":
            self._findings.tampered(
                "alarm",
                number,
                where,
                f"a writer saw the files change: it had stored line "
                f"{data.get('expected_seq')}, and found {data.get('found_seq')}",
            )
        elif action == "audit.gap":
            self._findings.add(
                "gap",
                number,
                where,
                f"{data.get('lost')} events lost and {data.get('spilled')} spilled "
                f"between {data.get('first_ts')} and {data.get('last_ts')}",
                "notice",
            )

    def _explained(self, first: int, last: int, size: int) -> None:
        self._unparsed = [u for u in self._unparsed if not first <= u[0] <= last]
        self._findings.add(
            "recovered",
            first,
            self._bad_where or str(self._folder),
            f"lines {first} to {last} ({size} bytes) were torn by a crash and never "
            "acknowledged; the record after them says so",
            "damaged",
        )

    def _parse(self, number: int, line: bytes, where: str) -> None:
        try:
            stored = json.loads(
                line, object_pairs_hook=_no_duplicates, parse_constant=_no_constant
            )
            names = list(stored)
            if names == ENVELOPE:
                event_from(stored, line)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            self._unparsed.append((number, where, str(error)))
            if len(self._unparsed) > _REMEMBERED:
                self._end_unparsed()
            return
        self._end_unparsed()  # this line has not explained those before
        if names != ENVELOPE:
            self._findings.tampered(
                "foreign-keys", number, where, f"expected {ENVELOPE}, got {names}"
            )

    def _skip_pruned(self, segment: Segment) -> None:
        """Take the leaf hashes of pruned lines from the tiles."""
        self.first = segment.first
        missing = segment.first - 1
        leaves: list[bytes] = []
        try:
            tiles = Tiles(self._folder, max(self._newest, missing))
            for start in range(0, missing, TILE_WIDTH):
                leaves = tiles.leaves(start, min(start + TILE_WIDTH, missing))
                for leaf in leaves:
                    self.number += 1
                    self._tree.partial.append(leaf)
                    self._compare()
            self._prev = leaves[-1].hex().encode()
        except (LogDamaged, OSError) as error:
            self._findings.tampered(
                "lines-missing",
                1,
                segment.path.name,
                f"lines 1 to {missing} are gone, and so are their hashes: {error}",
            )
            self._tree_broken = True
            self.number = missing
            head = HEAD.match(segment.read()[:200])
            self._prev = head[2] if head else b""

    def _compare_tile(self) -> None:
        index = self._tree.size // TILE_WIDTH
        if self._tree_broken or self._tree.size + TILE_WIDTH > self._newest:
            return
        name = tile_name(0, index)
        try:
            with open(f"{self._prefix}{name}", "rb", 0) as file:  # noqa: PTH123 - hot
                kept = file.read()
        except OSError:
            return  # tiles are derived: missing ones can be made again
        if kept != b"".join(self._tree.partial) and not self._findings.any_tampered:
            self._findings.tampered(
                "tile-differs",
                index * TILE_WIDTH + 1,
                name,
                "the kept hashes are not those of the lines",
            )

    def _reach(self, size: int, wanted: bytes, name: str) -> None:
        if size < self.number:
            return  # numbers have jumped over it, which is reported
        self.compared += 1
        if self._tree_broken or self._tree.root() == wanted:
            return
        self._differing[name] = self._differing.get(name, 0) + 1
        if self._differing[name] > 1:
            return  # every later tree contains the same change
        self._findings.tampered(
            "root-differs",
            size,
            name,
            f"the root over {size} lines is not the one in the {name}: a "
            "line up to there was changed",
        )


def _continues(line: bytes, number: int, prev: bytes) -> bool:
    return line.startswith(_HEAD % (number, prev)) and line.endswith(b"}")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} comes twice")
    return found


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")
