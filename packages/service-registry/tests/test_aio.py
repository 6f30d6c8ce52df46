"""The registry for asyncio: nothing blocks the loop, nothing is left behind."""

import asyncio
import contextlib

import pytest
from maestro_service_registry import (
    Added,
    AsyncServiceRegistry,
    LockNotAcquired,
    NotReady,
    Removed,
    ServiceRegistry,
)
from registry_support import quick_timing, wait_until


def run(main, tmp_path):
    """Run `main(registry)` on a SQLite store; errors nobody read fail the test."""

    async def whole():
        complaints = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        url = f"sqlite:///{tmp_path}/r.db"
        async with await AsyncServiceRegistry.open(url, timing=quick_timing()) as areg:
            await asyncio.wait_for(main(areg), 60)
        assert complaints == []

    asyncio.run(whole())


async def until(done):
    await asyncio.to_thread(wait_until, done)


def tickets(areg):
    return areg.sync.store.read("l/").records


def test_register_find_pick_drain_and_may(tmp_path):
    async def main(areg):
        async with await areg.register("mail", port=25, id="m1") as me:
            mail = await areg.service("mail")
            assert mail.pick().id == "m1"
            await me.drain()
            assert [i.status for i in await areg.find("mail")] == ["draining"]
            await me.update(status="up")
            await areg.wait_ready(["mail"], 20)
            assert (await areg.may("restart", "mail")).ok
        assert await areg.find("mail") == ()
        with pytest.raises(NotReady, match="nobody"):
            await areg.wait_ready(["nobody"], 0.05)

    run(main, tmp_path)


def test_a_watch_yields_changes_and_can_be_left(tmp_path):
    async def main(areg):
        revision = areg.sync.store.read("").revision
        async with await areg.register("mail", port=25, id="m1"):
            pass
        seen = []
        async with contextlib.aclosing(areg.watch("mail", since=revision)) as changes:
            async for change in changes:
                seen.append(type(change))
                if len(seen) == 2:
                    break
        assert seen == [Added, Removed]

    run(main, tmp_path)


def test_a_wait_that_is_cancelled_leaves_no_ticket_and_no_lease(tmp_path):
    async def main(areg):
        async def wait():
            async with areg.lock("job"):
                raise AssertionError("it is held")

        async with areg.lock("job") as held:
            waiting = asyncio.create_task(wait())
            await until(lambda: len(tickets(areg)) == 2)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await until(lambda: len(tickets(areg)) == 1)
            assert held.guard() == held.fence
            await until(lambda: len(areg.sync.store.leases()) == 1)
        assert tickets(areg) == ()

    run(main, tmp_path)


def test_a_wait_cancelled_at_any_moment_never_keeps_the_lock(tmp_path):
    """Also before the thread began, and when the lock was got but not told yet."""

    async def main(areg):
        async def take():
            async with areg.lock("job", ttl=30):
                pass

        for n in range(25):
            task = asyncio.create_task(take())
            await asyncio.sleep(n * 0.0004)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        async with areg.lock("job", timeout=20) as lock:
            assert lock.held
        await until(lambda: not tickets(areg))

    run(main, tmp_path)


def test_many_waiters_do_not_keep_the_holder_from_letting_go(tmp_path):
    """More waiters than any pool has threads, and a lock taken inside another."""

    async def main(areg):
        served = []

        async def work(n):
            async with areg.lock("outer"):
                async with areg.lock("inner"):
                    served.append(n)

        async with areg.lock("outer"):
            tasks = [asyncio.create_task(work(n)) for n in range(12)]
            await until(lambda: len(tickets(areg)) == 13)
        await asyncio.gather(*tasks)
        assert sorted(served) == list(range(12))

    run(main, tmp_path)


def test_a_time_out_says_who_holds_it(tmp_path):
    async def main(areg):
        async with areg.lock("job", holder="first"):
            with pytest.raises(LockNotAcquired, match="held by first"):
                async with areg.lock("job", timeout=0.05):
                    pass
            assert len(tickets(areg)) == 1

    run(main, tmp_path)


def test_a_loop_that_ends_while_somebody_waits_gives_the_lock_back(tmp_path):
    url = f"sqlite:///{tmp_path}/r.db"
    with ServiceRegistry.open(url) as other, other.lock("job"):

        async def main():
            areg = await AsyncServiceRegistry.open(url)
            try:
                async with asyncio.timeout(0.2):
                    async with areg.lock("job"):
                        raise AssertionError("it is held")
            finally:
                await areg.close()

        with pytest.raises(TimeoutError):
            asyncio.run(main())
        wait_until(lambda: len(other.store.read("l/").records) == 1)
