"""Reports that are one JSON document: CTRF, pytest-json-report, jest, mocha, and so on."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ._ctrf import from_ctrf
from ._junit import first_line, stable
from ._lines import _longrepr
from ._model import Attachment, Attempt, Outcome, Step, TestResult, make, numbered
from ._source import Source, moment

Json = Mapping[str, Any]


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
            _cucumber
            if "elements" in first or "keyword" in first or "uri" in first
            else None
        )
    if not isinstance(made, dict):
        return None
    results = made.get("results")
    if isinstance(results, dict) and ("tests" in results or "tool" in results):
        return _ctrf
    if "testResults" in made:
        return _jest
    if "stats" in made and ("tests" in made or "passes" in made):
        return _mocha
    if "suites" in made and "config" in made:
        return _playwright
    if "tests" in made and ("summary" in made or "root" in made):
        return _pytest
    if "uuid" in made and "status" in made and "name" in made:
        return _allure
    return None


def _clean(fields: dict[str, Any]) -> TestResult:
    return make({k: v for k, v in fields.items() if v not in (None, "", (), {})
                 or k in ("id", "name")})  # fmt: skip


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


def _pytest(made: Json, _: Source) -> Iterator[TestResult]:
    for collector in made.get("collectors") or ():
        if collector.get("outcome") == "failed":
            text = _longrepr(collector.get("longrepr"))[0]
            key = collector.get("nodeid") or "(collection)"
            yield _clean({"id": key, "name": key, "outcome": "error", "trace": text,
                          "message": text.strip().splitlines()[-1] if text.strip() else ""})  # fmt: skip
    for test in made["tests"]:
        phases = [test[p] for p in ("setup", "call", "teardown") if p in test]
        bad: Json = next((p for p in phases if p.get("outcome") == "failed"), {})
        skip: Json = next((p for p in phases if p.get("outcome") == "skipped"), {})
        reason = _longrepr(skip.get("longrepr"))[1]
        if isinstance(skip.get("longrepr"), str) and skip["longrepr"].startswith("("):
            reason = skip["longrepr"].rstrip(")'\"").rpartition("Skipped: ")[2]
        key = test["nodeid"]
        yield _clean({
            "id": stable(key), "name": key.rpartition("::")[2],
            "outcome": test["outcome"] if test["outcome"] in _PYTEST else "other",
            "duration": sum(p.get("duration", 0.0) for p in phases),
            "suite": tuple(key.split("::")[1:-1]), "file": key.partition("::")[0],
            "line": (test.get("lineno") or 0) + 1, "raw_status": test["outcome"],
            "message": first_line((bad.get("crash") or {}).get("message", "")) or reason,
            "trace": _longrepr(bad.get("longrepr"))[0],
            "stdout": "".join(p.get("stdout", "") for p in phases),
            "stderr": "".join(p.get("stderr", "") for p in phases),
        })  # fmt: skip


_PYTEST = frozenset({"passed", "failed", "error", "skipped", "xfailed", "xpassed"})
_JEST: dict[str, Outcome] = {
    "passed": "passed", "failed": "failed", "skipped": "skipped", "pending": "skipped",
    "todo": "notrun", "disabled": "skipped", "focused": "passed",
}  # fmt: skip


def _jest(made: Json, source: Source) -> Iterator[TestResult]:
    """Jest, and vitest's `json` reporter, which writes the same shape."""
    if isinstance(made.get("numTotalTests"), int):
        source.declared["tests"] = made["numTotalTests"]
    for file in made["testResults"]:
        path = file.get("name") or file.get("testFilePath") or ""
        tests = file.get("assertionResults") or file.get("testResults") or ()
        if not tests and (file.get("status") == "failed" or file.get("testExecError")):
            text = _plain(file.get("message") or file.get("failureMessage") or "")
            yield _clean({"id": path, "name": path, "outcome": "error", "file": path,
                          "message": first_line(text), "trace": text})  # fmt: skip
        for test in tests:
            groups = tuple(g for g in test.get("ancestorTitles") or () if g)
            texts = [_plain(m) for m in test.get("failureMessages") or ()]
            place = test.get("location") or {}
            yield _clean({
                "id": stable(" > ".join([path, *groups, test["title"]])), "name": test["title"],
                "outcome": _JEST.get(test.get("status"), "other"),
                "duration": (test.get("duration") or 0) / 1000,
                "start": moment(test.get("startAt")), "suite": groups, "file": path,
                "line": place.get("line"), "raw_status": test.get("status"),
                "message": first_line(texts[0]) if texts else "", "trace": "\n\n".join(texts),
                "attempts": numbered(
                    Attempt(number=0, outcome="failed", message=first_line(_plain(reason)), trace=_plain(reason))
                    for reason in test.get("retryReasons") or ()
                ),
            })  # fmt: skip


