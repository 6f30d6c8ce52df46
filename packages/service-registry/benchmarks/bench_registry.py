"""Look-ups, picks, commits, watches, takeover, checks and writers, beside peers.

python bench_registry.py [--short] [--json FILE] [--markdown]

Rounds alternate between us and each peer; values are the best of the rounds, ratios the
median of the rounds' ratios. Loops that only compute count the seconds of CPU that they
used; all else counts the clock on the wall. redis-server and etcd are started here when
they are installed.
"""

# ruff: noqa: E731 - one-line workloads read best beside each other

import argparse
import asyncio
import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import random
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from maestro_service_registry import Http, ServiceRegistry, open_store
from maestro_service_registry._probe import probe
from maestro_service_registry._store import Put

HOLD = """
import sys, time
from maestro_service_registry import ServiceRegistry
registry = ServiceRegistry.open(sys.argv[1])
registry.lock("job", ttl=2).acquire()
print("held", flush=True)
time.sleep(60)
"""
UPDATE = """
import sys, time
from maestro_service_registry import ServiceRegistry
registry = ServiceRegistry.open(sys.argv[1])
me = registry.register("moving", port=1, meta={"at": "0"})
for _ in range(int(sys.argv[2])):
    time.sleep(0.004)
    me.update(meta={"at": repr(time.monotonic())})
"""
XADD = """
import sys, time, redis
client = redis.Redis(port=int(sys.argv[1]))
time.sleep(0.3)
for _ in range(int(sys.argv[2])):
    time.sleep(0.004)
    client.xadd("moving", {"at": repr(time.monotonic())})
"""
WRITE = """
import sys
from maestro_service_registry import open_store
from maestro_service_registry._store import Put
store = open_store(sys.argv[1])
lease = store.grant(600, strict=False, owner=None)
print("ready", flush=True)
sys.stdin.readline()
for n in range(int(sys.argv[3])):
    store.commit([Put(f"i/s{n % 50}/{sys.argv[2]}", "x" * 250, lease)])
"""
RAW_WRITE = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
db.execute("PRAGMA synchronous = NORMAL")
print("ready", flush=True)
sys.stdin.readline()
for n in range(int(sys.argv[3])):
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT OR REPLACE INTO t VALUES (?, ?)", (f"{n % 50}/{sys.argv[2]}", "x" * 250))
    db.execute("COMMIT")
"""
ANSWER = """
import asyncio
class Ok(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
        self.transport.close()
async def main():
    server = await asyncio.get_running_loop().create_server(Ok, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
ROWS = []


def start(code, *args, **options):
    command = [sys.executable, "-c", code, *map(str, args)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **options)


def stop(process):
    process.kill()
    process.communicate()


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def cpu_rate(call, number):
    """Calls per second of CPU."""
    started = time.thread_time()
    for _ in range(number):
        call()
    return number / (time.thread_time() - started)


def wall_rate(call, number):
    """Calls per second of the clock."""
    started = time.perf_counter()
    for _ in range(number):
        call()
    return number / (time.perf_counter() - started)


CASES, OFTEN = [], 3  # what is measured, in turns
# A client and its server share a core where a call follows the other: to wake a core
# that sleeps takes as long as the work, or not, for minutes at a time.
ALL_CORES = os.sched_getaffinity(0)
CORE = {min(ALL_CORES)}


def compare(work, unit, direction, target, ours, peers, times=1):
    """Note something to be measured, beside the peers; None is one that is not there.

    What starts no process is measured more often in each round.
    """
    CASES.append(
        {
            "work": work, "unit": unit, "direction": direction, "target": target,
            "ours": ours, "peers": peers, "times": times, "mine": [],
            "theirs": {name: [] for name, peer in peers.items() if peer},
        }
    )  # fmt: skip


def measure(rounds, *, often):
    """Take a sample of everything in each round: a slow minute meets every row."""
    for number in range(rounds):
        for case in [
            each for each in CASES for _ in range(each["times"] if often else 1)
        ]:
            os.sched_setaffinity(0, CORE if case["times"] > 1 else ALL_CORES)
            case["mine"].append(case["ours"]())
            for name, found in case["theirs"].items():
                found.append(case["peers"][name]())
        print(f"round {number + 1} of {rounds}", flush=True)


def report(case):
    """Add a row for each peer: the best of the rounds, the median of their ratios."""
    mine, higher = case["mine"], case["direction"] == "higher"
    best = max if higher else min  # the rest met something else that the machine did
    value, target = best(mine), case["target"]
    reached = target and (value >= target if higher else value <= target)
    base = {name: case[name] for name in ("work", "unit", "direction", "target")}
    base |= {"ours": value, "met": reached, "target_of": "ours"}
    for name in case["peers"]:
        found = case["theirs"].get(name, [])
        ratios = [a / b for a, b in zip(mine, found, strict=False)]
        row = base | {
            "peer": name if found else f"{name}: not installed",
            "peer_value": best(found) if found else None,
            "ratio": statistics.median(ratios) if ratios else None,
            "spread": max(ratios) - min(ratios) if ratios else None,
        }
        ROWS.append(row)
        shown = (
            f"{name} {row['peer_value']:,.2f}, ratio {row['ratio']:.3g}"
            if found
            else row["peer"]
        )
        print(f"{row['work']:38} {value:14,.2f} {row['unit']:4} {shown}", flush=True)


@contextlib.contextmanager
def server(program, port, *args):
    """Run a server program until the block ends; give False when there is none."""
    found = shutil.which(program)
    if not found:
        yield False
        return
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([found, *args], **quiet)
    os.sched_setaffinity(process.pid, CORE)
    try:
        for _ in range(400):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), 1),
            ):
                break
            time.sleep(0.05)
        yield True
    finally:
        process.terminate()
        process.wait(20)


