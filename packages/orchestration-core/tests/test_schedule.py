"""What runs next, and what could collide: against plain, slow references."""

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maestro_orchestration_core import (
    Agent,
    Budget,
    Journal,
    Orchestrator,
    Persona,
    Plan,
    Reply,
    State,
    Task,
    errors,
)
from maestro_orchestration_core._fold import RunView
from maestro_orchestration_core._monitor import Watch
from maestro_orchestration_core._report import spans_json
from maestro_orchestration_core._touches import (
    literal_head,
    overlap,
    overlapping,
    overlaps,
)

from .conftest import agent

part = st.sampled_from(["a", "b", "ab", "*", "a*", "?b", "**"])
pattern = st.lists(part, min_size=1, max_size=3).map("/".join)


@st.composite
def plans(draw):
    """Return a plan of up to ten tasks, with touches, priorities, a barrier or not."""
    count = draw(st.integers(1, 10))
    tasks = []
    for n in range(count):
        before = st.lists(st.integers(0, n - 1), max_size=2) if n else st.just([])
        tasks.append(
            Task(
                f"t{n}",
                after=[f"t{k}" for k in draw(before)],
                touches=draw(st.lists(pattern, max_size=2)),
                effort=draw(st.integers(1, 3)),
                priority=draw(st.integers(0, 1)),
            )
        )
    return Plan(tasks, barrier=draw(st.booleans()))


def ancestors(plan, name):
    """Return all tasks before one."""
    found = set(plan.tasks[name].after)
    for other in plan.tasks[name].after:
        found |= ancestors(plan, other)
    return found


@given(plans())
def test_conflicts_are_those_of_all_pairs(plan):
    """The index finds neither more nor less than comparing all with all."""
    expected = [
        (left, right)
        for n, left in enumerate(plan.order)
        for right in plan.order[n + 1 :]
        if left not in ancestors(plan, right)
        and overlaps(plan.tasks[left].touches, plan.tasks[right].touches)
    ]
    assert [(c.left, c.right) for c in plan.conflicts()] == expected


@given(st.sets(pattern, max_size=12))
def test_overlapping_patterns_are_those_of_all_pairs(patterns):
    """Sorting by the literal head loses no pair."""
    found = {frozenset(pair) for pair in overlapping(patterns)}
    assert found == {
        frozenset((a, b)) for a in patterns for b in patterns if a < b and overlap(a, b)
    }


@given(pattern, pattern)
def test_patterns_overlap_only_if_one_head_begins_with_the_other(left, right):
    """What the index relies on."""
    if overlap(left, right):
        heads = sorted([literal_head(left), literal_head(right)])
        assert heads[1].startswith(heads[0])


def slow_makespan(plan, workers):
    """Look at every ready task after every end: the rule without any index."""
    done, running, now = set(), {}, 0.0
    while len(done) < len(plan):
        for name in sorted(plan.order, key=plan.sort_key):
            task = plan.tasks[name]
            early = any(
                plan.level[n] < plan.level[name] for n in plan.order if n not in done
            )
            if (
                len(running) < workers
                and name not in done
                and name not in running
                and set(task.after) <= done
                and not (plan.barrier and early)
                and not any(
                    overlaps(task.touches, plan.tasks[n].touches) for n in running
                )
            ):
                running[name] = now + task.effort
        ended = min(running, key=lambda n: (running[n], plan.order.index(n)))
        now = running.pop(ended)
        done.add(ended)
    return now


@settings(max_examples=200)
@given(plans(), st.integers(1, 4))
def test_the_forecast_follows_the_slow_rule(plan, workers):
    """Queues per cause start the same tasks at the same time."""
    assert plan.forecast(workers).makespan == slow_makespan(plan, workers)


@settings(max_examples=25)
@given(plans(), st.integers(1, 3))
def test_every_task_runs_once_and_never_beside_one_it_collides_with(plan, workers):
    """The live scheduler: nobody starves, nothing overlaps, no tier is early."""
    running, ran = set(), []

    async def body(turn):
        mine = plan.tasks[turn.task]
        for other in running:
            assert not overlaps(mine.touches, plan.tasks[other].touches)
            assert not plan.barrier or plan.level[other] == plan.level[turn.task]
        assert set(mine.after) <= set(ran)
        running.add(turn.task)
        await asyncio.sleep(0)
        running.discard(turn.task)
        ran.append(turn.task)

    report = asyncio.run(Orchestrator([agent(body=body)], workers=workers).run(plan))
    assert report.ok, report.why()
    assert sorted(ran) == sorted(plan.tasks)