def _plain(text: str) -> str:
    """Drop the colours."""
    if "\x1b" not in text:
        return text
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _mocha(made: Json, source: Source) -> Iterator[TestResult]:
    if isinstance(made["stats"].get("tests"), int):
        source.declared["tests"] = made["stats"]["tests"]
    failed = {(t["fullTitle"], t.get("file")) for t in made.get("failures") or ()}
    pending = {(t["fullTitle"], t.get("file")) for t in made.get("pending") or ()}
    tests = made.get("tests") or [
        *made.get("passes", ()),
        *made.get("failures", ()),
        *made.get("pending", ()),
    ]
    hooks = [
        t for t in made.get("failures") or () if "hook" in t["title"] and t not in tests
    ]
    for test in [*tests, *hooks]:
        key = (test["fullTitle"], test.get("file"))
        error = test.get("err") or {}
        outcome: Outcome = "passed"
        if key in failed or error.get("message"):
            late = error.get("code") == "ERR_MOCHA_TIMEOUT"
            outcome = "timeout" if late else "error" if test in hooks else "failed"
        elif key in pending or test.get("pending"):
            outcome = "skipped"
        group = test["fullTitle"].removesuffix(test["title"]).strip()
        yield _clean({
            "id": stable(" > ".join(filter(None, [test.get("file"), test["fullTitle"]]))),
            "name": test["title"], "outcome": outcome, "suite": (group,) if group else (),
            "duration": (test.get("duration") or 0) / 1000, "file": test.get("file"),
            "message": first_line(error.get("message") or ""), "trace": error.get("stack"),
            "attempts": numbered(
                Attempt(number=0, outcome="failed") for _ in range(min(test.get("currentRetry") or 0, 50))
            ),
        })  # fmt: skip


_PLAYWRIGHT: dict[str, Outcome] = {
    "passed": "passed", "failed": "failed", "timedOut": "timeout", "skipped": "skipped",
    "interrupted": "notrun",
}  # fmt: skip


def _playwright(made: Json, source: Source) -> Iterator[TestResult]:
    for error in made.get("errors") or ():
        source.tell(
            f"outside of tests: {first_line(_plain(error.get('message') or ''))}"
        )
    waiting: list[tuple[Json, tuple[str, ...]]]
    waiting = [(suite, ()) for suite in reversed(made["suites"])]
    while waiting:
        suite, groups = waiting.pop()
        for spec in suite.get("specs") or ():
            for test in spec.get("tests") or ():
                yield _playwright_test(spec, test, groups)
        waiting += [
            (s, (*groups, s["title"])) for s in reversed(suite.get("suites") or ())
        ]


def _playwright_test(spec: Json, test: Json, groups: tuple[str, ...]) -> TestResult:
    project = test.get("projectName") or ""
    runs = [
        (
            _PLAYWRIGHT.get(run.get("status"), "other"),
            run,
            _plain((run.get("error") or {}).get("message") or ""),
        )
        for run in test.get("results") or ()
    ]
    *earlier, (outcome, last, text) = runs or [("notrun", {}, "")]
    if test.get("expectedStatus") == "failed":
        outcome = {"failed": "xfailed", "passed": "failed"}.get(outcome, outcome)  # type: ignore[assignment]  # words of the table
    file = spec.get("file") or ""
    tags = [a.get("type") for a in test.get("annotations") or ()]
    return _clean({
        "id": " > ".join([*([f"[{project}]"] if project else []), file, *groups, spec["title"]]),
        "name": spec["title"], "outcome": outcome, "suite": groups, "file": file,
        "line": spec.get("line"), "duration": (last.get("duration") or 0) / 1000,
        "start": moment(last.get("startTime")), "message": first_line(text),
        "trace": _plain((last.get("error") or {}).get("stack") or text),
        "stdout": "".join(o.get("text", "") for o in last.get("stdout") or ()),
        "stderr": "".join(o.get("text", "") for o in last.get("stderr") or ()),
        "tags": (*(spec.get("tags") or ()), *filter(None, tags)),
        "worker": str(last["workerIndex"]) if last.get("workerIndex") is not None else None,
        "parameters": {"project": project} if project else {}, "raw_status": last.get("status"),
        "attachments": tuple(
            Attachment(name=a["name"], path=a["path"], content_type=a.get("contentType", "application/octet-stream"))
            for a in last.get("attachments") or () if a.get("path")
        ),
        "attempts": numbered(
            Attempt(number=0, outcome=word, duration=(run.get("duration") or 0) / 1000,
                    start=moment(run.get("startTime")), message=first_line(said) or None, trace=said or None)
            for word, run, said in earlier
        ),
    })  # fmt: skip


_CUCUMBER: dict[str, Outcome] = {
    "passed": "passed", "failed": "failed", "skipped": "skipped", "pending": "notrun",
    "undefined": "error", "ambiguous": "error", "untested": "notrun", "error": "error",
}  # fmt: skip
_WORST = ("crashed", "error", "failed", "notrun", "other", "skipped", "passed")


