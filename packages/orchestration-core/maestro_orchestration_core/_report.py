"""How a run came out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ._digest import digest
from ._fold import RunView, Totals
from ._messages import Reply
from ._states import State


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """How one task came out."""

    name: str
    state: State
    reason: str
    """ok, error, timeout, gate, conflict, budget, dependency, loop, guard,
    approval_denied, in_doubt, user; empty while it is not over."""
    detail: str
    attempt: int
    agent: str
    reply: Reply | None
    commit: str
    usage: Totals


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """How a run came out, or where it stands."""

    run: str
    status: str
    """completed, failed, cancelled, or paused."""
    tasks: Mapping[str, TaskReport]
    usage: Totals
    by_persona: Mapping[str, Totals]
    by_model: Mapping[str, Totals]
    digest: str
    """Equal for equal outcomes: states, reasons and answers, no times."""

    @property
    def ok(self) -> bool:
        """Tell whether every task completed."""
        return all(t.state is State.COMPLETED for t in self.tasks.values())

    def why(self) -> str:
        """Return a line for each task that did not complete."""
        lines = [
            f"{t.name}: {t.state}" + (f" ({t.reason})" if t.reason else "")
            + (f": {t.detail}" if t.detail else "")
            for t in self.tasks.values()
            if t.state is not State.COMPLETED
        ]  # fmt: skip
        return "\n".join(lines) or "every task completed"

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "run": self.run,
            "status": self.status,
            "ok": self.ok,
            "digest": self.digest,
            "usage": self.usage.to_json(),
            "by_persona": {k: t.to_json() for k, t in self.by_persona.items()},
            "by_model": {k: t.to_json() for k, t in self.by_model.items()},
            "tasks": {
                t.name: {
                    "state": t.state.value,
                    "a2a": t.state.a2a,
                    "reason": t.reason,
                    "detail": t.detail,
                    "attempt": t.attempt,
                    "agent": t.agent,
                    "commit": t.commit,
                    "reply": t.reply.to_json() if t.reply else None,
                    "usage": t.usage.to_json(),
                }
                for t in self.tasks.values()
            },
        }


def report_of(view: RunView) -> RunReport:
    """Return the report of a run as its events tell it."""
    tasks = {
        t.name: TaskReport(
            name=t.name, state=t.state, reason=t.reason, detail=t.detail,
            attempt=t.attempt, agent=t.agent, reply=t.reply, commit=t.commit,
            usage=view.by_task.get(t.name, Totals()),
        )
        for t in view.tasks.values()
    }  # fmt: skip
    outcome = [
        [t.name, t.state.value, t.reason, t.reply.to_json() if t.reply else None]
        for t in sorted(tasks.values(), key=lambda t: t.name)
    ]
    return RunReport(
        run=view.run, status=view.status, tasks=tasks, usage=view.total,
        by_persona=view.by_persona, by_model=view.by_model, digest=digest(outcome),
    )  # fmt: skip
