"""Running workflows on every executor: results, failures, order, pools."""

import errno
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import pytest
import wf_steps as w
from maestro_workflow_engine import (
    FuturesExecutor,
    Retry,
    Workflow,
    WorkflowEngine,
    command,
    gate,
    step,
    workflow,
)
from maestro_workflow_engine._executors import _aio, _processes
from maestro_workflow_engine._executors._processes import ProcessExecutor
from maestro_workflow_engine._model import Attempt
from maestro_workflow_engine.errors import (
    CommandFailedError,
    DefinitionError,
    RunError,
    RunNotFinishedError,
    StepFailedError,
    StepTimeoutError,
    WorkerLostError,
)

EXECUTORS = ["inline", "threads:3", "asyncio:3", "processes:2"]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_every_executor_gives_the_same_results(executor):
    with WorkflowEngine(executor) as engine:
        run = engine.run(w.everything, n=7, run_id="r").check()
    assert run["add"] == 7
    assert run["each"] == [0, 2, 4, 6, 8, 10, 12]
    assert run["chunked"] == run["each"]
    assert run["aiodouble"] == 14
    assert run["third_time"] == "r/third_time"
    assert run["total"] == 16
    assert run["sum"] == 42
    assert run.step("third_time").attempts == 3


def test_a_futures_executor_of_ones_own_is_used_and_left_open():
    with ThreadPoolExecutor(2) as pool:
        with WorkflowEngine(FuturesExecutor(pool, 2)) as engine:
            assert engine.run(w.everything).check()["sum"] == 12
        with WorkflowEngine(pool) as engine:
            assert engine.workers == 2
            assert engine.run(w.everything).check()["sum"] == 12
        assert pool.submit(int, "3").result() == 3


def test_a_failure_skips_only_what_needs_it():
    with Workflow("w") as flow:
        bad = w.fails()
        w.double(bad)
        w.double.options(name="after")(2)
    with WorkflowEngine("inline") as engine:
        run = engine.run(flow)
    assert run.state == "failed"
    assert run.step("double").reason == "upstream_failed"
    assert run["after"] == 4
    with pytest.raises(StepFailedError, match="broken on purpose") as caught:
        run.check()
    assert isinstance(caught.value.__cause__, ValueError)
    assert caught.value.step == "fails"


def test_a_retry_stops_at_its_attempts_and_at_foreign_errors():
    calls = []

    @step(retry=Retry(5, on=(KeyError,)))
    def picky():
        calls.append(1)
        raise KeyError("x") if len(calls) < 3 else ValueError("y")

    with Workflow("w") as flow:
        picky()
    with WorkflowEngine("inline") as engine:
        assert engine.run(flow).state == "failed"
    assert len(calls) == 3


def test_a_wait_before_a_retry_is_kept():
    with Workflow("w") as flow:
        flow.add(w.third_time.options(retry=Retry(3, wait=0.05)))
    with WorkflowEngine("threads:2") as engine:
        run = engine.run(flow).check()
    assert run.seconds >= 0.1


@pytest.mark.parametrize("executor", ["threads:2", "processes:2"])
def test_a_step_beyond_its_timeout_is_given_up(executor):
    with Workflow("w") as flow:
        w.sleeps(30)
        w.double(1)
    began = time.monotonic()
    with WorkflowEngine(executor) as engine:
        run = engine.run(flow)
    assert time.monotonic() - began < 20
    assert isinstance(run.errors["sleeps"], StepTimeoutError)
    assert run["double"] == 2


def test_an_async_step_and_a_command_beyond_their_timeouts_are_given_up():
    with Workflow("w") as flow:
        w.aiosleeps(30)
        command("nap", ["sleep", "30"], timeout=0.2)()
    with WorkflowEngine("threads:2") as engine:
        run = engine.run(flow)
    assert run.seconds < 20
    assert {type(e) for e in run.errors.values()} == {StepTimeoutError}
    assert len(run.errors) == 2


def test_an_inline_step_is_found_too_slow_when_it_returns():
    with Workflow("w") as flow:
        w.sleeps(0.3)
    with WorkflowEngine("inline") as engine:
        assert isinstance(engine.run(flow).errors["sleeps"], StepTimeoutError)


