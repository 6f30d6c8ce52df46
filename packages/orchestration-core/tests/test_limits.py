"""Throttle, retry, window, prices, calibration, supervision, team budgets."""

import asyncio
from decimal import Decimal

import pytest
from maestro_orchestration_core import (
    Agent,
    Budget,
    Child,
    Journal,
    Orchestrator,
    Persona,
    Plan,
    Price,
    PriceTable,
    Reply,
    Retry,
    State,
    Supervisor,
    Task,
    Throttle,
    Tool,
    ToolCall,
    Usage,
    Window,
    errors,
    estimate_tokens,
)
from maestro_orchestration_core._context import (
    Calibration,
    drop_tool_results,
    message_tokens,
    sliding,
    summarise,
)
from maestro_orchestration_core.testing import ScriptedModel

from .conftest import agent


class Clock:
    """Seconds that pass only in sleeps."""

    def __init__(self):
        self.now = 0.0
        self.slept = []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def throttle(clock, **options):
    return Throttle(clock=clock, sleep=clock.sleep, rng=lambda: 0.0, **options)


def test_a_throttle_holds_its_concurrency():
    """Never more at once than said, and everybody gets a turn."""
    busy, most, done = [0], [0], []

    async def main():
        gate = throttle(Clock(), concurrency=3)

        async def one(n):
            async with gate.slot():
                busy[0] += 1
                most[0] = max(most[0], busy[0])
                await asyncio.sleep(0)
                busy[0] -= 1
                done.append(n)

        await asyncio.gather(*(one(n) for n in range(20)))

    asyncio.run(main())
    assert most[0] == 3
    assert sorted(done) == list(range(20))


@pytest.mark.parametrize(
    ("options", "tokens", "minutes"),
    [
        ({"requests_per_minute": 5}, 0, 3),
        ({"tokens_per_minute": 1000}, 200, 3),
        ({"tokens_per_minute": 100}, 200, 19),  # each too large, so one by one
    ],
)
def test_a_throttle_holds_its_rate(options, tokens, minutes):
    """Twenty calls take the minutes that the limit asks for."""
    clock = Clock()

    async def main():
        gate = throttle(clock, **options)
        for _ in range(20):
            async with gate.slot(tokens):
                pass

    asyncio.run(main())
    assert clock.now == pytest.approx(minutes * 60)


def test_a_429_freezes_everybody_and_halves_the_concurrency():
    """Nobody starts before Retry-After; then fewer at once."""
    clock, starts, busy, most = Clock(), [], [0], [0]

    async def main():
        gate = throttle(clock, concurrency=8)
        with pytest.raises(errors.RateLimitedError):
            async with gate.slot():
                raise errors.RateLimitedError("slow", retry_after=30)

        async def one():
            async with gate.slot():
                starts.append(clock.now)
                busy[0] += 1
                most[0] = max(most[0], busy[0])
                await asyncio.sleep(0)
                busy[0] -= 1

        await asyncio.gather(*(one() for _ in range(8)))

    asyncio.run(main())
    assert min(starts) >= 30
    assert most[0] <= 5  # 4, growing by a quarter with each good answer


def test_a_throttle_serves_several_event_loops_one_after_the_other():
    """A waiter that was cancelled with its loop leaves nothing behind."""
    gate = Throttle(concurrency=1)

    async def give_up():
        async with gate.slot():
            waiting = asyncio.create_task(gate.slot().__aenter__())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    async def use():
        async def one():
            async with gate.slot():
                await asyncio.sleep(0)

        await asyncio.wait_for(asyncio.gather(one(), one(), one()), 10)

    asyncio.run(give_up())
    asyncio.run(use())


def test_a_retry_waits_as_long_as_it_was_told():
    """Retry-After comes before the own plan; no try starts after the bound."""
    clock, calls = Clock(), []

    async def limited():
        calls.append(clock.now)
        raise errors.RateLimitedError("slow", retry_after=25)

    retry = Retry(within=60, clock=clock, sleep=clock.sleep, rng=lambda: 1.0)
    with pytest.raises(errors.RateLimitedError):
        asyncio.run(retry.call(limited))
    assert calls == [0, 25, 50]


