"""Workers killed, frozen and stopped; Redis restarted, frozen, emptied, trimmed."""

import asyncio
import contextlib
import dataclasses
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import redis
from maestro_workflow_engine.streams import (
    Group,
    Queue,
    Stream,
    Worker,
    _scripts,
    _worker,
)

STREAM = (
    "Stream(name='jobs', groups=(Group(name='workers'),), idle=1.5, max_deliveries=50)"
)
WORKER = f"""
import sqlite3, sys, time
from maestro_workflow_engine.streams import Group, Stream, Worker
stream = {STREAM}
worker = Worker(sys.argv[1], stream, concurrency=8, backoff=lambda tries: 0.0)
log = open(sys.argv[2], "a", buffering=1)
@worker.handler("t")
def work(job, payload):
    time.sleep(payload["seconds"])
    db = sqlite3.connect(sys.argv[3], timeout=30)
    with db:
        db.execute("insert or ignore into effect values (?)", (job.id,))
    db.close()
    log.write(f"{{payload['n']}}\\n")
print("ready", flush=True)
worker.run()
"""


def stream() -> Stream:
    return eval(STREAM)


class Crew:
    """Worker processes that a test may kill."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url, self.log, self.db = url, folder / "log", folder / "effects.db"
        with sqlite3.connect(self.db) as db:
            db.execute("pragma journal_mode=wal")
            db.execute("create table effect (job primary key)")
        db.close()
        self.log.touch()
        self.members: list[subprocess.Popen[str]] = []

    def hire(self) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", WORKER, self.url, str(self.log), str(self.db)],
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdout.close()
        self.members.append(process)
        return process

    def kill(self, process: subprocess.Popen[str]) -> None:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        self.members.remove(process)

    def dismiss(self) -> None:
        for process in self.members:
            process.terminate()
        for process in self.members:
            process.wait(timeout=30)

    def executions(self) -> list[int]:
        return [int(line) for line in self.log.read_text("utf-8").split()]

    def effects(self) -> int:
        db = sqlite3.connect(self.db)
        [count] = db.execute("select count(*) from effect").fetchone()
        db.close()
        return count


@pytest.fixture
def crew(url, tmp_path):
    crew = Crew(url, tmp_path)
    yield crew
    crew.dismiss()


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not within the time"
        time.sleep(0.02)


def kill_rounds(crew: Crew, jobs: int, kills: int) -> list[int]:
    """Kill workers at random while jobs run; the last kill leaves the queue idle."""
    chance = random.Random(kills)
    with Queue(crew.url, stream()) as queue:
        queue.put_many("t", [{"n": n, "seconds": 0.002} for n in range(jobs)])
        crew.hire()
        for _ in range(kills):
            time.sleep(chance.uniform(0.02, 0.15))
            victim = chance.choice(crew.members)
            crew.hire()
            crew.kill(victim)
        wait_until(lambda: queue.status().length == 0, 240)
        assert queue.status().dead == 0
    return crew.executions()


def check(crew: Crew, executions: list[int], jobs: int, kills: int) -> None:
    assert sorted(set(executions)) == list(range(jobs))  # every job done
    # A kill repeats at most what was running and not yet acknowledged.
    assert len(executions) - jobs <= kills * 8 * 2
    assert crew.effects() == jobs  # with the job's id as a key: each effect once


def test_killed_workers_lose_no_job(crew):
    check(crew, kill_rounds(crew, 400, 4), 400, 4)


@pytest.mark.drill
def test_a_hundred_kills_over_ten_thousand_jobs_lose_none(crew):
    check(crew, kill_rounds(crew, 10_000, 100), 10_000, 100)


def test_a_job_of_a_killed_worker_is_redelivered_on_an_idle_stream(crew):
    """Nothing new arrives after the kill: reclaiming must not wait for traffic."""
    with Queue(crew.url, stream()) as queue:
        queue.put("t", {"n": 1, "seconds": 30})
        victim = crew.hire()
        wait_until(lambda: queue.status().groups[0].pending == 1)
        survivor = Worker(crew.url, stream())
        seen = []
        survivor.handler("t")(lambda job, payload: seen.append(job.deliveries))
        crew.kill(victim)
        survivor.run(until_empty=True)
        assert seen == [2]


def test_a_job_longer_than_idle_runs_once(url):
    """The heartbeat keeps it; a second worker looks on."""
    runs = []
    workers = []
    calm = dataclasses.replace(stream(), idle=2.5)
    for _ in range(2):
        worker = Worker(url, calm)

        @worker.handler("long")
        def long(job, payload):
            runs.append(job.fence)
            time.sleep(5.5)  # more than twice idle

        workers.append(worker)
    with Queue(url, calm) as queue:
        queue.put("long")
        threads = [
            threading.Thread(target=lambda w=w: w.run(until_empty=True))
            for w in workers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    assert len(runs) == 1


@pytest.mark.drill
def test_a_handler_that_blocks_the_event_loop_keeps_its_job(url):
    runs = []
    calm = dataclasses.replace(stream(), idle=2.5)
    first, second = Worker(url, calm), Worker(url, calm)
    for worker in (first, second):

        @worker.handler("block")
        async def block(job, payload):
            runs.append(job.entry)
            time.sleep(5.5)  # wrong, but it must not cost a second execution

    with Queue(url, calm) as queue:
        queue.put("block")
        threads = [
            threading.Thread(target=lambda w=w: w.run(until_empty=True))
            for w in (first, second)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    assert len(runs) == 1


def test_a_frozen_worker_cannot_finish_what_another_took_over(crew):
    """SIGSTOP, takeover, SIGCONT: the late acknowledgement is refused."""
    with Queue(crew.url, stream()) as queue:
        queue.put("t", {"n": 1, "seconds": 2.0})
        frozen = crew.hire()
        wait_until(lambda: queue.status().groups[0].pending == 1)
        os.kill(frozen.pid, signal.SIGSTOP)
        try:
            done = []
            other = Worker(crew.url, stream())
            other.handler("t")(lambda job, payload: done.append(job.fence))
            other.run(until_empty=True)
        finally:
            os.kill(frozen.pid, signal.SIGCONT)
        assert done[0][1] == 2
        assert queue.status().dead == 0
        wait_until(lambda: len(crew.executions()) == 1)  # it did run; its ack was void
        assert queue.status().length == 0


def test_a_stop_hands_back_what_was_not_finished(url):
    with Queue(
        url, Stream(name="jobs", groups=(Group(name="workers"),), idle=60)
    ) as queue:
        queue.put_many("t", range(6))
        worker = Worker(url, queue.stream, concurrency=3, grace=0.1)
        begun = threading.Event()

        @worker.handler("t")
        async def slow(job, payload):
            begun.set()
            await asyncio.sleep(60)

        thread = threading.Thread(target=worker.run)
        thread.start()
        assert begun.wait(20)
        worker.stop()
        thread.join(timeout=20)
        assert not thread.is_alive()
        # idle is a minute, yet the next worker gets them at once, as first deliveries.
        seen = []
        again = Worker(url, queue.stream)
        again.handler("t")(lambda job, payload: seen.append((payload, job.deliveries)))
        again.run(until_empty=True)
        assert sorted(seen) == [(n, 1) for n in range(6)]


def test_a_stop_ends_a_worker_whose_acknowledgement_drops_the_cancellation(url):
    """As asyncio.wait_for of Python 3.11 does when its result comes at that moment."""
    with Queue(url, stream()) as queue:
        queue.put("t", 1)
        worker = Worker(url, queue.stream)
        worker.handler("t")(lambda job, payload: None)
        real, begun = worker._acknowledge, threading.Event()

        async def dropping(redis):
            if not begun.is_set():
                begun.set()
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.sleep(60)
            await real(redis)

        worker._acknowledge = dropping
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        assert begun.wait(20)
        worker.stop()
        thread.join(timeout=20)
        assert not thread.is_alive()
        assert queue.status().length == 0


def test_sigterm_ends_a_worker_cleanly(crew):
    with Queue(crew.url, stream()) as queue:
        queue.put("t", {"n": 1, "seconds": 0})
        process = crew.hire()
        wait_until(lambda: crew.executions() == [1])
        process.terminate()
        assert process.wait(timeout=20) == 0
        crew.members.remove(process)
        assert queue.status().groups[0].pending == 0


def test_a_job_that_kills_its_workers_becomes_a_dead_letter(url, tmp_path):
    poison = Stream(
        name="jobs", groups=(Group(name="workers"),), idle=0.3, max_deliveries=2
    )
    code = textwrap.dedent("""
        import os, sys
        from maestro_workflow_engine.streams import Group, Stream, Worker
        worker = Worker(sys.argv[1], Stream(name='jobs', groups=(Group(name='workers'),),
                        idle=0.3, max_deliveries=2))
        worker.handler("t")(lambda job, payload: os._exit(9))
        worker.run(until_empty=True)
    """)
    with Queue(url, poison) as queue:
        queue.put("t")
        codes = [
            subprocess.run(
                [sys.executable, "-P", "-c", code, url], check=False, timeout=60
            ).returncode
            for _ in range(3)
        ]
        assert codes == [9, 9, 0]
        [letter] = queue.dead()
        assert "delivered 3 times, max_deliveries is 2" in letter.reason


def run_in_thread(worker: Worker, **options: bool) -> threading.Thread:
    thread = threading.Thread(target=lambda: worker.run(**options))
    thread.start()
    return thread


def test_redis_restarted_in_the_middle_loses_no_job(own_server):
    """Jobs are on disk (appendfsync always): a kill -9 of Redis changes nothing."""
    done = set()
    worker = Worker(own_server.url, stream(), concurrency=4)

    @worker.handler("t")
    def work(job, payload):
        time.sleep(0.005)
        done.add(payload)

    with Queue(own_server.url, stream()) as queue:
        queue.put_many("t", range(300))
        thread = run_in_thread(worker)
        wait_until(lambda: len(done) > 30)
        own_server.stop(signal.SIGKILL)
        time.sleep(0.3)
        own_server.start()
        wait_until(lambda: done == set(range(300)))
        wait_until(lambda: queue.status().length == 0)
        worker.stop()
        thread.join(timeout=20)
    assert worker.stats.reconnected >= 1


def test_redis_frozen_for_a_while_is_waited_for(own_server):
    done = set()
    worker = Worker(own_server.url, stream(), concurrency=4)
    worker.handler("t")(lambda job, payload: done.add(payload))
    with Queue(own_server.url, stream()) as queue:
        queue.put_many("t", range(20))
        thread = run_in_thread(worker)
        wait_until(lambda: len(done) == 20)
        os.kill(own_server.process.pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(own_server.process.pid, signal.SIGCONT)
        queue.put_many("t", range(20, 40))
        wait_until(lambda: len(done) == 40)
        worker.stop()
        thread.join(timeout=30)


def test_a_lost_group_is_made_again(url):
    done = set()
    worker = Worker(url, stream())
    worker.handler("t")(lambda job, payload: done.add(payload))
    with Queue(url, stream()) as queue, redis.Redis.from_url(url) as raw:
        queue.put("t", 1)
        thread = run_in_thread(worker)
        wait_until(lambda: done == {1})
        raw.flushall()
        queue.put("t", 2)
        wait_until(lambda: done == {1, 2})
        worker.stop()
        thread.join(timeout=20)


def test_a_slow_answer_about_lost_jobs_is_waited_for(url, monkeypatch):
    """Redis has removed the job by then, so the queue already looks empty."""
    connect = _worker.connect_async

    def slow(url):
        client = connect(url)
        register = client.register_script

        def registered(text):
            script = register(text)

            async def late(**given):
                answer = await script(**given)
                await asyncio.sleep(0.5)
                return answer

            return late if text is _scripts.RECLAIM else script

        client.register_script = registered
        return client

    monkeypatch.setattr(_worker, "connect_async", slow)
    with Queue(url, stream()) as queue, redis.Redis.from_url(url) as raw:
        queue.put("t", 1)
        with contextlib.suppress(redis.ResponseError):  # it has been made
            raw.xgroup_create("jobs", "workers", "0")
        [[_, [[entry, _]]]] = raw.xreadgroup("workers", "gone", {"jobs": ">"})
        raw.xclaim("jobs", "workers", "gone", 0, [entry], idle=60_000, justid=True)
        raw.xtrim("jobs", maxlen=0, approximate=False)
        events = []
        worker = Worker(url, stream(), on_event=events.append)
        worker.run(until_empty=True)
        assert [e.kind for e in events if e.kind == "lost"] == ["lost"]


def test_entries_trimmed_under_a_dead_worker_are_reported_as_lost(crew):
    with Queue(crew.url, stream()) as queue, redis.Redis.from_url(crew.url) as raw:
        queue.put("t", {"n": 1, "seconds": 60})
        victim = crew.hire()
        wait_until(lambda: queue.status().groups[0].pending == 1)
        crew.kill(victim)
        raw.xtrim("jobs", maxlen=0, approximate=False)
        events = []
        worker = Worker(crew.url, stream(), on_event=events.append)
        worker.run(until_empty=True)
        lost = [event for event in events if event.kind == "lost"]
        assert len(lost) == 1
        assert "trimmed or deleted" in lost[0].detail
