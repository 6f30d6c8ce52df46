"""What a journal says about a run: its steps, why one is where it is, how it went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .errors import RunError, did_you_mean

if TYPE_CHECKING:
    from ._journal import Journal, RunInfo
    from ._shape import Shape

_AFTER = {
    "started": "running", "succeeded": "succeeded", "failed": "failed",
    "retrying": "waiting", "skipped": "skipped", "cancelled": "cancelled",
    "waiting": "waiting", "expanded": "waiting", "interrupted": "interrupted",
}  # fmt: skip


@dataclass(slots=True, kw_only=True)
class StepStatus:
    """One step as the journal tells it. Times are epoch seconds."""

    name: str
    state: str = "pending"
    attempts: int = 0
    started: float = 0.0
    ended: float = 0.0
    worker: str = ""
    note: str = ""
    traceback: str = ""
    needs: list[str] = field(default_factory=list)
    history: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long the last attempt took, 0 while it runs."""
        return max(0.0, self.ended - self.started)


@dataclass(slots=True, kw_only=True)
class RunStatus:
    """A run as the journal tells it."""

    info: RunInfo
    steps: dict[str, StepStatus]
    last: int = 0

    @property
    def state(self) -> str:
        """The run's state; "interrupted" when its process died."""
        if self.info.state in ("running", "paused") and not self.info.live:
            return "interrupted"
        return self.info.state

    @property
    def counts(self) -> dict[str, int]:
        """How many steps are in each state."""
        found: dict[str, int] = {}
        for step in self.steps.values():
            found[step.state] = found.get(step.state, 0) + 1
        return dict(sorted(found.items()))

    @property
    def begin(self) -> float:
        """When the first step started."""
        times = [s.started for s in self.steps.values() if s.started]
        return min(times, default=self.info.created)

    @property
    def end(self) -> float:
        """When the last step ended."""
        return (
            max((s.ended for s in self.steps.values()), default=self.begin)
            or self.begin
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the status as plain data."""
        return {
            "run": self.info.id,
            "workflow": self.info.workflow,
            "state": self.state,
            "created": self.info.created,
            "finished": self.info.finished,
            "counts": self.counts,
            "steps": [
                {
                    "step": s.name, "state": s.state, "attempts": s.attempts,
                    "started": s.started or None, "seconds": s.seconds,
                    "worker": s.worker or None, "note": s.note or None,
                    "traceback": s.traceback or None,
                }
                for s in self.steps.values()
            ],
        }  # fmt: skip


def read_status(journal: Journal, run_id: str) -> RunStatus:
    """Fold a run's events into its status. O(events)."""
    info = journal.info(run_id)
    shape = journal.shape(info.key)
    names = shape.names
    steps = {
        name: StepStatus(name=name, needs=[names[i] for i in needs])
        for name, needs in zip(names, shape.needs, strict=True)
    }
    status = RunStatus(info=info, steps=steps)
    update_status(journal, status)
    return status


def update_status(journal: Journal, status: RunStatus) -> bool:
    """Take in what has happened since; tell whether anything has."""
    before = status.last
    status.info = journal.info(status.info.id)
    for event in journal.events(status.info.id, after=before):
        status.last = event.seq
        if not event.step or event.kind == "added":
            continue
        step = status.steps.get(event.step)
        if step is None:
            step = status.steps[event.step] = StepStatus(name=event.step)
            base = event.step.rpartition("[")[0]
            if base in status.steps:
                step.needs = list(status.steps[base].needs)
        step.state = _AFTER.get(event.kind, step.state)
        step.attempts = max(step.attempts, event.attempt)
        step.note = event.note or ""
        if event.kind in ("failed", "retrying"):
            step.traceback = journal.decode(event.value or "null") or ""
        step.worker = event.worker or step.worker
        if event.kind == "started":
            step.started, step.ended = event.at, 0.0
        elif event.seconds is not None:
            # The worker's own times; "started" is when the scheduler let it go.
            step.ended = event.at
            step.started = event.at - event.seconds
        extra = f": {event.note}" if event.note else ""
        step.history.append(f"{event.kind} (attempt {event.attempt}){extra}")
    return status.last != before


def why(status: RunStatus, name: str) -> list[str]:
    """Return in words why a step is in the state it is in.

    Raises:
        RunError: the run has no such step.
    """
    step = status.steps.get(name)
    if step is None:
        raise RunError(
            status.info.id,
            f"run {status.info.id!r} has no step {name!r}{did_you_mean(name, status.steps)}",
        )
    lines = [f"{name} is {step.state}, run {status.info.id} is {status.state}"]
    open_ones = [
        f"{n} ({status.steps[n].state})"
        for n in step.needs
        if n in status.steps and status.steps[n].state != "succeeded"
    ]
    if step.state == "pending" and open_ones:
        lines.append(f"it waits for {', '.join(open_ones)}")
    elif step.state == "pending":
        lines.append("it is ready, and waits for a worker or a pool")
    elif step.note == "upstream_failed":
        lines += [f"{cause} failed: {note}" for cause, note in _causes(status, name)]
    elif step.note == "condition_false":
        lines.append("its condition was false")
    elif step.state == "running" and status.state == "interrupted":
        lines.append("the process died while it ran; a resume decides about it")
    lines += [f"  {line}" for line in step.history]
    if step.traceback:
        lines += ["it raised:", *(f"  {line}" for line in step.traceback.splitlines())]
    return lines


def _causes(status: RunStatus, name: str) -> list[tuple[str, str]]:
    """The failed steps behind a skipped one."""
    seen, todo, found = {name}, [name], []
    while todo:
        for other in status.steps[todo.pop()].needs:
            step = status.steps.get(other)
            if step is None or other in seen:
                continue
            seen.add(other)
            if step.state == "failed":
                found.append((other, step.note))
            else:
                todo.append(other)
    return found


def real_critical_path(status: RunStatus) -> list[str]:
    """Return the chain of steps that the run's end waited for, first step first.

    From the step that ended last, back along whichever need ended last.
    """
    ended = {
        n: s for n, s in status.steps.items() if s.ended and s.state == "succeeded"
    }
    if not ended:
        return []
    path = [max(ended, key=lambda n: ended[n].ended)]
    while True:
        before = [n for n in status.steps[path[-1]].needs if n in ended]
        if not before:
            return path[::-1]
        path.append(max(before, key=lambda n: ended[n].ended))


def metrics(status: RunStatus) -> dict[str, Any]:
    """Return the figures of a run: lengths in seconds, use of the workers 0 to 1."""
    timed = [s for s in status.steps.values() if s.ended]
    work = sum(s.seconds for s in timed)
    length = status.end - status.begin if timed else 0.0
    path = real_critical_path(status)
    workers = status.info.workers
    return {
        "run": status.info.id,
        "workflow": status.info.workflow,
        "state": status.state,
        "steps": len(status.steps),
        "attempts": sum(s.attempts for s in status.steps.values()),
        "seconds": length,
        "work": work,
        "workers": workers,
        "speedup": work / length if length else 1.0,
        "use": work / (length * workers) if length else 0.0,
        "critical_path": path,
        "critical_seconds": sum(status.steps[n].seconds for n in path),
        **{f"steps_{state}": count for state, count in status.counts.items()},
    }


def compare(one: RunStatus, other: RunStatus) -> list[dict[str, Any]]:
    """Return per step what changed between two runs, the largest difference first."""
    rows: list[dict[str, Any]] = []
    for name in {**one.steps, **other.steps}:
        a, b = one.steps.get(name), other.steps.get(name)
        rows.append(
            {
                "step": name,
                "before": a.seconds if a else None,
                "after": b.seconds if b else None,
                "state_before": a.state if a else None,
                "state_after": b.state if b else None,
                "difference": (b.seconds if b else 0.0) - (a.seconds if a else 0.0),
            }
        )
    rows.sort(key=lambda row: -abs(row["difference"]))
    return rows


def as_placed(status: RunStatus) -> list[tuple[StepStatus, int]]:
    """Return the steps that ran, each with a lane in which it overlaps no other."""
    free: list[float] = []
    found = []
    for step in sorted(
        (s for s in status.steps.values() if s.ended),
        key=lambda s: (s.started, s.ended),
    ):
        for lane, until in enumerate(free):
            if until <= step.started + 1e-9:
                free[lane] = step.ended
                break
        else:
            lane = len(free)
            free.append(step.ended)
        found.append((step, lane))
    return found


def shape_levels(shape: Shape) -> Mapping[str, int]:
    """Return the level of each step of a stored run."""
    from ._graph import compile_graph, levels

    return dict(zip(shape.names, levels(compile_graph(shape.needs)), strict=True))
