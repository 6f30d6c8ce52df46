"""Tests, results and reports: the one model that every adapter speaks."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from maestro_test_adapters.errors import ResultNotFound

Status = Literal["passed", "failed", "skipped", "pending", "other"]
"""The five words of CTRF."""

Outcome = Literal[
    "passed",
    "failed",
    "error",
    "crashed",
    "timeout",
    "skipped",
    "xfailed",
    "xpassed",
    "notrun",
    "other",
]
"""What happened, in more words than CTRF has.

`error` is a failure outside of the test itself (set-up, collection), `crashed` a
process that died while the test ran, `notrun` a test that was to run and did not.
"""

STATUS_OF: Mapping[Outcome, Status] = {
    "passed": "passed",
    "failed": "failed",
    "error": "failed",
    "crashed": "failed",
    "timeout": "failed",
    "skipped": "skipped",
    "xfailed": "skipped",
    "xpassed": "passed",
    "notrun": "pending",
    "other": "other",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TestCase:
    """One test that could run.

    Attributes:
        id: The runner's own id; what `select=` takes.
        name: Short, with the parameters.
        file: Where it is defined, absolute or relative to the working folder.
        line: 1-based.
        suite: From the outermost group inwards.
        tags: Markers, tags, categories.
        parameters: Name to printed value.
    """

    __test__ = False

    id: str
    name: str
    file: str | None = None
    line: int | None = None
    suite: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A file that belongs to a result, by reference."""

    name: str
    path: str
    content_type: str = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A part of a test with an outcome of its own: a subtest, a keyword, a verb."""

    name: str
    outcome: Outcome
    message: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One earlier execution of a test that was tried again. Numbers start at 1."""

    number: int
    outcome: Outcome
    duration: float = 0.0
    start: float | None = None
    message: str | None = None
    trace: str | None = None
    stdout: str = ""
    stderr: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    """What became of one test.

    Attributes:
        id: The runner's own id.
        outcome: See `Outcome`; `status` is CTRF's coarser word.
        duration: Seconds.
        start: Seconds since 1970, where the runner says.
        message: One line: why.
        trace: The whole story of a failure.
        attempts: Earlier executions, oldest first; this result is the last one.
        raw_status: The runner's own word.
        properties: Whatever else the test recorded about itself.
    """

    __test__ = False

    id: str
    name: str
    outcome: Outcome
    duration: float = 0.0
    start: float | None = None
    file: str | None = None
    line: int | None = None
    suite: tuple[str, ...] = ()
    message: str | None = None
    trace: str | None = None
    stdout: str = ""
    stderr: str = ""
    log: str = ""
    tags: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    attachments: tuple[Attachment, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    steps: tuple[Step, ...] = ()
    raw_status: str | None = None
    worker: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """CTRF's word for the outcome."""
        return STATUS_OF[self.outcome]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong: passed, skipped, or failed as expected."""
        return self.outcome in ("passed", "skipped", "xfailed", "xpassed", "other")

    @property
    def flaky(self) -> bool:
        """Whether it passed after at least one failed attempt."""
        return self.status == "passed" and any(
            STATUS_OF[attempt.outcome] == "failed" for attempt in self.attempts
        )

    def after(self, earlier: "TestResult") -> "TestResult":
        """Return this result with `earlier` counted among its attempts."""
        past = (*earlier.attempts, _as_attempt(earlier))
        attempts = past + self.attempts
        return dataclasses.replace(
            self,
            attempts=tuple(
                dataclasses.replace(attempt, number=number)
                for number, attempt in enumerate(attempts, start=1)
            ),
        )


def _as_attempt(result: TestResult) -> Attempt:
    return Attempt(
        number=len(result.attempts) + 1,
        outcome=result.outcome,
        duration=result.duration,
        start=result.start,
        message=result.message,
        trace=result.trace,
        stdout=result.stdout,
        stderr=result.stderr,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All results of one run, in the order in which the tests ended.

    Attributes:
        tool: The runner, such as `pytest`.
        exit_code: Of the runner's last process; None if it was killed.
        problems: What went wrong outside of single tests. Not empty means not ok.
        warnings: What deserves a look, such as a process that a test left behind.
        runner_counts: The runner's own sums, as it prints them.
    """

    tool: str
    tool_version: str = ""
    results: tuple[TestResult, ...] = ()
    started: float = 0.0
    finished: float = 0.0
    exit_code: int | None = None
    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)
    runner_counts: Mapping[str, int] = field(default_factory=dict)

    def __iter__(self) -> Iterator[TestResult]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, id: str) -> TestResult:
        for result in self.results:
            if result.id == id:
                return result
        raise ResultNotFound(id, (result.id for result in self.results))

    @property
    def ok(self) -> bool:
        """Whether tests ran, none of them failed and the runner itself was well."""
        return (
            bool(self.results)
            and not self.problems
            and all(result.ok for result in self.results)
        )

    @property
    def counts(self) -> dict[str, int]:
        """How many results have each outcome; outcomes that did not occur are 0."""
        counts = dict.fromkeys(STATUS_OF, 0)
        for result in self.results:
            counts[result.outcome] += 1
        return {str(key): value for key, value in counts.items()}

    @property
    def failures(self) -> tuple[TestResult, ...]:
        """The results that are not ok."""
        return tuple(result for result in self.results if not result.ok)

    @property
    def duration(self) -> float:
        """Seconds from start to end."""
        return max(0.0, self.finished - self.started)

    def write(self, path: str | os.PathLike[str]) -> Path:
        """Write the report; the suffix chooses: .json CTRF, .xml JUnit, .jsonl stream.

        The file appears whole or not at all.
        """
        from maestro_test_adapters._files import write_report

        return write_report(self, Path(path))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Report":
        """Read a report that `write` wrote as CTRF or as a stream.

        Raises:
            ReportError: The file is neither.
        """
        from maestro_test_adapters._files import read_report

        return read_report(Path(path))

    def summary(self) -> str:
        """Return one line, such as `2 failed, 40 passed in 1.3 s`."""
        order = sorted(
            (item for item in self.counts.items() if item[1]),
            key=lambda item: item[0] == "passed",
        )
        words = ", ".join(f"{count} {name}" for name, count in order)
        return f"{words or 'no tests'} in {self.duration:.1f} s"
