"""Read test reports of any tool, keep their history, and say whether to merge."""

from typing import TYPE_CHECKING, Any

from ._model import Attachment, Attempt, Counts, Diagnostic, Outcome, Step, TestResult
from .errors import (
    HistoryError,
    InvalidArgument,
    ReportError,
    ResultsError,
    RulesError,
    RunExists,
    RunNotFound,
)

if TYPE_CHECKING:
    from ._aggregator import TestResultAggregator
    from ._cluster import FailureCluster, cluster
    from ._compare import Comparison, Trend
    from ._ctrf import results_of
    from ._flaky import Point, Priors, Verdict, judge
    from ._gate import Gate
    from ._judged import Flake
    from ._read import read_report, sniff
    from ._rules import GateResult, GateRules, Owners, Quarantine, Quarantined
    from ._run import Run
    from ._runs import Execution, RunInfo
    from ._stats import DurationChange, Interval, wilson
    from ._store import History
    from ._write import Merged, merge, write_report

_LAZY = {
    "Comparison": "_compare", "Flake": "_judged", "Gate": "_gate",
    "Run": "_run", "TestResultAggregator": "_aggregator", "Trend": "_compare",
    "FailureCluster": "_cluster", "cluster": "_cluster", "results_of": "_ctrf",
    "read_report": "_read", "sniff": "_read", "GateResult": "_rules", "GateRules": "_rules",
    "Owners": "_rules", "Quarantine": "_rules", "Quarantined": "_rules",
    "DurationChange": "_stats", "Interval": "_stats", "Point": "_flaky", "Priors": "_flaky",
    "Verdict": "_flaky", "judge": "_flaky", "wilson": "_stats", "Execution": "_runs",
    "History": "_store", "RunInfo": "_runs", "Merged": "_write", "merge": "_write",
    "write_report": "_write",
}  # fmt: skip

__all__ = [
    "Attachment",
    "Attempt",
    "Comparison",
    "Counts",
    "Diagnostic",
    "DurationChange",
    "Execution",
    "FailureCluster",
    "Flake",
    "Gate",
    "GateResult",
    "GateRules",
    "History",
    "HistoryError",
    "Interval",
    "InvalidArgument",
    "Merged",
    "Outcome",
    "Owners",
    "Point",
    "Priors",
    "Quarantine",
    "Quarantined",
    "ReportError",
    "ResultsError",
    "RulesError",
    "Run",
    "RunExists",
    "RunInfo",
    "RunNotFound",
    "Step",
    "TestResult",
    "TestResultAggregator",
    "Trend",
    "Verdict",
    "cluster",
    "judge",
    "merge",
    "read_report",
    "results_of",
    "sniff",
    "wilson",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
