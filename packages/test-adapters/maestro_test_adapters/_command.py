"""Any command that writes a report that we can read."""

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from maestro_test_adapters._arguments import words, wrong
from maestro_test_adapters._model import TestResult
from maestro_test_adapters._readers import DOCUMENTS, STREAMS, DocumentReader, read_file
from maestro_test_adapters._runner import (
    Ending,
    Launch,
    RunnerAdapter,
    Selection,
    refuse,
)
from maestro_test_adapters.errors import (
    ArgumentError,
    ReportError,
    Unsupported,
    did_you_mean,
)

FORMATS = tuple(sorted([*STREAMS, *DOCUMENTS]))


class CommandAdapter(RunnerAdapter):
    """Runs a command and reads its results from standard output or from files.

    Args:
        argv: The command, as a list; no shell.
        reads: The format: `go-json`, `tap`, `libtest-json` (streams); `junit`,
            `ctrf`, `jest-json`, `vitest-json`, `mocha-json`, `trx` (documents).
        report: File or glob, relative to `cwd`, of the reports that the command
            leaves; standard output unless given. Files that are older than the run
            are left out.
        select: Returns what to add to the command for a selection of ids; without it
            neither `select=` nor retries are possible.
        settings: See `RunnerAdapter`.
    """

    name = "command"

    def __init__(
        self,
        argv: Sequence[str],
        *,
        reads: str,
        report: str | os.PathLike[str] | None = None,
        select: Callable[[Sequence[str]], Sequence[str]] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.argv = words("CommandAdapter", "argv", argv)
        if not self.argv:
            raise wrong("CommandAdapter", "argv", "a list with the program", argv)
        if reads not in FORMATS:
            raise ArgumentError(
                f"reads={reads!r} is no known format{did_you_mean(str(reads), FORMATS)}; "
                f"known are {', '.join(FORMATS)}"
            )
        if select is None and self.retries:
            raise Unsupported("retries", where="CommandAdapter", instead="give select=")
        self.reads = reads
        self.report = os.fspath(report) if report is not None else None
        self.select = select
        self.after_crash = "stop"

    def launch(self, selection: Selection, folder: Path) -> Launch:
        """Return the command."""
        del folder
        refuse(
            selection,
            adapter="CommandAdapter",
            lacks=["markers", "failed_first", "discover"],
        )
        argv = list(self.argv)
        if selection.only is not None:
            if self.select is None:
                raise Unsupported(
                    "select", where="CommandAdapter", instead="give select="
                )
            argv += self.select(selection.only)
        if self.report is None:
            stream = STREAMS.get(self.reads)
            reader = (
                stream()
                if stream
                else DocumentReader(self.reads, DOCUMENTS[self.reads])
            )
            return Launch(argv=argv, reader=reader)
        before = {path: _stamp(path) for path in self._reports()}
        return Launch(argv=argv, report=lambda: self._read(before))

    def _reports(self) -> list[Path]:
        assert self.report is not None
        return sorted(
            Path(self.cwd, name)
            for name in glob.glob(  # noqa: PTH207 - the pattern may be absolute
                self.report, root_dir=self.cwd, recursive=True
            )
        )

    def _read(self, before: Mapping[Path, object]) -> Iterator[TestResult]:
        fresh = [path for path in self._reports() if before.get(path) != _stamp(path)]
        if not fresh:
            raise ReportError("the command left no such report", path=str(self.report))
        for path in fresh:
            yield from read_file(path, self.reads)

    def judge(self, ending: Ending) -> list[str]:
        """Say what a bad exit code without a failed test means."""
        problems = super().judge(ending)
        if ending.exit_code and ending.exit_code < 0:
            problems.append(f"the command was ended by signal {-ending.exit_code}")
        elif ending.exit_code and not ending.failed:
            problems.append(
                f"the command ended with exit code {ending.exit_code} "
                f"though no test failed: {ending.output[-2000:]}"
            )
        return problems


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino
