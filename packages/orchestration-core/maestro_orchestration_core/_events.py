"""One thing that happened in a run."""

import fnmatch
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry of the journal; `seq` is the only order that counts."""

    seq: int
    """Position in the run, from 1, without gaps."""
    run: str
    at_ns: int
    """Wall clock, nanoseconds since 1970; may jump, never used for order."""
    type: str
    """Such as `task.completed` or `usage.recorded`."""
    task: str = ""
    attempt: int = 0
    actor: str = ""
    """Persona or person that caused it."""
    v: int = 1
    data: Mapping[str, Any]

    def matches(self, patterns: Collection[str]) -> bool:
        """Tell whether the type matches one of the patterns, such as `task.*`."""
        return not patterns or any(fnmatch.fnmatchcase(self.type, p) for p in patterns)

    def to_json(self) -> dict[str, Any]:
        """Return the event as plain data."""
        return {
            "seq": self.seq,
            "run": self.run,
            "at_ns": self.at_ns,
            "type": self.type,
            "task": self.task,
            "attempt": self.attempt,
            "actor": self.actor,
            "v": self.v,
            "data": dict(self.data),
        }
