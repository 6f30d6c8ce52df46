"""Composition: order, fallback, hedge, keyed, streams, and the fused form."""

import asyncio
import copy
import inspect
import os
import pickle
import threading
import time
import warnings
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maestro_resilience import (
    AdaptiveLimit,
    Bulkhead,
    CircuitBreaker,
    CircuitOpen,
    ConfigurationError,
    Fallback,
    Hedge,
    Pipeline,
    RateLimiter,
    ResilienceOrderWarning,
    Retry,
    RetryBudget,
    State,
    Timeout,
    UnknownSetting,
    keyed,
)
from maestro_resilience.store import MemoryBreakerStore
from maestro_resilience.testing import FakeClock, capture, disabled, fake_clock


def boom(*args: object) -> None:
    raise ConnectionError("down")


# --- order ------------------------------------------------------------------------------


def test_the_first_listed_is_the_outermost(mode, clock):
    breaker = CircuitBreaker("b", minimum_calls=2, clock=clock)
    pipeline = Pipeline(Retry(attempts=2, wait=0, clock=clock), breaker)
    with pytest.raises(ConnectionError):
        mode.run(pipeline(mode.function(boom)))
    assert breaker.state is State.OPEN  # it saw both attempts


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ((CircuitBreaker("b"), Retry()), "outside Retry"),
        ((Retry(), Fallback(value=1)), "never sees a failure"),
        ((Retry(), Retry()), "multiply"),
    ],
)
def test_a_doubtful_order_warns(policies, message):
    with pytest.warns(ResilienceOrderWarning, match=message):
        Pipeline(*policies)


def test_print_and_describe_show_the_order():
    pipeline = Pipeline(
        Fallback(value=None), Retry(attempts=4), CircuitBreaker("db"), name="orders"
    )
    assert str(pipeline).splitlines() == [
        "Pipeline 'orders', outermost first:",
        "  Fallback('fallback', value=None)",
        "    Retry('retry', attempts=4)",
        "      CircuitBreaker('db')",
        "        the function",
    ]
    assert [p["type"] for p in pipeline.describe()["policies"]] == [
        "fallback",
        "retry",
        "circuit_breaker",
    ]


def test_a_pipeline_guards_a_block():
    breaker = CircuitBreaker("b", minimum_calls=1)
    pipeline = Pipeline(breaker, Bulkhead(1, name="one"))
    with pytest.raises(ConnectionError), pipeline.guard():
        raise ConnectionError
    assert breaker.state is State.OPEN
    with pytest.raises(TypeError, match="for attempt in retry"):
        Pipeline(Retry(), breaker).guard()


# --- what decoration keeps ----------------------------------------------------------------

POLICIES = [
    CircuitBreaker("b"),
    Retry(),
    Timeout(5),
    Bulkhead(3),
    RateLimiter(1000),
    Fallback(value=1),
    Hedge(5),
    AdaptiveLimit(),
    Pipeline(Retry(), CircuitBreaker("p")),
]


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.kind)
def test_a_decorated_function_keeps_its_face(policy):
    def sync_one(a: int, *, b: str = "x") -> str:
        """Say something."""
        return b * a

    async def async_one(a: int) -> int:
        return a

    guarded = policy(sync_one)
    assert guarded.__name__ == "sync_one"
    assert guarded.__doc__ == "Say something."
    assert inspect.signature(guarded) == inspect.signature(sync_one)
    assert not inspect.iscoroutinefunction(guarded)
    assert guarded(2, b="y") == "yy"
    assert inspect.iscoroutinefunction(policy(async_one))
    assert asyncio.run(policy(async_one)(4)) == 4
    assert policy.call(sync_one, 3) == "xxx"


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.kind)
def test_methods_are_bound(policy):
    class Thing:
        n = 5

        @policy
        def plain(self, k: int) -> int:
            return self.n + k

        @policy
        @classmethod
        def of_class(cls) -> int:
            return cls.n

        @policy
        @staticmethod
        def static(k: int) -> int:
            return k

    assert (Thing().plain(1), Thing.of_class(), Thing.static(2)) == (6, 5, 2)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.kind)
def test_policies_can_be_pickled_and_copied(policy):
    for copied in (pickle.loads(pickle.dumps(policy)), copy.deepcopy(policy)):
        assert copied.describe() == policy.describe()
        assert copied.call(lambda: 7) == 7


