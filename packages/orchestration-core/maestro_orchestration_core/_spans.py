"""A run as OpenTelemetry-shaped spans, plain data, GenAI names.

Source: OpenTelemetry GenAI semantic conventions (status: development); the
names are in this file alone.
"""

import hashlib
from collections.abc import Iterable
from typing import Any

from ._events import Event


def spans_json(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Return one span per run, task attempt and call, times in nanoseconds."""
    found: list[dict[str, Any]] = []
    started: dict[tuple[str, int, str], Event] = {}
    first: Event | None = None
    last: Event | None = None
    for event in events:
        first, last = first or event, event
        key = (event.task, event.attempt, str(event.data.get("key", "")))
        if event.type in {"task.started", "turn.started"}:
            started[key] = event
        elif event.type in {"turn.completed", "turn.failed"} and key in started:
            found.append(_call(started.pop(key), event))
        elif (
            event.type.startswith("task.")
            and (event.task, event.attempt, "") in started
        ):
            begin = started.pop((event.task, event.attempt, ""))
            found.append(_span(begin, event, f"invoke_agent {event.actor}", "run", {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": event.actor, "maestro.task": event.task,
            }))  # fmt: skip
    if first and last:
        name = f"invoke_workflow {first.run}"
        attributes = {"gen_ai.operation.name": "invoke_workflow"}
        found.insert(0, _span(first, last, name, "", attributes))
    return found


def _call(begin: Event, end: Event) -> dict[str, Any]:
    usage = end.data.get("usage", {})
    model = str(end.data.get("model", ""))
    tool = str(end.data.get("tool", ""))
    operation = "chat" if model else "execute_tool" if tool else "invoke_agent"
    return _span(begin, end, f"{operation} {model or tool or end.actor}", end.task, {
        "gen_ai.operation.name": operation, "gen_ai.request.model": model,
        "gen_ai.tool.name": tool, "gen_ai.agent.name": end.actor,
        "gen_ai.usage.input_tokens": usage.get("in", 0),
        "gen_ai.usage.output_tokens": usage.get("out", 0),
    })  # fmt: skip


def _span(
    begin: Event, end: Event, name: str, parent: str, attributes: dict[str, Any]
) -> dict[str, Any]:
    failed = end.type.endswith(".failed")
    return {
        "traceId": hashlib.sha256(begin.run.encode()).hexdigest()[:32],
        "spanId": hashlib.sha256(f"{begin.run}/{begin.seq}".encode()).hexdigest()[:16],
        "parent": parent,
        "name": name,
        "startTimeUnixNano": begin.at_ns,
        "endTimeUnixNano": end.at_ns,
        "status": "ERROR" if failed else "OK",
        "attributes": {k: v for k, v in attributes.items() if v != ""},
    }
