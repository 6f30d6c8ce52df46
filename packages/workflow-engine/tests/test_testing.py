"""The testing kit: virtual time, crashes at a chosen moment, conformance."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import wf_steps as w
from hypothesis import given
from hypothesis import strategies as st
from maestro_workflow_engine import (
    FuturesExecutor,
    Retry,
    Workflow,
    WorkflowEngine,
    step,
)
from maestro_workflow_engine._executors._aio import AsyncExecutor
from maestro_workflow_engine._executors._inline import InlineExecutor
from maestro_workflow_engine._executors._processes import ProcessExecutor
from maestro_workflow_engine._executors._threads import ThreadExecutor
from maestro_workflow_engine.errors import StepTimeoutError
from maestro_workflow_engine.testing import (
    Crash,
    CrashAt,
    VirtualTime,
    assert_ran,
    check_executor,
)


@pytest.mark.parametrize(
    "make",
    [
        InlineExecutor,
        lambda: ThreadExecutor(3),
        lambda: AsyncExecutor(3),
        lambda: ProcessExecutor(2),
    ],
)
def test_our_executors_keep_the_promises(make):
    check_executor(make)


def test_any_futures_executor_keeps_them_too():
    with ThreadPoolExecutor(2) as pool:
        check_executor(lambda: FuturesExecutor(pool, 2))


def test_a_bad_executor_is_found_out():
    class Forgetful:
        slots = 1

        def start(self, attempts, done):
            inner = InlineExecutor()
            inner.start([a for a in attempts if a.step != "bad-20"], done)
            done(outcomes_of(attempts[0]))

        def cancel(self, attempt):
            """Never called here."""

        def close(self):
            """Nothing to free."""

    def outcomes_of(attempt):
        found = []
        InlineExecutor().start([attempt], found.append)
        return found[0]

    with pytest.raises(AssertionError, match="20 results"):
        check_executor(Forgetful)


def test_hours_pass_in_no_time_with_retries_waits_and_timeouts():
    clock = VirtualTime(
        2,
        durations={"long": 3600, "stuck": 10**6},
        fail={"flaky": [OSError("1"), OSError("2")]},
    )
    long = step(name="long")(lambda: "done")
    stuck = step(name="stuck", timeout="1h")(lambda: None)
    flaky = step(name="flaky", retry=Retry(3, wait="10m..1h"))(lambda: "third")
    with Workflow("w") as flow:
        long()
        stuck()
        flaky()
    with WorkflowEngine(clock) as engine:
        run = engine.run(flow)
    assert run["long"] == "done"
    assert run["flaky"] == "third"
    assert isinstance(run.errors["stuck"], StepTimeoutError)
    assert 3600 + 600 + 1200 <= clock.elapsed <= 3600 + 600 + 1200 + 4


@given(
    st.lists(
        st.tuples(
            st.integers(1, 9), st.sets(st.integers(1, 6), max_size=3), st.integers(0, 3)
        ),
        min_size=1,
        max_size=25,
    ),
    st.integers(1, 5),
)
def test_the_engine_on_virtual_time_takes_exactly_what_the_plan_said(rows, workers):
    """Any graph, any pools, any number of workers: forecast and run agree."""
    flow = Workflow("w", pools={"db": 3})
    refs = []
    held = {}
    for i, (length, back, units) in enumerate(rows):
        resources = {"db": units} if units else None
        one = step(name=f"s{i}", estimate=length, resources=resources)(lambda *a: None)
        refs.append(flow.add(one, *[refs[i - b] for b in sorted(back) if i >= b]))
        held[f"s{i}"] = units
    clock = VirtualTime(workers)
    with WorkflowEngine(clock) as engine:
        run = engine.run(flow).check()
    assert clock.elapsed == pytest.approx(flow.plan(workers).row(workers).seconds)
    reports = list(run.steps)
    for at in {r.started for r in reports}:
        now = [r for r in reports if r.started <= at < r.ended]
        assert len(now) <= workers
        assert sum(held[r.step] for r in now) <= 3


@pytest.mark.parametrize("moment", range(1, 14, 2))
def test_a_crash_at_any_moment_can_be_resumed(moment, tmp_path):
    """Before any event of the run is written down: nothing is lost, nothing repeated."""
    calls = []

    @step
    def one(n, *before):
        calls.append(n)
        return n

    def flow():
        with Workflow("w") as made:
            first = one(0)
            many = [one(n, first) for n in range(1, 5)]
            one(5, *many)
        return made

    path = tmp_path / "runs.db"
    with WorkflowEngine("inline", journal=path, on_event=CrashAt(moment)) as engine:
        try:
            engine.run(flow(), run_id="r")
        except Crash:
            pass
    with WorkflowEngine("inline", journal=path) as engine:
        if engine.journal.info("r").state != "succeeded":
            engine.resume("r", flow()).check()
        events = [e for e in engine.journal.events("r") if e.kind == "succeeded"]
    assert sorted(e.step for e in events) == ["one", *[f"one-{n}" for n in range(2, 7)]]
    assert set(calls) == set(range(6))
    assert len(calls) <= 7


def test_what_ran_can_be_asserted():
    with Workflow("w") as flow:
        w.double.options(name="second")(w.double(1))
    with WorkflowEngine(VirtualTime()) as engine:
        run = engine.run(flow)
    assert_ran(run, "double", "second")
    with pytest.raises(AssertionError, match="expected"):
        assert_ran(run, "second")
