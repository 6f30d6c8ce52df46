"""Read a log that is open for writing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maestro_audit_logger._event import Event
    from maestro_audit_logger._findings import VerifyReport
    from maestro_audit_logger._note import VerificationKey
    from maestro_audit_logger._query import Query
    from maestro_audit_logger.exporters import Exporter


class Reading:
    """The part of `AuditLogger` that needs the folder only."""

    path: Path

    def query(self, **criteria: Any) -> Iterator[Event]:
        """Yield matching events; see `maestro_audit_logger.Query` for the criteria."""
        from maestro_audit_logger._query import Query, run_query

        query: Query = Query.from_criteria(criteria)
        return run_query(self.path, query)

    def reveal(self, event: Event) -> dict[str, Any]:
        """Return the event's data with private values filled in.

        An erased one stays as its commitment.
        """
        from maestro_audit_logger._reveal import revealed

        return revealed(self.path, event)

    def verify(
        self,
        *,
        anchor: str | None = None,
        keys: Sequence[str | VerificationKey] = (),
        full: bool = False,
    ) -> VerifyReport:
        """Check the log; see `maestro_audit_logger.verify_log`."""
        from maestro_audit_logger._verify import verify_log

        return verify_log(self.path, anchor=anchor, keys=keys, full=full)

    def export(
        self,
        format: str | Exporter,
        *,
        to: str | os.PathLike[str],
        options: Mapping[str, Any] | None = None,
        **criteria: Any,
    ) -> int:
        """Write matching events to a file in a format; return how many.

        Args:
            format: one of `maestro_audit_logger.exporters.names()`, or an
                exporter of your own.
            to: the file, replaced when complete.
            options: of the exporter, such as `{"version": "1.8.0"}` for ocsf.
            criteria: as in `query`.
        """
        from maestro_audit_logger.exporters import export_to

        return export_to(to, format, self.query(**criteria), options or {})
