"""Readers of what other runners write: one small class or function per format.

A stream format is read line by line while the runner works; a document when it ends.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from maestro_test_adapters._ctrf import report_from_ctrf
from maestro_test_adapters._events import TestStarted
from maestro_test_adapters._model import Attempt, Outcome, Step, TestResult
from maestro_test_adapters.errors import ReportError

Told = TestStarted | TestResult


class GoJsonReader:
    """`go test -json`: one JSON event a line."""

    def __init__(self) -> None:
        self._output: dict[str, list[str]] = {}
        self._begun: dict[str, float] = {}
        self._tests_of: dict[str, int] = {}

    def feed(self, line: str) -> Iterator[Told]:
        """Take one line; what is no JSON is output of the build, and left alone."""
        if not line.startswith("{"):
            return
        try:
            event = json.loads(line)
        except ValueError:
            return
        package, test = event.get("Package", ""), event.get("Test")
        key = f"{package}.{test}" if test else package
        action = event.get("Action")
        if action == "run" and test:
            at = _epoch(event.get("Time")) or time.time()
            self._begun[key] = at
            yield TestStarted(id=key, at=at)
        elif action == "output":
            self._output.setdefault(key, []).append(event.get("Output", ""))
        elif action in ("pass", "fail", "skip"):
            yield from self._ended(key, package, test, event)

    def _ended(
        self, key: str, package: str, test: str | None, event: Mapping[str, Any]
    ) -> Iterator[Told]:
        output = "".join(self._output.pop(key, ()))
        if test is None and (event["Action"] != "fail" or self._tests_of.get(package)):
            return
        self._tests_of[package] = self._tests_of.get(package, 0) + 1
        outcomes: dict[str, Outcome] = {
            "pass": "passed",
            "fail": "failed",
            "skip": "skipped",
        }
        outcome = outcomes[event["Action"]] if test else "error"
        said = [
            line.strip()
            for line in output.splitlines()
            if line.strip() and not line.strip().startswith(("===", "---"))
        ]
        place = re.match(r"(\S+\.go):(\d+):", said[0]) if said else None
        yield TestResult(
            id=key,
            name=test or package,
            outcome=outcome,
            duration=float(event.get("Elapsed") or 0.0),
            start=self._begun.pop(key, None),
            suite=(package,),
            file=place[1] if place else None,
            line=int(place[2]) if place else None,
            message=said[0] if said and outcome != "passed" else None,
            trace=output if outcome in ("failed", "error") else None,
            stdout=output,
            raw_status=str(event["Action"]),
        )

    def close(self) -> Iterable[Told]:
        """Nothing is left: a test without an end is told as crashed by the run."""
        return ()


class TapReader:
    """TAP 12 to 14, with subtests as steps and YAML blocks as the trace."""

    _line = re.compile(r"(not )?ok\b\s*(\d+)?\s*-?\s*(.*)", re.DOTALL)

    def __init__(self) -> None:
        self._pending: dict[str, Any] | None = None
        self._steps: list[Step] = []
        self._yaml: list[str] | None = None
        self._notes: list[str] = []
        self._count = 0
        self._planned: int | None = None

    def feed(self, line: str) -> Iterator[Told]:
        """Take one line."""
        text = line.strip()
        inner = line[:1] in (" ", "\t")
        if self._yaml is not None:
            if text == "...":
                assert self._pending is not None
                self._pending["trace"] = "\n".join(self._yaml)
                self._yaml = None
            else:
                self._yaml.append(line)
            return
        match = self._line.match(text)
        if inner and text == "---" and self._pending:
            self._yaml = []
        elif inner and match:
            self._steps.append(Step(name=_tap_name(match), outcome=_tap_outcome(match)))
        elif not inner and match:
            yield from self._flush()
            self._count += 1
            number = match[2] or str(self._count)
            self._pending = {
                "id": f"{number} {_tap_name(match)}".strip(),
                "name": _tap_name(match) or number,
                "outcome": _tap_outcome(match),
                "message": _tap_reason(match),
                "raw_status": "not ok" if match[1] else "ok",
                "steps": tuple(self._steps),
            }
            self._steps = []
        elif not inner and re.match(r"1\.\.\d+", text):
            self._planned = int(text[3:].split()[0])
        elif not inner and text.startswith("#") and self._pending:
            self._notes.append(text[1:].strip())
        elif not inner and text.startswith("Bail out!"):
            yield from self._flush()
            yield TestResult(
                id="bail out", name="bail out", outcome="error", message=text
            )
            self._planned = None

    def _flush(self) -> Iterator[TestResult]:
        if self._pending:
            trace = self._pending.pop("trace", None)
            if trace is None and self._pending["outcome"] == "failed":
                trace = "\n".join(self._notes) or None
            yield TestResult(**self._pending, trace=trace)
        self._pending, self._notes = None, []

    def close(self) -> Iterator[Told]:
        """Tell the last test, and those that were planned and never came."""
        yield from self._flush()
        for number in range(self._count + 1, (self._planned or 0) + 1):
            yield TestResult(
                id=str(number),
                name=str(number),
                outcome="notrun",
                message="planned, never ran",
            )


def _tap_directive(match: re.Match[str]) -> tuple[str, str]:
    found = re.search(r"(?<!\\)#\s*(skip|todo)\S*\s*(.*)", match[3], re.IGNORECASE)
    return (found[1].lower(), found[2]) if found else ("", "")


def _tap_name(match: re.Match[str]) -> str:
    text = re.split(r"(?<!\\)#\s*(?:skip|todo|time)", match[3], flags=re.IGNORECASE)[0]
    return text.strip().removesuffix(" {").replace("\\#", "#")


def _tap_outcome(match: re.Match[str]) -> Outcome:
    directive = _tap_directive(match)[0]
    if directive == "skip":
        return "skipped"
    if directive == "todo":
        return "xfailed" if match[1] else "xpassed"
    return "failed" if match[1] else "passed"


def _tap_reason(match: re.Match[str]) -> str | None:
    return _tap_directive(match)[1] or None


class LibtestJsonReader:
    """`cargo nextest run --message-format libtest-json`, and libtest's own JSON."""

    def feed(self, line: str) -> Iterator[Told]:
        """Take one line."""
        if not line.startswith("{"):
            return
        try:
            event = json.loads(line)
        except ValueError:
            return
        if event.get("type") != "test":
            return
        name = event["name"]
        if event["event"] == "started":
            yield TestStarted(id=name, at=time.time())
            return
        outcomes: dict[str, Outcome] = {
            "ok": "passed",
            "failed": "failed",
            "ignored": "skipped",
            "timeout": "timeout",
        }
        outcome = outcomes.get(event["event"])
        if outcome is None:
            return
        output = event.get("stdout", "")
        yield TestResult(
            id=name,
            name=name.rpartition("::")[2],
            suite=tuple(re.split(r"::|\$", name)[:-1]),
            outcome=outcome,
            duration=float(event.get("exec_time") or 0.0),
            message=event.get("message")
            or (_first(output) if outcome == "failed" else None),
            trace=output if outcome == "failed" else None,
            stdout=output,
            raw_status=event["event"],
        )

    def close(self) -> Iterable[Told]:
        """Nothing is left."""
        return ()


