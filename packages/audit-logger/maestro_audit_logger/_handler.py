"""Record what Python's logging brings."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, final

from maestro_audit_logger._event import Actor

if TYPE_CHECKING:
    from maestro_audit_logger._logger import AuditLogger

_NOT_IN_ACTION = re.compile(r"[^A-Za-z0-9_.:/-]")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


@final
class AuditHandler(logging.Handler):
    """Turn log records into audit events, stored before the logging call returns.

    The action is `log.` and the logger's name, or the record's own `action`
    from `extra=`. What cannot be stored is raised, not swallowed.
    """

    def __init__(self, audit: AuditLogger, *, actor: Actor | None = None) -> None:
        super().__init__()
        self._audit = audit
        self._actor = actor

    def emit(self, record: logging.LogRecord) -> None:
        """Store one log record as an event; our own warnings are left out."""
        if record.name.startswith("maestro_audit_logger"):
            return
        extra = {k: v for k, v in vars(record).items() if k not in _STANDARD}
        action = extra.pop("action", None) or f"log.{record.name}"
        data = {"level": record.levelname, "message": record.getMessage()}
        if record.exc_info and record.exc_info[0]:
            data["error"] = record.exc_info[0].__qualname__
        self._audit.record(
            _NOT_IN_ACTION.sub("_", str(action))[:128],
            actor=self._actor,
            outcome="failure" if record.levelno >= logging.ERROR else "success",
            data={**extra, **data},
        )
