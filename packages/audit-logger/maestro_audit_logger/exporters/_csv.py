"""CSV that a spreadsheet opens without running anything."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import BinaryIO, final

from maestro_audit_logger._event import Event

COLUMNS = (
    "seq", "ts", "actor_type", "actor_id", "action", "resource_type", "resource_id",
    "outcome", "ctx", "data", "leaf_hash",
)  # fmt: skip
# What starts a formula in one spreadsheet or another, full-width forms included.
_FORMULA = tuple("=+-@|%\t\r\n＝＋－＠")  # noqa: RUF001 - those are the point


@final
class CsvExporter:
    """Fixed columns, everything quoted; `ctx` and `data` are JSON.

    Args:
        safe: put an apostrophe before what a spreadsheet would run as a
            formula (OWASP, CSV injection).
        delimiter: one character.
    """

    def __init__(self, *, safe: bool = True, delimiter: str = ",") -> None:
        self._safe = safe
        self._delimiter = delimiter

    def write(self, events: Iterable[Event], stream: BinaryIO) -> int:
        """Write a header and one row per event."""
        text = io.TextIOWrapper(
            stream, encoding="utf-8", newline="", errors="backslashreplace"
        )
        try:
            writer = csv.writer(
                text,
                quoting=csv.QUOTE_ALL,
                delimiter=self._delimiter,
                lineterminator="\r\n",
            )
            writer.writerow(COLUMNS)
            count = 0
            for event in events:
                row = _row(event)
                writer.writerow(map(inert, row) if self._safe else row)
                count += 1
        finally:
            text.detach()
        return count


def inert(value: str) -> str:
    """Return the text so that no spreadsheet takes it for a formula."""
    if value.lstrip(" \u00a0\ufeff").startswith(_FORMULA) or value.startswith(_FORMULA):
        return f"'{value}"
    return value


def _row(event: Event) -> list[str]:
    resource = event.resource
    return [
        str(event.seq),
        event.ts,
        event.actor.type,
        event.actor.id,
        event.action,
        resource.type if resource else "",
        resource.id if resource else "",
        event.outcome,
        json.dumps(event.ctx, sort_keys=True) if event.ctx else "",
        json.dumps(event.data, sort_keys=True) if event.data else "",
        event.leaf_hash,
    ]
