"""Bulkhead, RateLimiter and AdaptiveLimit."""

import asyncio
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from maestro_resilience import (
    AdaptiveLimit,
    Bulkhead,
    BulkheadFull,
    CircuitBreaker,
    RateLimited,
    RateLimiter,
    State,
    deadline,
)
from maestro_resilience.testing import FakeClock


def wait_until(condition, seconds: float = 30.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.002)


class Peak:
    """Count how many are inside at a time."""

    def __init__(self) -> None:
        self.inside = self.most = self.calls = 0
        self.lock = threading.Lock()

    def enter(self) -> None:
        with self.lock:
            self.inside += 1
            self.calls += 1
            self.most = max(self.most, self.inside)

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1


def test_the_limit_holds_over_threads_and_two_event_loops():
    bulkhead, peak = Bulkhead(4, wait=60), Peak()

    @bulkhead
    def sync_body() -> None:
        peak.enter()
        time.sleep(0.0005)
        peak.leave()

    @bulkhead
    async def async_body() -> None:
        peak.enter()
        await asyncio.sleep(0.0005)
        peak.leave()

    def threads() -> None:
        for _ in range(40):
            sync_body()

    def loop() -> None:
        async def main() -> None:
            await asyncio.gather(*(async_body() for _ in range(80)))

        asyncio.run(main())

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(t) for t in (threads, loop, threads, loop, threads)]
        for future in futures:
            future.result()
    assert peak.calls == 3 * 40 + 2 * 80
    assert peak.most <= 4
    assert (bulkhead.in_flight, bulkhead.waiting) == (0, 0)


def test_a_full_bulkhead_rejects_and_outer_breakers_do_not_mind(mode):
    breaker, bulkhead = CircuitBreaker("b", minimum_calls=1), Bulkhead(1)
    with bulkhead.guard(), pytest.raises(BulkheadFull, match="all 1 slots"):
        mode.run(breaker(bulkhead(mode.function(lambda: 1))))
    assert breaker.state is State.CLOSED
    assert mode.run(bulkhead(mode.function(lambda: 1))) == 1


def test_those_who_wait_are_served_in_order():
    bulkhead, order = Bulkhead(1, wait=30), []

    async def main() -> None:
        async def body(i: int) -> None:
            async with bulkhead.guard():
                order.append(i)
                await asyncio.sleep(0)

        await asyncio.gather(*(body(i) for i in range(20)))

    asyncio.run(main())
    assert order == list(range(20))


def test_threads_that_wait_are_served_in_order():
    bulkhead, order = Bulkhead(1, wait=30), []
    with ThreadPoolExecutor(8) as pool, bulkhead.guard():
        for i in range(8):
            pool.submit(bulkhead.call, order.append, i)
            wait_until(lambda: bulkhead.waiting == len(order) + i + 1)  # noqa: B023 - used at once
    assert order == list(range(8))


def test_the_wait_is_over_within_a_tenth_of_its_length(mode):
    wait = 0.5
    bulkhead = Bulkhead(1, wait=wait)
    guarded = bulkhead(mode.function(lambda: 1))

    async def waited_async() -> float:
        started = time.monotonic()
        with pytest.raises(BulkheadFull):
            await guarded()
        return time.monotonic() - started

    def waited() -> float:
        started = time.monotonic()
        with pytest.raises(BulkheadFull):
            guarded()
        return time.monotonic() - started

    took = []
    with bulkhead.guard():
        while len(took) < 6:  # a busy machine may be late, but not every time
            took.append(
                waited() if mode.name == "sync" else asyncio.run(waited_async())
            )
            assert took[-1] >= wait * 0.999
            if took[-1] <= wait * 1.1:
                break
    assert min(took) <= wait * 1.1
    assert bulkhead.waiting == 0


def test_a_bulkhead_that_nobody_uses_any_more_is_collected():
    bulkhead = Bulkhead(3)
    with bulkhead.guard():
        pass
    gone = weakref.ref(bulkhead)
    del bulkhead
    gc.collect()
    assert gone() is None


def test_a_slot_that_is_dropped_goes_to_the_next_in_line():
    bulkhead = Bulkhead(1, wait=30)
    token = bulkhead._enter()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(bulkhead.call, lambda: "served")
        wait_until(lambda: bulkhead.waiting == 1)
        del token
        assert waiting.result(20) == "served"
    assert bulkhead.in_flight == 0


def test_the_queue_is_limited():
    bulkhead = Bulkhead(1, wait=30, queue=1)
    with ThreadPoolExecutor(1) as pool:
        with bulkhead.guard():
            waiting = pool.submit(bulkhead.call, lambda: "served")
            wait_until(lambda: bulkhead.waiting == 1)
            with pytest.raises(BulkheadFull):
                bulkhead.call(lambda: 1)
        assert waiting.result() == "served"


