"""What follows from the end of an attempt: success, another try, or failure."""

from __future__ import annotations

from heapq import heappush
from typing import Any, final

from . import _model as m
from ._cause import said, traceback_of
from ._model import Attempt, Outcome, Spec
from ._record import Record
from ._steps import UPSET_FAILED, UPSET_SKIPPED, Steps, Stored
from .errors import (
    CommandFailedError,
    ResultError,
    StepCancelledError,
    StepError,
    StepFailedError,
    StepTimeoutError,
    WorkerLostError,
)

_LOST_TRIES = 3  # a step that kills its workers is not given a fourth


@final
class Endings:
    """Takes in outcomes and decides what becomes of each step."""

    def __init__(
        self, steps: Steps, record: Record, cache: dict[str, Any], *, fair: bool
    ) -> None:
        self.steps = steps
        self.record = record
        self.cache = cache
        self.cache_keys: dict[int, str] = {}
        self.fair = fair
        self.mean = 1.0  # the length of an attempt, lately
        self.timers: list[tuple[float, int]] = []  # retries that rest
        self._lost: dict[int, int] = {}

    def finish(self, outcome: Outcome) -> None:
        steps = self.steps
        attempt, value, error, started, ended, worker, lost, unstarted = outcome
        index = attempt.index
        if steps.running.get(index) is not attempt:
            return  # an outcome too late: its attempt was given up
        del steps.running[index]
        spec = attempt.spec
        if spec.pools or self.fair:
            steps.release(index, spec)
        steps.started[index] = started
        steps.ended[index] = ended
        steps.worker[index] = worker
        self.mean += 0.1 * (ended - started - self.mean)
        if error is None:
            if spec.timeout is not None and ended - started > spec.timeout:
                # Only an inline step gets here: nobody could stop it.
                attempt.stopped = "timed_out"
                self._failed(attempt, StepCancelledError(attempt.step, 0, ""), lost)
                return
            self.succeed(index, value, attempt)
        elif unstarted:
            steps.tries[index] -= 1
            steps.make_ready(index)
        else:
            self._failed(attempt, error, lost)

    def succeed(
        self,
        index: int,
        value: Any,
        attempt: Attempt | None = None,
        note: str | None = None,
    ) -> None:
        steps = self.steps
        if not self.record.silent:
            name = steps.nodes[index].name
            number = attempt.number if attempt is not None else 0
            text: str | None = None
            if self.record.journal is not None:
                if type(value) is Stored:
                    text = steps.texts[index] = value.text
                    steps.stored = True
                else:
                    try:
                        text = self.record.journal.encode(name, number, value)
                    except ResultError as error:
                        self.fail(index, error, "result")
                        return
                if index in self.cache_keys:
                    self.record.cache_rows.append((self.cache_keys.pop(index), text))
            at, length = self.record.now(), None
            if attempt is not None:
                at = steps.ended[index]
                length = at - steps.started[index]
            worker = steps.worker[index] or None
            if self.record.journal is not None:
                row = (name, number, "succeeded", at, length, worker, text, note)
                self.record.rows.append(row)
            if self.record.listener is not None:
                self.record.tell(name, number, "succeeded", at, length, worker, note)
        elif index in self.cache_keys:
            self.cache[self.cache_keys.pop(index)] = value
        if not m.MOVES[steps.state[index] * 16 + m.SUCCEEDED]:
            steps.move(index, m.SUCCEEDED)  # which raises
        steps.state[index] = m.SUCCEEDED
        if note:
            steps.reasons[index] = note
        steps.results[index] = value
        waits, arrived = steps.waits, steps.arrived
        for other in steps.successors[index]:
            left = waits[other] = waits[other] - 1
            if not left:
                arrived.append(other)

    def _failed(self, attempt: Attempt, error: BaseException, lost: bool) -> None:  # noqa: FBT001 - private
        """Decide whether an attempt that failed is worth another."""
        steps = self.steps
        index, spec, number = attempt.index, attempt.spec, attempt.number
        reason = attempt.stopped or ("lost" if lost else "error")
        told = self._told(attempt, error, reason)
        if reason == "cancelled" or (steps.cancelling == "cancelled"):
            steps.move(index, m.CANCELLED)
            steps.reasons[index] = "cancelled"
            self.record.log(
                attempt.step, number, "cancelled", worker=steps.worker[index]
            )
            return
        if self._retries(index, spec, number, error, reason):
            delay = spec.retry.delay(number) if spec.retry is not None else 0.0
            steps.move(index, m.WAITING)
            self.record.log(
                attempt.step, number, "retrying", note=str(told),
                seconds=steps.ended[index] - steps.started[index],
                worker=steps.worker[index] or None, value=self._raised(told),
            )  # fmt: skip
            if delay:
                heappush(self.timers, (self.record.now() + delay, index))
            else:
                steps.make_ready(index)
            return
        self.fail(index, told, reason)

    def _retries(
        self, index: int, spec: Spec, number: int, error: BaseException, reason: str
    ) -> bool:
        if reason == "lost":
            lost = self._lost[index] = self._lost.get(index, 0) + 1
            return not spec.once and lost < _LOST_TRIES
        retry = spec.retry
        if retry is None or number >= retry.attempts:
            return False
        return reason == "timed_out" or isinstance(error, retry.on)

    def _told(self, attempt: Attempt, error: BaseException, reason: str) -> StepError:
        """Put what happened to an attempt into one of our errors."""
        step, number = attempt.step, attempt.number
        told: StepError
        if reason == "timed_out":
            told = StepTimeoutError(
                step, number,
                f"step {step!r} took longer than its timeout of {attempt.spec.timeout:g}s "
                f"(attempt {number})",
            )  # fmt: skip
        elif isinstance(error, CommandFailedError):
            return error
        elif reason == "lost":
            told = WorkerLostError(step, number, str(error))
        else:
            return self.wrapped(attempt.index, error)
        told.__cause__ = error
        return told

    def wrapped(self, index: int, error: BaseException) -> StepError:
        name, number = self.steps.nodes[index].name, self.steps.tries[index]
        told = StepFailedError(name, number, f"step {name!r} failed: {said(error)}")
        told.__cause__ = error
        return told

    def fail(self, index: int, error: StepError, reason: str) -> None:
        steps = self.steps
        name = steps.nodes[index].name
        steps.move(index, m.FAILED)
        steps.errors[index] = error
        steps.reasons[index] = reason
        length = steps.ended[index] - steps.started[index]
        self.record.log(
            name, steps.tries[index], "failed", note=str(error),
            seconds=length or None, worker=steps.worker[index] or None,
            value=self._raised(error),
        )  # fmt: skip
        steps.pass_on(index, UPSET_FAILED)

    def _raised(self, error: StepError) -> str | None:
        """Return where a step's function raised, as the journal keeps it."""
        if self.record.journal is None or type(error) is not StepFailedError:
            return None
        text = traceback_of(error.__cause__)
        return self.record.journal.encode(error.step, error.attempts, text or None)

    def skip(self, index: int, reason: str) -> None:
        self.steps.move(index, m.SKIPPED)
        self.steps.reasons[index] = reason
        self.record.log(self.steps.nodes[index].name, 0, "skipped", note=reason)
        self.steps.pass_on(
            index, UPSET_FAILED if reason == "upstream_failed" else UPSET_SKIPPED
        )
