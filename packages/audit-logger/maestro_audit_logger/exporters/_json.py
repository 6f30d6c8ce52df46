"""Formats of one JSON object per line: stored, CloudEvents, Elastic Common Schema."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO, final

from maestro_audit_logger._event import Event
from maestro_audit_logger.exporters import write_each


def json_line() -> Callable[[Any], bytes]:
    """Return an encoder of one line: orjson's with the extra `fast`, else json's."""
    try:
        import orjson
    except ImportError:
        return lambda value: json.dumps(value, separators=(",", ":")).encode() + b"\n"
    return lambda value: bytes(orjson.dumps(value)) + b"\n"


@final
class JsonlExporter:
    """The stored lines, byte for byte: hashes and proofs stay checkable."""

    def write(self, events: Iterable[Event], stream: BinaryIO) -> int:
        """Write the stored lines."""
        return write_each(events, stream, lambda event: event.raw + b"\n")


@final
class CloudEventsExporter:
    """CloudEvents 1.0, structured mode.

    Args:
        source: the URI of the log.
        type_prefix: reverse-DNS prefix of the event types.
    """

    def __init__(
        self, *, source: str = "urn:maestro:audit", type_prefix: str = ""
    ) -> None:
        self._source = source
        self._prefix = f"{type_prefix}." if type_prefix else ""

    def write(self, events: Iterable[Event], stream: BinaryIO) -> int:
        """Write one CloudEvent per line."""
        dump = json_line()
        return write_each(events, stream, lambda event: dump(self.encode(event)))

    def encode(self, event: Event) -> dict[str, Any]:
        """Return one event as a CloudEvent."""
        made: dict[str, Any] = {
            "specversion": "1.0",
            "id": f"{event.seq}-{event.leaf_hash[:16]}",
            "source": self._source,
            "type": f"{self._prefix}{event.action}",
            "time": event.ts,
            "datacontenttype": "application/json",
            "data": event.as_dict(),
        }
        if event.resource:
            made["subject"] = f"{event.resource.type}/{event.resource.id}"
        return made


@final
class EcsExporter:
    """Elastic Common Schema.

    Args:
        version: the `ecs.version` to state.
        dataset: the `event.dataset` to state.
    """

    def __init__(
        self, *, version: str = "8.17.0", dataset: str = "maestro.audit"
    ) -> None:
        self._version = version
        self._dataset = dataset

    def write(self, events: Iterable[Event], stream: BinaryIO) -> int:
        """Write one document per line."""
        dump = json_line()
        return write_each(events, stream, lambda event: dump(self.encode(event)))

    def encode(self, event: Event) -> dict[str, Any]:
        """Return one event as an ECS document."""
        outcome = "failure" if event.outcome == "denied" else event.outcome
        kind = {"denied": ["denied"], "success": ["allowed"]}.get(
            event.outcome, ["info"]
        )
        made: dict[str, Any] = {
            "@timestamp": event.ts,
            "ecs": {"version": self._version},
            "event": {
                "kind": "event",
                "category": ["configuration"],
                "type": kind,
                "action": event.action,
                "outcome": outcome,
                "id": event.leaf_hash,
                "sequence": event.seq,
                "dataset": self._dataset,
                "original": event.raw.decode("ascii"),
            },
            "user": {"id": event.actor.id},
            "labels": {"actor_type": event.actor.type},
        }
        if event.resource:
            made["labels"] |= {
                "resource_type": event.resource.type,
                "resource_id": event.resource.id,
            }
        address = client_address(event)
        if address:
            made["source"] = {"ip": address}
        if "trace_id" in event.ctx:
            made["trace"] = {"id": str(event.ctx["trace_id"])}
        if "request_id" in event.ctx:
            made["http"] = {"request": {"id": str(event.ctx["request_id"])}}
        return made


def client_address(event: Event) -> str:
    """Return the address that the event names, or an empty string."""
    return str(event.ctx.get("ip") or event.actor.attributes.get("ip") or "")