def test_a_copied_breaker_has_a_state_of_its_own():
    breaker = CircuitBreaker("b", minimum_calls=1, listeners=[print])
    breaker.isolate()
    assert copy.deepcopy(breaker).state is State.CLOSED


def test_a_forked_child_has_fresh_locks():
    breaker, bulkhead = CircuitBreaker("b", minimum_calls=1), Bulkhead(1, wait=5)
    guarded = Pipeline(Timeout(20), Retry(attempts=1), breaker, bulkhead)(os.getpid)
    held, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with breaker._lock, bulkhead._lock, bulkhead.guard():
            held.set()
            leave.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
        child = os.fork()
    if child == 0:
        ok = False
        try:
            breaker.isolate()
            breaker.reset()
            ok = guarded() == os.getpid()
        finally:
            os.write(write, b"1" if ok else b"0")
            os._exit(0)
    os.close(write)
    assert os.read(read, 1) == b"1"
    os.close(read)
    os.waitpid(child, 0)
    leave.set()
    thread.join()


def test_disabled_lets_everything_through(mode):
    breaker = CircuitBreaker("b", minimum_calls=1)
    breaker.isolate()
    calls = []
    pipeline = Pipeline(Fallback(value=0), Retry(attempts=9), breaker, Bulkhead(1))
    guarded = pipeline(mode.function(lambda: calls.append(1)))
    with disabled():
        mode.run(guarded)
    assert calls == [1]


# --- streams ------------------------------------------------------------------------------


def numbers(failures: list[int], at: int = 0):
    for i in range(3):
        if i == at and failures:
            failures.pop()
            raise ConnectionError("stream")
        yield i


async def async_numbers(failures: list[int], at: int = 0):
    for item in numbers(failures, at):
        yield item


async def collect(stream) -> list[int]:
    return [item async for item in stream]


def take(guarded, *args) -> list[int]:
    stream = guarded(*args)
    return list(stream) if inspect.isgenerator(stream) else asyncio.run(collect(stream))


@pytest.mark.parametrize("body", [numbers, async_numbers])
def test_a_stream_counts_as_one_call(body):
    breaker = CircuitBreaker("b", minimum_calls=2)
    assert take(breaker(body), []) == [0, 1, 2]
    with pytest.raises(ConnectionError):
        take(breaker(body), [1], 2)
    with pytest.raises(CircuitOpen, match="1 of 2 calls failed"):
        take(breaker(body), [])


@pytest.mark.parametrize("body", [numbers, async_numbers])
def test_a_stream_is_retried_only_before_its_first_item(clock, body):
    guarded = Retry(attempts=3, wait=0, clock=clock)(body)
    assert take(guarded, [1, 1]) == [0, 1, 2]
    with pytest.raises(ConnectionError):
        take(guarded, [1], 1)


@pytest.mark.parametrize("policy", [CircuitBreaker("b"), Retry()])
def test_a_guarded_generator_still_receives(policy):
    def echo():
        got = yield "ready"
        while got != "stop":
            try:
                got = yield got
            except LookupError:
                got = yield "caught"
        return "done"

    def outer(results):
        results.append((yield from policy(echo)()))

    results = []
    stream = outer(results)
    assert next(stream) == "ready"
    assert stream.send("a") == "a"
    assert stream.throw(LookupError()) == "caught"
    with pytest.raises(StopIteration):
        stream.send("stop")
    assert results == ["done"]


@pytest.mark.parametrize(
    "policy", [Timeout(1), Fallback(value=1), Hedge(1), Retry(on_result=str.isdigit)]
)
@pytest.mark.parametrize("body", [numbers, async_numbers])
def test_streams_that_cannot_be_guarded_are_refused_at_decoration(policy, body):
    with pytest.raises(TypeError, match=r"generator|stream"):
        policy(body)


# --- fallback -------------------------------------------------------------------------------


def test_a_fallback_gets_the_error(mode):
    fallback = Fallback(lambda error: [str(error)], on=ConnectionError)
    assert mode.run(fallback(mode.function(boom))) == ["down"]


def test_a_fallback_stands_in_for_listed_errors_only(mode):
    with pytest.raises(ConnectionError):
        mode.run(Fallback(value=1, on=ValueError)(mode.function(boom)))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_fallback_never_hides_exits(mode, error):
    def body() -> None:
        raise error

    with pytest.raises(error):
        mode.run(Fallback(value=1)(mode.function(body)))


