"""Check a log from its bytes: chain, tree, checkpoints, signatures, anchor.

Nothing here trusts the writer's code or its memory; it needs read permission
only, and may run while others write.
"""

from __future__ import annotations

import hashlib
import json
import os
from binascii import hexlify
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

from maestro_audit_logger._checkpoints import history, latest_note
from maestro_audit_logger._event import SYSTEM_PREFIX
from maestro_audit_logger._files import quiet
from maestro_audit_logger._merkle import leaf_hash, node_hash, perfect_root
from maestro_audit_logger._note import (
    Checkpoint,
    HmacKey,
    Note,
    VerificationKey,
    epoch_of,
    next_key,
    parse_checkpoint,
    parse_key,
    parse_note,
    seal,
    verify_note,
)
from maestro_audit_logger._segments import (
    HEAD,
    Identity,
    Segment,
    describe_damage,
    explains,
    list_segments,
)
from maestro_audit_logger._tiles import TILE_HEIGHT, TILE_WIDTH, Tiles, tile_path
from maestro_audit_logger.errors import (
    InvalidNote,
    LogDamaged,
    LogNotFound,
    UntrustedNote,
)

Status = Literal["ok", "damaged", "tampered"]
_SYSTEM = f'"action":"{SYSTEM_PREFIX}'.encode()
_MAX_DAMAGE = 4 << 20
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


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that `verify` has to say.

    Attributes:
        kind: a short name for programs, such as `chain-broken`.
        seq: the line it is about, 0 when it is about none.
        where: the file.
        message: for people.
        severity: `tampered`, `damaged` (explained by a crash) or `notice`.
    """

    kind: str
    seq: int
    where: str
    message: str
    severity: Literal["tampered", "damaged", "notice"]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What is true of a log.

    Attributes:
        status: `ok`, `damaged` (torn lines, each explained) or `tampered`.
        records: lines checked.
        first_seq: the first line on disk; more than 1 after pruning.
        head_seq: the last line.
        root: the Merkle root over all lines, hex; empty when it has no meaning.
        checkpoints: checkpoints compared with the lines.
        signed_by: names of the keys whose signatures were checked.
        anchored: true when the log extends the anchor.
        uncovered: lines after the newest checkpoint.
        findings: everything found, worst first.
    """

    path: str
    status: Status
    records: int
    first_seq: int
    head_seq: int
    root: str
    checkpoints: int
    signed_by: tuple[str, ...]
    anchored: bool
    uncovered: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Tell whether nothing is wrong and nothing is damaged."""
        return self.status == "ok"

    def explain(self) -> str:
        """Return the report as text."""
        lines = [
            f"{self.path}: {self.status}",
            f"  lines {self.first_seq} to {self.head_seq}, {self.records} checked",
            f"  checkpoints {self.checkpoints}, lines after the newest {self.uncovered}",
            f"  signed by {', '.join(self.signed_by) or 'nobody that was checked'}",
            f"  anchor {'extended' if self.anchored else 'none'}",
        ]
        for item in self.findings:
            place = f" line {item.seq}" if item.seq else ""
            lines.append(f"  {item.severity}:{place} {item.message} ({item.where})")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        names = [name for name in self.__dataclass_fields__ if name != "findings"]
        found: dict[str, Any] = {name: getattr(self, name) for name in names}
        found["signed_by"] = list(self.signed_by)
        found["findings"] = [
            {
                "kind": f.kind,
                "seq": f.seq,
                "where": f.where,
                "message": f.message,
                "severity": f.severity,
            }
            for f in self.findings
        ]
        return found


def verify_log(
    path: str | os.PathLike[str],
    *,
    anchor: str | Checkpoint | None = None,
    keys: Sequence[str | VerificationKey] = (),
    full: bool = False,
) -> VerifyReport:
    """Check a log folder; needs no logger and no write permission.

    Args:
        path: the log's folder.
        anchor: a checkpoint kept outside; the log must extend it.
        keys: vkeys or the auditor's HMAC key; the newest checkpoint (of an
            HMAC ratchet: every one) must be signed by one of them.
        full: also parse every line and refuse duplicate or unknown keys, and
            check the signatures of all checkpoints.

    Raises:
        LogNotFound: there is no log.
        InvalidNote: the anchor or a key is malformed.
    """
    folder = Path(path)
    parsed = [parse_key(key) if isinstance(key, str) else key for key in keys]
    check = _Check(folder, parsed, full=full)
    wanted = _anchor(anchor, parsed)
    check.run(wanted)
    return check.report()


def _anchor(
    anchor: str | Checkpoint | None, keys: Sequence[VerificationKey]
) -> Checkpoint | None:
    if anchor is None or isinstance(anchor, Checkpoint):
        return anchor
    note = parse_note(anchor)
    if keys and note.signatures:
        verify_note(note, keys)
    return parse_checkpoint(note.text)


@final
class _Tree:
    """The root over a growing number of leaves, in little memory."""

    def __init__(self) -> None:
        self.size = 0
        self.partial: list[bytes] = []
        self._peaks: list[tuple[int, bytes]] = []

    def fold(self) -> None:
        """Turn 256 leaves into one peak."""
        height, root = TILE_HEIGHT, perfect_root(self.partial)
        self.size += TILE_WIDTH
        self.partial.clear()
        while self._peaks and self._peaks[-1][0] == height:
            root = node_hash(self._peaks.pop()[1], root)
            height += 1
        self._peaks.append((height, root))

    def root(self) -> bytes:
        """Return the root over everything so far."""
        peaks = [root for _, root in self._peaks]
        rest = self.partial
        while rest:
            take = 1 << (len(rest).bit_length() - 1)
            peaks.append(perfect_root(rest[:take]))
            rest = rest[take:]
        if not peaks:
            return hashlib.sha256(b"").digest()
        root = peaks.pop()
        while peaks:
            root = node_hash(peaks.pop(), root)
        return root


@final
class _Check:
    """One run of `verify_log`."""

    def __init__(
        self, folder: Path, keys: Sequence[VerificationKey], *, full: bool
    ) -> None:
        self._folder = folder
        self._keys = keys
        self._full = full
        self._findings: list[Finding] = []
        self._tree = _Tree()
        self._tree_broken = False
        self._number = 0
        self._prev = b""
        self._first = 1
        self._records = 0
        self._bad: list[bytes] = []
        self._bad_size = 0
        self._bad_where = ""
        self._last_line = b""
        self._targets: list[tuple[int, bytes, str]] = []
        self._compared = 0
        self._signed_by: set[str] = set()
        self._newest = 0
        self._anchored = False

    def run(self, anchor: Checkpoint | None) -> None:
        """Look at everything, in the order in which trust is built up."""
        with quiet(self._folder):
            segments = list_segments(self._folder)
            try:
                identity = Identity.load(self._folder)
            except LogNotFound:
                if not segments:
                    raise
                self._tampered("identity-missing", 0, "log.json", "log.json is missing")
                return
            sizes = [s.path.stat().st_size for s in segments]
            notes = list(history(self._folder))
            latest = latest_note(self._folder)
        self._prev = identity.chain_start.encode()
        checkpoints = self._read_checkpoints(notes, latest, identity.origin)
        self._aim(checkpoints, anchor, identity.origin)
        if not segments:
            self._tampered(
                "segments-missing", 0, str(self._folder), "there is not one segment"
            )
        else:
            self._skip_pruned(segments[0])
            for segment, size in zip(segments, sizes, strict=True):
                self._segment(segment, size, last=segment is segments[-1])
            self._end_damage()
        self._missed_targets(anchor)

    def report(self) -> VerifyReport:
        """Return what was found."""
        order = {"tampered": 0, "damaged": 1, "notice": 2}
        findings = sorted(self._findings, key=lambda f: (order[f.severity], f.seq))
        worst = findings[0].severity if findings else "notice"
        status: Status = "ok" if worst == "notice" else worst
        return VerifyReport(
            path=str(self._folder),
            status=status,
            records=self._records,
            first_seq=self._first,
            head_seq=self._number,
            root="" if self._tree_broken else self._tree.root().hex(),
            checkpoints=self._compared,
            signed_by=tuple(sorted(self._signed_by)),
            anchored=self._anchored and status != "tampered",
            uncovered=max(0, self._number - self._newest),
            findings=tuple(findings),
        )

    # Lines

    def _segment(self, segment: Segment, size: int, *, last: bool) -> None:
        name = segment.path.name
        if segment.first != self._number + 1:
            self._end_damage()
            self._tampered(
                "segment-missing",
                self._number + 1,
                name,
                f"expected a segment from line {self._number + 1}, "
                f"the next starts at {segment.first}",
            )
            self._tree_broken = True
            self._number = segment.first - 1
            self._prev = b""
        rest = b""
        try:
            for chunk in segment.chunks(None if segment.packed else size):
                lines = (rest + chunk).split(b"\n")
                rest = lines.pop()
                self._lines(lines, name)
        except LogDamaged as error:
            self._tampered("unreadable", self._number + 1, name, str(error))
            return
        if rest:
            self._torn(rest, name, last=last)
        elif self._number < segment.first and not last:
            self._tampered("segment-empty", segment.first, name, "the segment is empty")
        elif self._number == 0:
            self._tampered("emptied", 1, name, "not even the first record is there")

    def _lines(self, lines: list[bytes], where: str) -> None:
        """Check whole lines. The loop is the cost of verification: keep it bare."""
        sha256 = hashlib.sha256
        number, prev = self._number, self._prev
        partial = self._tree.partial
        target = self._targets[-1][0] if self._targets else 0
        full, bad = self._full, self._bad
        last = self._last_line
        for line in lines:
            number += 1
            if bad or not (
                line.startswith(b'{"seq":%d,"prev":"%s",' % (number, prev))
                and line.endswith(b"}")
            ):
                self._number, self._prev = number, prev
                number = self._odd_line(line, where)
                bad = self._bad
            elif _SYSTEM in line:
                self._number, self._prev, self._last_line = number, prev, last
                self._system_line(line, where)
            if full and not bad:
                self._parse(number, line, where)
            digest = sha256(b"\0" + line).digest()
            prev = hexlify(digest)
            last = line
            partial.append(digest)
            if number == target:
                target = self._reach(number)
            if len(partial) == TILE_WIDTH:
                self._compare_tile()
                self._tree.fold()
        self._records += len(lines)
        self._number, self._prev, self._last_line = number, prev, last

    def _odd_line(self, line: bytes, where: str) -> int:
        """Handle a line that does not continue, or that follows such a one."""
        number = self._number
        if self._bad:
            damage = describe_damage(number - len(self._bad), self._bad)
            head = HEAD.match(line)
            continues = (
                head is not None and int(head[1]) == number and head[2] == self._prev
            )
            if continues and explains(line, damage):
                self._explained(damage.first, damage.last, damage.size)
                self._bad = []
                self._bad_size = 0
                return number
        else:
            self._bad_where = where
        self._bad.append(line)
        self._bad_size += len(line)
        if self._bad_size > _MAX_DAMAGE:
            self._end_damage()
        return self._number

    def _end_damage(self) -> None:
        """Nothing has explained the damaged lines: say where it began."""
        if not self._bad:
            return
        bad, self._bad, self._bad_size = self._bad, [], 0
        first = self._number - len(bad) + 1
        changed = self._changed_before(first)
        if changed:
            message = f"record {changed} was changed after it was sealed"
            self._tampered("record-changed", changed, self._bad_where, message)
        else:
            self._tampered(
                "chain-broken",
                first,
                self._bad_where,
                f"line {first} does not continue line {first - 1}: one of them was "
                "changed, or lines were removed or inserted here",
            )
        head = HEAD.match(bad[-1])
        if head and int(head[1]) != self._number:
            self._tree_broken = True
            self._number = int(head[1])

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

    def _torn(self, rest: bytes, where: str, *, last: bool) -> None:
        self._end_damage()
        self._number += 1
        self._records += 1
        self._tree.partial.append(leaf_hash(rest))
        self._prev = leaf_hash(rest).hex().encode()
        if last:
            self._add(
                "torn-tail",
                self._number,
                where,
                f"{len(rest)} bytes without an end, as a crash leaves them; the next "
                "record will close and explain them",
                "damaged",
            )
        else:
            self._tampered(
                "segment-cut", self._number, where, "a sealed segment ends in mid-line"
            )

    def _system_line(self, line: bytes, where: str) -> None:
        number = self._number
        try:
            stored = json.loads(line)
            action, data = stored["action"], stored["data"]
        except (ValueError, KeyError, TypeError):
            return
        if action == "audit.recovered":
            before = describe_damage(number - 1, [self._last_line])
            if explains(line, before):
                self._explained(before.first, before.last, before.size)
            else:
                self._tampered(
                    "false-recovery",
                    number,
                    where,
                    "a recovery record does not fit the lines before it",
                )
        elif action == "audit.alarm":
            self._tampered(
                "alarm",
                number,
                where,
                f"a writer saw the files change: it had stored line "
                f"{data.get('expected_seq')}, and found {data.get('found_seq')}",
            )
        elif action == "audit.gap":
            self._add(
                "gap",
                number,
                where,
                f"{data.get('lost')} events lost and {data.get('spilled')} spilled "
                f"between {data.get('first_ts')} and {data.get('last_ts')}",
                "notice",
            )

    def _explained(self, first: int, last: int, size: int) -> None:
        self._add(
            "recovered",
            first,
            self._bad_where or str(self._folder),
            f"lines {first} to {last} ({size} bytes) were torn by a crash and never "
            "acknowledged; the record after them says so",
            "damaged",
        )

    def _parse(self, number: int, line: bytes, where: str) -> None:
        try:
            stored = json.loads(line, object_pairs_hook=_no_duplicates)
            names = list(stored)
        except (ValueError, TypeError, RecursionError) as error:
            if not self._bad:
                self._tampered("not-a-record", number, where, str(error))
            return
        if names != ENVELOPE:
            self._tampered(
                "foreign-keys", number, where, f"expected {ENVELOPE}, got {names}"
            )

    # Tree

    def _skip_pruned(self, segment: Segment) -> None:
        """Take the leaf hashes of pruned lines from the tiles."""
        if segment.first == 1:
            return
        self._first = segment.first
        missing = segment.first - 1
        leaves: list[bytes] = []
        try:
            tiles = Tiles(self._folder, max(self._newest, missing))
            for start in range(0, missing, TILE_WIDTH):
                leaves = tiles.leaves(start, min(start + TILE_WIDTH, missing))
                for leaf in leaves:
                    self._number += 1
                    self._tree.partial.append(leaf)
                    if self._targets and self._number == self._targets[-1][0]:
                        self._reach(self._number)
                if len(self._tree.partial) == TILE_WIDTH:
                    self._tree.fold()
            self._prev = leaves[-1].hex().encode()
        except (LogDamaged, OSError) as error:
            self._tampered(
                "lines-missing",
                1,
                segment.path.name,
                f"lines 1 to {missing} are gone, and so are their hashes: {error}",
            )
            self._tree_broken = True
            self._number = missing
            head = HEAD.match(segment.read()[:200])
            self._prev = head[2] if head else b""

    def _compare_tile(self) -> None:
        index = self._tree.size // TILE_WIDTH
        if self._tree_broken or self._tree.size + TILE_WIDTH > self._newest:
            return
        path = tile_path(self._folder, 0, index)
        try:
            kept = path.read_bytes()
        except OSError:
            return  # tiles are derived: missing ones can be made again
        if kept != b"".join(self._tree.partial) and not self._findings:
            self._tampered(
                "tile-differs",
                index * TILE_WIDTH + 1,
                str(path.relative_to(self._folder)),
                "the kept hashes are not those of the lines",
            )

    def _reach(self, number: int) -> int:
        """Compare the root with the checkpoints of this size; return the next size."""
        root = None if self._tree_broken else self._tree.root()
        while self._targets and self._targets[-1][0] == number:
            _, wanted, name = self._targets.pop()
            self._compared += 1
            if root is not None and root != wanted:
                self._tampered(
                    "root-differs",
                    number,
                    name,
                    f"the root over {number} lines is not the one in the {name}: a "
                    "line up to there was changed",
                )
        return self._targets[-1][0] if self._targets else 0

    def _missed_targets(self, anchor: Checkpoint | None) -> None:
        for size, _, name in reversed(self._targets):
            if size > self._number:
                self._tampered(
                    "truncated",
                    self._number + 1,
                    name,
                    f"the {name} covers {size} lines, the log ends at {self._number}",
                )
        self._anchored = anchor is not None and not any(
            f.severity == "tampered" for f in self._findings
        )

    # Checkpoints

    def _aim(
        self, checkpoints: list[Checkpoint], anchor: Checkpoint | None, origin: str
    ) -> None:
        self._newest = checkpoints[-1].size if checkpoints else 0
        self._targets = [(c.size, c.root, "checkpoint") for c in checkpoints if c.size]
        if anchor is not None:
            if anchor.origin != origin:
                self._tampered(
                    "other-log",
                    0,
                    "anchor",
                    f"the anchor is of {anchor.origin!r}, the log of {origin!r}",
                )
            if anchor.size:
                self._targets.append((anchor.size, anchor.root, "anchor"))
        self._targets.sort(key=lambda t: -t[0])

    def _read_checkpoints(
        self,
        notes: list[tuple[int, str | None]],
        latest: str | None,
        origin: str,
    ) -> list[Checkpoint]:
        found: list[Checkpoint] = []
        parsed: list[Note] = []
        for number, text in notes:
            where = f"checkpoints:{number}"
            if text is None:
                self._add("torn-checkpoint", 0, where, "an unreadable line", "damaged")
                continue
            try:
                note = parse_note(text)
                checkpoint = parse_checkpoint(note.text)
            except InvalidNote as error:
                self._tampered("bad-checkpoint", 0, where, str(error))
                continue
            if checkpoint.origin != origin:
                message = f"a checkpoint of {checkpoint.origin!r}"
                self._tampered("other-log", 0, where, message)
            elif found and checkpoint.size < found[-1].size:
                self._tampered(
                    "checkpoints-reordered", 0, where, "sizes go back in the history"
                )
            else:
                found.append(checkpoint)
                parsed.append(note)
        self._check_latest(latest, found)
        if self._keys:
            self._check_signatures(parsed)
        return found

    def _check_latest(self, latest: str | None, found: list[Checkpoint]) -> None:
        if latest is None:
            return
        try:
            newest = parse_checkpoint(parse_note(latest).text)
        except InvalidNote as error:
            self._tampered("bad-checkpoint", 0, "checkpoint", str(error))
            return
        if newest not in found:
            self._tampered(
                "history-cut",
                0,
                "checkpoints",
                f"the checkpoint over {newest.size} lines is not in the history",
            )
            found.append(newest)
            found.sort(key=lambda c: c.size)

    def _check_signatures(self, notes: list[Note]) -> None:
        if not notes:
            self._tampered(
                "unsealed", 0, "checkpoints", "expected signed checkpoints, got none"
            )
            return
        hmac_keys = [key for key in self._keys if isinstance(key, HmacKey)]
        others = [key for key in self._keys if not isinstance(key, HmacKey)]
        if others and not hmac_keys:
            chosen = notes if self._full else notes[-1:]
            for note in chosen:
                self._check_note(note, others)
        for key in hmac_keys:
            self._check_ratchet(key, notes)

    def _check_note(self, note: Note, keys: Sequence[VerificationKey]) -> None:
        size = parse_checkpoint(note.text).size
        try:
            signatures = verify_note(note, keys)
        except UntrustedNote as error:
            self._tampered(
                "bad-signature", size, "checkpoints", f"checkpoint over {size}: {error}"
            )
        else:
            self._signed_by.update(s.name for s in signatures)

    def _check_ratchet(self, key: HmacKey, notes: list[Note]) -> None:
        """Each seal is of the next epoch: none is missing, none was made again."""
        epoch, current = 0, key.start
        for note in notes:
            size = parse_checkpoint(note.text).size
            mine = [
                s
                for s in note.signatures
                if (s.name, s.key_id) == (key.name, key.key_id)
            ]
            problem = ""
            if len(mine) != 1:
                problem = f"expected one seal by {key.name}, got {len(mine)}"
            elif epoch_of(mine[0].value) != epoch:
                problem = f"expected epoch {epoch}, got {epoch_of(mine[0].value)}"
            elif seal(current, epoch, note.text.encode()) != mine[0].value:
                problem = f"the seal of epoch {epoch} is false"
            if problem:
                self._tampered("bad-seal", size, "checkpoints", problem)
                return
            epoch, current = epoch + 1, next_key(current)
        self._signed_by.add(key.name)

    def _tampered(self, kind: str, seq: int, where: str, message: str) -> None:
        self._add(kind, seq, where, message, "tampered")

    def _add(
        self,
        kind: str,
        seq: int,
        where: str,
        message: str,
        severity: Literal["tampered", "damaged", "notice"],
    ) -> None:
        self._findings.append(
            Finding(kind=kind, seq=seq, where=where, message=message, severity=severity)
        )


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} comes twice")
    return found
