"""Robot Framework's output.xml, from version 4 on."""

from collections.abc import Iterator

from ._dotnet import _filled, _time
from ._junit import first_line
from ._model import Outcome, Step, TestResult
from ._source import Source, moment
from ._xml import Node, nodes

_WORDS: dict[str, Outcome] = {
    "PASS": "passed", "FAIL": "failed", "SKIP": "skipped", "NOT RUN": "notrun",
}  # fmt: skip


def read_robot(source: Source) -> Iterator[TestResult]:
    """Yield the tests of an output.xml, their keywords as steps."""
    for node in nodes(source, frozenset({"test"})):
        status = node.child("status") or Node("status", {}, None)
        suites = tuple(n.get("name") for n in node.above("suite"))
        start = moment(status.get("start") or status.get("starttime"))
        if status.get("elapsed"):
            duration = _time(source, status.get("elapsed"))
        else:
            duration = (moment(status.get("endtime")) or 0.0) - (start or 0.0)
        files = [n.get("source") for n in node.above("suite") if n.get("source")]
        tags = [
            *node.all("tag"),
            *(node.child("tags") or Node("tags", {}, None)).all("tag"),
        ]
        message = status.text
        logged = [
            m.text
            for m in _messages(node)
            if m.get("level") in ("FAIL", "ERROR", "WARN")
        ]
        yield _filled({
            "id": ".".join([*suites, node.get("name")]), "name": node.get("name"),
            "outcome": _WORDS.get(status.get("status"), "other"),
            "duration": max(duration, 0.0), "start": start, "suite": suites,
            "file": files[-1] if files else None,
            "line": int(node.get("line") or 0) or None,
            "message": first_line(message), "trace": "\n".join(dict.fromkeys([*filter(None, [message]), *logged])),
            "tags": tuple(t.text for t in tags), "raw_status": status.get("status"),
            "steps": tuple(
                Step(name=kw.get("name") or kw.tag, outcome=_WORDS.get((kw.child("status") or kw).get("status"), "other"))
                for kw in node.children if kw.tag in ("kw", "for", "if", "while", "try")
            ),
        })  # fmt: skip


def _messages(node: Node) -> Iterator[Node]:
    for child in node.children:
        if child.tag == "msg":
            yield child
        else:
            yield from _messages(child)
