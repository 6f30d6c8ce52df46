"""Read test reports of any tool, keep their history, and say whether to merge."""

from typing import TYPE_CHECKING, Any

from ._model import Attachment, Attempt, Counts, Diagnostic, Outcome, Step, TestResult
from .errors import (
    HistoryError,
    ReportError,
    ResultsError,
    RulesError,
    RunExists,
    RunNotFound,
)

if TYPE_CHECKING:
    from ._aggregator import Comparison, Flake, Gate, Run, TestResultAggregator, Trend
    from ._cluster import FailureCluster, cluster
    from ._ctrf import results_of
    from ._read import read_report, sniff
    from ._rules import GateResult, GateRules, Owners, Quarantine, Quarantined
    from ._stats import DurationChange, Interval, Point, Priors, Verdict, judge, wilson
    from ._store import Execution, History, RunInfo
    from ._write import Merged, merge, write_report

_LAZY = {
    "Comparison": "_aggregator", "Flake": "_aggregator", "Gate": "_aggregator",
    "Run": "_aggregator", "TestResultAggregator": "_aggregator", "Trend": "_aggregator",
    "FailureCluster": "_cluster", "cluster": "_cluster", "results_of": "_ctrf",
    "read_report": "_read", "sniff": "_read", "GateResult": "_rules", "GateRules": "_rules",
    "Owners": "_rules", "Quarantine": "_rules", "Quarantined": "_rules",
    "DurationChange": "_stats", "Interval": "_stats", "Point": "_stats", "Priors": "_stats",
    "Verdict": "_stats", "judge": "_stats", "wilson": "_stats", "Execution": "_store",
    "History": "_store", "RunInfo": "_store", "Merged": "_write", "merge": "_write",
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
