"""Timeout: async parity with asyncio.timeout, the three sync ways, abandoned calls."""

import asyncio
import contextvars
import subprocess
import sys
import threading
import time

import pytest
from maestro_resilience import (
    DeadlineExceeded,
    Retry,
    Timeout,
    TimeoutExceeded,
    WorkersExhausted,
    deadline,
    time_remaining,
)
from maestro_resilience._workers import WORKERS, Job
from maestro_resilience.testing import capture

SHORT = 0.03
BEGUN = 0.3  # long enough for a thread to begin, on a busy machine too


def wait_until(condition, seconds: float = 30.0) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.002)


async def hang() -> None:
    await asyncio.sleep(60)


def test_an_async_call_is_cancelled():
    async def main() -> None:
        started = time.monotonic()
        with pytest.raises(TimeoutExceeded, match=r"'t' exceeded 0.03 s") as caught:
            await Timeout(SHORT, name="t")(hang)()
        assert time.monotonic() - started >= SHORT
        assert isinstance(caught.value, TimeoutError)
        assert not isinstance(caught.value, DeadlineExceeded)
        assert asyncio.current_task().cancelling() == 0
        await asyncio.sleep(0)  # nothing is left that would cancel us

    asyncio.run(main())


@pytest.mark.parametrize("guarded", [True, False])
def test_a_timeout_error_of_the_call_passes_through(mode, guarded):
    error = TimeoutError("of the socket")

    def body() -> None:
        raise error

    with pytest.raises(TimeoutError) as caught:
        mode.run(Timeout(5)(mode.function(body)))
    assert caught.value is error


def test_an_external_cancellation_wins():
    async def main() -> None:
        task = asyncio.create_task(Timeout(0.2)(hang)())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_a_cancellation_at_the_moment_of_the_timeout_wins():
    async def main() -> None:
        async def body() -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                asyncio.current_task().cancel()  # somebody else, at the same time
                raise

        task = asyncio.create_task(Timeout(SHORT)(body)())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelling() == 1

    asyncio.run(main())


def test_many_calls_share_one_timer_and_each_ends_in_time():
    timeout = Timeout(0.8)

    async def main() -> None:
        async def call(i: int) -> str:
            await asyncio.sleep(i * 0.002)
            if i % 3 == 0:
                return await timeout(quick)()
            started = time.monotonic()
            with pytest.raises(TimeoutExceeded):
                await timeout(hang)()
            assert time.monotonic() - started >= 0.79
            return "late"

        async def quick() -> str:
            await asyncio.sleep(0.001)
            return "quick"

        results = await asyncio.gather(*(call(i) for i in range(60)))
        assert results.count("quick") == 20

    for _ in range(2):  # a second event loop has its own timer
        asyncio.run(main())


def test_nested_timeouts_name_the_right_one():
    async def main() -> None:
        inner = Timeout(30, name="inner")(hang)
        with pytest.raises(TimeoutExceeded, match="'outer'"):
            await Timeout(SHORT, name="outer")(inner)()
        inner = Timeout(SHORT, name="inner")(hang)
        with pytest.raises(TimeoutExceeded, match="'inner' exceeded") as caught:
            await Timeout(30, name="outer")(inner)()
        assert not isinstance(caught.value, DeadlineExceeded)
        assert asyncio.current_task().cancelling() == 0

    asyncio.run(main())


def test_a_deadline_around_a_timeout_interrupts_its_call():
    async def main() -> None:
        with deadline(SHORT), pytest.raises(DeadlineExceeded, match="'inner'"):
            await Timeout(30, name="inner")(hang)()

    asyncio.run(main())


def test_an_async_deadline_interrupts_its_block():
    async def main() -> None:
        with pytest.raises(DeadlineExceeded):
            async with deadline(SHORT):
                await hang()
        async with deadline(5):
            assert time_remaining() == pytest.approx(5, abs=0.5)
        assert time_remaining() is None

    asyncio.run(main())


def test_attempts_shrink_to_what_the_deadline_leaves():
    async def main() -> None:
        left = []

        async def body() -> None:
            left.append(time_remaining())
            await asyncio.sleep(60)

        guarded = Retry(attempts=50, wait=0)(Timeout(0.4)(body))
        with deadline(1.0), pytest.raises(TimeoutExceeded):
            await guarded()
        assert 2 <= len(left) <= 3
        assert left[0] > left[-1]

    asyncio.run(main())


@pytest.mark.parametrize("times_out", [True, False])
def test_the_same_rules_as_asyncio_timeout(times_out):
    """The parity suite: each body behaves the same under both."""

    async def swallow() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "swallowed"
        return "slept"

    async def translate() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise LookupError("cleanup failed") from None

    async def quick() -> int:
        return 7

    async def bad() -> None:
        raise ValueError("bad")

    async def outcome(run) -> object:
        try:
            result: object = await run
        except BaseException as error:
            result = "timeout" if isinstance(error, TimeoutError) else repr(error)
        return result, asyncio.current_task().cancelling()

    async def reference(body) -> object:
        async with asyncio.timeout(SHORT):
            return await body()

    async def main() -> None:
        bodies = (swallow, translate, hang) if times_out else (quick, bad)
        for body in bodies:
            ours = await outcome(Timeout(SHORT)(body)())
            theirs = await outcome(reference(body))
            assert ours == theirs

    asyncio.run(main())


