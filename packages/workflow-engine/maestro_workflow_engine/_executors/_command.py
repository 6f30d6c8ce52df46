"""Run programs as steps: each in a process group of its own, none left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Sequence
from time import time
from typing import Any, final

from .._model import Attempt, Outcome  # noqa: TID252 - a private subpackage
from ..errors import CommandFailedError, StepCancelledError  # noqa: TID252

_KEPT = 4_000  # characters of output that an error carries
_GRACE = 3.0  # seconds between "please stop" and "stop"


@final
class CommandExecutor:
    """A thread and a process group for each running command.

    A stopped command's whole group gets SIGTERM, and SIGKILL three seconds later.
    The process is always waited for: no zombies.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._lock = threading.Lock()  # guards _running and _stopped
        self._running: dict[Attempt, subprocess.Popen[str]] = {}
        self._stopped: set[Attempt] = set()
        self._threads: set[threading.Thread] = set()

    def start(
        self, attempts: Sequence[Attempt], done: Callable[[Outcome], None]
    ) -> None:
        """Start a thread for each command."""
        for attempt in attempts:
            thread = threading.Thread(
                target=self._supervise, args=(attempt, done), name=attempt.step
            )
            self._threads.add(thread)
            thread.start()

    def _supervise(self, attempt: Attempt, done: Callable[[Outcome], None]) -> None:
        started = time()
        error: Exception | None = None
        value: Any = None
        worker = "command"
        try:
            with self._lock:
                if attempt in self._stopped:
                    raise StepCancelledError(attempt.step, attempt.number, "stopped")
                process = _spawn(attempt)
                self._running[attempt] = process
            worker = f"pid-{process.pid}"
            output, complaints = process.communicate()
            with self._lock:
                del self._running[attempt]
                stopped = attempt in self._stopped
            _sweep(process)
            if stopped:
                raise StepCancelledError(attempt.step, attempt.number, "stopped")
            value = _result(attempt, process.returncode, output, complaints)
        except Exception as caught:
            error = caught
        finally:
            with self._lock:
                self._stopped.discard(attempt)
            self._threads.discard(threading.current_thread())
        done(Outcome(attempt, value, error, started, time(), worker))

    def cancel(self, attempt: Attempt) -> None:
        """Ask the command's group to stop, and make it stop a little later."""
        with self._lock:
            self._stopped.add(attempt)
            process = self._running.get(attempt)
            if process is None:
                return
            _signal(process, signal.SIGTERM)
        killer = threading.Timer(_GRACE, self._kill, (attempt, process))
        killer.daemon = True
        killer.start()

    def _kill(self, attempt: Attempt, process: subprocess.Popen[str]) -> None:
        with self._lock:
            if self._running.get(attempt) is process:
                _signal(process, signal.SIGKILL)

    def close(self) -> None:
        """Stop whatever still runs and wait for it."""
        for attempt in list(self._running):
            self.cancel(attempt)
        for thread in list(self._threads):
            thread.join()


def _spawn(attempt: Attempt) -> subprocess.Popen[str]:
    spec = attempt.spec
    argv = [str(part) for part in attempt.args]
    environment = dict(os.environ)
    environment.update({key: str(value) for key, value in (spec.env or {}).items()})
    environment["MAESTRO_IDEMPOTENCY_KEY"] = attempt.idempotency_key
    environment["MAESTRO_ATTEMPT"] = str(attempt.number)
    try:
        return subprocess.Popen(
            argv,
            cwd=spec.cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,  # a warning must not become part of a result
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailedError(
            attempt.step,
            attempt.number,
            f"step {attempt.step!r}: {argv[0]!r} cannot be started: {error}",
            code=None,
            output="",
        ) from error


def _signal(process: subprocess.Popen[str], number: signal.Signals) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def _sweep(process: subprocess.Popen[str]) -> None:
    """End what the command left running in its group."""
    _signal(process, signal.SIGKILL)


def _result(attempt: Attempt, code: int, output: str, complaints: str) -> Any:
    if code:
        ended = (
            f"was ended by {signal.Signals(-code).name}"
            if code < 0
            else f"ended with {code}"
        )
        tail = (output[-_KEPT:] + complaints)[-_KEPT:].strip()
        raise CommandFailedError(
            attempt.step,
            attempt.number,
            f"step {attempt.step!r}: {attempt.args[0]} {ended}"
            + (f"; its last output:\n{tail}" if tail else ""),
            code=code,
            output=tail,
        )
    match attempt.spec.capture:
        case "none":
            return None
        case "lines":
            return output.splitlines()
        case "json":
            return json.loads(output)
        case _:
            return output.removesuffix("\n")
