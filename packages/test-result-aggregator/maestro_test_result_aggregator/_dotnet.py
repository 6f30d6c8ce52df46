"""NUnit 2 and 3, xUnit.net v2 and v3, and Visual Studio's TRX."""

from collections.abc import Iterator
from typing import Any

from ._junit import first_line, stable
from ._model import Attachment, Outcome, TestResult, make
from ._source import Source, moment, seconds
from ._xml import Node, nodes

_NUNIT: dict[str, Outcome] = {
    "passed": "passed", "success": "passed", "failed": "failed", "failure": "failed",
    "error": "error", "cancelled": "error", "invalid": "error", "notrunnable": "error",
    "skipped": "skipped", "ignored": "skipped", "explicit": "skipped",
    "inconclusive": "other", "warning": "passed",
}  # fmt: skip
_XUNIT: dict[str, Outcome] = {
    "pass": "passed", "fail": "failed", "skip": "skipped", "notrun": "notrun",
}  # fmt: skip
_TRX: dict[str, Outcome] = {
    "passed": "passed", "failed": "failed", "error": "error", "timeout": "timeout",
    "aborted": "crashed", "notexecuted": "skipped", "notrunnable": "error",
    "inconclusive": "other", "pending": "notrun", "inprogress": "crashed",
    "disconnected": "crashed", "warning": "passed", "completed": "passed",
    "passedbutrunaborted": "passed",
}  # fmt: skip


def _time(source: Source, text: str) -> float:
    try:
        return seconds(text)
    except ValueError:
        source.tell(f"duration {text!r} is not a number; read as 0", warn=True)
        return 0.0


def _filled(fields: dict[str, Any]) -> TestResult:
    return make({k: v for k, v in fields.items() if v not in (None, "", (), {})
                 or k in ("id", "name", "duration")})  # fmt: skip


def read_nunit(source: Source) -> Iterator[TestResult]:
    """Yield the results of an NUnit 2 or 3 report."""
    for node in nodes(source, frozenset({"test-case"})):
        three = bool(node.get("fullname"))
        word = node.get("result") or (
            "Ignored" if node.get("executed") == "False" else ""
        )
        label = node.get("label")
        outcome = _NUNIT.get(label.lower()) or _NUNIT.get(word.lower(), "other")
        if word.lower() == "failed" and outcome == "passed":
            outcome = "failed"
        if "timeout" in label.lower():
            outcome = "timeout"
        full = node.get("fullname") or node.get("name")
        message = node.textat("failure", "message") or node.textat("reason", "message")
        yield _filled({
            "id": stable(full), "name": node.get("name") if three else full.rpartition(".")[2] or full,
            "outcome": outcome,
            "duration": _time(source, node.get("duration") or node.get("time")),
            "start": moment(node.get("start-time").replace("Z", "+00:00")),
            "suite": tuple(n.get("name") for n in node.above("test-suite") if n.get("name")),
            "message": first_line(message), "trace": _joined(message, node.textat("failure", "stack-trace")),
            "stdout": node.textat("output"), "raw_status": label or word,
            "tags": tuple(p.get("value") for p in _properties(node) if p.get("name") == "Category"),
            "properties": {p.get("name"): p.get("value") for p in _properties(node) if p.get("name") != "Category"},
            "attachments": tuple(
                Attachment(name=a.textat("description") or a.textat("filePath"), path=a.textat("filePath"))
                for a in (node.child("attachments") or node).all("attachment")
            ),
        })  # fmt: skip


def _properties(node: Node) -> list[Node]:
    box = node.child("properties")
    return list(box.all("property")) if box else []


def _joined(message: str, trace: str) -> str:
    return "\n".join(filter(None, [message if trace or "\n" in message else "", trace]))


def read_xunit(source: Source) -> Iterator[TestResult]:
    """Yield the results of an xUnit.net v2 or v3 report."""
    wanted = frozenset({"test"})
    for node in nodes(source, wanted):
        reason = node.child("failure") or node
        message = reason.textat("message") or node.textat("reason")
        kind = reason.get("exception-type")
        traits = (node.child("traits") or node).all("trait")
        name = node.get("name")
        yield _filled({
            "id": stable(name), "name": name, "outcome": _XUNIT.get(node.get("result").lower(), "other"),
            "duration": _time(source, node.get("time")),
            "start": moment(node.get("start-rtf")),
            "suite": tuple(n.get("name") for n in node.above("collection")),
            "file": node.get("source-file"), "line": int(node.get("source-line") or 0) or None,
            "message": first_line(f"{kind}: {message}" if kind and not message.startswith(kind) else message),
            "trace": _joined(message, reason.textat("stack-trace")),
            "stdout": node.textat("output"), "raw_status": node.get("result"),
            "tags": tuple(t.get("value") for t in traits if t.get("name") == "Category"),
        })  # fmt: skip


def read_trx(source: Source) -> Iterator[TestResult]:
    """Yield the results of a TRX report.

    The definitions, which hold the class of each test, come after the results, so a
    TRX file is held in memory by what its results say, without their definitions.
    """
    classes: dict[str, tuple[str, str]] = {}
    waiting: list[Node] = []
    for node in nodes(source, frozenset({"UnitTestResult", "UnitTest", "Counters"})):
        if node.tag == "UnitTest":
            method = node.child("TestMethod")
            if method:
                classes[node.get("id")] = (
                    method.get("className").partition(",")[0], method.get("name"))  # fmt: skip
        elif node.tag == "Counters" and node.get("total").isdigit():
            source.declared["tests"] = int(node.get("total"))
        elif node.tag == "UnitTestResult" and not node.above("UnitTestResult"):
            waiting.append(node)
    for node in waiting:
        yield _trx(source, node, classes)


def _trx(source: Source, node: Node, classes: dict[str, tuple[str, str]]) -> TestResult:
    name = node.get("testName")
    group, _ = classes.get(node.get("testId"), ("", ""))
    key = name if not group or name.startswith(group) else f"{group}.{name}"
    message = node.textat("Output", "ErrorInfo", "Message")
    files = node.child("ResultFiles")
    return _filled({
        "id": stable(key), "name": name, "outcome": _TRX.get(node.get("outcome").lower(), "other"),
        "duration": _time(source, node.get("duration")),
        "start": moment(node.get("startTime")), "suite": (group,) if group else (),
        "message": first_line(message),
        "trace": _joined(message, node.textat("Output", "ErrorInfo", "StackTrace")),
        "stdout": node.textat("Output", "StdOut"), "stderr": node.textat("Output", "StdErr"),
        "raw_status": node.get("outcome"), "worker": node.get("computerName"),
        "attachments": tuple(Attachment(name=f.get("path"), path=f.get("path")) for f in files.all("ResultFile")) if files else (),
    })  # fmt: skip
