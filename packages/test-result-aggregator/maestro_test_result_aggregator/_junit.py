"""JUnit XML in its dialects, streamed through expat.

What differs by tool: pytest writes `file`/`line` (xunit1) and one `<testcase>` per
phase; surefire `<flakyFailure>`, `<rerunFailure>` and their stack traces in a child;
gradle, nextest and bazel nest differently; jest-junit and mocha put the path into
the suite; phpunit nests suites by class and method and has `<warning>`; ctest says
`status="fail|run|notrun|disabled"`; gtest `result="suppressed|completed"`; go-junit
puts the reason into `<skipped message>`; node's runner nests a suite in a suite.
"""

import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

from ._model import Attachment, Attempt, TestResult, make, numbered
from ._plain import PlainCases, plain_cases
from ._source import Source, moment, seconds
from ._xml import MAX_DEPTH, XmlRefused, feed, parser

_BAD = {"failure": "failed", "error": "error", "skipped": "skipped", "warning": "failed",
        "ignored": "skipped"}  # fmt: skip
_AGAIN = {"flakyFailure": "failed", "flakyError": "error",
          "rerunFailure": "failed", "rerunError": "error"}  # fmt: skip
_TEXT = frozenset(
    {*_BAD, *_AGAIN, "system-out", "system-err", "stackTrace", "property"}
)
_RAW = {"notrun": "notrun", "disabled": "skipped", "suppressed": "skipped", "skipped": "skipped",
        "ignored": "skipped", "pending": "notrun", "fail": "failed", "failed": "failed"}  # fmt: skip
_COMMA = re.compile(r"[1-9]\d{0,2},\d{3}\Z")
_LONGEST = 1e9
_USUAL = ("classname", "name", "time")
_ATTACHED = re.compile(r"\[\[ATTACHMENT\|(.+?)\]\]")
_TIMEOUT = re.compile(r"(?i)\btimed? ?-?out\b")

_new = object.__new__
_set = object.__setattr__