def module(name):
    with contextlib.suppress(ImportError):
        return importlib.import_module(name)
    return None


def look_ups(short, stack, redis_port, etcd_port, folder):
    number = 20_000 if short else 100_000
    client = redis_port and module("redis") and module("redis").Redis(port=redis_port)
    gateway = etcd_port and module("etcd3gw")
    other = gateway and gateway.client(port=etcd_port, api_path="/v3/")
    raw = sqlite3.connect(folder / "raw.db", isolation_level=None)
    raw.execute("CREATE TABLE t (key TEXT PRIMARY KEY, value TEXT)")
    stack.callback(raw.close)
    registry = stack.enter_context(ServiceRegistry.open())
    for n in range(1000):
        handle = registry.register(f"s{n % 100}", port=1, id=f"i{n}", ttl=600)
        text = handle.instance.to_json()
        raw.execute("INSERT INTO t VALUES (?, ?)", (f"s{n % 100:02}/{n}", text))
        if client:
            client.hset(f"s{n % 100}", f"i{n}", text)
        if other and n % 100 == 7:
            other.put(f"s07/{n}", text)
    service = registry.service("s7")
    service.pick()
    query = "SELECT value FROM t WHERE key >= 's07/' AND key < 's07/~'"
    from_sqlite = lambda: [json.loads(v) for (v,) in raw.execute(query)]
    from_redis = lambda: [json.loads(v) for v in client.hgetall("s7").values()]
    from_etcd = lambda: [json.loads(v) for v, _ in other.get_prefix("s07/")]
    assert len(from_sqlite()) == 10
    assert not client or len(from_redis()) == 10
    assert not other or len(from_etcd()) == 10
    peers = {
        "raw SQLite": lambda: wall_rate(from_sqlite, number // 200),
        "redis-py HGETALL": client and (lambda: wall_rate(from_redis, number // 200)),
        "etcd3gw get_prefix": other and (lambda: wall_rate(from_etcd, number // 1000)),
    }
    look = lambda: cpu_rate(lambda: service.instances, number)
    compare("cached look-up, 1,000 instances", "/s", "higher", 1e6, look, peers, OFTEN)
    fleet, choice = service.instances, random.choice
    peers = {"random.choice": lambda: cpu_rate(lambda: choice(fleet), number)}
    both = lambda: cpu_rate(service.pick, number)
    compare("look-up and pick, two choices", "/s", "higher", None, both, peers, OFTEN)
    turn = registry.service("s7", policy="round_robin")
    turn.pick()
    both = lambda: cpu_rate(turn.pick, number)
    compare("look-up and pick, round robin", "/s", "higher", None, both, peers, OFTEN)


def over_http(short, stack, folder):
    """Consul's own client against our server: what a look-up costs without a cache."""
    consul = module("consul")
    if not (consul and module("starlette") and module("uvicorn")):
        print("py-consul against our server: not installed")
        return
    url = f"sqlite:///{folder}/served.db"
    command = [sys.executable, "-m", "maestro_service_registry", "--url", url]
    command += ["serve", "--bind", "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    os.sched_setaffinity(process.pid, CORE)
    stack.callback(stop, process)
    port = int(process.stdout.readline().rpartition(":")[2])
    client = consul.Consul(port=port)
    registry = stack.enter_context(ServiceRegistry.open(url))
    for n in range(10):
        registry.register("web", port=1, id=f"w{n}", ttl=600)
    find = lambda: wall_rate(lambda: registry.find("web"), 200 if short else 1000)
    ask = lambda: wall_rate(lambda: client.health.service("web"), 30 if short else 100)
    peers = {"py-consul, our server": ask}
    compare(
        "find, 10 instances, SQLite store", "/s", "higher", None, find, peers, OFTEN
    )


def commits(short, stack, redis_port, etcd_port, folder):
    number = 200 if short else 1000
    sqlite = open_store(f"sqlite:///{folder}/commits.db")
    raw = sqlite3.connect(folder / "rawc.db", isolation_level=None)
    raw.execute("PRAGMA journal_mode = WAL")
    raw.execute("PRAGMA synchronous = NORMAL")
    raw.execute("CREATE TABLE t (key TEXT PRIMARY KEY, value TEXT)")
    stack.callback(raw.close)
    value = "x" * 250

    def insert():
        raw.execute("BEGIN IMMEDIATE")
        raw.execute("INSERT OR REPLACE INTO t VALUES ('a', ?)", (value,))
        raw.execute("COMMIT")

    def row(work, store, name, peer, count, more=4):
        """`more`: a peer's calls are short, and one sync more of the disk would tell."""
        stack.callback(store.close)
        lease = store.grant(600, strict=False, owner=None)
        ours = lambda: wall_rate(
            lambda: store.commit([Put("i/a/b", value, lease)]), count
        )
        peers = {name: peer and (lambda: wall_rate(peer, more * count))}
        compare(work, "/s", "higher", None, ours, peers, OFTEN)

    row("commit, SQLite store", sqlite, "raw SQLite upsert", insert, number)
    if redis_port and module("redis"):
        client = module("redis").Redis(port=redis_port)
        hset = lambda: client.hset("t", "a", value)
        store = open_store(f"redis://127.0.0.1:{redis_port}/1")
        row("commit, Redis store", store, "redis-py HSET", hset, number // 4)
    if etcd_port:
        gateway = module("etcd3gw")
        other = gateway and gateway.client(port=etcd_port, api_path="/v3/")
        put = other and (lambda: other.put("a", value))
        store = open_store(f"etcd://127.0.0.1:{etcd_port}")
        row("commit, etcd store", store, "etcd3gw put", put, number // 10, 1)


def watches(short, redis_port, folder):
    number = 50 if short else 200
    url = f"sqlite:///{folder}/watch.db"

    def ours():
        with ServiceRegistry.open(url) as registry, registry.watch("moving") as changes:
            writer, seen = start(UPDATE, url, number), []
            while len(seen) < number:
                for change in changes.poll(10):
                    meta = change.instance.meta if hasattr(change, "instance") else {}
                    if float(meta.get("at", 0)):
                        seen.append((time.monotonic() - float(meta["at"])) * 1000)
            writer.communicate()
        return statistics.median(seen)

    def theirs():
        client, last, seen = module("redis").Redis(port=redis_port), b"$", []
        client.delete("moving")
        writer = start(XADD, redis_port, number)
        while len(seen) < number:
            for _, entries in client.xread({"moving": last}, block=10_000):
                for last, fields in entries:  # noqa: B007 - the next xread needs it
                    seen.append((time.monotonic() - float(fields[b"at"])) * 1000)
        writer.communicate()
        return statistics.median(seen)

    peers = {"redis-py XREAD BLOCK": theirs if redis_port and module("redis") else None}
    compare("update seen by another process, p50", "ms", "lower", 1.0, ours, peers)


def takeovers(redis_port, folder):
    url = f"sqlite:///{folder}/takeover.db"

    def ours():
        with ServiceRegistry.open(url) as registry:
            holder, got = start(HOLD, url), []
            holder.stdout.readline()

            def wait():
                with registry.lock("job"):
                    got.append(time.monotonic())

            thread = threading.Thread(target=wait)
            thread.start()
            while len(registry.store.read("l/").records) < 2:
                time.sleep(0.005)
            time.sleep(0.1)
            killed = time.monotonic()
            holder.kill()
            thread.join()
            holder.communicate()
        return (got[0] - killed) * 1000

    taken = []

    def theirs():
        # The holder's process dies at once, so only its TTL of 2 s frees the lock. It
        # is that to the millisecond, so three rounds are enough.
        if len(taken) == 3:
            return statistics.median(taken)
        client = module("redis").Redis(port=redis_port)
        client.lock("job", timeout=2).acquire()
        killed = time.monotonic()
        with client.lock("job", timeout=2, sleep=0.01):
            taken.append((time.monotonic() - killed) * 1000)
        return taken[-1]

    peers = {
        "redis-py Lock, TTL 2 s": theirs if redis_port and module("redis") else None
    }
    compare("takeover after kill -9", "ms", "lower", 50.0, ours, peers)


def checks(short, stack):
    number = 1000 if short else 4000
    answering = start(ANSWER)
    stack.callback(stop, answering)
    port = int(answering.stdout.readline())
    check = Http("/health")

    async def probe_all():
        left = iter(range(number))

        async def work():
            for _ in left:
                verdict = await probe(check, "127.0.0.1", port)
                assert verdict.status == "passing", verdict

        await asyncio.gather(*(work() for _ in range(64)))

    def ours():
        started = time.process_time()
        asyncio.run(probe_all())
        return number / (time.process_time() - started)

    def fetch(_):
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/health", timeout=5
        ) as answer:
            return answer.status

    def theirs():
        started = time.process_time()
        with ThreadPoolExecutor(16) as pool:
            assert set(pool.map(fetch, range(number // 4))) == {200}
        return number / 4 / (time.process_time() - started)

    peers = {"urllib, 16 threads": theirs}
    compare("HTTP checks per second of one core", "/s", "higher", 4000, ours, peers)


def writers(short, folder):
    number = 50 if short else 300
    raw = folder / "raw8.db"
    with contextlib.closing(sqlite3.connect(raw)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("CREATE TABLE t (key TEXT PRIMARY KEY, value TEXT)")

    def race(code, where):
        group = [start(code, where, n, number, stdin=subprocess.PIPE) for n in range(8)]
        for writer in group:
            assert writer.stdout.readline() == "ready\n"
        started = time.monotonic()
        for writer in group:
            writer.stdin.write("go\n")
            writer.stdin.flush()
        for writer in group:
            writer.communicate()
        took = time.monotonic() - started
        assert [writer.returncode for writer in group] == [0] * 8, "a writer failed"
        return 8 * number / took

    ours = lambda: race(WRITE, f"sqlite:///{folder}/eight.db")
    peers = {"raw SQLite upsert": lambda: race(RAW_WRITE, raw)}
    compare("8 writers on one file, no error", "/s", "higher", None, ours, peers)


def markdown():
    """Print the table of the README."""
    print("| work | ours | peer | peer's | target |\n|---|---|---|---|---|")

    def show(value, unit):
        if value is None:
            return ""
        if unit == "ms":
            return f"{value:,.2g} ms" if value < 100 else f"{value:,.0f} ms"
        scale, word = (
            (1e6, "M") if value >= 1e6 else (1e3, "k") if value >= 1e4 else (1, "")
        )
        return f"{value / scale:,.1f} {word}/s" if word else f"{value:,.0f} /s"

    for work in dict.fromkeys(row["work"] for row in ROWS):
        group = [row for row in ROWS if row["work"] == work]
        row = group[0]
        cells = [work, show(row["ours"], row["unit"])]
        cells += ["; ".join(one["peer"] for one in group)]
        cells += ["; ".join(show(one["peer_value"], row["unit"]) for one in group)]
        missed = ", missed" if row["met"] is False else ""
        target = show(row["target"], row["unit"]) + missed if row["target"] else ""
        print("| " + " | ".join([*cells, target]) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", action="store_true", help="the README's table")
    args = parser.parse_args()
    rounds = 2 if args.short else 11
    redis_port, etcd_port, peer_port = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        quiet = ["--port", str(redis_port), "--save", "", "--dir", name]
        has_redis = stack.enter_context(server("redis-server", redis_port, *quiet))
        urls = [f"http://127.0.0.1:{port}" for port in (etcd_port, peer_port)]
        words = [f"--data-dir={name}/etcd", f"--listen-client-urls={urls[0]}"]
        words += [f"--advertise-client-urls={urls[0]}", f"--listen-peer-urls={urls[1]}"]
        words += [f"--initial-advertise-peer-urls={urls[1]}"]
        words += [f"--initial-cluster=default={urls[1]}"]
        has_etcd = stack.enter_context(server("etcd", etcd_port, *words))
        redis_port, etcd_port = has_redis and redis_port, has_etcd and etcd_port
        look_ups(args.short, stack, redis_port, etcd_port, folder)
        over_http(args.short, stack, folder)
        commits(args.short, stack, redis_port, etcd_port, folder)
        watches(args.short, redis_port, folder)
        takeovers(redis_port, folder)
        checks(args.short, stack)
        writers(args.short, folder)
        measure(rounds, often=not args.short)
    for case in CASES:
        report(case)
    versions = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for peer in ("redis", "py-consul", "etcd3gw"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[peer] = importlib.metadata.version(peer)
    machine = {"cores": os.cpu_count(), "machine": platform.machine()}
    if args.markdown:
        markdown()
    if args.json:
        found = {"benchmark": "registry", "rows": ROWS, "versions": versions}
        args.json.write_text(
            json.dumps(found | {"machine": machine}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
