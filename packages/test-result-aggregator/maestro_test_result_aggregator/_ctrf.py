"""Results as CTRF and back, without loss.

CTRF (ctrf.io, specification 0.0.0) refuses unknown keys, has no `error` status and
counts in whole milliseconds. What it cannot say goes into its `extra`, under keys
that start with `maestro.`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from ._model import (
    STATUS_OF,
    Attachment,
    Attempt,
    Counts,
    Outcome,
    Step,
    TestResult,
    make,
)

_WORDS: Mapping[str, Outcome] = {"pending": "notrun"}


def to_ctrf(result: TestResult) -> dict[str, Any]:
    """Return one result as a CTRF test object."""
    extra: dict[str, Any] = {
        **result.extra,
        "maestro.id": result.id,
        "maestro.outcome": result.outcome,
        "maestro.seconds": result.duration,
    }
    test: dict[str, Any] = {
        "name": result.name or result.id or "(unnamed)",
        "status": result.status,
        "duration": _milliseconds(result.duration),
        "rawStatus": result.raw_status or result.outcome,
    }
    absent = [key for key, gone in (
        ("rawStatus", result.raw_status is None), ("name", not result.name),
    ) if gone]  # fmt: skip
    _put(extra, "maestro.absent", absent)
    if result.start is not None:
        extra["maestro.start"] = result.start
        test["start"] = _milliseconds(result.start)
        test["stop"] = _milliseconds(result.start + result.duration)
    _put(test, "suite", list(result.suite))
    _put(test, "filePath", result.file)
    _put(test, "line", result.line)
    _put(test, "message", result.message)
    _put(test, "trace", result.trace)
    _put(test, "stdout", _lines(result.stdout))
    _put(test, "stderr", _lines(result.stderr))
    _put(test, "tags", list(result.tags))
    _put(test, "parameters", dict(result.parameters))
    _put(test, "threadId", result.worker)
    _put(test, "attachments", [
        {"name": a.name, "contentType": a.content_type, "path": a.path}
        for a in result.attachments
    ])  # fmt: skip
    _put(test, "steps", [_step(step) for step in result.steps])
    if result.attempts:
        test["retries"] = len(result.attempts)
        test["retryAttempts"] = [_attempt(attempt) for attempt in result.attempts]
        test["flaky"] = result.flaky
    _put(extra, "maestro.log", result.log or None)
    _put(extra, "maestro.properties", dict(result.properties))
    test["extra"] = extra
    return test


def from_ctrf(test: Mapping[str, Any]) -> TestResult:
    """Return the result that a CTRF test object tells of, from whatever tool.

    Raises:
        KeyError: A key that CTRF demands is missing.
    """
    extra = test.get("extra") or {}
    suite = test.get("suite") or ()
    if isinstance(suite, str):  # before the draft of 2025
        suite = (suite,)
    name = str(test["name"])
    fields: dict[str, Any] = {
        "id": extra.get("maestro.id")
        or (name if suite and name.startswith(suite[0]) else "::".join([*suite, name])),
        "name": name,
        "outcome": _outcome(test, extra),
        "duration": _seconds(test, extra),
        "suite": tuple(suite),
    }
    absent = extra.get("maestro.absent", ())
    if "name" in absent:
        fields["name"] = ""
    for ours, theirs in (
        ("file", "filePath"), ("line", "line"), ("message", "message"),
        ("trace", "trace"), ("worker", "threadId"), ("raw_status", "rawStatus"),
    ):  # fmt: skip
        if test.get(theirs) is not None and theirs not in absent:
            fields[ours] = test[theirs]
    for key in ("stdout", "stderr"):
        if test.get(key):
            fields[key] = _joined(test[key])
    start = _start(test, extra)
    if start is not None:
        fields["start"] = start
    if test.get("tags"):
        fields["tags"] = tuple(test["tags"])
    if test.get("parameters"):
        fields["parameters"] = dict(test["parameters"])
    _read_parts(test, fields)
    if extra.get("maestro.log"):
        fields["log"] = extra["maestro.log"]
    if extra.get("maestro.properties"):
        fields["properties"] = dict(extra["maestro.properties"])
    rest = {key: v for key, v in extra.items() if not key.startswith("maestro.")}
    if rest:
        fields["extra"] = rest
    return make(fields)


def _read_parts(test: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Read what a test holds several of: attachments, attempts, steps."""
    if test.get("attachments"):
        fields["attachments"] = tuple(
            Attachment(
                name=a["name"],
                path=a["path"],
                content_type=a.get("contentType", "application/octet-stream"),
            )
            for a in test["attachments"]
        )
    if test.get("retryAttempts"):
        fields["attempts"] = tuple(
            _read_attempt(made, number)
            for number, made in enumerate(test["retryAttempts"], start=1)
        )
    elif test.get("flaky") and test.get("retries"):
        # Attempts counted but not told: they failed, or it would not be flaky.
        fields["attempts"] = tuple(
            Attempt(number=n + 1, outcome="failed")
            for n in range(min(test["retries"], 50))
        )
    if test.get("steps"):
        fields["steps"] = tuple(
            Step(
                name=made["name"],
                outcome=_outcome(made, made.get("extra") or {}),
                message=(made.get("extra") or {}).get("maestro.message"),
            )
            for made in test["steps"]
        )


