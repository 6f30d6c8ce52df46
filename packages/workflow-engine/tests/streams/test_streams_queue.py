"""Putting jobs, the topology, and what happens to each kind of job."""

import asyncio
import dataclasses
import json
import subprocess
import sys
import threading
import time

import pytest
import redis
from maestro_workflow_engine.streams import (
    AUTOMATION,
    BadPayload,
    Group,
    Queue,
    QueueFull,
    Reject,
    Stream,
    StreamsError,
    Topology,
    Worker,
    _worker,
)


def make_stream(name: str = "jobs", **options: object) -> Stream:
    settings = {"max_deliveries": 3} | options
    return Stream(name=name, groups=(Group(name="workers"),), **settings)


@pytest.fixture
def raw(url):
    with redis.Redis.from_url(url, decode_responses=True) as client:
        yield client


@pytest.fixture
def queue(url):
    with Queue(url, make_stream()) as queue:
        yield queue


def worker_for(queue: Queue, url: str, **options: object) -> Worker:
    options.setdefault("backoff", lambda _tries: 0.0)
    return Worker(url, queue.stream, **options)


def test_a_job_put_before_any_worker_or_group_exists_is_run(queue, url):
    job_id = queue.put("greet", {"name": "Ada"})
    seen = []
    worker = worker_for(queue, url)
    worker.handler("greet")(lambda job, payload: seen.append((job.id, payload)))
    stats = worker.run(until_empty=True)
    assert seen == [(job_id, {"name": "Ada"})]
    assert stats.done == 1
    assert queue.status().length == 0


def test_sync_and_async_handlers_run_side_by_side(queue, url):
    worker = worker_for(queue, url)
    threads, seen = set(), []

    @worker.handler("sync")
    def sync(job, payload):
        threads.add(threading.current_thread() is threading.main_thread())
        seen.append(payload)

    @worker.handler("async")
    async def on_loop(job, payload):
        await asyncio.sleep(0)
        seen.append(payload)

    queue.put_many("sync", [1, 2])
    queue.put_many("async", [3, 4])
    worker.run(until_empty=True)
    assert sorted(seen) == [1, 2, 3, 4]
    assert threads == {False}


def test_the_same_key_is_put_once_and_names_the_first_job(queue, url):
    first = queue.put("pay", 1, key="order-7")
    second = queue.put("pay", 2, key="order-7")
    assert first == second
    assert queue.status().length == 1


def test_put_works_from_an_event_loop(queue):
    async def put():
        ids = [await queue.aput("t", n) for n in range(3)]
        await queue.aclose()
        return ids

    assert len(set(asyncio.run(put()))) == 3


def test_urgent_jobs_come_first(queue, url):
    queue.put_many("t", range(5))
    queue.put("t", "urgent", urgent=True)
    seen = []
    worker = worker_for(queue, url, concurrency=1)
    worker.handler("t")(lambda job, payload: seen.append(payload))
    worker.run(until_empty=True)
    assert seen == ["urgent", 0, 1, 2, 3, 4]


def test_a_delayed_job_waits_for_the_servers_clock(queue, url):
    before = time.monotonic()
    queue.put("t", 1, delay=0.4)
    assert queue.status().delayed == 1
    ran = []
    worker = worker_for(queue, url)
    worker.handler("t")(lambda job, payload: ran.append(time.monotonic() - before))
    worker.run(until_empty=True)
    assert len(ran) == 1
    assert ran[0] >= 0.39


def test_a_failed_job_is_tried_again_and_then_a_dead_letter(queue, url):
    tries = []
    worker = worker_for(queue, url)

    @worker.handler("t")
    def fail(job, payload):
        tries.append(job.tries)
        raise ValueError("no such image")

    queue.put("t", {"image": 7})
    stats = worker.run(until_empty=True)
    assert tries == [0, 1, 2]
    assert (stats.retried, stats.dead, stats.done) == (2, 1, 0)
    [letter] = queue.dead()
    assert letter.reason == "ValueError: no such image"
    assert "raise ValueError" in letter.trace
    assert json.loads(letter.payload) == {"image": 7}


@pytest.mark.parametrize(
    "backoff", [lambda _tries: 1 / 0, lambda _tries: -5.0, lambda _tries: "0"]
)
def test_a_backoff_that_fails_does_not_keep_the_job(queue, url, backoff, monkeypatch):
    monkeypatch.setattr(_worker, "full_jitter", lambda _tries: 0.0)
    worker = worker_for(queue, url, backoff=backoff)
    tries = []

    @worker.handler("t")
    def twice(job, payload):
        tries.append(job.tries)
        if not job.tries:
            raise ValueError("once")

    queue.put("t")
    stats = worker.run(until_empty=True)
    assert tries == [0, 1]
    assert (stats.retried, stats.done) == (1, 1)