class DocumentReader:
    """Standard output that is one document: read when it has ended."""

    def __init__(
        self, name: str, read: Callable[[str, str], Iterable[TestResult]]
    ) -> None:
        self._name = name
        self._read = read
        self._lines: list[str] = []

    def feed(self, line: str) -> Iterable[Told]:
        """Take one line."""
        self._lines.append(line)
        return ()

    def close(self) -> Iterable[Told]:
        """Read the whole; lines before the document are the runner's chatter."""
        lines = self._lines
        while lines and not lines[0].lstrip().startswith(("{", "<", "[")):
            lines = lines[1:]
        text = "\n".join(lines)
        return (
            self._read(text, f"{self._name} on standard output") if text.strip() else ()
        )


def read_jest(text: str, where: str) -> Iterator[TestResult]:
    """Jest's and Vitest's JSON report."""
    document = _json(text, where)
    words: dict[str, Outcome] = {
        "passed": "passed",
        "failed": "failed",
        "pending": "skipped",
        "skipped": "skipped",
        "disabled": "skipped",
        "todo": "notrun",
    }
    for file in _list(document, "testResults", where):
        path = file.get("name", "")
        tests = file.get("assertionResults") or []
        if not tests and file.get("status") == "failed":
            yield TestResult(
                id=path,
                name=path,
                file=path,
                outcome="error",
                message=_first(file.get("message")),
                trace=file.get("message"),
            )
        for test in tests:
            failures = "\n".join(test.get("failureMessages") or ())
            line = (test.get("location") or {}).get("line")
            suite = tuple(test.get("ancestorTitles") or ())
            start = test.get("startAt") or file.get("startTime")
            yield TestResult(
                id=" > ".join((path, *suite, test["title"])),
                name=test["title"],
                file=path,
                line=line,
                suite=suite,
                outcome=words.get(test["status"], "other"),
                duration=(test.get("duration") or 0) / 1000,
                start=start / 1000 if start else None,
                message=_first(failures),
                trace=failures or None,
                raw_status=test["status"],
            )


