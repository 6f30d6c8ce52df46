"""Reports of one JSON object a line: our JSONL, pytest-reportlog, `go test -json`."""

import json
from collections.abc import Iterator
from typing import Any

from ._ctrf import from_ctrf
from ._junit import first_line, stable
from ._model import TestResult, make
from ._source import Source, moment


def objects(source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a JSONL file; lines that are none become diagnostics."""
    broken = 0
    for number, line in source.lines():
        if not line.strip():
            continue
        try:
            made = json.loads(line)
        except (ValueError, RecursionError) as error:
            broken += 1
            if broken <= 5:
                source.tell(f"not JSON: {error}", line=number)
            continue
        if isinstance(made, dict):
            yield number, made
        else:
            source.tell("expected a JSON object", line=number)
    if broken > 5:
        source.tell(f"{broken - 5} more lines are not JSON")


def read_jsonl(source: Source) -> Iterator[TestResult]:
    """Yield the results of a stream of CTRF test objects, `{"e":"end","test":{...}}`.

    A test that started and never ended is a crash, named as such.
    """
    started: dict[str, str] = {}
    ended = False
    for number, made in objects(source):
        event = made.get("e", "end" if "test" in made or "status" in made else "")
        if event == "start":
            test = made.get("test") or {}
            key = (
                made.get("id")
                or (test.get("extra") or {}).get("maestro.id")
                or test.get("name")
            )
            if key:
                started[str(key)] = str(made.get("name") or test.get("name") or key)
        elif event in ("finish", "stop", "run_end", "run-finished", "finished"):
            ended = True
        elif event in ("end", "") and ("test" in made or "status" in made):
            try:
                result = from_ctrf(made.get("test", made))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                source.tell(f"not a CTRF test object: {error!r}", line=number)
                continue
            started.pop(result.id, None)
            yield result
    if not ended:
        for key, name in started.items():
            yield make({
                "id": key, "name": name, "outcome": "crashed",
                "message": "started, and the stream ends before its result",
            })  # fmt: skip


def read_reportlog(source: Source) -> Iterator[TestResult]:
    """Yield the results of a pytest-reportlog file, phases and reruns put together."""
    open_: dict[str, list[dict[str, Any]]] = {}
    finished = False
    for _, made in objects(source):
        kind = made.get("$report_type")
        if kind == "SessionFinish":
            finished = True
        elif kind == "CollectReport" and made.get("outcome") == "failed":
            trace = str(made.get("longrepr") or "")
            key = made.get("nodeid") or "(collection)"
            yield make({"id": key, "name": key, "outcome": "error", "file": key,
                        "message": _last_line(trace), "trace": trace})  # fmt: skip
        elif kind == "TestReport" and made.get("nodeid"):
            phases = open_.setdefault(made["nodeid"], [])
            phases.append(made)
            if made.get("when") == "teardown":
                yield _pytest(open_.pop(made["nodeid"]))
    for key, phases in open_.items():
        source.tell(f"the log breaks off inside {key}")
        result = _pytest(phases)
        if not result.failed:
            result = make({**result.__dict__, "outcome": "crashed",
                           "message": "the log breaks off inside this test"})  # fmt: skip
        yield result
    if not finished:
        source.tell("the session did not finish: tests after the last one are missing")


def _pytest(phases: list[dict[str, Any]]) -> TestResult:
    key = phases[0]["nodeid"]
    where = phases[0].get("location") or [None, None, key]
    outcome, reason, trace, raw = "passed", "", "", ""
    streams = {"stdout": "", "stderr": "", "log": ""}
    for phase in phases:
        word, when = phase.get("outcome", ""), phase.get("when")
        if phase.get("wasxfail") is not None:
            outcome = "xfailed" if word == "skipped" else "xpassed"
            reason = str(phase["wasxfail"]).removeprefix("reason: ")
        elif word == "failed":
            outcome = "failed" if when == "call" and outcome != "error" else "error"
            text, line = _longrepr(phase.get("longrepr"))
            trace = f"{trace}\n\n{text}".strip()
            reason = reason or line
        elif word == "skipped":
            outcome, (_, reason) = "skipped", _longrepr(phase.get("longrepr"))
        raw = raw or (word if word != "passed" else "")
        for name, text in phase.get("sections") or ():
            for stream in streams:
                if name == f"Captured {stream} {when}":
                    streams[stream] += text
    name = (
        str(where[2] or key).rpartition(".")[2]
        if "[" not in str(where[2])
        else key.rpartition("::")[2]
    )
    fields: dict[str, Any] = {
        "id": stable(key), "name": name, "outcome": outcome,
        "duration": sum(float(p.get("duration") or 0) for p in phases),
        "suite": tuple(key.split("::")[1:-1]), "file": where[0] or key.partition("::")[0],
        "message": reason, "trace": trace, "raw_status": raw or "passed", **streams,
    }  # fmt: skip
    if where[1] is not None:
        fields["line"] = where[1] + 1
    if phases[0].get("start") is not None:
        fields["start"] = phases[0]["start"]
    if phases[0].get("worker_id"):
        fields["worker"] = phases[0]["worker_id"]
    properties = {str(k): v for p in phases for k, v in p.get("user_properties") or ()}
    if properties:
        fields["properties"] = properties
    return make({k: v for k, v in fields.items() if v not in ("", None)})


def _longrepr(made: Any) -> tuple[str, str]:
    """Return the text and the reason in one line of a pytest `longrepr`."""
    if isinstance(made, list | tuple) and len(made) == 3:
        reason = str(made[2]).removeprefix("Skipped: ")
        return f"{made[0]}:{made[1]}: {reason}", reason
    if not isinstance(made, dict):
        return str(made or ""), _last_line(str(made or ""))
    crash = (made.get("reprcrash") or {}).get("message", "")
    rows = []
    for entry in (made.get("reprtraceback") or {}).get("reprentries", ()):
        data = entry.get("data") or {}
        rows += [str(line) for line in data.get("lines") or ()]
        place = data.get("reprfileloc") or {}
        if place:
            rows.append(
                f"{place.get('path')}:{place.get('lineno')}: {place.get('message')}"
            )
    return "\n".join(rows), first_line(crash)


def _last_line(text: str) -> str:
    rows = [row for row in text.splitlines() if row.strip()]
    marked = [row[1:].strip() for row in rows if row.startswith("E ")]
    return (marked or rows or [""])[-1]


def read_gotest(source: Source) -> Iterator[TestResult]:
    """Yield the results of `go test -json`; a parent of subtests is a test of its own."""
    output: dict[tuple[str, str], list[str]] = {}
    starts: dict[tuple[str, str], float | None] = {}
    failed: dict[str, int] = {}
    for _, made in objects(source):
        action, package = (
            made.get("Action"),
            made.get("Package") or made.get("ImportPath") or "",
        )
        test = made.get("Test") or ""
        key = (package, test)
        if action in ("output", "build-output"):
            output.setdefault(key, []).append(made.get("Output") or "")
        elif action == "run":
            starts[key] = moment(made.get("Time"))
        elif action in ("pass", "fail", "skip") and test:
            failed[package] = failed.get(package, 0) + (action == "fail")
            yield _go(
                key,
                action,
                float(made.get("Elapsed") or 0),
                output.pop(key, []),
                starts.pop(key, None),
            )
        elif action in ("fail", "build-fail") and not test:
            for (owner, name), start in list(starts.items()):
                if owner == package:  # it died, and took the binary along
                    del starts[owner, name]
                    rows = output.pop((owner, name), [])
                    failed[package] = failed.get(package, 0) + 1
                    yield _go((owner, name), "crash", 0.0, rows, start)
            if not failed.get(package):
                failed[package] = 1
                yield _go(
                    (package, "(package)"), "error", 0.0, output.pop(key, []), None
                )
    for key, start in starts.items():
        source.tell(f"the stream ends inside {key[0]}.{key[1]}")
        yield _go(key, "crash", 0.0, output.pop(key, []), start)


def _go(
    key: tuple[str, str],
    action: str,
    elapsed: float,
    rows: list[str],
    start: float | None,
) -> TestResult:
    package, test = key
    text = "".join(
        row for row in rows if not row.startswith(("=== ", "--- PASS", "PASS"))
    )
    outcome = {
        "pass": "passed",
        "skip": "skipped",
        "fail": "failed",
        "crash": "crashed",
    }.get(action, action)
    if "panic: test timed out" in text:
        outcome = "timeout"
    fields: dict[str, Any] = {
        "id": f"{package}.{test}" if package else test, "name": test, "outcome": outcome,
        "duration": elapsed, "suite": (package,) if package else (), "raw_status": action,
    }  # fmt: skip
    if start is not None:
        fields["start"] = start
    if action == "pass":
        fields["stdout"] = text
    elif text.strip():
        said = [
            row.strip()
            for row in rows
            if row.strip() and not row.lstrip().startswith(("===", "---"))
        ]
        fields["message"] = said[0] if said else action
        fields["trace"] = text.strip("\n")
        if ".go:" in fields["message"]:
            fields["file"], _, rest = fields["message"].partition(":")
            if rest.partition(":")[0].isdigit():
                fields["line"] = int(rest.partition(":")[0])
                fields["message"] = rest.partition(":")[2].strip() or fields["message"]
    return make({k: v for k, v in fields.items() if v != ""})
