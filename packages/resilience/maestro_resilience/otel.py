# ruff: noqa: ARG001 - the interface fixes the arguments
"""Report events to OpenTelemetry; needs `pip install "maestro-resilience[otel]"`.

There is no semantic convention for resilience policies yet; the names follow the
general naming rules, and `error.type` is the stable attribute.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from maestro_resilience._breaker import CircuitBreaker
from maestro_resilience._bulkhead import Bulkhead
from maestro_resilience._naming import STATES, error_type, event_name
from maestro_resilience._runtime import living
from maestro_resilience.events import (
    AttemptFinished,
    CallFinished,
    Event,
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

Read = Callable[[], Iterable[Observation]]
Callback = Callable[[CallbackOptions], Iterable[Observation]]


def instrument(meter: metrics.Meter | None = None) -> Subscription:
    """Record the events of every policy until the result is closed.

    Metrics: counter `resilience.events`, histograms `resilience.attempt.duration`
    and `resilience.pipeline.duration` in seconds. Gauges, read from the policies
    when metrics are collected: `resilience.circuit_breaker.state` (one 0/1 series
    per state), `resilience.circuit_breaker.failure_rate` (of the current window),
    `resilience.bulkhead.in_flight`. Policies of the same name share a series. Each
    event other than a duration is also added to the current span.
    """
    meter = meter or metrics.get_meter("maestro_resilience")
    counter = meter.create_counter("resilience.events", unit="{event}")
    attempts = meter.create_histogram("resilience.attempt.duration", unit="s")
    calls = meter.create_histogram("resilience.pipeline.duration", unit="s")

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

    subscription = subscribe(listen)
    gauges = {
        "resilience.circuit_breaker.state": (_states, ""),
        "resilience.circuit_breaker.failure_rate": (_failure_rates, "1"),
        "resilience.bulkhead.in_flight": (_in_flight, "{call}"),
    }
    for name, (read, unit) in gauges.items():
        meter.create_observable_gauge(name, [_while(subscription, read)], unit=unit)
    return subscription


def _while(subscription: Subscription, read: Read) -> Callback:
    def observe(options: CallbackOptions) -> Iterable[Observation]:
        return read() if subscription.active else ()

    return observe


def _states() -> Iterator[Observation]:
    current: defaultdict[str, set[str]] = defaultdict(set)
    for breaker in living(CircuitBreaker):
        current[breaker.name].add(breaker.state)
    for name, found in current.items():
        for state in STATES:
            labels = {"policy.name": name, "state": state}
            yield Observation(int(state in found), labels)


def _failure_rates() -> Iterator[Observation]:
    counts: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for breaker in living(CircuitBreaker):
        window = breaker.metrics
        counts[breaker.name][0] += window.failures
        counts[breaker.name][1] += window.calls
    for name, (failures, total) in counts.items():
        rate = failures / total if total else 0.0
        yield Observation(rate, {"policy.name": name})


def _in_flight() -> Iterator[Observation]:
    inside: defaultdict[str, int] = defaultdict(int)
    for bulkhead in living(Bulkhead):
        inside[bulkhead.name] += bulkhead.in_flight
    for name, calls in inside.items():
        yield Observation(calls, {"policy.name": name})
