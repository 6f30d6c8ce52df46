"""TAP 12 to 14: node's runner, prove, bats, tape and others."""

import re
from collections.abc import Iterator
from typing import Any

from ._junit import first_line, stable
from ._model import TestResult, make
from ._source import Source

_POINT = re.compile(r"( *)(not )?ok\b(?: +(\d+))?(?: +- | +)?(.*)\Z")
_DIRECTIVE = re.compile(r"(?i)(?<!\\)#\s*(skip|todo)\S*\s*(.*)\Z")
_PLAN = re.compile(r"( *)1\.\.(\d+)\s*(?:#\s*(.*))?\Z")
_SUBTEST = re.compile(r"( *)# Subtest: (.*)\Z")
_TOOK = re.compile(r"\s*#\s*time=([\d.]+)(ms|s)?\s*\Z")
_PAIR = re.compile(r"\s*['\"]?([\w.]+)['\"]?:\s*(.*)\Z")


def read_tap(source: Source) -> Iterator[TestResult]:
    """Yield the leaves of a TAP stream; a parent that only sums up is left out."""
    names: list[tuple[int, str]] = []
    pending: dict[str, Any] | None = None
    children: set[tuple[int, str]] = set()
    seen = braces = 0
    planned: int | None = None
    block: list[str] | None = None
    for number, line in source.lines():
        if block is not None:
            if line.strip() == "...":
                _detail(pending or {}, block)
                block = None
            else:
                block.append(line)
            continue
        if line.strip() == "---" and pending is not None:
            block = []
            continue
        if pending is not None and not line.strip().startswith("#"):
            done = _leaf(pending, children)
            if done:
                yield done
            pending = None
        if match := _SUBTEST.match(line):
            depth = len(match[1])
            names = [n for n in names if n[0] < depth] + [(depth, _plain(match[2]))]
        elif match := _POINT.match(line):
            depth = len(match[1])
            if not depth:
                seen += 1
            above = [n for d, n in names if d < depth]
            pending = _point(match, above)
            if match[4].rstrip().endswith("{"):  # its children follow, in braces
                names = [n for n in names if n[0] < depth] + [(depth, pending["name"])]
                pending = None
                braces += 1
                continue
            pending["depth"] = depth
            if depth:
                children.update((d, n) for d, n in names if d < depth)
        elif line.strip() == "}":
            braces -= 1
        elif match := _PLAN.match(line):
            if not match[1]:
                planned = int(match[2])
        elif line.startswith("Bail out!"):
            source.tell(f"the run bailed out: {line[9:].strip()}", line=number)
        elif pending is None and line.strip().startswith("# timed out"):
            source.tell(line.strip("# "), line=number, warn=True)
    if pending is not None:
        done = _leaf(pending, children)
        if done:
            yield done
    if block is not None:
        source.tell("the file breaks off inside a YAML block")
    if braces > 0:
        source.tell("the file breaks off inside a block of subtests")
    if planned is None and seen:
        source.tell("no plan (`1..N`): the stream may have been cut")
    elif planned is not None and seen != planned:
        source.tell(f"{planned} test points were planned, {seen} are there")


def _plain(text: str) -> str:
    return text.replace("\\#", "#").replace("\\\\", "\\").strip()


def _point(match: re.Match[str], above: list[str]) -> dict[str, Any]:
    text = match[4]
    fields: dict[str, Any] = {
        "outcome": "failed" if match[2] else "passed",
        "duration": 0.0,
    }
    text = text.rstrip().removesuffix("{").rstrip()
    if took := _TOOK.search(text):
        text = text[: took.start()]
        fields["duration"] = float(took[1]) / (1000 if took[2] == "ms" else 1)
    if directive := _DIRECTIVE.search(text):
        text = text[: directive.start()]
        skip = directive[1].lower() == "skip"
        fields["outcome"] = "skipped" if skip else "xfailed" if match[2] else "xpassed"
        if reason := directive[2].strip().strip("-").strip():
            fields["message"] = reason
    name = _plain(text) or f"(test {match[3] or '?'})"
    return {"id": stable(" > ".join([*above, name])), "name": name,
            "suite": tuple(above), **fields}  # fmt: skip


def _leaf(fields: dict[str, Any], children: set[tuple[int, str]]) -> TestResult | None:
    depth = fields.pop("depth")
    key = (depth, fields["name"])
    kind = fields.pop("kind", "")
    parent = key in children
    children.discard(key)
    if kind == "suite" or (
        parent and "subtest" in (fields.get("message") or "subtest")
    ):
        return None
    return make(fields)


def _detail(fields: dict[str, Any], block: list[str]) -> None:
    """Take what is useful out of a YAML block, without a YAML parser."""
    pairs: dict[str, str] = {}
    for i, line in enumerate(block):
        match = _PAIR.match(line)
        if not match or match[1] in pairs:
            continue
        value = match[2].strip()
        if value in ("|-", "|", ">", ">-", "|+"):
            deep = len(line) - len(line.lstrip())
            rows = []
            for row in block[i + 1 :]:
                if row.strip() and len(row) - len(row.lstrip()) <= deep:
                    break
                rows.append(row[deep + 2 :])
            value = "\n".join(rows).strip()
        pairs[match[1]] = value.strip("'\"")
    try:
        if pairs.get("duration_ms"):
            fields["duration"] = float(pairs["duration_ms"]) / 1000
    except ValueError:
        pass
    fields["kind"] = pairs.get("type", "")
    if fields.get("outcome") != "failed":
        return
    if pairs.get("failureType") == "testTimeoutFailure":
        fields["outcome"] = "timeout"
    message = pairs.get("error") or pairs.get("message")
    if message:
        fields["message"] = first_line(message)
    fields["trace"] = "\n".join(block)
    location = pairs.get("location", "").rsplit(":", 2)
    if len(location) == 3 and location[1].isdigit():
        fields["file"], fields["line"] = location[0], int(location[1])
