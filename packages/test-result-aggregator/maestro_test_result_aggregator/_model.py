"""Results, diagnostics and counts: what every reader yields and every writer takes."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Status = Literal["passed", "failed", "skipped", "pending", "other"]
"""The five words of CTRF."""

Outcome = Literal[
    "passed",
    "skipped",
    "xfailed",
    "xpassed",
    "notrun",
    "other",
    "failed",
    "error",
    "crashed",
    "timeout",
]
"""What happened, in more words than CTRF has.

`error` is a failure outside of the test itself (set-up, collection), `crashed` a
process that died while the test ran, `notrun` a test that was to run and did not.
"""

STATUS_OF: Mapping[Outcome, Status] = MappingProxyType(
    {
        "passed": "passed",
        "skipped": "skipped",
        "xfailed": "skipped",
        "xpassed": "passed",
        "notrun": "pending",
        "other": "other",
        "failed": "failed",
        "error": "failed",
        "crashed": "failed",
        "timeout": "failed",
    }
)
OUTCOMES: tuple[Outcome, ...] = tuple(STATUS_OF)
FAILURES: frozenset[str] = frozenset(OUTCOMES[6:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A file that belongs to a result, by reference."""

    name: str
    path: str
    content_type: str = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A part of a test with an outcome of its own."""

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


# Not slotted: a field that keeps its default then lives on the class alone, and
# `make` builds an instance from what is known in a third of the time.
@dataclass(frozen=True, kw_only=True)
class TestResult:
    """What became of one test.

    Attributes:
        id: Stable over runs; what history is kept by.
        outcome: See `Outcome`; `status` is CTRF's coarser word.
        duration: Seconds.
        start: Seconds since 1970, where the report says.
        suite: From the outermost group inwards.
        message: One line: why.
        trace: The whole story of a failure.
        attempts: Earlier executions, oldest first; this result is the last one.
        raw_status: The tool's own word.
        properties: Whatever else the test recorded about itself.
        extra: What a CTRF document of another tool held beyond the specification.
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
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """CTRF's word for the outcome."""
        return STATUS_OF[self.outcome]

    @property
    def failed(self) -> bool:
        """Whether it failed, in any of the ways."""
        return self.outcome in FAILURES

    @property
    def flaky(self) -> bool:
        """Whether it passed after at least one failed attempt."""
        return self.status == "passed" and any(
            attempt.outcome in FAILURES for attempt in self.attempts
        )

    def after(self, earlier: "TestResult") -> "TestResult":
        """Return this result with `earlier` counted among its attempts."""
        past = Attempt(
            number=0,
            outcome=earlier.outcome,
            duration=earlier.duration,
            start=earlier.start,
            message=earlier.message,
            trace=earlier.trace,
            stdout=earlier.stdout,
            stderr=earlier.stderr,
        )
        return dataclasses.replace(
            self, attempts=numbered((*earlier.attempts, past, *self.attempts))
        )


for _name in ("parameters", "properties", "extra"):
    setattr(TestResult, _name, MappingProxyType({}))


def make(fields: dict[str, Any]) -> TestResult:
    """Build a result from its known fields, at once; id, name, outcome must be there."""
    result = object.__new__(TestResult)
    object.__setattr__(result, "__dict__", fields)
    return result


def numbered(attempts: Iterable[Attempt]) -> tuple[Attempt, ...]:
    """Number attempts from 1."""
    return tuple(
        dataclasses.replace(attempt, number=number)
        for number, attempt in enumerate(attempts, start=1)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """What could not be read, and where.

    Attributes:
        level: `error` when results are missing or doubtful, `warning` otherwise.
    """

    path: str
    message: str
    line: int | None = None
    level: Literal["error", "warning"] = "error"

    def __str__(self) -> str:
        where = self.path if self.line is None else f"{self.path}:{self.line}"
        return f"{where}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many tests ended how; `flaky` ones are among the passed."""

    tests: int = 0
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    pending: int = 0
    other: int = 0
    flaky: int = 0

    @classmethod
    def of(cls, results: Iterable[TestResult]) -> "Counts":
        """Count results."""
        statuses: dict[str, int] = {}
        flaky = 0
        for result in results:
            statuses[result.status] = statuses.get(result.status, 0) + 1
            flaky += bool(result.attempts) and result.flaky
        return cls(tests=sum(statuses.values()), flaky=flaky, **statuses)