def test_commands_get_results_and_give_output(tmp_path):
    with Workflow("w", params={"who": "you"}) as flow:
        w.double(21)
        command("say", ["echo", "${params.who} ${double}"])()
        command("quiet", ["sh", "-c", "echo warning >&2; echo result"])()
        command("lines", ["printf", "a\\nb"], capture="lines")()
        command("data", ["echo", '{"a": [1]}'], capture="json")()
        command("where", ["pwd"], cwd=tmp_path)()
        command(
            "key", ["sh", "-c", "echo $MAESTRO_IDEMPOTENCY_KEY $X"], env={"X": "1"}
        )()
    with WorkflowEngine("inline") as engine:
        run = engine.run(flow, run_id="r").check()
    assert run["say"] == "you 42"
    assert run["quiet"] == "result"
    assert run["lines"] == ["a", "b"]
    assert run["data"] == {"a": [1]}
    assert run["where"] == str(tmp_path)
    assert run["key"] == "r/key 1"


def test_a_command_that_fails_says_how():
    with Workflow("w") as flow:
        command("bad", ["sh", "-c", "echo last words; exit 3"])()
        command("missing", ["no-such-program-here"])()
    with WorkflowEngine("inline") as engine:
        errors = engine.run(flow).errors
    assert isinstance(errors["bad"], CommandFailedError)
    assert errors["bad"].code == 3
    assert "last words" in str(errors["bad"])
    assert "cannot be started" in str(errors["missing"])


def test_a_worker_that_dies_is_replaced_and_its_step_tried_again(tmp_path):
    with Workflow("w") as flow:
        w.suicide_once_in(str(tmp_path))
        w.double.map(list(range(20)))
    with WorkflowEngine("processes:2") as engine:
        run = engine.run(flow).check()
    assert run["suicide_once_in"] == 2
    assert run["double"][-1] == 38


def test_a_step_that_always_kills_its_worker_is_given_up():
    with Workflow("w") as flow:
        w.suicide()
        w.double(4)
    with WorkflowEngine("processes:2") as engine:
        run = engine.run(flow)
    assert isinstance(run.errors["suicide"], WorkerLostError)
    assert run.step("suicide").attempts == 3
    assert run["double"] == 8


def test_conditions_skip_steps_and_only_users_of_their_results():
    with Workflow("w", params={"day": "sunday"}) as flow:
        count = w.double(0)
        a = flow.add(w.double, 1, when=count)
        b = w.double.options(name="b")(1, when="params.day == 'sunday' and double == 0")
        w.double.options(name="uses")(a)
        w.double.options(name="follows")(5, after=[a, b])
    with WorkflowEngine("inline") as engine:
        run = engine.run(flow).check()
    assert run.step("double-2").reason == "condition_false"
    assert run["b"] == 2
    assert run.step("uses").reason == "upstream_skipped"
    assert run["follows"] == 10


def test_steps_for_the_case_of_failure_run_only_then():
    def flow(first):
        with Workflow("w") as made:
            a = first()
            w.double.options(name="mend", run_on="failure")(1, after=[a])
            w.double.options(name="tidy", run_on="always")(2, after=[a])
        return made

    with WorkflowEngine("inline") as engine:
        bad, good = engine.run(flow(w.fails)), engine.run(flow(lambda: w.double(0)))
    assert bad["mend"] == 2
    assert bad["tidy"] == good["tidy"] == 4
    assert good.step("mend").reason == "nothing_failed"


def test_a_map_of_nothing_and_a_map_with_a_bad_item():
    @step
    def inverse(x):
        return 1 / x

    with Workflow("w") as flow:
        none = w.numbers(0)
        w.double.map(none)
        inverse.map([1, 0, 2])
        w.total.options(name="after")(flow_ref(flow, "inverse"))
    with WorkflowEngine("threads:2") as engine:
        run = engine.run(flow)
    assert run["double"] == []
    assert "1 of 3 items" in str(run.errors["inverse"])
    assert run["inverse[2]"] == 0.5
    assert run.step("after").reason == "upstream_failed"