@pytest.mark.parametrize(
    "policy", [Fallback(value=1), Pipeline(Fallback(value=1), Retry(wait=0))]
)
def test_a_fallback_never_hides_a_cancellation(policy):
    calls = []

    @policy
    async def body() -> int:
        calls.append(1)
        raise asyncio.CancelledError

    async def main() -> None:
        with pytest.raises(asyncio.CancelledError):
            await body()

    asyncio.run(main())
    assert calls == [1]


def test_an_async_handler_serves_async_functions_only():
    async def handler(error: Exception) -> str:
        return "stand-in"

    async def body() -> str:
        raise ConnectionError

    assert asyncio.run(Fallback(handler)(body)()) == "stand-in"
    with pytest.raises(TypeError, match="async handler"):
        Fallback(handler)(boom)


def test_an_error_in_the_handler_is_chained(mode):
    def handler(error: Exception) -> None:
        raise LookupError("no cache")

    with pytest.raises(LookupError) as caught:
        mode.run(Fallback(handler)(mode.function(boom)))
    assert isinstance(caught.value.__context__, ConnectionError)


def test_a_fallback_guards_a_block():
    with Fallback(value="none").guard() as block:
        boom()
    assert (block.used, block.result) == (True, "none")


# --- hedge -----------------------------------------------------------------------------------


def test_the_first_answer_wins_and_losers_are_cancelled():
    events = []

    async def main() -> str:
        calls = 0

        @Hedge(0.01, attempts=3)
        async def body() -> str:
            nonlocal calls
            calls += 1
            number = calls
            try:
                await asyncio.sleep(60 if number < 3 else 0.001)
            except asyncio.CancelledError:
                events.append(f"cancelled {number}")
                raise
            return f"answer {number}"

        answer = await body()
        assert len(asyncio.all_tasks()) == 1
        return answer

    assert asyncio.run(main()) == "answer 3"
    assert events == ["cancelled 1", "cancelled 2"]


def test_a_quick_answer_starts_no_hedge(mode):
    calls = []
    with capture() as events:
        mode.run(Hedge(30)(mode.function(lambda: calls.append(1))))
    assert (calls, events) == ([1], [])


def test_failures_start_the_next_attempt_and_the_first_error_is_raised(mode):
    calls = []

    def body() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError(len(calls))
        return "third"

    assert mode.run(Hedge(30, attempts=3)(mode.function(body))) == "third"
    calls[:] = []
    with pytest.raises(ConnectionError, match="1"):
        mode.run(Hedge(30, attempts=2)(mode.function(body)))


def test_cancelling_a_hedged_call_leaves_nothing_running():
    async def main() -> None:
        @Hedge(0.001, attempts=4)
        async def body() -> None:
            await asyncio.sleep(60)

        task = asyncio.create_task(body())
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_a_sync_hedge_wins_over_a_hanging_call():
    release, calls = threading.Event(), []

    @Hedge(0.01)
    def body() -> int:
        calls.append(1)
        number = len(calls)
        if number == 1:
            release.wait(60)
        return number

    started = time.monotonic()
    assert body() == 2
    assert time.monotonic() - started < 30
    release.set()


# --- keyed -------------------------------------------------------------------------------------


def test_each_key_has_a_breaker_of_its_own(mode):
    hosts = keyed(
        lambda host: CircuitBreaker(host, minimum_calls=1), key=lambda host: host
    )

    def body(host: str) -> str:
        if host == "bad":
            raise ConnectionError
        return host

    guarded = hosts(mode.function(body))
    with pytest.raises(ConnectionError):
        mode.run(guarded, "bad")
    with pytest.raises(CircuitOpen, match="'bad'"):
        mode.run(guarded, "bad")
    assert mode.run(guarded, "good") == "good"


def test_keys_are_bounded_and_open_breakers_stay():
    hosts = keyed(lambda host: CircuitBreaker(host, minimum_calls=1), limit=10)
    hosts["bad"].isolate()
    for i in range(1000):
        assert hosts[f"h{i}"] is hosts[f"h{i}"]
    assert len(hosts) == 10
    assert "bad" in hosts
    assert "h999" in hosts


# --- the fused form is the nested form ---------------------------------------------------------

