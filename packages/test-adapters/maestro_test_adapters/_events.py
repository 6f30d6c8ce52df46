"""What a run says while it goes on."""

from dataclasses import dataclass
from typing import Literal

from maestro_test_adapters._model import Report, TestCase, TestResult


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """The runner is up.

    Attributes:
        cases: The tests that are going to run; empty where the runner does not say.
    """

    tool: str
    tool_version: str = ""
    cases: tuple[TestCase, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TestStarted:
    """A test begins."""

    __test__ = False

    id: str
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TestFinished:
    """A test ended.

    Attributes:
        attempt: 1 for the first execution.
        will_retry: Whether the test is going to be tried again.
    """

    __test__ = False

    result: TestResult
    attempt: int = 1
    will_retry: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """Text that the runner wrote, as it came."""

    stream: Literal["stdout", "stderr"]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunWarning:
    """Something that deserves a look but fails no test."""

    text: str
    test: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """The run is over; nothing of it is left running."""

    report: Report


Event = RunStarted | TestStarted | TestFinished | Output | RunWarning | RunFinished
