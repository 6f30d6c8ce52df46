"""What decorators and constructors refuse, in whose words, with what advice."""

import concurrent.futures

import pytest
import wf_steps as w
from maestro_workflow_engine import (
    FuturesExecutor,
    Journal,
    Retry,
    Workflow,
    WorkflowEngine,
    command,
    gate,
    step,
    workflow,
)
from maestro_workflow_engine.errors import OptionError, RunError, WorkflowError
from maestro_workflow_engine.streams import Group, Queue, Stream, Topology, Worker
from maestro_workflow_engine.streams.automation import AutomationFlow
from maestro_workflow_engine.streams.errors import StreamsError
from maestro_workflow_engine.testing import CrashAt, VirtualTime

URL = "redis://127.0.0.1:1/0"
STREAM = Stream(name="s", groups=(Group(name="g"),))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: step(retires=3), "step() has no option 'retires'; did you mean 'retry'?"),
        (lambda: step(retry="3"), "step(): expected a number of attempts of 1 or more"),
        (lambda: step(retry=True), "in retry=, got True"),
        (lambda: step(retry=0), "in retry=, got 0"),
        (lambda: step(timeout="soon"), "expected a duration such as '1m30s' or 90"),
        (lambda: step(timeout=0), "more than 0 in timeout=, got 0"),
        (lambda: step(estimate=-1), "in estimate=, got -1"),
        (lambda: step(pool=3), "a text that is not empty in pool=, got 3"),
        (lambda: step(resources="gpu"), "a mapping such as {'db': 2} in resources="),
        (lambda: step(resources={"gpu": 0}), "in resources['gpu']=, got 0"),
        (lambda: step(cache="no"), "True or False in cache=, got 'no'"),
        (lambda: step(once=1), "True or False in once=, got 1"),
        (lambda: step(run_on="fail"), "success, failure or always in run_on="),
        (lambda: step(compensate="undo"), "a step or a function in compensate="),
        (lambda: step(version=1), "in version=, got 1"),
        (lambda: step("load"), "a function (options go by name) in function="),
        (lambda: w.double.options(retires=2), "options() has no option 'retires'"),
        (lambda: w.double.options(retry="2"), "step 'double': expected a number"),
        (lambda: command("x", "make test"), "a list such as ['make', 'test'] in argv="),
        (lambda: command("x", ["a"], capture="line"), "lines, json or none in capture="),
        (lambda: command("x", ["a"], env=["A=1"]), "a mapping such as"),
        (lambda: command("x", ["a"], cwdd="/"), "command 'x' has no option 'cwdd'; did"),
        (lambda: Retry(attemps=3), "Retry has no option 'attemps'; did you mean 'attempts'"),
        (lambda: Retry("3"), "Retry: expected a whole number of 1 or more in attempts="),
        (lambda: Retry(3, wait="slow"), "in wait=, got 'slow'"),
        (lambda: Retry(3, on="OSError"), "exceptions such as (OSError,) in on="),
        (lambda: workflow("nightly"), "a function (options go by name) in function="),
        (lambda: workflow(pool={}), "workflow() has no option 'pool'; did you mean 'pools'"),
        (lambda: workflow(barriers=1)(lambda: None), "True or False in barriers="),
        (lambda: Workflow(3), "Workflow: expected a text that is not empty in name="),
        (lambda: Workflow("w", pools=["db"]), "Workflow: expected a mapping such as"),
        (lambda: Workflow("w").plan("4"), "plan(): expected a number, or several"),
        (lambda: Workflow("w").plan(search="x"), "in search=, got 'x'"),
        (lambda: WorkflowEngine(4), "(for so many workers: workers=4) in executor=, got 4"),
        (lambda: WorkflowEngine("thread"), "got 'thread'; did you mean 'threads'?"),
        (lambda: WorkflowEngine("threads:0"), "got 'threads:0'"),
        (lambda: WorkflowEngine("threads:"), "got 'threads:'"),
        (lambda: WorkflowEngine(worker=4), "has no option 'worker'; did you mean 'workers'"),
        (lambda: WorkflowEngine(workers="4"), "in workers=, got '4'"),
        (lambda: WorkflowEngine(policy=3), "expected a policy of critical-path"),
        (lambda: WorkflowEngine(pools={"db": "2"}), "in pools['db']=, got '2'"),
        (lambda: WorkflowEngine(on_event="x"), "a function in on_event=, got 'x'"),
        (lambda: WorkflowEngine(journal=True), "Journal: expected the path of a file"),
        (lambda: Journal("j", durability="pwer"), "'process' or 'power' in durability="),
        (lambda: Journal("j", durable="power"), "has no option 'durable'; did you mean"),
        (lambda: FuturesExecutor(4, 4), "a concurrent.futures.Executor in executor="),
        (lambda: VirtualTime("4"), "VirtualTime: expected a whole number"),
        (lambda: VirtualTime(duration={}), "no option 'duration'; did you mean 'durations'"),
        (lambda: VirtualTime(fail={"a": ValueError()}), "lists of exceptions in fail="),
        (lambda: CrashAt("1"), "CrashAt: expected a whole number"),
        (lambda: Queue(4, STREAM), "Queue: expected a URL such as redis://127.0.0.1:6379/0 in url="),
        (lambda: Queue("127.0.0.1:6379", STREAM), "in url=, got '127.0.0.1:6379'"),
        (lambda: AutomationFlow(URL, run=len, propose=None, validate=len), "in propose="),
        (lambda: Queue(URL, "jobs"), "a Stream such as AUTOMATION['jobs'] in stream="),
        (lambda: Worker(URL, STREAM, concurrency="4"), "in concurrency=, got '4'"),
        (lambda: Stream(name="s", group=()), "no option 'group'; did you mean 'groups'"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_at_once(make, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError) as caught:
        make()
    assert expected in str(caught.value)
    assert isinstance(caught.value, WorkflowError)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Stream(name="s", groups="g"), "groups must be a tuple such as"),
        (lambda: Stream(name=3, groups=STREAM.groups), "stream name 3: use letters"),
        (lambda: Stream(name="s", groups=STREAM.groups, idle="5"), "idle must be at least"),
        (lambda: Stream(name="s", groups=STREAM.groups, max_deliveries=1.5), "whole number"),
        (lambda: Topology("jobs"), "streams must be a tuple of Stream, is 'jobs'"),
    ],
)  # fmt: skip
def test_streams_refuse_what_does_not_fit(make, expected):
    with pytest.raises(StreamsError) as caught:
        make()
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"streams": [{"name": "s", "groups": "workers"}]}', "a list such as ['workers']"),
        ('{"streams": ["jobs"]}', "a stream is a table with 'name' and 'groups'"),
        ('["jobs"]', "expected streams"),
        ('{"streams": "jobs"}', "expected streams"),
    ],
)  # fmt: skip
def test_a_topology_file_of_another_shape_is_refused(text, expected, tmp_path):
    path = tmp_path / "topology.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StreamsError) as caught:
        Topology.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert expected in str(caught.value)
    with pytest.raises(StreamsError, match="cannot be read: No such file"):
        Topology.load(tmp_path / "none.json")


