"""Registering, beating, losing and ending."""

import contextlib
import os
import random
import signal
import threading
import time

import pytest
from maestro_service_registry import (
    Instance,
    InvalidInput,
    LeaseLost,
    ServiceRegistry,
    Timing,
)
from maestro_service_registry._heart import Beat, Heart
from maestro_service_registry._memory import MemoryStore
from maestro_service_registry._sqlite import SqliteStore
from maestro_service_registry._sweep import Eviction, Sweeper
from maestro_service_registry.errors import StoreUnavailable
from maestro_service_registry.testing import FakeClock
from registry_support import python, quick_timing, wait_until

# Python 3.12 and later warn of forks beside threads, which is what is tested here.
forks = pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")

REGISTER = """
import sys, time
from maestro_service_registry import ServiceRegistry
registry = ServiceRegistry.open(sys.argv[1])
registry.register("billing", port=8080, id=sys.argv[2], ttl=float(sys.argv[3]))
print("ready", flush=True)
time.sleep(60)
"""


def ids(registry, service="billing"):
    return [instance.id for instance in registry.find(service)]


def test_a_registration_lasts_as_long_as_its_block(registry):
    with registry.register("billing", port=8080, id="b1", tags={"http"}) as me:
        (found,) = registry.find("billing")
        assert found.address == ("127.0.0.1", 8080)
        assert found.url("/x") == "http://127.0.0.1:8080/x"
        assert me.instance.tags == {"http"}
    assert registry.find("billing") == ()


def test_draining_keeps_the_instance_but_picks_no_more_of_it(registry):
    billing = registry.service("billing")
    with registry.register("billing", port=1, id="b1") as me:
        wait_until(lambda: billing.instances)
        assert billing.pick().id == "b1"
        me.drain()
        wait_until(lambda: not billing.stats().usable)
        assert registry.find("billing")[0].status == "draining"
        me.maintenance("disk swap")
        assert registry.find("billing")[0].meta["maintenance"] == "disk swap"
        me.up()
        wait_until(lambda: billing.stats().usable)


def local(store, clock, **timing):
    """A registry whose threads never run by themselves."""
    registry = ServiceRegistry(store, clock=clock, timing=Timing(**timing))
    registry._heart._start = lambda: None
    return registry


def test_a_lease_ends_after_its_ttl_and_not_before(local_store, clock):
    lease = local_store.grant(10, strict=False, owner=None)
    registry = local(local_store, clock, sweep=1.0)
    for _ in range(9):
        clock.advance(1)
        registry.sweep()
    clock.advance(0.99)
    assert registry.sweep() == 0
    clock.advance(0.02)
    assert registry.sweep() == 1
    assert local_store.renew([lease]) == {lease}


def test_the_wall_clock_does_not_matter(local_store, clock):
    registry = local(local_store, clock)
    registry.register("billing", port=1, id="b1", ttl=10)
    clock.set_wall_clock(+3600)
    assert registry.sweep() == 0
    clock.set_wall_clock(-7200)
    assert registry.sweep() == 0
    assert ids(registry) == ["b1"]


def test_a_strict_lease_cannot_be_renewed_late_but_a_lenient_one_can(
    local_store, clock
):
    strict = local_store.grant(5, strict=True, owner=None)
    lenient = local_store.grant(5, strict=False, owner=None)
    clock.advance(6)
    assert local_store.renew([strict, lenient]) == {strict}
    assert [lease.id for lease in local_store.expired()] == [strict]


def test_a_forgotten_instance_registers_again_under_its_id(local_store, clock):
    registry = local(local_store, clock)
    registry.register("billing", port=1, id="b1", ttl=9, meta={"k": "v"})
    local_store.revoke([lease.id for lease in local_store.leases()])
    assert ids(registry) == []
    clock.advance(3.1)
    registry._heart.run_due()
    assert ids(registry) == ["b1"]
    assert registry.find("billing")[0].meta == {"k": "v"}


def test_beats_keep_a_registration_alive_for_many_ttls(local_store, clock):
    registry = local(local_store, clock)
    registry.register("billing", port=1, id="b1", ttl=9)
    for _ in range(100):
        clock.advance(min(registry._heart.run_due(), 3))
        registry.sweep()
    assert ids(registry) == ["b1"]


class Flaky:
    """A store that can be cut off, as by a network."""

    def __init__(self, store):
        self._store, self.down, self.calls = store, False, []

    def __getattr__(self, name):
        value = getattr(self._store, name)
        if not callable(value):
            return value

        def call(*args, **more):
            self.calls.append(name)
            if self.down and name != "close":
                raise StoreUnavailable("cut off")
            return value(*args, **more)

        return call


