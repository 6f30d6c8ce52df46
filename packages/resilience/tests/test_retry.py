"""Retry: attempts, waits, what is raised, what is never retried."""

import asyncio
import gc
import random
import traceback
import weakref

import pytest
from maestro_resilience import (
    CircuitBreaker,
    CircuitOpen,
    DeadlineExceeded,
    Retry,
    RetryBudget,
    State,
    deadline,
    decorrelated_jitter,
    equal_jitter,
    full_jitter,
)
from maestro_resilience._attempt import AttemptState
from maestro_resilience.http import parse_retry_after
from maestro_resilience.testing import FakeClock, capture, fake_clock


class Flaky:
    """Fail `failures` times, then return the number of the call."""

    def __init__(self, failures: int, error=ConnectionError) -> None:
        self.failures = failures
        self.error = error
        self.calls = 0

    def __call__(self, *args: object) -> int:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error(f"call {self.calls}")
        return self.calls

    __name__ = "flaky"


# --- 17: attempts and what is raised --------------------------------------------------


def test_attempts_count_the_first_call(mode, clock):
    body = Flaky(99)
    guarded = Retry(attempts=4, wait=1, clock=clock)(mode.function(body))
    with pytest.raises(ConnectionError, match="call 4"):
        mode.run(guarded)
    assert body.calls == 4
    assert clock.sleeps == [1, 1, 1]


def test_one_attempt_means_no_retry(mode, clock):
    body = Flaky(99)
    with pytest.raises(ConnectionError):
        mode.run(Retry(attempts=1, clock=clock)(mode.function(body)))
    assert (body.calls, clock.sleeps) == (1, [])


def test_a_later_success_is_returned(mode, clock):
    assert (
        mode.run(Retry(attempts=4, wait=1, clock=clock)(mode.function(Flaky(2)))) == 3
    )


def test_the_last_original_error_is_raised_with_a_note(mode, clock):
    raised = []

    def body() -> None:
        raised.append(ConnectionError(len(raised)))
        raise raised[-1]

    with pytest.raises(ConnectionError) as caught:
        mode.run(Retry(attempts=3, wait=1, clock=clock)(mode.function(body)))
    assert caught.value is raised[-1]
    assert caught.value.__context__ is None
    assert caught.value.__notes__ == [
        "maestro-resilience: retry gave up after 3 attempts and 2 s of waiting (attempts)"
    ]


def test_the_traceback_does_not_grow_with_attempts(clock):
    def depth(attempts: int) -> int:
        def body() -> None:
            raise ConnectionError

        with pytest.raises(ConnectionError) as caught:
            Retry(attempts=attempts, wait=0, clock=clock).call(body)
        return len(traceback.extract_tb(caught.value.__traceback__))

    assert depth(50) == depth(2)


def test_an_error_object_raised_again_keeps_a_short_traceback_and_one_note(clock):
    error = ConnectionError("the same each time")

    def body() -> None:
        raise error

    with pytest.raises(ConnectionError):
        Retry(attempts=40, wait=0, clock=clock).call(body)
    assert len(traceback.extract_tb(error.__traceback__)) < 12
    with pytest.raises(ConnectionError):
        Retry(attempts=2, wait=0, clock=clock).call(body)
    assert len(error.__notes__) == 1


def test_other_errors_are_raised_at_once(mode, clock):
    body = Flaky(9, ValueError)
    guarded = Retry(attempts=4, on=(OSError, LookupError), clock=clock)
    with pytest.raises(ValueError, match="call 1"):
        mode.run(guarded(mode.function(body)))


def test_predicates_choose(mode, clock):
    retry = Retry(attempts=9, wait=0, on=lambda e: "call 1" in str(e), clock=clock)
    body = Flaky(9)
    with pytest.raises(ConnectionError, match="call 2"):
        mode.run(retry(mode.function(body)))


