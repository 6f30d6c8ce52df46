"""Steps on Dask: the same results, and a killed worker costs what it was doing."""

import os
import signal
import threading
import time
import warnings

import pytest
import wf_steps as w
from maestro_workflow_engine import WorkflowEngine
from maestro_workflow_engine._cause import traceback_of
from test_journal import crash_drill, executions

pytest.importorskip("distributed")

# distributed leaves sockets to its own event loop's end.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def executor(monkeypatch, tmp_path):
    from maestro_workflow_engine.dask import DaskExecutor

    # The workers import the steps by name, as a user's would.
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(w.__file__))
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = DaskExecutor.local(2)
    yield made
    made.close()


def kill_a_worker(executor, folder, after):
    """Kill one worker process in the middle of a run, as the system might."""
    deadline = time.monotonic() + 60
    while sum(executions(folder).values()) < after and time.monotonic() < deadline:
        time.sleep(0.01)
    pids = executor._client.run(os.getpid)
    os.kill(next(iter(pids.values())), signal.SIGKILL)


def lost_worker(executor, folder, steps):
    killer = threading.Thread(target=kill_a_worker, args=(executor, folder, steps // 3))
    killer.start()
    with WorkflowEngine(executor) as engine:
        run = engine.run(
            w.layered, folder=str(folder), steps=steps, width=min(50, steps), pause=0.01
        ).check()
    killer.join()
    assert run.counts == {"succeeded": steps}
    ran = executions(folder)
    assert len(ran) == steps
    return sum(ran.values())


def test_dask_gives_the_same_results_and_a_killed_worker_costs_what_it_was_doing(
    executor, tmp_path
):
    """One test: a cluster takes seconds to start."""
    engine = WorkflowEngine(executor)
    run = engine.run(w.everything, n=5, run_id="r").check()
    assert run["sum"] == 20
    error = engine.run(w.failing).errors["fails"]
    text = traceback_of(error.__cause__)
    assert "in fails" in text
    assert "distributed" not in text
    assert run["third_time"] == "r/third_time"
    assert 200 <= lost_worker(executor, tmp_path, 200) <= 202


@pytest.mark.drill
def test_a_killed_worker_in_a_run_of_1000_steps(executor, tmp_path):
    total = lost_worker(executor, tmp_path, 1_000)
    print(f"dask: {total} executions of 1000 steps")
    assert 1_000 <= total <= 1_002


@pytest.mark.drill
def test_many_kills_of_an_engine_on_dask(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(w.__file__))
    crash_drill("dask:2", 2, 3, 200, tmp_path, 3)