def flow_ref(flow, name):
    from maestro_workflow_engine import Ref

    return Ref(flow.index[name], name)


def test_a_map_over_a_text_is_refused_not_split_into_letters():
    flow = Workflow.from_dict(
        {
            "workflow": "m",
            "steps": {
                "names": {"run": ["echo", "abc"]},
                "each": {"call": "wf_steps:double", "map": "${names}"},
            },
        }
    )
    with WorkflowEngine("inline") as engine:
        run = engine.run(flow)
    assert "got the text 'abc'" in str(run.errors["each"])
    assert "capture 'lines'" in str(run.errors["each"])


def test_a_gate_waits_and_a_background_run_passes_it():
    with WorkflowEngine("threads:2") as engine:
        run = engine.run(w.gated)
        assert run.state == "waiting"
        assert run.waiting == ("approve",)
        with pytest.raises(RunNotFinishedError, match="approve"):
            run.check()
        assert engine.run(w.gated, wanted=False).check()["add"] == 42
        handle = engine.start(w.gated)
        with pytest.raises(RunError, match="no gate 'aprove'; did you mean 'approve'"):
            handle.approve("aprove")
        handle.approve("approve")
        assert handle.wait(10).check()["add"] == 42


def test_a_background_run_can_be_paused_continued_and_cancelled():
    begun = threading.Event()
    go = threading.Event()

    @step
    def first():
        begun.set()
        assert go.wait(20)
        return 1

    with Workflow("w") as flow:
        w.double(first())
    with WorkflowEngine("threads:2") as engine:
        handle = engine.start(flow)
        begun.wait(10)
        handle.pause()
        go.set()
        deadline = time.monotonic() + 10
        while handle.counts().get("succeeded") != 1 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert handle.counts() == {"ready": 1, "succeeded": 1}
        assert not handle.done
        handle.resume()
        assert handle.wait(10).check()["double"] == 2
        go.clear()
        begun.clear()
        handle = engine.start(flow)
        assert begun.wait(10)
        handle.cancel()
        run = handle.wait(10)
        go.set()
    assert run.state == "cancelled"
    with pytest.raises(RunNotFinishedError, match="cancelled"):
        run.check()


def test_a_cancelled_command_leaves_no_process_behind(tmp_path):
    script = f"sleep 300 & echo $! > {tmp_path}/pid; wait"
    with Workflow("w") as flow:
        command("tree", ["sh", "-c", script])()
    with WorkflowEngine("threads:1") as engine:
        handle = engine.start(flow)
        deadline = time.monotonic() + 10
        path = tmp_path / "pid"
        while not (path.exists() and path.read_text(encoding="utf-8").strip()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        handle.cancel()
        assert handle.wait(20).state == "cancelled"
    pid = path.read_text(encoding="utf-8").strip()
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not alive(pid)
    assert not zombies()


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def zombies():
    """The children of this process that ended and were not waited for."""
    import os
    from pathlib import Path

    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] == "Z" and int(fields[1]) == os.getpid():
            found.append(stat.parent.name)
    return found


def test_processes_leave_no_zombies():
    with WorkflowEngine("processes:2") as engine:
        engine.run(w.everything).check()
    assert not zombies()


def test_a_run_ends_when_a_dead_worker_cannot_be_replaced(monkeypatch):
    made = []

    def worker(number):
        if made:
            raise OSError(errno.EAGAIN, "no more processes")
        made.append(number)
        return real(number)

    real = _processes._Worker
    monkeypatch.setattr(_processes, "_Worker", worker)
    executor = ProcessExecutor(1)
    outcomes = SimpleQueue()
    spec = w.suicide.spec
    attempts = [Attempt("r", i, f"s{i}", 1, spec, [], {}, False) for i in range(3)]
    try:
        executor.start(attempts, outcomes.put)
        found = [outcomes.get(timeout=60) for _ in attempts]
    finally:
        executor.close()
    assert all(outcome.lost for outcome in found)
    assert "exit code -9" in str(found[0].error)
    assert "no more processes" in str(found[1].error)


