"""Write results as CTRF, JUnit XML or JSONL, and merge reports of one run."""

import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args
from xml.sax.saxutils import escape, quoteattr

from ._ctrf import document, to_ctrf
from ._model import FAILURES, Counts, Diagnostic, TestResult
from ._read import found, read_all
from .errors import InvalidArgument, ReportError, did_you_mean

OnDuplicate = Literal["attempt", "last", "worst"]
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """Several reports as one.

    Attributes:
        results: One per test, sorted by start where known, else in reading order.
        duplicates: Ids that came more than once.
        diagnostics: What could not be read.
    """

    results: tuple[TestResult, ...]
    duplicates: tuple[str, ...] = ()
    diagnostics: tuple[Diagnostic, ...] = ()

    def __iter__(self) -> Iterator[TestResult]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    @property
    def counts(self) -> Counts:
        """How many tests ended how."""
        return Counts.of(self.results)

    def write(self, path: str | os.PathLike[str], *, format: str | None = None) -> Path:
        """Write them, whole or not at all; see `write_report`."""
        return write_report(self.results, path, format=format)


def merge(
    paths: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    on_duplicate: OnDuplicate = "attempt",
) -> Merged:
    """Read reports of one run and put them together.

    Args:
        paths: Files, folders, patterns; any mix of formats.
        on_duplicate: A test met again is the next attempt of the first (`attempt`),
            replaces it (`last`), or gives way to the worse of the two (`worst`).

    Raises:
        ReportError: None of the paths leads to a file.
        InvalidArgument: `on_duplicate` is another word.
    """
    words = get_args(OnDuplicate)
    if on_duplicate not in words:
        raise InvalidArgument(
            "on_duplicate", f"one of {', '.join(map(repr, words))}", on_duplicate
        )
    diagnostics: list[Diagnostic] = []
    results: dict[str, TestResult] = {}
    duplicates: dict[str, None] = {}
    for result in read_all(found(paths, diagnostics.append), diagnostics.append):
        earlier = results.get(result.id)
        if earlier is not None:
            duplicates[result.id] = None
            result = _joined(earlier, result, on_duplicate)  # noqa: PLW2901 - the joined one
        results[result.id] = result
    return Merged(
        results=tuple(results.values()),
        duplicates=tuple(duplicates),
        diagnostics=tuple(diagnostics),
    )


def _joined(earlier: TestResult, later: TestResult, how: OnDuplicate) -> TestResult:
    if how == "last":
        return later
    if how == "worst":
        return earlier if earlier.failed and not later.failed else later
    if None not in (earlier.start, later.start) and (later.start or 0) < (
        earlier.start or 0
    ):
        earlier, later = later, earlier
    return later.after(earlier)


def write_report(
    results: Iterable[TestResult],
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
) -> Path:
    """Write results in the format that the suffix names, whole or not at all.

    Args:
        results: Any iterable.
        path: `.json` is CTRF, `.xml` JUnit XML, `.jsonl` a stream of CTRF tests.
        format: `ctrf`, `junit` or `jsonl`, if the suffix does not say it.

    Raises:
        ReportError: Neither says a known format, or the file cannot be written.
    """
    path = Path(path)
    word = format or {".json": "ctrf", ".xml": "junit", ".jsonl": "jsonl"}.get(
        path.suffix.lower()
    )
    writer = _WRITERS.get(word or "")
    if writer is None:
        named = (
            f"format {format!r}{did_you_mean(format, _WRITERS)}"
            if format
            else (
                f"suffix {path.suffix!r}" if path.suffix else "a name without a suffix"
            )
        )
        raise ReportError(
            path,
            f"expected .json (ctrf), .xml (junit) or .jsonl (jsonl), got {named}",
        )
    write_whole(path, writer(list(results)))
    return path


