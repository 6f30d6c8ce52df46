"""Daemon threads that run a sync call for somebody who waits only so long.

A thread is reused for one call after the other, which costs about a fifth of
starting one. It ends after some idle seconds. Daemon threads do not keep the
program alive; there is no pool to shut down.
"""

from __future__ import annotations

import threading
from contextvars import copy_context

from maestro_resilience._runtime import renew_after_fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

IDLE_S = 5.0


class Job:
    """One call: what to run, and how it ended."""

    __slots__ = (
        "_lock",
        "args",
        "begun",
        "context",
        "done",
        "dropped",
        "error",
        "finished",
        "fn",
        "kwargs",
        "late",
        "result",
    )

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.fn = fn
        self.args = args
        self.kwargs = kwargs
        self.context = copy_context()
        self.done = threading.Lock()  # taken until the call has ended
        self.done.acquire()
        self._lock = threading.Lock()
        self.begun = False
        self.dropped = False
        self.finished = False
        self.result: Any = None
        self.error: BaseException | None = None
        self.late: Callable[[Job], object] | None = None

    def run(self) -> None:
        """Run the call in the context of the one who asked for it."""
        with self._lock:
            if self.dropped:
                return
            self.begun = True
        try:
            self.result = self.context.run(self.fn, *self.args, **self.kwargs)
        except BaseException as error:
            self.error = error
        with self._lock:  # guards `finished` against `late`
            self.finished = True
            late = self.late
        self.done.release()
        if late is not None:
            late(self)

    def abandon(self, late: Callable[[Job], object]) -> bool:
        """Stop waiting: `late` is called at the end.

        False when the call has just ended, and when it had not begun: then it is
        dropped and never will.
        """
        with self._lock:
            self.dropped = not self.begun
            if self.finished or self.dropped:
                return False
            self.late = late
            return True

    def outcome(self) -> Any:
        """Return the result or raise the error."""
        error, self.error = self.error, None
        if error is None:
            return self.result
        try:
            raise error
        finally:
            del error  # error -> traceback -> this frame -> error


class _Worker:
    __slots__ = ("_pool", "job", "wake")

    def __init__(self, pool: Workers) -> None:
        self._pool = pool
        self.job: Job | None = None
        self.wake = threading.Lock()
        self.wake.acquire()

    def loop(self) -> None:
        while True:
            if not self.wake.acquire(timeout=IDLE_S):
                if self._pool.retire(self):
                    return
                self.wake.acquire()  # a job came at the last moment
            job, self.job = self.job, None
            if job is not None:
                job.run()
            del job  # an idle worker must not keep the caller's data alive
            self._pool.idle.append(self)


class Workers:
    """The idle threads of this process."""

    def __init__(self) -> None:
        self.idle: list[_Worker] = []
        renew_after_fork(self)

    def _after_fork(self) -> None:
        self.idle = []  # the threads stayed behind in the parent

    def start(self, job: Job) -> None:
        """Run a job on an idle thread, or on a new one."""
        try:
            worker = self.idle.pop()  # atomic; the list is a stack
        except IndexError:
            worker = _Worker(self)
            worker.job = job
            worker.wake.release()
            threading.Thread(
                target=worker.loop, name="maestro-resilience", daemon=True
            ).start()
        else:
            worker.job = job
            worker.wake.release()

    def retire(self, worker: _Worker) -> bool:
        """Take an idle thread out; False when it has just been given a job."""
        try:
            self.idle.remove(worker)
        except ValueError:
            return False
        return True


WORKERS = Workers()
