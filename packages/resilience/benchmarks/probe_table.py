"""Behaviour of circuit breakers beside each other: python probe_table.py

One row per probe, one column per library; "ok" or what went wrong. A library that
is not installed, or that the probe cannot be put to, has "-". Two more tables: what
an exhausted retry keeps alive, and what 25 hung calls under a sync timeout cost.
"""

import asyncio
import contextvars
import gc
import inspect
import threading
import time
import weakref

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


def purgatory():
    import purgatory as m

    of_functions = m.SyncCircuitBreakerFactory(default_threshold=5, default_ttl=OPEN_S)
    of_coroutines = m.AsyncCircuitBreakerFactory(
        default_threshold=5, default_ttl=OPEN_S
    )

    def decorate(fn):
        asynchronous = inspect.iscoroutinefunction(fn) or inspect.isasyncgenfunction(fn)
        return (of_coroutines if asynchronous else of_functions)("probe")(fn)

    return decorate


def grit():
    import grit as m

    return m.breaker(fails=5, reset_after=OPEN_S)


LIBRARIES = [
    ours,
    pybreaker,
    circuitbreaker,
    aiobreaker,
    purgatory,
    hyx,
    pyresilience,
    grit,
    interlock,
    nopanic,
]
ASYNC_ONLY = {aiobreaker, hyx}
SYNC_ONLY = {pybreaker}


def swallow(call):
    try:
        return call()
    except BaseException as error:
        return error


async def swallow_async(call):
    try:
        return await call()
    except BaseException as error:
        return error