def test_a_worker_that_was_killed_gets_no_further_attempt():
    executor = ProcessExecutor(1)
    outcomes = SimpleQueue()
    attempts = [
        Attempt("r", i, f"s{i}", 1, w.double.spec, [i], {}, False) for i in range(2)
    ]
    try:
        executor.start(attempts[:1], outcomes.put)
        assert outcomes.get(timeout=60).value == 0
        (worker,) = executor._workers
        with executor._lock:  # as if it were told to stop and had just answered
            worker.doomed = True
        executor.start(attempts[1:], outcomes.put)
        with executor._lock:
            assert worker.attempt is None
        worker.process.kill()
        outcome = outcomes.get(timeout=60)
    finally:
        executor.close()
    assert (outcome.value, outcome.lost) == (2, False)


def test_an_event_loop_is_left_behind_when_a_step_will_not_end(monkeypatch):
    monkeypatch.setattr(_aio, "_GRACE", 0.05)
    let_go, begun = threading.Event(), threading.Event()

    async def blocks():
        begun.set()
        let_go.wait(60)

    executor = _aio.AsyncExecutor(1)
    attempt = Attempt("r", 0, "s", 1, step(blocks).spec, [], {}, False)
    executor.start([attempt], lambda _: None)
    assert begun.wait(60)
    executor.close()
    let_go.set()
    executor._thread.join(60)
    assert not executor._thread.is_alive()
    executor.close()
    assert executor._loop.is_closed()


def test_compensation_undoes_what_had_succeeded_latest_first():
    undone = []

    def undo(result):
        undone.append(result)

    @step(compensate=undo)
    def book(what, *after):
        return what

    with Workflow("trip") as flow:
        flight = book("flight")
        hotel = book("hotel", flight)
        w.fails(hotel)
    with WorkflowEngine("threads:2") as engine:
        run = engine.run(flow)
    assert run.state == "failed"
    assert undone == ["hotel", "flight"]
    assert run.step("undo:book-2").state == "succeeded"


def test_an_undo_step_that_hangs_is_given_up_and_the_others_still_run():
    released = threading.Event()
    undone = []

    @step(timeout="100ms")
    def undo(result, *, ctx):
        if result == "hotel":
            released.wait(60)
        else:
            undone.append(result)

    @step(compensate=undo)
    def book(what, *after):
        return what

    with Workflow("trip") as flow:
        w.fails(book("hotel", book("flight")))
    with WorkflowEngine("threads:2") as engine:
        run = engine.run(flow)
        released.set()
    assert undone == ["flight"]
    assert run.step("undo:book").state == "succeeded"
    assert run.step("undo:book-2").state == "failed"
    assert isinstance(run.errors["undo:book-2"], StepTimeoutError)


@pytest.mark.parametrize("executor", ["inline", "threads:2", "processes:2"])
def test_undo_steps_run_where_steps_of_their_kind_run(executor, tmp_path):
    left = tmp_path / "left"
    remove = command("remove", ["rm", "${touch}"])
    touch = command(
        "touch", ["sh", "-c", f"touch {left}; echo {left}"], compensate=remove
    )
    loops = []

    async def note_loop(result):
        loops.append((threading.get_ident(), result))

    @step(compensate=note_loop)
    async def reserve(made):
        return made

    with Workflow("trip") as flow:
        made = touch()
        kept = w.remember_pid(reserve(made))
        w.fails(kept)
    with WorkflowEngine(executor) as engine:
        run = engine.run(flow)
    assert run.state == "failed"
    assert not left.exists()
    [(thread, result)] = loops
    assert result == str(left)
    assert thread != threading.get_ident()  # an event loop's own thread
    undone_by = run["undo:remember_pid"]
    assert (undone_by == os.getpid()) == (executor != "processes:2")


def test_sub_workflows_are_part_of_the_graph():
    @workflow
    def inner(x: int):
        return w.double(w.double(x))

    @workflow
    def outer():
        w.add(inner(1), inner(2))

    built = outer.build()
    assert built.steps[:2] == ("inner/double", "inner/double-2")
    with WorkflowEngine("inline") as engine:
        assert engine.run(built).check()["add"] == 12