def test_a_busy_agent_does_not_hold_up_others():
    """A persona with `concurrency` 1 works alone; the other workers go on."""
    most = {"one": 0, "many": 0}
    now = {"one": 0, "many": 0}

    async def body(turn):
        now[turn.persona] += 1
        most[turn.persona] = max(most[turn.persona], now[turn.persona])
        await asyncio.sleep(0.01)
        now[turn.persona] -= 1

    one = Agent(Persona(name="one", concurrency=1), body)
    many = Agent(Persona(name="many"), body)
    tasks = [Task(f"o{n}", agent="one") for n in range(6)]
    tasks += [Task(f"m{n}", agent="many") for n in range(6)]
    report = asyncio.run(Orchestrator([one, many], workers=4).run(Plan(tasks)))
    assert report.ok, report.why()
    assert most["one"] == 1
    assert most["many"] >= 2


def test_an_explanation_of_many_conflicts_stays_short():
    """A thousand tasks on one file: 499500 pairs, of which some are named."""
    plan = Plan([Task(f"t{n}", touches=["log.md"]) for n in range(1000)])
    text = plan.explain()
    assert text.count("not at the same time") == 100
    assert text.endswith("and more pairs: see Plan.conflicts()")


# What is written down.


@pytest.mark.parametrize("value", [object(), {1: 2, "a": 3}, {"x": {1, 2}}])
def test_an_answer_that_is_not_json_fails_its_task_alone(tmp_path, value):
    """The journal goes on; the reason names what was wrong."""

    def body(turn):
        return Reply("x", value) if turn.task == "bad" else "fine"

    maestro = Orchestrator([agent(body=body)], journal=tmp_path / "r.db")
    plan = Plan([Task("bad"), Task("good"), Task("later", after=["good"])])
    report = asyncio.run(maestro.run(plan, run_id="r"))
    assert report.tasks["bad"].state is State.FAILED
    assert "turn.completed has data that is not plain JSON" in report.why()
    assert report.tasks["later"].state is State.COMPLETED
    assert asyncio.run(maestro.run(plan, run_id="r")).digest == report.digest


def test_half_a_surrogate_pair_survives_the_journal(tmp_path):
    """An endpoint may answer with one; it must not end the run."""
    maestro = Orchestrator([agent(body=lambda t: "a\ud83d")], journal=tmp_path / "r.db")
    plan = Plan([Task("a"), Task("b", "again \ude00", after=["a"])])
    report = asyncio.run(maestro.run(plan, run_id="r"))
    assert report.ok, report.why()
    with Journal(tmp_path / "r.db") as journal:
        view = RunView.of("r", journal.events("r"))
    assert view.tasks["b"].reply.text == "a\ud83d"


def test_arguments_that_are_not_json_are_refused_with_the_key():
    """Before a run is started."""
    with pytest.raises(errors.PlanError, match=r"task t.args: must be plain JSON"):
        Task("t", args={"when": object()})


def test_a_budget_of_a_task_counts_across_restarts(tmp_path):
    """What was spent before a restart stays spent."""
    made = []
    other = agent("other", lambda turn: made.append(turn.prompt))

    async def body(turn):
        for n in range(9):
            await turn.ask(other, f"part {n}")

    plan = Plan([Task("t", agent="worker", budget=Budget(calls=3, mode="hard"))])
    for _ in range(3):
        maestro = Orchestrator([agent(body=body), other], journal=tmp_path / "r.db")
        report = asyncio.run(maestro.run(plan, run_id="r"))
        assert report.tasks["t"].state is State.WAITING
        assert made == ["part 0", "part 1"]


def test_an_agent_that_cancels_itself_has_failed():
    """It is neither the user's wish nor a lack of budget."""

    async def body(turn):
        raise asyncio.CancelledError

    report = asyncio.run(Orchestrator([agent(body=body)]).run(Plan([Task("t")])))
    assert report.tasks["t"].state is State.FAILED
    assert "cancelled itself" in report.why()