def read_mocha(text: str, where: str) -> Iterator[TestResult]:
    """Mocha's JSON report."""
    document = _json(text, where)
    pending = {test["fullTitle"] for test in document.get("pending") or ()}
    for test in _list(document, "tests", where):
        error = test.get("err") or {}
        outcome: Outcome = "failed" if error else "passed"
        if test["fullTitle"] in pending:
            outcome = "skipped"
        suite = test["fullTitle"].removesuffix(test["title"]).strip()
        yield TestResult(
            id=f"{test.get('file') or ''} {test['fullTitle']}".strip(),
            name=test["title"],
            suite=(suite,) if suite else (),
            file=test.get("file"),
            outcome=outcome,
            duration=(test.get("duration") or 0) / 1000,
            message=_first(error.get("message")),
            trace=error.get("stack"),
            raw_status=outcome,
        )


def read_ctrf(text: str, where: str) -> Iterable[TestResult]:
    """A CTRF document."""
    try:
        return report_from_ctrf(_json(text, where)).results
    except (KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"not a CTRF document: {error!r}", path=where) from error


def read_junit(text: str, where: str) -> Iterator[TestResult]:
    """JUnit XML, with surefire's reruns as attempts."""
    for suites, element in _suites(_xml(text, where), ()):
        for case in element.findall("testcase"):
            yield _junit_case(case, suites)


def _suites(
    element: ET.Element, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], ET.Element]]:
    here = path
    if element.tag == "testsuite":
        here = (*path, element.get("name") or "")
        yield here, element
    elif element.tag == "testsuites" and element.find("testcase") is not None:
        yield path, element
    for inner in element:
        if inner.tag in ("testsuite", "testsuites"):
            yield from _suites(inner, here)


_JUNIT: dict[str, Outcome] = {
    "failure": "failed",
    "error": "error",
    "skipped": "skipped",
}
_JUNIT_AGAIN: dict[str, Outcome] = {
    "flakyFailure": "failed",
    "rerunFailure": "failed",
    "flakyError": "error",
    "rerunError": "error",
}


def _junit_case(case: ET.Element, suites: tuple[str, ...]) -> TestResult:
    outcome: Outcome = "passed"
    message = trace = None
    attempts: list[Attempt] = []
    for inner in case:
        if inner.tag in _JUNIT and outcome in ("passed", "skipped"):
            outcome = _JUNIT[inner.tag]
            message = inner.get("message") or _first(inner.text)
            trace = inner.text
        elif inner.tag in _JUNIT_AGAIN:
            attempts.append(
                Attempt(
                    number=len(attempts) + 1,
                    outcome=_JUNIT_AGAIN[inner.tag],
                    message=inner.get("message"),
                    trace=inner.findtext("stackTrace") or inner.text,
                )
            )
    classname, name = case.get("classname") or "", case.get("name") or ""
    line = case.get("line") or ""
    return TestResult(
        id=f"{classname}::{name}" if classname else name,
        name=name,
        suite=tuple(part for part in (*suites, classname) if part),
        file=case.get("file"),
        line=int(line) if line.isdigit() else None,
        outcome=outcome,
        duration=_seconds(case.get("time")),
        message=message,
        trace=trace,
        stdout=case.findtext("system-out") or "",
        stderr=case.findtext("system-err") or "",
        attempts=tuple(attempts),
        raw_status=outcome,
    )