def test_an_outage_shorter_than_the_ttl_is_not_noticed_by_others(clock):
    store = Flaky(MemoryStore(clock=clock))
    registry = local(store, clock)
    me = registry.register("billing", port=1, id="b1", ttl=9)
    store.down = True
    clock.advance(4)
    registry._heart.run_due()
    store.down = False
    clock.advance(1)
    registry._heart.run_due()
    clock.advance(4.5)
    assert registry.sweep() == 0
    assert not me.lost.is_set()


def test_after_a_long_outage_the_instance_is_registered_again(clock):
    inner = MemoryStore(clock=clock)
    store = Flaky(inner)
    registry = local(store, clock)
    registry.register("billing", port=1, id="b1", ttl=9)
    store.down = True
    for _ in range(20):
        clock.advance(1)
        registry._heart.run_due()
    inner.revoke([lease.id for lease in inner.leases()])
    registry._heart.run_due()
    store.down = False
    for _ in range(5):
        clock.advance(2)
        registry._heart.run_due()
    assert ids(registry) == ["b1"]


def test_anti_entropy_restores_a_record_that_somebody_damaged(local_store, clock):
    from maestro_service_registry._store import Delete

    registry = local(local_store, clock)
    me = registry.register("billing", port=1, id="b1", ttl=9)
    local_store.commit([Delete(me.key)])
    for _ in range(11):
        clock.advance(3.1)
        registry._heart.run_due()
    assert ids(registry) == ["b1"]


def test_the_newest_registration_of_an_id_wins(tmp_path, registry):
    url = f"sqlite:///{tmp_path}/registry.db"
    old = registry.register("billing", port=1, id="b1", ttl=0.6)
    other = python(REGISTER, url, "b1", "30")
    try:
        assert other.stdout.readline() == "ready\n"
        assert old.lost.wait(10)
        (found,) = registry.find("billing")
        assert (found.port, found.process.pid) == (8080, other.pid)
        with pytest.raises(LeaseLost, match="same id"):
            old.drain()
        old.close()
        assert ids(registry) == ["b1"], "closing a lost handle removes nothing"
    finally:
        other.kill()
        other.communicate()


def test_a_killed_process_is_gone_long_before_its_ttl(tmp_path, registry):
    url = f"sqlite:///{tmp_path}/registry.db"
    billing = registry.service("billing")
    other = python(REGISTER, url, "b1", "300")
    try:
        assert other.stdout.readline() == "ready\n"
        wait_until(lambda: billing.instances)
        os.kill(other.pid, signal.SIGKILL)
        started = time.monotonic()
        wait_until(lambda: not registry.find("billing"))
        assert time.monotonic() - started < 20
    finally:
        other.communicate()


