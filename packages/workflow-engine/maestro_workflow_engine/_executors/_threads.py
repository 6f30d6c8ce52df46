"""Run steps on threads of this process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from time import time
from typing import final

from .._cause import as_failure  # noqa: TID252
from .._model import Attempt, Outcome  # noqa: TID252 - a private subpackage
from ..errors import StepCancelledError  # noqa: TID252
from ._inline import run_here

_Done = Callable[[Outcome], None]
_Job = tuple[Attempt, _Done]


@final
class ThreadExecutor:
    """Threads that take attempts from one queue.

    A thread cannot be stopped from outside. A cancelled attempt is reported at once
    and its thread replaced; the function goes on until it returns or looks at
    `ctx.cancelled`, and what it returns then is dropped.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()  # guards _begun
        # None for an attempt that waits, else when it began, and where.
        self._begun: dict[Attempt, tuple[float, str] | None] = {}
        self._done: _Done | None = None
        self._threads: list[threading.Thread] = []
        self._named = 0

    def start(self, attempts: Sequence[Attempt], done: _Done) -> None:
        """Queue the attempts; threads are made when first needed."""
        self._done = done
        for _ in range(min(self.slots - self._named, len(attempts))):
            self._spawn()
        put, begun = self._jobs.put, self._begun
        for attempt in attempts:
            begun[attempt] = None  # one step of the interpreter: needs no lock
            put((attempt, done))

    def _spawn(self) -> None:
        name = f"thread-{self._named}"
        self._named += 1
        # Daemon: a step that never returns must not keep the program alive.
        thread = threading.Thread(
            target=self._work, args=(name,), name=name, daemon=True
        )
        self._threads = [t for t in self._threads if t.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _work(self, name: str) -> None:
        get, lock, begun = self._jobs.get, self._lock, self._begun
        while (job := get()) is not None:
            attempt, done = job
            with lock:
                if begun.get(attempt, "") is None:
                    begun[attempt] = (time(), name)
                else:
                    continue  # cancelled while it waited
            try:
                outcome = run_here(attempt, name)
            except BaseException as error:
                # Nobody interrupts this thread: the step itself raised it.
                failed, now = as_failure(error), time()
                outcome = Outcome(attempt, None, failed, now, now, name)
            with lock:
                if begun.pop(attempt, None) is None:
                    return  # cancelled: this thread has been replaced
            done(outcome)

    def cancel(self, attempt: Attempt) -> None:
        """Report the attempt as stopped, and let another thread take its place."""
        with self._lock:
            if attempt not in self._begun:
                return  # it is over, and its outcome on the way
            began = self._begun.pop(attempt)
        if attempt.flag is not None:
            attempt.flag.append(True)
        started, name = began or (time(), "thread")
        if began:
            self._spawn()
        error = StepCancelledError(attempt.step, attempt.number, "stopped")
        assert self._done is not None
        self._done(Outcome(attempt, None, error, started, time(), name))

    def close(self) -> None:
        """Let the threads end after what they are doing; does not wait for steps."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(0.2)
