"""For the tests of your own workflows and executors.

`VirtualTime` runs workflows on a clock that jumps, `CrashAt` ends a run at a chosen
moment, `check_executor` tells whether a `StepExecutor` of yours keeps its promises.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from heapq import heappop, heappush
from queue import Empty
from typing import TYPE_CHECKING, Any, final

from ._arguments import hinted, mapping, whole, wrong
from ._model import Attempt, Event, Outcome, Spec, StepExecutor, seconds
from .errors import StepCancelledError

if TYPE_CHECKING:
    from ._run import Run


@final
@hinted
class VirtualTime:
    """An executor whose steps take the time you say, and none of yours.

    Args:
        workers: steps at a time.
        durations: seconds by step; otherwise the step's estimate, else 1.
        call: whether the functions are called (when their time is over).
        fail: exceptions by step, one for each attempt that shall fail.

    Waits, timeouts and retries run on the same clock. All kinds of steps run here,
    commands and async functions without being called.
    """

    def __init__(
        self,
        workers: int = 4,
        *,
        durations: Mapping[str, float] | None = None,
        call: bool = True,
        fail: Mapping[str, Sequence[Exception]] | None = None,
    ) -> None:
        self.slots = whole("VirtualTime", "workers", workers)
        self.elapsed = 0.0
        self.order: list[str] = []
        self._durations = {
            step: seconds(length)
            for step, length in mapping("VirtualTime", "durations", durations).items()
        }
        self._call = call
        failing = mapping("VirtualTime", "fail", fail)
        for errors in failing.values():
            if not isinstance(errors, Sequence) or isinstance(errors, str):
                raise wrong("VirtualTime", "fail", "lists of exceptions", errors)
        self._fail = {step: list(errors) for step, errors in failing.items()}
        self._ready: deque[Any] = deque()
        self._pending: list[tuple[float, int, float, Attempt]] = []
        self._stopped: set[Attempt] = set()
        self._count = 0

    @property
    def virtual(self) -> VirtualTime:
        """What tells the engine to take its time and its outcomes from here."""
        return self

    def now(self) -> float:
        """Return the virtual time in seconds, from 1 on (0 means "never" in reports)."""
        return 1.0 + self.elapsed

    # The executor.

    def start(
        self, attempts: Sequence[Attempt], done: Callable[[Outcome], None]
    ) -> None:
        """Note when each attempt will be over."""
        del done  # the scheduler's inbox is this object
        for attempt in attempts:
            self.order.append(attempt.step)
            self._count += 1
            length = self._length(attempt.spec, attempt.step)
            due = self.elapsed + length
            heappush(self._pending, (due, self._count, self.elapsed, attempt))

    def _length(self, spec: Spec, step: str) -> float:
        base = step.rpartition("[")[0]
        for name in (step, base):
            if name in self._durations:
                return self._durations[name]
        return 1.0 if spec.estimate is None else spec.estimate

    def cancel(self, attempt: Attempt) -> None:
        """End the attempt now."""
        self._stopped.add(attempt)
        error = StepCancelledError(attempt.step, attempt.number, "stopped")
        self._ready.append(
            Outcome(attempt, None, error, self.now(), self.now(), "virtual")
        )

    def close(self) -> None:
        """Do nothing: there is nothing to free."""

    # The scheduler's inbox.

    def put(self, item: Any) -> None:
        """Take a message for the scheduler."""
        self._ready.append(item)

    def qsize(self) -> int:
        """Return how many messages are there without time going on."""
        return len(self._ready)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: FBT001, FBT002 - queue's own signature
        """Return the next message, letting time jump to it.

        Raises:
            Empty: nothing happens within `timeout`.
        """
        if not self._ready and block:
            self._advance(timeout)
        if not self._ready:
            raise Empty
        return self._ready.popleft()

    def _advance(self, timeout: float | None) -> None:
        limit = None if timeout is None else self.elapsed + timeout
        while self._pending and self._pending[0][3] in self._stopped:
            self._stopped.discard(heappop(self._pending)[3])
        if not self._pending or (limit is not None and self._pending[0][0] > limit):
            if limit is None:
                raise AssertionError("the run waits for something that never happens")
            self.elapsed = limit + 1e-9  # past it, whatever rounding did
            return
        self.elapsed = self._pending[0][0]
        while self._pending and self._pending[0][0] == self.elapsed:
            _, _, began, attempt = heappop(self._pending)
            if attempt not in self._stopped:
                self._ready.append(self._outcome(attempt, 1.0 + began))

    def _outcome(self, attempt: Attempt, began: float) -> Outcome:
        errors = self._fail.get(attempt.step)
        error: BaseException | None = errors.pop(0) if errors else None
        value = None
        if error is None and self._call and attempt.spec.kind == "python":
            try:
                value = attempt.call()
            except Exception as caught:
                error = caught
        return Outcome(attempt, value, error, began, self.now(), "virtual")


class Crash(BaseException):
    """What `CrashAt` raises: nothing catches it, as nothing catches kill -9."""


@final
@hinted
class CrashAt:
    """Ends a run before its n-th event is written down; give it as `on_event`.

    The run can then be resumed in the same test. Real crashes are tested with real
    processes; this finds the moment you want.
    """

    def __init__(self, number: int, *, kind: str | None = None) -> None:
        self._left = whole("CrashAt", "number", number)
        self._kind = kind

    def __call__(self, event: Event) -> None:
        """Count the event, and crash at the last."""
        if self._kind is None or event.kind == self._kind:
            self._left -= 1
            if not self._left:
                raise Crash(f"{event.step} {event.kind}")


def assert_ran(run: Run, *steps: str) -> None:
    """Fail unless exactly these steps ran, in this order of their starts."""
    ran = [r for r in run.steps if r.attempts and r.reason not in ("earlier", "cached")]
    found = [r.step for r in sorted(ran, key=lambda r: r.started)]
    if found != list(steps):
        raise AssertionError(f"expected {list(steps)} to run, got {found}")


def check_executor(make: Callable[[], StepExecutor]) -> None:
    """Fail unless an executor keeps the promises of `StepExecutor`.

    Args:
        make: returns a new executor that can call functions of this module.
    """
    executor = make()
    try:
        if executor.slots < 1:
            raise AssertionError(f"slots should be 1 or more, is {executor.slots!r}")
        results = _outcomes(
            executor, [("good", (n,)) for n in range(20)] + [("bad", ())]
        )
        good = sorted(o.value for o in results if o.error is None)
        if good != [2 * n for n in range(20)]:
            raise AssertionError(f"20 results were expected, got {good}")
        bad = [o for o in results if o.error is not None]
        if len(bad) != 1 or "no" not in str(bad[0].error):
            raise AssertionError(f"one failure was expected, got {bad}")
        if any(o.ended < o.started for o in results):
            raise AssertionError("an attempt ended before it started")
    finally:
        executor.close()
        executor.close()  # twice is allowed


def _outcomes(
    executor: StepExecutor, calls: list[tuple[str, tuple[Any, ...]]]
) -> list[Outcome]:
    specs = {
        "good": Spec(name="good", target=good_step, ref=f"{__name__}:good_step"),
        "bad": Spec(name="bad", target=bad_step, ref=f"{__name__}:bad_step"),
    }
    found: list[Outcome] = []
    over = threading.Event()

    def done(outcome: Outcome) -> None:
        found.append(outcome)
        if len(found) == len(calls):
            over.set()

    attempts = [
        Attempt("check", i, f"{name}-{i}", 1, specs[name], args, {}, chunked=False)
        for i, (name, args) in enumerate(calls)
    ]
    executor.start(attempts, done)
    if not over.wait(60):
        raise AssertionError(f"{len(found)} of {len(calls)} attempts were reported")
    return found


def good_step(number: int) -> int:
    """Return twice the number; what `check_executor` calls."""
    return 2 * number


def bad_step() -> None:
    """Raise; what `check_executor` calls."""
    raise ValueError("no")