outcomes = st.sampled_from(["ok", "ok", "connection", "value", "slow", "exit"])
steps = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.lists(outcomes, min_size=1, max_size=5)),
        st.tuples(st.just("advance"), st.sampled_from([0.5, 3.0, 11.0, 40.0])),
        st.tuples(
            st.just("do"),
            st.sampled_from(["isolate", "reset", "disable", "metrics_only"]),
        ),
        st.tuples(st.just("hold"), st.booleans()),
    ),
    max_size=25,
)
shapes = st.fixed_dictionaries(
    {
        "fallback": st.booleans(),
        "retry": st.booleans(),
        "bulkhead": st.booleans(),
        "timeout": st.booleans(),
        "budget": st.booleans(),
        "slow": st.booleans(),
        "window_calls": st.sampled_from([None, 4]),
        "on_result": st.booleans(),
    }
)


class Run:
    """One pipeline, fused or not, and everything that could be seen of it."""

    def __init__(self, shape: dict, *, fuse: bool) -> None:
        self.trace: list[object] = []
        self.clock = clock = FakeClock()
        told = [lambda e: self.trace.append(repr(e))]
        common = {"clock": clock, "listeners": told}
        budget = RetryBudget(ratio=0.5, floor=0.1, clock=clock)
        self.breaker = CircuitBreaker(
            "b",
            minimum_calls=2,
            window=10,
            window_calls=shape["window_calls"],
            open_for=10,
            ignore=ValueError,
            slow_call=2 if shape["slow"] else None,
            **common,
        )
        self.bulkhead = Bulkhead(1, name="k", **common)
        parts = [
            shape["fallback"] and Fallback(lambda e: repr(e), on=CircuitOpen, **common),
            shape["retry"]
            and Retry(
                3,
                on=ConnectionError,
                on_result=(lambda r: r == "slow") if shape["on_result"] else None,
                wait=[0.5, 1],
                budget=budget if shape["budget"] else None,
                **common,
            ),
            self.breaker,
            shape["bulkhead"] and self.bulkhead,
            shape["timeout"] and Timeout(30, sync="deadline", **common),
        ]
        self.pipeline = Pipeline(*(p for p in parts if p), fuse=fuse)
        self.held = None
        self.script: list[str] = []

    def body(self) -> str:
        outcome = self.script.pop(0) if self.script else "ok"
        self.trace.append(("ran", outcome))
        if outcome == "connection":
            raise ConnectionError("down")
        if outcome == "value":
            raise ValueError("bad")
        if outcome == "exit":
            raise KeyboardInterrupt
        if outcome == "slow":
            self.clock.advance(2.5)
        return outcome

    def step(self, guarded, action: str, value) -> None:
        if action == "advance":
            self.clock.advance(value)
        elif action == "do":
            getattr(self.breaker, value)()
        elif action == "hold":
            self.hold(value)
        else:
            self.script = list(value)
            try:
                self.trace.append(("returned", guarded()))
            except BaseException as error:
                notes = getattr(error, "__notes__", None)
                self.trace.append(("raised", repr(error), notes))
        metrics = self.breaker.metrics
        self.trace.append((metrics, self.clock.monotonic(), self.bulkhead.in_flight))

    def hold(self, on: bool) -> None:
        if on and self.held is None:
            self.held = self.bulkhead.guard()
            self.held.__enter__()
        elif not on and self.held is not None:
            self.held.__exit__(None, None, None)
            self.held = None


def traces(shape, script, kind: str) -> list[list[object]]:
    found = []
    for fuse in (True, False):
        run = Run(shape, fuse=fuse)
        if kind == "sync":
            guarded = run.pipeline(run.body)
        else:

            async def body(run=run) -> str:
                return run.body()

            coroutine = run.pipeline(body)

            def guarded(coroutine=coroutine) -> object:
                return runner.run(coroutine())

        with asyncio.Runner() as runner:
            for action, value in script:
                run.step(guarded, action, value)
        found.append(run.trace)
    return found


@settings(max_examples=150, deadline=None, derandomize=True)
@given(shapes, steps)
def test_the_fused_sync_form_does_what_the_layers_do(shape, script):
    fused, nested = traces(shape, script, "sync")
    assert fused == nested


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shapes, steps)
def test_the_fused_async_form_does_what_the_layers_do(shape, script):
    # asyncio.Runner answers KeyboardInterrupt in its own way; CancelledError is the
    # exit that matters to tasks and has tests of its own.
    script = [
        (a, [o for o in v if o != "exit"] or ["ok"]) if a == "call" else (a, v)
        for a, v in script
    ]
    fused, nested = traces(shape, script, "async")
    assert fused == nested


