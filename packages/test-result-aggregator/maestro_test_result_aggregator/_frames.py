"""Typed pandas frames. Needs the `analytics` extra."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ._ctrf import to_ctrf
from ._model import OUTCOMES

if TYPE_CHECKING:
    from ._aggregator import TestResultAggregator

try:
    import numpy as np
    import pandas as pd
except ImportError as error:
    raise ImportError(
        'data frames need pandas: pip install "maestro-test-result-aggregator[analytics]"'
    ) from error

_CLASSES = [
    "flaky",
    "broken",
    "new-failure",
    "fixed",
    "outage",
    "not-enough-data",
    "healthy",
]
_DTYPES: dict[str, dict[str, Any]] = {
    "results": {
        "test": "string", "run": "string", "outcome": pd.CategoricalDtype(list(OUTCOMES)),
        "duration": "float64", "started": "datetime64[us, UTC]", "file": "string", "line": "Int64",
        "attempts": "int64", "flaky": "bool", "message": "string", "ctrf": "object",
    },
    "runs": {
        "run": "string", "started": "datetime64[us, UTC]", "commit": "string", "branch": "string",
        "tests": "int64", "passed": "int64", "failed": "int64", "skipped": "int64", "pending": "int64",
        "other": "int64", "flaky": "int64", "duration": "float64",
    },
    "flaky": {
        "test": "string", "score": "float64", "rate": "float64", "rate_low": "float64",
        "rate_high": "float64", "class": pd.CategoricalDtype(_CLASSES), "failures": "int64",
        "seen": "int64", "file": "string",
    },
    "durations": {"test": "string", "run": "string", "duration": "float64"},
}  # fmt: skip


def frame(agg: "TestResultAggregator", what: str, **options: Any) -> Any:
    """Return a frame of the documented columns and types, empty ones too."""
    makers: dict[str, Callable[..., Any]] = {
        "results": _results,
        "runs": _runs,
        "flaky": _flaky,
        "durations": _durations,
    }
    if what not in makers:
        raise ValueError(f"no frame {what!r}; known are {', '.join(makers)}")
    return _typed(what, makers[what](agg, **options))


def _typed(what: str, rows: list[tuple[Any, ...]]) -> Any:
    dtypes = _DTYPES[what]
    columns: list[Any] = list(zip(*rows, strict=True)) if rows else [()] * len(dtypes)
    made = {}
    for (name, dtype), column in zip(dtypes.items(), columns, strict=True):
        if str(dtype).startswith("datetime"):
            micros = [None if v is None else round(v * 1e6) for v in column]
            made[name] = pd.to_datetime(
                pd.Series(micros, dtype="Int64"), unit="us", utc=True
            ).astype(dtype)
        else:
            values = (
                np.array(column, dtype="float64")
                if dtype == "float64"
                else list(column)
            )
            made[name] = pd.Series(values, dtype=dtype)
    return pd.DataFrame(made)


def _results(
    agg: "TestResultAggregator", *, last: int = 1, run_id: str | None = None
) -> list[tuple[Any, ...]]:
    names = [run_id] if run_id else [r.run_id for r in agg.store.runs(last=last)]
    return [
        (r.id, name, r.outcome, r.duration, r.start, r.file, r.line, len(r.attempts) + 1, r.flaky, r.message, to_ctrf(r))
        for name in names for r in agg.store.results(name)
    ]  # fmt: skip


def _runs(
    agg: "TestResultAggregator", *, last: int | None = None, branch: str | None = None
) -> list[tuple[Any, ...]]:
    return [
        (r.run_id, r.started, r.commit, r.branch, r.counts.tests, r.counts.passed, r.counts.failed,
         r.counts.skipped, r.counts.pending, r.counts.other, r.counts.flaky, r.duration)
        for r in agg.store.runs(last=last, branch=branch)
    ]  # fmt: skip


def _flaky(agg: "TestResultAggregator", **options: Any) -> list[tuple[Any, ...]]:
    options.setdefault("classes", None)
    return [
        (
            f.test,
            f.score,
            f.rate.value,
            f.rate.low,
            f.rate.high,
            f.class_,
            f.failures,
            f.seen,
            f.file,
        )
        for f in agg.flaky(**options)
    ]


def _durations(
    agg: "TestResultAggregator", *, last: int = 100, branch: str | None = None
) -> list[tuple[Any, ...]]:
    runs = agg.store.runs(last=last, branch=branch)
    names, keys = {r.number: r.run_id for r in runs}, agg.store.keys()
    return [(keys[t][0], names[r], us / 1e6) for t, r, us in agg.store.durations(runs)]
