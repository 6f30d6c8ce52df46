"""Plans that run, wait, fail, are amended, resumed and replayed."""

import asyncio

import pytest
from maestro_orchestration_core import (
    Agent,
    Budget,
    Gate,
    Journal,
    LoopLimits,
    Orchestrator,
    Persona,
    Plan,
    State,
    Task,
    Usage,
    errors,
)
from maestro_orchestration_core.testing import ScriptedModel

from .conftest import agent, echo


def run(maestro, plan, **options):
    return asyncio.run(maestro.run(plan, **options))


def test_inputs_reach_the_tasks_that_wait_for_them():
    """A task sees the answers of the tasks before it."""

    async def join(turn):
        return "+".join(r.text for r in turn.inputs.values()) or turn.prompt

    plan = Plan([Task("a", "1"), Task("b", "2"), Task("c", after=["a", "b"])])
    report = run(Orchestrator([agent(body=join)]), plan)
    assert report.ok
    assert report.tasks["c"].reply.text == "1+2"


def test_a_failure_skips_what_depends_on_it_and_says_why():
    """The reason of each end is in the report."""

    def fail(turn):
        if turn.task == "a":
            raise ValueError("no luck")
        return "fine"

    plan = Plan([Task("a"), Task("b", after=["a"]), Task("c")])
    report = run(Orchestrator([agent(body=fail)]), plan)
    assert {n: t.state for n, t in report.tasks.items()} == {
        "a": State.FAILED,
        "b": State.SKIPPED,
        "c": State.COMPLETED,
    }
    assert report.tasks["b"].reason == "dependency"
    assert "no luck" in report.why()


def test_a_retry_gets_the_reason_of_the_failure_before():
    """The second attempt knows what went wrong."""
    seen = []

    def body(turn):
        seen.append((turn.attempt, turn.feedback))
        if turn.attempt == 1:
            raise ValueError("try harder")
        return "done"

    report = run(
        Orchestrator([agent(body=body)], backoff=lambda n: 0),
        Plan([Task("a", tries=2)]),
    )
    assert report.ok
    assert seen[1][0] == 2
    assert "try harder" in seen[1][1]


def test_a_timeout_is_a_reason_of_its_own():
    """An attempt that takes too long ends."""

    async def slow(turn):
        await asyncio.sleep(60)

    report = run(Orchestrator([agent(body=slow)]), Plan([Task("a", timeout=0.05)]))
    assert report.tasks["a"].reason == "timeout"


def test_touches_never_run_together():
    """Tasks that may change the same file exclude each other."""
    busy, most = set(), []

    async def body(turn):
        busy.add(turn.task)
        most.append(len(busy))
        await asyncio.sleep(0.01)
        busy.discard(turn.task)

    plan = Plan([Task(f"t{n}", touches=["src/**"]) for n in range(5)])
    assert run(Orchestrator([agent(body=body)]), plan).ok
    assert max(most) == 1


def test_a_barrier_waits_for_the_whole_tier():
    """With barrier=True nothing of tier 1 starts before tier 0 is over."""
    order = []

    async def body(turn):
        await asyncio.sleep(0.05 if turn.task == "slow" else 0)
        order.append(turn.task)

    tasks = [Task("quick"), Task("slow"), Task("next", after=["quick"])]
    run(Orchestrator([agent(body=body)]), Plan(tasks))
    assert order == ["quick", "next", "slow"]
    order.clear()
    run(Orchestrator([agent(body=body)]), Plan(tasks, barrier=True))
    assert order == ["quick", "slow", "next"]


def test_an_approval_survives_a_restart(tmp_path):
    """A pause for a person ends when the person decides, in another process's time."""
    maestro = Orchestrator([agent()], journal=tmp_path / "runs.db")
    plan = Plan([Task("a", "x", approval="before"), Task("b", "y")])
    first = run(maestro, plan, run_id="r")
    assert (first.status, first.tasks["a"].state) == ("paused", State.WAITING)
    with Journal(tmp_path / "runs.db") as journal:
        journal.post("r", "approve", {"approval": "a:before", "by": "ada"})
    second = run(maestro, plan, run_id="r")
    assert second.ok
    assert second.status == "completed"


def test_a_denial_rejects(tmp_path):
    """A task that a person denied is rejected."""

    async def main():
        maestro = Orchestrator([agent()])
        async with maestro.start(Plan([Task("a", approval="after")])) as run:
            async for event in run.events({"approval.*"}):
                with pytest.raises(errors.ApprovalError):
                    await run.approve("nope", by="ada")
                await run.deny(event.data["approval"], by="ada", note="no")
                break
            return await run.result()

    report = asyncio.run(main())
    assert report.tasks["a"].state is State.REJECTED
    assert report.tasks["a"].reason == "approval_denied"


