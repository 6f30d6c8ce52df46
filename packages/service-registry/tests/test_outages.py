"""Servers that restart, freeze, forget or go backwards; clocks that jump."""

import contextlib
import shutil
import signal
import socket
import subprocess
import time
from contextlib import closing

import pytest
from maestro_service_registry import (
    Added,
    Compacted,
    LockLost,
    ServiceRegistry,
    StoreUnavailable,
    open_store,
)
from maestro_service_registry._store import Put
from registry_support import (
    accepts,
    etcd_command,
    free_port,
    fresh,
    quick_timing,
    running,
    serving,
    wait_until,
)


def redis_command(program, port, folder):
    return [program, "--port", str(port), "--save", "", "--dir", str(folder)]


def test_a_server_restart_shorter_than_the_ttl_is_not_noticed(tmp_path):
    url, bind = f"sqlite:///{tmp_path}/r.db", f"127.0.0.1:{free_port()}"
    with serving(url, bind=bind) as (address, process):
        registry = ServiceRegistry.open(address, timing=quick_timing(), timeout=5)
        with registry:
            me = registry.register("billing", port=1, id="b1", ttl=60)
            (before,) = registry.find("billing")
            with registry.lock("job", ttl=60) as lock:
                process.send_signal(signal.SIGKILL)
                process.wait()
                assert lock.guard() == lock.fence
                with serving(url, bind=bind):
                    assert lock.guard(verify=True) == lock.fence
                    (after,) = registry.find("billing")
                    assert (after.created, after.lease) == (
                        before.created,
                        before.lease,
                    )
                    assert not me.lost.is_set()
                    beat = registry._heart._beats[after.lease]
                    registry._heart._postpone(beat, 0.0)
                    registry._heart.run_due()
                    assert beat.deadline > registry._clock.elapsed() + 50
                    me.close()
                    lock.release()


def test_a_holder_cut_off_longer_than_its_ttl_gives_up_in_time(tmp_path):
    """The server freezes: `lost` is set although the beat itself hangs."""
    with serving(f"sqlite:///{tmp_path}/r.db") as (address, process):
        registry = ServiceRegistry.open(address, timeout=30)
        with registry.lock("job", ttl=5) as lock:
            process.send_signal(signal.SIGSTOP)
            started = time.monotonic()
            assert lock.lost.wait(15), "the time-out of the store is 30 s"
            assert time.monotonic() - started < 15
            with pytest.raises(LockLost, match="no heartbeat"):
                lock.guard()
            process.send_signal(signal.SIGCONT)
        registry.close()


def test_picking_goes_on_while_the_server_is_frozen(tmp_path):
    with serving(f"sqlite:///{tmp_path}/r.db") as (address, process):
        with ServiceRegistry.open(address) as registry:
            registry.register("billing", port=1, id="b1", ttl=300)
            billing = registry.service("billing")
            process.send_signal(signal.SIGSTOP)
            assert [billing.pick().id for _ in range(3)] == ["b1"] * 3
            process.send_signal(signal.SIGCONT)


def test_a_store_that_went_backwards_is_read_anew(require_program, tmp_path):
    """Redis without persistence restarts empty; nobody keeps what it forgot."""
    port = free_port()
    command = redis_command(require_program("redis-server"), port, tmp_path)
    url = f"redis://127.0.0.1:{port}/0"
    with running(*command, port=port) as server:
        reader = ServiceRegistry.open(url, timing=quick_timing())
        billing = reader.service("billing")
        lost = reader.register("billing", port=1, id="forgotten", ttl=300)
        lost._heart.remove(lost._lease)  # its owner is away just now
        wait_until(lambda: billing.instances)
        at = reader.store.read("").revision
        server.kill()
        server.wait()
        with running(*command, port=port):
            wait_until(lambda: not billing.instances, 40)
            with ServiceRegistry.open(url) as writer:
                writer.register("billing", port=2, id="new")
                wait_until(lambda: [i.id for i in billing.instances] == ["new"])
                assert reader.store.read("").revision > at
                reader.close()


def save(require_program, port):
    command = [require_program("redis-cli"), "-p", str(port), "save"]
    subprocess.run(command, check=True, capture_output=True, timeout=30)


