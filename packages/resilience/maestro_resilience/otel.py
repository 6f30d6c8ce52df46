# ruff: noqa: ARG001 - the interface fixes the arguments
"""Report events to OpenTelemetry; needs `pip install "maestro-resilience[otel]"`.

There is no semantic convention for resilience policies yet; the names follow the
general naming rules, and `error.type` is the stable attribute.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from maestro_resilience._naming import STATES, error_type, event_name
from maestro_resilience.events import (
    AttemptFinished,
    CallFinished,
    Event,
    StateChanged,
    Subscription,
    subscribe,
)

try:
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import CallbackOptions, Observation
except ImportError as error:
    raise ImportError(
        "maestro_resilience.otel needs the OpenTelemetry API: "
        'pip install "maestro-resilience[otel]"'
    ) from error

__all__ = ["instrument"]


def instrument(meter: metrics.Meter | None = None) -> Subscription:
    """Record the events of every policy until the result is closed.

    Metrics: counter `resilience.events`, histograms `resilience.attempt.duration`
    and `resilience.pipeline.duration` in seconds, gauge
    `resilience.circuit_breaker.state` (one 0/1 series per state). Each event other
    than a duration is also added to the current span.
    """
    meter = meter or metrics.get_meter("maestro_resilience")
    counter = meter.create_counter("resilience.events", unit="{event}")
    attempts = meter.create_histogram("resilience.attempt.duration", unit="s")
    calls = meter.create_histogram("resilience.pipeline.duration", unit="s")
    states: dict[str, str] = {}
    lock = threading.Lock()

    def observe(options: CallbackOptions) -> Iterable[Observation]:
        with lock:  # guards states
            now = dict(states)
        for name, current in now.items():
            for state in STATES:
                labels = {"policy.name": name, "state": state}
                yield Observation(int(state == current), labels)

    meter.create_observable_gauge("resilience.circuit_breaker.state", [observe])

    def listen(event: Event) -> None:
        if isinstance(event, AttemptFinished):
            labels: dict[str, Any] = {
                "policy.name": event.policy,
                "attempt": event.attempt,
                "outcome": event.outcome,
            }
            attempts.record(event.seconds, labels)
            return
        if isinstance(event, CallFinished):
            labels = {"pipeline.name": event.policy, "outcome": event.outcome}
            calls.record(event.seconds, labels)
            return
        if isinstance(event, StateChanged):
            with lock:
                states[event.policy] = event.new
        name = event_name(event)
        labels = {
            "event.name": name,
            "policy.name": event.policy,
            "policy.type": event.policy_type,
        }
        if error_type(event):
            labels["error.type"] = error_type(event)
        counter.add(1, labels)
        trace.get_current_span().add_event(f"resilience.{name}", labels)

    return subscribe(listen)