def test_a_dead_letter_can_be_put_back_and_starts_afresh(queue, url):
    healthy = []
    worker = worker_for(queue, url)

    @worker.handler("t")
    def work(job, payload):
        if not healthy:
            raise Reject("not yet")
        return job.tries

    job_id = queue.put("t")
    worker.run(until_empty=True)
    [letter] = queue.dead()
    assert letter.reason == "not yet"
    healthy.append(True)
    assert queue.requeue(letter.entry)
    assert not queue.requeue(letter.entry)
    again = worker_for(queue, url)
    seen = []
    again.handler("t")(lambda job, payload: seen.append((job.id, job.tries)))
    again.run(until_empty=True)
    assert seen == [(job_id, 0)]
    assert queue.dead() == []


@dataclasses.dataclass(frozen=True)
class Resize:
    image: int
    widths: list[int]
    name: str | None = None


def test_a_typed_payload_arrives_as_its_dataclass(queue, url):
    seen = []
    worker = worker_for(queue, url)
    worker.handler("resize", Resize)(lambda job, payload: seen.append(payload))
    queue.put("resize", Resize(7, [100, 200]))
    worker.run(until_empty=True)
    assert seen == [Resize(7, [100, 200])]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        ({"image": "x", "widths": []}, "payload.image must be int, is 'x'"),
        ({"image": True, "widths": []}, "payload.image must be int, is True"),
        ({"widths": []}, "payload.image is missing"),
        ({"image": 1, "widths": [1, "b"]}, "payload.widths[1] must be int"),
        ({"image": 1, "widths": [], "colour": 1}, "unknown fields: colour"),
        ([1], "payload must be an object for Resize"),
    ],
)
def test_a_payload_of_another_shape_is_a_dead_letter_and_work_goes_on(
    queue, url, payload, reason
):
    seen = []
    worker = worker_for(queue, url)
    worker.handler("resize", Resize)(lambda job, p: seen.append(p))
    queue.put("resize", payload)
    queue.put("resize", Resize(1, []))
    worker.run(until_empty=True)
    assert reason in queue.dead()[0].reason
    assert seen == [Resize(1, [])]


def test_foreign_and_broken_entries_are_dead_letters(queue, url, raw):
    raw.xadd("jobs", {"what": "ever"})
    raw.xadd("jobs", {"v": "1", "id": "a", "type": "t", "payload": "{broken"})
    raw.xadd("jobs", {"v": "1", "id": "b", "type": "nobody", "payload": "1"})
    raw.xadd("jobs", {"v": "1", "id": "c", "type": "t", "payload": "1", "tries": "x"})
    binary = redis.Redis.from_url(url)
    binary.xadd("jobs", {"v": "1", "id": "d", "type": "t", "payload": b"\xff\xfe"})
    binary.close()
    big = json.dumps("x" * queue.stream.max_payload)
    raw.xadd("jobs", {"v": "1", "id": "e", "type": "t", "payload": big})
    queue.put("t", "good")
    seen = []
    worker = worker_for(queue, url)
    worker.handler("t")(lambda job, payload: seen.append(payload))
    worker.run(until_empty=True)
    assert seen == ["good"]
    reasons = sorted(letter.reason for letter in queue.dead())
    assert len(reasons) == 6
    joined = "\n".join(reasons)
    for part in (
        "not written by this protocol",
        "not JSON",
        "no handler",
        "whole numbers",
        "larger than",
    ):
        assert part in joined


def test_payloads_that_cannot_be_sent_are_refused_with_the_reason(queue):
    with pytest.raises(BadPayload, match="not JSON"):
        queue.put("t", object())
    with pytest.raises(BadPayload, match="not JSON"):
        queue.put("t", float("nan"))
    with pytest.raises(BadPayload, match="1048578 bytes, the stream takes 1048576"):
        queue.put("t", "x" * 1024 * 1024)
    assert queue.status().length == 0


def test_a_full_queue_pushes_back(url):
    with Queue(url, make_stream(max_length=2)) as queue:
        queue.put_many("t", [1, 2])
        with pytest.raises(QueueFull) as caught:
            queue.put("t", 3)
        assert (caught.value.length, caught.value.limit) == (2, 2)


def test_results_and_replies_are_there_on_demand(queue, url, raw):
    worker = worker_for(queue, url, keep_results=60)
    worker.handler("double")(lambda job, payload: payload * 2)
    job_id = queue.put("double", 21, reply="answers")
    bad = queue.put("unknown", 1, reply="answers")
    with pytest.raises(StreamsError, match="not finished"):
        queue.result(job_id)
    worker.run(until_empty=True)
    assert queue.result(job_id) == 42
    answers = {fields["id"]: fields for _, fields in raw.xrange("answers")}
    assert answers[job_id]["result"] == "42"
    assert "no handler" in answers[bad]["error"]


