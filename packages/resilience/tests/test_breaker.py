"""The circuit breaker: windows, rates, probes, generations, manual states."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from maestro_resilience import CircuitBreaker, CircuitOpen, State
from maestro_resilience.testing import FakeClock


def boom(*args: object) -> None:
    raise ConnectionError("down")


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        with pytest.raises(ConnectionError):
            breaker.call(boom)


def tripped(clock: FakeClock, **settings) -> CircuitBreaker:
    settings = {"minimum_calls": 1, "open_for": 10.0} | settings
    breaker = CircuitBreaker("b", clock=clock, **settings)
    fail(breaker, settings["minimum_calls"])
    assert breaker.state is State.OPEN
    return breaker


# --- 1: no serialisation ---------------------------------------------------------


def test_slow_calls_through_a_closed_breaker_run_in_parallel():
    breaker = CircuitBreaker("b")
    together = threading.Barrier(6, timeout=20)
    guarded = breaker(together.wait)  # passes only when all six are inside at once
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: guarded(), range(6)))
    assert sorted(results) == list(range(6))


# --- 2: half-open admits exactly `probes` ------------------------------------------


@pytest.mark.parametrize("probes", [1, 3])
def test_fifty_threads_at_half_open_admit_exactly_the_probes(clock, probes):
    breaker = tripped(clock, probes=probes)
    clock.advance(10)
    release, start = threading.Event(), threading.Barrier(50, timeout=30)
    entered = []

    def body() -> None:
        entered.append(1)
        release.wait(30)

    def caller() -> str:
        start.wait()
        try:
            breaker.call(body)
        except CircuitOpen:
            return "rejected"
        return "ok"

    with ThreadPoolExecutor(50) as pool:
        futures = [pool.submit(caller) for _ in range(50)]
        give_up = time.monotonic() + 30
        while sum(f.done() for f in futures) < 50 - probes:
            assert time.monotonic() < give_up
            time.sleep(0.005)
        assert breaker.state is State.HALF_OPEN  # the others did not wait for it
        release.set()
    outcomes = [f.result() for f in futures]
    assert len(entered) == probes
    assert outcomes.count("rejected") == 50 - probes
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize(("callers", "probes"), [(20, 1), (50, 3)])
def test_tasks_at_half_open_admit_exactly_the_probes(clock, callers, probes):
    breaker = tripped(clock, probes=probes)
    clock.advance(10)
    entered = []

    async def main() -> list[object]:
        release = asyncio.Event()

        @breaker
        async def body() -> None:
            entered.append(1)
            await release.wait()

        tasks = [asyncio.create_task(body()) for _ in range(callers)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        done = [t for t in tasks if t.done()]
        assert len(done) == callers - probes
        release.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    outcomes = asyncio.run(main())
    assert len(entered) == probes
    assert sum(isinstance(o, CircuitOpen) for o in outcomes) == callers - probes
    assert breaker.state is State.CLOSED


# --- 3: what is never counted --------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_exits_are_never_counted(mode, error):
    breaker = CircuitBreaker("b", minimum_calls=1)

    def body() -> None:
        raise error

    guarded = breaker(mode.function(body))
    for _ in range(5):
        with pytest.raises(error):
            mode.run(guarded)
    assert breaker.state is State.CLOSED
    assert breaker.metrics.calls == 0


def test_cancellation_is_never_counted():
    breaker = CircuitBreaker("b", minimum_calls=1)

    async def main() -> None:
        @breaker
        async def body() -> None:
            await asyncio.sleep(60)

        for _ in range(6):
            task = asyncio.create_task(body())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert breaker.state is State.CLOSED
    assert breaker.metrics.calls == 0


# --- 4 and 5: probes that say nothing, or never end -----------------------------------


def test_a_cancelled_probe_gives_its_slot_back(clock):
    breaker = tripped(clock)
    clock.advance(10)

    async def main() -> None:
        @breaker
        async def body() -> None:
            await asyncio.sleep(60)

        task = asyncio.create_task(body())
        await asyncio.sleep(0)
        assert breaker.state is State.HALF_OPEN
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert breaker.call(lambda: 1) == 1
    assert breaker.state is State.CLOSED


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, GeneratorExit])
def test_an_ignored_probe_gives_its_slot_back(clock, mode, error):
    breaker = tripped(clock, ignore=ValueError)
    clock.advance(10)

    def body() -> None:
        raise error

    for _ in range(3):
        with pytest.raises(error):
            mode.run(breaker(mode.function(body)))
    assert breaker.state is State.HALF_OPEN
    breaker.call(lambda: 1)
    assert breaker.state is State.CLOSED


def test_a_probe_that_never_ends_loses_its_slot(clock):
    breaker = tripped(clock, probe_lease=30.0)
    clock.advance(10)
    lost = breaker.guard()
    lost.__enter__()
    with pytest.raises(CircuitOpen) as caught:
        breaker.call(lambda: 1)
    assert caught.value.retry_after == pytest.approx(30)
    clock.advance(30)
    breaker.call(lambda: 1)
    assert breaker.state is State.CLOSED
    lost.__exit__(ConnectionError, ConnectionError(), None)  # far too late
    assert breaker.state is State.CLOSED
    assert breaker.metrics.calls == 0


def test_a_late_probe_does_not_speak_for_the_next_round(clock):
    breaker = tripped(clock, probes=2)
    clock.advance(10)
    late = breaker.guard()
    late.__enter__()
    fail(breaker)  # the other probe re-opens
    assert breaker.state is State.OPEN
    clock.advance(10)
    breaker.call(lambda: 1)
    late.__exit__(None, None, None)
    assert breaker.state is State.HALF_OPEN  # one of two so far


# --- 6: earlier generations --------------------------------------------------------------


@pytest.mark.parametrize("window", [{"window_calls": 10}, {"window": 60.0}])
@pytest.mark.parametrize("error", [None, ConnectionError()])
def test_results_of_an_earlier_generation_change_nothing(clock, window, error):
    breaker = CircuitBreaker("b", minimum_calls=1, open_for=10, clock=clock, **window)
    old = [breaker.guard() for _ in range(3)]
    for guard in old:
        guard.__enter__()
    fail(breaker)
    kind = type(error) if error else None
    old[0].__exit__(kind, error, None)
    assert breaker.state is State.OPEN
    clock.advance(10)
    probe = breaker.guard()
    probe.__enter__()
    old[1].__exit__(kind, error, None)
    assert breaker.state is State.HALF_OPEN
    probe.__exit__(None, None, None)
    old[2].__exit__(kind, error, None)
    assert breaker.state is State.CLOSED
    assert breaker.metrics.calls == 0


# --- 7: ignored and unrecorded -----------------------------------------------------------


class Refused(ValueError):
    pass


def test_ignored_exceptions_count_as_neither(mode):
    breaker = CircuitBreaker(
        "b", minimum_calls=1, ignore=(ValueError, lambda e: "soft" in str(e))
    )

    def body(error: Exception) -> None:
        raise error

    for error in (Refused(), OSError("soft")):
        with pytest.raises(type(error)):
            mode.run(breaker(mode.function(body)), error)
    assert breaker.metrics.calls == 0
    with pytest.raises(OSError, match="hard"):
        mode.run(breaker(mode.function(body)), OSError("hard"))
    assert breaker.state is State.OPEN


def test_exceptions_that_are_not_recorded_count_as_success(mode):
    breaker = CircuitBreaker("b", minimum_calls=2, record=OSError, failure_rate=1)

    def body(error: Exception) -> None:
        raise error

    with pytest.raises(Refused):
        mode.run(breaker(mode.function(body)), Refused())
    metrics = breaker.metrics
    assert (metrics.calls, metrics.failures) == (1, 0)


def test_a_bad_result_counts_as_a_failure(mode):
    breaker = CircuitBreaker("b", minimum_calls=2, on_result=lambda r: r >= 500)
    guarded = breaker(mode.function(lambda status: status))
    assert mode.run(guarded, 503) == 503
    assert mode.run(guarded, 503) == 503
    assert breaker.state is State.OPEN


def test_a_result_predicate_that_raises_frees_the_probe(clock):
    breaker = tripped(clock, on_result=lambda r: r.status)
    clock.advance(10)
    for _ in range(2):
        with pytest.raises(AttributeError):
            breaker.call(lambda: 1)
    assert breaker.state is State.HALF_OPEN


# --- 8, 9, 10: windows ----------------------------------------------------------------------


@pytest.mark.parametrize("window", [{"window_calls": 50}, {"window": 60.0}])
def test_rates_wait_for_the_minimum_of_calls(clock, window):
    breaker = CircuitBreaker("b", minimum_calls=10, clock=clock, **window)
    fail(breaker, 9)
    assert breaker.state is State.CLOSED
    fail(breaker)
    assert breaker.state is State.OPEN


def test_a_failure_leaves_the_count_window_after_size_further_calls():
    breaker = CircuitBreaker("b", window_calls=5, minimum_calls=5, failure_rate=0.4)
    fail(breaker)
    for _ in range(4):
        breaker.call(lambda: 1)
    assert breaker.metrics.failures == 1
    breaker.call(lambda: 1)
    assert breaker.metrics.failures == 0
    fail(breaker)
    assert breaker.state is State.CLOSED


def test_the_time_window_forgets(clock):
    breaker = CircuitBreaker("b", window=10, minimum_calls=4, clock=clock)
    fail(breaker, 3)
    clock.advance(5)
    breaker.call(lambda: 1)
    assert breaker.metrics.calls == 4
    clock.advance(5.5)
    assert (breaker.metrics.calls, breaker.metrics.failures) == (1, 0)
    clock.advance(1e9)
    assert breaker.metrics.calls == 0


def test_the_wall_clock_does_not_matter(clock, monkeypatch):
    breaker = tripped(clock)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    with pytest.raises(CircuitOpen) as caught:
        breaker.call(lambda: 1)
    assert caught.value.retry_after == pytest.approx(10)


# --- 11: slow calls ---------------------------------------------------------------------------


@pytest.mark.parametrize("window", [{"window_calls": 50}, {"window": 60.0}])
def test_slow_calls_trip_without_any_exception(clock, mode, window):
    breaker = CircuitBreaker("b", minimum_calls=4, slow_call=2, clock=clock, **window)
    guarded = breaker(mode.function(clock.advance))
    for seconds in (0.1, 0.1, 2.0, 2.5):
        assert breaker.state is State.CLOSED
        mode.run(guarded, seconds)
    assert breaker.state is State.OPEN
    with pytest.raises(CircuitOpen, match="2 of 4 calls took 2 s or more"):
        mode.run(guarded, 0)
    clock.advance(30)
    mode.run(guarded, 3.0)  # a slow probe
    assert breaker.state is State.OPEN


# --- 12: events -----------------------------------------------------------------------------------


def test_one_event_per_trip_under_concurrent_failures():
    events = []
    breaker = CircuitBreaker("b", minimum_calls=4, listeners=[events.append])
    start = threading.Barrier(16, timeout=30)

    def body() -> None:
        start.wait()
        boom()

    def caller(_: int) -> None:
        with pytest.raises((ConnectionError, CircuitOpen)):
            breaker.call(body)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(caller, range(16)))
    changes = [e for e in events if type(e).__name__ == "StateChanged"]
    assert [(e.policy, e.old, e.new) for e in changes] == [("b", "closed", "open")]
    assert "calls failed" in changes[0].cause


def test_a_raising_listener_changes_nothing(caplog):
    def bad(event: object) -> None:
        raise RuntimeError("listener")

    breaker = CircuitBreaker("b", minimum_calls=1, listeners=[bad])
    fail(breaker)
    with pytest.raises(CircuitOpen):
        breaker.call(boom)
    assert "a listener of 'b' raised on StateChanged" in caplog.text


def test_a_listener_may_use_the_breaker(clock):
    seen = []
    breaker = CircuitBreaker(
        "b",
        minimum_calls=1,
        clock=clock,
        listeners=[lambda e: seen.append(breaker.state)],
    )
    fail(breaker)
    assert seen == [State.OPEN]


# --- 13: retry_after -------------------------------------------------------------------------------


def test_retry_after_shrinks_with_time_and_is_none_when_isolated(clock):
    breaker = tripped(clock)
    waits = []
    for _ in range(3):
        with pytest.raises(CircuitOpen) as caught:
            breaker.call(boom)
        waits.append(caught.value.retry_after)
        clock.advance(3)
    assert waits == pytest.approx([10, 7, 4])
    breaker.isolate("maintenance")
    with pytest.raises(CircuitOpen, match=r"'b' is isolated .maintenance.") as caught:
        breaker.call(boom)
    assert caught.value.retry_after is None


# --- 14: manual states --------------------------------------------------------------------------------


def to_closed(breaker, clock):
    breaker.reset()


def to_open(breaker, clock):
    breaker.reset()
    fail(breaker)


def to_half_open(breaker, clock):
    to_open(breaker, clock)
    clock.advance(10)
    with pytest.raises(KeyboardInterrupt), breaker.guard():
        raise KeyboardInterrupt


STARTS = {
    "closed": to_closed,
    "open": to_open,
    "half_open": to_half_open,
    "isolated": lambda b, c: b.isolate(),
    "disabled": lambda b, c: b.disable(),
    "metrics_only": lambda b, c: b.metrics_only(),
}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("action", ["isolate", "disable", "metrics_only", "reset"])
def test_every_manual_state_can_be_entered_from_every_state(clock, start, action):
    breaker = CircuitBreaker("b", minimum_calls=1, open_for=10, clock=clock)
    STARTS[start](breaker, clock)
    assert breaker.state == start
    getattr(breaker, action)()
    if action == "isolate":
        with pytest.raises(CircuitOpen):
            breaker.call(lambda: 1)
        clock.advance(1e6)
        with pytest.raises(CircuitOpen):
            breaker.call(lambda: 1)
    elif action == "reset":
        assert breaker.state is State.CLOSED
        assert breaker.metrics.calls == 0
        fail(breaker)
        assert breaker.state is State.OPEN
    else:
        fail(breaker, 5)
        assert breaker.state == {"disable": "disabled"}.get(action, action)
        assert breaker.metrics.failures == (5 if action == "metrics_only" else 0)


def test_a_probe_that_ends_after_a_manual_change_changes_nothing(clock):
    breaker = tripped(clock)
    clock.advance(10)
    with breaker.guard():
        breaker.isolate()
    assert breaker.state is State.ISOLATED


# --- 15: growing breaks ----------------------------------------------------------------------------------


def test_the_break_grows_with_failed_probes_up_to_its_cap(clock):
    breaker = tripped(clock, growth=2.0, max_open=60.0)
    waits = []
    for _ in range(2000):
        with pytest.raises(CircuitOpen) as caught:
            breaker.call(boom)
        waits.append(caught.value.retry_after)
        clock.advance(60)
        fail(breaker)
    assert waits[:5] == pytest.approx([10, 20, 40, 60, 60])
    assert waits[-1] == pytest.approx(60)
    clock.advance(60)
    breaker.call(lambda: 1)
    fail(breaker)
    with pytest.raises(CircuitOpen) as caught:
        breaker.call(boom)
    assert caught.value.retry_after == pytest.approx(10)  # recovery starts it over


# --- counting without a lock -------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [{"window_calls": 400_000}, {"window": 600.0}])
def test_no_success_is_lost_between_threads(window):
    breaker = CircuitBreaker("b", **window)
    guarded = breaker(lambda: None)

    def hammer() -> None:
        for _ in range(20_000):
            guarded()

    threads = [threading.Thread(target=hammer) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert breaker.metrics.calls == 160_000
