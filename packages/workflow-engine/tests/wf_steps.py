"""Steps and workflows that tests import by name, here and in other processes."""

import os
import signal
import sys
import time
from pathlib import Path

from maestro_workflow_engine import Retry, Workflow, gate, step, workflow


def mark(folder, name):
    """Leave a trace of one execution that survives kill -9."""
    fd = os.open(Path(folder) / "executions", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.write(fd, f"{name}\n".encode())
    os.close(fd)


@step
def traced(folder, name, pause, *before, ctx):
    mark(folder, ctx.step)
    time.sleep(pause)
    return name


@step
def pid_of(result):
    return os.getpid()


@step(compensate=pid_of)
def remember_pid(before):
    return os.getpid()


@step(once=True)
def traced_once(folder, name, pause, *before, ctx):
    mark(folder, ctx.step)
    time.sleep(pause)
    return name


@step
def held(folder, *before, ctx):
    """Do not end while there is a file `hold`."""
    mark(folder, ctx.step)
    while Path(folder, "hold").exists():
        time.sleep(0.005)


@workflow
def layered(
    folder: str,
    steps: int = 100,
    width: int = 10,
    pause: float = 0.001,
    hold: bool = False,
):
    """`steps` steps in levels of `width`, each needing two of the level before."""
    before = []
    for start in range(0, steps, width):
        level = []
        for i in range(start, min(start + width, steps)):
            two = (
                [before[i % len(before)], before[(i + 1) % len(before)]]
                if before
                else []
            )
            level.append(traced(folder, i, pause, *two))
        before = level
    if hold:
        held(folder, *before)


@workflow
def with_once(folder: str, pause: float = 5.0):
    first = traced(folder, "first", 0.0)
    traced_once(folder, "pay", pause, first)


@step
def double(x):
    return 2 * x


@step
def add(x, y):
    return x + y


@step
def numbers(n):
    return list(range(n))


@step
def total(values):
    return sum(values)


@step
def fails(*args):
    raise ValueError("broken on purpose")


@workflow
def failing(n: int = 1):
    for _ in range(n):
        fails()


@step(retry=Retry(3))
def third_time(ctx):
    if ctx.attempt < 3:
        raise ValueError(f"attempt {ctx.attempt}")
    return ctx.idempotency_key


@step
async def aiodouble(x):
    import asyncio

    await asyncio.sleep(0)
    return 2 * x


@step(timeout=0.2)
def sleeps(length, ctx):
    end = time.monotonic() + length
    while time.monotonic() < end and not ctx.cancelled:
        time.sleep(0.01)
    return "slept"


@step(timeout=0.2)
async def aiosleeps(length):
    import asyncio

    await asyncio.sleep(length)


@step
def suicide(*args):
    os.kill(os.getpid(), signal.SIGKILL)


@step
def suicide_once_in(folder, ctx):
    """Kill the worker in the first attempt only."""
    mark(folder, "suicide")
    if ctx.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return ctx.attempt


@workflow
def everything(n: int = 4):
    first = double(1)
    second = add(first, 5)
    many = numbers(n)
    doubled = double.options(name="each").map(many)
    chunked = double.options(name="chunked").map(many, chunk=3)
    aio = aiodouble(second)
    third = third_time()
    total([first, aio])
    total.options(name="sum")(doubled)
    del chunked, third


@workflow
def gated(wanted: bool = True):
    rows = double(21)
    ok = gate("approve", when=wanted)
    add(rows, 0, after=[ok])


def build(name="built"):
    return Workflow(name)


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


def raise_mute():
    raise Mute


def raise_exit():
    sys.exit(3)


def raise_interrupt():
    raise KeyboardInterrupt