def test_results_can_ask_for_another_attempt(mode, clock):
    body = Flaky(0)
    retry = Retry(attempts=3, wait=1, on_result=lambda n: n < 3, clock=clock)
    assert mode.run(retry(mode.function(body))) == 3
    body = Flaky(0)
    retry = Retry(attempts=2, wait=1, on_result=lambda n: n < 3, clock=clock)
    assert mode.run(retry(mode.function(body))) == 2  # the last one, when none is good


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_exits_are_never_retried(mode, clock, error):
    body = Flaky(9, error)
    with pytest.raises(error):
        mode.run(Retry(attempts=5, clock=clock)(mode.function(body)))
    assert body.calls == 1


def test_cancellation_is_never_retried_and_ends_a_wait():
    calls = []

    @Retry(attempts=5, wait=60)
    async def body(hang: bool) -> None:
        calls.append(1)
        if hang:
            await asyncio.sleep(60)
        raise ConnectionError

    async def main() -> None:
        for hang in (True, False):
            task = asyncio.create_task(body(hang))
            await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert len(calls) == 2


def test_state_is_per_call_also_when_calls_interleave(clock):
    retry = Retry(attempts=3, wait=0, clock=clock)

    async def main() -> list[object]:
        bodies = [Flaky(n) for n in (0, 1, 2, 3, 0, 1)]

        async def run(body: Flaky) -> int:
            @retry
            async def guarded() -> int:
                await asyncio.sleep(0)
                return body()

            return await guarded()

        return await asyncio.gather(*map(run, bodies), return_exceptions=True)

    results = asyncio.run(main())
    assert isinstance(results.pop(3), ConnectionError)
    assert results == [1, 2, 3, 1, 2]


# --- 18: jitter -------------------------------------------------------------------------


def state_at(attempt: int, last_wait: float = 0.0) -> AttemptState:
    state = AttemptState(None, (), {}, FakeClock(), 0.0)
    state.attempt_number = attempt
    state.last_wait = last_wait
    return state


@pytest.mark.parametrize("jitter", [full_jitter, equal_jitter, decorrelated_jitter])
@pytest.mark.parametrize("attempt", [1, 2, 5, 10, 1000, 10**6])
def test_jitter_stays_within_its_bounds(jitter, attempt):
    strategy = jitter(0.1, 5.0, random=random.Random(attempt).random)
    ceiling = min(5.0, 0.1 * 2.0 ** min(attempt - 1, 60))
    low, high = {
        full_jitter: (0.0, ceiling),
        equal_jitter: (ceiling / 2, ceiling),
        decorrelated_jitter: (0.1, 5.0),
    }[jitter]
    waits = [strategy(state_at(attempt, 2.0)) for _ in range(300)]
    assert low <= min(waits) <= max(waits) <= high


def test_full_jitter_is_uniform():
    strategy = full_jitter(1.0, 64.0, random=random.Random(7).random)
    waits = [strategy(state_at(4)) for _ in range(4000)]
    quarters = [sum(q * 2 <= w < (q + 1) * 2 for w in waits) for q in range(4)]
    assert all(850 < count < 1150 for count in quarters)


def test_listed_waits_repeat_the_last(clock):
    with pytest.raises(ConnectionError):
        Retry(attempts=5, wait=[0.1, 0.5, 2], clock=clock).call(Flaky(9))
    assert clock.sleeps == [0.1, 0.5, 2, 2]


def test_the_default_wait_is_full_jitter():
    assert isinstance(Retry()._wait, full_jitter)


# --- 16 and 19: the wait that an error asks for ------------------------------------------


def test_an_open_breaker_is_waited_for_and_an_isolated_one_is_not(mode, clock):
    breaker = CircuitBreaker("b", minimum_calls=1, open_for=7, clock=clock)
    body = Flaky(1)
    retry = Retry(attempts=3, wait=0, clock=clock)
    assert mode.run(retry(breaker(mode.function(body)))) == 2
    assert clock.sleeps == [0, 7]
    breaker.isolate()
    with pytest.raises(CircuitOpen) as caught:
        mode.run(retry(breaker(mode.function(body))))
    assert "(retry_after)" in caught.value.__notes__[0]
    assert clock.sleeps == [0, 7]


