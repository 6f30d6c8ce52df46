"""A run as OpenTelemetry spans: extra `otel`."""

from collections.abc import Iterable
from typing import Any

from maestro_orchestration_core._log import Event
from maestro_orchestration_core._report import spans_json

try:
    from opentelemetry import trace
    from opentelemetry.trace import SpanKind, Status, StatusCode, Tracer
except ImportError as error:
    raise ImportError(
        'spans need pip install "maestro-orchestration-core[otel]"'
    ) from error


def export_spans(events: Iterable[Event], tracer: Tracer | None = None) -> int:
    """Make a span per run, task attempt and call, at their own times; return how many.

    The names are those of the GenAI conventions, which still change. Spans get new
    ids each time; `maestro.span` has one that stays.

    Args:
        events: Of one run, in order.
        tracer: Of the global provider when not given.
    """
    tracer = tracer or trace.get_tracer("maestro_orchestration_core")
    found = spans_json(events)
    made: dict[str, Any] = {}
    for row in found:
        outer = made.get(row["parentSpanId"])
        context = trace.set_span_in_context(outer) if outer else None
        span = tracer.start_span(
            row["name"], context, SpanKind.INTERNAL,
            {**row["attributes"], "maestro.span": row["spanId"]},
            start_time=row["startTimeUnixNano"],
        )  # fmt: skip
        if row["status"] == "ERROR":
            span.set_status(Status(StatusCode.ERROR))
        span.end(row["endTimeUnixNano"])
        made[row["spanId"]] = span
    return len(found)
