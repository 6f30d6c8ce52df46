"""Reports on disk: CTRF, the JSONL stream, JUnit XML."""

import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from maestro_test_adapters._ctrf import (
    from_ctrf,
    report_from_ctrf,
    report_to_ctrf,
    to_ctrf,
)
from maestro_test_adapters._model import Report, TestResult
from maestro_test_adapters.errors import ArgumentError, ReportError

MAX_REPORT_BYTES = 1_000_000_000


def write_report(report: Report, path: Path) -> Path:
    """Write a report in the format that the suffix names, whole or not at all."""
    writers: dict[str, Callable[[Report], str]] = {
        ".json": _ctrf_text,
        ".jsonl": _stream_text,
        ".xml": junit_text,
    }
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise ArgumentError(
            f"cannot tell the format of {str(path)!r}: expected one of "
            f"{', '.join(writers)}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, writer(report).encode("utf-8", "backslashreplace"))
    return path


def write_whole(path: Path, data: bytes) -> None:
    """Write a file by way of a neighbour, so that no half of it is ever seen."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0o22)
    os.umask(mask)
    return mask


def read_report(path: Path) -> Report:
    """Read a CTRF document or a stream of CTRF test objects."""
    try:
        if path.stat().st_size > MAX_REPORT_BYTES:
            raise ReportError(f"larger than {MAX_REPORT_BYTES} bytes", path=str(path))
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise ReportError(error.strerror or str(error), path=str(path)) from error
    if path.suffix.lower() == ".jsonl":
        return _read_stream(text, path)
    try:
        return report_from_ctrf(json.loads(text))
    except json.JSONDecodeError as error:
        raise ReportError(
            f"not JSON: {error.msg}", path=str(path), line=error.lineno
        ) from error
    except (KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"not a CTRF document: {error!r}", path=str(path)) from error


def _read_stream(text: str, path: Path) -> Report:
    """Read the lines of a stream; a torn last line is what a crash leaves, and fine."""
    results: list[TestResult] = []
    head: dict[str, Any] = {"tool": "unknown"}
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            event = json.loads(line)
            kind = event["e"]
            if kind == "end":
                results.append(from_ctrf(event["test"]))
            elif kind == "session":
                head["tool"] = event["tool"]
                head["tool_version"] = event.get("version", "")
                head["started"] = event.get("at", 0.0)
            elif kind == "finish":
                head["exit_code"] = event.get("exit")
                head["finished"] = event.get("at", 0.0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines):
                head["warnings"] = (f"{path}:{number}: the last line is torn",)
                break
            raise ReportError(
                f"not a line of a result stream: {error!r}", path=str(path), line=number
            ) from error
    latest: dict[str, TestResult] = {}
    for result in results:
        earlier = latest.pop(result.id, None)
        latest[result.id] = result.after(earlier) if earlier else result
    return Report(results=tuple(latest.values()), **head)


def _ctrf_text(report: Report) -> str:
    return json.dumps(report_to_ctrf(report), ensure_ascii=False, indent=1) + "\n"


def _stream_text(report: Report) -> str:
    lines: list[dict[str, Any]] = [
        {
            "e": "session",
            "tool": report.tool,
            "version": report.tool_version,
            "at": report.started,
        }
    ]
    lines += [{"e": "end", "test": to_ctrf(result)} for result in report.results]
    lines.append({"e": "finish", "exit": report.exit_code, "at": report.finished})
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)


_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def _xml(text: str) -> str:
    """Escape text; characters that XML 1.0 forbids are shown as `#x1B`."""
    return escape(_ILLEGAL.sub(lambda match: f"#x{ord(match[0]):02X}", text))


def _attribute(text: str) -> str:
    return quoteattr(_ILLEGAL.sub(lambda match: f"#x{ord(match[0]):02X}", text))


def junit_text(report: Report) -> str:
    """Return a report as JUnit XML in the dialect of Maven's surefire.

    Earlier failed attempts are `<flakyFailure>` on a test that passed in the end and
    `<rerunFailure>` on one that did not, as Jenkins and most readers know them.
    """
    results = report.results
    errors = sum(
        result.outcome in ("error", "crashed", "timeout") for result in results
    )
    failures = sum(result.outcome == "failed" for result in results)
    skipped = sum(result.status in ("skipped", "pending") for result in results)
    totals = (
        f'tests="{len(results)}" failures="{failures}" errors="{errors}" '
        f'skipped="{skipped}" time="{report.duration:.6f}"'
    )
    name = _attribute(report.tool or "tests")
    parts = [
        '<?xml version="1.0" encoding="utf-8"?>\n',
        f"<testsuites {totals}>\n<testsuite name={name} {totals}>\n",
    ]
    parts += [_junit_case(result) for result in results]
    parts += [f"<system-err>{_xml(text)}</system-err>\n" for text in report.problems]
    parts.append("</testsuite>\n</testsuites>\n")
    return "".join(parts)


def _junit_case(result: TestResult) -> str:
    classname = ".".join(result.suite) or (result.file or "")
    where = f" file={_attribute(result.file)}" if result.file else ""
    where += f' line="{result.line}"' if result.line is not None else ""
    parts = [
        (
            f"<testcase classname={_attribute(classname)} "
            f"name={_attribute(result.name or result.id)} "
            f'time="{result.duration:.6f}"{where}>\n'
        ),
        _properties(result),
    ]
    kind = {
        "failed": "failure",
        "error": "error",
        "crashed": "error",
        "timeout": "error",
        "skipped": "skipped",
        "xfailed": "skipped",
        "notrun": "skipped",
    }.get(result.outcome)
    if kind:
        parts.append(_verdict(kind, result.outcome, result.message, result.trace))
    again = "flakyFailure" if result.status == "passed" else "rerunFailure"
    parts += [
        _verdict(again, attempt.outcome, attempt.message, attempt.trace)
        for attempt in result.attempts
        if attempt.outcome in ("failed", "error", "crashed", "timeout")
    ]
    if result.stdout:
        parts.append(f"<system-out>{_xml(result.stdout)}</system-out>\n")
    errors = result.stderr + (("\n" if result.stderr else "") + result.log)
    if errors.strip():
        parts.append(f"<system-err>{_xml(errors)}</system-err>\n")
    parts.append("</testcase>\n")
    return "".join(parts)


def _properties(result: TestResult) -> str:
    pairs = [("maestro.id", result.id), ("maestro.outcome", result.outcome)]
    pairs += [("tag", tag) for tag in result.tags]
    pairs += [("attachment", one.path) for one in result.attachments]
    pairs += [(name, str(value)) for name, value in result.properties.items()]
    inner = "".join(
        f"<property name={_attribute(name)} value={_attribute(value)}/>"
        for name, value in pairs
    )
    return f"<properties>{inner}</properties>\n"


def _verdict(kind: str, outcome: str, message: str | None, trace: str | None) -> str:
    return (
        f"<{kind} type={_attribute(outcome)} message={_attribute(message or '')}>"
        f"{_xml(trace or '')}</{kind}>\n"
    )
