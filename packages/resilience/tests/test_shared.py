"""Breakers that share their state: in memory, and over a real Redis."""

import asyncio
import gc
import signal
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace

import pytest
from maestro_resilience import CircuitBreaker, CircuitOpen, State
from maestro_resilience.events import StoreFailed, StoreRecovered
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


def recovers(breaker: CircuitBreaker) -> bool:
    """Make a call; tell whether the circuit let it pass."""
    try:
        return breaker.call(lambda: True)
    except CircuitOpen:
        return False


def fail(breaker: CircuitBreaker) -> None:
    with pytest.raises(ConnectionError):
        breaker.call(boom)


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
    clock = FakeClock()
    store = MemoryBreakerStore(clock=clock.monotonic)
    a, b = (
        CircuitBreaker("x", minimum_calls=1, open_for=5, store=store, clock=clock)
        for _ in range(2)
    )
    fail(a)
    wait_until(lambda: b.state is State.OPEN)
    with pytest.raises(CircuitOpen) as caught:
        b.call(lambda: 1)
    assert caught.value.retry_after == 5
    clock.advance(5)
    wait_until(lambda: recovers(b))
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
    turned = threading.Event()

    class Slow(MemoryBreakerStore):
        def lease(self, *args):
            assert turned.wait(30), "the loop stood still"
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
            if turns == 5:
                turned.set()
        assert task.result() == "probe"
        return turns

    assert asyncio.run(main()) >= 5


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

        wait_until(lambda: recovers(breaker))
        wait_until(lambda: redis_store.load("shared").state == "closed")
    finally:
        for process in (prober, tripper):
            process.kill()
            process.wait()
            process.stdout.close()


def test_a_store_that_is_away_is_logged_once_and_so_is_its_return(caplog):
    class Away(MemoryBreakerStore):
        away = True

        def load(self, name):
            if self.away:
                raise ConnectionError("refused")
            return super().load(name)

    def said():
        told = [(r.levelname, r.getMessage()) for r in caplog.records]
        return [one for one in told if "'logged'" in one[1]]  # no other test's

    store = Away()
    caplog.set_level("INFO", "maestro_resilience")
    breaker = CircuitBreaker("logged", store=store)
    wait_until(said)
    for _ in range(3):
        breaker._shared.exchange(lambda s: s.load("logged"))
    store.away = False
    wait_until(lambda: len(said()) > 1)
    why = "its store does not answer: ConnectionError: refused"
    assert said() == [
        ("WARNING", f"breaker 'logged' counts alone: {why}"),
        ("INFO", "breaker 'logged': its store answers again"),
    ]
    gone = weakref.ref(breaker)
    del breaker

    def collected():
        gc.collect()
        return gone() is None

    wait_until(collected)  # a handler that keeps records keeps no breaker


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


class Deaf(MemoryBreakerStore):
    """A store that can lose messages."""

    deaf = False

    def __getattribute__(self, name):
        if name in {"load", "change", "lease", "report"} and Deaf.deaf:
            raise ConnectionError("no answer")
        return super().__getattribute__(name)


@pytest.fixture
def deaf_store():
    Deaf.deaf = False
    yield Deaf()
    Deaf.deaf = False


def test_the_lost_result_of_a_probe_is_sent_again(deaf_store):
    breaker = CircuitBreaker("x", minimum_calls=1, open_for=0.05, store=deaf_store)
    with capture() as events:
        fail(breaker)
        wait_until(lambda: deaf_store.load("x").state == "open")
        time.sleep(0.06)
        with breaker.guard():
            assert deaf_store.load("x").state == "half_open"
            Deaf.deaf = True
        wait_until(lambda: any(type(e).__name__ == "StoreFailed" for e in events))
        Deaf.deaf = False
        # The lease lasts 60 s: without the result everybody would wait for that.
        wait_until(lambda: deaf_store.load("x").state == "closed", 20)
        wait_until(lambda: breaker.state is State.CLOSED)


