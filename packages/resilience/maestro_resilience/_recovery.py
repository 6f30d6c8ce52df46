"""How an open circuit finds out when to close: the break, and then the probes."""

from __future__ import annotations

from maestro_resilience import _checks
from maestro_resilience._state import CLOSED, OPEN
from maestro_resilience._window import FAILED, OK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from maestro_resilience._breaker import CircuitBreaker


class BreakTime:
    """How long the circuit stays open; longer after each failed round of probes."""

    __slots__ = ("_first", "_growth", "_most", "seconds")

    def __init__(self, me: str, first: float, growth: float, most: float) -> None:
        self._first = _checks.number(me, "open_for", first, above=0)
        self._growth = _checks.number(me, "growth", growth, least=1)
        self._most = _checks.number(me, "max_open", most, above=0)
        self.seconds = self._first

    def grow(self) -> None:
        """Note a failed round."""
        self.seconds = min(self.seconds * self._growth, self._most)

    def start_over(self) -> None:
        """Note that the circuit has closed."""
        self.seconds = self._first


class ProbeRound:
    """One half-open period: which probes run, and how many have succeeded."""

    __slots__ = ("leases", "succeeded")

    def __init__(self) -> None:
        # The identity of a probe, and when its lease ends. Not the probe itself:
        # one that nobody holds any more must end.
        self.leases: dict[int, float] = {}
        self.succeeded = 0

    def lease(
        self, breaker: CircuitBreaker, now: float
    ) -> tuple[Probe | None, float | None]:
        """Return a probe, or None and the seconds to wait; under the breaker's lock."""
        for key, end in list(self.leases.items()):
            if end <= now:  # it may have died with its thread: others may try
                self.leases.pop(key, None)
        if len(self.leases) + self.succeeded < breaker._probes:
            probe = Probe(breaker, self)
            self.leases[id(probe)] = now + breaker._probe_lease
            return probe, None
        return None, max(0.0, min(self.leases.values(), default=now) - now)


class Probe:
    """The token of a call that tries out a half-open circuit.

    One that is dropped without an answer gives its slot back by itself: a ^C may
    arrive when no `except` can know of it.
    """

    __slots__ = ("_breaker", "_round")

    def __init__(self, breaker: CircuitBreaker, probe_round: ProbeRound) -> None:
        self._breaker = breaker
        self._round = probe_round

    def succeeded(self, started: float) -> None:
        """Count the probe as good, unless it was slow."""
        breaker = self._breaker
        slow = breaker._slow_call
        try:
            if slow is not None and breaker._clock.monotonic() - started >= slow:
                self._reopen(f"a probe took {slow:g} s or more")
            else:
                self._count()
        finally:
            self.withdraw()

    def failed(self, error: BaseException, started: float) -> None:
        """Count the probe as bad, or give its slot back where the error says nothing."""
        try:
            verdict = self._breaker._judge.verdict(error)
            if verdict == FAILED:
                self._reopen(f"a probe failed with {type(error).__name__}")
            elif verdict == OK:
                self._count()
        finally:
            self.withdraw()

    def withdraw(self) -> None:
        """Give the slot back, if it is still taken."""
        self._round.leases.pop(id(self), None)

    __del__ = withdraw

    def _is_current(self) -> bool:
        # Not of an earlier round, and its lease not over.
        return self._round is self._breaker._round and id(self) in self._round.leases

    def _count(self) -> None:
        breaker, probe_round = self._breaker, self._round
        with breaker._lock:
            if not self._is_current():
                return
            if probe_round.succeeded + 1 < breaker._probes:
                del probe_round.leases[id(self)]
                probe_round.succeeded += 1
                return
            cause = f"{breaker._probes} probes succeeded"
            old = breaker._enter_state(CLOSED, cause)
            breaker._break_time.start_over()
        breaker._tell_change(old, CLOSED, cause)

    def _reopen(self, cause: str) -> None:
        breaker = self._breaker
        with breaker._lock:
            if not self._is_current():
                return
            breaker._break_time.grow()
            old = breaker._enter_state(OPEN, cause)
        breaker._tell_change(old, OPEN, cause)
