"""Check the checkpoints of a log: their form, order and signatures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from maestro_audit_logger._findings import Findings
from maestro_audit_logger._note import (
    Checkpoint,
    HmacKey,
    Note,
    VerificationKey,
    epoch_of,
    next_key,
    parse_checkpoint,
    parse_note,
    seal,
    verify_note,
)
from maestro_audit_logger.errors import InvalidNote, UntrustedNote


@final
class SealCheck:
    """Read a log's notes with the verifier's keys.

    Args:
        findings: where to say what is wrong.
        keys: whose signatures count.
        full: check the signatures of all checkpoints, not of the newest only.
    """

    def __init__(
        self, findings: Findings, keys: Sequence[VerificationKey], *, full: bool
    ) -> None:
        self._findings = findings
        self._keys = keys
        self._full = full
        self.signed_by: set[str] = set()

    def read(
        self,
        notes: list[tuple[int, str | None]],
        latest: str | None,
        origin: str,
    ) -> list[Checkpoint]:
        """Return the checkpoints in order; signatures are checked with the keys."""
        found: list[Checkpoint] = []
        parsed: list[Note] = []
        for number, text in notes:
            where = f"checkpoints:{number}"
            if text is None:
                self._findings.add(
                    "torn-checkpoint", 0, where, "an unreadable line", "damaged"
                )
                continue
            try:
                note = parse_note(text)
                checkpoint = parse_checkpoint(note.text)
            except InvalidNote as error:
                self._findings.tampered("bad-checkpoint", 0, where, str(error))
                continue
            if checkpoint.origin != origin:
                message = f"a checkpoint of {checkpoint.origin!r}"
                self._findings.tampered("other-log", 0, where, message)
            elif found and checkpoint.size < found[-1].size:
                self._findings.tampered(
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
            self._findings.tampered("bad-checkpoint", 0, "checkpoint", str(error))
            return
        if newest not in found:
            self._findings.tampered(
                "history-cut",
                0,
                "checkpoints",
                f"the checkpoint over {newest.size} lines is not in the history",
            )
            found.append(newest)
            found.sort(key=lambda c: c.size)

    def _check_signatures(self, notes: list[Note]) -> None:
        if not notes:
            self._findings.tampered(
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
            self._findings.tampered(
                "bad-signature", size, "checkpoints", f"checkpoint over {size}: {error}"
            )
        else:
            self.signed_by.update(s.name for s in signatures)

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
                self._findings.tampered("bad-seal", size, "checkpoints", problem)
                return
            epoch, current = epoch + 1, next_key(current)
        self.signed_by.add(key.name)
