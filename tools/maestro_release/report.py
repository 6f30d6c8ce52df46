"""What the tool prints: plain lines, colours and a bar on a terminal, or JSON.

With JSON, standard output carries one document and nothing else; the lines go
to standard error.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TextIO


def count(number: int, noun: str) -> str:
    """Return "1 file" or "2 files"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ignore(_part: str) -> None:
    """Say nothing about a part."""


class Step:
    """One step in progress: call it with each part, set what came out."""

    def __init__(self, advance: Callable[[str], None]) -> None:
        self._advance = advance
        self.summary = "done"

    def __call__(self, part: str) -> None:
        """Say that a part is done or begins."""
        self._advance(part)


class Report:
    """Where progress and results go."""

    def __init__(
        self,
        *,
        as_json: bool = False,
        out: TextIO | None = None,
        err: TextIO | None = None,
    ) -> None:
        self._json = as_json
        self._out = out or sys.stdout
        self._lines = (err or sys.stderr) if as_json else self._out
        self._terminal = self._lines.isatty()

    def line(self, text: str) -> None:
        """Print a line of progress."""
        print(text, file=self._lines, flush=True)

    @contextmanager
    def step(
        self, name: str, total: int = 0, *, each: bool = False
    ) -> Iterator["Step"]:
        """Time a step and end it with one line; on a terminal a bar shows its parts.

        Args:
            name: what is done.
            total: how many parts there are, 0 for unknown.
            each: whether every part leaves a line.
        """
        started = time.monotonic()
        with self._bar(name, total, each=each) as advance:
            step = Step(advance)
            yield step
        spent = time.monotonic() - started
        self.line(f"{name:8} {step.summary}, {spent:.1f} s")

    @contextmanager
    def _bar(
        self, name: str, total: int, *, each: bool
    ) -> Iterator[Callable[[str], None]]:
        if not self._terminal:
            yield (lambda part: self.line(f"         {part}")) if each else ignore
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        columns = [
            TextColumn(name),
            BarColumn(),
            *([MofNCompleteColumn()] * bool(total)),
        ]
        columns.append(TextColumn("{task.description}"))
        console = Console(file=self._lines)
        with Progress(*columns, console=console, transient=True) as progress:
            task = progress.add_task("", total=total or None)

            def advance(part: str) -> None:
                progress.update(task, advance=1, description=part)
                if each:
                    progress.console.print(f"         {part}", highlight=False)

            yield advance

    def table(self, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table; on a terminal the heads stand out."""
        widths = [max(len(row[i]) for row in (heads, *rows)) for i in range(len(heads))]

        def text(row: Sequence[str]) -> str:
            cells = (c.ljust(w) for c, w in zip(row, widths, strict=True))
            return "  ".join(cells).rstrip()

        head = text(heads)
        self.line(f"\033[1m{head}\033[0m" if self._terminal else head)
        for row in rows:
            self.line(text(row))

    def result(self, value: Mapping[str, Any]) -> None:
        """Print the result as JSON, when JSON was asked for."""
        if self._json:
            print(json.dumps(value, indent=2, ensure_ascii=False), file=self._out)

    def error(self, message: str) -> None:
        """Print what went wrong."""
        target = sys.stderr if not self._json else self._lines
        print(f"maestro-release: {message}", file=target, flush=True)