def read_trx(text: str, where: str) -> Iterator[TestResult]:
    """Visual Studio's and `dotnet test`'s TRX."""
    root = _xml(text, where)
    space = root.tag.partition("}")[0] + "}" if root.tag.startswith("{") else ""
    classes: dict[str, str] = {}
    for unit in root.iter(f"{space}UnitTest"):
        method = unit.find(f"{space}TestMethod")
        classes[unit.get("id", "")] = (
            "" if method is None else method.get("className", "")
        )
    words: dict[str, Outcome] = {
        "Passed": "passed",
        "PassedButRunAborted": "passed",
        "Failed": "failed",
        "Error": "error",
        "Timeout": "timeout",
        "Aborted": "crashed",
        "NotExecuted": "skipped",
        "Inconclusive": "skipped",
        "NotRunnable": "notrun",
        "Pending": "notrun",
    }
    for result in root.iter(f"{space}UnitTestResult"):
        info = result.find(f"{space}Output/{space}ErrorInfo")
        cls = classes.get(result.get("testId", ""), "").partition(",")[0]
        name = result.get("testName", "")
        raw = result.get("outcome", "")
        yield TestResult(
            id=name if not cls or name.startswith(cls) else f"{cls}.{name}",
            name=name.removeprefix(f"{cls}.") if cls else name,
            suite=(cls,) if cls else (),
            outcome=words.get(raw, "other"),
            duration=_clock(result.get("duration")),
            start=_epoch(result.get("startTime")),
            message=None if info is None else info.findtext(f"{space}Message"),
            trace=None if info is None else info.findtext(f"{space}StackTrace"),
            stdout=result.findtext(f"{space}Output/{space}StdOut") or "",
            stderr=result.findtext(f"{space}Output/{space}StdErr") or "",
            raw_status=raw,
        )


STREAMS: Mapping[str, Callable[[], Any]] = {
    "go-json": GoJsonReader,
    "tap": TapReader,
    "libtest-json": LibtestJsonReader,
}
DOCUMENTS: Mapping[str, Callable[[str, str], Iterable[TestResult]]] = {
    "junit": read_junit,
    "ctrf": read_ctrf,
    "jest-json": read_jest,
    "vitest-json": read_jest,
    "mocha-json": read_mocha,
    "trx": read_trx,
}


def read_file(path: Path, reads: str) -> Iterator[TestResult]:
    """Read a report file in a known format.

    Raises:
        ReportError: The file is missing, torn or of another format.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise ReportError(error.strerror or str(error), path=str(path)) from error
    if reads in DOCUMENTS:
        yield from DOCUMENTS[reads](text, str(path))
        return
    reader = STREAMS[reads]()
    for line in text.split("\n"):
        yield from (told for told in reader.feed(line) if isinstance(told, TestResult))
    yield from (told for told in reader.close() if isinstance(told, TestResult))


def _json(text: str, where: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise ReportError(
            f"not JSON: {error.msg}", path=where, line=error.lineno
        ) from error
    if not isinstance(document, dict):
        raise ReportError("expected a JSON object", path=where)
    return document


def _list(document: Mapping[str, Any], key: str, where: str) -> list[Any]:
    found = document.get(key)
    if not isinstance(found, list):
        raise ReportError(f"expected a list under {key!r}", path=where)
    return found


def _xml(text: str, where: str) -> ET.Element:
    if "<!DOCTYPE" in text[:2000]:
        raise ReportError("a DOCTYPE is refused", path=where)
    try:
        return ET.fromstring(text)  # noqa: S314 - no DOCTYPE, so no entities
    except ET.ParseError as error:
        raise ReportError(
            f"not XML: {error.msg}", path=where, line=error.position[0]
        ) from error


def _first(text: str | None) -> str | None:
    for line in (text or "").splitlines():
        if line.strip():
            return line.strip()
    return None


def _seconds(text: str | None) -> float:
    try:
        return float((text or "0").replace(",", ""))
    except ValueError:
        return 0.0


def _clock(text: str | None) -> float:
    """Return the seconds of `00:00:01.5000000`."""
    try:
        hours, minutes, seconds = (text or "").split(":")
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    except ValueError:
        return 0.0


def _epoch(text: str | None) -> float | None:
    """Return the seconds since 1970 of an ISO time; nanoseconds are cut."""
    if not text:
        return None
    try:
        return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text)).timestamp()
    except ValueError:
        return None