def test_work_can_be_added_in_the_middle(tmp_path):
    """An amended plan resumes with its amendment."""

    async def main():
        plan = Plan([Task("a", "x")])
        maestro = Orchestrator([agent()], journal=tmp_path / "r.db")
        async with maestro.start(plan, run_id="r") as run:
            await run.add(Task("late", "z", after=["a"], catch_up=True))
            assert (await run.result()).ok
        async with maestro.start(plan, run_id="r") as run:
            return await run.result()

    assert set(asyncio.run(main()).tasks) == {"a", "late"}


def test_leaving_pauses_and_a_second_start_goes_on(tmp_path):
    """Completed calls are not made again."""
    calls = []

    async def body(turn):
        calls.append(turn.task)
        if turn.task == "b" and len(calls) == 2:
            await asyncio.sleep(60)
        return turn.task

    plan = Plan([Task("a"), Task("b", after=["a"])])
    maestro = Orchestrator([agent(body=body)], journal=tmp_path / "r.db")

    async def first():
        async with maestro.start(plan, run_id="r") as run:
            async for event in run.events({"task.started"}):
                if event.task == "b":
                    break

    asyncio.run(first())
    assert run(maestro, plan, run_id="r").ok
    assert calls == ["a", "b", "b"]


def test_a_replay_makes_no_call_and_has_the_same_digest(tmp_path):
    """Every call is answered from the record; an unknown one is an error."""
    model = ScriptedModel("one", "two")
    maestro = Orchestrator([agent(body=model)], journal=tmp_path / "r.db")
    plan = Plan([Task("a", "x"), Task("b", "y", after=["a"])])
    report = run(maestro, plan, run_id="r")
    with Journal(tmp_path / "r.db") as journal:
        events = list(journal.events("r"))

    async def replay(plan):
        async with maestro.start(plan, replay=events) as run:
            return await run.result()

    assert asyncio.run(replay(plan)).digest == report.digest
    assert len(model.requests) == 2
    other = asyncio.run(replay(Plan([Task("a", "changed")])))
    assert "another input" in other.why()


def test_a_fork_goes_on_from_a_point(tmp_path):
    """A fork shares the past and has its own future."""
    plan = Plan([Task("a", "x"), Task("b", "y", after=["a"])])
    first = Orchestrator(
        [agent(body=ScriptedModel("A", "B"))], journal=tmp_path / "r.db"
    )
    run(first, plan, run_id="r")
    with Journal(tmp_path / "r.db") as journal:
        done = next(e for e in journal.events("r") if e.type == "task.completed")
        journal.fork("r", "r2", at=done.seq)
    second = Orchestrator([agent(body=ScriptedModel("C"))], journal=tmp_path / "r.db")
    report = run(second, plan, run_id="r2")
    assert [report.tasks[n].reply.text for n in "ab"] == ["A", "C"]


def test_another_plan_under_the_same_name_is_refused(tmp_path):
    """A run id means one plan."""
    maestro = Orchestrator([agent()], journal=tmp_path / "r.db")
    run(maestro, Plan([Task("a")]), run_id="r")
    with pytest.raises(errors.PlanMismatchError):
        run(maestro, Plan([Task("b")]), run_id="r")


def test_a_run_has_one_process_at_a_time(tmp_path):
    """A second opener is refused, and may have it afterwards."""
    with Journal(tmp_path / "r.db") as one, Journal(tmp_path / "r.db") as two:
        log = one.open_run("r")
        with pytest.raises(errors.RunLockedError):
            two.open_run("r")
        log.close()
        two.open_run("r").close()


def test_gates_decide_and_retry(tmp_path):
    """A failed gate fails the attempt with its detail as feedback."""
    seen = []

    def body(turn):
        seen.append(turn.feedback)
        return "ok" if turn.feedback else "TODO"

    gate = Gate.function(lambda g: "has a TODO" if "TODO" in g.reply.text else None)
    maestro = Orchestrator([agent(body=body)], gates=[gate], backoff=lambda n: 0)
    assert run(maestro, Plan([Task("a", tries=2)])).ok
    assert "has a TODO" in seen[1]
    report = run(maestro, Plan([Task("a")]))
    assert report.tasks["a"].reason == "gate"


def test_a_cancelled_run_says_so():
    """Tasks that ran and tasks that did not are cancelled by the user."""

    async def slow(turn):
        await asyncio.sleep(60)

    async def main():
        plan = Plan([Task("a"), Task("b", after=["a"])])
        async with Orchestrator([agent(body=slow)]).start(plan) as run:
            async for _ in run.events({"task.started"}):
                await run.cancel(by="ada")
                break
            return await run.result()

    report = asyncio.run(main())
    assert report.status == "cancelled"
    assert {t.reason for t in report.tasks.values()} == {"user"}


