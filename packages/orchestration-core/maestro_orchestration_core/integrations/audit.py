"""Copy what auditors ask about from the journal to an audit log: extra `audit`.

Approvals, budgets, merges, effects in doubt and how tasks and runs end; never
prompts or answers.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from maestro_orchestration_core._journal import Journal
from maestro_orchestration_core._log import Event

try:
    from maestro_audit_logger import Actor, AuditLogger
except ImportError as error:
    raise ImportError(
        'an audit log needs pip install "maestro-orchestration-core[audit]"'
    ) from error

AUDITED: Final = (
    "run.started", "run.resumed", "run.finished", "plan.*", "approval.*",
    "budget.raised", "budget.warning", "budget.exhausted", "workspace.merged",
    "workspace.conflict", "gate.failed", "worker.killed", "task.completed",
    "task.failed", "task.cancelled", "task.rejected", "task.in_doubt",
)  # fmt: skip
# Named one by one: a new field of an event stays out until somebody adds it here.
_FIELDS: Final = frozenset({
    "approval", "note", "status", "digest", "scope", "unit", "limit", "spent", "ratio",
    "commit", "paths", "gate", "counts", "reason", "mark", "killed", "for", "resolved",
    "how",
})  # fmt: skip
_BATCH: Final = 500


def forward(
    journal: Journal,
    audit: AuditLogger,
    *,
    run: str | None = None,
    types: Collection[str] = AUDITED,
    cursor: str = "audit",
) -> int:
    """Record what is new since the last time; return how many records.

    At least once: the position is kept in the journal after the audit log has the
    records. Cut off in between, the batch comes again; `ctx` has run and seq, which
    tell repeats.

    Args:
        journal: Where the runs are; the position is kept there too.
        audit: Open for writing.
        run: One run; all runs without it.
        types: Patterns of events to copy.
        cursor: Name of the position; one per audit log.
    """
    runs = [journal.require(run)] if run else [r.run for r in journal.runs()]
    return sum(_forward(journal, audit, name, types, cursor) for name in runs)


def _forward(
    journal: Journal, audit: AuditLogger, run: str, types: Collection[str], cursor: str
) -> int:
    events = list(journal.events(run, after=journal.cursor(cursor, run)))
    copied = 0
    for at in range(0, len(events), _BATCH):
        batch = events[at : at + _BATCH]
        records = [_record(event) for event in batch if event.matches(types)]
        if records:
            audit.record_many(records)
        journal.move_cursor(cursor, run, batch[-1].seq)
        copied += len(records)
    return copied


def _record(event: Event) -> Mapping[str, Any]:
    kind = event.type.split(".")[0]
    by_person = kind == "approval" or event.type == "budget.raised"
    actor = Actor.system("maestro-orchestrate")
    if event.actor:
        actor = (Actor.user if by_person else Actor.service)(event.actor)
    bad = event.type.endswith((".failed", ".conflict", ".exhausted"))
    denied = event.type in {"approval.denied", "task.rejected"}
    unknown = event.type == "task.in_doubt"
    return {
        "action": f"orchestration.{event.type}",
        "actor": actor,
        "resource": ("task", event.task) if event.task else ("run", event.run),
        "outcome": "denied" if denied else "unknown" if unknown
        else "failure" if bad else "success",
        "data": {k: v for k, v in event.data.items() if k in _FIELDS},
        "ctx": {"run": event.run, "seq": event.seq, "at_ns": event.at_ns},
    }  # fmt: skip