def test_a_cancelled_waiter_leaves_no_ghost():
    bulkhead = Bulkhead(1, wait=30)

    async def main() -> None:
        async with bulkhead.guard():
            tasks = [asyncio.create_task(bulkhead(body)()) for _ in range(3)]
            await asyncio.sleep(0)
            assert bulkhead.waiting == 3
            tasks[0].cancel()
            await asyncio.sleep(0)
            assert bulkhead.waiting == 2
        # Granted and cancelled in the same turn of the loop: the slot moves on.
        tasks[1].cancel()
        assert await tasks[2] == "in"
        await asyncio.gather(*tasks, return_exceptions=True)

    async def body() -> str:
        return "in"

    asyncio.run(main())
    assert (bulkhead.in_flight, bulkhead.waiting) == (0, 0)


def test_a_deadline_shortens_the_wait():
    bulkhead = Bulkhead(1, wait=60)
    started = time.monotonic()
    with bulkhead.guard(), deadline(0.03), pytest.raises(BulkheadFull):
        bulkhead.call(lambda: 1)
    assert time.monotonic() - started < 30


def test_a_slot_comes_back_however_the_call_ends(mode):
    bulkhead = Bulkhead(1)
    for error in (ValueError, KeyboardInterrupt, GeneratorExit):

        def body(error=error) -> None:
            raise error

        with pytest.raises(error):
            mode.run(bulkhead(mode.function(body)))
    assert bulkhead.in_flight == 0


# --- rate limiter ---------------------------------------------------------------------------


def test_the_rate_holds_after_a_burst(clock):
    limiter = RateLimiter(10, burst=3, clock=clock)
    passed = 0
    for _ in range(1001):
        try:
            limiter.call(lambda: None)
            passed += 1
        except RateLimited:
            pass
        clock.advance(0.01)
    assert passed == 3 + 100


def test_a_rejection_says_when_to_come_back(clock):
    limiter = RateLimiter(2, burst=1, clock=clock)
    limiter.call(lambda: 1)
    with pytest.raises(RateLimited, match=r"try again in 0.5 s") as caught:
        limiter.call(lambda: 1)
    clock.advance(caught.value.retry_after)
    assert limiter.call(lambda: 1) == 1


def test_a_rate_limit_is_no_failure_to_an_outer_breaker(mode, clock):
    breaker = CircuitBreaker("b", minimum_calls=1)
    limiter = RateLimiter(1, burst=1, clock=clock)
    guarded = breaker(limiter(mode.function(lambda: 1)))
    assert mode.run(guarded) == 1
    with pytest.raises(RateLimited):
        mode.run(guarded)
    assert breaker.state is State.CLOSED
    assert breaker.metrics.calls == 1


def test_a_call_may_wait_for_its_turn(mode, clock):
    limiter = RateLimiter(2, burst=1, wait=1, clock=clock)
    guarded = limiter(mode.function(lambda: 1))
    for _ in range(3):
        mode.run(guarded)
    assert clock.sleeps == pytest.approx([0.5, 0.5], rel=1e-4)


def test_a_cancelled_wait_gives_its_turn_back():
    limiter = RateLimiter(1, per=60, burst=1, wait=600)

    async def main() -> None:
        @limiter
        async def body() -> None: ...

        await body()
        before = limiter._next
        task = asyncio.create_task(body())
        await asyncio.sleep(0)
        assert limiter._next == before + 60
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert limiter._next == before

    asyncio.run(main())


# --- adaptive limit -----------------------------------------------------------------------------


def simulate(
    limit: AdaptiveLimit, clock: FakeClock, capacity: int, rounds: int
) -> None:
    """Load a service that answers in 0.1 s and queues above its capacity."""
    for _ in range(rounds):
        guards = []
        while len(guards) < 200:
            try:
                guards.append(limit.guard())
                guards[-1].__enter__()
            except BulkheadFull:
                guards.pop()
                break
        clock.advance(0.1 * max(1.0, len(guards) / capacity))
        for guard in guards:
            guard.__exit__(None, None, None)
    assert limit.in_flight == 0


def test_the_limit_grows_while_calls_are_quick(clock):
    limit = AdaptiveLimit(initial=5, clock=clock)
    simulate(limit, clock, 1000, 50)
    assert limit.limit > 50


def test_the_limit_shrinks_when_calls_queue(clock):
    limit = AdaptiveLimit(initial=20, most=150, clock=clock)
    simulate(limit, clock, 1000, 20)
    before = limit.limit
    simulate(limit, clock, 20, 1)
    assert limit.limit < before / 2


def test_an_idle_service_teaches_nothing(clock):
    limit = AdaptiveLimit(initial=50, clock=clock)
    for _ in range(100):
        with limit.guard():
            clock.advance(0.1)
    assert limit.limit == 50


def test_failures_teach_nothing_but_leave(clock, mode):
    limit = AdaptiveLimit(initial=2, clock=clock)
    for _ in range(5):
        with pytest.raises(ZeroDivisionError):
            mode.run(limit(mode.function(lambda: 1 / 0)))
    assert (limit.in_flight, limit.limit) == (0, 2)