def test_agents_that_ask_each_other_are_stopped():
    """Depth, circles and repeats count over the whole chain of calls."""
    agents = {}

    async def delegate(turn):
        other = "b" if turn.persona == "a" else "a"
        return await turn.ask(agents[other], turn.prompt + "!")

    async def circle(turn):
        return await turn.ask(agents["c"], turn.prompt)

    async def again(turn):
        for _ in range(9):
            await turn.ask(agents["e"], "same")

    for name, body in zip("abcd", (delegate, delegate, circle, again), strict=True):
        agents[name] = agent(name, body)
    agents["e"] = agent("e", echo)
    maestro = Orchestrator(agents.values(), limits=LoopLimits(max_depth=5))
    plan = Plan([Task("1", agent="a"), Task("2", agent="c"), Task("3", agent="d")])
    report = run(maestro, plan)
    assert {t.reason for t in report.tasks.values()} == {"loop"}
    assert "max_depth" in report.tasks["1"].detail
    assert "cycle" in report.tasks["2"].detail
    assert "repeats" in report.tasks["3"].detail


def test_promises_are_checked(tmp_path, monkeypatch):
    """What a task promises and needs is looked for and named."""
    monkeypatch.chdir(tmp_path)

    def body(turn):
        if turn.task == "make":
            (tmp_path / "made.txt").write_text("x", encoding="utf-8")
        return {"summary": "s"}

    plan = Plan([
        Task("make", produces=["made.txt", "data.summary"]),
        Task("lie", produces=["data.files"]),
        Task("need", consumes=["made.txt", "data.summary"], after=["make"]),
        Task("miss", consumes=["absent.txt"]),
    ])  # fmt: skip
    report = run(Orchestrator([agent(body=body)]), plan)
    assert report.tasks["make"].state is State.COMPLETED
    assert report.tasks["need"].state is State.COMPLETED
    assert "data.files" in report.tasks["lie"].detail
    assert "absent.txt" in report.tasks["miss"].detail


def test_tools_and_structured_answers():
    """A model may call tools, and repairs an answer that does not fit."""
    from maestro_orchestration_core import Reply, Tool, ToolCall

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    call = ToolCall(id="1", name="add", arguments={"a": 2, "b": 3})
    model = ScriptedModel(Reply("", tool_calls=(call,)), "five", '{"sum": 5}')
    persona = Persona(name="m", tools=("add",), instructions="Add.")
    maestro = Orchestrator([Agent(persona, model)], tools=[Tool(add)])
    schema = {
        "type": "object",
        "required": ["sum"],
        "properties": {"sum": {"type": "integer"}},
    }
    report = run(maestro, Plan([Task("a", "2+3?", output=schema)]))
    assert report.tasks["a"].reply.data == {"sum": 5}
    assert model.requests[1].messages[-1]["content"] == "5"
    assert report.usage.calls == 3


def test_guards_refuse():
    """A guard's reason is the task's detail."""
    guarded = agent(output_guards=(lambda text: "rude" if "damn" in text else None,))
    report = run(Orchestrator([guarded]), Plan([Task("a", "damn")]))
    assert report.tasks["a"].reason == "guard"


def test_soft_budget_pauses_and_a_larger_one_goes_on(tmp_path):
    """Nothing is lost when the money is gone."""
    body = agent(body=lambda turn: turn.task)
    plan = Plan([Task(f"t{n}") for n in range(5)])
    small = Orchestrator([body], journal=tmp_path / "r.db", budget=Budget(calls=3))
    report = run(small, plan, run_id="r")
    assert report.status == "paused"
    assert sum(t.state is State.COMPLETED for t in report.tasks.values()) == 3
    large = Orchestrator([body], journal=tmp_path / "r.db", budget=Budget(calls=9))
    report = run(large, plan, run_id="r")
    assert report.ok
    assert report.usage.calls == 5


def test_an_unknown_price_is_never_zero():
    """With a money limit a model without a price is refused before the call."""
    model = ScriptedModel("x", name="nobody-knows")
    maestro = Orchestrator([agent(body=model)], budget=Budget(usd=1))
    report = run(maestro, Plan([Task("a", "p")]))
    assert "no price" in report.tasks["a"].detail
    assert not model.requests
    warned = Orchestrator([agent(body=model)], budget=Budget(usd=1), unpriced="warn")
    assert run(warned, Plan([Task("a", "p")])).usage.unpriced == 1


def test_a_wall_limit_stops_a_hard_run():
    """Wall time is a budget like the others."""

    async def slow(turn):
        await asyncio.sleep(60)

    maestro = Orchestrator([agent(body=slow)], budget=Budget(wall=0.2, mode="hard"))
    report = run(maestro, Plan([Task("a")]))
    assert report.status == "paused"
    assert report.tasks["a"].reason == "budget"


