"""Breaker state that several processes share: the protocol, and a store in memory.

A store holds one small record per breaker name. Only the state is shared (open,
half-open and its probes, closed); every process counts its own calls. A trip of
one is a trip of all, and the probes of a half-open circuit are counted together.

Every change goes through one atomic step of the store, with the store's own time.
`maestro_resilience.testing.check_breaker_store` tests an implementation.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

__all__ = ["BreakerStore", "MemoryBreakerStore", "SharedView"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedView:
    """What a store knows about one breaker.

    `version` grows with each change of `state` ("closed", "open", "half_open" or
    "isolated"). `left` is how many seconds the circuit stays open, at the least.
    """

    version: int = 0
    state: str = "closed"
    left: float = 0.0
    reason: str = ""


class BreakerStore(Protocol):
    """Where breakers of the same name meet.

    Methods may block for the store's own timeout and may raise anything when it is
    away; the breaker then goes on by itself. All are safe to call from any thread.
    """

    def load(self, name: str) -> SharedView:
        """Return the present view."""
        ...

    def change(
        self, name: str, version: int | None, state: str, open_for: float, reason: str
    ) -> SharedView:
        """Set the state unless the record's version is newer than `version`.

        None sets it in any case. The new version is above both, so a store that
        has lost its records is behind for one change only.
        """
        ...

    def lease(
        self, name: str, probe: str, probes: int, lease_for: float
    ) -> tuple[bool, SharedView]:
        """Take a probe's slot if the open time is over and one is free."""
        ...

    def report(
        self, name: str, probe: str, outcome: str, probes: int, open_for: float
    ) -> SharedView:
        """Give a slot back; `outcome` is "ok", "failed" or "released".

        `probes` successes close the circuit, one failure opens it for `open_for`
        seconds. A probe without a lease changes nothing.
        """
        ...


@dataclass(slots=True)
class _Record:
    version: int = 0
    state: str = "closed"
    until: float = 0.0
    reason: str = ""
    good: int = 0
    leases: dict[str, float] = field(default_factory=dict)


class MemoryBreakerStore:
    """The reference implementation; shared by the threads of one process."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._records: dict[str, _Record] = {}
        self._lock = threading.Lock()

    def load(self, name: str) -> SharedView:
        """Return the present view."""
        with self._lock:
            return self._view(self._records.setdefault(name, _Record()))

    def change(
        self, name: str, version: int | None, state: str, open_for: float, reason: str
    ) -> SharedView:
        """Set the state unless the version is newer (None: in any case)."""
        with self._lock:
            record = self._records.setdefault(name, _Record())
            if version is None or version >= record.version:
                record.version = max(record.version, version or 0)
                self._set(record, state, open_for, reason)
            return self._view(record)

    def lease(
        self, name: str, probe: str, probes: int, lease_for: float
    ) -> tuple[bool, SharedView]:
        """Take a probe's slot if the open time is over and one is free."""
        with self._lock:
            record = self._records.setdefault(name, _Record())
            now = self._clock()
            if record.state == "open" and now >= record.until:
                self._set(record, "half_open", 0.0, "open time is over")
            granted = False
            if record.state == "half_open":
                leases = {p: end for p, end in record.leases.items() if end > now}
                granted = len(leases) + record.good < probes
                if granted:
                    leases[probe] = now + lease_for
                record.leases = leases
            return granted, self._view(record)

    def report(
        self, name: str, probe: str, outcome: str, probes: int, open_for: float
    ) -> SharedView:
        """Give a slot back and count its outcome."""
        with self._lock:
            record = self._records.setdefault(name, _Record())
            end = record.leases.pop(probe, None)
            if end is not None and end > self._clock():
                if outcome == "failed":
                    self._set(record, "open", open_for, "a probe failed")
                elif outcome == "ok":
                    record.good += 1
                    if record.good >= probes:
                        self._set(record, "closed", 0.0, f"{probes} probes succeeded")
            return self._view(record)

    def _set(self, record: _Record, state: str, open_for: float, reason: str) -> None:
        record.version += 1
        record.state = state
        record.until = self._clock() + open_for
        record.reason = reason
        record.good = 0
        record.leases = {}

    def _view(self, record: _Record) -> SharedView:
        is_open = record.state == "open"
        return SharedView(
            version=record.version,
            state=record.state,
            left=max(0.0, record.until - self._clock()) if is_open else 0.0,
            reason=record.reason,
        )