def test_pools_are_never_oversubscribed_and_big_requests_are_served():
    lock = threading.Lock()
    used = {"db": 0, "peak": 0}

    def hold(amount):
        with lock:
            used["db"] += amount
            used["peak"] = max(used["peak"], used["db"])
        time.sleep(0.001)
        with lock:
            used["db"] -= amount

    small = step(resources={"db": 1})(lambda: hold(1))
    big = step(resources={"db": 4}, name="big")(lambda: hold(4))
    with Workflow("w", pools={"db": 4}) as flow:
        for _ in range(100):
            small()
        big()
    with WorkflowEngine("threads:8") as engine:
        run = engine.run(flow).check()
    assert used["peak"] <= 4
    assert run.step("big").state == "succeeded"


def test_barriers_keep_tiers_apart():
    ends = {}

    @step
    def timed(name, *after):
        time.sleep(0.01 if name == "slow" else 0)
        ends[name] = time.monotonic()

    @workflow(barriers=True)
    def tiers():
        timed("slow")
        quick = timed("quick")
        timed("second", quick)

    with WorkflowEngine("threads:3") as engine:
        engine.run(tiers).check()
    assert ends["second"] > ends["slow"]


def test_work_added_in_the_middle_of_a_run_belongs_to_it():
    go = threading.Event()
    first = step(name="first")(lambda: go.wait(20))
    with Workflow("w") as flow:
        first()
    with Workflow("late") as late:
        w.add(w.double(1), 1)
    for policy in ("critical-path", "fair", "newest-first"):
        go.clear()
        with WorkflowEngine("threads:2", policy=policy) as engine:
            handle = engine.start(flow)
            handle.add(late, prefix="late")
            deadline = time.monotonic() + 10
            while handle.counts().get("succeeded", 0) < 2:
                assert time.monotonic() < deadline
                time.sleep(0.002)
            go.set()
            run = handle.wait(10).check()
        assert run["late/add"] == 3


def test_the_cache_returns_equal_work_and_notices_new_code(journal_path):
    calls = []

    def make(version):
        @step(cache=True, version=version, name="costly")
        def costly(x):
            calls.append(x)
            return x * 10

        with Workflow("w") as flow:
            costly.map([1, 2])
        return flow

    with WorkflowEngine("threads:2", journal=journal_path) as engine:
        assert engine.run(make("1")).check()["costly"] == [10, 20]
        again = engine.run(make("1")).check()
        assert again["costly"] == [10, 20]
        assert again.step("costly[0]").reason == "cached"
        engine.run(make("2")).check()
    assert sorted(calls) == [1, 1, 2, 2]


def test_events_tell_what_happens_in_order():
    seen = []
    with WorkflowEngine("inline", on_event=seen.append) as engine:
        engine.run(w.gated, wanted=False).check()
    kinds = [(e.step, e.kind) for e in seen]
    assert kinds == [
        ("approve", "skipped"),
        ("double", "started"),
        ("double", "succeeded"),
        ("add", "started"),
        ("add", "succeeded"),
    ]


def test_a_long_chain_needs_no_recursion():
    with Workflow("chain") as flow:
        last = w.fails()
        for _ in range(5_000):
            last = w.double(last)
    with WorkflowEngine("inline") as engine:
        run = engine.run(flow)
    assert run.counts == {"failed": 1, "skipped": 5_000}


def test_placeholders_refuse_what_needs_a_value():
    with Workflow("w") as flow:
        ref = w.double(1)
        with pytest.raises(TypeError, match="use"):
            list(ref)
        with pytest.raises(TypeError, match="when="):
            bool(ref)
        part = ref["rows"][0]
        assert repr(part) == "<result of double['rows'][0]>"
    with Workflow("other"):
        with pytest.raises(DefinitionError, match="another workflow"):
            w.double(flow_ref(flow, "double"))


def test_a_gate_outside_a_workflow_says_so():
    with pytest.raises(TypeError, match="inside a workflow"):
        gate("x")
