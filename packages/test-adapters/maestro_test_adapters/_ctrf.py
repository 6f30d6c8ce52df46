"""Results as CTRF and back, without loss.

CTRF (ctrf.io, specification 0.0.0) refuses unknown keys, has no `error` status and
counts in whole milliseconds. What it cannot say goes into its `extra`, under keys
that start with `maestro.`; `from_ctrf(to_ctrf(result)) == result`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from maestro_test_adapters._model import (
    STATUS_OF,
    Attachment,
    Attempt,
    Outcome,
    Report,
    Step,
    TestResult,
)

SPEC_VERSION = "0.0.0"


def to_ctrf(result: TestResult) -> dict[str, Any]:
    """Return one result as a CTRF test object."""
    extra: dict[str, Any] = {
        "maestro.id": result.id,
        "maestro.outcome": result.outcome,
        "maestro.seconds": result.duration,
    }
    test: dict[str, Any] = {
        "name": result.name or result.id or "(unnamed)",
        "status": result.status,
        "duration": _milliseconds(result.duration),
        "rawStatus": result.outcome if result.raw_status is None else result.raw_status,
    }
    if result.raw_status is None or not result.name:
        extra["maestro.absent"] = [
            key
            for key, gone in (
                ("rawStatus", result.raw_status is None),
                ("name", not result.name),
            )
            if gone
        ]
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
    _put(test, "attachments", [_attachment(one) for one in result.attachments])
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
    absent = extra.get("maestro.absent", ())
    suite = test.get("suite") or ()
    if isinstance(suite, str):  # before the draft of 2025
        suite = (suite,)
    start = extra.get("maestro.start")
    if start is None and test.get("start") is not None:
        start = test["start"] / 1000
    return TestResult(
        id=extra.get("maestro.id") or "::".join([*suite, test["name"]]),
        name="" if "name" in absent else test["name"],
        outcome=_outcome(test, extra),
        duration=extra.get("maestro.seconds", (test.get("duration") or 0) / 1000),
        start=start,
        file=test.get("filePath"),
        line=test.get("line"),
        suite=tuple(suite),
        message=test.get("message"),
        trace=test.get("trace"),
        stdout=_joined(test.get("stdout")),
        stderr=_joined(test.get("stderr")),
        log=extra.get("maestro.log", ""),
        tags=tuple(test.get("tags") or ()),
        parameters=dict(test.get("parameters") or {}),
        attachments=tuple(
            Attachment(name=a["name"], path=a["path"], content_type=a["contentType"])
            for a in test.get("attachments") or ()
        ),
        attempts=tuple(_read_attempt(a) for a in test.get("retryAttempts") or ()),
        steps=tuple(_read_step(step) for step in test.get("steps") or ()),
        raw_status=None if "rawStatus" in absent else test.get("rawStatus"),
        worker=test.get("threadId"),
        properties=dict(extra.get("maestro.properties") or {}),
    )


def report_to_ctrf(report: Report) -> dict[str, Any]:
    """Return a whole report as a CTRF document."""
    statuses = [result.status for result in report.results]
    tool: dict[str, Any] = {"name": report.tool or "unknown"}
    _put(tool, "version", report.tool_version or None)
    extra: dict[str, Any] = {"maestro.exit_code": report.exit_code}
    _put(extra, "maestro.problems", list(report.problems))
    _put(extra, "maestro.warnings", list(report.warnings))
    _put(extra, "maestro.runner_counts", dict(report.runner_counts))
    _put(extra, "maestro.environment", dict(report.environment))
    extra["maestro.started"] = report.started
    extra["maestro.finished"] = report.finished
    return {
        "reportFormat": "CTRF",
        "specVersion": SPEC_VERSION,
        "generatedBy": "maestro-test-adapters",
        "results": {
            "tool": tool,
            "summary": {
                "tests": len(statuses),
                "passed": statuses.count("passed"),
                "failed": statuses.count("failed"),
                "skipped": statuses.count("skipped"),
                "pending": statuses.count("pending"),
                "other": statuses.count("other"),
                "flaky": sum(result.flaky for result in report.results),
                "start": _milliseconds(report.started),
                "stop": _milliseconds(report.finished),
                "duration": _milliseconds(report.duration),
            },
            "tests": [to_ctrf(result) for result in report.results],
            "extra": extra,
        },
    }


def report_from_ctrf(document: Mapping[str, Any]) -> Report:
    """Return the report that a CTRF document tells of.

    Raises:
        KeyError: A key that CTRF demands is missing.
    """
    results = document["results"]
    extra = results.get("extra") or {}
    summary = results.get("summary") or {}
    return Report(
        tool=results["tool"]["name"],
        tool_version=results["tool"].get("version", ""),
        results=tuple(from_ctrf(test) for test in results["tests"]),
        started=extra.get("maestro.started", (summary.get("start") or 0) / 1000),
        finished=extra.get("maestro.finished", (summary.get("stop") or 0) / 1000),
        exit_code=extra.get("maestro.exit_code"),
        problems=tuple(extra.get("maestro.problems") or ()),
        warnings=tuple(extra.get("maestro.warnings") or ()),
        environment=dict(extra.get("maestro.environment") or {}),
        runner_counts=dict(extra.get("maestro.runner_counts") or {}),
    )


def _outcome(test: Mapping[str, Any], extra: Mapping[str, Any]) -> Outcome:
    ours = extra.get("maestro.outcome")
    if ours in STATUS_OF:
        return cast("Outcome", ours)
    status = test["status"]
    if status == "pending":
        return "notrun"
    return cast("Outcome", status if status in STATUS_OF else "other")


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


def _read_attempt(made: Mapping[str, Any]) -> Attempt:
    extra = made.get("extra") or {}
    start = extra.get("maestro.start")
    if start is None and made.get("start") is not None:
        start = made["start"] / 1000
    return Attempt(
        number=made["attempt"],
        outcome=_outcome(made, extra),
        duration=extra.get("maestro.seconds", (made.get("duration") or 0) / 1000),
        start=start,
        message=made.get("message"),
        trace=made.get("trace"),
        stdout=_joined(made.get("stdout")),
        stderr=_joined(made.get("stderr")),
    )


def _step(step: Step) -> dict[str, Any]:
    extra: dict[str, Any] = {"maestro.outcome": step.outcome}
    _put(extra, "maestro.message", step.message)
    return {"name": step.name, "status": STATUS_OF[step.outcome], "extra": extra}


def _read_step(made: Mapping[str, Any]) -> Step:
    extra = made.get("extra") or {}
    return Step(
        name=made["name"],
        outcome=_outcome(made, extra),
        message=extra.get("maestro.message"),
    )


def _attachment(attachment: Attachment) -> dict[str, Any]:
    return {
        "name": attachment.name,
        "contentType": attachment.content_type,
        "path": attachment.path,
    }


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _lines(text: str) -> list[str]:
    # Split on "\n" alone: splitlines() would also eat form feeds and the like.
    return text.split("\n") if text else []


def _joined(lines: Sequence[str] | str | None) -> str:
    if lines is None:
        return ""
    return lines if isinstance(lines, str) else "\n".join(lines)


def _put(target: dict[str, Any], key: str, value: object) -> None:
    """Set a key unless the value is empty; "" is a value, None and [] are not."""
    if value is not None and value not in ([], {}):
        target[key] = value
