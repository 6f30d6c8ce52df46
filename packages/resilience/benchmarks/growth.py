"""Calls through a pipeline, outcomes in a window, keys; run by `make bench`."""

from maestro_resilience import Bulkhead, CircuitBreaker, Pipeline, Retry, keyed

CALLS = (20_000, 60_000, 200_000)


def nothing(_=None):
    return None


def pipeline(count, _):
    resilient = Pipeline(Retry(attempts=3), CircuitBreaker("a"), Bulkhead(9))(nothing)

    def call():
        for _ in range(count):
            resilient()

    return call


def window(count, _):
    """A window of `count` outcomes is filled twice."""
    guarded = CircuitBreaker("a", window_calls=count)(nothing)

    def call():
        for _ in range(2 * count):
            guarded()

    return call


def keys(count, _):
    hosts = keyed(CircuitBreaker, limit=count // 2, key=lambda number: f"{number}")
    guarded = hosts(nothing)

    def call():
        for number in range(count):
            guarded(number)

    return call


CASES = {
    "calls through a pipeline": (CALLS, pipeline),
    "outcomes in a count window": (CALLS, window),
    "keys of a keyed breaker, half of them kept": ((2_000, 6_000, 20_000), keys),
}
