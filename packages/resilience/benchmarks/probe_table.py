"""Behaviour of circuit breakers beside each other: python probe_table.py

One row per probe, one column per library; "ok" or what went wrong. A library that
is not installed, or that the probe cannot be put to, has "-".
"""

import asyncio
import threading
import time

OPEN_S = 0.2


def ours():
    from maestro_resilience import CircuitBreaker

    return CircuitBreaker(minimum_calls=5, open_for=OPEN_S)


def pybreaker():
    import pybreaker as m

    return m.CircuitBreaker(fail_max=5, reset_timeout=OPEN_S)


def circuitbreaker():
    import circuitbreaker as m

    return m.CircuitBreaker(failure_threshold=5, recovery_timeout=OPEN_S)


def aiobreaker():
    import datetime as dt

    import aiobreaker as m

    return m.CircuitBreaker(5, dt.timedelta(seconds=OPEN_S))


def hyx():
    from hyx.circuitbreaker import consecutive_breaker

    return consecutive_breaker(
        failure_threshold=5, recovery_time_secs=OPEN_S, recovery_threshold=1
    )


def pyresilience():
    import pyresilience as m

    return m.resilient(
        circuit_breaker=m.CircuitBreakerConfig(
            failure_threshold=5, recovery_timeout=OPEN_S, success_threshold=1
        )
    )


def interlock():
    import interlock as m

    config = m.Config(
        minimum_number_of_calls=5,
        wait_duration_in_open=OPEN_S,
        permitted_calls_in_half_open=1,
    )
    return m.CircuitBreaker(name="probe", config=config)


def nopanic():
    import nopanic as m

    return m.circuit_breaker(min_calls=5, reset_timeout=OPEN_S)


LIBRARIES = [
    ours,
    pybreaker,
    circuitbreaker,
    aiobreaker,
    hyx,
    pyresilience,
    interlock,
    nopanic,
]
ASYNC_ONLY = {aiobreaker, hyx}
SYNC_ONLY = {pybreaker}


def failing(error):
    def body():
        raise error

    async def async_body():
        raise error

    return body, async_body


def swallow(call):
    try:
        return call()
    except BaseException as error:
        return error


async def swallow_async(make):
    try:
        return await make()
    except BaseException as error:
        return error


def is_open(make, decorate, loop):
    """Tell whether a call that would succeed is turned away."""
    ran = []
    if make in ASYNC_ONLY:

        async def body():
            ran.append(1)

        loop.run_until_complete(swallow_async(decorate(body)))
    else:
        swallow(decorate(lambda: ran.append(1)))
    return not ran


def trip(make, decorate, loop, error=ConnectionError, times=5):
    body, async_body = failing(error)
    for _ in range(times):
        if make in ASYNC_ONLY:
            loop.run_until_complete(swallow_async(decorate(async_body)))
        else:
            swallow(decorate(body))


def parallel(make, decorate, loop):
    if make in ASYNC_ONLY:
        return "-"
    guarded = decorate(lambda: time.sleep(0.2))
    threads = [threading.Thread(target=guarded) for _ in range(6)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return "ok" if time.monotonic() - started < 0.9 else "SERIALISED"


def half_open(make, decorate, loop):
    if make in SYNC_ONLY:
        return "-"
    trip(make, decorate, loop)
    time.sleep(OPEN_S + 0.05)
    entered = []

    async def body():
        entered.append(1)
        await asyncio.sleep(0.05)

    guarded = decorate(body)

    async def main():
        await asyncio.gather(*(swallow_async(guarded) for _ in range(20)))

    loop.run_until_complete(main())
    return "ok" if len(entered) == 1 else f"{len(entered)} of 20"


def cancelled(make, decorate, loop):
    if make in SYNC_ONLY:
        return "-"

    async def body():
        await asyncio.sleep(60)

    async def main():
        for _ in range(6):
            task = asyncio.ensure_future(decorate(body)())
            await asyncio.sleep(0.005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    loop.run_until_complete(main())
    return "OPENS" if is_open(make, decorate, loop) else "ok"


def interrupted(make, decorate, loop):
    if make in ASYNC_ONLY:
        return "-"
    trip(make, decorate, loop, KeyboardInterrupt)
    return "OPENS" if is_open(make, decorate, loop) else "ok"


def cancelled_probe(make, decorate, loop):
    if make in SYNC_ONLY:
        return "-"
    trip(make, decorate, loop)
    time.sleep(OPEN_S + 0.05)

    async def body():
        await asyncio.sleep(60)

    async def main():
        task = asyncio.ensure_future(decorate(body)())
        await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    loop.run_until_complete(main())
    return "STUCK" if is_open(make, decorate, loop) else "ok"


def stale_success(make, decorate, loop):
    if make in SYNC_ONLY:
        return "-"

    async def slow():
        await asyncio.sleep(0.05)

    async def bad():
        raise ConnectionError

    async def main():
        task = asyncio.ensure_future(decorate(slow)())
        await asyncio.sleep(0.005)
        for _ in range(6):
            await swallow_async(decorate(bad))
        await asyncio.gather(task, return_exceptions=True)

    loop.run_until_complete(main())
    return "ok" if is_open(make, decorate, loop) else "CLOSES"


def generator(make, decorate, loop):
    if make in ASYNC_ONLY:
        return "-"

    def body():
        yield 1
        raise ConnectionError

    try:
        guarded = decorate(body)
    except TypeError:
        return "ok (refused)"
    for _ in range(6):
        swallow(lambda: list(guarded()))
    return "ok" if is_open(make, decorate, loop) else "NOT GUARDED"


PROBES = {
    "6 slow calls in threads run in parallel": parallel,
    "20 concurrent callers at half-open, 1 probe": half_open,
    "CancelledError x6 is not counted": cancelled,
    "KeyboardInterrupt x5 is not counted": interrupted,
    "a cancelled probe frees its slot": cancelled_probe,
    "a success from before the trip changes nothing": stale_success,
    "failures in a generator's body are seen": generator,
}


def answer(probe, make):
    loop = asyncio.new_event_loop()
    try:
        return probe(make, make(), loop)
    except ImportError:
        return "-"
    except Exception as error:
        return type(error).__name__
    finally:
        loop.close()


def main():
    names = [make.__name__ for make in LIBRARIES]
    print("| probe | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for title, probe in PROBES.items():
        answers = [answer(probe, make) for make in LIBRARIES]
        print(f"| {title} | " + " | ".join(answers) + " |", flush=True)


if __name__ == "__main__":
    main()
