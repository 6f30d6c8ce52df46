"""A run as a trace for chrome://tracing and Perfetto, and as JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ._status import as_placed, real_critical_path
from .errors import JournalError

if TYPE_CHECKING:
    from ._journal import Journal
    from ._status import RunStatus

EXPORT_VERSION = 1


def chrome_trace(status: RunStatus) -> dict[str, Any]:
    """Return a run in the Trace Event Format: one lane for each worker in use.

    Source: "Trace Event Format", the Chromium project; Perfetto reads it too.
    """
    begin = status.begin
    path = set(real_critical_path(status))
    events: list[dict[str, Any]] = [
        {
            "ph": "M", "pid": 1, "tid": 0, "name": "process_name",
            "args": {"name": f"{status.info.workflow} {status.info.id}"},
        }
    ]  # fmt: skip
    for step, lane in as_placed(status):
        events.append(
            {
                "ph": "X", "pid": 1, "tid": lane + 1, "name": step.name,
                "cat": "critical" if step.name in path else step.state,
                "ts": round((step.started - begin) * 1e6, 1),
                "dur": round(step.seconds * 1e6, 1),
                "args": {
                    "state": step.state, "attempts": step.attempts,
                    "worker": step.worker, "note": step.note,
                },
            }
        )  # fmt: skip
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def export_lines(journal: Journal, run_id: str) -> Iterator[str]:
    """Yield a run as JSON Lines: first the run, then its events in order."""
    info = journal.info(run_id)
    shape = journal.shape(info.key)
    head = {
        "v": EXPORT_VERSION, "kind": "run", "id": info.id, "workflow": info.workflow,
        "source": info.source, "params": dict(info.params), "state": info.state,
        "workers": info.workers, "executor": info.executor, "created": info.created,
        "finished": info.finished, "names": shape.names, "digests": shape.digests,
        "needs": shape.needs,
    }  # fmt: skip
    yield json.dumps(head, ensure_ascii=False)
    for event in journal.events(run_id):
        row: dict[str, Any] = {
            "kind": event.kind, "step": event.step, "attempt": event.attempt, "at": event.at,
        }  # fmt: skip
        for name in ("seconds", "worker", "note"):
            value = getattr(event, name)
            if value is not None:
                row[name] = value
        if event.value is not None:
            row["value"] = journal.decode(event.value)
        yield json.dumps(row, ensure_ascii=False)


def import_lines(journal: Journal, lines: Iterable[str]) -> str:
    """Add a run that `export_lines` wrote; return its id.

    Raises:
        JournalError: the lines are no such export, or the run exists.
    """
    from ._shape import Shape

    rows = iter(lines)
    number = 1
    try:
        head = json.loads(next(rows, "null"))
        if not isinstance(head, dict) or head.get("kind") != "run":
            raise ValueError("the first line should describe the run")
        if head["v"] > EXPORT_VERSION:
            raise ValueError(
                f"version {head['v']}, this package reads {EXPORT_VERSION}"
            )
        shape = Shape(names=head["names"], digests=head["digests"], needs=head["needs"])
        run: dict[str, Any] = {
            name: head[name]
            for name in ("workflow", "source", "params", "workers", "executor")
        }
        run_id, state = head["id"], head["state"]
        events = []
        for number, line in enumerate(rows, start=2):  # noqa: B007 - told in the error
            row = json.loads(line)
            value = None
            if "value" in row:
                value = journal.encode(row["step"], row["attempt"], row["value"])
            events.append(
                (
                    row["step"],
                    row["attempt"],
                    row["kind"],
                    row["at"],
                    row.get("seconds"),
                    row.get("worker"),
                    value,
                    row.get("note"),
                )
            )
    except (ValueError, KeyError, TypeError) as error:
        raise JournalError(
            journal.path,
            f"line {number} of the import is not of an exported run: {error}",
        ) from error
    info = journal.create(run_id, shape=shape, rows=events, **run)
    if state in ("running", "paused"):
        state = "interrupted"
    journal.finish(info, state)
    return info.id
