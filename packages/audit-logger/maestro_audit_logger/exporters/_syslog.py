"""Syslog as RFC 5424, framed by octet counting (RFC 6587), sent over TLS (RFC 5425)."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterable
from typing import BinaryIO, Literal, final

from maestro_audit_logger._event import Event
from maestro_audit_logger.exporters import write_each
from maestro_audit_logger.exporters._json import client_address
from maestro_audit_logger.exporters._siem import CefExporter

LOG_AUDIT = 13  # the facility of RFC 5424 table 1
BOM = b"\xef\xbb\xbf"  # says that MSG is UTF-8 (RFC 5424 section 6.4)
_SEVERITY = {"success": 6, "failure": 4, "denied": 4}
_NOT_PRINTABLE = re.compile(r"[^!-~]")
_NOT_SD_NAME = re.compile(r'[^!-~]|[="\]]')


@final
class SyslogExporter:
    """RFC 5424 messages with structured data.

    Args:
        hostname: HOSTNAME, this machine's name when left out.
        app_name: APP-NAME.
        facility: 0 to 23.
        enterprise_id: the private enterprise number in the SD-ID; 32473 is
            the one for examples, use your own.
        payload: MSG is the stored JSON line, or the event as CEF.
        framing: `octet-counting` for TCP and TLS, `newline` for files.
    """

    def __init__(
        self,
        *,
        hostname: str | None = None,
        app_name: str = "maestro-audit",
        facility: int = LOG_AUDIT,
        enterprise_id: int = 32473,
        payload: Literal["json", "cef"] = "json",
        framing: Literal["octet-counting", "newline"] = "octet-counting",
    ) -> None:
        if not 0 <= facility <= 23:
            raise ValueError(f"facility: expected 0 to 23, got {facility}")
        if payload not in {"json", "cef"}:
            raise ValueError(f"payload: expected 'json' or 'cef', got {payload!r}")
        if framing not in {"octet-counting", "newline"}:
            raise ValueError(
                f"framing: expected 'octet-counting' or 'newline', got {framing!r}"
            )
        self._host = hostname or socket.gethostname()
        self._app = app_name
        self._facility = facility
        self._sd_id = f"audit@{enterprise_id}"
        self._cef = CefExporter() if payload == "cef" else None
        self._counted = framing == "octet-counting"

    def write(self, events: Iterable[Event], stream: BinaryIO) -> int:
        """Write one framed message per event."""
        return write_each(events, stream, self.frame)

    def frame(self, event: Event) -> bytes:
        """Return one message with its framing."""
        message = self.encode(event)
        if self._counted:
            return b"%d %s" % (len(message), message)
        return message + b"\n"

    def encode(self, event: Event) -> bytes:
        """Return one message without framing."""
        fields = {
            "seq": str(event.seq),
            "leaf": event.leaf_hash,
            "actorType": event.actor.type,
            "actor": event.actor.id,
            "outcome": event.outcome,
            "ip": client_address(event),
        }
        if event.resource:
            fields |= {
                "resourceType": event.resource.type,
                "resource": event.resource.id,
            }
        message = self._cef.encode(event) if self._cef else event.raw.decode("ascii")
        return syslog_message(
            facility=self._facility,
            severity=_SEVERITY.get(event.outcome, 5),
            timestamp=event.ts,
            hostname=self._host,
            app_name=self._app,
            procid=str(os.getpid()),
            msgid=event.action,
            data=[(self._sd_id, {k: v for k, v in fields.items() if v})],
            message=BOM + message.encode(),
        )


@final
class SyslogSender:
    """Send messages to a collector over TCP, by default with TLS.

    Args:
        host, port: the collector; 6514 is the port of RFC 5425.
        context: the TLS settings; the machine's trust store when left out.
        plain: no TLS, for a collector on this machine.
        timeout_s: for connecting and sending.
        exporter: how messages look.
    """

    def __init__(
        self,
        host: str,
        port: int = 6514,
        *,
        context: ssl.SSLContext | None = None,
        plain: bool = False,
        timeout_s: float = 10.0,
        exporter: SyslogExporter | None = None,
    ) -> None:
        self._exporter = exporter or SyslogExporter()
        raw = socket.create_connection((host, port), timeout=timeout_s)
        if plain:
            self._socket = raw
            return
        try:
            context = context or ssl.create_default_context()
            self._socket = context.wrap_socket(raw, server_hostname=host)
        except BaseException:
            raw.close()
            raise

    def send(self, events: Iterable[Event]) -> int:
        """Send the events; return how many. TCP tells nothing of their storage."""
        count = 0
        for event in events:
            self._socket.sendall(self._exporter.frame(event))
            count += 1
        return count

    def close(self) -> None:
        """Close the connection, once the collector has read to the end.

        Closing at once would reset it when something of the TLS handshake is
        still unread here, and a reset takes back what was sent.
        """
        try:
            if isinstance(self._socket, ssl.SSLSocket):
                self._socket.unwrap()
        except (OSError, ValueError):
            pass  # the collector has closed first
        finally:
            self._socket.close()

    def __enter__(self) -> SyslogSender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def syslog_message(
    *,
    facility: int,
    severity: int,
    timestamp: str,
    hostname: str,
    app_name: str,
    procid: str,
    msgid: str,
    data: Iterable[tuple[str, dict[str, str]]],
    message: bytes,
) -> bytes:
    """Return one message as RFC 5424 section 6 has it; no MSG when it is empty."""
    head = " ".join(
        [
            f"<{facility * 8 + severity}>1",
            timestamp,
            header_field(hostname, 255),
            header_field(app_name, 48),
            header_field(procid, 128),
            header_field(msgid, 32),
            "".join(structured_data(*element) for element in data) or "-",
        ]
    ).encode()
    return head + b" " + message if message else head


def structured_data(name: str, fields: dict[str, str]) -> str:
    """Return one SD-ELEMENT; `-` (NILVALUE) when there are no fields."""
    if not fields:
        return "-"
    params = "".join(
        f' {_NOT_SD_NAME.sub("_", key)[:32]}="{_sd_value(value)}"'
        for key, value in fields.items()
    )
    return f"[{name}{params}]"


def header_field(text: str, limit: int) -> str:
    """Return a header field: printable ASCII, bounded, NILVALUE when empty."""
    return _NOT_PRINTABLE.sub("_", text)[:limit] or "-"


def _sd_value(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("]", "\\]")
    return escaped.encode("utf-8", "backslashreplace").decode()
