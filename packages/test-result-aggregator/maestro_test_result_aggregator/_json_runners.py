"""JSON documents of test runners: pytest-json-report, jest, vitest, mocha, Playwright."""

import re
from collections.abc import Iterator

from ._json_common import Json, clean
from ._junit import first_line, stable
from ._lines import _longrepr
from ._model import Attachment, Attempt, Outcome, TestResult, numbered
from ._source import Source, moment


def read_pytest(made: Json, _: Source) -> Iterator[TestResult]:
    for collector in made.get("collectors") or ():
        if collector.get("outcome") == "failed":
            text = _longrepr(collector.get("longrepr"))[0]
            key = collector.get("nodeid") or "(collection)"
            yield clean({"id": key, "name": key, "outcome": "error", "trace": text,
                          "message": text.strip().splitlines()[-1] if text.strip() else ""})  # fmt: skip
    for test in made["tests"]:
        phases = [test[p] for p in ("setup", "call", "teardown") if p in test]
        bad: Json = next((p for p in phases if p.get("outcome") == "failed"), {})
        skip: Json = next((p for p in phases if p.get("outcome") == "skipped"), {})
        reason = _longrepr(skip.get("longrepr"))[1]
        if isinstance(skip.get("longrepr"), str) and skip["longrepr"].startswith("("):
            reason = skip["longrepr"].rstrip(")'\"").rpartition("Skipped: ")[2]
        key = test["nodeid"]
        yield clean({
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


def read_jest(made: Json, source: Source) -> Iterator[TestResult]:
    """Jest, and vitest's `json` reporter, which writes the same shape."""
    if isinstance(made.get("numTotalTests"), int):
        source.declared["tests"] = made["numTotalTests"]
    for file in made["testResults"]:
        path = file.get("name") or file.get("testFilePath") or ""
        tests = file.get("assertionResults") or file.get("testResults") or ()
        if not tests and (file.get("status") == "failed" or file.get("testExecError")):
            text = _plain(file.get("message") or file.get("failureMessage") or "")
            yield clean({"id": path, "name": path, "outcome": "error", "file": path,
                          "message": first_line(text), "trace": text})  # fmt: skip
        for test in tests:
            groups = tuple(g for g in test.get("ancestorTitles") or () if g)
            texts = [_plain(m) for m in test.get("failureMessages") or ()]
            place = test.get("location") or {}
            yield clean({
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
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def read_mocha(made: Json, source: Source) -> Iterator[TestResult]:
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
        yield clean({
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


def read_playwright(made: Json, source: Source) -> Iterator[TestResult]:
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
    return clean({
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
