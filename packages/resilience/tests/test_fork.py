"""Policies in a forked child: fresh locks, fresh slots, a store of its own."""

import subprocess
import sys
import time

import pytest
from maestro_resilience import CircuitBreaker, State
from maestro_resilience.redis import RedisBreakerStore

PREAMBLE = """
import os, sys, threading, time, warnings
from maestro_resilience import *
warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads

def in_child(check):
    '''Run `check` in a forked child and pass its verdict on.'''
    child = os.fork()
    if child == 0:
        code = 1
        try:
            check()
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0, "the child failed"

def capacity(policy):
    '''How many calls fit in at a time.'''
    guards = []
    try:
        while len(guards) < 50:
            guard = policy.guard()
            guard.__enter__()
            guards.append(guard)
    except BulkheadFull:
        pass
    for guard in guards:
        guard.__exit__(None, None, None)
    return len(guards)
"""

CALL_THAT_FORKS = """
bulkhead, limit = Bulkhead(2), AdaptiveLimit(initial=3)

def child_leaves():
    stack.__exit__(None, None, None)
    assert (bulkhead.in_flight, limit.in_flight) == (0, 0)
    assert (capacity(bulkhead), capacity(limit)) == (2, 3)

stack = Pipeline(limit, bulkhead).guard()
stack.__enter__()
in_child(child_leaves)
assert (bulkhead.in_flight, limit.in_flight) == (1, 1)
stack.__exit__(None, None, None)
assert (capacity(bulkhead), capacity(limit)) == (2, 3)
"""

OTHERS_HOLD_EVERYTHING = """
bulkhead, limiter, budget = Bulkhead(1, wait=5), RateLimiter(9), RetryBudget()
limit, breaker = AdaptiveLimit(initial=1), CircuitBreaker("b")
hosts = keyed(CircuitBreaker)
timeout = Timeout(0.05, max_abandoned=1)
release, held = threading.Event(), threading.Barrier(2)
try:
    timeout.call(release.wait, 60)
except TimeoutExceeded:
    pass

def hold():
    with bulkhead.guard(), limit.guard():
        with breaker._lock, bulkhead._lock, limiter._lock, budget._lock, limit._lock:
            with hosts._lock:
                held.wait()
                release.wait(60)

threading.Thread(target=hold, daemon=True).start()
held.wait()

def use_all():
    assert timeout.abandoned == 0
    assert timeout.call(lambda: 7) == 7
    with bulkhead.guard(), limiter.guard(), limit.guard(), breaker.guard():
        budget.deposit()
        budget.withdraw()
        hosts["a"].isolate()
    breaker.isolate()
    breaker.reset()

in_child(use_all)
release.set()
"""


@pytest.mark.parametrize("script", [CALL_THAT_FORKS, OTHERS_HOLD_EVERYTHING])
def test_a_forked_child_is_not_bound_by_its_parent(script):
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + script],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


SHARED = """
from maestro_resilience.redis import RedisBreakerStore

def wait_until(condition):
    give_up = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)

store = RedisBreakerStore(sys.argv[1])
breaker = CircuitBreaker(
    "forked", failure_rate=0.1, minimum_calls=1, open_for=60, store=store
)
guarded = breaker(lambda fail: 1 / 0 if fail else 7)
guarded(False)
store.load("forked")  # the parent's connection exists before the fork
asked_r, asked_w = os.pipe()

def child():
    assert guarded(False) == 7
    try:
        guarded(True)
    except ZeroDivisionError:
        pass
    assert breaker.state == "open"
    # From here on it only looks, as a health check does.
    wait_until(lambda: breaker.state == "isolated")
    os.write(asked_w, b"1")
    wait_until(lambda: breaker.state == "closed")

def steer():
    wait_until(lambda: breaker.state == "open")  # the child has tripped it
    breaker.isolate("maintenance")
    os.read(asked_r, 1)
    breaker.reset()

thread = threading.Thread(target=steer)
child_pid = os.fork()
if child_pid == 0:
    code = 1
    try:
        child()
        code = 0
    finally:
        os._exit(code)
thread.start()
assert os.waitpid(child_pid, 0)[1] == 0, "the child failed"
thread.join()
assert store.load("forked").state == "closed"
"""


def test_parent_and_forked_child_share_a_breaker_over_redis(server):
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + SHARED, server.url],
        capture_output=True,
        encoding="utf-8",
        timeout=100,
    )
    assert done.returncode == 0, done.stderr


LOOKING = """
from maestro_resilience.redis import RedisBreakerStore
store = RedisBreakerStore(sys.argv[1])
breaker = CircuitBreaker("looked-at", store=store)

def child():
    calls = 0
    try:
        while calls < 6000:
            breaker.call(int)  # closed: nothing but the refreshing thread tells it
            calls += 1
            time.sleep(0.005)
    except CircuitOpen as error:
        assert error.reason == "from elsewhere", error
        return
    raise AssertionError("the child never heard of it")

print("forked", flush=True)
in_child(child)
"""


def test_a_forked_child_hears_of_trips_elsewhere(server):
    store = RedisBreakerStore(server.url)
    here = CircuitBreaker("looked-at", store=store)
    with subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + LOOKING, server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as child:
        assert child.stdout.readline() == "forked\n"
        time.sleep(0.5)  # let it make calls first; sooner would do as well
        here.isolate("from elsewhere")
        assert child.wait(60) == 0, child.stderr.read()
    assert here.state is State.ISOLATED
    store.close()
