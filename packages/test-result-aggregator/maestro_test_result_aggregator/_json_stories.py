"""JSON documents made of steps: Cucumber, behave, Allure."""

from collections.abc import Iterator
from typing import Any

from ._json_common import Json, clean
from ._junit import first_line, stable
from ._model import Attachment, Outcome, Step, TestResult
from ._source import Source, moment

_CUCUMBER: dict[str, Outcome] = {
    "passed": "passed", "failed": "failed", "skipped": "skipped", "pending": "notrun",
    "undefined": "error", "ambiguous": "error", "untested": "notrun", "error": "error",
}  # fmt: skip


_WORST = ("crashed", "error", "failed", "notrun", "other", "skipped", "passed")


def read_cucumber(made: list[Any], _: Source) -> Iterator[TestResult]:
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
    return clean({
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


def read_allure(made: Json, _: Source) -> Iterator[TestResult]:
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
    yield clean({
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
