"""Steps on Redis Streams, with a real server and real worker processes."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis
import wf_steps as w
from maestro_workflow_engine import WorkflowEngine
from maestro_workflow_engine._cause import traceback_of
from maestro_workflow_engine.errors import OptionError, StepFailedError
from maestro_workflow_engine.redis import RedisExecutor, stream_of, worker
from maestro_workflow_engine.testing import check_executor
from test_journal import committed, executions, start

HERE = Path(__file__).parent
STREAM = stream_of(lease=1.0)


@pytest.fixture
def url(require_program, tmp_path):
    program = require_program("redis-server")
    deadline = time.monotonic() + 20
    server = None
    while True:
        if server is None or server.poll() is not None:  # or the port was taken
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            server = subprocess.Popen(
                [program, "--port", str(port), "--bind", "127.0.0.1",
                 "--dir", str(tmp_path), "--save", "", "--appendonly", "no"],
                stdout=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            with redis.Redis(port=port) as client:
                if client.info("server")["process_id"] == server.pid:
                    break
        except redis.ConnectionError:
            pass
        assert time.monotonic() < deadline
        time.sleep(0.02)
    yield f"redis://127.0.0.1:{port}/0"
    server.terminate()
    server.wait()


def serve(url):
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "maestro_workflow_engine._cli", "worker", "--url", url,
         "--allow", "wf_steps", "--allow", "maestro_workflow_engine.testing",
         "--lease", "1", "--concurrency", "2"],
        env=os.environ | {"PYTHONPATH": str(HERE)}, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture
def workers(url):
    found = [serve(url), serve(url)]
    yield found
    for process in found:
        process.kill()
        process.wait()


def test_redis_gives_the_same_results_and_keeps_the_promises(url, workers):
    with WorkflowEngine(RedisExecutor(url, slots=4, stream=STREAM)) as engine:
        run = engine.run(w.everything, n=5, run_id="r").check()
    assert run["sum"] == 20
    assert run["third_time"] == "r/third_time"
    check_executor(lambda: RedisExecutor(url, slots=4, stream=STREAM))


def test_errors_come_back_and_foreign_modules_are_refused(url, workers):
    from maestro_workflow_engine import Workflow

    with Workflow("w") as flow:
        w.fails()
        flow.add(os.path.basename, "x")
        flow.add(lambda: 1)
    with WorkflowEngine(RedisExecutor(url, slots=4, stream=STREAM)) as engine:
        errors = engine.run(flow).errors
    assert isinstance(errors["fails"], StepFailedError)
    assert isinstance(errors["fails"].__cause__, ValueError)
    assert "in fails" in traceback_of(errors["fails"].__cause__)
    assert "does not allow module 'posixpath'" in str(errors["basename"])
    assert "top of a module" in str(errors["<lambda>"])


def test_a_worker_takes_a_list_of_modules_that_exist():
    away = "redis://127.0.0.1:1/0"
    with pytest.raises(OptionError, match=r"a list such as \['wf_steps'\] in allow="):
        worker(away, "wf_steps")
    with pytest.raises(OptionError, match="module 'wf_stepz' cannot be imported"):
        worker(away, ["wf_stepz"])
    with pytest.raises(OptionError, match="did you mean 'wf_steps'"):
        worker(away, ["wf_steps.py"])
    with pytest.raises(OptionError, match="in slots=, got '4'"):
        RedisExecutor(away, slots="4")


def lost_worker(url, workers, folder, steps):
    def kill():
        deadline = time.monotonic() + 60
        while sum(executions(folder).values()) < steps // 3:
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        workers[0].send_signal(signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    with WorkflowEngine(RedisExecutor(url, slots=4, stream=STREAM)) as engine:
        run = engine.run(
            w.layered, folder=str(folder), steps=steps, width=min(50, steps), pause=0.01
        ).check()
    killer.join()
    assert workers[0].wait(20) == -signal.SIGKILL
    assert run.counts == {"succeeded": steps}
    ran = executions(folder)
    assert len(ran) == steps
    return sum(ran.values())


def test_a_killed_worker_costs_what_it_was_doing(url, workers, tmp_path):
    assert 200 <= lost_worker(url, workers, tmp_path, 200) <= 202


@pytest.mark.drill
def test_a_killed_worker_in_a_run_of_1000_steps(url, workers, tmp_path):
    total = lost_worker(url, workers, tmp_path, 1_000)
    print(f"redis: {total} executions of 1000 steps")
    assert 1_000 <= total <= 1_002


ENGINE = """
import wf_steps
from maestro_workflow_engine import WorkflowEngine
from maestro_workflow_engine.redis import RedisExecutor, stream_of
journal, url, folder, steps = sys.argv[1:]
with WorkflowEngine(RedisExecutor(url, slots=4, stream=stream_of(lease=1.0)), journal=journal) as engine:
    try:
        engine.resume("r").check()
    except Exception:
        engine.run(wf_steps.layered, run_id="r", folder=folder, steps=int(steps), pause=0.002)
"""


def engine_kills(url, folder, kills, steps):
    journal = folder / "runs.db"
    died = 0
    for turn in range(kills):
        goal = steps * (turn + 1) // (kills + 1)
        process = start(ENGINE, journal, url, folder, steps)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if sum(committed(journal).values()) >= goal:
                break
            time.sleep(0.005)
        process.kill()
        died += process.wait() == -signal.SIGKILL
    # What is still in the stream ends first, so that every execution is counted.
    with WorkflowEngine(
        RedisExecutor(url, slots=4, stream=STREAM), journal=journal
    ) as engine:
        if engine.journal.info("r").state != "succeeded":
            engine.resume("r").check()
    done, ran = committed(journal), executions(folder)
    assert len(done) == len(ran) == steps
    assert set(done.values()) == {1}
    assert sum(ran.values()) - steps <= died * 2 * 4
    return died


def test_a_killed_engine_on_redis_loses_nothing(url, workers, tmp_path):
    assert engine_kills(url, tmp_path, 2, 120) >= 1


@pytest.mark.drill
def test_many_kills_of_an_engine_on_redis(url, workers, tmp_path):
    died = engine_kills(url, tmp_path, 10, 1_100)
    print(f"redis: {died} kills")
    assert died >= 8