def test_a_probe_whose_result_is_lost_for_good_frees_its_slot(redis_store):
    settings = {"minimum_calls": 1, "open_for": 0.05, "probe_lease": 0.3}
    breaker = CircuitBreaker("x", store=redis_store, **settings)
    fail(breaker)
    wait_until(lambda: redis_store.load("x").state == "open")
    time.sleep(0.06)
    assert redis_store.lease("x", "of a process that died", 1, 0.3)[0]
    with pytest.raises(CircuitOpen):
        breaker.call(lambda: 1)

    wait_until(lambda: recovers(breaker))
    wait_until(lambda: redis_store.load("x").state == "closed")


def test_a_redis_that_hangs_for_a_moment_gets_the_result_of_a_probe(server):
    store = RedisBreakerStore(server.url, timeout=1)
    patient = RedisBreakerStore(server.url, timeout=10)  # to look on a busy machine
    breaker = CircuitBreaker("hanging", minimum_calls=1, open_for=0.05, store=store)
    fail(breaker)
    wait_until(lambda: patient.load("hanging").state == "open")
    time.sleep(0.06)

    def told(kind):  # other breakers may talk about servers of their own
        return any(
            type(e).__name__ == kind and e.policy == "hanging" for e in list(events)
        )

    with capture() as events:
        with breaker.guard():
            server.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: told("StoreFailed"))
        server.process.send_signal(signal.SIGCONT)
        wait_until(lambda: told("StoreRecovered"))
    wait_until(lambda: patient.load("hanging").state == "closed")
    wait_until(lambda: breaker.state is State.CLOSED)
    store.close()
    patient.close()


def test_a_task_cancelled_while_it_asks_gives_its_probe_back():
    asked, answer = threading.Event(), threading.Event()

    class Slow(MemoryBreakerStore):
        def lease(self, *args):
            granted = super().lease(*args)
            asked.set()
            answer.wait(30)
            return granted

    store = Slow()
    breaker = CircuitBreaker("x", minimum_calls=1, open_for=0.05, store=store)
    fail(breaker)
    wait_until(lambda: store.load("x").state == "open")
    time.sleep(0.06)

    async def main() -> None:
        @breaker
        async def body() -> None:
            raise AssertionError("cancelled before it began")

        task = asyncio.create_task(body())
        while not asked.is_set():
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        answer.set()

    asyncio.run(main())
    wait_until(lambda: not store._records["x"].leases)
    assert breaker.call(lambda: "next") == "next"


def test_a_state_of_another_release_counts_as_a_store_that_is_away():
    class Newer(MemoryBreakerStore):
        state = "melted"

        def load(self, name):
            view = super().load(name)
            return replace(view, version=9, state=self.state) if self.state else view

    store = Newer()
    with capture() as events:
        breaker = CircuitBreaker("newer", minimum_calls=1, store=store)
        kinds = [StoreFailed, StoreRecovered]

        def told():
            return [type(e) for e in list(events) if e.policy == "newer"]

        wait_until(lambda: told() == kinds[:1])
        store.state = ""
        wait_until(lambda: told() == kinds)
    fail(breaker)
    wait_until(lambda: store.load("newer").state == "open")


def test_a_store_that_has_forgotten_is_told_again(redis_store):
    shut = CircuitBreaker("shut", minimum_calls=1, open_for=60, store=redis_store)
    held = CircuitBreaker("held", store=redis_store)
    well = CircuitBreaker("well", minimum_calls=1, open_for=60, store=redis_store)
    fail(shut)
    held.isolate("maintenance")
    fail(well)
    wait_until(lambda: redis_store.load("well").state == "open")
    well.reset()
    for name, state in {"shut": "open", "held": "isolated", "well": "closed"}.items():
        wait_until(lambda: redis_store.load(name).state == state)  # noqa: B023 - used at once
    wait_until(lambda: well._shared._version == redis_store.load("well").version)
    redis_store._redis.flushall()  # as a restart without its data does
    wait_until(lambda: redis_store.load("shut").state == "open")
    wait_until(lambda: redis_store.load("held").state == "isolated")
    assert redis_store.load("held").reason == "maintenance"
    assert 30 < redis_store.load("shut").left <= 60
    assert shut.state is State.OPEN
    assert held.state is State.ISOLATED
    fail(well)  # its trip is newer than what the store knows
    wait_until(lambda: redis_store.load("well").state == "open")
