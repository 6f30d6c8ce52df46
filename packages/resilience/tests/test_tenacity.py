"""tenacity's strategies behave under our loop as they do under tenacity's."""

import asyncio
import inspect
import random
import sys
import threading

import pytest
import tenacity as t
import tenacity.asyncio.retry as async_retry
from maestro_resilience import ConfigurationError, Retry
from maestro_resilience.testing import FakeClock

WAITS = {
    "none": t.wait_none(),
    "fixed": t.wait_fixed(2),
    "incrementing": t.wait_incrementing(1, 2, 4),
    "exponential": t.wait_exponential(multiplier=0.5, max=3),
    "chain": t.wait_chain(t.wait_fixed(1), t.wait_fixed(2), t.wait_fixed(3)),
    "combine": t.wait_fixed(1) + t.wait_fixed(2),
    "random": t.wait_random(1, 3),
    "random exponential": t.wait_random_exponential(multiplier=0.5, max=9),
    "exponential with jitter": t.wait_exponential_jitter(initial=1, max=9),
    "jitter of nothing": t.wait_exponential_jitter(initial=1, max=4, jitter=0),
    "exception": t.wait_exception(lambda e: len(str(e)) / 2),
    "own function": lambda state: state.attempt_number * 1.5,
}
SET, UNSET = threading.Event(), threading.Event()
SET.set()
STOPS = {
    "event": t.stop_when_event_set(SET),
    "event that never comes": t.stop_any(
        t.stop_when_event_set(UNSET), t.stop_after_attempt(3)
    ),
    "never": t.stop_any(t.stop_never, t.stop_after_attempt(4)),
    "attempt": t.stop_after_attempt(4),
    "delay": t.stop_after_delay(5),
    "before delay": t.stop_before_delay(5),
    "any": t.stop_after_attempt(3) | t.stop_after_delay(100),
    "all": t.stop_all(t.stop_after_attempt(2), t.stop_after_delay(3)),
}
RETRIES = {
    "always": t.retry_always,
    "never": t.retry_never,
    "type": t.retry_if_exception_type(OSError),
    "not type": t.retry_if_not_exception_type(ValueError),
    "unless type": t.retry_unless_exception_type(ValueError),
    "predicate": t.retry_if_exception(lambda e: "soft" in str(e)),
    "message": t.retry_if_exception_message(match="soft.*"),
    "not message": t.retry_if_not_exception_message(match="hard.*"),
    "cause": t.retry_if_exception_cause_type(KeyError),
    "result": t.retry_if_result(lambda r: r == "again"),
    "not result": t.retry_if_not_result(lambda r: r == "good"),
    "any": t.retry_if_exception_type(OSError)
    | t.retry_if_result(lambda r: r == "again"),
    "all": t.retry_all(
        t.retry_if_exception_type(OSError), t.retry_if_exception_message(match="soft")
    ),
}
SCRIPTS = [
    ["again", OSError("soft one"), ValueError("hard"), "good"],
    [OSError("soft"), "again", OSError("hard one"), "good"],
    [OSError("soft")] * 9,
    ["again"] * 9,
    ["good"],
]


class Body:
    """Play a script of results and errors; each call takes 0.25 s."""

    def __init__(self, clock: FakeClock, script: list) -> None:
        self.clock, self.script, self.calls = clock, list(script), 0

    def __call__(self) -> object:
        self.calls += 1
        self.clock.advance(0.25)
        step = self.script.pop(0) if self.script else "good"
        if isinstance(step, Exception):
            raise step from KeyError("cause")
        return step


def seen(run, body: Body) -> tuple:
    """Return what happened: the outcome, the calls, the sleeps."""
    try:
        outcome = ("returned", run())
    except t.RetryError as error:  # theirs for a result that never got good
        outcome = ("returned", error.last_attempt.result())
    except Exception as error:
        outcome = ("raised", repr(error))
    return outcome, body.calls, [pytest.approx(s) for s in body.clock.sleeps]


def both(monkeypatch, script, **strategies) -> tuple[tuple, tuple]:
    clock = FakeClock(0.0)
    body = Body(clock, script)
    random.seed(7)  # some of the waits draw from the global generator
    monkeypatch.setattr(t.time, "monotonic", clock.monotonic)
    theirs = t.Retrying(sleep=clock.sleep, reraise=True, **strategies)
    reference = seen(lambda: theirs(body), body)
    monkeypatch.undo()
    random.seed(7)
    clock = FakeClock(0.0)
    body = Body(clock, script)
    given = dict(strategies)
    if "retry" in given:
        given["on"] = given.pop("retry")
    ours = Retry(clock=clock, retry_after=False, **given)
    return seen(lambda: ours.call(body), body), reference


@pytest.mark.parametrize("name", WAITS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_waits_are_the_same(monkeypatch, name, script):
    strategies = {"wait": WAITS[name], "stop": t.stop_after_attempt(5)}
    ours, theirs = both(monkeypatch, script, **strategies)
    assert ours == theirs


@pytest.mark.parametrize("name", STOPS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_stops_are_the_same(monkeypatch, name, script):
    strategies = {"wait": t.wait_fixed(1), "stop": STOPS[name]}
    ours, theirs = both(monkeypatch, script, **strategies)
    assert ours == theirs


@pytest.mark.parametrize("name", RETRIES)
@pytest.mark.parametrize("script", SCRIPTS)
def test_retries_are_the_same(monkeypatch, name, script):
    strategies = {
        "wait": t.wait_fixed(1),
        "stop": t.stop_after_attempt(4),
        "retry": RETRIES[name],
    }
    ours, theirs = both(monkeypatch, script, **strategies)
    assert ours == theirs


def test_every_strategy_of_tenacity_is_compared():
    bases = {"wait": t.wait.wait_base, "stop": t.stop.stop_base}
    bases["retry"] = t.retry_base
    known = {
        name
        for kind, base in bases.items()
        for name, value in vars(t).items()
        if name.startswith(f"{kind}_")
        and (isinstance(value, base) or (isinstance(value, type) and value is not base))
    }
    here = inspect.getsource(sys.modules[__name__])
    by_operator = {"wait_combine", "retry_any"}
    missing = {n for n in known - by_operator if f"t.{n}" not in here}
    assert missing <= {"wait_full_jitter", "wait_random_exponential", "retry_base"}
    assert len(known) > 25


def test_cancellation_reaches_no_strategy():
    """tenacity retries CancelledError under retry_if_not_exception_type."""
    calls = []

    @Retry(on=t.retry_if_not_exception_type(ValueError), stop=t.stop_after_attempt(5))
    async def body() -> None:
        calls.append(1)
        raise asyncio.CancelledError

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await body()

    asyncio.run(main())
    assert calls == [1]


def test_async_strategies_are_awaited():
    async def soft(error: BaseException) -> bool:
        await asyncio.sleep(0)
        return "soft" in str(error)

    clock = FakeClock()
    body = Body(clock, [OSError("soft"), OSError("soft"), OSError("hard")])
    retry = Retry(
        9, on=async_retry.retry_if_exception(soft), wait=t.wait_fixed(1), clock=clock
    )

    async def call() -> object:
        return body()

    with pytest.raises(OSError, match="hard"):
        asyncio.run(retry(call)())
    assert body.calls == 3
    with pytest.raises(TypeError, match="async retry strategy"):
        retry.call(body)


def test_on_result_beside_a_tenacity_strategy_is_refused():
    with pytest.raises(ConfigurationError, match="on_result"):
        Retry(on=t.retry_always, on_result=lambda r: True)
