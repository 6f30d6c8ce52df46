"""The path of builds without a global interpreter lock, chosen by hand here.

No free-threaded interpreter runs these tests. What they show is that the locked
path is taken when asked for, counts every call under many threads, and behaves
like the other one.
"""

import threading

import pytest
from maestro_resilience import CircuitBreaker, CircuitOpen, Pipeline, Retry, _runtime
from maestro_resilience._window import LockedCountWindow, LockedTimeWindow


@pytest.fixture(autouse=True)
def free_threaded(monkeypatch):
    monkeypatch.setattr(_runtime, "FREE_THREADED", True)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"window_calls": 100_000}, LockedCountWindow),
        ({"window": 60.0}, LockedTimeWindow),
    ],
)
def test_every_success_is_counted_under_eight_threads(options, kind):
    breaker = CircuitBreaker("x", minimum_calls=10, **options)
    assert isinstance(breaker._window, kind)
    guarded = breaker(lambda: None)

    def hammer():
        for _ in range(2_000):
            guarded()

    threads = [threading.Thread(target=hammer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert breaker.metrics.calls == 16_000


def test_a_pipeline_is_not_fused_and_still_opens():
    breaker = CircuitBreaker("y", failure_rate=0.5, minimum_calls=4)
    pipeline = Pipeline(Retry(attempts=2, on=KeyError, wait=0), breaker)

    @pipeline
    def fail():
        raise ConnectionError("down")

    for _ in range(4):
        with pytest.raises(ConnectionError):
            fail()
    with pytest.raises(CircuitOpen):
        fail()