def test_the_usual_pipeline_is_fused_and_an_unusual_one_is_not():
    from maestro_resilience._kernel import fuse

    usual = (Fallback(value=1), Retry(), CircuitBreaker("b"), Bulkhead(1), Timeout(1))
    assert fuse(boom, "async", usual, boom) is not None
    assert fuse(boom, "sync", usual, boom) is None  # a thread is not worth fusing
    assert fuse(boom, "sync", usual[:4], boom) is not None
    assert fuse(boom, "sync", (usual[2], usual[1]), boom) is None


def test_a_fused_call_times_out_frees_and_counts():
    breaker, bulkhead = CircuitBreaker("b", minimum_calls=2), Bulkhead(1)
    pipeline = Pipeline(
        Fallback(lambda e: type(e).__name__, on=TimeoutError),
        Retry(attempts=2, wait=0),
        breaker,
        bulkhead,
        Timeout(0.02),
    )

    async def main() -> None:
        @pipeline
        async def body() -> None:
            await asyncio.sleep(60)

        assert await body() == "TimeoutExceeded"
        assert asyncio.current_task().cancelling() == 0
        task = asyncio.create_task(pipeline(body)())
        breaker.reset()
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert bulkhead.in_flight == 0
    assert breaker.metrics.calls == 0


# --- settings ---------------------------------------------------------------------------------------

BAD = [
    (lambda: CircuitBreaker("b", failure_rate=1.5), "failure_rate", "at most 1"),
    (lambda: CircuitBreaker("b", failure_rate=True), "failure_rate", "number"),
    (lambda: CircuitBreaker("b", probes=0), "probes", "at least 1"),
    (lambda: CircuitBreaker("b", open_for=-1), "open_for", "above 0"),
    (lambda: CircuitBreaker("b", window=float("nan")), "window", "above 0"),
    (lambda: CircuitBreaker("b", slow_call=0), "slow_call", "above 0"),
    (lambda: CircuitBreaker("b", window_calls=5), "minimum_calls", "window_calls"),
    (lambda: CircuitBreaker("b", on_result=dict), "on_result", "function"),
    (lambda: CircuitBreaker("b", ignore=KeyboardInterrupt), "ignore", "Exception"),
    (lambda: CircuitBreaker("b", record="OSError"), "record", "Exception"),
    (lambda: CircuitBreaker(""), "name", "not empty"),
    (lambda: Retry(attempts=0), "attempts", "at least 1"),
    (lambda: Retry(attempts=2.5), "attempts", "whole"),
    (lambda: Retry(wait=-0.1), "wait", "at least 0"),
    (lambda: Retry(wait=[]), "wait", "at least one"),
    (lambda: Retry(wait=dict), "wait", "seconds"),
    (lambda: Retry(stop=3), "stop", "strategy"),
    (lambda: Retry(on=BaseException), "on", "Exception"),
    (lambda: Retry(on_result=int), "on_result", "function"),
    (lambda: Retry(budget=0.1), "budget", "RetryBudget"),
    (lambda: RetryBudget(ratio=-1), "ratio", "at least 0"),
    (lambda: Timeout(0), "seconds", "above 0"),
    (lambda: Timeout(1, sync="thraed"), "sync", "did you mean 'thread'"),
    (lambda: Timeout(1, max_abandoned=0), "max_abandoned", "at least 1"),
    (lambda: Bulkhead(0), "limit", "at least 1"),
    (lambda: Bulkhead(1, wait=-1), "wait", "at least 0"),
    (lambda: RateLimiter(0), "rate", "above 0"),
    (lambda: RateLimiter(1, burst=0), "burst", "at least 1"),
    (lambda: Fallback(), "handler", "not both"),
    (lambda: Fallback(dict), "handler", "value="),
    (lambda: Hedge(1, attempts=1), "attempts", "at least 2"),
    (lambda: AdaptiveLimit(initial=500), "initial", "from 1 to 200"),
    (lambda: Pipeline(), "policies", "at least one"),
    (lambda: Pipeline(Retry), "policies", "not classes"),
    (lambda: CircuitBreaker("b", listeners=[3]), "listeners", "functions"),
    (lambda: CircuitBreaker("b", listeners=print), "listeners", "a list of functions"),
    (
        lambda: CircuitBreaker("b", store="redis://x"),
        "store",
        "a BreakerStore, such as",
    ),
    (lambda: CircuitBreaker("b", store=MemoryBreakerStore), "store", "a BreakerStore"),
    (lambda: Retry(clock=5), "clock", "a Clock"),
    (lambda: Retry(retry_after="no"), "retry_after", "True or False"),
    (lambda: Retry(multiply=0), "multiply", "True or False"),
    (lambda: Retry(retry_abandoned=None), "retry_abandoned", "True or False"),
    (lambda: Pipeline(Retry(), fuse=1), "fuse", "True or False"),
]

