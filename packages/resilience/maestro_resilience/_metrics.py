"""Snapshots that policies hand out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerMetrics:
    """What a circuit breaker has seen in its current window."""

    state: str
    calls: int
    failures: int
    slow_calls: int
    failure_rate: float
    slow_rate: float
