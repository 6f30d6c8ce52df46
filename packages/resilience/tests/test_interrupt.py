"""^C for real: SIGINT to a process of its own, at every place where a call waits."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

# What every child shares. `say()` tells the parent that the ^C may come now.
PREAMBLE = """
import asyncio, json, threading, time
from maestro_resilience import *
from maestro_resilience._retry import RETRYING
from maestro_resilience.testing import FakeClock

def say(*event):
    print("ready", flush=True)

def tell(**facts):
    facts["deadline"] = time_remaining()
    facts["nested"] = RETRYING.get()
    facts["threads"] = sum(not t.daemon for t in threading.enumerate())
    print(json.dumps(facts), flush=True)

def hang():
    say()
    time.sleep(60)

async def hang_async():
    say()
    await asyncio.sleep(60)

def interrupted(sync, awaitable):
    '''Run one of the two and swallow the ^C that must come.'''
    try:
        if ASYNC:
            async def main():
                await awaitable()
            asyncio.run(main())
        else:
            sync()
    except KeyboardInterrupt:
        return True
    return False

def fail(breaker):
    def body():
        raise ConnectionError
    try:
        breaker.call(body)
    except ConnectionError:
        pass
"""

IN_A_CALL = """
breaker = CircuitBreaker("b", minimum_calls=1)
bulkhead, limit = Bulkhead(1), AdaptiveLimit(initial=1)
calls = []
pipeline = Pipeline(
    Fallback(lambda e: calls.append(e)), Retry(5, wait=0), breaker, bulkhead,
    *([Timeout(50)] if ASYNC else [Timeout(50, sync="deadline")]), fuse=FUSED,
)
guarded = pipeline(hang_async if ASYNC else hang)
limited = limit(guarded)
caught = interrupted(limited, limited)
tell(
    caught=caught, state=breaker.state, calls=breaker.metrics.calls, retried=len(calls),
    inside=bulkhead.in_flight, limited=limit.in_flight, again=pipeline.call(lambda: 7),
)
"""

IN_HALF_OPEN = """
clock = FakeClock()
breaker = CircuitBreaker("b", minimum_calls=1, open_for=5, clock=clock)
fail(breaker)
clock.advance(5)
caught = interrupted(breaker(hang), breaker(hang_async))
state = breaker.state
tell(caught=caught, state=state, again=breaker.call(lambda: 7), after=breaker.state)
"""

IN_LINE = """
bulkhead = Bulkhead(1, wait=60)
held, leave = threading.Event(), threading.Event()

def hold():
    with bulkhead.guard():
        held.set()
        leave.wait(60)

def watch():
    while not bulkhead.waiting:
        time.sleep(0.002)
    say()

holder = threading.Thread(target=hold)
holder.start()
held.wait(60)
threading.Thread(target=watch, daemon=True).start()
caught = interrupted(bulkhead(hang), bulkhead(hang_async))
waiting = bulkhead.waiting
leave.set()
holder.join()
tell(
    caught=caught, waiting=waiting, inside=bulkhead.in_flight,
    again=bulkhead.call(lambda: 7),
)
"""

IN_A_RETRY = """
calls = []
def body():
    calls.append(1)
    if len(calls) == 1:
        raise ConnectionError
    return 7
async def body_async():
    return body()
retry = Retry(3, wait=60, listeners=[say])
caught = interrupted(retry(body), retry(body_async))
tell(caught=caught, calls=len(calls), again=retry.call(body))
"""

IN_A_LATER_ATTEMPT = """
calls = []
def body():
    calls.append(1)
    if len(calls) == 1:
        raise ConnectionError
    hang()
async def body_async():
    calls.append(1)
    if len(calls) == 1:
        raise ConnectionError
    await hang_async()
