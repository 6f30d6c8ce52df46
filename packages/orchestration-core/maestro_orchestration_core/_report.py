"""How a run came out: report, numbers to show, export and compare, spans.

Source of the spans' names: OpenTelemetry GenAI semantic conventions (development).
"""

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ._fold import RunView, State, Totals
from ._log import Event, digest
from ._messages import Reply


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """How one task came out."""

    name: str
    state: State
    reason: str
    """ok, error, timeout, gate, conflict, budget, dependency, loop, guard,
    approval_denied, in_doubt, user; empty while it is not over."""
    detail: str
    trace: str = ""
    """Where an exception came from, a line per frame, the last one last."""
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
            + "".join(f"\n    {line}" for line in t.trace.splitlines())
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
                    "trace": t.trace,
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
            trace=t.trace,
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


def metrics(view: RunView) -> dict[str, Any]:
    """Return the numbers of one run as plain data; times in seconds."""
    spans = [s for s in view.spans if s.end_ns]
    busy = sum(s.end_ns - s.start_ns for s in spans) / 1e9
    wall = (view.elapsed_ns + max(0, view.last_ns - view.session_ns)) / 1e9
    states = [t.state for t in view.tasks.values()]
    return {
        "run": view.run,
        "status": view.status,
        "wall_s": round(wall, 3),
        "busy_s": round(busy, 3),
        "parallelism": round(busy / wall, 2) if wall else 0.0,
        "tasks": len(states),
        "completed": sum(s is State.COMPLETED for s in states),
        "failed": sum(s in {State.FAILED, State.REJECTED} for s in states),
        "attempts": len(view.spans),
        "warnings": len(view.warnings),
        **view.total.to_json(),
        "by_task": {
            name: {
                "state": task.state.value,
                "attempts": task.attempt,
                "seconds": _seconds(view, name),
                **(view.by_task[name].to_json() if name in view.by_task else {}),
            }
            for name, task in view.tasks.items()
        },
        "by_persona": {k: t.to_json() for k, t in view.by_persona.items()},
        "by_model": {k: t.to_json() for k, t in view.by_model.items()},
    }


def _seconds(view: RunView, name: str) -> float:
    took = sum(s.end_ns - s.start_ns for s in view.spans if s.task == name and s.end_ns)
    return round(took / 1e9, 3)


def to_csv(found: dict[str, Any]) -> str:
    """Return one line per task."""
    import csv

    out = io.StringIO()
    keys = ["state", "attempts", "seconds", "calls", "input_tokens",
            "output_tokens", "usd_micro", "unpriced"]  # fmt: skip
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "task", *keys])
    for name, row in found["by_task"].items():
        writer.writerow([found["run"], name, *(row.get(k, 0) for k in keys)])
    return out.getvalue()


def compare(left: dict[str, Any], right: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row per number: left, right, difference, and ratio where there is one."""
    rows: list[dict[str, Any]] = []
    for key, a in left.items():
        b = right.get(key)
        if isinstance(a, (int, float)) and isinstance(b, (int, float)):
            ratio = round(b / a, 3) if a else None
            rows.append({"what": key, "left": a, "right": b,
                         "difference": round(b - a, 3), "ratio": ratio})  # fmt: skip
    for name, row in left["by_task"].items():
        other = right["by_task"].get(name, {}).get("state", "absent")
        if other != row["state"]:
            rows.append({"what": f"task {name}", "left": row["state"],
                         "right": other, "difference": None, "ratio": None})  # fmt: skip
    return rows


def text(found: dict[str, Any]) -> str:
    """Return the numbers for people."""
    plain = {k: v for k, v in found.items() if not isinstance(v, dict)}
    lines = [f"{key:14} {value}" for key, value in plain.items()]
    for name, row in found["by_task"].items():
        lines.append(
            f"  {name:20} {row['state']:10} {row['attempts']} tries "
            f"{row['seconds']:8.3f} s {row.get('calls', 0):4} calls "
            f"{row.get('input_tokens', 0) + row.get('output_tokens', 0):8} tokens"
        )
    return "\n".join(lines)


def spans_json(events: Iterable[Event]) -> list[dict[str, Any]]:
    """Return one span per run, task attempt and call, times in nanoseconds.

    A span comes after the one that it is part of.
    """
    found: list[tuple[Event, dict[str, Any]]] = []
    open_: dict[tuple[str, int, str], Event] = {}
    first: Event | None = None
    last: Event | None = None
    for event in events:
        first, last = first or event, event
        path = str(event.data.get("key", ""))
        key = (event.task, event.attempt, path)
        if event.type in {"task.started", "turn.started"}:
            open_[key] = event
        elif event.type in {"turn.completed", "turn.failed"} and key in open_:
            begin = open_.pop(key)
            caller = (*key[:2], path.rpartition(".")[0])
            outer = open_.get(caller) or open_.get((*key[:2], "")) or first
            found.append((begin, _call(begin, event, outer)))
        elif event.type.startswith("task.") and (*key[:2], "") in open_:
            begin = open_.pop((*key[:2], ""))
            found.append((begin, _attempt(begin, event, first)))
    if first and last:
        name = f"invoke_workflow {first.run}"
        attributes = {"gen_ai.operation.name": "invoke_workflow"}
        found.append((first, _span(first, last, name, None, attributes)))
    return [span for _, span in sorted(found, key=lambda pair: pair[0].seq)]


def _attempt(begin: Event, end: Event, outer: Event) -> dict[str, Any]:
    return _span(begin, end, f"invoke_agent {end.actor}", outer, {
        "gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": end.actor,
        "maestro.task": end.task, "maestro.attempt": end.attempt,
    })  # fmt: skip


def _call(begin: Event, end: Event, outer: Event) -> dict[str, Any]:
    usage = end.data.get("usage", {})
    model = str(end.data.get("model", ""))
    tool = str(end.data.get("tool", ""))
    operation = "chat" if model else "execute_tool" if tool else "invoke_agent"
    return _span(begin, end, f"{operation} {model or tool or end.actor}", outer, {
        "gen_ai.operation.name": operation, "gen_ai.request.model": model,
        "gen_ai.tool.name": tool, "gen_ai.agent.name": end.actor,
        "gen_ai.usage.input_tokens": usage.get("in", 0),
        "gen_ai.usage.output_tokens": usage.get("out", 0),
    })  # fmt: skip


def _span(
    begin: Event, end: Event, name: str, outer: Event | None, attributes: dict[str, Any]
) -> dict[str, Any]:
    failed = end.type.endswith(".failed")
    return {
        "traceId": hashlib.sha256(begin.run.encode()).hexdigest()[:32],
        "spanId": _span_id(begin),
        "parentSpanId": _span_id(outer) if outer else "",
        "name": name,
        "startTimeUnixNano": begin.at_ns,
        "endTimeUnixNano": end.at_ns,
        "status": "ERROR" if failed else "OK",
        "attributes": {k: v for k, v in attributes.items() if v != ""},
    }


def _span_id(begin: Event) -> str:
    return hashlib.sha256(f"{begin.run}/{begin.seq}".encode()).hexdigest()[:16]
