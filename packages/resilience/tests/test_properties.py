"""A state machine: the breaker against a model that is too slow to be wrong."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from maestro_resilience import CircuitBreaker, CircuitOpen
from maestro_resilience.testing import FakeClock

OPEN_FOR, LEASE, WINDOW, MINIMUM, PROBES = 10.0, 60.0, 6, 3, 2


class Call:
    """A call in flight, and the era of the model in which it was let in."""

    def __init__(self, guard, era: int, expires: float | None) -> None:
        self.guard = guard
        self.era = era
        self.expires = expires  # of a probe's lease


class BreakerMachine(RuleBasedStateMachine):
    """Start, end and cancel calls in any order while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock(0.0)
        self.breaker = CircuitBreaker(
            "b",
            window_calls=WINDOW,
            minimum_calls=MINIMUM,
            failure_rate=0.5,
            open_for=OPEN_FOR,
            probes=PROBES,
            probe_lease=LEASE,
            growth=2.0,
            max_open=35.0,
            clock=self.clock,
        )
        self.state, self.era = "closed", 0
        self.outcomes: list[bool] = []
        self.until, self.open_for, self.good = 0.0, OPEN_FOR, 0
        self.calls: list[Call] = []
        self.probes: list[Call] = []

    def go(self, state: str) -> None:
        self.state, self.era = state, self.era + 1
        self.outcomes, self.probes, self.good = [], [], 0
        if state == "open":
            self.until = self.clock.monotonic() + self.open_for

    def expected(self) -> bool:
        """Work out whether the model lets a call in now, moving to half-open."""
        now = self.clock.monotonic()
        if self.state == "open" and now >= self.until:
            self.go("half_open")
        if self.state == "half_open":
            self.probes = [p for p in self.probes if p.expires > now]
            return len(self.probes) + self.good < PROBES
        return self.state in {"closed", "disabled", "metrics_only"}

    @rule()
    def start(self) -> None:
        wanted = self.expected()
        guard = self.breaker.guard()
        try:
            guard.__enter__()
        except CircuitOpen:
            assert not wanted
            return
        assert wanted
        call = Call(guard, self.era, self.clock.monotonic() + LEASE)
        if self.state == "half_open":
            self.probes.append(call)
        if self.state != "disabled":
            self.calls.append(call)
        else:
            guard.__exit__(None, None, None)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), how=st.sampled_from(["ok", "failed", "cancelled"]))
    def end(self, data, how) -> None:
        call = self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))
        error = {"ok": None, "failed": OSError(), "cancelled": GeneratorExit()}[how]
        call.guard.__exit__(type(error) if error else None, error, None)
        if call.era != self.era or how == "cancelled":
            if call in self.probes:
                self.probes.remove(call)
            return
        if self.state == "half_open":
            self.end_probe(call, how)
            return
        self.outcomes = [*self.outcomes, how == "failed"][-WINDOW:]
        bad = sum(self.outcomes)
        if self.state == "closed" and how == "failed" and len(self.outcomes) >= MINIMUM:
            if bad / len(self.outcomes) >= 0.5:
                self.go("open")

    def end_probe(self, call: Call, how: str) -> None:
        if call not in self.probes:
            return  # its lease was taken away
        self.probes.remove(call)
        if how == "failed":
            self.open_for = min(self.open_for * 2, 35.0)
            self.go("open")
            return
        self.good += 1
        if self.good == PROBES:
            self.open_for = OPEN_FOR
            self.go("closed")

    @rule(seconds=st.sampled_from([1.0, 10.0, 35.0, 61.0]))
    def advance(self, seconds) -> None:
        self.clock.advance(seconds)

    @rule(action=st.sampled_from(["isolate", "disable", "metrics_only", "reset"]))
    def steer(self, action) -> None:
        getattr(self.breaker, action)()
        names = {"isolate": "isolated", "disable": "disabled", "reset": "closed"}
        if action == "reset":
            self.open_for = OPEN_FOR
        self.go(names.get(action, action))

    @invariant()
    def same_state(self) -> None:
        assert self.breaker.state == self.state
        metrics = self.breaker.metrics
        assert metrics.calls == len(self.outcomes)
        assert metrics.failures == sum(self.outcomes)


BreakerMachine.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, derandomize=True
)
test_the_breaker_follows_its_model = BreakerMachine.TestCase
