"""Keep a log: checkpoints, proofs, retention, erasure."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maestro_audit_logger._checkpoints import Checkpointer
from maestro_audit_logger._commit import Committer, Stored
from maestro_audit_logger._compose import SYSTEM_ACTOR, Composer
from maestro_audit_logger._reading import Reading
from maestro_audit_logger._store import Store
from maestro_audit_logger.errors import AuditUnavailable, cause

if TYPE_CHECKING:
    from datetime import datetime

_log = logging.getLogger(__name__)


class Keeping(Reading):
    """The part of `AuditLogger` that works on what is stored already."""

    _composer: Composer
    _store: Store
    _committer: Committer
    _checkpointer: Checkpointer
    _clock_ns: Callable[[], int]
    _checkpoint_every: int
    _checkpoint_interval_ns: int
    _checkpoint_seq: int
    _checkpoint_time: int

    def record_system(self, action: str, data: dict[str, Any]) -> Stored:
        """Store a record of the log about itself; the acting person goes along."""
        bound = self._composer.bound()
        return self._committer.commit(
            self._composer.system_body(action, data, bound.actor_json or SYSTEM_ACTOR)
        )

    def sync(self) -> None:
        """Return once everything acknowledged is on the device."""
        try:
            self._committer.sync()
        except OSError as error:
            raise AuditUnavailable(
                str(self.path), cause(error), uncertain=True
            ) from error

    def prove(self, seq: int) -> str:
        """Return the C2SP tlog-proof that record `seq` is in the log.

        A checkpoint is made first when the latest does not cover it.
        """
        from maestro_audit_logger._prove import prove

        self.checkpoint()
        return prove(self.path, seq)

    def checkpoint(self) -> str:
        """Sign and publish the present state; return the note, to be kept elsewhere."""
        with self._committer.exclusively():
            return self._checkpoint()

    def seal(self) -> str:
        """Close the current segment, then make a checkpoint; return its note."""
        with self._committer.exclusively():
            try:
                self._store.seal()
            except OSError as error:
                raise AuditUnavailable(str(self.path), cause(error)) from error
            return self._checkpoint()

    def prune(self, before: str | datetime) -> list[int]:
        """Remove sealed segments that are older than a time; see `query` for times.

        The hashes stay, so checkpoints and anchors keep their meaning. Returns
        the first line of each removed segment.
        """
        from maestro_audit_logger._retention import prune

        return prune(self, before)

    def pack(self) -> list[Path]:
        """Compress sealed segments; return the new files."""
        from maestro_audit_logger._retention import pack

        return pack(self)

    def hold(self, name: str, first: int, last: int) -> None:
        """Keep lines first to last from `prune`, as a legal hold asks."""
        from maestro_audit_logger._retention import hold

        hold(self, name, first, last)

    def release(self, name: str) -> None:
        """End a hold; KeyError when there is none of that name."""
        from maestro_audit_logger._retention import release

        release(self, name)

    def evidence(
        self,
        to: str | os.PathLike[str],
        *,
        keys: Sequence[str] = (),
        **criteria: Any,
    ) -> int:
        """Write a zip of events, proofs and a verifier for an auditor.

        Args:
            to: the file.
            keys: the public keys to state in it.
            criteria: as in `query`.
        """
        from maestro_audit_logger._evidence import write_bundle

        self.checkpoint()
        return write_bundle(to, self.path, self.query(**criteria), keys=keys)

    def erase(self, subject: str) -> int:
        """Remove the private values of a subject from the disk; return how many.

        The chain stays as it is, and a record says that this was done.
        """
        from maestro_audit_logger._private import PrivateValues

        gone = PrivateValues(self.path).erase(subject)
        self.record_system("audit.erased", {"subject": subject, "count": gone})
        return gone

    def _checkpoint_if_due(self, seq: int) -> None:
        """Run by the leader after a batch, when its followers are on their way."""
        if (
            seq - self._checkpoint_seq >= self._checkpoint_every
            or self._clock_ns() - self._checkpoint_time >= self._checkpoint_interval_ns
        ):
            self._try_checkpoint()

    def _try_checkpoint(self) -> None:
        try:
            self._checkpoint()
        except Exception as error:  # the records are stored; the next one covers them
            self._checkpoint_seq = self._store.seq
            self._checkpoint_time = self._clock_ns()
            _log.error("no checkpoint of %s: %s", self.path, error)

    def _checkpoint(self) -> str:
        try:
            note = self._checkpointer.run()
        except OSError as error:
            raise AuditUnavailable(
                str(self.path), f"no checkpoint: {cause(error)}"
            ) from error
        self._checkpoint_seq = self._store.seq
        self._checkpoint_time = self._clock_ns()
        return note