def test_an_open_breaker_that_asks_for_too_much_ends_the_retries(clock):
    breaker = CircuitBreaker("b", minimum_calls=1, open_for=70, clock=clock)
    with pytest.raises(CircuitOpen):
        Retry(attempts=9, wait=0, max_retry_after=60, clock=clock).call(
            breaker(Flaky(9))
        )
    assert clock.sleeps == [0]


def test_rejections_inside_are_not_failures_of_an_outer_breaker(clock):
    inner = CircuitBreaker("inner", clock=clock)
    inner.isolate()
    outer = CircuitBreaker("outer", minimum_calls=1, clock=clock)
    with pytest.raises(CircuitOpen):
        outer.call(inner(lambda: 1))
    assert outer.state is State.CLOSED
    assert outer.metrics.calls == 0


class Throttled(Exception):
    def __init__(self, header: str | None = None, attribute: object = None) -> None:
        self.retry_after = attribute
        self.headers = {} if header is None else {"Retry-After": header}


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (Throttled("3"), 3.0),
        (Throttled(attribute=2.5), 2.5),
        (Throttled("120"), 60.0),  # capped
        (Throttled("Wed, 21 Oct 2015 07:28:00 GMT"), 1.0),  # past: ignored
        (Throttled("soon"), 1.0),
        (Throttled("0"), 1.0),  # raises the wait, never lowers it
        (Throttled(attribute=float("nan")), 1.0),
    ],
)
def test_retry_after_raises_the_wait(mode, clock, error, wait):
    def body() -> None:
        raise error

    with pytest.raises(Throttled):
        mode.run(Retry(attempts=2, wait=1, clock=clock)(mode.function(body)))
    assert clock.sleeps == [wait]


def test_an_http_date_is_read_against_the_wall_clock():
    value = "Wed, 21 Oct 2015 07:28:00 GMT"
    assert parse_retry_after(value, wall_clock=lambda: 1445412480 - 30) == 30


def test_retry_after_on_a_response_object(clock):
    class Response:
        headers = {"retry-after": "4"}

    class HTTPStatusError(Exception):
        response = Response()

    with pytest.raises(HTTPStatusError):
        Retry(attempts=2, wait=0, clock=clock).call(Flaky(9, HTTPStatusError))
    assert clock.sleeps == [4]


# --- 20: deadlines ------------------------------------------------------------------------


def test_no_attempt_and_no_sleep_beyond_the_deadline(mode):
    body = Flaky(99)
    with fake_clock() as clock:
        guarded = Retry(attempts=99, wait=2)(mode.function(body))
        with deadline(5), pytest.raises(ConnectionError, match="call 3") as caught:
            mode.run(guarded)
        assert clock.sleeps == [2, 2]
        assert "(deadline)" in caught.value.__notes__[0]
        with deadline(5):
            clock.advance(5)
            with pytest.raises(DeadlineExceeded):
                mode.run(guarded)
    assert body.calls == 3


def test_a_retry_after_beyond_the_deadline_is_refused():
    with fake_clock() as clock, deadline(5):
        with pytest.raises(Throttled):
            Retry(attempts=3, wait=0).call(Flaky(9, lambda _: Throttled("30")))
        assert clock.sleeps == []


def test_nested_deadlines_only_shorten():
    from maestro_resilience import time_remaining

    assert time_remaining() is None
    with fake_clock() as clock, deadline(5):
        with deadline(50):
            assert time_remaining() == pytest.approx(5)
        with deadline(1):
            assert time_remaining() == pytest.approx(1)
        assert time_remaining() == pytest.approx(5)
        clock.advance(9)
        assert time_remaining() == 0
    assert time_remaining() is None


# --- 22: budgets ----------------------------------------------------------------------------