class _Reader:
    """The handlers. One test case is open at a time; suites are a stack."""

    parser: Any

    def __init__(self, source: Source) -> None:
        self.source = source
        self.ready: list[TestResult] = []
        self.suites: list[dict[str, str]] = []
        self.names: tuple[str, ...] = ()
        self.file: str | None = None
        self.case: dict[str, str] | None = None
        self.whole = False  # the open case stands for its suite
        self.details: list[tuple[str, dict[str, str], str]] = []
        self.depth = 0
        self.text: list[str] | None = None
        self.open: list[tuple[str, dict[str, str], list[str]]] = []
        self.point = False  # whether a time had a decimal point
        self.told = False
        self.cut = plain_cases(source.head)
        self.mark = self.cut.tag if self.cut else ""

    def start(self, tag: str, attrs: dict[str, str]) -> None:
        if self.case is None:
            self.suite(tag, attrs)
            return
        if len(self.open) > MAX_DEPTH:
            raise XmlRefused(f"elements are nested over {MAX_DEPTH} deep")
        if ":" in tag:
            tag = tag.rpartition(":")[2]
        parts: list[str] = []
        self.open.append((tag, attrs, parts))
        if tag in _TEXT:
            self.parser.CharacterDataHandler = parts.append

    def suite(self, tag: str, attrs: dict[str, str]) -> None:
        if tag in ("testsuite", "testsuites"):
            self.suites.append(attrs)
            if len(self.suites) > MAX_DEPTH:
                raise XmlRefused(f"suites are nested over {MAX_DEPTH} deep")
            self.enter()
            if len(self.suites) == 1:
                for key in ("tests", "failures", "errors", "skipped", "disabled"):
                    if attrs.get(key, "").isdigit():
                        self.source.declared[key] = int(attrs[key])
        elif tag in ("failure", "error") and self.suites:
            # A suite that could not be set up.
            name = self.names[-1] if self.names else "(suite)"
            self.case = {"name": f"({tag} of the suite)", "classname": name}
            self.whole = True
            self.open.append((tag, attrs, []))
            self.parser.CharacterDataHandler = self.open[-1][2].append

    def enter(self) -> None:
        """Know the names around a case, and the file if the suite says it."""
        self.names = tuple(s["name"] for s in self.suites if s.get("name"))
        suite = self.suites[-1] if self.suites else {}
        self.file = suite.get("file") or suite.get("filepath")

    def end(self, tag: str) -> None:
        if self.open:
            name, attrs, parts = self.open.pop()
            if name in _TEXT:
                text = "".join(parts)
                if self.cut and self.mark in text:
                    text = self.cut.restored(text)
                self.details.append((name, attrs, text))
            self.parser.CharacterDataHandler = (
                self.open[-1][2].append if self.open else None
            )
            if self.whole and not self.open:
                self.finish()
        elif tag == "testcase" and self.case is not None:
            self.finish()
        elif tag in ("testsuite", "testsuites") and self.suites:
            self.suites.pop()
            self.enter()

    def finish(self) -> None:
        """Make the result of the open case."""
        if self.case is not None:
            self.ready.append(self.build(self.case, self.details))
        self.case, self.details, self.whole = None, [], False

    def plain(self, case: dict[str, str]) -> TestResult:
        """The usual case: a name, a class, a time, and it passed."""
        try:
            text = case["time"]
            duration = float(text)
            name, group = case["name"], case["classname"]
        except (KeyError, ValueError):
            return self.build(case, [])
        if group == name or not group or self.file or not 0 <= duration < _LONGEST:
            return self.build(case, [])
        self.point = self.point or "." in text
        key = f"{group}::{name}"
        if "0x" in key:
            key = stable(key)
        result = _new(TestResult)
        _set(result, "__dict__", {"id": key, "name": name, "outcome": "passed",
                                  "duration": duration, "suite": self.names})  # fmt: skip
        return result

    def batch(self, cut: PlainCases, number: str) -> None:
        """Take the cases of a placeholder."""
        cases, order = cut.take(number), cut.order
        add, names = self.ready.append, self.names
        if not self.point:
            at = order.index("time")
            self.point = any("." in case[at] for case in cases)
        if len(order) > len(_USUAL) or self.file:
            for case in cases:
                add(self.build(dict(zip(order, case, strict=True)), []))
            return
        if order != _USUAL:
            a, b, c = (order.index(key) for key in _USUAL)
            cases = [(case[a], case[b], case[c]) for case in cases]
        for group, name, text in cases:
            if group == name:
                add(self.build({"classname": group, "name": name, "time": text}, []))
                continue
            key = f"{group}::{name}"
            if "0x" in key:
                key = stable(key)
            result = _new(TestResult)
            _set(result, "__dict__", {"id": key, "name": name, "outcome": "passed",
                                      "duration": float(text), "suite": names})  # fmt: skip
            add(result)

    def seconds(self, attrs: dict[str, str]) -> float:
        text = attrs.get("time") or attrs.get("duration") or ""
        if "," in text and "." not in text and not self.point:
            # `1,234` is 1.234 s in German and 1234 s in English. A file keeps to one
            # way, so a decimal point seen before decides; without one it is German.
            if not self.told and _COMMA.match(text):
                self.told = True
                read = text.replace(",", ".")
                self.source.tell(f"time {text!r} is read as {read} s", warn=True)
            text = text.replace(",", ".")
        try:
            return max(seconds(text), 0.0)
        except ValueError:
            self.source.tell(
                f"time {text!r} is not a number; read as 0",
                line=self.parser.CurrentLineNumber, warn=True,
            )  # fmt: skip
            return 0.0

    def build(
        self, case: dict[str, str], details: list[tuple[str, dict[str, str], str]]
    ) -> TestResult:
        name = case.get("name") or case.get("id") or "(unnamed)"
        group = (
            case.get("classname")
            or case.get("class")
            or (self.names[-1] if self.names else "")
        )
        if group == name and self.names:  # jest-junit's default
            group = self.names[-1]
        try:
            text = case["time"]
            duration = float(text)
            self.point = self.point or "." in text
        except (KeyError, ValueError):
            duration = self.seconds(case)
        if not 0 <= duration < _LONGEST:
            duration = self.seconds(case)
        fields: dict[str, Any] = {
            "id": stable(f"{group}::{name}" if group else name), "name": name,
            "outcome": "passed", "duration": duration, "suite": self.names,
        }  # fmt: skip
        file = case.get("file") or self.file
        if file:
            fields["file"] = file
        line = case.get("line") or case.get("lineno") or ""
        if line.isdigit():
            fields["line"] = int(line) + (
                self.names[-1:] == ("pytest",)
            )  # counts from 0
        when = moment(case["timestamp"]) if "timestamp" in case else None
        if when is not None:
            fields["start"] = when
        raw = case.get("status") or case.get("result")
        if raw:
            fields["raw_status"] = raw
            fields["outcome"] = _RAW.get(raw.lower(), "passed")
        if details:
            self.apply(fields, details)
        return make(fields)

    def apply(
        self, fields: dict[str, Any], details: list[tuple[str, dict[str, str], str]]
    ) -> None:
        attempts: list[Attempt] = []
        properties: dict[str, str] = {}
        inner = ""
        bad = False
        for tag, attrs, text in details:
            if tag in _BAD:
                self.failure(fields, _BAD[tag], attrs, text, first=not bad)
                bad = True
            elif tag in _AGAIN:
                attempts.append(Attempt(
                    number=0, outcome=_AGAIN[tag],  # type: ignore[arg-type]  # the table holds outcomes
                    duration=self.seconds(attrs) if attrs.get("time") else 0.0,
                    start=moment(attrs.get("timestamp")),
                    message=first_line(attrs.get("message") or attrs.get("type") or text) or None,
                    trace=inner or text.strip() or None,
                ))  # fmt: skip
                inner = ""
            elif tag == "stackTrace":  # surefire: inside the rerun element, ends first
                inner = text.strip()
            elif tag == "property":
                properties[attrs.get("name", "")] = attrs.get("value", text)
            elif text.strip():
                key = "stdout" if tag == "system-out" else "stderr"
                fields[key] = (fields[key] + "\n" if key in fields else "") + text
                if "[[ATTACHMENT|" in text:
                    fields["attachments"] = fields.get("attachments", ()) + tuple(
                        Attachment(name=path.rpartition("/")[2], path=path)
                        for path in _ATTACHED.findall(text)
                    )
        if attempts and bad and any(tag.startswith("rerun") for tag, _, _ in details):
            # surefire: the failure is the first attempt, the reruns came after it.
            last = attempts.pop()
            first_attempt = Attempt(
                number=0, outcome=fields["outcome"], duration=fields["duration"],
                message=fields.get("message"), trace=fields.get("trace"),
            )  # fmt: skip
            attempts = [first_attempt, *attempts]
            fields.update(outcome=last.outcome, message=last.message, trace=last.trace)
        if attempts:
            fields["attempts"] = numbered(attempts)
        if not properties:
            return
        if properties.get("maestro.id"):
            fields["id"] = properties.pop("maestro.id")
        if properties.get("maestro.outcome"):
            fields["outcome"] = properties.pop("maestro.outcome")
        if properties:
            fields["properties"] = properties

    def failure(
        self,
        fields: dict[str, Any],
        outcome: str,
        attrs: dict[str, str],
        text: str,
        *,
        first: bool,
    ) -> None:
        message = attrs.get("message") or first_line(text) or attrs.get("type") or ""
        kind = attrs.get("type", "")
        if not first:  # a failing test whose tear-down failed too: keep both
            fields["trace"] = "\n\n".join(
                filter(None, [fields.get("trace"), message, text.strip()])
            )
            if outcome != "skipped" and fields["outcome"] == "skipped":
                fields["outcome"] = outcome
            return
        if outcome == "skipped" and "xfail" in kind:
            outcome = "xfailed"
        elif outcome != "skipped" and (
            kind.lower() == "timeout" or _TIMEOUT.search(kind)
        ):
            outcome = "timeout"
        fields["outcome"] = outcome
        if kind and kind not in message and outcome not in ("skipped", "xfailed"):
            message = f"{kind}: {message}" if message else kind
        line, rest = first_line(message), text.strip("\n")
        if line:
            fields["message"] = line
        if line != message.strip() and message not in rest:  # more than one line
            rest = f"{message}\n{rest}".strip("\n")
        if rest.strip():
            fields["trace"] = rest

    def unfinished(self) -> str:
        if self.case is None:
            return ""
        return f"; the test {self.case.get('name')!r} was half read and is lost"