class Subject:
    """One breaker, used with sync or with async functions."""

    def __init__(self, make, loop, *, asynchronous):
        self.decorate = make()
        self.loop = loop
        self.asynchronous = asynchronous

    def run(self, body):
        if not self.asynchronous:
            return swallow(self.decorate(body))

        async def async_body():
            return body()

        return self.loop.run_until_complete(swallow_async(self.decorate(async_body)))

    def is_open(self):
        """Tell whether a call that would succeed is turned away."""
        ran = []
        self.run(lambda: ran.append(1))
        return not ran

    def trip(self, error=ConnectionError, times=5):
        def body():
            raise error

        for _ in range(times):
            self.run(body)

    def trip_and_wait(self):
        self.trip()
        time.sleep(OPEN_S + 0.05)

    def gather(self, body, count):
        async def main():
            guarded = self.decorate(body)
            await asyncio.gather(*(swallow_async(guarded) for _ in range(count)))

        self.loop.run_until_complete(main())

    def cancel(self, body):
        async def main():
            task = asyncio.ensure_future(self.decorate(body)())
            await asyncio.sleep(0.005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        self.loop.run_until_complete(main())


async def sleep_long():
    await asyncio.sleep(60)


def parallel(subject):
    guarded = subject.decorate(lambda: time.sleep(0.2))
    threads = [threading.Thread(target=guarded) for _ in range(6)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return "ok" if time.monotonic() - started < 0.9 else "SERIALISED"


def half_open_threads(subject):
    subject.trip_and_wait()
    entered = []

    def body():
        entered.append(1)
        time.sleep(0.1)

    guarded = subject.decorate(body)
    threads = [threading.Thread(target=swallow, args=(guarded,)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return "ok" if len(entered) == 1 else f"{len(entered)} of 20"


def half_open_tasks(subject):
    subject.trip_and_wait()
    entered = []

    async def body():
        entered.append(1)
        await asyncio.sleep(0.05)

    subject.gather(body, 20)
    return "ok" if len(entered) == 1 else f"{len(entered)} of 20"


def cancelled(subject):
    for _ in range(6):
        subject.cancel(sleep_long)
    return "OPENS" if subject.is_open() else "ok"


def interrupted(subject):
    subject.trip(KeyboardInterrupt)
    return "OPENS" if subject.is_open() else "ok"


def cancelled_probe(subject):
    subject.trip_and_wait()
    subject.cancel(sleep_long)
    return "STUCK" if subject.is_open() else "ok"


def stale_success(subject):
    async def slow():
        await asyncio.sleep(0.05)

    async def bad():
        raise ConnectionError

    async def main():
        task = asyncio.ensure_future(subject.decorate(slow)())
        await asyncio.sleep(0.005)
        for _ in range(6):
            await swallow_async(subject.decorate(bad))
        await asyncio.gather(task, return_exceptions=True)

    subject.loop.run_until_complete(main())
    return "ok" if subject.is_open() else "CLOSES"


def generator(subject):
    def body():
        yield 1
        raise ConnectionError

    try:
        guarded = subject.decorate(body)
    except TypeError:
        return "ok (refused)"
    for _ in range(6):
        swallow(lambda: list(guarded()))
    return "ok" if subject.is_open() else "NOT GUARDED"


def async_generator(subject):
    async def body():
        yield 1
        raise ConnectionError

    try:
        guarded = subject.decorate(body)
    except TypeError:
        return "ok (refused)"

    async def consume():
        async for _ in guarded():
            pass

    error = None
    for _ in range(6):
        error = subject.loop.run_until_complete(swallow_async(consume))
    if isinstance(error, TypeError):
        return "TypeError on use"
    return "ok" if subject.is_open() else "NOT GUARDED"


# The probe, and whether it uses async functions.
PROBES = {
    "6 slow calls in threads run in parallel": (parallel, False),
    "20 threads at half-open, 1 probe": (half_open_threads, False),
    "20 tasks at half-open, 1 probe": (half_open_tasks, True),
    "CancelledError x6 is not counted": (cancelled, True),
    "KeyboardInterrupt x5 is not counted": (interrupted, False),
    "a cancelled probe frees its slot": (cancelled_probe, True),
    "a success from before the trip changes nothing": (stale_success, True),
    "failures in a generator's body are seen": (generator, False),
    "failures in an async generator's body are seen": (async_generator, True),
}


def answer(title, make):
    probe, asynchronous = PROBES[title]
    if make in (SYNC_ONLY if asynchronous else ASYNC_ONLY):
        return "-"
    loop = asyncio.new_event_loop()
    try:
        return probe(Subject(make, loop, asynchronous=asynchronous))
    except ImportError:
        return "-"
    except Exception as error:
        return type(error).__name__
    finally:
        loop.close()


# --- what an exhausted retry keeps alive ---------------------------------------------


def retry_ours():
    from maestro_resilience import Retry

    return Retry(attempts=2, wait=0)


def retry_tenacity():
    import tenacity

    return tenacity.retry(stop=tenacity.stop_after_attempt(2), reraise=True)


def retry_stamina():
    import stamina

    return stamina.retry(on=Exception, attempts=2, wait_initial=0, wait_jitter=0)


def retry_backoff():
    import backoff

    return backoff.on_exception(backoff.constant, Exception, max_tries=2, interval=0)


def retry_pyresilience():
    import pyresilience

    config = pyresilience.RetryConfig(max_attempts=2, delay=0.001)
    return pyresilience.resilient(retry=config)


def retry_grit():
    import grit

    return grit.retry(tries=2, wait=grit.constant(0))


def retry_nopanic():
    import nopanic

    return nopanic.retry(2, on=Exception, backoff=0.001)


class Payload:
    pass


def kept_alive(decorate):
    """Return how many of the failing calls' own objects outlive the exception."""
    alive = []

    def body():
        payload = Payload()
        alive.append(weakref.ref(payload))
        raise ConnectionError

    guarded = decorate(body)
    gc.collect()
    gc.disable()
    try:
        swallow(guarded)
        return f"{sum(ref() is not None for ref in alive)} of {len(alive)}"
    finally:
        gc.enable()


# --- 25 hung calls under a sync timeout ------------------------------------------------

CONTEXT = contextvars.ContextVar("probe", default="lost")
HUNG = threading.Event()


def timeout_ours():
    from maestro_resilience import Timeout

    return Timeout(0.02)


def timeout_interlock():
    import interlock

    pipeline = interlock.Pipeline.builder().timeout(0.02).build()
    return lambda fn: lambda: pipeline.call(fn)


def timeout_nopanic():
    import nopanic

    return nopanic.timeout(0.02)


def timeout_pyresilience():
    import pyresilience

    config = pyresilience.TimeoutConfig(seconds=0.02)
    return pyresilience.resilient(timeout=config)


def timeout_grit():
    import grit

    return grit.timeout(0.02)


def hung_calls(decorate):
    """Return how many threads 25 hung calls leave, and whether context is seen."""
    CONTEXT.set("kept")
    seen = []
    swallow(decorate(lambda: seen.append(CONTEXT.get())))
    before = threading.active_count()
    guarded = decorate(lambda: HUNG.wait(30))
    for _ in range(25):
        swallow(guarded)
    more = threading.active_count() - before
    HUNG.set()
    return f"+{more} threads, context {seen[0] if seen else 'lost'}"


def print_row(title, cells):
    print(f"| {title} | " + " | ".join(cells) + " |", flush=True)


def print_answers(title, makers, look):
    """Print one small table: a library each, and what `look` finds."""
    print(f"\n| {title} | |\n|---|---|")
    for make in makers:
        HUNG.clear()
        try:
            found = look(make())
        except ImportError:
            found = "-"
        except Exception as error:
            found = type(error).__name__
        print_row(make.__name__.partition("_")[2], [found])


def main():
    names = [make.__name__ for make in LIBRARIES]
    print("| probe | " + " | ".join(names) + " |")
    print("|---" * (len(names) + 1) + "|")
    for title in PROBES:
        print_row(title, [answer(title, make) for make in LIBRARIES])
    retries = [
        retry_ours,
        retry_tenacity,
        retry_stamina,
        retry_backoff,
        retry_pyresilience,
        retry_grit,
        retry_nopanic,
    ]
    print_answers("objects alive after an exhausted retry", retries, kept_alive)
    timeouts = [
        timeout_ours,
        timeout_interlock,
        timeout_nopanic,
        timeout_pyresilience,
        timeout_grit,
    ]
    print_answers("25 hung sync calls", timeouts, hung_calls)


if __name__ == "__main__":
    main()
