"""The states of a circuit breaker."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a circuit breaker stands; equal to its lower-case name."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    ISOLATED = "isolated"
    DISABLED = "disabled"
    METRICS_ONLY = "metrics_only"


# Enum attribute access costs a descriptor call; these names are read on every call.
CLOSED, OPEN, HALF_OPEN = State.CLOSED, State.OPEN, State.HALF_OPEN
ISOLATED, DISABLED, METRICS_ONLY = State.ISOLATED, State.DISABLED, State.METRICS_ONLY
