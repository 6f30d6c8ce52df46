"""Kill -9 and SIGSTOP: no late write gets through, fences only rise."""

import os
import random
import signal
import socket
import threading
import time

import pytest
from maestro_service_registry import ServiceRegistry
from registry_support import python, wait_until

# Guards only every tenth write, so that a stopped one writes late. Whoever is refused
# must have lost the lock in the store's eyes too: else a fence has fallen.
WORKER = """
import sys, time, socket
from maestro_service_registry import LockLost, ServiceRegistry, RegistryError
registry = ServiceRegistry.open(sys.argv[1])
sink = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
answers = sink.makefile("rb")
print("ready", flush=True)
while True:
    try:
        with registry.lock("job", ttl=float(sys.argv[3])) as lock:
            for n in range(30):
                if n % 10 == 0:
                    lock.guard()
                sink.sendall(b"%d\\n" % lock.fence)
                if answers.readline() != b"taken\\n":
                    lock.guard(verify=True)
                    sink.sendall(b"refused while holding %d\\n" % lock.fence)
                    answers.readline()
                time.sleep(0.002)
    except RegistryError:
        pass
"""


class Sink:
    """The resource: takes writes of many, refuses fences lower than one seen."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.lock, self.latest = threading.Lock(), 0
        self.accepted, self.refused, self.owners = [], 0, {}
        self.wrongs = []
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                peer, address = self.listener.accept()
            except OSError:
                return
            threading.Thread(
                target=self.take, args=(peer, address), daemon=True
            ).start()

    def take(self, peer, address):
        with peer, peer.makefile("rb") as lines:
            try:
                for line in lines:
                    if line.endswith(b"\n"):
                        peer.sendall(self.write(line, address))
            except OSError:
                return

    def write(self, line, address):
        with self.lock:
            if not line.strip().isdigit():
                self.wrongs.append(line)
                return b"noted\n"
            fence = int(line)
            if fence < self.latest:
                self.refused += 1
                return b"late\n"
            self.latest = fence
            self.accepted.append(fence)
            self.owners.setdefault(fence, set()).add(address)
            return b"taken\n"


def chaos(url, seconds, seed, ttl=0.5):
    rng, sink = random.Random(seed), Sink()
    workers, kills, stops = [], 0, 0

    def start():
        worker = python(WORKER, url, str(sink.port), str(ttl))
        assert worker.stdout.readline() == "ready\n"
        workers.append(worker)

    try:
        for _ in range(3):
            start()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(rng.uniform(0.1, 0.5))
            victim = rng.choice(workers)
            if rng.random() < 0.5:
                victim.kill()
                victim.communicate()
                workers.remove(victim)
                kills += 1
                start()
            else:
                os.kill(victim.pid, signal.SIGSTOP)
                time.sleep(rng.uniform(0.4, 0.9))  # long enough to lose the lease
                os.kill(victim.pid, signal.SIGCONT)
                stops += 1
        before = len(sink.accepted)
        wait_until(lambda: len(sink.accepted) > before)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
        sink.listener.close()
    return sink, kills, stops


def judge(sink, kills, stops):
    assert kills
    assert stops
    assert len(sink.accepted) > 20
    assert sink.wrongs == []
    assert len(sink.owners) > 1
    assert all(len(owners) == 1 for owners in sink.owners.values()), (
        "a fence was shared"
    )


def test_a_few_kills_and_stops(tmp_path):
    url = f"sqlite:///{tmp_path}/r.db"
    sink, kills, stops = chaos(url, 4, seed=4)
    judge(sink, kills, stops)


@pytest.mark.drill
@pytest.mark.parametrize("kind", ["sqlite", "redis", "etcd"])
def test_many_kills_and_stops(kind, tmp_path, request):
    url = f"sqlite:///{tmp_path}/r.db"
    if kind != "sqlite":
        url = request.getfixturevalue(f"{kind}_url") + "?prefix=chaos"
    sink, kills, stops = chaos(url, 25, seed=11)
    judge(sink, kills, stops)
    print(
        f"{kind}: {kills} kills, {stops} stops, {len(sink.accepted)} writes, {sink.refused} late ones refused"
    )


WRITER = """
import sys
from maestro_service_registry import ServiceRegistry
from maestro_service_registry._store import Put
registry = ServiceRegistry.open(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for n in range(int(sys.argv[3])):
    registry.store.commit([Put(f"t/{sys.argv[2]}/{n}", str(n))])
print("done", flush=True)
"""


def test_eight_writers_on_one_file_make_no_error(tmp_path):
    import subprocess

    url = f"sqlite:///{tmp_path}/r.db"
    workers = [
        python(WRITER, url, str(n), "30", stdin=subprocess.PIPE) for n in range(8)
    ]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    outputs = [worker.communicate(timeout=90)[0] for worker in workers]
    assert outputs == ["done\n"] * 8
    with ServiceRegistry.open(url) as registry:
        found = registry.store.read("t/").records
    assert len(found) == 8 * 30
    assert len({record.revision for record in found}) == 8 * 30


def test_a_writer_killed_at_any_moment_leaves_whole_commits(tmp_path):
    code = """
import sys
from maestro_service_registry._sqlite import SqliteStore
from maestro_service_registry._store import Put
store = SqliteStore(sys.argv[1])
n = 0
while True:
    n += 1
    store.commit([Put("t/a", str(n)), Put("t/b", str(n))])
    print(n, flush=True)
"""
    path = str(tmp_path / "r.db")
    rng = random.Random(2)
    for _ in range(4):
        worker = python(code, path)
        for _ in range(rng.randrange(3, 40)):
            worker.stdout.readline()
        worker.kill()
        told = worker.communicate()[0].split()
        from maestro_service_registry._sqlite import SqliteStore

        store = SqliteStore(path)
        a, b = store.read("t/").records
        store.close()
        assert a.value == b.value
        assert not told or int(a.value) >= int(told[-1])


def test_a_full_disk_is_told_and_loses_nothing(tmp_path, require_program):
    """A file system of one megabyte, when this user may mount one."""
    import subprocess

    from maestro_service_registry import StoreUnavailable
    from maestro_service_registry._sqlite import SqliteStore
    from maestro_service_registry._store import Put

    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        store = SqliteStore(place / "r.db")
        stored = 0
        with pytest.raises(StoreUnavailable, match="full"):
            for n in range(1000):
                store.commit([Put(f"t/{n:04}", "x" * 4000)])
                stored += 1
        assert stored > 10
        assert len(store.read("t/").records) == stored
        store.close()
    finally:
        subprocess.run(["umount", "-l", str(place)], check=False)


STOPPED = """
import sys
from maestro_service_registry import LockLost, ServiceRegistry, StaleFence
registry = ServiceRegistry.open(sys.argv[1])
lock, gate = registry.lock("job", ttl=2), registry.gate("ledger")
fence = lock.acquire()
gate.admit(fence)
print(fence, flush=True)
sys.stdin.readline()
told = []
try:
    gate.admit(fence)
except StaleFence:
    told.append("late write refused")
try:
    lock.guard()
except LockLost:
    told.append("guard raised")
print("; ".join(told), flush=True)
"""


@pytest.mark.parametrize(
    "kind",
    ["sqlite", *(pytest.param(k, marks=pytest.mark.drill) for k in ("redis", "etcd"))],
)
def test_a_stopped_holder_writes_late_and_is_refused(kind, tmp_path, request):
    import subprocess

    url = f"sqlite:///{tmp_path}/r.db"
    if kind != "sqlite":
        url = request.getfixturevalue(f"{kind}_url") + f"?prefix=stopped{os.getpid()}"
    holder = python(STOPPED, url, stdin=subprocess.PIPE)
    try:
        fence = int(holder.stdout.readline())
        os.kill(holder.pid, signal.SIGSTOP)
        holder.stdin.write("go\n")
        holder.stdin.flush()
        with ServiceRegistry.open(url) as registry:
            with registry.lock("job", timeout=60) as lock:
                assert lock.fence > fence
                registry.gate("ledger").admit(lock.fence)
                os.kill(holder.pid, signal.SIGCONT)
                assert holder.communicate(timeout=60)[0] == (
                    "late write refused; guard raised\n"
                )
    finally:
        if holder.poll() is None:
            holder.kill()
            holder.communicate()