@forks
def test_after_a_fork_the_child_does_not_beat(tmp_path):
    calls = []
    with ServiceRegistry.open(
        f"sqlite:///{tmp_path}/r.db", timing=quick_timing()
    ) as registry:
        me = registry.register("billing", port=1, id="parent", ttl=30)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                me.close()
                mine = registry.register("billing", port=1, id="child", ttl=30)
                calls.append(len(registry._heart._beats) == 1)
                calls.append(ids(registry) == ["child", "parent"])
                mine.close()
                calls.append(ids(registry) == ["parent"])
                os.write(writing, repr(calls).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            assert pipe.read() == b"[True, True, True]"
        os.waitpid(pid, 0)
        assert ids(registry) == ["parent"]
        assert len(registry._heart._beats) == 1


@forks
def test_a_view_that_came_through_a_fork_sees_what_changes_later(tmp_path):
    with ServiceRegistry.open(f"sqlite:///{tmp_path}/r.db") as registry:
        billing = registry.service("billing")
        first = registry.register("billing", port=1, id="first", ttl=60)
        wait_until(lambda: billing.instances)
        go, told = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.read(go[0], 1)
                wait_until(lambda: [i.id for i in billing.instances] == ["second"])
                os.write(told[1], billing.pick().id.encode())
                code = 0
            finally:
                os._exit(code)
        first.close()
        registry.register("billing", port=2, id="second", ttl=60)
        os.write(go[1], b"x")
        try:
            wait_until(lambda: os.waitpid(pid, os.WNOHANG)[0], 40)
        finally:
            os.close(told[1])
            with os.fdopen(told[0], "rb") as pipe:
                assert pipe.read() == b"second"
            for end in go:
                os.close(end)


@forks
def test_forking_while_threads_use_the_store_never_blocks_the_child(tmp_path):
    with ServiceRegistry.open(f"sqlite:///{tmp_path}/r.db") as registry:
        stop = threading.Event()

        def busy():
            while not stop.is_set():
                registry.services()

        threads = [threading.Thread(target=busy) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(10):
                pid = os.fork()
                if pid == 0:
                    registry.services()
                    os._exit(0)
                try:
                    wait_until(lambda pid=pid: os.waitpid(pid, os.WNOHANG)[0], 20)
                except AssertionError:
                    os.kill(pid, signal.SIGKILL)
                    raise
        finally:
            stop.set()
            for thread in threads:
                thread.join()


@forks
def test_each_worker_of_a_preforking_server_has_its_own_record(tmp_path):
    with ServiceRegistry.open(f"sqlite:///{tmp_path}/r.db") as registry:
        pids = []
        reading, writing = os.pipe()
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                registry.register("web", port=8000, ttl=30)
                os.write(writing, b"x")
                signal.pause()
            pids.append(pid)
        try:
            for _ in range(3):
                assert os.read(reading, 1) == b"x"
            assert len(registry.find("web")) == 3
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            os.close(reading)
            os.close(writing)


def test_after_close_nothing_is_sent_any_more(clock):
    before = set(threading.enumerate())
    store = Flaky(MemoryStore())
    registry = ServiceRegistry(store, timing=quick_timing())
    registry.register("billing", port=1, id="b1", ttl=0.3)
    wait_until(lambda: "renew" in store.calls)
    registry.close()
    count = len(store.calls)
    time.sleep(0.5)  # longer than two beats and five sweeps
    assert store.calls[count:] == []
    assert set(threading.enumerate()) <= before


def test_a_restarted_machine_voids_leases_and_jumps_ahead(tmp_path, clock):
    path = tmp_path / "r.db"
    store = SqliteStore(path, clock=clock, boot=lambda: "first")
    lease = store.grant(1e6, strict=False, owner=None)
    from maestro_service_registry._store import Put

    last = store.commit([Put("i/billing/b1", "{}", lease), Put("c/1", "{}")])
    store.close()
    store = SqliteStore(path, clock=clock, boot=lambda: "second")
    try:
        assert store.leases() == ()
        assert [r.key for r in store.read("").records] == ["c/1"]
        assert store.commit([Put("c/2", "{}")]) > last + 1000
    finally:
        store.close()


def make_leases(store, total, late, clock):
    """`total` lenient leases of 10 s, `late` of them overdue."""
    registry = ServiceRegistry(store, clock=clock)
    registry._heart._start = lambda: None
    for n in range(late):
        registry.register("old", port=1, id=f"o{n}", ttl=10)
    clock.advance(5)
    for n in range(total - late):
        registry.register("new", port=1, id=f"n{n}", ttl=1000)
    return registry


def test_a_few_late_instances_simply_end(local_store, clock):
    registry = make_leases(local_store, 20, 3, clock)
    clock.advance(6)
    assert registry.sweep() == 3


def test_when_many_are_late_at_once_they_are_kept_and_marked(local_store, clock):
    registry = make_leases(local_store, 20, 10, clock)
    clock.advance(6)
    assert registry.sweep() == 0
    assert all(instance.stale for instance in registry.find("old"))
    assert not any(instance.stale for instance in registry.find("new"))


def test_a_kept_instance_that_beats_again_was_never_away(local_store, clock):
    registry = make_leases(local_store, 20, 10, clock)
    clock.advance(6)
    registry.sweep()
    lease = registry.find("old")[0].lease
    local_store.renew([lease])
    registry.sweep()
    found = {i.lease: i.stale for i in registry.find("old")}
    assert found.pop(lease) is False
    assert len(found) == 9
    assert all(found.values())


def test_preservation_ends_by_itself_a_few_at_a_time(local_store, clock):
    registry = make_leases(local_store, 20, 10, clock)
    clock.advance(6)
    registry.sweep()
    clock.advance(38)
    registry._sweeper._last = clock.elapsed()
    assert registry.sweep() == 0
    clock.advance(2)
    assert registry.sweep() == 3, "15 % of 20"
    while registry.find("old"):
        assert 1 <= registry.sweep() <= 3
    assert len(registry.find("new")) == 10


def test_a_critical_check_ends_the_preservation_of_that_instance(local_store, clock):
    registry = make_leases(local_store, 20, 10, clock)
    clock.advance(6)
    registry.sweep()
    from maestro_service_registry import CheckReport

    handle = next(r for r in registry._registrations if r.instance.service == "old")
    handle.report(CheckReport(id="http", status="critical", output="refused"))
    assert registry.sweep() == 1
    assert handle.instance.id not in ids(registry, "old")


def test_a_sweeper_that_was_stopped_gives_everybody_one_more_turn(local_store, clock):
    registry = local(local_store, clock, sweep=1.0)
    registry.register("billing", port=1, id="b1", ttl=10)
    registry.sweep()
    clock.advance(60)
    assert registry.sweep() == 0
    clock.advance(1)
    assert registry.sweep() == 1


def test_a_failing_callback_costs_no_other_lease_its_beat(clock):
    """The fault is the callback's; everyone is beaten for in the end."""
    store = MemoryStore(clock=clock)
    rng = random.Random(1)
    sweeper = Sweeper(store, clock=clock, rng=rng, eviction=Eviction(), interval=1)
    heart = Heart(store, sweeper, clock=clock, rng=rng)
    beaten = []

    def faulty():
        beaten.append("faulty")
        raise ZeroDivisionError

    for name, call in (("faulty", faulty), ("good", lambda: beaten.append("good"))):
        lease = store.grant(30, strict=False, owner=None)
        beat = Beat(lease, 30, strict=False, gone=beaten.append, beaten=call)
        heart.add(beat, clock.elapsed())
        assert name not in beaten
    clock.advance(12)
    for _ in range(3):
        with contextlib.suppress(ZeroDivisionError):
            heart.run_due()
    heart.close()
    assert set(beaten) == {"faulty", "good"}
    assert beaten.count("good") == 1


def test_beats_of_many_are_spread():
    clock = FakeClock()
    registry = local(MemoryStore(clock=clock), clock)
    for n in range(200):
        registry.register("billing", port=1, id=f"b{n}", ttl=30)
    first = [beat.next_at for beat in registry._heart._beats.values()]
    assert max(first) - min(first) > 5
    assert all(at <= clock.elapsed() + 10 for at in first)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("service", "My_Service", "DNS label"),
        ("service", "-x", "DNS label"),
        ("service", "x" * 64, "DNS label"),
        ("port", 65536, "0 to 65535"),
        ("host", ["127.0.0.1"], "a host name"),
        ("port", -1, "0 to 65535"),
        ("port", "80", "0 to 65535"),
        ("version", "1.x.y", "a version such as"),
        ("ttl", 0, "0.1 to 86400"),
        ("ttl", float("nan"), "0.1 to 86400"),
        ("host", "a b", "host name"),
        ("weight", 70000, "0 to 65535"),
        ("zone", "A", "DNS label"),
        ("meta", {"k": "x" * 513}, "512 bytes"),
        ("meta", {str(n): "" for n in range(65)}, "at most 64"),
        ("requires", {"ledger": "^^1"}, "a range such as"),
        ("status", "gone", "one of up"),
        ("id", "a b", "without spaces"),
        ("colour", "red", "one of checks, host, id"),
    ],
)
def test_bad_input_is_refused_with_the_reason(memory, field, value, said):
    given = {"service": "billing", "port": 1} | {field: value}
    with pytest.raises(InvalidInput, match=said) as caught:
        memory.register(given.pop("service"), **given)
    assert repr(value)[:20] in str(caught.value) or field in str(caught.value)
    assert memory.services() == {}


@pytest.mark.parametrize("port", [True, 1.0])
def test_what_only_equals_a_good_value_is_refused(port):
    values = {"service": "billing", "id": "b1", "host": "127.0.0.1"}
    assert Instance(**values, port=1).port == 1
    with pytest.raises(InvalidInput, match="0 to 65535"):
        Instance(**values, port=port)


def test_a_network_file_system_is_refused(tmp_path):
    from maestro_service_registry import UnsafeStore

    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"40 22 0:50 / {tmp_path}/share rw,relatime - nfs4 server:/x rw\n",
        encoding="utf-8",
    )
    with pytest.raises(UnsafeStore, match=r"nfs4 .*maestro-registry serve"):
        SqliteStore(tmp_path / "share" / "r.db", mounts=mounts)
    SqliteStore(tmp_path / "r.db", mounts=mounts).close()


def test_unknown_fields_of_a_record_survive():
    from maestro_service_registry import Instance

    raw = Instance(service="a", id="1", host="h", port=1).to_dict() | {"later": [1]}
    assert Instance.from_dict(raw).to_dict()["later"] == [1]
