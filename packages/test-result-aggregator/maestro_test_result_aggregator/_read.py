"""Find reports, tell their format from their first bytes, and stream their results."""

import glob
import gzip
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from ._dotnet import read_nunit, read_trx, read_xunit
from ._json import read_json
from ._junit import read_junit
from ._lines import read_gotest, read_jsonl, read_reportlog
from ._model import Diagnostic, TestResult
from ._robot import read_robot
from ._source import CHUNK, Source
from ._subunit import SIGNATURE, read_subunit
from ._tap import read_tap
from .errors import InvalidArgument, ReportError, did_you_mean

Reader = Callable[[Source], Iterator[TestResult]]
Told = Callable[[Diagnostic], None]

READERS: dict[str, Reader] = {
    "junit": read_junit,
    "nunit": read_nunit,
    "xunit": read_xunit,
    "trx": read_trx,
    "robot": read_robot,
    "tap": read_tap,
    "jsonl": read_jsonl,
    "reportlog": read_reportlog,
    "gotest": read_gotest,
    "json": read_json,
    "subunit": read_subunit,
}
_ROOTS = {
    "testsuites": "junit", "testsuite": "junit", "testcase": "junit", "test-run": "nunit",
    "test-results": "nunit", "assemblies": "xunit", "assembly": "xunit", "TestRun": "trx",
    "robot": "robot",
}  # fmt: skip
_ROOT = re.compile(r"<(?![?!])(?:[\w.-]+:)?([\w.-]+)")
_TAP = re.compile(
    r"(?m)^(TAP version \d+|\s*(not )?ok\b|1\.\.\d+|Bail out!|# Subtest: )"
)
SUFFIXES = (".xml", ".json", ".jsonl", ".ndjson", ".tap", ".trx", ".log", ".gz",
            ".subunit")  # fmt: skip


def sniff(head: bytes) -> str | None:
    """Return the name of the reader for a file that begins so, or None."""
    if head[:1] == bytes([SIGNATURE]) and head[1:2] and head[1] >> 4 == 2:
        return "subunit"
    text = _decoded(head).lstrip("\ufeff \t\r\n")
    if text.startswith("<"):
        root = _ROOT.search(re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL))
        return _ROOTS.get(root[1]) if root else None
    if text.startswith(("{", "[")):
        return _sniff_json(text)
    return "tap" if _TAP.search(text) else None


def _decoded(head: bytes) -> str:
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return head.decode("utf-16", "replace")
    return head.decode("utf-8", "replace")


def _sniff_json(text: str) -> str:
    first, newline, rest = text.partition("\n")
    try:
        made = json.loads(first)
    except (ValueError, RecursionError):
        return "json"
    if not isinstance(made, dict):
        return "json"
    if "$report_type" in made or "pytest_version" in made:
        return "reportlog"
    if "Action" in made:
        return "gotest"
    if "e" in made or (newline and rest.lstrip().startswith("{")):
        return "jsonl"
    return "json"