def document(results: Iterable[TestResult], *, tool: str) -> dict[str, Any]:
    """Return results as a whole CTRF document."""
    tests = list(results)
    counts = Counts.of(tests)
    starts = [test.start for test in tests if test.start is not None]
    stops = [t.start + t.duration for t in tests if t.start is not None]
    summary: dict[str, Any] = {
        name: getattr(counts, name) for name in Counts.__dataclass_fields__
    }
    summary["start"] = _milliseconds(min(starts, default=0.0))
    summary["stop"] = _milliseconds(max(stops, default=0.0))
    summary["duration"] = _milliseconds(sum(test.duration for test in tests))
    return {
        "reportFormat": "CTRF",
        "specVersion": "0.0.0",
        "generatedBy": "maestro-test-result-aggregator",
        "results": {
            "tool": {"name": tool},
            "summary": summary,
            "tests": [to_ctrf(test) for test in tests],
        },
    }


def results_of(frame: Any) -> list[TestResult]:
    """Return the results that a `results` frame was made of, whole."""
    return [from_ctrf(test) for test in frame["ctrf"]]


def _outcome(test: Mapping[str, Any], extra: Mapping[str, Any]) -> Outcome:
    ours = extra.get("maestro.outcome")
    if ours in STATUS_OF:
        return cast("Outcome", ours)
    status = test["status"]
    if status in STATUS_OF:
        return cast("Outcome", status)
    return _WORDS.get(status, "other")


def _seconds(test: Mapping[str, Any], extra: Mapping[str, Any]) -> float:
    return float(extra.get("maestro.seconds", (test.get("duration") or 0) / 1000))


def _start(test: Mapping[str, Any], extra: Mapping[str, Any]) -> float | None:
    if extra.get("maestro.start") is not None:
        return float(extra["maestro.start"])
    return None if test.get("start") is None else float(test["start"]) / 1000


def _attempt(attempt: Attempt) -> dict[str, Any]:
    made: dict[str, Any] = {
        "attempt": attempt.number,
        "status": STATUS_OF[attempt.outcome],
        "duration": _milliseconds(attempt.duration),
        "extra": {
            "maestro.outcome": attempt.outcome,
            "maestro.seconds": attempt.duration,
        },
    }
    if attempt.start is not None:
        made["extra"]["maestro.start"] = attempt.start
        made["start"] = _milliseconds(attempt.start)
        made["stop"] = _milliseconds(attempt.start + attempt.duration)
    _put(made, "message", attempt.message)
    _put(made, "trace", attempt.trace)
    _put(made, "stdout", _lines(attempt.stdout))
    _put(made, "stderr", _lines(attempt.stderr))
    return made


def _read_attempt(made: Mapping[str, Any], number: int) -> Attempt:
    extra = made.get("extra") or {}
    return Attempt(
        number=made.get("attempt", number),
        outcome=_outcome(made, extra),
        duration=_seconds(made, extra),
        start=_start(made, extra),
        message=made.get("message"),
        trace=made.get("trace"),
        stdout=_joined(made.get("stdout") or ""),
        stderr=_joined(made.get("stderr") or ""),
    )


def _step(step: Step) -> dict[str, Any]:
    extra: dict[str, Any] = {"maestro.outcome": step.outcome}
    _put(extra, "maestro.message", step.message)
    return {"name": step.name, "status": STATUS_OF[step.outcome], "extra": extra}


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _lines(text: str) -> list[str]:
    # Split on "\n" alone: splitlines() would also eat form feeds and the like.
    return text.split("\n") if text else []


def _joined(lines: Sequence[str] | str) -> str:
    return lines if isinstance(lines, str) else "\n".join(lines)


def _put(target: dict[str, Any], key: str, value: object) -> None:
    """Set a key unless the value is empty; "" is a value, None and [] are not."""
    if value is not None and value not in ([], {}):
        target[key] = value
