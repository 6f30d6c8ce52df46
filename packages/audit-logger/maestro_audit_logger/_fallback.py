"""What happens to an event that cannot be stored: raise, spill or drop."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from pathlib import Path
from typing import Any, Literal, final

from maestro_audit_logger._event import Receipt
from maestro_audit_logger.errors import AuditUnavailable, InvalidSetting

OnFailure = Literal["raise", "spill", "drop"]
POLICIES: tuple[OnFailure, ...] = ("raise", "spill", "drop")
_log = logging.getLogger(__name__)


@final
class Fallback:
    """Apply the failure policy and remember what the log has to be told.

    Args:
        policy: `raise` refuses; `spill` writes to a second place and raises
            only if that fails too; `drop` counts.
        spill_folder: where spilled events go, best on another device.
    """

    def __init__(self, policy: OnFailure, spill_folder: Path | None) -> None:
        if policy not in POLICIES:
            raise InvalidSetting(
                "on_failure", f"one of {', '.join(map(repr, POLICIES))}", policy
            )
        if policy == "spill" and spill_folder is None:
            raise InvalidSetting(
                "spill_to", "a folder, as on_failure='spill' needs one", None
            )
        self._policy = policy
        self._folder = spill_folder
        self._lock = threading.Lock()  # guards the counts below
        self.gap: dict[str, Any] = {}  # what the log has yet to be told
        self._digest = hashlib.sha256()
        self.lost = 0
        self.spilled = 0

    def after_fork(self) -> None:
        """Leave the parent's gap to the parent."""
        self._lock = threading.Lock()
        self.gap = {}

    def handle(
        self, error: AuditUnavailable, body: bytes, ts: str, policy: OnFailure | None
    ) -> Receipt:
        """Apply the policy to one event, or raise the error."""
        chosen = policy or self._policy
        if chosen == "raise" or (chosen == "spill" and self._folder is None):
            raise error
        if chosen == "spill":
            self._spill(error, body)
        with self._lock:
            self._count(chosen, body, ts)
        fate: Literal["spilled", "dropped"] = (
            "spilled" if chosen == "spill" else "dropped"
        )
        _log.warning("audit event %s: %s", fate, error)
        leaf = hashlib.sha256(body).hexdigest()
        return Receipt(seq=0, ts=ts, leaf_hash=leaf, fate=fate)

    def take_gap(self) -> dict[str, Any]:
        """Return what to write about the gap, and forget it."""
        with self._lock:
            gap, self.gap = self.gap, {}
            if gap.get("spilled"):
                gap["spill_sha256"] = self._digest.hexdigest()
            self._digest = hashlib.sha256()
            return gap

    def give_back(self, gap: dict[str, Any]) -> None:
        """Remember a gap that could not be written after all."""
        with self._lock:
            newer, self.gap = self.gap, gap
            if newer:
                gap["lost"] += newer["lost"]
                gap["spilled"] += newer["spilled"]
                gap["last_ts"] = newer["last_ts"]

    def _count(self, chosen: OnFailure, body: bytes, ts: str) -> None:
        gap = self.gap or {"lost": 0, "spilled": 0, "first_ts": ts}
        gap["last_ts"] = ts
        if chosen == "spill":
            gap["spilled"] += 1
            self.spilled += 1
            self._digest.update(body + b"\n")
        else:
            gap["lost"] += 1
            self.lost += 1
        self.gap = gap

    def _spill(self, error: AuditUnavailable, body: bytes) -> None:
        assert self._folder is not None  # handle() checked it
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self._folder / f"spill-{os.getpid()}.jsonl"
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            fd = os.open(path, flags, 0o640)
            try:
                line = b"{" + body + b"\n"
                if os.write(fd, line) != len(line):
                    raise error
                os.fsync(fd)
            finally:
                os.close(fd)
        except OSError as second:
            raise AuditUnavailable(
                error.path, f"{error.reason}; and the spill failed: {second}"
            ) from second
