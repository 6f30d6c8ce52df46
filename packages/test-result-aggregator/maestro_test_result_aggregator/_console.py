"""What the commands share: the history they open, and how they print."""

# ruff: noqa: T201 - printing is what commands do
import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ._aggregator import TestResultAggregator
from ._model import Counts
from ._rules import GateRules
from ._wording import count
from .errors import ResultsError


def open_history(
    options: argparse.Namespace, *, new: bool = False
) -> TestResultAggregator:
    if not new and not Path(options.store).exists():
        raise ResultsError(
            f"{options.store}: no such history; `maestro-results ingest` makes it"
        )
    agg = TestResultAggregator(
        options.store, owners=options.owners, baseline=options.baseline or None
    )
    if options.quarantine:
        try:
            agg.quarantine.load(options.quarantine)
        except BaseException:
            agg.close()
            raise
    return agg


def rules_of(options: argparse.Namespace) -> GateRules | None:
    return GateRules.load(options.rules) if options.rules else None


def plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name.rstrip("_"): plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value


def print_json(value: Any) -> None:
    print(json.dumps(plain(value), indent=1, ensure_ascii=False, default=str))


def counted(counts: Counts) -> str:
    words = [
        (counts.passed, "passed"),
        (counts.failed, "failed"),
        (counts.skipped, "skipped"),
        (counts.pending, "not run"),
        (counts.other, "other"),
        (counts.flaky, "flaky"),
    ]
    return f"{count(counts.tests, 'test')}: " + ", ".join(
        f"{n:,} {word}" for n, word in words if n
    )


def tell(diagnostics: Iterable[object]) -> int:
    code = 0
    for one in diagnostics:
        level = getattr(one, "level", "error")
        code = 3 if level == "error" else code
        print(f"{level}: {one}", file=sys.stderr)
    return code


class Progress:
    """Names the file being read, on a terminal only."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.count = 0

    def __call__(self, path: Path) -> None:
        self.count += 1
        if self.live:
            sys.stderr.write(f"\r\x1b[Kreading {self.count}: {path}")
            sys.stderr.flush()

    def end(self) -> None:
        if self.live and self.count:
            sys.stderr.write("\r\x1b[K")


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        cells = [
            cell if i == len(row) - 1 else cell.ljust(widths[i])
            for i, cell in enumerate(row)
        ]
        print("  ".join(cells).rstrip())