@pytest.mark.parametrize("snapshot", [False, True], ids=["empty", "older"])
def test_a_server_that_forgot_and_was_written_since_is_read_anew(
    require_program, tmp_path, snapshot
):
    """The new history is longer than what the reader knows: no phantom stays."""
    port = free_port()
    command = redis_command(require_program("redis-server"), port, tmp_path)
    url = f"redis://127.0.0.1:{port}/0"
    with closing(open_store(url)) as reader:
        with running(*command, port=port) as server:
            reader.commit([Put("i/web/old", "{}")])
            if snapshot:
                save(require_program, port)
            reader.commit([Put("i/web/phantom", "{}")])
            since = reader.read("").revision
            server.kill()
            server.wait()
        with running(*command, port=port), closing(open_store(url)) as writer:
            assert writer.commit([Put("i/web/new", "{}")]) > since
            with pytest.raises(Compacted):
                reader.events("i/", since, 0)
            found = reader.read("i/")
            keys = [record.key for record in found.records]
            assert keys == ["i/web/new", "i/web/old"][: 1 + snapshot]
            at = writer.commit([Put("i/web/next", "{}")])
            (event,) = reader.events("i/", found.revision, 0).events
            assert event.revision == at


def test_what_a_snapshot_brings_back_ends_with_its_lease(require_program, tmp_path):
    port = free_port()
    command = redis_command(require_program("redis-server"), port, tmp_path)
    url = f"redis://127.0.0.1:{port}/0"
    with running(*command, port=port) as server:
        with ServiceRegistry.open(url) as registry:
            with registry.register("web", port=1, id="w1", ttl=1):
                save(require_program, port)
            assert registry.find("web") == ()
            server.kill()
            server.wait()
    with running(*command, port=port):
        with closing(open_store(url)) as store:
            assert len(store.read("i/").records) == 1, "it is back"
        with ServiceRegistry.open(url, timing=quick_timing()) as registry:
            registry.service("other")  # someone looks for late leases
            wait_until(lambda: not registry.find("web"))


class Rewound:
    """An etcd that is restored from a copy: `restore` forgets what came after `copy`."""

    def __init__(self, program, tmp_path):
        self.folder, self.saved = tmp_path / "etcd", tmp_path / "saved"
        self.port = free_port()
        self.command = etcd_command(program, self.port, self.folder)
        self.url = f"etcd://127.0.0.1:{self.port}"
        self.stack = contextlib.ExitStack()

    def start(self):
        self.server = self.stack.enter_context(running(*self.command, port=self.port))

    def copy(self):
        self.stack.close()
        shutil.copytree(self.folder, self.saved)
        self.start()

    def restore(self):
        self.server.kill()
        self.server.wait()
        shutil.rmtree(self.folder)
        self.saved.rename(self.folder)
        self.start()


@pytest.fixture
def rewound(require_program, tmp_path):
    found = Rewound(require_program("etcd"), tmp_path)
    with found.stack:
        found.start()
        yield found


def test_an_etcd_that_went_back_has_another_history(rewound):
    """Longer than before by the time the reader asks, after as many elections."""

    def put(store, name):
        return store.commit([Put(f"i/web/{name}", "{}")])

    with closing(open_store(rewound.url)) as reader:
        put(reader, "old")
        rewound.copy()
        put(reader, "phantom")
        known = reader.read("i/")
        rewound.restore()
        with closing(open_store(rewound.url)) as writer:
            put(writer, "new")
            assert put(writer, "newer") > known.revision
            batch = reader.events("i/", known.revision, 0)
            assert batch.history != known.history
            term = known.history.rpartition(".")[2]
            assert batch.history.endswith(f".{term}"), "terms alone tell nothing"
            found = reader.read("i/")
            keys = [record.key for record in found.records]
            assert keys == ["i/web/new", "i/web/newer", "i/web/old"]
            at = put(writer, "next")
            batch = reader.events("i/", found.revision, 10)
            assert batch.history == found.history
            assert [event.revision for event in batch.events] == [at]