def test_fifty_agents_never_pass_a_hard_budget():
    """200 seeded runs: what is spent stays within the limit."""
    import random

    for seed in range(200):
        rng = random.Random(seed)
        limit = rng.randrange(500, 4000)

        async def body(turn, rng=rng):
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            return Reply("x", usage=Usage(input_tokens=rng.randrange(1, 101)))

        from maestro_orchestration_core import Reply

        worker = agent(body=body, upper=Usage(input_tokens=100))
        budget = Budget(tokens=limit, mode="hard")
        maestro = Orchestrator([worker], workers=50, budget=budget)
        report = run(maestro, Plan([Task(f"t{n}") for n in range(50)]))
        assert report.usage.input_tokens <= limit
        assert report.usage.input_tokens > limit - 200 or report.ok


def test_in_doubt_can_be_settled(tmp_path):
    """An unsafe call that was cut off waits for a person: retry, done or fail."""
    mails = []

    async def send(turn):
        mails.append(turn.task)
        if len(mails) <= 3:
            await asyncio.sleep(60)
        return "sent"

    maestro = Orchestrator(
        [agent(body=send, effect="unsafe")], journal=tmp_path / "r.db", workers=3
    )
    plan = Plan([Task("a"), Task("b"), Task("c")])

    async def leave():
        started = 0
        async with maestro.start(plan, run_id="r") as run:
            async for _ in run.events({"turn.started"}):
                started += 1
                if started == 3:
                    return

    asyncio.run(leave())
    report = run(maestro, plan, run_id="r")
    assert {t.state for t in report.tasks.values()} == {State.IN_DOUBT}
    assert len(mails) == 3

    async def settle():
        async with maestro.start(plan, run_id="r") as run:
            await run.resolve("a", "retry", by="ada")
            await run.resolve("b", "done", by="ada", text="it was sent")
            await run.resolve("c", "fail", by="ada")
            return await run.result()

    report = asyncio.run(settle())
    assert [report.tasks[n].state for n in "abc"] == [
        State.COMPLETED,
        State.COMPLETED,
        State.FAILED,
    ]
    assert report.tasks["b"].reply.text == "it was sent"
    assert len(mails) == 4


# Where an exception came from.


def deep(n):
    """Raise after n more calls."""
    if n == 0:
        raise ZeroDivisionError("far down")
    deep(n - 1)


def test_the_report_names_file_and_line_of_an_exception(tmp_path):
    """The last frames are in the event log, in `why`, on the screen and the page."""
    from maestro_orchestration_core._monitor import Watch, draw, state

    path = tmp_path / "r.db"
    maestro = Orchestrator([agent(body=lambda turn: deep(50))], journal=path)
    report = asyncio.run(maestro.run(Plan([Task("a")]), run_id="r"))
    line = deep.__code__.co_firstlineno + 3
    last = f"{__file__}:{line} in deep: raise ZeroDivisionError"
    assert last in report.why()
    assert report.tasks["a"].detail == "ZeroDivisionError('far down')"
    with Journal(path) as journal:
        (failed,) = [e for e in journal.events("r") if e.type == "task.failed"]
        watch = Watch("r")
        page = state(journal, watch)
    trace = failed.data["trace"]
    assert trace == report.tasks["a"].trace == page["tasks"][0]["trace"]
    assert trace.splitlines()[-1].startswith(last)
    assert len(trace) <= 2000
    assert len(trace.splitlines()) <= 8
    assert last in draw(watch.view, watch.recent, width=400)


def test_an_error_of_this_package_has_no_frames():
    """What the message says already is not said by frames."""

    def refuse(turn):
        raise errors.GuardError("input", "worker", "no")

    report = asyncio.run(Orchestrator([agent(body=refuse)]).run(Plan([Task("a")])))
    assert report.tasks["a"].trace == ""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Persona(name="a", capabilities={"prose"}), r"\{'prose': 1\}, got"),
        (lambda: Persona(name="a", tools="read"), "expected a tuple of texts"),
        (lambda: Persona(name=3), "expected text, got 3"),
        (lambda: Agent("writer", print), r"got 'writer'; write Agent\(Persona"),
        (lambda: Agent(Persona(name="a"), print, max_steps="3"), "max_steps"),
        (lambda: Orchestrator(["a"]), "expected an Agent, got 'a'"),
        (lambda: Plan(["a"]), "expected a Task, got 'a'"),
        (lambda: Plan(3), "expected a list of Task, got 3"),
        (lambda: asyncio.run(Orchestrator([agent()]).run([Task("a")])), r"Plan\(\[...\]\)"),
    ],
)  # fmt: skip
def test_values_of_the_wrong_kind_are_refused_where_they_are_given(make, said):
    """By an error of the package, with what was given and what to write."""
    with pytest.raises(errors.SettingsError, match=said):
        make()
