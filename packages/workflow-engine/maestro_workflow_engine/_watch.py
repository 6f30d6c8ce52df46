"""Following a run in a terminal: lines anywhere, a live picture with `progress`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from ._plan import human
from ._status import read_status, update_status

if TYPE_CHECKING:
    from ._journal import Journal
    from ._status import RunStatus

OVER = ("succeeded", "failed", "cancelled", "waiting", "interrupted")


def watch(
    journal: Journal,
    run_id: str,
    out: TextIO,
    *,
    every: float = 0.5,
    sleep: Callable[[float], None] = time.sleep,
) -> RunStatus:
    """Show a run until it is over or its process is gone; return its last status."""
    status = read_status(journal, run_id)
    show = _picture(status, out) if out.isatty() else None
    if show is None:
        return _lines(journal, status, out, every, sleep)
    try:
        while status.state not in OVER:
            show(False)
            sleep(every)
            update_status(journal, status)
    finally:
        show(True)
    return status


def _picture(status: RunStatus, out: TextIO) -> Callable[[bool], None] | None:
    try:
        from ._progress import picture
    except ImportError:
        return None  # without the extra: lines, as in a file
    return picture(status, out)


def _lines(
    journal: Journal,
    status: RunStatus,
    out: TextIO,
    every: float,
    sleep: Callable[[float], None],
) -> RunStatus:
    seen: dict[str, str] = {}
    last = ""
    while True:
        for step in status.steps.values():
            if step.state == "failed" and seen.get(step.name) != "failed":
                print(f"failed: {step.name}: {step.note}", file=out, flush=True)
            seen[step.name] = step.state
        line = summary(status)
        if line != last:
            print(line, file=out, flush=True)
            last = line
        if status.state in OVER:
            return status
        sleep(every)
        update_status(journal, status)


def summary(status: RunStatus) -> str:
    """Return a run's state in one line."""
    counts = status.counts
    parts = [f"{count} {state}" for state, count in counts.items()]
    return f"{status.info.id}: {status.state}; {', '.join(parts) or 'no steps'}"


def running(status: RunStatus, now: float) -> list[tuple[str, str, str]]:
    """Return (step, state, how long) of what is going on, the longest first."""
    found = [s for s in status.steps.values() if s.state in ("running", "waiting")]
    found.sort(key=lambda s: s.started or now)
    return [
        (s.name, s.state, human(max(0.0, now - s.started)) if s.started else "")
        for s in found
    ]
