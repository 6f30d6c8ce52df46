"""Breakers that share their state: in memory, and over a real Redis."""

import asyncio
import socket
import subprocess
import sys
import threading
import time

import pytest
from maestro_resilience import CircuitBreaker, CircuitOpen, State
from maestro_resilience.redis import RedisBreakerStore
from maestro_resilience.store import MemoryBreakerStore
from maestro_resilience.testing import FakeClock, capture, check_breaker_store


def wait_until(condition, seconds: float = 30.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def boom() -> None:
    raise ConnectionError


def fail(breaker: CircuitBreaker) -> None:
    with pytest.raises(ConnectionError):
        breaker.call(boom)


class Server:
    """A Redis of our own on a free port."""

    def __init__(self, program: str, folder) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.command = [program, "--port", str(self.port), "--bind", "127.0.0.1",
                        "--save", "", "--dir", str(folder)]  # fmt: skip
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self.answers)

    def answers(self) -> bool:
        store = RedisBreakerStore(self.url)
        try:
            store.load("ping")
        except Exception:
            return False
        finally:
            store.close()
        return True

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def server(require_program, tmp_path):
    running = Server(require_program("redis-server"), tmp_path)
    running.start()
    yield running
    running.stop()


@pytest.fixture
def redis_store(server):
    store = RedisBreakerStore(server.url)
    yield store
    store.close()


def test_the_memory_store_keeps_its_promises():
    clock = FakeClock()
    check_breaker_store(MemoryBreakerStore(clock=clock.monotonic), clock.advance)


def test_the_redis_store_keeps_its_promises(redis_store):
    check_breaker_store(redis_store, time.sleep)


def test_two_breakers_share_a_trip_and_its_recovery():
    store = MemoryBreakerStore()
    a, b = (
        CircuitBreaker("x", minimum_calls=1, open_for=0.3, store=store)
        for _ in range(2)
    )
    fail(a)
    wait_until(lambda: b.state is State.OPEN)
    with pytest.raises(CircuitOpen) as caught:
        b.call(lambda: 1)
    assert 0 < caught.value.retry_after <= 0.3

    def recovered() -> bool:
        try:
            return b.call(lambda: True)
        except CircuitOpen:
            return False

    wait_until(recovered)
    wait_until(lambda: a.state is State.CLOSED and b.state is State.CLOSED)
    b.isolate("maintenance")
    wait_until(lambda: a.state is State.ISOLATED)
    a.reset()
    wait_until(lambda: b.state is State.CLOSED)


def test_probes_are_counted_over_all_breakers():
    store = MemoryBreakerStore()
    breakers = [
        CircuitBreaker("x", minimum_calls=1, open_for=0.2, probes=3, store=store)
        for _ in range(4)
    ]
    fail(breakers[0])
    wait_until(lambda: all(b.state is State.OPEN for b in breakers))
    time.sleep(0.25)
    release, entered = threading.Event(), []

    def body() -> None:
        entered.append(1)
        release.wait(30)

    def caller(breaker: CircuitBreaker) -> None:
        try:
            breaker.call(body)
        except CircuitOpen:
            entered.append(0)

    threads = [threading.Thread(target=caller, args=(b,)) for b in breakers * 5]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(entered) == 20)
    release.set()
    for thread in threads:
        thread.join()
    assert sum(entered) == 3
    wait_until(lambda: all(b.state is State.CLOSED for b in breakers))


def test_a_lease_is_asked_for_without_blocking_the_event_loop():
    class Slow(MemoryBreakerStore):
        def lease(self, *args):
            time.sleep(0.3)
            return super().lease(*args)

    breaker = CircuitBreaker("x", minimum_calls=1, open_for=0.05, store=Slow())
    fail(breaker)

    async def main() -> int:
        await asyncio.sleep(0.1)

        @breaker
        async def body() -> str:
            return "probe"

        task, turns = asyncio.create_task(body()), 0
        while not task.done():
            turns += 1
            await asyncio.sleep(0.005)
        assert task.result() == "probe"
        return turns

    assert asyncio.run(main()) > 5


CHILD = """
import sys, time
from maestro_resilience import CircuitBreaker, CircuitOpen
from maestro_resilience.redis import RedisBreakerStore

url, role = sys.argv[1:]
store = RedisBreakerStore(url)
breaker = CircuitBreaker(
    "shared", minimum_calls=1, open_for=0.2, probe_lease=0.5, store=store
)

def boom():
    raise ConnectionError

if role == "trip":
    try:
        breaker.call(boom)
    except ConnectionError:
        print("tripped", flush=True)
    time.sleep(60)
while breaker.state == "closed":
    time.sleep(0.005)
print("seen", flush=True)
while True:
    try:
        with breaker.guard():
            print("probing", flush=True)
            time.sleep(60)
    except CircuitOpen:
        time.sleep(0.02)
"""


def spawn(url: str, role: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, url, role],
        stdout=subprocess.PIPE,
        encoding="utf-8",
    )


def test_processes_share_a_trip_and_a_killed_prober_frees_its_slot(server, redis_store):
    prober = spawn(server.url, "probe")
    tripper = spawn(server.url, "trip")
    try:
        assert tripper.stdout.readline() == "tripped\n"
        assert prober.stdout.readline() == "seen\n"
        assert prober.stdout.readline() == "probing\n"
        breaker = CircuitBreaker(
            "shared", open_for=0.2, probe_lease=5, store=redis_store
        )
        wait_until(lambda: breaker.state is State.HALF_OPEN)
        prober.kill()

        def recovered() -> bool:
            try:
                return breaker.call(lambda: True)
            except CircuitOpen:
                return False

        wait_until(recovered)
        wait_until(lambda: redis_store.load("shared").state == "closed")
    finally:
        for process in (prober, tripper):
            process.kill()
            process.wait()
            process.stdout.close()


def test_redis_stopped_in_the_middle_costs_no_exception_and_bounded_time(server):
    store = RedisBreakerStore(server.url, timeout=0.2)
    breaker = CircuitBreaker("x", minimum_calls=4, open_for=0.2, store=store)
    with capture() as events:
        assert breaker.call(lambda: 1) == 1
        server.stop()
        slowest = 0.0
        for _ in range(3):
            started = time.monotonic()
            fail(breaker)
            slowest = max(slowest, time.monotonic() - started)
        assert breaker.state is State.OPEN  # on its own
        results = []
        wait_until(lambda: any(type(e).__name__ == "StoreFailed" for e in events))

        def recovered() -> bool:
            nonlocal slowest
            started = time.monotonic()
            try:
                results.append(breaker.call(lambda: "ok"))
            except CircuitOpen:
                pass
            slowest = max(slowest, time.monotonic() - started)
            return breaker.state is State.CLOSED

        wait_until(recovered)
        assert results[0] == "ok"
        assert slowest < 5
        server.start()
        wait_until(lambda: any(type(e).__name__ == "StoreRecovered" for e in events))
    for _ in range(4):
        fail(breaker)
    wait_until(lambda: store.load("x").state == "open")
    store.close()
