"""Draining a queue: our streams against taskiq-redis, streaq and faststream.

python bench_streams.py [--short] [--json FILE]

One worker with 32 jobs at a time, no-op async jobs, a redis-server of its own on
a free port. Each round runs every library once, in a process of its own; the
jobs are put first and the clock runs from the worker's start to the last job.
streaq keeps results and task records, which the others here do not.
"""

import argparse
import asyncio
import importlib.metadata
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

CONCURRENCY = 32
TARGET = 10_000  # jobs a second
NOTE = "Worker and redis-server share two cores with the other work of the machine."
LIMIT = 120  # seconds for one run


async def ours(url: str, jobs: int) -> float:
    from maestro_workflow_engine.streams import Group, Queue, Stream, Worker

    stream = Stream(name="bench:ours", groups=(Group(name="g"),))
    with Queue(url, stream) as queue:
        queue.put_many("nothing", range(jobs))
    worker = Worker(url, stream, concurrency=CONCURRENCY)

    async def nothing(_job, _payload):
        pass

    worker.handler("nothing")(nothing)
    begun = time.perf_counter()
    stats = await worker.arun(until_empty=True)
    assert stats.done == jobs
    return time.perf_counter() - begun


async def taskiq(url: str, jobs: int) -> float:
    from taskiq.api import run_receiver_task
    from taskiq_redis import RedisStreamBroker

    broker = RedisStreamBroker(
        url=url, queue_name="bench:taskiq", consumer_group_name="g", consumer_id="0"
    )
    count, done = 0, asyncio.Event()

    @broker.task
    async def nothing(_n: int) -> None:
        nonlocal count
        count += 1
        if count == jobs:
            done.set()

    await broker.startup()
    for n in range(jobs):
        await nothing.kiq(n)
    begun = time.perf_counter()
    receiver = asyncio.create_task(
        run_receiver_task(broker, max_async_tasks=CONCURRENCY, max_prefetch=CONCURRENCY)
    )
    await done.wait()
    spent = time.perf_counter() - begun
    receiver.cancel()
    return spent


async def streaq(url: str, jobs: int) -> float:
    from streaq import Worker

    worker = Worker(redis_url=url, queue_name="bench:streaq", concurrency=CONCURRENCY)
    count, done = 0, asyncio.Event()

    @worker.task()
    async def nothing(_n: int) -> None:
        nonlocal count
        count += 1
        if count == jobs:
            done.set()

    async with worker:
        await worker.enqueue_many([nothing.enqueue(n) for n in range(jobs)])
    begun = time.perf_counter()
    runner = asyncio.create_task(worker.run_async())
    await done.wait()
    spent = time.perf_counter() - begun
    runner.cancel()
    return spent


async def faststream(url: str, jobs: int) -> float:
    from faststream.redis import RedisBroker, StreamSub
    from redis.asyncio import Redis

    redis = Redis.from_url(url)
    await redis.xgroup_create("bench:faststream", "g", "0", mkstream=True)
    await redis.aclose()
    broker = RedisBroker(url, logger=None)
    count, done = 0, asyncio.Event()

    @broker.subscriber(
        stream=StreamSub(
            "bench:faststream", group="g", consumer="c", max_records=CONCURRENCY
        )
    )
    async def nothing(_n: int) -> None:
        nonlocal count
        count += 1
        if count == jobs:
            done.set()

    await broker.connect()
    for n in range(jobs):
        await broker.publish(n, stream="bench:faststream")
    begun = time.perf_counter()
    await broker.start()
    await done.wait()
    spent = time.perf_counter() - begun
    await broker.stop()
    return spent


LIBRARIES = {
    "ours": (ours, "maestro-workflow-engine"),
    "taskiq-redis": (taskiq, "taskiq-redis"),
    "streaq": (streaq, "streaq"),
    "faststream": (faststream, "faststream"),
}


def child(name: str, url: str, jobs: int) -> None:
    spent = asyncio.run(LIBRARIES[name][0](url, jobs))
    print(json.dumps(spent), flush=True)
    os._exit(0)  # a peer's threads must not keep the round waiting


def rate(name: str, url: str, jobs: int) -> float | str:
    """Return jobs per second, or why there is no figure."""
    command = [sys.executable, __file__, "--child", name, url, str(jobs)]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=LIMIT
        )
    except subprocess.TimeoutExpired:
        return f"not done in {LIMIT} s"
    if done.returncode or not done.stdout.strip():
        return (done.stderr.strip().splitlines() or ["no output"])[-1][:100]
    return jobs / json.loads(done.stdout.splitlines()[-1])


class Redis:
    """A redis-server on a free port."""

    def __enter__(self) -> str:
        program = shutil.which("redis-server")
        if program is None:
            raise SystemExit("redis-server is not installed: run `make system`")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.folder = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            [program, "--port", str(port), "--bind", "127.0.0.1", "--dir",
             self.folder.name, "--save", ""],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        return f"redis://127.0.0.1:{port}/0"

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()
        self.folder.cleanup()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child[0], args.child[1], int(args.child[2]))
    rounds, jobs = (2, 1_000) if args.short else (10, 1_000)
    figures: dict[str, list[float]] = {name: [] for name in LIBRARIES}
    trouble: dict[str, str] = {}
    for _ in range(rounds):
        for name in LIBRARIES:
            with Redis() as url:
                found = rate(name, url, jobs * 5 if name == "ours" else jobs)
            if isinstance(found, str):
                trouble[name] = found
            else:
                figures[name].append(found)
            print(
                name, found if isinstance(found, str) else f"{found:,.0f}/s", flush=True
            )
    mine = figures["ours"]
    rows = []
    for name in list(LIBRARIES)[1:]:
        peer = figures[name]
        ratios = [a / b for a, b in zip(mine, peer, strict=False)]
        rows.append(
            {
                "work": "drain a Redis stream, one worker", "unit": "/s",
                "peer": name if peer else f"{name}: {trouble.get(name)}",
                "peer_value": max(peer) if peer else None,
                "ours": max(mine),
                "ratio": statistics.median(ratios) if ratios else None,
                "spread": max(ratios) - min(ratios) if ratios else None,
                "target": TARGET, "target_of": "ours",
                "met": max(mine) >= TARGET, "direction": "higher",
                **({} if max(mine) >= TARGET else {"note": NOTE}),
            }
        )  # fmt: skip
    report = {
        "benchmark": "streams",
        "rows": rows,
        "versions": {p: version(p) for _, p in LIBRARIES.values()},
        "machine": {"python": platform.python_version(), "cores": os.cpu_count()},
    }
    print(json.dumps(rows, indent=1))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


def version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
