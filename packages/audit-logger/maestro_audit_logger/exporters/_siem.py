"""ArcSight CEF and QRadar LEEF, one line per event."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import BinaryIO, final

from maestro_audit_logger._event import Event
from maestro_audit_logger.exporters import write_each
from maestro_audit_logger.exporters._json import client_address

_SEVERITY = {"success": 3, "failure": 5, "denied": 7}


@final
class CefExporter:
    """Common Event Format, version 0.

    Args:
        vendor, product, version: the header's device fields.
    """

    def __init__(
        self,
        *,
        vendor: str = "Maestro",
        product: str = "audit-logger",
        version: str = "1.0",
    ) -> None:
        self._device = "|".join(cef_header(part) for part in (vendor, product, version))

    def write(self, events: Iterable[Event], stream: BinaryIO) -> int:
        """Write one CEF line per event."""
        return write_each(events, stream, lambda e: self.encode(e).encode() + b"\n")

    def encode(self, event: Event) -> str:
        """Return one event as CEF."""
        fields = {
            "rt": str(int(event.time.timestamp() * 1000)),
            "act": event.action,
            "outcome": event.outcome,
            "suid": event.actor.id,
            "src": client_address(event),
            "externalId": str(event.seq),
        }
        customs = [("actorType", event.actor.type)]
        if event.resource:
            customs += [
                ("resourceType", event.resource.type),
                ("resourceId", event.resource.id),
            ]
        if event.data:
            customs.append(("data", json.dumps(event.data)))
        for number, (label, value) in enumerate(customs, 1):
            fields |= {f"cs{number}Label": label, f"cs{number}": value}
        extension = " ".join(
            f"{key}={cef_extension(value)}" for key, value in fields.items() if value
        )
        name = cef_header(event.action)
        severity = _SEVERITY.get(event.outcome, 3)
        return f"CEF:0|{self._device}|{name}|{name}|{severity}|{extension}"


@final
class LeefExporter:
    """Log Event Extended Format 2.0, with tabs between the attributes."""

    def __init__(
        self,
        *,
        vendor: str = "Maestro",
        product: str = "audit-logger",
        version: str = "1.0",
    ) -> None:
        parts = (vendor, product, version)
        self._device = "|".join(_leef(part).replace("|", "_") for part in parts)

    def write(self, events: Iterable[Event], stream: BinaryIO) -> int:
        """Write one LEEF line per event."""
        return write_each(events, stream, lambda e: self.encode(e).encode() + b"\n")

    def encode(self, event: Event) -> str:
        """Return one event as LEEF."""
        fields = {
            "devTime": str(int(event.time.timestamp() * 1000)),
            "usrName": event.actor.id,
            "src": client_address(event),
            "sev": str(_SEVERITY.get(event.outcome, 3)),
            "cat": event.action.partition(".")[0],
            "outcome": event.outcome,
            "seq": str(event.seq),
        }
        if event.resource:
            fields |= {
                "resourceType": event.resource.type,
                "resource": event.resource.id,
            }
        if event.data:
            fields["data"] = json.dumps(event.data)
        body = "\t".join(f"{k}={_leef(v)}" for k, v in fields.items() if v)
        return f"LEEF:2.0|{self._device}|{_leef(event.action)}|x09|{body}"


def cef_header(text: str) -> str:
    r"""Escape `\` and `|`; a header has no line breaks."""
    escaped = text.replace("\\", "\\\\").replace("|", "\\|")
    return escaped.replace("\r", " ").replace("\n", " ")


def cef_extension(text: str) -> str:
    r"""Escape `\`, `=` and line breaks."""
    escaped = text.replace("\\", "\\\\").replace("=", "\\=")
    return escaped.replace("\r", "\\r").replace("\n", "\\n")


def _leef(text: str) -> str:
    return text.replace("\t", " ").replace("\r", " ").replace("\n", " ")
