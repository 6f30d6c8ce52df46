"""The life of a task, and what a run's events add up to: live, resumed or watched."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, final

from ._log import Event
from ._messages import Reply
from .errors import TransitionError


class State(StrEnum):
    """Where a task is."""

    PENDING = "pending"
    READY = "ready"
    CLAIMED = "claimed"
    RUNNING = "running"
    GATING = "gating"
    MERGING = "merging"
    WAITING = "waiting"
    RETRYING = "retrying"
    IN_DOUBT = "in_doubt"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    SKIPPED = "skipped"

    @property
    def terminal(self) -> bool:
        """Tell whether a task stays here for good."""
        return self in TERMINAL

    @property
    def a2a(self) -> str:
        """Return the task state of the A2A protocol 1.0 that this maps to."""
        return _A2A.get(self, "WORKING")


TERMINAL: Final = frozenset(
    {State.COMPLETED, State.FAILED, State.CANCELLED, State.REJECTED, State.SKIPPED}
)
ACTIVE: Final = frozenset({State.CLAIMED, State.RUNNING, State.GATING, State.MERGING})
_A2A: Final = {
    State.PENDING: "SUBMITTED",
    State.READY: "SUBMITTED",
    State.WAITING: "INPUT_REQUIRED",
    State.IN_DOUBT: "INPUT_REQUIRED",
    State.COMPLETED: "COMPLETED",
    State.FAILED: "FAILED",
    State.CANCELLED: "CANCELED",
    State.SKIPPED: "CANCELED",
    State.REJECTED: "REJECTED",
}
_S = State
_GIVE_UP: Final = frozenset({_S.CANCELLED, _S.FAILED})
# `ready` after an active state is a resume: the process died, the attempt goes on.
TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    _S.PENDING: frozenset({_S.READY, _S.SKIPPED}) | _GIVE_UP,
    _S.READY: frozenset({_S.CLAIMED, _S.WAITING, _S.SKIPPED}) | _GIVE_UP,
    _S.CLAIMED: frozenset({_S.RUNNING, _S.READY, _S.RETRYING}) | _GIVE_UP,
    _S.RUNNING: frozenset(
        {_S.GATING, _S.COMPLETED, _S.WAITING, _S.RETRYING, _S.IN_DOUBT, _S.READY}
    )
    | _GIVE_UP,
    _S.GATING: frozenset({_S.MERGING, _S.COMPLETED, _S.WAITING, _S.RETRYING, _S.READY})
    | _GIVE_UP,
    _S.MERGING: frozenset({_S.COMPLETED, _S.RETRYING, _S.READY}) | _GIVE_UP,
    _S.WAITING: frozenset({_S.READY, _S.COMPLETED, _S.REJECTED}) | _GIVE_UP,
    _S.RETRYING: frozenset({_S.READY}) | _GIVE_UP,
    _S.IN_DOUBT: frozenset({_S.READY, _S.COMPLETED}) | _GIVE_UP,
    **{state: frozenset() for state in TERMINAL},
}
EVENT_STATES: Final = {
    f"task.{'started' if s is _S.RUNNING else s.value}": s
    for s in State
    if s is not _S.PENDING
}
STATE_EVENTS: Final[dict[State, str]] = {
    state: event for event, state in EVENT_STATES.items()
}


def move(task: str, old: State, new: State) -> State:
    """Return `new` if a task may go there from `old`, else raise TransitionError."""
    if new not in TRANSITIONS[old]:
        raise TransitionError(task, old, new)
    return new


@dataclass(slots=True)
class Span:
    """One attempt at a task by one agent."""

    task: str
    attempt: int
    agent: str
    start_ns: int
    end_ns: int = 0
    outcome: str = ""


@dataclass(slots=True)
class TaskView:
    """Where a task is, and what is known of it."""

    name: str
    state: State = State.PENDING
    attempt: int = 1
    agent: str = ""
    reason: str = ""
    detail: str = ""
    trace: str = ""
    """Where an exception came from, a line per frame."""
    feedback: str = ""
    """Why the attempt before failed."""
    reply: Reply | None = None
    waits_for: str = ""
    """approval:<id>, budget:<scope>, or turn:<key> in doubt."""
    commit: str = ""


@dataclass(slots=True)
class Totals:
    """Use added up over calls."""

    input_tokens: int = 0
    output_tokens: int = 0
    calls: int = 0
    usd_micro: int = 0
    unpriced: int = 0
    """Calls whose price nobody knew; they are not in usd_micro."""

    def add(self, usage: Mapping[str, Any]) -> None:
        """Count one call."""
        self.input_tokens += usage.get("in", 0)
        self.output_tokens += usage.get("out", 0)
        self.calls += usage.get("calls", 0)
        if usage.get("usd_micro") is None:
            self.unpriced += 1
        else:
            self.usd_micro += usage["usd_micro"]

    def to_json(self) -> dict[str, int]:
        """Return plain data."""
        return {
            "input_tokens": self.input_tokens, "output_tokens": self.output_tokens,
            "calls": self.calls, "usd_micro": self.usd_micro,
            "unpriced": self.unpriced,
        }  # fmt: skip


@final
@dataclass(slots=True)
class RunView:
    """A run as its events tell it."""

    run: str
    status: str = "new"
    plan: list[dict[str, Any]] = field(default_factory=list)
    plan_digest: str = ""
    barrier: bool = False
    tasks: dict[str, TaskView] = field(default_factory=dict)
    counts: Counter[State] = field(default_factory=Counter)
    """How many tasks are in a state."""
    spans: list[Span] = field(default_factory=list)
    approvals: dict[str, str] = field(default_factory=dict)
    """Approval id to requested, granted or denied."""
    total: Totals = field(default_factory=Totals)
    by_task: dict[str, Totals] = field(default_factory=dict)
    by_persona: dict[str, Totals] = field(default_factory=dict)
    by_model: dict[str, Totals] = field(default_factory=dict)
    burn: list[tuple[int, int, int]] = field(default_factory=list)
    """Time, tokens so far, micro-dollars so far."""
    warnings: list[Event] = field(default_factory=list)
    workers: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Processes that were started and not seen to end, by mark."""
    budgets: dict[str, Any] = field(default_factory=dict)
    first_ns: int = 0
    last_ns: int = 0
    session_ns: int = 0
    elapsed_ns: int = 0
    """Wall time of the sessions before this one."""
    last_seq: int = 0
    _open: dict[str, Span] = field(default_factory=dict)

    @classmethod
    def of(cls, run: str, events: Iterable[Event]) -> "RunView":
        """Return what events add up to."""
        view = cls(run)
        for event in events:
            view.apply(event)
        return view

    def apply(self, event: Event) -> None:
        """Take in one event."""
        self.first_ns = self.first_ns or event.at_ns
        if event.type in {"run.started", "run.resumed"}:
            if self.session_ns:
                self.elapsed_ns += max(0, self.last_ns - self.session_ns)
            self.session_ns = event.at_ns
        self.last_ns, self.last_seq = event.at_ns, event.seq
        kind, data = event.type, event.data
        state = EVENT_STATES.get(kind)
        if state is not None:
            self._move(event, state)
        elif kind.startswith("turn."):
            if kind != "turn.started" and "usage" in data:
                self._count(event)
        elif kind in {"plan.accepted", "plan.amended"}:
            self._plan(data)
        elif kind.startswith("approval."):
            self.approvals[str(data["approval"])] = kind.removeprefix("approval.")
        elif kind.startswith("run."):
            self._run(kind, data)
        elif kind in {"budget.warning", "budget.exhausted"}:
            self.warnings.append(event)
        elif kind in {"worker.starting", "worker.spawned"}:
            self.workers[str(data["mark"])] = data
        elif kind in {"worker.exited", "worker.killed"}:
            self.workers.pop(str(data["mark"]), None)
        elif kind == "workspace.merged":
            self.tasks[event.task].commit = str(data["commit"])

    def _run(self, kind: str, data: Mapping[str, Any]) -> None:
        self.status = kind.removeprefix("run.")
        if kind == "run.finished":
            self.status = str(data["status"])
        if "budget" in data:
            self.budgets = dict(data["budget"] or {})

    def _plan(self, data: Mapping[str, Any]) -> None:
        self.plan += data["tasks"]
        self.plan_digest = self.plan_digest or str(data.get("digest", ""))
        self.barrier = self.barrier or bool(data.get("barrier"))
        for task in data["tasks"]:
            self.tasks[task["name"]] = TaskView(task["name"])
        self.counts[State.PENDING] += len(data["tasks"])

    def _move(self, event: Event, state: State) -> None:
        task, data = self.tasks[event.task], event.data
        old, task.state = task.state, move(task.name, task.state, state)
        self.counts[old] -= 1
        self.counts[state] += 1
        task.attempt = event.attempt or task.attempt
        if state is State.CLAIMED:
            task.agent = event.actor
            span = Span(task.name, task.attempt, event.actor, event.at_ns)
            self.spans.append(span)
            self._open[task.name] = span
        elif old in ACTIVE and state not in ACTIVE:
            self._end(task.name, event, state)
        task.reason = str(data.get("reason", ""))
        task.detail = str(data.get("detail", ""))
        task.trace = str(data.get("trace", ""))
        task.waits_for = str(data.get("for", ""))
        if "reply" in data:
            task.reply = Reply.from_json(data["reply"])
        if state is State.RETRYING:
            task.attempt += 1
            task.feedback = task.detail

    def _end(self, name: str, event: Event, state: State) -> None:
        span = self._open.pop(name, None)
        if span is not None:
            span.end_ns, span.outcome = event.at_ns, state.value

    def _count(self, event: Event) -> None:
        usage = event.data["usage"]
        self.total.add(usage)
        self.by_task.setdefault(event.task, Totals()).add(usage)
        self.by_persona.setdefault(event.actor, Totals()).add(usage)
        if model := event.data.get("model"):
            self.by_model.setdefault(model, Totals()).add(usage)
        if usage.get("in") or usage.get("out") or usage.get("usd_micro"):
            tokens = self.total.input_tokens + self.total.output_tokens
            self.burn.append((event.at_ns, tokens, self.total.usd_micro))