def test_a_budget_bounds_the_load_of_a_total_outage(clock):
    budget = RetryBudget(ratio=0.1, floor=1, window=10, clock=clock)
    body = Flaky(10**9)
    guarded = Retry(attempts=4, wait=0, budget=budget, clock=clock)(body)
    for _ in range(1000):
        with pytest.raises(ConnectionError):
            guarded()
        clock.advance(0.01)
    assert 1000 + 100 - 5 <= body.calls <= 1000 * 1.1 + 10


def test_a_long_quiet_past_does_not_fill_the_budget(clock):
    budget = RetryBudget(ratio=0.1, floor=0, window=10, clock=clock)
    for _ in range(10_000):
        budget.deposit()
    clock.advance(60)
    budget.deposit()
    assert not budget.withdraw()


def test_nested_retries_can_be_told_not_to_multiply(mode, clock):
    def calls(**settings) -> int:
        body = Flaky(10**9)
        inner = Retry(attempts=10, wait=0, clock=clock, **settings)
        middle = Retry(attempts=10, wait=0, clock=clock, **settings)
        outer = Retry(attempts=10, wait=0, clock=clock)
        with pytest.raises(ConnectionError):
            mode.run(outer(middle(inner(mode.function(body)))))
        return body.calls

    assert calls() == 1000
    assert calls(multiply=False) == 28  # 10 + 9 + 9


# --- 30: nothing is kept alive -----------------------------------------------------------------


class Payload:
    pass


def test_nothing_is_kept_alive_after_exhaustion(mode, clock):
    refs = []

    def body() -> None:
        payload = Payload()
        refs.append(weakref.ref(payload))
        raise ConnectionError

    guarded = Retry(attempts=3, wait=0, clock=clock)(mode.function(body))

    def drive() -> None:
        try:
            guarded()
        except ConnectionError:
            pass

    async def drive_async() -> None:
        # Inside, because asyncio.run itself ties the error to its task in a cycle.
        try:
            await guarded()
        except ConnectionError:
            pass

    gc.collect()
    gc.disable()
    try:
        drive() if mode.name == "sync" else asyncio.run(drive_async())
        assert [ref() for ref in refs] == [None] * 3
    finally:
        gc.enable()


# --- block form ----------------------------------------------------------------------------------


def test_the_block_form_retries(clock):
    body, numbers = Flaky(2), []
    for attempt in Retry(attempts=4, wait=1, clock=clock):
        with attempt:
            numbers.append(attempt.number)
            body()
    assert numbers == [1, 2, 3]
    assert clock.sleeps == [1, 1]


def test_the_block_form_raises_the_last_error(clock):
    body = Flaky(9)
    with pytest.raises(ConnectionError, match="call 2"):
        for attempt in Retry(attempts=2, wait=1, clock=clock):
            with attempt:
                body()


def test_the_async_block_form(clock):
    async def main() -> int:
        body = Flaky(2)
        async for attempt in Retry(attempts=4, wait=1, clock=clock):
            async with attempt:
                body()
        return body.calls

    assert asyncio.run(main()) == 3


def test_a_block_can_look_at_its_result(clock):
    tries = 0
    for attempt in Retry(attempts=4, wait=0, on_result=lambda n: n < 3, clock=clock):
        with attempt:
            tries += 1
            attempt.set_result(tries)
    assert tries == 3


def test_a_block_passes_exits_through(clock):
    tries = 0
    with pytest.raises(KeyboardInterrupt):
        for attempt in Retry(attempts=4, wait=0, clock=clock):
            with attempt:
                tries += 1
                raise KeyboardInterrupt
    assert tries == 1


# --- events ------------------------------------------------------------------------------------------


def test_every_attempt_is_told(mode, clock):
    with capture() as events, pytest.raises(ConnectionError):
        mode.run(
            Retry(attempts=2, wait=1, name="r", clock=clock)(mode.function(Flaky(9)))
        )
    assert [type(e).__name__ for e in events] == [
        "AttemptFinished",
        "RetryScheduled",
        "AttemptFinished",
        "RetriesExhausted",
    ]
    assert {e.policy for e in events} == {"r"}
    assert events[-1].reason == "attempts"