def test_an_async_block_is_cancelled():
    async def main() -> None:
        with pytest.raises(TimeoutExceeded):
            async with Timeout(SHORT).guard():
                await hang()
        async with Timeout(5).guard():
            assert time_remaining() == pytest.approx(5, abs=0.5)

    asyncio.run(main())


# --- sync: threads ----------------------------------------------------------------------


def test_a_sync_call_is_no_longer_waited_for():
    release = threading.Event()
    timeout = Timeout(BEGUN)
    with capture() as events:
        with pytest.raises(TimeoutExceeded, match="still runs") as caught:
            timeout.call(release.wait, 30)
        assert caught.value.abandoned
        assert timeout.abandoned == 1
        release.set()
        wait_until(lambda: timeout.abandoned == 0)
        wait_until(lambda: len(events) == 3)
    assert [type(e).__name__ for e in events] == [
        "WorkAbandoned",
        "TimedOut",
        "AbandonedWorkEnded",
    ]


def test_the_late_error_of_an_abandoned_call_is_told():
    release = threading.Event()

    def body() -> None:
        release.wait(30)
        raise LookupError("late")

    events = []
    timeout = Timeout(BEGUN, listeners=[events.append])
    with pytest.raises(TimeoutExceeded):
        timeout.call(body)
    release.set()
    wait_until(lambda: len(events) == 3)
    assert isinstance(events[-1].error, LookupError)


def test_context_variables_are_seen_in_the_worker():
    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("from the caller")
    seen = Timeout(5).call(lambda: (variable.get(), threading.current_thread()))
    assert seen[0] == "from the caller"
    assert seen[1] is not threading.current_thread()


def test_abandoned_calls_are_capped():
    release = threading.Event()
    timeout = Timeout(0.005, max_abandoned=3)
    before = threading.active_count()

    def fill() -> bool:
        """Make one more call; one that has not begun in time does not count."""
        with pytest.raises(TimeoutExceeded):
            timeout.call(release.wait, 30)
        return timeout.abandoned == 3

    wait_until(fill)
    for _ in range(20):
        with pytest.raises(WorkersExhausted, match="3 timed-out calls"):
            timeout.call(release.wait, 30)
    assert threading.active_count() <= before + 3
    release.set()
    wait_until(lambda: timeout.abandoned == 0)
    assert Timeout(5).call(lambda: 1) == 1


def test_workers_are_reused():
    timeout = Timeout(5)
    names = {timeout.call(threading.get_ident) for _ in range(50)}
    assert len(names) <= 3


def test_the_program_ends_although_a_call_hangs():
    code = """
import time
from maestro_resilience import Timeout, TimeoutExceeded
try:
    Timeout(0.05).call(time.sleep, 600)
except TimeoutExceeded:
    print("over")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60
    )
    assert done.stdout == "over\n"
    assert done.returncode == 0


def test_an_interrupt_amid_the_abandoning_takes_no_worker_for_ever(monkeypatch):
    """The second ^C, so to say."""
    timeout, over = Timeout(BEGUN, max_abandoned=1), threading.Event()

    def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Job, "abandon", interrupted)
        timeout.call(over.wait, 60)
    with pytest.raises(WorkersExhausted):
        timeout.call(over.is_set)
    (job,) = timeout._abandoned
    over.set()
    wait_until(lambda: job.finished)
    timeout.seconds = 60  # the machine may be busy
    assert timeout.call(over.is_set)
    assert timeout.abandoned == 0


# --- sync: in place ------------------------------------------------------------------------


def test_deadline_mode_only_tells_what_is_left():
    timeout = Timeout(5, sync="deadline")
    left, thread = timeout.call(lambda: (time_remaining(), threading.current_thread()))
    assert 4 < left <= 5
    assert thread is threading.current_thread()
    with timeout.guard():
        assert time_remaining() is not None
    assert time_remaining() is None


def test_signal_mode_interrupts_in_place():
    timeout = Timeout(SHORT, sync="signal")
    with pytest.raises(TimeoutExceeded) as caught:
        timeout.call(time.sleep, 60)
    assert not caught.value.abandoned
    with pytest.raises(TimeoutExceeded), timeout.guard():
        time.sleep(60)
    assert timeout.call(lambda: 3) == 3
    failures = []

    def elsewhere() -> None:
        with pytest.raises(RuntimeError, match="main thread"):
            timeout.call(lambda: 3)
        failures.append("refused")

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert failures == ["refused"]


def test_a_sync_block_cannot_move_to_a_thread():
    with pytest.raises(TypeError, match="cannot move"), Timeout(1).guard():
        pass


def test_a_call_that_no_thread_took_up_in_time_never_begins(monkeypatch):
    began, parked = [], []
    monkeypatch.setattr(WORKERS, "start", parked.append)  # a machine out of threads
    timeout = Timeout(SHORT)
    with pytest.raises(TimeoutExceeded) as caught:
        timeout.call(began.append, 1)
    assert not caught.value.abandoned
    assert timeout.abandoned == 0
    parked[0].run()
    assert began == []