def test_spans_of_calls_lie_in_the_call_that_asked():
    """Run, attempt, call, call within the call; each after its outer one."""
    inner = agent("inner", lambda turn: "x")

    async def body(turn):
        await turn.ask(inner, "go")

    async def main():
        maestro = Orchestrator([agent("outer", body), inner])
        async with maestro.start(Plan([Task("t", agent="outer")]), run_id="r") as run:
            await run.result()
            return run.history()

    spans = spans_json(asyncio.run(main()))
    assert [s["name"] for s in spans] == [
        "invoke_workflow r", "invoke_agent outer", "invoke_agent outer",
        "invoke_agent inner",
    ]  # fmt: skip
    for outer, span in pairwise(spans):
        assert span["parentSpanId"] == outer["spanId"]


def test_a_watch_sees_what_a_whole_reading_sees(tmp_path):
    """Look by look, only new events are read."""
    plan = Plan([Task("a"), Task("b", after=["a"], approval="before")])
    maestro = Orchestrator([agent()], journal=tmp_path / "r.db")
    asyncio.run(maestro.run(plan, run_id="r"))
    watch = Watch("r")
    with Journal(tmp_path / "r.db") as journal:
        first = watch.read(journal)
        assert watch.read(journal) == []
        journal.post("r", "approve", {"approval": "b:before", "by": "ada"})
    asyncio.run(maestro.run(plan, run_id="r"))
    with Journal(tmp_path / "r.db") as journal:
        second = watch.read(journal)
        assert [e.seq for e in first + second] == list(range(1, second[-1].seq + 1))
        assert watch.view == RunView.of("r", journal.events("r"))
    assert watch.view.status == "completed"


def test_a_lease_store_that_breaks_ends_the_session_and_not_in_a_hang():
    """Letting go fails: the error comes out of `result`."""

    class Leases:
        def take(self, name, holder, *, ttl, shared=False):
            return 1

        def release(self, name, holder):
            raise OSError("the lease server is gone")

    maestro = Orchestrator([agent()], leases=Leases())

    async def main():
        async with maestro.start(Plan([Task("t", touches=["a"])])) as run:
            await asyncio.wait_for(run.result(), 20)

    with pytest.raises(OSError, match="lease server is gone"):
        asyncio.run(main())


@pytest.mark.parametrize(
    ("data", "key"),
    [
        ({"tries": "2"}, "tries"), ({"tries": True}, "tries"),
        ({"timeout": "5m"}, "timeout"), ({"timeout": -1}, "timeout"),
        ({"priority": "high"}, "priority"), ({"after": 3}, "after"),
        ({"touches": [3]}, "touches"), ({"needs": {"py": "2"}}, "needs"),
        ({"needs": 3}, "needs"), ({"args": [1]}, "args"), ({"prompt": 1}, "prompt"),
    ],
)  # fmt: skip
def test_a_value_of_the_wrong_kind_is_refused_with_its_key(data, key):
    """As a run file may hold it; never a TypeError."""
    with pytest.raises(errors.PlanError) as caught:
        Plan.from_dict({"tasks": [{"name": "a", **data}]})
    assert caught.value.key == f"task a.{key}"


@pytest.mark.parametrize(
    "data", [[1], {"warn": "0.8"}, {"warn": ["x"]}, {"per_task": {"a": 3}},
             {"per_task": 3}],
)  # fmt: skip
def test_a_malformed_budget_is_refused(data):
    """Whatever the shape."""
    with pytest.raises(errors.BudgetError):
        Budget.from_dict(data)


def test_a_task_that_is_no_table_is_refused():
    """And a number of workers that is none."""
    with pytest.raises(errors.PlanError, match="a task is a table"):
        Plan.from_dict({"tasks": ["a"]})
    with pytest.raises(errors.PlanError, match="workers"):
        Orchestrator([agent()], workers="4")


def test_long_patterns_end_in_time():
    """A recursion would take exponential time or run out of stack."""
    assert overlap("*a" * 200 + "*", "*b" * 200 + "*")
    assert not overlap("*a" * 200, "*b" * 200)
    assert overlap("a/" * 1500 + "*", "a/" * 1500 + "b")
