"""Fill private values back into an event's data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maestro_audit_logger._event import Event
from maestro_audit_logger._private import PrivateValues


def revealed(folder: Path, event: Event) -> dict[str, Any]:
    """Return the data with every commitment that still has its value replaced."""
    values = PrivateValues(folder)
    return {key: _reveal(item, values) for key, item in event.data.items()}


def _reveal(value: Any, values: PrivateValues) -> Any:
    if isinstance(value, dict):
        commitment = value.get("$private")
        if len(value) == 1 and isinstance(commitment, str):
            try:
                return values.get(commitment)
            except KeyError:
                return value
        return {key: _reveal(item, values) for key, item in value.items()}
    if isinstance(value, list):
        return [_reveal(item, values) for item in value]
    return value