def read_report(
    path: str | os.PathLike[str] | BinaryIO,
    *,
    format: str | None = None,
    told: Told | None = None,
) -> Iterator[TestResult]:
    """Stream the results of one report of any known format.

    Args:
        path: A file, also gzipped, or an open binary stream.
        format: One of `READERS`; None looks at the first bytes.
        told: Takes each diagnostic. Without it, a warning is passed over and an
            error raises once everything readable has been yielded.

    Raises:
        ReportError: The file cannot be opened or its format told, or, without
            `told`, a part of it could not be read.
    """
    if format is not None and format not in READERS:
        hint = did_you_mean(format, READERS)
        raise ReportError(
            path, f"no format {format!r}{hint}; known are {', '.join(READERS)}"
        )
    found: list[Diagnostic] = []
    if hasattr(path, "read"):
        stream = cast("BinaryIO", path)
        yield from _stream(
            stream, getattr(stream, "name", "-"), format, told or found.append
        )
    else:
        try:
            with _open(Path(path)) as file:
                yield from _stream(file, str(path), format, told or found.append)
        except (OSError, EOFError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ReportError(path, reason) from error
    errors = [one for one in found if one.level == "error"]
    if errors:
        raise ReportError(path, "; ".join(one.message for one in errors[:3]))


def _open(path: Path) -> BinaryIO:
    file = path.open("rb")
    if file.peek(2)[:2] == b"\x1f\x8b":
        file.close()
        return cast("BinaryIO", gzip.open(path, "rb"))
    return file


def _stream(
    stream: BinaryIO, name: str, format: str | None, told: Told
) -> Iterator[TestResult]:
    head = stream.read(CHUNK)
    source = Source(name, stream, head, told)
    if not head.strip(b"\xef\xbb\xbf \t\r\n"):
        source.tell("the file is empty: whatever wrote it was ended")
        return
    reader = format or sniff(head)
    if reader is None:
        raise ReportError(
            name, f"not a report of a known format; known are {', '.join(READERS)}"
        )
    yield from _checked(source, READERS[reader])


def _checked(source: Source, reader: Reader) -> Iterator[TestResult]:
    """Compare the number of tests with what the report itself declares."""
    results = reader(source)
    if reader is read_junit:
        yield from results
        count = source.counted
    else:
        count = 0
        for count, result in enumerate(results, 1):  # noqa: B007 - the last one stays
            yield result
    declared = source.declared.get("tests")
    if declared is not None and count < declared:
        source.tell(f"the report counts {declared} tests and holds {count}", warn=True)


def expand(
    patterns: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], told: Told
) -> list[Path]:
    """Return the files that patterns, folders and names stand for, sorted, each once."""
    if isinstance(patterns, str | os.PathLike):
        patterns = [patterns]
    if not isinstance(patterns, Iterable):
        raise InvalidArgument("paths", "files, folders or patterns", patterns)
    found: dict[Path, None] = {}
    for pattern in patterns:
        if not isinstance(pattern, str | os.PathLike):
            raise InvalidArgument("paths", "a file, folder or pattern", pattern)
        path = Path(pattern)
        if path.is_dir():
            files = sorted(
                p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file()
            )
        elif path.exists() or str(path) == "-":
            files = [path]
        else:
            # Path.glob refuses absolute patterns.
            names = glob.glob(str(pattern), recursive=True)  # noqa: PTH207
            files = sorted(p for p in map(Path, names) if p.is_file())
        if not files:
            told(Diagnostic(path=str(pattern), message=_missing(path)))
        found.update(
            dict.fromkeys(f for f in files if not f.name.endswith("-container.json"))
        )
    return list(found)


def _missing(path: Path) -> str:
    if path.is_dir():
        return f"the folder holds no report ({', '.join(SUFFIXES)})"
    if glob.has_magic(str(path)):
        return "the pattern matches no file"
    return "no such file"


def found(
    patterns: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], told: Told
) -> list[Path]:
    """Return what `expand` does, and raise if it is nothing.

    Raises:
        ReportError: Not one of the patterns leads to a file; the first is named.
    """
    missing: list[Diagnostic] = []
    files = expand(patterns, missing.append)
    if not files:
        if not missing:
            raise ReportError(
                "reports", f"expected files, folders or patterns, got {patterns!r}"
            )
        others = len(missing) - 1
        more = f", nor any of {others} more" if others else ""
        raise ReportError(missing[0].path, f"{missing[0].message}{more}")
    for one in missing:
        told(one)
    return files


def read_all(
    paths: Iterable[Path],
    told: Told,
    progress: Callable[[Path], None] | None = None,
    *,
    format: str | None = None,
) -> Iterator[TestResult]:
    """Stream many reports; one that cannot be read at all is a diagnostic."""
    for path in paths:
        if progress:
            progress(path)
        try:
            yield from read_report(
                path if str(path) != "-" else sys.stdin.buffer, format=format, told=told
            )
        except ReportError as error:
            told(Diagnostic(path=error.path, message=error.reason))
