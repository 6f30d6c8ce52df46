"""Runs as OpenTelemetry spans: the one module that needs the extra `otel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._status import read_status

if TYPE_CHECKING:
    from ._journal import Journal

try:
    from opentelemetry import trace
    from opentelemetry.trace import Status, StatusCode
except ImportError as error:
    raise ImportError(
        'spans need opentelemetry-api: pip install "maestro-workflow-engine[otel]"'
    ) from error


def export_run(journal: Journal, run_id: str, *, tracer_provider: Any = None) -> int:
    """Make a span of a run and one of each step that ran; return their number.

    The spans have the times of the run, not of this call. Call it when the run is
    over, from any process.

    Args:
        journal: where the run is.
        run_id: the run.
        tracer_provider: by default the global one.
    """
    status = read_status(journal, run_id)
    tracer = trace.get_tracer(
        "maestro_workflow_engine", tracer_provider=tracer_provider
    )
    root = tracer.start_span(
        f"workflow {status.info.workflow}",
        start_time=_nanoseconds(status.begin),
        attributes={
            "maestro.run.id": run_id,
            "maestro.workflow.name": status.info.workflow,
            "maestro.run.state": status.state,
        },
    )
    count = 1
    context = trace.set_span_in_context(root)
    for step in status.steps.values():
        if not step.ended:
            continue
        span = tracer.start_span(
            step.name,
            context=context,
            start_time=_nanoseconds(step.started),
            attributes={
                "maestro.step.name": step.name,
                "maestro.step.state": step.state,
                "maestro.step.attempts": step.attempts,
                "maestro.worker": step.worker,
            },
        )
        if step.state == "failed":
            span.set_status(Status(StatusCode.ERROR, step.note))
        span.end(_nanoseconds(step.ended))
        count += 1
    if status.state == "failed":
        root.set_status(Status(StatusCode.ERROR, "a step failed"))
    root.end(_nanoseconds(max(status.end, status.begin)))
    return count


def _nanoseconds(at: float) -> int:
    return int(at * 1e9)
