"""The adapters for OpenTelemetry and Prometheus, and the fault injection."""

import pytest
from maestro_resilience import (
    Bulkhead,
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


def points(reader: InMemoryMetricReader) -> dict[str, list]:
    """Return the data points of the next collection by metric."""
    found: dict[str, list] = {}
    data = reader.get_metrics_data()
    for resource in data.resource_metrics if data else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                found.setdefault(metric.name, []).extend(metric.data.data_points)
    return found


@pytest.fixture
def reader():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])
    with otel.instrument(provider.get_meter("test")) as reader.subscription:
        yield reader
    provider.shutdown()


def test_opentelemetry_sees_events_and_durations(reader):
    trip()
    seen = points(reader)
    rejected = [
        p
        for p in seen["resilience.events"]
        if p.attributes["event.name"] == "call_rejected"
    ]
    assert rejected[0].attributes["error.type"] == "CircuitOpen"
    assert sum(p.count for p in seen["resilience.pipeline.duration"]) == 2
    assert sum(p.count for p in seen["resilience.attempt.duration"]) == 4


def test_opentelemetry_gauges_read_the_policies_as_they_are(reader):
    breaker = CircuitBreaker("gauged", minimum_calls=4, failure_rate=1)
    bulkhead = Bulkhead(3, name="gauged")

    def gauge(name: str, **labels: str) -> float:
        """Return the value of the one series with these labels."""
        wanted = {"policy.name": "gauged"} | labels
        (point,) = [
            p for p in points(reader)[f"resilience.{name}"] if p.attributes == wanted
        ]
        return point.value

    assert gauge("circuit_breaker.failure_rate") == 0
    assert gauge("circuit_breaker.state", state="closed") == 1
    assert gauge("bulkhead.in_flight") == 0
    breaker.call(int)
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 / 0)
    assert gauge("circuit_breaker.failure_rate") == 0.5
    with bulkhead.guard(), bulkhead.guard():
        assert gauge("bulkhead.in_flight") == 2
    breaker.isolate()
    assert gauge("circuit_breaker.state", state="isolated") == 1
    assert gauge("circuit_breaker.state", state="closed") == 0
    reader.subscription.close()
    assert not points(reader).get("resilience.bulkhead.in_flight")


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
