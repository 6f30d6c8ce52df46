"""Cost of guarding a call that does nothing, ours beside the peers, interleaved.

python bench_pipeline.py [--short] [--json FILE]

Every round measures the CPU time of every candidate once, in shuffled order: the
median over the rounds, and the median and spread of the ratio within a round.
Sync stacks: retry, breaker, bulkhead, deadline, fallback; no thread timeout, which
would drown the rest. Async stacks have a real timeout.
"""

import argparse
import asyncio
import importlib
import json
import os
import platform
import random
import resource
import statistics
import subprocess
import sys
import threading
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

TARGETS = {
    ("pipeline, sync", "nopanic"): 1 / 4,
    ("pipeline, sync", "tenacity+pybreaker+semaphore"): 1 / 20,
    ("pipeline, async", "nopanic"): 1 / 5,
    ("pipeline, async", "tenacity+circuitbreaker+semaphore"): 1 / 20,
    ("open circuit, rejection", "circuitbreaker"): 1.0,
    ("import, CPU", "tenacity"): 1 / 2,
}
PEERS = [
    "nopanic",
    "interlock-cb",
    "pyresilience",
    "pybreaker",
    "tenacity",
    "stamina",
    "hyx",
    "aiobreaker",
    "circuitbreaker",
]


def f(x):
    return x


async def af(x):
    return x


def bad(x):
    raise ConnectionError


# --- the candidates: functions that return a guarded function, or raise ImportError ---


def ours(timeout_mode):
    from maestro_resilience import (
        Bulkhead,
        CircuitBreaker,
        CircuitOpen,
        Fallback,
        Pipeline,
        Retry,
        Timeout,
    )

    return Pipeline(
        Fallback(lambda e: None, on=CircuitOpen),
        Retry(attempts=3, on=ConnectionError),
        CircuitBreaker("bench", slow_call=2.0),
        Bulkhead(20, wait=0.5),
        Timeout(2.0, sync=timeout_mode),
    )


def nopanic_stack(*, timed):
    import nopanic as n

    parts = [
        n.fallback(lambda e: None, on=n.CircuitOpen),
        n.retry(3, on=ConnectionError),
        n.circuit_breaker(slow_call_duration=2.0),
        n.bulkhead(20, max_wait=0.5),
    ]
    return n.compose(*parts, *([n.timeout(2.0)] if timed else []))


def nopanic_sync():
    import nopanic as n

    guarded = nopanic_stack(timed=False)(f)

    def call(x):
        with n.deadline(2.0):
            return guarded(x)

    return call


def pyresilience_stack(*, timed):
    import pyresilience as p

    extra = {"timeout": p.TimeoutConfig(seconds=2.0)} if timed else {}
    return p.resilient(
        retry=p.RetryConfig(max_attempts=3, retry_on=(ConnectionError,)),
        circuit_breaker=p.CircuitBreakerConfig(sliding_window_size=100),
        bulkhead=p.BulkheadConfig(max_concurrent=20, max_wait=0.5),
        fallback=p.FallbackConfig(handler=lambda e: None),
        **extra,
    )


def interlock_stack(*, timed):
    import interlock as i

    builder = i.Pipeline.builder().fallback(lambda e: None, on=(i.CircuitOpenError,))
    builder = builder.retry(attempts=3)
    builder = builder.circuit_breaker(i.CircuitBreaker(name="b"))
    builder = builder.bulkhead(20, max_wait=0.5)
    pipeline = (builder.timeout(2.0) if timed else builder).build()
    body = af if timed else f
    return lambda x: pipeline.call(body, x)


def tenacity_pybreaker():
    import pybreaker
    import tenacity

    breaker, semaphore = pybreaker.CircuitBreaker(), threading.BoundedSemaphore(20)

    @tenacity.retry(
        stop=tenacity.stop_after_attempt(3),
        retry=tenacity.retry_if_exception_type(ConnectionError),
    )
    @breaker
    def call(x):
        with semaphore:
            return f(x)

    return call


def tenacity_circuitbreaker():
    import circuitbreaker
    import tenacity

    semaphore = asyncio.Semaphore(20)

    @tenacity.retry(
        stop=tenacity.stop_after_attempt(3),
        retry=tenacity.retry_if_exception_type(ConnectionError),
    )
    @circuitbreaker.CircuitBreaker()
    async def call(x):
        async with semaphore:
            async with asyncio.timeout(2.0):
                return await af(x)

    return call


def stamina_aiobreaker():
    import aiobreaker
    import stamina

    semaphore = asyncio.Semaphore(20)

    @stamina.retry(on=ConnectionError, attempts=3)
    @aiobreaker.CircuitBreaker()
    async def call(x):
        async with semaphore:
            async with asyncio.timeout(2.0):
                return await af(x)

    return call


def hyx_stack():
    from hyx.bulkhead import bulkhead
    from hyx.circuitbreaker import consecutive_breaker
    from hyx.fallback import fallback
    from hyx.retry import retry
    from hyx.timeout import timeout

    async def nothing(*args, **kwargs):
        return None

    call = timeout(max_delay_secs=2.0)(af)
    call = bulkhead(max_concurrency=20, max_capacity=40)(call)
    call = consecutive_breaker(exceptions=ConnectionError)(call)
    call = retry(on=ConnectionError, attempts=3)(call)
    return fallback(nothing, on=KeyError)(call)


def rejecting(decorate):
    guarded = decorate(bad)
    for _ in range(40):
        try:
            guarded(1)
        except Exception:
            pass

    def call(x):
        try:
            guarded(x)
        except ConnectionError:
            raise SystemExit("the circuit is not open") from None
        except Exception:
            pass

    return call