@pytest.mark.parametrize(
    "served",
    [
        pytest.param(False, id="etcd"),
        pytest.param(True, id="served", marks=pytest.mark.drill),
    ],
)
def test_no_view_keeps_what_a_restored_etcd_does_not_know(rewound, served):
    with contextlib.ExitStack() as stack:
        url = rewound.url
        writer = stack.enter_context(ServiceRegistry.open(url))
        writer.register("web", port=1, id="old", ttl=300)
        rewound.copy()
        if served:
            url = stack.enter_context(serving(url))[0]
        reader = stack.enter_context(ServiceRegistry.open(url, timing=quick_timing()))
        lost = reader.register("web", port=2, id="phantom", ttl=300)
        reader._heart.remove(lost._lease)  # its owner is away just now
        web, watch = reader.service("web"), reader.watch("web")
        wait_until(lambda: [i.id for i in web.instances] == ["old", "phantom"])
        rewound.restore()
        for name in ("new", "newer"):
            writer.register("web", port=3, id=name, ttl=300)
        expected = ["new", "newer", "old"]
        wait_until(lambda: [i.id for i in web.instances] == expected)
        (change,) = wait_until(lambda: polled(watch))
        assert [i.id for i in change.instances] == expected
        writer.register("web", port=4, id="next", ttl=300)
        wait_until(lambda: len(web.instances) == 4)
        (change,) = wait_until(lambda: polled(watch))
        assert (type(change), change.instance.id) == (Added, "next")


def polled(watch):
    try:
        return watch.poll(1)
    except StoreUnavailable:  # the server has not noticed yet that etcd is back
        return []


def test_fences_rise_although_redis_forgot_its_last_commits(require_program, tmp_path):
    port = free_port()
    command = redis_command(require_program("redis-server"), port, tmp_path)
    url = f"redis://127.0.0.1:{port}/0"
    fences = []

    def take(registry, times):
        for _ in range(times):
            with registry.lock("job", ttl=20, timeout=60) as lock:
                fences.append(lock.fence)

    for _ in range(3):
        with running(*command, port=port) as server:
            with ServiceRegistry.open(url) as registry:
                take(registry, 2)
                save(require_program, port)
                take(registry, 5)  # after the snapshot: forgotten
                server.kill()
                server.wait()
    assert len(fences) == 21
    assert fences == sorted(set(fences))


@pytest.mark.parametrize("kind", ["sqlite", "redis", "etcd", "http"])
def test_a_wall_clock_that_jumps_ends_and_keeps_no_lease(
    kind, tmp_path, request, monkeypatch
):
    urls = {
        "sqlite": lambda: f"sqlite:///{tmp_path}/r.db",
        "redis": lambda: fresh(request.getfixturevalue("redis_url")),
        "etcd": lambda: fresh(request.getfixturevalue("etcd_url")),
        "http": lambda: request.getfixturevalue("server_url"),
    }
    real = time.time
    with ServiceRegistry.open(urls[kind](), timing=quick_timing()) as registry:
        name = f"jump-{kind}"
        registry.register(name, port=1, id="j1", ttl=120)
        lock = registry.lock(name, ttl=120)
        fence = lock.acquire()
        for shift in (3600, -3600):
            monkeypatch.setattr(time, "time", lambda by=shift: real() + by)
            registry.sweep()
            assert [i.id for i in registry.find(name)] == ["j1"]
            assert lock.guard(verify=True) == fence
        lock.release()
        short = registry.store.grant(1, strict=True, owner=None)
        registry.store.commit([Put(f"t/{name}", "", short)])
        wait_until(
            lambda: (
                registry.sweep() >= 0 and not registry.store.read(f"t/{name}").records
            )
        )


def test_etcd_ends_late_leases_by_itself(etcd_url):
    url = fresh(etcd_url)
    with (
        ServiceRegistry.open(url) as registry,
        ServiceRegistry.open(url) as other,
    ):
        billing = other.service("billing")
        me = registry.register("billing", port=1, id="b1", ttl=2)
        lock = registry.lock("job", ttl=4)
        fence = lock.acquire()
        wait_until(lambda: billing.instances)
        for lease in list(registry._heart._beats):  # the process hangs, as it were
            registry._heart.remove(lease)
        wait_until(lambda: not billing.instances, 30)
        with other.lock("job", timeout=30) as taken:
            assert taken.fence > fence
        with pytest.raises(LockLost):
            lock.guard()
        assert not lock.held
        me.close()


def test_a_port_that_takes_nobody_is_told_at_once():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        assert not accepts(port)
        store = open_store(f"http://127.0.0.1:{port}")
        with pytest.raises(StoreUnavailable, match="Connection refused"):
            store.now()
