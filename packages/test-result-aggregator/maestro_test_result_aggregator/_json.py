"""Reports that are one JSON document: what kind it is, and what a broken one still holds."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from ._ctrf import from_ctrf
from ._json_common import Json
from ._json_runners import read_jest, read_mocha, read_playwright, read_pytest
from ._json_stories import read_allure, read_cucumber
from ._model import TestResult
from ._source import Source


def read_json(source: Source) -> Iterator[TestResult]:
    """Yield the results of a JSON report of any known shape."""
    text = _text(source)
    if not text:
        return
    try:
        made = json.loads(text)
    except RecursionError:
        source.tell("nested too deep; not read")
        return
    except ValueError as error:
        source.tell(
            f"broken JSON ({error}); whole test objects before the break are read"
        )
        made = _rescue(text)
    reader = _shape(made)
    if reader is None:
        source.tell(f"JSON of no known report{_keys(made)}")
        return
    try:
        yield from reader(made, source)
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        IndexError,
        RecursionError,
    ) as error:
        source.tell(f"not as this format demands: {error!r}; read up to here")


def _text(source: Source) -> str:
    raw = source.data()
    encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        source.tell(
            f"bytes that are not {encoding} were replaced ({error.reason})", warn=True
        )
        return raw.decode(encoding, "replace")


def _keys(made: object) -> str:
    return (
        f": its keys are {', '.join(map(repr, list(made)[:8]))}"
        if isinstance(made, dict)
        else ""
    )


def _rescue(text: str) -> Any:
    """Close what a truncated document left open, dropping its last, torn value."""
    stack: list[str] = []
    good: tuple[int, str] | None = None
    inside = escaped = False
    for at, char in enumerate(text):
        if inside:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                inside = False
        elif char == '"':
            inside = True
        elif char in "{[":
            stack.append("}" if char == "{" else "]")
        elif char in "}]":
            if not stack or stack.pop() != char:
                break
            good = (at + 1, "".join(reversed(stack)))
    if good is None:
        return None
    try:
        return json.loads(text[: good[0]] + good[1])
    except (ValueError, RecursionError):
        return None


def _shape(made: Any) -> Callable[[Any, Source], Iterator[TestResult]] | None:
    if isinstance(made, list):
        first = next((m for m in made if isinstance(m, dict)), {})
        return (
            read_cucumber
            if "elements" in first or "keyword" in first or "uri" in first
            else None
        )
    if not isinstance(made, dict):
        return None
    results = made.get("results")
    if isinstance(results, dict) and ("tests" in results or "tool" in results):
        return _ctrf
    if "testResults" in made:
        return read_jest
    if "stats" in made and ("tests" in made or "passes" in made):
        return read_mocha
    if "suites" in made and "config" in made:
        return read_playwright
    if "tests" in made and ("summary" in made or "root" in made):
        return read_pytest
    if "uuid" in made and "status" in made and "name" in made:
        return read_allure
    return None


def _ctrf(made: Json, source: Source) -> Iterator[TestResult]:
    summary = made["results"].get("summary") or {}
    source.declared.update(
        {
            k: v
            for k, v in summary.items()
            if k in ("tests", "passed", "failed", "skipped", "pending", "other")
            and isinstance(v, int)
        }
    )
    told = (made["results"].get("extra") or {}).get("maestro.problems") or ()
    for problem in told:
        source.tell(str(problem))
    for number, test in enumerate(made["results"].get("tests") or ()):
        try:
            yield from_ctrf(test)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            source.tell(f"results.tests[{number}] is not a CTRF test: {error!r}")