retry = Retry(3, wait=0)
caught = interrupted(retry(body), retry(body_async))
tell(caught=caught, calls=len(calls), again=retry.call(lambda: 7))
"""

ON_A_WORKER = """
timeout = Timeout(50, max_abandoned=1)
caught = interrupted(timeout(hang), timeout(hang_async))
tell(caught=caught, abandoned=timeout.abandoned, again=Timeout(50).call(lambda: 7))
"""


def start(script: str, *, is_async: bool, fused: bool = True) -> subprocess.Popen[str]:
    flags = f"ASYNC, FUSED = {is_async}, {fused}\n"
    return subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + flags + script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def facts_after_interrupt(script: str, **how: bool) -> dict[str, object]:
    """Return what the child says after its ^C, and that it ends by itself."""
    with start(script, **how) as child:
        try:
            assert child.stdout.readline() == "ready\n", child.stderr.read()
            child.send_signal(signal.SIGINT)
            answer, trouble = child.communicate(timeout=40)
        finally:
            child.kill()
    assert child.returncode == 0, trouble
    facts = json.loads(answer.splitlines()[-1])
    assert facts.pop("caught"), "the call ended without the ^C"
    assert facts.pop("deadline") is None
    assert facts.pop("nested") is False
    assert facts.pop("threads") == 1
    assert facts.pop("again") == 7
    return facts


@pytest.fixture(params=[False, True], ids=["sync", "async"])
def is_async(request) -> bool:
    return request.param


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "nested"])
def test_in_a_guarded_call_everything_comes_back(is_async, fused):
    assert facts_after_interrupt(IN_A_CALL, is_async=is_async, fused=fused) == {
        "state": "closed",
        "calls": 0,
        "retried": 0,
        "inside": 0,
        "limited": 0,
    }


def test_in_half_open_the_probe_gives_its_slot_back(is_async):
    assert facts_after_interrupt(IN_HALF_OPEN, is_async=is_async) == {
        "state": "half_open",
        "after": "closed",
    }


def test_in_line_for_a_bulkhead_the_place_is_given_up(is_async):
    assert facts_after_interrupt(IN_LINE, is_async=is_async) == {
        "waiting": 0,
        "inside": 0,
    }


def test_between_two_attempts_no_further_one_is_made(is_async):
    assert facts_after_interrupt(IN_A_RETRY, is_async=is_async) == {"calls": 1}


def test_in_a_later_attempt_no_further_one_is_made(is_async):
    assert facts_after_interrupt(IN_A_LATER_ATTEMPT, is_async=is_async) == {"calls": 2}


def test_while_a_worker_runs_the_call_is_counted_as_abandoned(is_async):
    abandoned = 0 if is_async else 1  # a task is cancelled, a thread runs on
    assert facts_after_interrupt(ON_A_WORKER, is_async=is_async) == {
        "abandoned": abandoned
    }


@pytest.mark.parametrize("script", [IN_A_CALL, IN_LINE, IN_A_RETRY, ON_A_WORKER])
def test_nobody_catches_it_and_the_program_ends(script, is_async):
    # `interrupted` lets it through here, and a thread that holds a slot is a daemon.
    script = "def interrupted(a, b): asyncio.run(b()) if ASYNC else a()\n" + script
    script = script.replace("target=hold)", "target=hold, daemon=True)")
    with start(script, is_async=is_async) as child:
        try:
            assert child.stdout.readline() == "ready\n"
            child.send_signal(signal.SIGINT)
            assert child.wait(40) == -signal.SIGINT
            assert "KeyboardInterrupt" in child.stderr.read()
        finally:
            child.kill()


STORM = """
import gc, signal
armed = False

def on_interrupt(number, frame):
    # At most one ^C per round, so that none hits the test itself.
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, on_interrupt)

def storm(once, check):
    global armed
    say()
    for _ in range(ROUNDS):
        try:
            while True:
                armed = True  # each time: a finaliser may have swallowed the last one
                once()
        except KeyboardInterrupt:
            pass
        gc.collect()  # the error of a broken off call may hold its frames in a cycle
        check()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the storm goes on for a moment
"""

STORM_OF_CALLS = (
    STORM
    + """
breaker = CircuitBreaker("b", slow_call=5)
bulkhead, limit = Bulkhead(2, wait=5), AdaptiveLimit(initial=2)
pipeline = Pipeline(
    Fallback(lambda e: None), Retry(2, wait=0, budget=RetryBudget()), breaker, bulkhead,
    Timeout(50, sync="deadline"), fuse=FUSED,
)
quick = limit(pipeline(int))

def bad():
    raise ValueError
failing = pipeline(bad)
retried = Retry(2, wait=0)(bad)

def once():
    quick()
    failing()
    with bulkhead.guard():
        pass
    try:
        retried()
    except ValueError:
        pass
    breaker.reset()

def check():
    assert bulkhead.in_flight == 0, bulkhead.in_flight
    assert limit.in_flight == 0, limit.in_flight
    assert time_remaining() is None, time_remaining()
    assert RETRYING.get() is False
    breaker.reset()
    assert quick() == 0

storm(once, check)
tell(caught=True, again=pipeline.call(lambda: 7))
"""
)

STORM_OF_PROBES = (
    STORM
    + """
clock = FakeClock()
breaker = CircuitBreaker("b", minimum_calls=1, open_for=5, clock=clock)

def once():
    fail(breaker)
    clock.advance(5)
    fail(breaker)
    clock.advance(5)
    breaker.call(int)

def check():
    if breaker.state != "closed":
        clock.advance(5)  # not the lease of a probe, which is 60 s
        breaker.call(int)
    assert breaker.state == "closed", breaker.state

storm(once, check)
tell(caught=True, again=breaker.call(lambda: 7))
"""
)


@pytest.mark.parametrize(
    ("script", "fused"),
    [(STORM_OF_CALLS, True), (STORM_OF_CALLS, False), (STORM_OF_PROBES, True)],
    ids=["fused calls", "nested calls", "probes"],
)
def test_a_storm_of_interrupts_leaks_nothing(script, fused):
    """The ^C comes anywhere, also between two steps of the policies themselves."""
    pause = random.Random(3)
    with start("ROUNDS = 300\n" + script, is_async=False, fused=fused) as child:
        try:
            assert child.stdout.readline() == "ready\n", child.stderr.read()
            give_up = time.monotonic() + 60
            while child.poll() is None and time.monotonic() < give_up:
                os.kill(child.pid, signal.SIGINT)
                time.sleep(pause.uniform(0.0001, 0.003))
            answer, trouble = child.communicate(timeout=1)
        finally:
            child.kill()
    assert child.returncode == 0, trouble
    assert json.loads(answer.splitlines()[-1])["again"] == 7
