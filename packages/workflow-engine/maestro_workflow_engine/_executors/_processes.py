"""Run steps in worker processes that are watched, and replaced when they die."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from time import time
from typing import Any, final

from .._cause import RemoteTraceback, as_failure, said, traceback_of  # noqa: TID252
from .._model import Attempt, Outcome  # noqa: TID252 - private subpackage
from ..errors import WorkerLostError  # noqa: TID252

_Done = Callable[[Outcome], None]
_Answer = tuple[bool, Any, float, float, str]  # the last: where it raised


@final
class _Worker:
    """One process, its pipe, and the attempt that it works on."""

    __slots__ = ("attempt", "began", "doomed", "pipe", "process")

    def __init__(self, number: int) -> None:
        # Spawned, not forked: this process has threads, and forking those is unsafe.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs,), name=f"process-{number}", daemon=True
        )
        self.process.start()
        theirs.close()
        self.attempt: Attempt | None = None
        self.began = 0.0
        self.doomed = False  # killed, or found dead: gets no further attempt


@final
class ProcessExecutor:
    """Worker processes, one attempt each at a time.

    Functions and arguments travel by pickle, functions by name. A worker that dies
    takes one attempt with it, which is reported as lost, and is replaced.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._lock = threading.Lock()  # guards everything below
        self._workers: list[_Worker] = []
        self._queue: list[Attempt] = []
        self._done: _Done | None = None
        self._closing = False
        self._made = 0
        self._wake_read, self._wake_write = multiprocessing.Pipe(duplex=False)
        self._thread = threading.Thread(
            target=self._watch, name="maestro-processes", daemon=True
        )
        self._thread.start()

    def start(self, attempts: Sequence[Attempt], done: _Done) -> None:
        """Give the attempts to free workers; queue the rest."""
        with self._lock:
            self._done = done
            self._queue += attempts
            while len(self._workers) < self.slots and len(self._queue) > sum(
                w.attempt is None for w in self._workers
            ):
                self._workers.append(_Worker(self._made))
                self._made += 1
                self._wake()
            self._feed()

    def _wake(self) -> None:
        self._wake_write.send_bytes(b"x")

    def _feed(self) -> None:
        """Send queued attempts to idle workers. Call with the lock held."""
        for worker in self._workers:
            while self._queue and worker.attempt is None and not worker.doomed:
                attempt = self._queue.pop(0)
                worker.attempt, worker.began = attempt, time()
                try:
                    worker.pipe.send_bytes(_pack(attempt))
                except (BrokenPipeError, ConnectionResetError):
                    # It never began: the worker that replaces this one gets it.
                    worker.attempt, worker.doomed = None, True
                    self._queue.insert(0, attempt)
                except Exception as error:
                    worker.attempt = None
                    self._report(attempt, None, _explain(attempt, error), time())

    def _report(
        self, attempt: Attempt, value: Any, error: BaseException | None,
        started: float, ended: float | None = None, worker: str = "process",
        lost: bool = False,  # noqa: FBT001, FBT002 - private
    ) -> None:  # fmt: skip
        assert self._done is not None
        self._done(
            Outcome(attempt, value, error, started, ended or time(), worker, lost)
        )

    def _watch(self) -> None:
        while True:
            with self._lock:
                pipes = {worker.pipe: worker for worker in self._workers}
            for ready in wait([*pipes, self._wake_read]):
                if ready is self._wake_read:
                    self._wake_read.recv_bytes()
                    continue
                self._hear(pipes[ready])  # type: ignore[index] # all are connections
            with self._lock:
                if self._closing and not self._workers:
                    return
                self._feed()

    def _hear(self, worker: _Worker) -> None:
        try:
            body = worker.pipe.recv_bytes()
        except (EOFError, OSError):
            self._bury(worker)
            return
        name = worker.process.name
        attempt = worker.attempt
        assert attempt is not None
        try:
            good, value, started, ended, text = pickle.loads(body)  # noqa: S301 - our own worker
        except Exception as error:
            good, value, started, ended, text = False, error, worker.began, time(), ""
        if text:
            value.__cause__ = RemoteTraceback(text)
        with self._lock:
            worker.attempt = None
            self._feed()
        if good:
            self._report(attempt, value, None, started, ended, name)
        else:
            self._report(attempt, None, value, started, ended, name)

    def _bury(self, worker: _Worker) -> None:
        """Collect a dead worker, report what it took along, and replace it."""
        worker.process.join()
        worker.pipe.close()
        with self._lock:
            self._workers.remove(worker)
            attempt = worker.attempt
            problem = self._replace(attempt)
            stranded = []
            if problem is not None and not self._workers:
                stranded, self._queue = self._queue, []
        code = worker.process.exitcode
        worker.process.close()
        if attempt is not None:
            error = WorkerLostError(
                attempt.step,
                attempt.number,
                f"the process that ran step {attempt.step!r} died (exit code {code})",
            )
            self._report(
                attempt,
                None,
                error,
                worker.began,
                worker=worker.process.name,
                lost=True,
            )
        for left in stranded:  # nobody is there to run them
            told = WorkerLostError(
                left.step, left.number, f"no process can be started: {problem}"
            )
            self._report(left, None, told, time(), lost=True)

    def _replace(self, attempt: Attempt | None) -> OSError | None:
        """Start a worker for one that died with `attempt`, where there is work."""
        if self._closing or not (self._queue or attempt is not None):
            return None
        try:
            self._workers.append(_Worker(self._made))
        except OSError as error:  # no memory, or too many processes
            return error
        self._made += 1
        return None

    def cancel(self, attempt: Attempt) -> None:
        """Kill the worker that runs the attempt; a queued one just never starts."""
        with self._lock:
            for worker in self._workers:
                if worker.attempt is attempt:
                    worker.doomed = True
                    worker.process.kill()
                    return
            if attempt not in self._queue:
                return
            self._queue.remove(attempt)
        error = WorkerLostError(attempt.step, attempt.number, "stopped before it began")
        self._report(attempt, None, error, time(), lost=True)

    def close(self) -> None:
        """Kill the workers and collect them."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
            self._queue.clear()
            for worker in self._workers:
                worker.process.kill()
            self._wake()
        self._thread.join()
        self._wake_read.close()
        self._wake_write.close()


def _pack(attempt: Attempt) -> bytes:
    spec = attempt.spec
    kwargs = attempt.kwargs
    if spec.wants_ctx:  # the flag in it is a list of this process
        kwargs = kwargs | {"ctx": attempt.context()}
    # By name first: a decorated function cannot be found by pickle itself.
    target = spec.ref if spec.ref is not None else spec.target
    return pickle.dumps((target, tuple(attempt.args), kwargs, attempt.chunked))


def _explain(attempt: Attempt, error: Exception) -> Exception:
    return TypeError(
        f"step {attempt.step!r} cannot be sent to a process ({error}); its function "
        "must be at the top of a module, its arguments must be picklable"
    )


def find(ref: str) -> Any:
    """Import what `module:name` stands for, and unwrap a step.

    Raises:
        LookupError: there is no such module or name.
    """
    import importlib

    module, _, path = ref.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise LookupError(f"{ref!r} cannot be imported: {error}") from error
    spec = getattr(found, "spec", None)
    return getattr(spec, "target", None) or found


def _serve(pipe: Connection) -> None:
    """Work in the child process until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ^C is for the parent to handle
    parent = multiprocessing.parent_process()
    if parent is not None:
        # A parent killed with -9 must not leave a step running behind its back.
        threading.Thread(target=_die_with, args=(parent.sentinel,), daemon=True).start()
    while True:
        try:
            body = pipe.recv_bytes()
        except (EOFError, OSError):
            return
        started = time()
        try:
            target, args, kwargs, chunked = pickle.loads(body)  # noqa: S301 - our parent
            call = find(target) if isinstance(target, str) else target
            if chunked:
                value: Any = [call(item, **kwargs) for item in args[0]]
            else:
                value = call(*args, **kwargs)
            answer: _Answer = (True, value, started, time(), "")
        except BaseException as error:
            # sys.exit() too: it would look as if the worker had died.
            failed = as_failure(error)
            answer = (False, failed, started, time(), traceback_of(failed))
        try:
            pipe.send_bytes(_dump(answer))
        except (BrokenPipeError, OSError):
            return


def _dump(answer: _Answer) -> bytes:
    good, value, started, ended, text = answer
    try:
        body = pickle.dumps(answer)
        if not good:
            pickle.loads(body)  # noqa: S301 - some exceptions pickle but do not load
    except Exception as error:
        told = TypeError(f"the result cannot be sent back ({said(error)})")
        problem: Exception = told if good else RuntimeError(said(value))
        return pickle.dumps((False, problem, started, ended, text))
    return body


def _die_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)