def read_junit(source: Source) -> Iterator[TestResult]:
    """Return the results of a JUnit XML report of any dialect, read as they are taken."""
    reader = _Reader(source)
    reader.parser = made = parser()
    slow_start, slow_end, add = reader.start, reader.end, reader.ready.append

    cut, mark = reader.cut, reader.mark

    # Nine of ten elements are cases that passed: they take a short way. Runs of them
    # come as one placeholder.
    def start(tag: str, attrs: dict[str, str]) -> None:
        if reader.case is not None:
            slow_start(tag, attrs)
        elif tag == "testcase":
            reader.case = attrs
        elif tag == mark and cut:
            reader.batch(cut, attrs["n"])
        else:
            slow_start(tag, attrs)

    def end(tag: str) -> None:
        case = reader.case
        if (
            case is None
            or tag != "testcase"
            or reader.open
            or reader.details
            or len(case) != 3
        ):
            slow_end(tag)
            return
        reader.case = None
        add(reader.plain(case))

    made.StartElementHandler = start
    made.EndElementHandler = end
    pieces = feed(
        source, made, reader.ready, reader.unfinished, cut=cut.cut if cut else None
    )
    # Flattened in C: a generator around each result costs as much as a short case.
    return chain.from_iterable(_counted(source, pieces))


def _counted(
    source: Source, pieces: Iterator[list[TestResult]]
) -> Iterator[list[TestResult]]:
    for piece in pieces:
        source.counted += len(piece)
        yield piece


_ADDRESS = re.compile(r"0x[0-9a-fA-F]{6,}")


def stable(key: str) -> str:
    """Return an id without the memory addresses that change from run to run."""
    return _ADDRESS.sub("0x?", key) if "0x" in key else key


def first_line(text: str) -> str:
    """Return the first line that says something."""
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