def test_a_retry_doubles_its_waits_up_to_a_limit():
    """Full jitter: at most first * 2**n, at most `most`."""
    clock = Clock()

    async def broken():
        raise errors.ModelError("busy", retry=True)

    retry = Retry(within=100, first=1, most=8, clock=clock, sleep=clock.sleep,
                  rng=lambda: 1.0)  # fmt: skip
    with pytest.raises(errors.ModelError):
        asyncio.run(retry.call(broken))
    assert clock.slept[:5] == [1, 2, 4, 8, 8]
    assert clock.now <= 100


# The window.


def text(n, role="user"):
    return {"role": role, "content": "word " * n}


def exchange(n, words=200):
    """Return a tool call with its result."""
    call = {"id": f"c{n}", "function": {"name": "f", "arguments": {}}}
    said = {"role": "assistant", "content": "", "tool_calls": [call]}
    return [said, {"role": "tool", "tool_call_id": f"c{n}", "content": "word " * words}]


def paired(messages):
    """Tell whether each result has its call before it."""
    called = set()
    for message in messages:
        called |= {c["id"] for c in message.get("tool_calls", ())}
        if message["role"] == "tool" and message["tool_call_id"] not in called:
            return False
    return True


def test_a_window_drops_old_results_first_and_keeps_pairs_whole():
    """System and question stay, results go before messages do."""
    messages = [text(5, "system"), text(5)]
    for n in range(6):
        messages += exchange(n)
    fitted = Window(limit=1000, reserve_output=200).fit(messages)
    assert message_tokens(fitted) <= 800
    assert fitted[:2] == messages[:2]
    assert fitted[-1] == messages[-1]
    assert paired(fitted)
    assert len(fitted) == len(messages)


def test_a_window_that_cannot_fit_says_so_before_a_call():
    """The sizes are in the error."""
    with pytest.raises(errors.ContextOverflowError, match="window 100"):
        Window(limit=100, reserve_output=50).fit([text(500)])


def test_strategies_never_split_a_pair_even_at_the_head():
    """A history that begins with a call keeps the call's result."""
    messages = exchange(0, 3) + [text(3) for _ in range(8)] + exchange(1, 3)
    for strategy in (sliding(keep_last=1), drop_tool_results(keep_last=0),
                     summarise(lambda t: "short", keep_last=1)):  # fmt: skip
        assert paired(strategy(messages, 10))
        assert strategy(messages, 10)[:2][0] == messages[0]


def test_a_summary_takes_the_place_of_the_middle():
    """The writer sees what goes; what stays is word for word the same."""
    seen = []
    messages = [text(1, "system"), text(2), *[text(n) for n in range(3, 9)]]
    fitted = summarise(lambda t: seen.append(t) or "SUM", keep_last=2)(messages, 1)
    assert [m["content"] for m in fitted if "SUM" in m["content"]] == ["Earlier: SUM"]
    assert fitted[-2:] == messages[-2:]
    assert seen[0].count("user:") == 4


def test_compaction_is_journaled_and_the_model_sees_the_short_form():
    """An event says how many tokens went."""
    model = ScriptedModel("ok")

    async def main():
        persona = Persona(name="m")
        worker = Agent(persona, model, window=Window(limit=700, reserve_output=100))
        maestro = Orchestrator([agent(body=lambda t: t.ask(
            worker, "go", history=[text(100) for _ in range(20)]
        ))])  # fmt: skip
        async with maestro.start(Plan([Task("a", agent="worker")])) as run:
            report = await run.result()
            return report, [e for e in run.history() if e.type == "context.compacted"]

    report, events = asyncio.run(main())
    assert report.ok, report.why()
    assert message_tokens(model.requests[0].messages) <= 600
    assert events[0].data["before"] > 2000 > events[0].data["after"]


# Tokens and prices.


def test_calibration_learns_how_far_the_estimate_is_off():
    """The ratio moves to what the provider counts, from the first answer on."""
    known = Calibration()
    assert known.ratio("m") == 1.0
    known.learn("m", estimated=100, real=150)
    assert known.ratio("m") == 1.5
    for _ in range(40):
        known.learn("m", estimated=100, real=200)
    assert known.ratio("m") == pytest.approx(2.0, rel=0.01)
    known.learn("m", estimated=0, real=5)
    known.learn("m", estimated=5, real=0)
    assert known.ratio("m") == pytest.approx(2.0, rel=0.01)
    assert known.ratio("other") == 1.0


