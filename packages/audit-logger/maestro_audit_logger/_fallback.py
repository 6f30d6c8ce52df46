"""What happens to an event that cannot be stored: raise, spill or drop."""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import threading
from pathlib import Path
from typing import Any, Literal, final

from maestro_audit_logger._event import Receipt
from maestro_audit_logger._files import Files
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
        # Guards all below; a signal handler may come in while its thread spills.
        self._lock = threading.RLock()
        self.gap: dict[str, Any] = {}  # what the log has yet to be told
        self._path: Path | None = None  # nobody else writes into this file
        self._digest = hashlib.sha256()  # of all of it
        self.lost = 0
        self.spilled = 0

    def after_fork(self) -> None:
        """Leave the parent's gap and file to the parent."""
        self._lock = threading.RLock()
        self.gap = {}
        self._path = None

    def handle(
        self, error: AuditUnavailable, body: bytes, ts: str, policy: OnFailure | None
    ) -> Receipt:
        """Apply the policy to one event, or raise the error."""
        chosen = policy or self._policy
        if chosen == "raise" or (chosen == "spill" and self._folder is None):
            raise error
        with self._lock:
            if chosen == "spill":
                self._spill(error, b"{" + body + b"\n")
            self._count(chosen, ts)
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
            return gap

    def give_back(self, gap: dict[str, Any]) -> None:
        """Remember a gap that could not be written after all."""
        with self._lock:
            newer, self.gap = self.gap, gap
            if newer:
                gap["lost"] += newer["lost"]
                gap["spilled"] += newer["spilled"]
                gap["last_ts"] = newer["last_ts"]
                if files := gap.get("spill_files", {}) | newer.get("spill_files", {}):
                    gap["spill_files"] = files

    def _count(self, chosen: OnFailure, ts: str) -> None:
        gap = self.gap or {"lost": 0, "spilled": 0, "first_ts": ts}
        gap["last_ts"] = ts
        if chosen == "spill":
            assert self._path is not None  # _spill has made it
            gap["spilled"] += 1
            files = gap.setdefault("spill_files", {})  # and their digests so far
            files[self._path.name] = self._digest.hexdigest()
            self.spilled += 1
        else:
            gap["lost"] += 1
            self.lost += 1
        self.gap = gap

    def _spill(self, error: AuditUnavailable, line: bytes) -> None:
        """Append a line, durably and whole; a file that may be torn is given up."""
        assert self._folder is not None  # handle() checked it
        path, digest = self._path, self._digest
        self._path = None
        try:
            fresh = path is None
            if path is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                name = f"spill-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
                path, digest = self._folder / name, hashlib.sha256()
            files = Files()
            fd = files.open_append(path)
            try:
                files.write_all(fd, line)
                files.sync(fd)
            finally:
                os.close(fd)
            if fresh:
                files.sync_folder(self._folder)
        except OSError as second:
            raise AuditUnavailable(
                error.path, f"{error.reason}; and the spill failed: {second}"
            ) from second
        digest.update(line)
        self._path, self._digest = path, digest
