"""Check a log from its bytes: chain, tree, checkpoints, signatures, anchor.

Nothing here trusts the writer's code or its memory; it needs read permission
only, and may run while others write.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from maestro_audit_logger._checkpoints import history, latest_note
from maestro_audit_logger._files import quiet
from maestro_audit_logger._findings import Finding, Findings, Status, VerifyReport
from maestro_audit_logger._lines import LineCheck, Target
from maestro_audit_logger._note import (
    Checkpoint,
    VerificationKey,
    parse_checkpoint,
    parse_key,
    parse_note,
    verify_note,
)
from maestro_audit_logger._seals import SealCheck
from maestro_audit_logger._segments import Identity, list_segments
from maestro_audit_logger.errors import LogNotFound

__all__ = ["Finding", "VerifyReport", "verify_log"]


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
    wanted = _anchor(anchor, parsed)
    findings = Findings()
    with quiet(folder):
        segments = list_segments(folder)
        sizes = [s.path.stat().st_size for s in segments]
        notes = list(history(folder))
        latest = latest_note(folder)
        try:
            identity = Identity.load(folder)
        except LogNotFound:
            if not segments:
                raise
            findings.tampered("identity-missing", 0, "log.json", "log.json is missing")
            return _report(folder, findings)
    seals = SealCheck(findings, parsed, full=full)
    checkpoints = seals.read(notes, latest, identity.origin)
    lines = LineCheck(
        folder,
        findings,
        prev=identity.chain_start,
        targets=_targets(checkpoints, wanted, identity.origin, findings),
        newest=checkpoints[-1].size if checkpoints else 0,
        full=full,
    )
    if segments:
        lines.run(segments, sizes)
    else:
        findings.tampered(
            "segments-missing", 0, str(folder), "there is not one segment"
        )
    root = lines.end()
    return _report(
        folder,
        findings,
        records=lines.records,
        first_seq=lines.first,
        head_seq=lines.number,
        root=root,
        checkpoints=lines.compared,
        signed_by=tuple(sorted(seals.signed_by)),
        anchored=wanted is not None and not findings.any_tampered,
        uncovered=max(0, lines.number - (checkpoints[-1].size if checkpoints else 0)),
    )


def _report(
    folder: Path,
    findings: Findings,
    *,
    records: int = 0,
    first_seq: int = 1,
    head_seq: int = 0,
    root: str = "",
    checkpoints: int = 0,
    signed_by: tuple[str, ...] = (),
    anchored: bool = False,
    uncovered: int = 0,
) -> VerifyReport:
    found = findings.worst_first()
    worst = found[0].severity if found else "notice"
    status: Status = "ok" if worst == "notice" else worst
    return VerifyReport(
        path=str(folder),
        status=status,
        records=records,
        first_seq=first_seq,
        head_seq=head_seq,
        root=root,
        checkpoints=checkpoints,
        signed_by=signed_by,
        anchored=anchored,
        uncovered=uncovered,
        findings=found,
    )


def _targets(
    checkpoints: Sequence[Checkpoint],
    anchor: Checkpoint | None,
    origin: str,
    findings: Findings,
) -> list[Target]:
    found: list[Target] = [
        (c.size, c.root, "checkpoint") for c in checkpoints if c.size
    ]
    if anchor is not None:
        if anchor.origin != origin:
            findings.tampered(
                "other-log",
                0,
                "anchor",
                f"the anchor is of {anchor.origin!r}, the log of {origin!r}",
            )
        if anchor.size:
            found.append((anchor.size, anchor.root, "anchor"))
    return found


def _anchor(
    anchor: str | Checkpoint | None, keys: Sequence[VerificationKey]
) -> Checkpoint | None:
    if anchor is None or isinstance(anchor, Checkpoint):
        return anchor
    note = parse_note(anchor)
    if keys and note.signatures:
        verify_note(note, keys)
    return parse_checkpoint(note.text)
