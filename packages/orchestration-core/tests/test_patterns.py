"""Patterns of working together, and supervision."""

import asyncio

import pytest
from maestro_orchestration_core import (
    Agent,
    Child,
    Persona,
    Reply,
    Supervisor,
    conversation,
    debate,
    errors,
    group_chat,
    handoff,
    hierarchical,
    parallel,
    sequential,
)
from maestro_orchestration_core.testing import ScriptedModel

from .conftest import agent


def talk(fn, **options):
    async def main():
        async with conversation(**options) as turn:
            return await fn(turn)

    return asyncio.run(main())


def test_sequential_passes_on_and_parallel_keeps_the_order():
    """Answers come in the order of the agents."""
    up = agent("up", lambda t: t.prompt.upper())
    twice = agent("twice", lambda t: t.prompt * 2)
    said = talk(lambda t: sequential([up, twice], "ab", turn=t))
    assert [s.text for s in said] == ["AB", "ABAB"]

    async def slow(turn):
        await asyncio.sleep(0.02)
        return "slow"

    said = talk(lambda t: parallel([agent("s", slow), up], "x", turn=t))
    assert [s.text for s in said] == ["slow", "X"]


def test_a_manager_gives_steps_to_workers():
    """Steps for agents that do not exist are refused."""
    steps = '{"steps": [{"agent": "w", "prompt": "do it"}]}'
    manager = agent("m", ScriptedModel(steps, "all done"))
    worker = agent("w", lambda t: f"did {t.prompt}")
    said = talk(lambda t: hierarchical(manager, [worker], "job", turn=t))
    assert said.text == "all done"
    wrong = agent("m", ScriptedModel(steps.replace('"w"', '"ww"')))
    with pytest.raises(errors.NoAgentError, match="did you mean 'w'"):
        talk(lambda t: hierarchical(wrong, [worker], "job", turn=t))


def test_handoff_follows_the_rules():
    """An agent hands over to whom it may, with what it must bring."""
    rules = Persona(name="a", handoff_to=("b",), handoff_needs=("files",))
    good = Agent(rules, lambda t: Reply("x", {"files": []}, handoff="b"))
    said = talk(lambda t: handoff([good, agent("b", lambda t: "end")], "p", turn=t))
    assert [s.agent for s in said] == ["a", "b"]
    empty = Agent(rules, lambda t: Reply("x", handoff="b"))
    with pytest.raises(errors.ContractError, match="files"):
        talk(lambda t: handoff([empty, agent("b")], "p", turn=t))
    stranger = Agent(rules, lambda t: Reply("x", {"files": 1}, handoff="c"))
    with pytest.raises(errors.ContractError, match="allowed: b"):
        talk(lambda t: handoff([stranger, agent("b"), agent("c")], "p", turn=t))


def test_a_group_chat_sees_what_was_said():
    """Each speaker gets the transcript; `select` may choose and end."""
    count = [agent(n, lambda t: str(t.prompt.count("\n\n"))) for n in "ab"]
    said = talk(lambda t: group_chat(count, "p", turn=t, rounds=2))
    assert [s.text for s in said] == ["0", "1", "2", "3"]
    only_b = talk(
        lambda t: group_chat(
            count, "p", turn=t, select=lambda s: "b" if len(s) < 2 else None
        )
    )
    assert [s.agent for s in only_b] == ["b", "b"]


def test_a_debate_resumes_from_its_journal(tmp_path):
    """Asked again under the same name, no call is made twice."""
    first = [agent(n, ScriptedModel(f"{n}1", f"{n}2")) for n in "ab"]
    judge = agent("judge", ScriptedModel("b wins"))
    options = {"journal": tmp_path / "d.db", "run_id": "d"}
    for _ in range(2):
        said = talk(lambda t: debate(first, "which?", judge=judge, turn=t), **options)
        assert said.text == "b wins"
    assert "b: b2" in judge.model.requests[0].messages[-1]["content"]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("one_for_one", {"a": 1, "b": 2, "c": 1}),
        ("one_for_all", {"a": 2, "b": 2, "c": 2}),
        ("rest_for_one", {"a": 1, "b": 2, "c": 2}),
    ],
)
def test_supervision_restarts_whom_the_strategy_says(strategy, expected):
    """b fails once; the strategy decides who starts again."""
    starts = dict.fromkeys("abc", 0)

    def child(name):
        async def start():
            starts[name] += 1
            await asyncio.sleep(0)
            if name == "b" and starts["b"] == 1:
                raise ValueError
            await asyncio.sleep(0.05)

        return Child(name, start)

    asyncio.run(Supervisor([child(n) for n in "abc"], strategy=strategy).run())
    assert starts == expected


def test_supervision_gives_up_and_stops_the_others():
    """Too many failures in the window end the supervisor and every child."""
    stopped = []

    async def forever():
        try:
            await asyncio.sleep(60)
        finally:
            stopped.append("forever")

    async def bad():
        raise ValueError("bad")

    children = [Child("forever", forever), Child("bad", bad)]
    with pytest.raises(errors.OrchestrationError, match="more than 2 times") as caught:
        asyncio.run(Supervisor(children, max_restarts=2).run())
    assert isinstance(caught.value.__cause__, ValueError)
    assert stopped == ["forever"]


def test_a_child_that_is_not_healthy_is_restarted():
    """A health check that says no counts as a failure."""
    starts = []

    async def start():
        starts.append(1)
        await asyncio.sleep(60 if len(starts) == 1 else 0)

    async def healthy():
        return False

    asyncio.run(
        Supervisor([Child("a", start, healthy=healthy, check_every=0.01)]).run()
    )
    assert len(starts) == 2