@pytest.mark.parametrize(
    ("given", "low", "high"),
    [("", 0, 0), ("hello world", 2, 3), ("internationalization", 3, 5),
     ("12345678", 2, 4), ("漢字かな交じり文", 5, 9), ("a\n    b", 3, 4)],
)  # fmt: skip
def test_estimates_of_short_texts(given, low, high):
    """Words, digits, lines and other scripts each count their own way."""
    assert low <= estimate_tokens(given) <= high


def test_prices_from_a_file_and_from_litellm(tmp_path):
    """Dollars per million tokens, cached input apart, rounded up."""
    (tmp_path / "p.toml").write_text(
        '[m]\ninput = "1.5"\noutput = 6\ncached = 0.1\ncall = "0.01"\n',
        encoding="utf-8",
    )
    price = PriceTable.load(tmp_path / "p.toml").price("m")
    usage = Usage(input_tokens=1000, cached_tokens=400, output_tokens=10)
    assert price.cost_micro(usage) == 900 + 40 + 60 + 10_000
    assert Price(input="0.1").cost_micro(Usage(input_tokens=1)) == 1
    (tmp_path / "l.json").write_text(
        '{"g": {"input_cost_per_token": 1e-6, "output_cost_per_token": 2e-6,'
        ' "cache_read_input_token_cost": 1e-7}, "sample_spec": {}, "e": 3}',
        encoding="utf-8",
    )
    table = PriceTable.from_litellm(tmp_path / "l.json")
    assert table.price("g").output == Decimal(2)
    assert table.price("g").cached == Decimal("0.1")
    assert table.price("e") is None
    assert table.price("sample_spec") is None


@pytest.mark.parametrize("content", ["[m]\ncost = 1\n", "not toml", "m = 3\n"])
def test_a_malformed_price_file_is_named(tmp_path, content):
    """The file is in the error."""
    (tmp_path / "p.toml").write_text(content, encoding="utf-8")
    with pytest.raises(errors.SettingsError, match=r"p\.toml"):
        PriceTable.load(tmp_path / "p.toml")
    with pytest.raises(errors.SettingsError, match=r"p\.toml"):
        PriceTable.from_litellm(tmp_path / "p.toml")


def test_money_is_limited_with_prices():
    """Calls stop before the dollar that is not there."""
    said = Reply("x", usage=Usage(input_tokens=1000, output_tokens=1000))
    model = ScriptedModel(said, name="m", repeat=True)
    table = PriceTable({"m": Price(input=10, output=90)})  # 10 cents for each call
    maestro = Orchestrator(
        [Agent(Persona(name="a", model={"max_output": 1000}), model)],
        budget=Budget(usd="0.55", mode="hard"), prices=table, workers=8,
    )  # fmt: skip
    report = asyncio.run(
        maestro.run(Plan([Task(f"t{n}", "w " * 600) for n in "abcdefgh"]))
    )
    assert report.usage.usd_micro <= 550_000
    assert report.status == "paused"
    assert len(model.requests) == 5


# Teams, tools, services.


def test_a_team_shares_a_budget_and_others_do_not():
    """The limit of a team holds for all its personas together."""
    people = [
        Agent(Persona(name=n, team=team), lambda t: "x")
        for n, team in (("a", "red"), ("b", "red"), ("c", "blue"))
    ]
    maestro = Orchestrator(people, budget=Budget(
        calls=100, per_team={"red": Budget(calls=3, mode="hard")}
    ))  # fmt: skip
    tasks = [Task(f"{n}{i}", agent=n) for n in "abc" for i in range(4)]
    report = asyncio.run(maestro.run(Plan(tasks)))
    done = [n for n, t in report.tasks.items() if t.state is State.COMPLETED]
    assert sum(n[0] in "ab" for n in done) == 3
    assert sum(n[0] == "c" for n in done) == 4
    late = next(t for t in report.tasks.values() if t.state is State.WAITING)
    assert "team:red" in late.detail


