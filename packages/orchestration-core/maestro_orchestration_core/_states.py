"""The life of a task: one table of transitions for live code and for replay."""

from enum import StrEnum
from typing import Final

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