def reject_ours():
    from maestro_resilience import CircuitBreaker

    return rejecting(CircuitBreaker("bench"))


def reject_circuitbreaker():
    import circuitbreaker

    return rejecting(circuitbreaker.CircuitBreaker())


def reject_pybreaker():
    import pybreaker

    return rejecting(pybreaker.CircuitBreaker())


def reject_nopanic():
    import nopanic

    return rejecting(nopanic.circuit_breaker())


SYNC = {
    "ours": lambda: ours("deadline")(f),
    "nopanic": nopanic_sync,
    "interlock-cb": lambda: interlock_stack(timed=False),
    "pyresilience": lambda: pyresilience_stack(timed=False)(f),
    "tenacity+pybreaker+semaphore": tenacity_pybreaker,
}
ASYNC = {
    "ours": lambda: ours("thread")(af),
    "nopanic": lambda: nopanic_stack(timed=True)(af),
    "interlock-cb": lambda: interlock_stack(timed=True),
    "pyresilience": lambda: pyresilience_stack(timed=True)(af),
    "tenacity+circuitbreaker+semaphore": tenacity_circuitbreaker,
    "stamina+aiobreaker+semaphore": stamina_aiobreaker,
    "hyx": hyx_stack,
}
REJECT = {
    "ours": reject_ours,
    "circuitbreaker": reject_circuitbreaker,
    "pybreaker": reject_pybreaker,
    "nopanic": reject_nopanic,
}


def built(candidates):
    """Return what could be built and what could not, with the reason."""
    good, missing = {}, {}
    for name, build in candidates.items():
        try:
            good[name] = build()
        except Exception as error:
            missing[name] = f"{type(error).__name__}: {error}"
    return good, missing


def sync_sample(call, calls):
    started = time.process_time()
    for _ in range(calls):
        call(1)
    return (time.process_time() - started) / calls * 1e6


async def async_sample(call, calls):
    started = time.process_time()
    for _ in range(calls):
        await call(1)
    return (time.process_time() - started) / calls * 1e6


def rounds_of(good, count, calls):
    table = {name: [] for name in good}
    for call in good.values():
        sync_sample(call, 50)
    for _ in range(count):
        for name in random.sample(list(good), len(good)):
            table[name].append(sync_sample(good[name], calls))
    return table


def async_rounds(candidates, count, calls):
    async def main():
        good, missing = built(candidates)
        for name, call in list(good.items()):
            try:
                await async_sample(call, 50)
            except Exception as error:
                missing[name] = f"{type(error).__name__}: {error}"
                del good[name]
        table = {name: [] for name in good}
        for _ in range(count):
            for name in random.sample(list(good), len(good)):
                table[name].append(await async_sample(good[name], calls))
        return table, missing

    return asyncio.run(main())


def cpu_ms(code):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent * 1e3


IMPORTS = {
    "ours": "from maestro_resilience import CircuitBreaker",
    "ours, with the first Retry()": "from maestro_resilience import Retry; Retry()",
    "tenacity": "import tenacity",
    "nopanic": "import nopanic",
    "pybreaker": "import pybreaker",
}


def import_rounds(count):
    names = {}
    missing = {}
    for name, code in IMPORTS.items():
        module = code.split()[1].rstrip(";")
        try:
            importlib.import_module(module)
            names[name] = code
        except ImportError as error:
            missing[name] = f"ImportError: {error}"
    table = {name: [] for name in names}
    for _ in range(count):
        bare = cpu_ms("pass")
        for name, code in names.items():
            table[name].append(max(0.1, cpu_ms(code) - bare))
    return table, missing


def rows(work, unit, table, missing):
    mine = table["ours"]
    for peer, values in table.items():
        if peer == "ours":
            continue
        ratios = [m / p for m, p in zip(mine, values, strict=True)]
        ratio = statistics.median(ratios)
        target = TARGETS.get((work, peer))
        yield {
            "work": work,
            "unit": unit,
            "peer": peer,
            "peer_value": statistics.median(values),
            "ours": statistics.median(mine),
            "ratio": ratio,
            "spread": statistics.pstdev(ratios),
            "target": target,
            "met": None if target is None else ratio <= target,
            "direction": "lower",
        }
    for peer, reason in missing.items():
        print(f"{work}: {peer} not installed or not usable here ({reason})")


def versions():
    found = {}
    for name in ["maestro-resilience", *PEERS]:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    count, calls = (15, 300) if args.short else (60, 600)
    result = []
    good, missing = built(SYNC)
    result += rows("pipeline, sync", "us", rounds_of(good, count, calls), missing)
    result += rows("pipeline, async", "us", *async_rounds(ASYNC, count, calls))
    good, missing = built(REJECT)
    rejected = rounds_of(good, count, calls)
    result += rows("open circuit, rejection", "us", rejected, missing)
    result += rows("import, CPU", "ms", *import_rounds(5 if args.short else 11))
    for r in result:
        target = (
            ""
            if r["target"] is None
            else (f"  target {r['target']:.3f} {'met' if r['met'] else 'MISSED'}")
        )
        print(
            f"{r['work']:24} {r['peer']:34} {r['peer_value']:8.2f} {r['unit']}  "
            f"ours {r['ours']:6.2f}  ratio {r['ratio']:.3f}{target}"
        )
    if args.json:
        machine = {
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
            "system": platform.platform(),
        }
        document = {
            "benchmark": "pipeline",
            "rows": result,
            "versions": versions(),
            "machine": machine,
        }
        args.json.write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
