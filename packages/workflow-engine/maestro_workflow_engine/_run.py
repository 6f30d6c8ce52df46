"""What became of a run, and a hold on one that goes on in the background."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

from . import _model as m
from ._growth import added_note
from ._scheduler import Scheduler
from ._target import built_from
from ._template import Template
from ._workflow import Workflow
from .errors import RunError, RunNotFinishedError, StepError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What became of one step. Times are epoch seconds, 0 when it did not run."""

    step: str
    state: str
    reason: str
    attempts: int
    started: float
    ended: float
    worker: str
    error: StepError | None

    @property
    def seconds(self) -> float:
        """How long the last attempt took."""
        return self.ended - self.started


@final
class Run:
    """What became of a run: its state, the results and a report of each step."""

    def __init__(self, scheduler: Scheduler, elapsed: float) -> None:
        self._scheduler = scheduler
        self.id = scheduler.run_id
        self.workflow = scheduler.workflow.name
        self.state = scheduler.final
        self.seconds = elapsed
        self.workers = scheduler.workers

    def __getitem__(self, step: str) -> Any:
        """Return a step's result.

        Raises:
            KeyError: there is no such step, or it brought no result.
        """
        index = self._index(step)
        if self._scheduler.steps.state[index] != m.SUCCEEDED:
            state = m.STATE_NAMES[self._scheduler.steps.state[index]]
            raise KeyError(f"step {step!r} has no result, it is {state}")
        return self._scheduler.steps.result(index)

    def _index(self, step: str) -> int:
        scheduler = self._scheduler
        index = scheduler.steps.index.get(step)
        if index is None and step.endswith("]"):
            base, _, number = step[:-1].rpartition("[")
            first, count = scheduler.steps.expanded.get(
                scheduler.steps.index.get(base, -1), (0, 0)
            )
            if number.isdecimal() and int(number) < count:
                return first + int(number)
        if index is None:
            raise KeyError(
                f"no step {step!r}{did_you_mean(step, scheduler.steps.index)}"
            )
        return index

    @property
    def results(self) -> dict[str, Any]:
        """The results of all steps that succeeded, by name."""
        scheduler = self._scheduler
        return {
            name: scheduler.steps.result(index)
            for name, index in scheduler.steps.index.items()
            if scheduler.steps.state[index] == m.SUCCEEDED
        }

    def step(self, step: str) -> StepReport:
        """Return the report of one step, or of one item of a map: `"load[3]"`."""
        return self._report(self._index(step))

    @property
    def steps(self) -> Iterator[StepReport]:
        """The reports of all steps, the items of maps included."""
        return (
            self._report(index) for index in range(len(self._scheduler.steps.nodes))
        )

    def _report(self, index: int) -> StepReport:
        s = self._scheduler.steps
        return StepReport(
            step=s.nodes[index].name,
            state=m.STATE_NAMES[s.state[index]],
            reason=s.reason(index),
            attempts=s.tries[index],
            started=s.started[index],
            ended=s.ended[index],
            worker=s.worker[index],
            error=s.errors.get(index),
        )

    @property
    def counts(self) -> dict[str, int]:
        """How many steps ended in each state."""
        state = self._scheduler.steps.state
        found = {name: state.count(code) for code, name in enumerate(m.STATE_NAMES)}
        return {name: count for name, count in found.items() if count}

    @property
    def errors(self) -> dict[str, StepError]:
        """The error of each step that failed, in the order of the steps."""
        s = self._scheduler.steps
        return {s.nodes[i].name: s.errors[i] for i in sorted(s.errors)}

    @property
    def waiting(self) -> tuple[str, ...]:
        """The gates that wait for approval."""
        s = self._scheduler.steps
        return tuple(
            node.name
            for i, node in enumerate(s.nodes)
            if s.state[i] == m.WAITING and node.spec.kind == "gate"
        )

    def check(self) -> Run:
        """Return this run when it succeeded, else raise what went wrong.

        Raises:
            StepError: the first error, with its cause.
            RunNotFinishedError: it was cancelled, or waits at a gate.
        """
        errors = self.errors
        if errors:
            raise next(iter(errors.values()))
        if self.state != "succeeded":
            gates = f" at {', '.join(self.waiting)}" if self.waiting else ""
            raise RunNotFinishedError(
                self.id, f"run {self.id!r} is {self.state}{gates}"
            )
        return self

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {name}" for name, n in self.counts.items())
        return f"<run {self.id}: {self.state} ({counts}) in {self.seconds:.3g}s>"


@final
class RunHandle:
    """A run that goes on in the background. Thread-safe."""

    def __init__(self, scheduler: Scheduler, work: Callable[[], Run]) -> None:
        self.id = scheduler.run_id
        self._scheduler = scheduler
        self._result: Run | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(work,), name=f"maestro-run-{self.id}", daemon=True
        )
        self._thread.start()

    def _run(self, work: Callable[[], Run]) -> None:
        try:
            self._result = work()
        except BaseException as error:
            self._error = error

    @property
    def done(self) -> bool:
        """Whether the run is over."""
        return not self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> Run:
        """Wait for the end and return the run.

        Raises:
            TimeoutError: it still goes on after `timeout` seconds.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"run {self.id!r} still goes on after {timeout} s")
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def counts(self) -> dict[str, int]:
        """Return how many steps are in each state just now."""
        state = self._scheduler.steps.state
        found = {name: state.count(code) for code, name in enumerate(m.STATE_NAMES)}
        return {name: count for name, count in found.items() if count}

    def pause(self) -> None:
        """Start nothing new until `resume`; what runs goes on."""
        self._scheduler.inbox.put(("pause", None))

    def resume(self) -> None:
        """Go on after `pause`."""
        self._scheduler.inbox.put(("continue", None))

    def cancel(self) -> None:
        """Stop what runs and start nothing new."""
        self._scheduler.inbox.put(("cancel", None))

    def approve(self, gate: str) -> None:
        """Let the run pass a gate.

        Raises:
            RunError: the run has no such gate.
        """
        known = self._scheduler.steps.index
        if gate not in known and "/" not in gate:  # with one, it may yet be added
            raise RunError(
                self.id,
                f"run {self.id!r} has no gate {gate!r}{did_you_mean(gate, known)}",
            )
        self._scheduler.inbox.put(("approve", gate))

    def add(self, workflow: Workflow | Template, *, prefix: str, **params: Any) -> None:
        """Add a workflow's steps to the run, named `prefix/step`.

        The engine's policy decides how they share the workers with the others.
        """
        other = built_from(workflow, params)
        other.validate()
        note = added_note(prefix, other)
        self._scheduler.inbox.put(("add", (other, prefix, note)))
