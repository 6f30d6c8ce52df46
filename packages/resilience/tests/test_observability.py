"""The adapters for OpenTelemetry and Prometheus, and the fault injection."""

import pytest
from maestro_resilience import (
    CircuitBreaker,
    CircuitOpen,
    Pipeline,
    Retry,
    otel,
    prometheus,
)
from maestro_resilience._runtime import SWITCH
from maestro_resilience.testing import inject, instant
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry


def trip() -> None:
    breaker = CircuitBreaker("db", minimum_calls=2)
    pipeline = Pipeline(
        Retry(2, wait=1, name="again"),
        breaker,
        inject(error=ConnectionError),
        name="orders",
    )
    with instant():
        with pytest.raises(ConnectionError):
            pipeline.call(lambda: 1)
        with pytest.raises(CircuitOpen):
            pipeline.call(lambda: 1)


def test_prometheus_sees_events_durations_and_the_state():
    registry = CollectorRegistry()
    with prometheus.instrument(registry):
        trip()
    trip()  # nobody listens any more
    value = registry.get_sample_value
    labels = {"policy_type": "circuit_breaker", "policy_name": "db", "error_type": ""}
    assert (
        value("resilience_events_total", labels | {"event_name": "state_changed"}) == 1
    )
    state = {"policy_name": "db", "state": "open"}
    assert value("resilience_circuit_breaker_state", state) == 1
    assert value("resilience_circuit_breaker_state", state | {"state": "closed"}) == 0
    count = "resilience_attempt_duration_seconds_count"
    assert value(count, {"policy_name": "again", "outcome": "error"}) == 4
    count = "resilience_pipeline_duration_seconds_count"
    assert value(count, {"pipeline_name": "orders", "outcome": "rejected"}) == 1
    assert SWITCH.plain


def test_opentelemetry_sees_the_same():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    with otel.instrument(provider.get_meter("test")):
        trip()
    points = {}
    for resource in reader.get_metrics_data().resource_metrics:
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                for point in metric.data.data_points:
                    points.setdefault(metric.name, []).append(point)
    provider.shutdown()
    rejected = [
        p
        for p in points["resilience.events"]
        if p.attributes["event.name"] == "call_rejected"
    ]
    assert rejected[0].attributes["error.type"] == "CircuitOpen"
    states = {
        p.attributes["state"]: p.value
        for p in points["resilience.circuit_breaker.state"]
    }
    assert (states["open"], states["closed"]) == (1, 0)
    assert sum(p.count for p in points["resilience.pipeline.duration"]) == 2
    assert sum(p.count for p in points["resilience.attempt.duration"]) == 4


def test_a_share_of_calls_is_hit(mode):
    draws = iter([0.05, 0.5, 0.05])
    guarded = inject(rate=0.1, error=OSError("injected"), random=lambda: next(draws))(
        mode.function(lambda: "ok")
    )
    with pytest.raises(OSError, match="injected"):
        mode.run(guarded)
    assert mode.run(guarded) == "ok"
    with pytest.raises(OSError, match="injected"):
        mode.run(guarded)


def test_latency_is_slept(mode):
    with instant() as sleeps:
        mode.run(inject(latency=3)(mode.function(lambda: "ok")))
    assert sleeps == [3]