MISSPELT = [
    (lambda: Retry(attemps=3), "Retry", "attemps", "attempts"),
    (lambda: CircuitBreaker(failure_treshold=5), "CircuitBreaker", "failure_treshold", "failure_rate"),
    (lambda: CircuitBreaker("b", reset_timeout=5, open_for=3), "CircuitBreaker", "reset_timeout", None),
    (lambda: Timeout(2, max_abandonned=3), "Timeout", "max_abandonned", "max_abandoned"),
    (lambda: Timeout(secs=2), "Timeout", "secs", "seconds"),
    (lambda: Bulkhead(2, waits=1), "Bulkhead", "waits", "wait"),
    (lambda: RateLimiter(2, bursts=1), "RateLimiter", "bursts", "burst"),
    (lambda: AdaptiveLimit(inital=3), "AdaptiveLimit", "inital", "initial"),
    (lambda: Fallback(values=3), "Fallback", "values", "value"),
    (lambda: Hedge(1, attempt=3), "Hedge", "attempt", "attempts"),
    (lambda: Pipeline(Retry(), fused=True), "Pipeline", "fused", "fuse"),
    (lambda: RetryBudget(ration=0.1), "RetryBudget", "ration", "ratio"),
]  # fmt: skip


@pytest.mark.parametrize(("build", "policy", "field", "near"), MISSPELT)
def test_a_misspelt_setting_is_named_with_the_nearest_one(build, policy, field, near):
    with pytest.raises(UnknownSetting) as caught:
        build()
    hint = f"; did you mean {near!r}?" if near else ""
    message = str(caught.value)
    assert message.startswith(f"{policy} has no setting {field!r}{hint} (")
    assert issubclass(UnknownSetting, TypeError)
    assert issubclass(UnknownSetting, ConfigurationError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


def test_signatures_stay_those_of_the_settings():
    for policy in (CircuitBreaker, Retry, Timeout, Bulkhead, Fallback, RetryBudget):
        told = inspect.signature(policy)
        assert (
            list(told.parameters)
            == list(inspect.signature(policy.__init__).parameters)[1:]
        )
        assert not any(p.kind is p.VAR_KEYWORD for p in told.parameters.values())


def test_a_policy_of_ones_own_may_take_any_setting():
    class Mine(Bulkhead):
        def __init__(self, **options):
            super().__init__(options.pop("slots"))
            self.options = options

    assert Mine(slots=3, colour="red").options == {"colour": "red"}


def test_around_an_open_breaker_a_retry_waits_unless_told_not_to():
    def tripped(**settings):
        breaker = CircuitBreaker("b", minimum_calls=1, open_for=4)
        with fake_clock() as clock:
            with pytest.raises(ConnectionError):
                breaker.call(boom)
            with suppress(CircuitOpen):
                Pipeline(Retry(attempts=2, **settings), breaker).call(lambda: 1)
            return sum(clock.sleeps)

    assert tripped() == pytest.approx(4, abs=0.01)
    assert tripped(max_retry_after=0) == 0
    assert tripped(on=ConnectionError) == 0


@pytest.mark.parametrize(("build", "field", "allowed"), BAD)
def test_a_bad_setting_fails_at_construction(build, field, allowed):
    with pytest.raises(ConfigurationError) as caught:
        build()
    message = str(caught.value)
    assert field in message
    assert allowed in message
    assert caught.value.value in message
    assert isinstance(caught.value, ValueError)


def test_errors_can_be_pickled():
    breaker = CircuitBreaker("b")
    breaker.isolate("maintenance")
    with pytest.raises(CircuitOpen) as caught:
        breaker.call(boom)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.policy) == (str(caught.value), "b")
    with pytest.raises(ConfigurationError) as caught:
        Bulkhead(0)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_policies_read_the_fake_clock():
    breaker = CircuitBreaker("b", minimum_calls=1, open_for=5)
    with fake_clock() as clock:
        with pytest.raises(ConnectionError):
            breaker.call(boom)
        clock.advance(5)
        assert breaker.call(lambda: 1) == 1
