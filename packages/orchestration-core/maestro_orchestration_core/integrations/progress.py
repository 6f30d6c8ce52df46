"""A live view in colour for terminals: extra `progress`."""

import re
import time
from collections.abc import Callable
from pathlib import Path

from maestro_orchestration_core._fold import RunView, State
from maestro_orchestration_core._journal import Journal
from maestro_orchestration_core._monitor import Watch, draw

try:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text
except ImportError as error:
    raise ImportError(
        'a live view needs pip install "maestro-orchestration-core[progress]"'
    ) from error

_ENDED = {"completed", "failed", "cancelled", "paused"}
_STYLES = {
    State.COMPLETED: "green", State.FAILED: "bold red", State.REJECTED: "bold red",
    State.IN_DOUBT: "bold yellow", State.WAITING: "yellow", State.SKIPPED: "dim",
}  # fmt: skip


def watch(
    path: str | Path,
    run: str,
    *,
    console: Console | None = None,
    every: float = 0.5,
    sleep: Callable[[float], None] = time.sleep,
) -> RunView:
    """Show a run until it ends or pauses; return how it stood. Reads only.

    Args:
        path: The journal.
        run: Its name there.
        console: Where to; standard output without it.
        every: Seconds between two looks.
        sleep: What waits between them.
    """
    console = console or Console()
    with (
        Journal(path, read_only=True) as journal,
        Live(console=console, auto_refresh=False) as live,
    ):
        seen = Watch(run)
        while True:
            seen.read(journal)
            view = seen.view
            live.update(_paint(view, draw(view, seen.recent, width=console.width)))
            live.refresh()
            if view.status in _ENDED and not journal.is_running(run):
                return view
            sleep(every)


def _paint(view: RunView, drawn: str) -> Text:
    text = Text(drawn, no_wrap=True)
    for task in view.tasks.values():
        if style := _STYLES.get(task.state):
            text.highlight_regex(
                rf"(?m)^  [\w ]{{10}} {re.escape(task.name)} .*$", style
            )
    return text
