"""OpenTelemetry logs: hand events to a logger provider; needs the extra `otel`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, BinaryIO, final

from maestro_audit_logger._event import Event

try:
    from opentelemetry._logs import LogRecord, SeverityNumber, get_logger
except ImportError as error:  # pragma: no cover - the extra is installed in tests
    raise ImportError(
        'the otel exporter needs opentelemetry: pip install "maestro-audit-logger[otel]"'
    ) from error

_SEVERITY = {
    "success": SeverityNumber.INFO,
    "failure": SeverityNumber.WARN,
    "denied": SeverityNumber.WARN,
}


@final
class OtelExporter:
    """Emit each event through the OpenTelemetry logs API.

    OpenTelemetry may sample and drop: it is a place to look at events, never
    the place where they are kept. The stream gets nothing.

    Args:
        provider: the logger provider; the global one when left out.
    """

    def __init__(self, *, provider: Any = None) -> None:
        self._logger = get_logger("maestro_audit_logger", logger_provider=provider)

    def write(self, events: Iterable[Event], stream: BinaryIO) -> int:
        """Emit the events; return how many."""
        count = 0
        for event in events:
            self._logger.emit(_record(event))
            count += 1
        return count


def _record(event: Event) -> LogRecord:
    attributes: dict[str, Any] = {
        "enduser.id": event.actor.id,
        "audit.actor.type": event.actor.type,
        "audit.outcome": event.outcome,
        "audit.seq": event.seq,
        "audit.leaf_hash": event.leaf_hash,
    }
    if event.resource:
        attributes |= {
            "audit.resource.type": event.resource.type,
            "audit.resource.id": event.resource.id,
        }
    return LogRecord(
        timestamp=int(event.time.timestamp()) * 10**9 + event.time.microsecond * 1000,
        severity_number=_SEVERITY.get(event.outcome, SeverityNumber.INFO),
        severity_text=event.outcome,
        body=event.raw.decode("ascii"),
        attributes=attributes,
        event_name=event.action,
    )