def _cucumber(made: list[Any], _: Source) -> Iterator[TestResult]:
    """Cucumber, and behave's `json` formatter, which counts in seconds."""
    for feature in made:
        behave = "status" in feature
        tags = _tags(feature)
        background: list[Json] = []
        for element in feature.get("elements") or ():
            steps = element.get("steps") or []
            if element.get("type") == "background":
                background = [] if behave else steps
                continue
            yield _scenario(
                feature, element, [*background, *steps], tags, behave=behave
            )
            background = []


def _tags(made: Json) -> tuple[str, ...]:
    return tuple(
        t["name"] if isinstance(t, dict) else t for t in made.get("tags") or ()
    )


def _scenario(
    feature: Json,
    element: Json,
    steps: list[Json],
    tags: tuple[str, ...],
    *,
    behave: bool,
) -> TestResult:
    parts, message, trace, total = [], "", "", 0.0
    hooks = [*(element.get("before") or ()), *(element.get("after") or ())]
    for step in [*steps, *hooks]:
        result = step.get("result") or {}
        default = "untested" if behave else "pending"
        outcome = _CUCUMBER.get(result.get("status", default), "other")
        total += (result.get("duration") or 0) / (1 if behave else 1e9)
        text = result.get("error_message") or ""
        text = "\n".join(text) if isinstance(text, list) else text
        if outcome in ("failed", "error") and not trace:
            trace = text
            message = (
                first_line(text)
                or f"step is {result.get('status')}: {step.get('name')}"
            )
        name = f"{str(step.get('keyword', '')).strip()} {step.get('name', '')}".strip()
        parts.append(Step(name=name or "(hook)", outcome=outcome, message=text or None))
    words = [p.outcome for p in parts]
    outcome = next((w for w in _WORST if w in words), "passed")
    if behave and element.get("status") == "skipped":
        outcome = "skipped"
    path, _, line = str(element.get("location") or "").rpartition(":")
    file = (
        path
        or feature.get("uri")
        or str(feature.get("location") or "").rpartition(":")[0]
    )
    number = element.get("line") or (int(line) if line.isdigit() else None)
    key = element.get("id") or ""
    unique = (
        f":{number}"
        if "outline" in str(element.get("keyword", "")).lower() or ";;" in key
        else ""
    )
    return _clean({
        "id": f"{file} > {feature.get('name')} > {element.get('name')}{unique}",
        "name": element.get("name"), "outcome": outcome, "duration": total,
        "start": moment(element.get("start_timestamp")), "suite": (str(feature.get("name")),),
        "file": file, "line": number, "message": message, "trace": trace,
        "tags": tuple(dict.fromkeys([*tags, *_tags(element)])), "steps": tuple(parts),
        "raw_status": element.get("status"),
    })  # fmt: skip


_ALLURE: dict[str, Outcome] = {
    "passed": "passed", "failed": "failed", "broken": "error", "skipped": "skipped",
    "unknown": "other",
}  # fmt: skip


def _allure(made: Json, _: Source) -> Iterator[TestResult]:
    """One Allure result file; retries are files of their own with the same id."""
    details = made.get("statusDetails") or {}
    start, stop = made.get("start"), made.get("stop")
    labels = [
        (label.get("name"), str(label.get("value")))
        for label in made.get("labels") or ()
    ]
    parameters = {
        p["name"]: p.get("value")
        for p in made.get("parameters") or ()
        if not p.get("excluded")
    }
    key = made.get("fullName") or made["name"]
    outcome = _ALLURE.get(made["status"], "other")
    said = details.get("message") or ""
    if said.startswith(("XFAIL", "XPASS")):  # allure-pytest has no words of its own
        outcome = "xfailed" if said.startswith("XFAIL") else "xpassed"
    if parameters:
        key += "[" + ", ".join(f"{k}={v}" for k, v in sorted(parameters.items())) + "]"
    yield _clean({
        "id": stable(key), "name": made["name"], "outcome": outcome,
        "duration": (stop - start) / 1000 if start and stop else 0.0, "start": moment(start),
        "suite": tuple(v for n, v in labels if n in ("parentSuite", "suite", "subSuite")),
        "message": first_line(said), "trace": details.get("trace"),
        "tags": tuple(v for n, v in labels if n == "tag"), "parameters": parameters,
        "worker": next((v for n, v in labels if n == "thread"), None), "raw_status": made["status"],
        "properties": {n: v for n, v in labels if n in ("epic", "feature", "story", "owner", "severity")},
        "steps": tuple(
            Step(name=s.get("name", ""), outcome=_ALLURE.get(s.get("status"), "other"))
            for s in made.get("steps") or ()
        ),
        "attachments": tuple(
            Attachment(name=a.get("name") or a["source"], path=a["source"], content_type=a.get("type") or "application/octet-stream")
            for a in made.get("attachments") or ()
        ),
    })  # fmt: skip
