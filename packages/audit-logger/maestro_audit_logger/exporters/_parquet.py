"""Apache Parquet; needs the extra `parquet`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, BinaryIO, final

from maestro_audit_logger._event import Event

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError as error:  # pragma: no cover - the extra is installed in tests
    raise ImportError(
        'the parquet exporter needs pyarrow: pip install "maestro-audit-logger[parquet]"'
    ) from error

_SCHEMA = pa.schema(
    [
        ("seq", pa.int64()),
        ("ts", pa.timestamp("us", tz="UTC")),
        ("actor_type", pa.string()),
        ("actor_id", pa.string()),
        ("action", pa.string()),
        ("resource_type", pa.string()),
        ("resource_id", pa.string()),
        ("outcome", pa.string()),
        ("ctx", pa.string()),
        ("data", pa.string()),
        ("leaf_hash", pa.string()),
    ]
)
_ROW_GROUP = 50_000


@final
class ParquetExporter:
    """One row per event; `ctx` and `data` are JSON text."""

    def write(self, events: Iterable[Event], stream: BinaryIO) -> int:
        """Write a Parquet file, a row group at a time."""
        count = 0
        with pq.ParquetWriter(stream, _SCHEMA) as writer:
            for group in _groups(iter(events)):
                rows = [_row(event) for event in group]
                writer.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA))
                count += len(rows)
        return count


def _groups(events: Iterator[Event]) -> Iterator[list[Event]]:
    while group := list(islice(events, _ROW_GROUP)):
        yield group


def _row(event: Event) -> dict[str, Any]:
    resource = event.resource
    return {
        "seq": event.seq,
        "ts": event.time,
        "actor_type": event.actor.type,
        "actor_id": event.actor.id,
        "action": event.action,
        "resource_type": resource.type if resource else None,
        "resource_id": resource.id if resource else None,
        "outcome": event.outcome,
        "ctx": json.dumps(event.ctx),
        "data": json.dumps(event.data),
        "leaf_hash": event.leaf_hash,
    }