def test_what_fits_is_kept_as_given():
    assert Retry(2, on=OSError) == Retry(2, on=(OSError,)) == Retry(2, on=[OSError])
    spec = step(name="s", retry=2, pool="db", resources={"db": 1, "cpu": 2}, timeout="1m",
                once=True, version="1", run_on="always", estimate=0)(w.double.spec.target).spec  # fmt: skip
    assert spec.pools == (("cpu", 2), ("db", 2))
    assert (spec.retry, spec.timeout, spec.estimate) == (Retry(2), 60.0, 0.0)
    changed = w.double.options(timeout=5, name="other").spec
    assert (changed.name, changed.timeout, changed.retry) == ("other", 5.0, None)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert WorkflowEngine(pool).workers == 3


def test_items_of_a_map_are_a_list():
    with Workflow("m"):
        for items in ("abc", 3, None):
            with pytest.raises(OptionError, match="in items="):
                w.double.map(items)
        with pytest.raises(OptionError, match="in chunk=, got '2'"):
            w.double.map([1], chunk="2")
        with pytest.raises(OptionError, match="in name=, got ''"):
            gate("")


def test_a_resume_takes_lists_of_steps_that_exist(journal_path):
    with WorkflowEngine("inline", journal=journal_path) as engine:
        assert engine.run(w.gated, run_id="g").state == "waiting"
        with pytest.raises(
            OptionError, match=r"a list such as \['approve'\] in approve="
        ):
            engine.resume("g", approve="approve")
        with pytest.raises(RunError, match="no step 'aprove'; did you mean 'approve'"):
            engine.resume("g", approve=["aprove"])
        assert engine.resume("g", approve=["approve"]).state == "succeeded"