@pytest.mark.parametrize(
    ("effect", "state", "ran"),
    [("unsafe", State.IN_DOUBT, 1), ("pure", "completed", 2)],
)
def test_a_tool_that_was_cut_off(tmp_path, effect, state, ran):
    """The model's answer is remembered; only the tool is in question."""
    calls = []

    async def pay(amount: int):
        """Pay."""
        calls.append(amount)
        if len(calls) == 1:
            await asyncio.sleep(60)
        return "paid"

    call = ToolCall(id="1", name="pay", arguments={"amount": 5})
    model = ScriptedModel(Reply("", tool_calls=(call,)), "done")
    maestro = Orchestrator(
        [Agent(Persona(name="m", tools=("pay",)), model)],
        tools=[Tool(pay, effect=effect)], journal=tmp_path / "r.db",
    )  # fmt: skip
    plan = Plan([Task("a", "pay 5")])

    async def leave():
        async with maestro.start(plan, run_id="r") as run:
            async for event in run.events({"turn.started"}):
                if event.data.get("tool"):
                    return

    asyncio.run(leave())
    report = asyncio.run(maestro.run(plan, run_id="r"))
    assert report.tasks["a"].state == state
    assert len(calls) == ran
    assert len(model.requests) == (2 if state == "completed" else 1)


def test_a_service_lives_as_long_as_the_run_and_restarts_are_journaled(tmp_path):
    """A model server that dies once is started again while agents work."""
    lives, ended = [], []
    ready = asyncio.Event()

    async def server():
        lives.append(1)
        try:
            if len(lives) == 1:
                raise OSError("crashed")
            ready.set()
            await asyncio.sleep(600)
        finally:
            ended.append(1)

    async def body(turn):
        await asyncio.wait_for(ready.wait(), 20)
        return "served"

    maestro = Orchestrator(
        [agent(body=body)], journal=tmp_path / "r.db",
        supervisor=Supervisor([Child("llm", server, "permanent")]),
    )  # fmt: skip
    assert asyncio.run(maestro.run(Plan([Task("a")]), run_id="r")).ok
    assert (len(lives), len(ended)) == (2, 2)
    with Journal(tmp_path / "r.db") as journal:
        restarts = [e for e in journal.events("r") if e.type == "service.restarted"]
    assert restarts[0].data == {"name": "llm", "error": "OSError('crashed')"}


def test_a_service_that_cannot_live_ends_the_run_and_nothing_is_lost(tmp_path):
    """One restart too many is the run's error; the same run goes on later."""
    broken = [True]

    async def server():
        if broken[0]:
            raise OSError("no port")
        await asyncio.sleep(600)

    async def body(turn):
        if broken[0]:
            await asyncio.sleep(600)
        return "ok"

    def maestro():
        child = Child("llm", server, "permanent")
        return Orchestrator([agent(body=body)], journal=tmp_path / "r.db",
                            supervisor=Supervisor([child], max_restarts=2))  # fmt: skip

    plan = Plan([Task("a")])
    with pytest.raises(errors.RestartLimitError, match="llm"):
        asyncio.run(maestro().run(plan, run_id="r"))
    broken[0] = False
    assert asyncio.run(maestro().run(plan, run_id="r")).ok


@pytest.mark.parametrize(
    ("strategy", "restarted"),
    [("one_for_one", "b"), ("one_for_all", "abc"), ("rest_for_one", "bc")],
)
def test_who_is_restarted_with_whom(strategy, restarted):
    """As in Erlang: the one, all, or those that started after it."""
    starts = []

    async def main():
        both = asyncio.Event()

        def child(name):
            async def work():
                starts.append(name)
                if len(starts) == 3:
                    both.set()
                if name == "b" and starts.count("b") == 1:
                    await both.wait()
                    raise OSError("b fails once")
                if len(starts) < 3 + len(restarted):
                    await asyncio.sleep(600)
                gone.set()
                await asyncio.sleep(600)

            return Child(name, work, "permanent")

        gone = asyncio.Event()
        supervisor = Supervisor([child(n) for n in "abc"], strategy=strategy)
        running = asyncio.create_task(supervisor.run())
        await asyncio.wait_for(gone.wait(), 20)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(main())
    assert "".join(starts[:3]) == "abc"
    assert "".join(starts[3:]) == restarted