def test_a_worker_holds_no_more_than_it_can_run(queue, url):
    """Backpressure: with one place, one job is taken and the rest wait."""
    queue.put_many("t", range(10))
    pending = []
    worker = worker_for(queue, url, concurrency=1)

    @worker.handler("t")
    def look(job, payload):
        pending.append(queue.status().groups[0].pending)

    worker.run(until_empty=True)
    assert max(pending) <= 2  # the one that runs, and the one just finished


def test_events_tell_the_story_and_a_raising_listener_changes_nothing(queue, url):
    kinds = []

    def listen(event):
        kinds.append(event.kind)
        raise RuntimeError("listener")

    worker = worker_for(queue, url, on_event=listen)
    worker.handler("t")(lambda job, payload: None)
    queue.put("t")
    worker.run(until_empty=True)
    assert kinds == ["started", "done", "stopped"]


def test_status_counts_what_waits_runs_and_died(queue, url):
    queue.put_many("t", range(3))
    queue.put("t", delay=60)
    Topology((queue.stream,)).apply(queue._redis)
    status = queue.status()
    assert (status.length, status.delayed, status.dead) == (3, 1, 0)
    assert status.groups[0].lag == 3


def test_peek_takes_nothing(queue):
    queue.put("t", 1)
    queue.put("t", 2, urgent=True)
    assert [row["payload"] for row in queue.peek()] == ["2", "1"]
    assert queue.status().length == 2


def test_several_groups_each_see_every_job_and_trim_waits_for_all(url, raw):
    stream = Stream(name="both", groups=(Group(name="a"), Group(name="b")), idle=0.3)
    Topology((stream,)).apply(raw)
    with Queue(url, stream) as queue:
        queue.put_many("t", range(4))
        seen = {"a": [], "b": []}
        for name, got in seen.items():
            worker = Worker(url, stream, group=name)
            worker.handler("t")(lambda job, payload, got=got: got.append(payload))
            worker.run(until_empty=True)
            if name == "a":
                assert queue.trim() == 0  # b has not seen them
        assert sorted(seen["a"]) == sorted(seen["b"]) == [0, 1, 2, 3]
        assert queue.trim() == 4


def test_a_topology_is_applied_any_number_of_times(raw):
    assert len(AUTOMATION.apply(raw)) == 8
    assert AUTOMATION.apply(raw) == []
    assert AUTOMATION.check(raw) == []
    raw.xgroup_destroy("maestro:streams:automation:jobs", "automation-workers")
    raw.xgroup_create("maestro:streams:automation:jobs", "stranger", "0")
    drift = AUTOMATION.check(raw)
    assert any("'automation-workers' is missing" in line for line in drift)
    assert any("'stranger' is not in the topology" in line for line in drift)


def test_a_key_of_another_kind_is_named(raw):
    raw.set("maestro:streams:automation:jobs", "text")
    with pytest.raises(StreamsError, match="is a string, not a stream"):
        AUTOMATION.apply(raw)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "a b"}, "stream name 'a b'"),
        ({"idle": 0}, "idle must be at least"),
        ({"max_deliveries": 0}, "max_deliveries must be at least 1"),
        ({"groups": ()}, "has no group"),
    ],
)
def test_a_wrong_topology_names_the_field(options, message):
    settings = {"name": "jobs", "groups": (Group(name="g"),)} | options
    with pytest.raises(StreamsError, match=message):
        Stream(**settings)


def test_a_topology_file_with_a_typo_says_what_was_meant(tmp_path):
    path = tmp_path / "streams.toml"
    path.write_text('[[streams]]\nname = "jobs"\ngroups = ["g"]\nidel = 3\n', "utf-8")
    with pytest.raises(StreamsError, match=r"streams.toml: .*did you mean 'idle'"):
        Topology.load(path)
    path.write_text('[[streams]]\nname = "a:jobs"\ngroups = ["g"]\nidle = 3\n', "utf-8")
    topology = Topology.load(path)
    assert topology["jobs"].idle == 3
    with pytest.raises(StreamsError, match="no stream 'other'"):
        topology["other"]


def test_importing_the_streams_loads_no_redis():
    code = "import sys, maestro_workflow_engine.streams; print('redis' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout.strip() == "False"


def test_an_unknown_group_is_refused(queue, url):
    with pytest.raises(StreamsError, match="name one of: workers"):
        Worker(url, queue.stream, group="other")


def test_a_type_has_one_handler(queue, url):
    worker = worker_for(queue, url)
    worker.handler("t")(print)
    with pytest.raises(StreamsError, match="has a handler already"):
        worker.handler("t")(print)
