"""The live picture of a run: the one module that needs the extra `progress`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from ._plan import human
from ._watch import running

if TYPE_CHECKING:
    from ._status import RunStatus

try:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text
except ImportError as error:
    raise ImportError(
        'the live view needs rich: pip install "maestro-workflow-engine[progress]"'
    ) from error

_COLOURS = {
    "succeeded": "green", "failed": "red", "running": "cyan", "waiting": "yellow",
    "interrupted": "yellow",
}  # fmt: skip


def picture(status: RunStatus, out: TextIO) -> Callable[[bool], None]:
    """Return a function that draws the status anew, and ends with the last picture."""
    live = Live(console=Console(file=out), auto_refresh=False, transient=False)
    live.start()

    def show(last: bool) -> None:  # noqa: FBT001 - a callback
        live.update(_draw(status, live.console.height), refresh=True)
        if last:
            live.stop()

    return show


def _draw(status: RunStatus, height: int) -> Group:
    now = time.time()
    counts = status.counts
    done = sum(
        counts.get(s, 0) for s in ("succeeded", "skipped", "cancelled", "failed")
    )
    head = Text.assemble(
        (status.info.workflow, "bold"),
        f"  {status.info.id}  ",
        (status.state, _COLOURS.get(status.state, "")),
        f"  {human((status.info.finished or now) - status.info.created)}",
    )
    line = Text("  ".join(f"{count} {state}" for state, count in counts.items()))
    table = Table("step", "state", "for", box=None, pad_edge=False)
    room = max(3, height - 8)
    rows = running(status, now)
    for name, state, length in rows[:room]:
        table.add_row(name, Text(state, _COLOURS.get(state, "")), length)
    for step in [s for s in status.steps.values() if s.state == "failed"][:3]:
        table.add_row(step.name, Text("failed", "red"), step.note[:100])
    if len(rows) > room:
        table.add_row(f"and {len(rows) - room} more", "", "")
    bar = Table.grid()  # a row of its own: the bar does not end its line
    bar.add_row(ProgressBar(total=max(1, len(status.steps)), completed=done, width=60))
    return Group(head, bar, line, table)
