"""Make and check the proof that one record is in the log."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from maestro_audit_logger._checkpoints import latest_note
from maestro_audit_logger._merkle import (
    consistency_proof,
    inclusion_proof,
    verify_consistency,
)
from maestro_audit_logger._note import (
    Checkpoint,
    Proof,
    VerificationKey,
    parse_checkpoint,
    parse_key,
    parse_note,
    parse_proof,
    verify_note,
)
from maestro_audit_logger._segments import Identity, list_segments
from maestro_audit_logger._tiles import Tiles
from maestro_audit_logger.errors import InvalidProof

_MAKE_ONE = "run `maestro-audit checkpoint`, or call checkpoint()"


def prove(path: str | os.PathLike[str], seq: int) -> str:
    """Return the tlog-proof of record `seq` against the latest checkpoint.

    Raises:
        LogNotFound: there is no log.
        InvalidProof: no checkpoint covers that record.
    """
    folder = Path(path)
    note, size = _covered(folder)
    if not 1 <= seq <= size:
        raise InvalidProof(
            f"{path}: the newest checkpoint covers records 1 to {size}, got {seq}; for "
            f"a later record {_MAKE_ONE} first"
        )
    node = Tiles(folder, size).node
    return str(Proof(seq - 1, tuple(inclusion_proof(seq - 1, size, node)), note))


def _covered(folder: Path) -> tuple[str, int]:
    """Return the newest checkpoint's note, and how many lines it covers."""
    Identity.load(folder)
    note = latest_note(folder)
    if note is None:
        raise InvalidProof(f"{folder}: there is no checkpoint yet: {_MAKE_ONE}")
    return note, parse_checkpoint(parse_note(note).text).size


def check_proof(
    proof: str, line: bytes, *, keys: Sequence[str | VerificationKey] = ()
) -> Checkpoint:
    """Check that a stored line is in the log that the proof's checkpoint describes.

    Args:
        proof: a C2SP tlog-proof.
        line: the stored bytes, with or without the newline.
        keys: whose signature on the checkpoint counts.

    Raises:
        InvalidProof: it is not.
        UntrustedNote: the checkpoint is not by one of the keys.
    """
    parsed = [parse_key(key) if isinstance(key, str) else key for key in keys]
    return parse_proof(proof).check(line.removesuffix(b"\n"), parsed)


def prove_consistency(path: str | os.PathLike[str], old: int) -> list[bytes]:
    """Return the RFC 6962 proof that the log extends its first `old` lines.

    It leads to the latest checkpoint, and is checked by `check_consistency`.

    Raises:
        LogNotFound: there is no log.
        InvalidProof: the latest checkpoint covers fewer lines.
    """
    folder = Path(path)
    _, size = _covered(folder)
    if not 0 <= old <= size:
        raise InvalidProof(
            f"{path}: the newest checkpoint covers {size} lines, got {old}; for more "
            f"{_MAKE_ONE} first"
        )
    return consistency_proof(old, size, Tiles(folder, size).node)


def check_consistency(
    old: str, new: str, proof: Sequence[bytes], *, keys: Sequence[str | VerificationKey]
) -> None:
    """Check that the log of checkpoint `new` extends that of `old`; needs no log.

    Args:
        old: the note of the earlier checkpoint.
        new: the note of the later one.
        proof: what `prove_consistency` returned.
        keys: whose signature on both counts; an empty list shows integrity only.

    Raises:
        InvalidProof: it does not, or they are of different logs.
        UntrustedNote: a checkpoint is not by one of the keys.
    """
    parsed = [parse_key(key) if isinstance(key, str) else key for key in keys]
    notes = [parse_note(old), parse_note(new)]
    if parsed:
        for note in notes:
            verify_note(note, parsed)
    first, second = (parse_checkpoint(note.text) for note in notes)
    if first.origin != second.origin:
        raise InvalidProof(
            f"expected checkpoints of one log, got {first.origin!r} and {second.origin!r}"
        )
    verify_consistency(first.size, second.size, first.root, second.root, proof)


def stored_line(path: str | os.PathLike[str], seq: int) -> bytes:
    """Return the bytes of one line, without its newline.

    Raises:
        InvalidProof: it is not on disk.
    """
    holders = [s for s in list_segments(Path(path)) if s.first <= seq]
    if holders:
        lines = holders[-1].read().split(b"\n")
        at = seq - holders[-1].first
        if at < len(lines) and lines[at]:
            return lines[at]
    raise InvalidProof(f"line {seq} is not on this disk")