def write_whole(path: Path, text: str) -> None:
    """Write a file by way of a neighbour, so that no half of it is ever seen."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:  # which would name the neighbour
        raise ReportError(
            path, f"cannot be written in {path.parent}: {error.strerror}"
        ) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8", "backslashreplace"))
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _ctrf_text(results: list[TestResult]) -> str:
    return (
        json.dumps(
            document(results, tool="maestro-results"), ensure_ascii=False, indent=1
        )
        + "\n"
    )


def _jsonl_text(results: list[TestResult]) -> str:
    rows: list[dict[str, Any]]
    rows = [{"e": "end", "test": to_ctrf(result)} for result in results]
    rows.append({"e": "finish", "exit": None})
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _attr(value: object) -> str:
    text = _CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", str(value))
    return quoteattr(text, {"\n": "&#10;", "\t": "&#9;", "\r": "&#13;"})


def _body(text: str) -> str:
    return escape(_CONTROL.sub(lambda m: f"\\x{ord(m[0]):02x}", text), {"\r": "&#13;"})


def _junit_text(results: list[TestResult]) -> str:
    counts = Counts.of(results)
    errors = sum(result.outcome in ("error", "crashed") for result in results)
    total = sum(result.duration for result in results)
    skipped = counts.skipped + counts.pending
    head = (
        f'tests="{counts.tests}" failures="{counts.failed - errors}" errors="{errors}" '
        f'skipped="{skipped}" time="{total:.6f}"'
    )
    rows = ['<?xml version="1.0" encoding="utf-8"?>', f"<testsuites {head}>",
            f'<testsuite name="maestro-results" {head}>']  # fmt: skip
    for result in results:
        rows += _case(result)
    rows += ["</testsuite>", "</testsuites>", ""]
    return "\n".join(rows)


def _case(result: TestResult) -> list[str]:
    group = result.id.removesuffix(result.name).rstrip(":> .")
    attrs: list[tuple[str, object]] = [
        ("classname", group or ".".join(result.suite) or "tests"),
        ("name", result.name),
    ]
    attrs += [("time", f"{result.duration:.6f}")]
    attrs += [
        (k, v)
        for k, v in (("file", result.file), ("line", result.line))
        if v is not None
    ]
    inner = ["<properties>", f"<property name={_attr('maestro.id')} value={_attr(result.id)}/>",
             f"<property name={_attr('maestro.outcome')} value={_attr(result.outcome)}/>"]  # fmt: skip
    inner += [
        f"<property name={_attr(k)} value={_attr(v)}/>"
        for k, v in result.properties.items()
    ]
    inner.append("</properties>")
    if result.failed:
        # Surefire's order: the first attempt is the failure, the others are reruns.
        tries = [(a.outcome, a.message, a.trace) for a in result.attempts]
        tries.append((result.outcome, result.message, result.trace))
        (outcome, message, trace), *again = [t for t in tries if t[0] in FAILURES]
        tag = "error" if outcome in ("error", "crashed") else "failure"
        inner.append(
            f"<{tag} message={_attr(message or '')}>{_body(trace or '')}</{tag}>"
        )
        inner += [_again("rerun", *one) for one in again]
    elif result.status in ("skipped", "pending"):
        inner.append(f"<skipped message={_attr(result.message or '')}/>")
    else:
        inner += [_again("flaky", a.outcome, a.message, a.trace)
                  for a in result.attempts if a.outcome in FAILURES]  # fmt: skip
    if result.stdout:
        inner.append(f"<system-out>{_body(result.stdout)}</system-out>")
    if result.stderr:
        inner.append(f"<system-err>{_body(result.stderr)}</system-err>")
    joined = " ".join(f"{key}={_attr(value)}" for key, value in attrs)
    return [f"<testcase {joined}>", *inner, "</testcase>"]


def _again(word: str, outcome: str, message: str | None, trace: str | None) -> str:
    tag = f"{word}{'Error' if outcome in ('error', 'crashed') else 'Failure'}"
    inner = f"<stackTrace>{_body(trace or '')}</stackTrace>"
    return f'<{tag} message={_attr(message or "")} type="">{inner}</{tag}>'


_WRITERS: dict[str, Callable[[list[TestResult]], str]] = {
    "ctrf": _ctrf_text, "junit": _junit_text, "jsonl": _jsonl_text,
}  # fmt: skip
