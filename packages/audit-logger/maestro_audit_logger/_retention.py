"""Remove and pack whole sealed segments; keep what proofs need."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maestro_audit_logger._files import Files
from maestro_audit_logger._query import moment_text
from maestro_audit_logger._segments import Segment, list_segments
from maestro_audit_logger._tiles import Tiles
from maestro_audit_logger.errors import AuditError, InvalidNote, LogDamaged

if TYPE_CHECKING:
    from maestro_audit_logger._keeping import Keeping

HOLDS = "holds.json"


def sealed_ranges(folder: Path) -> list[tuple[Segment, int, str]]:
    """Return each sealed segment with its last line number and newest time."""
    segments = list_segments(folder)
    found = []
    for segment, following in pairwise(segments):
        line = segment.read().removesuffix(b"\n").rpartition(b"\n")[2]
        try:
            seal: dict[str, Any] = json.loads(line)
            newest = max(str(seal["ts"]), str(seal["data"].get("max_ts", "")))
        except (ValueError, KeyError, TypeError, AttributeError):
            newest = "~"  # without a seal nothing is known: never old enough
        found.append((segment, following.first - 1, newest))
    return found


def prune(audit: Keeping, before: str | datetime) -> list[int]:
    """Remove sealed segments whose events are all older; return their first lines.

    Oldest first, up to the first segment that is younger or held. The leaf
    hashes stay in the tiles, so checkpoints, proofs and anchors keep their
    meaning. The removal is recorded before it is done.
    """
    limit = moment_text(before)
    held = [name_range[1:] for name_range in holds(audit.path)]
    doomed: list[tuple[Segment, int]] = []
    for segment, last, newest in sealed_ranges(audit.path):
        touched = any(a <= last and segment.first <= b for a, b in held)
        if newest >= limit or touched:
            break
        doomed.append((segment, last))
    if not doomed:
        return []
    first, last = doomed[0][0].first, doomed[-1][1]
    audit.checkpoint()
    _check_tiles(audit, doomed)
    _sync_tiles(audit.path)
    audit.record_system("audit.pruned", {"first": first, "last": last})
    for segment, _ in doomed:
        segment.path.unlink()
    return [segment.first for segment, _ in doomed]


def pack(audit: Keeping) -> list[Path]:
    """Compress sealed segments with gzip; return the new files.

    Hashes cover the plain bytes, so nothing else changes.
    """
    packed = []
    files = Files()
    for segment, _, _ in sealed_ranges(audit.path):
        if segment.packed:
            continue
        target = segment.path.with_name(segment.path.name + ".gz")
        files.replace(target, gzip.compress(segment.read(), 6, mtime=0))
        segment.path.unlink()
        packed.append(target)
    return packed


def hold(audit: Keeping, name: str, first: int, last: int) -> None:
    """Keep lines first to last whatever `prune` is told, until `release`."""
    if not name or not 1 <= first <= last:
        raise ValueError(
            f"expected a name and a range of lines, got {name!r} {first}-{last}"
        )
    audit.record_system("audit.held", {"name": name, "first": first, "last": last})
    kept = [entry for entry in holds(audit.path) if entry[0] != name]
    _write_holds(audit.path, [*kept, (name, first, last)])


def release(audit: Keeping, name: str) -> None:
    """End a hold.

    Raises:
        KeyError: there is none of that name.
    """
    present = holds(audit.path)
    kept = [entry for entry in present if entry[0] != name]
    if len(kept) == len(present):
        raise KeyError(f"no hold {name!r}")
    audit.record_system("audit.released", {"name": name})
    _write_holds(audit.path, kept)


def holds(folder: Path) -> list[tuple[str, int, int]]:
    """Return the holds as (name, first line, last line)."""
    try:
        raw = (folder / HOLDS).read_bytes()
    except FileNotFoundError:
        return []
    try:
        return [(str(n), int(a), int(b)) for n, a, b in json.loads(raw)]
    except (ValueError, TypeError) as error:
        raise LogDamaged(str(folder / HOLDS), "not a list of holds") from error


def _write_holds(folder: Path, entries: Iterable[tuple[str, int, int]]) -> None:
    Files().replace(folder / HOLDS, json.dumps(list(entries)).encode() + b"\n")


def _check_tiles(audit: Keeping, doomed: list[tuple[Segment, int]]) -> None:
    """Refuse to remove lines whose hashes are not safely in the tiles."""
    from maestro_audit_logger._checkpoints import latest_note
    from maestro_audit_logger._merkle import leaf_hashes
    from maestro_audit_logger._note import parse_checkpoint, parse_note

    note = latest_note(audit.path)
    if note is None:
        raise InvalidNote("no checkpoint covers what is to be removed")
    tiles = Tiles(audit.path, parse_checkpoint(parse_note(note).text).size)
    for segment, last in doomed:
        kept = tiles.leaves(segment.first - 1, last)
        if leaf_hashes(line for line, _ in segment.lines()) != kept:
            raise AuditError(
                f"{segment.path.name} is not what was sealed: run verify before prune"
            )


def _sync_tiles(folder: Path) -> None:
    files = Files()
    for path in (folder / "tile").rglob("*"):
        if path.is_dir():
            files.sync_folder(path)
            continue
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
