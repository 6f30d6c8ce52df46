"""Locks, fences and what happens when a holder is lost."""

import threading
import time

import pytest
from maestro_service_registry import (
    InvalidInput,
    LockError,
    LockLost,
    LockNotAcquired,
    ServiceRegistry,
    StaleFence,
)
from maestro_service_registry._memory import MemoryStore
from maestro_service_registry.errors import StoreUnavailable
from registry_support import python, quick_timing, wait_until

HOLD = """
import sys, time
from maestro_service_registry import ServiceRegistry
registry = ServiceRegistry.open(sys.argv[1])
lock = registry.lock("job", ttl=float(sys.argv[2]))
print(lock.acquire(), flush=True)
time.sleep(60)
"""


def test_one_of_two_contenders_holds_and_the_other_is_told_who(registry):
    with registry.lock("job", holder="first"):
        with pytest.raises(LockNotAcquired, match="held by first"):
            registry.lock("job", holder="second").acquire(timeout=0)
        assert registry.lock_holder("job").holder == "first"
    assert registry.lock_holder("job") is None


def test_waiters_are_served_in_the_order_they_came(registry):
    served, threads = [], []

    def work(n):
        with registry.lock("job"):
            served.append(n)

    with registry.lock("job"):
        for n in range(5):
            thread = threading.Thread(target=work, args=(n,))
            thread.start()
            threads.append(thread)
            wait_until(lambda n=n: len(registry.store.read("l/job/").records) == n + 2)
    for thread in threads:
        thread.join(20)
    assert served == list(range(5))


def test_fences_rise_through_release_and_reopening(tmp_path):
    fences = []
    for _ in range(3):
        with ServiceRegistry.open(f"sqlite:///{tmp_path}/r.db") as registry:
            for _ in range(2):
                with registry.lock("job") as lock:
                    fences.append(lock.fence)
    assert fences == sorted(set(fences))


def test_a_gate_refuses_the_fence_of_a_former_holder(registry):
    with registry.lock("job") as old:
        fence = old.fence
    gate = registry.gate("ledger")
    gate.admit(fence)
    gate.admit(fence)
    with registry.lock("job") as new:
        gate.admit(new.fence)
        with pytest.raises(StaleFence, match="wrote already"):
            gate.admit(fence)


def test_giving_up_leaves_nothing_behind(registry):
    with registry.lock("job"):
        before = len(registry.store.leases())
        with pytest.raises(LockNotAcquired):
            registry.lock("job").acquire(timeout=0.05)
        assert len(registry.store.read("l/").records) == 1
        assert len(registry.store.leases()) == before
    assert registry.store.read("l/").records == ()


def test_a_killed_session_is_noticed_by_the_holder(registry):
    with registry.lock("job", ttl=2) as lock:
        assert lock.guard() == lock.fence
        registry.store.revoke([lock._beat.lease])
        with pytest.raises(LockLost, match="stop writing"):
            lock.guard(verify=True)
        assert lock.lost.wait(20)
        with pytest.raises(LockLost):
            lock.guard()
        assert not lock.held


def test_the_guard_closes_before_anybody_else_can_hold(clock):
    store = MemoryStore(clock=clock)
    registry = ServiceRegistry(store, clock=clock)
    registry._heart._start = lambda: None
    lock = registry.lock("job", ttl=10)
    lock.acquire()
    clock.advance(8.9)
    lock.guard()
    clock.advance(0.2)
    with pytest.raises(LockLost, match="no heartbeat"):
        lock.guard()
    with pytest.raises(LockNotAcquired):
        registry.lock("job").acquire(timeout=0)
    clock.advance(1)
    assert registry.lock("job").acquire(timeout=0) > 0
    registry.close()


def test_the_lease_that_ends_while_waiting_gives_no_lock(registry):
    errors = []
    waiting = registry.lock("job", ttl=30)

    def wait():
        try:
            waiting.acquire(timeout=20)
        except LockLost as error:
            errors.append(error)

    with registry.lock("job"):
        thread = threading.Thread(target=wait)
        thread.start()
        wait_until(lambda: len(registry.store.read("l/").records) == 2)
        registry.store.revoke([waiting._beat.lease])
        thread.join(10)
    assert len(errors) == 1
    assert registry.store.read("l/").records == ()


def test_a_lost_answer_does_not_queue_twice():
    store = MemoryStore()
    with ServiceRegistry(store, timing=quick_timing()) as registry:
        real, calls = store.commit, []

        def lossy(ops, expect=None):
            revision = real(ops, expect)
            calls.append(revision)
            if len(calls) == 1:
                raise StoreUnavailable("the answer got lost")
            return revision

        store.commit = lossy
        with registry.lock("job", timeout=1) as lock:
            assert lock.fence == calls[0]
            assert len(store.read("l/").records) == 1
            assert len(calls) == 1


def test_a_killed_holder_is_replaced_at_once_on_one_host(tmp_path, registry):
    holder = python(HOLD, f"sqlite:///{tmp_path}/registry.db", "300")
    fence = int(holder.stdout.readline())
    got = []

    def wait():
        with registry.lock("job", timeout=30) as lock:
            got.append((time.monotonic(), lock.fence))

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: len(registry.store.read("l/").records) == 2)
    killed = time.monotonic()
    holder.kill()
    thread.join(30)
    holder.communicate()
    assert got[0][1] > fence
    assert got[0][0] - killed < 30, "the TTL is 300 s"


def test_misuse_is_told(registry):
    lock = registry.lock("job")
    with pytest.raises(LockError, match="call acquire"):
        lock.fence
    with lock, pytest.raises(LockError, match="not reentrant"):
        lock.acquire()
    with pytest.raises(InvalidInput, match="1 to 253"):
        registry.lock("")


def test_closing_the_registry_lets_go_of_its_locks(tmp_path):
    url = f"sqlite:///{tmp_path}/r.db"
    first = ServiceRegistry.open(url)
    lock = first.lock("job", ttl=600)
    fence = lock.acquire()
    first.close()
    assert not lock.held
    with pytest.raises(LockLost, match="closed"):
        lock.guard()
    with ServiceRegistry.open(url) as second:
        assert second.lock("job").acquire(timeout=30) > fence
