"""Count events for Prometheus; needs `pip install "maestro-resilience[prometheus]"`.

>>> from maestro_resilience.prometheus import instrument
>>> subscription = instrument()
"""

from __future__ import annotations

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
    from prometheus_client import REGISTRY, Counter, Gauge, Histogram
except ImportError as error:
    raise ImportError(
        "maestro_resilience.prometheus needs prometheus_client: "
        'pip install "maestro-resilience[prometheus]"'
    ) from error

__all__ = ["instrument"]


def instrument(registry: Any = REGISTRY) -> Subscription:
    """Record the events of every policy in a registry until the result is closed.

    Metrics: `resilience_events_total`, `resilience_attempt_duration_seconds`,
    `resilience_pipeline_duration_seconds`, `resilience_circuit_breaker_state` (one
    0/1 series per state). Labels are names of policies, events and error classes.
    """
    events = Counter(
        "resilience_events",
        "Events of resilience policies.",
        ["policy_type", "policy_name", "event_name", "error_type"],
        registry=registry,
    )
    attempts = Histogram(
        "resilience_attempt_duration_seconds",
        "Duration of single attempts.",
        ["policy_name", "outcome"],
        registry=registry,
    )
    calls = Histogram(
        "resilience_pipeline_duration_seconds",
        "Duration of whole pipeline calls.",
        ["pipeline_name", "outcome"],
        registry=registry,
    )
    states = Gauge(
        "resilience_circuit_breaker_state",
        "1 for the state that the breaker is in.",
        ["policy_name", "state"],
        registry=registry,
    )

    def listen(event: Event) -> None:
        if isinstance(event, AttemptFinished):
            attempts.labels(event.policy, event.outcome).observe(event.seconds)
        elif isinstance(event, CallFinished):
            calls.labels(event.policy, event.outcome).observe(event.seconds)
        else:
            events.labels(
                event.policy_type, event.policy, event_name(event), error_type(event)
            ).inc()
        if isinstance(event, StateChanged):
            for state in STATES:
                states.labels(event.policy, state).set(state == event.new)

    return subscribe(listen)
