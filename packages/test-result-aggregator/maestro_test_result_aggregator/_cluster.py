"""Failures that have one cause, put together by what they say.

Two steps without a model: numbers, paths, quoted values and the like become
placeholders; then messages of one exception type and length that differ in few words
are merged, as in Drain (He et al., ICWS 2017) but with one level.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ._model import TestResult

_RULES = [
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]{22}\b", re.IGNORECASE), "<uuid>"),
    (re.compile(r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?"), "<time>"),
    (re.compile(r"\b\d\d:\d\d:\d\d(?:\.\d+)?\b"), "<time>"),
    (re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"), "<ip>"),
    (re.compile(r"\b0x[0-9a-f]+\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{8,}\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"(?:/[\w.@+-]+){2,}"), "<path>"),
    (re.compile(r"'[^'\n]{1,200}'|\"[^\"\n]{1,200}\""), "<text>"),
    (re.compile(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", re.IGNORECASE), "<n>"),
]  # fmt: skip
_TYPE = re.compile(
    r"\A(?:E\s+)?((?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Failure|Fault|Timeout|Warning|Interrupt|Exit)?)\b:?"
)
_FRAME = re.compile(
    r"(?m)^\s*(?:File \"([^\"]+)\", line \d+, in (\S+)|at (?:async )?([\w$.<>]+)[ (].*|([\w./-]+\.\w{1,4}):\d+:.*)$"
)
_FOREIGN = (
    "site-packages",
    "dist-packages",
    "node_modules",
    "node:",
    "/lib/python",
    "java.",
    "org.junit",
    "sun.",
    "jdk.",
    "<frozen",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureCluster:
    """Failures that seem to have one cause.

    Attributes:
        key: Stable for the same kind of failure; 12 hexadecimal digits.
        title: Type and message, what varies replaced by placeholders.
        example: One message as it came.
        tests: Ids, sorted.
        owners: Who owns them, by the owners file.
        first_seen: The run in which the present failure of the oldest began.
        first_commit: That run's commit.
    """

    key: str
    title: str
    example: str
    tests: tuple[str, ...]
    owners: tuple[str, ...] = ()
    first_seen: str = ""
    first_commit: str = ""


def normalise(message: str) -> str:
    """Replace what varies between two failures of one cause by placeholders."""
    text = message[:2000]
    for pattern, placeholder in _RULES:
        text = pattern.sub(placeholder, text)
    return text


def frame(trace: str | None) -> str:
    """Return the last frame of a trace that is in the project, or nothing."""
    if not trace:
        return ""
    found = ""
    for match in _FRAME.finditer(trace[-20_000:]):
        if not any(word in match[0] for word in _FOREIGN):
            file, function, js, place = match.groups()
            found = f"{file}:{function}" if file else js or place or ""
    return found


def cluster(results: Iterable[TestResult]) -> list[FailureCluster]:
    """Group failed results by cause, largest group first."""
    groups: dict[tuple[str, str], list[tuple[list[str], list[TestResult]]]] = {}
    # Most failures repeat a message that was seen: the words of it are known then.
    exact: dict[tuple[str, str, str], list[TestResult]] = {}
    for result in results:
        if not result.failed:
            continue
        message = result.message or result.trace or result.outcome
        text = normalise(message)
        kind = _TYPE.match(message)
        name = kind[1] if kind else result.outcome
        place = frame(result.trace) if kind is None or "assert" in name.lower() else ""
        same = exact.get((name, place, text))
        if same is not None:
            same.append(result)
            continue
        words = text.split()
        key = (name, place)
        for known, members in groups.setdefault(key, []):
            if _alike(known, words):
                for i, word in enumerate(words):
                    if known[i] != word:
                        known[i] = "<*>"
                members.append(result)
                exact[name, place, text] = members
                break
        else:
            members = [result]
            groups[key].append((words, members))
            exact[name, place, text] = members
    found = [
        _made(key, words, members)
        for key, entries in groups.items()
        for words, members in entries
    ]
    return sorted(found, key=lambda c: (-len(c.tests), c.title, c.key))


def _alike(known: list[str], words: list[str]) -> bool:
    if len(known) != len(words):
        return False
    same = sum(a == b for a, b in zip(known, words, strict=True))
    return same >= 0.7 * len(words)


def _made(
    key: tuple[str, str], words: list[str], members: list[TestResult]
) -> FailureCluster:
    title = " ".join(words)
    digest = hashlib.sha256(
        "\0".join([*key, title]).encode("utf-8", "replace")
    ).hexdigest()
    return FailureCluster(
        key=digest[:12], title=title[:300],
        example=members[0].message or members[0].outcome,
        tests=tuple(sorted({m.id for m in members})),
    )  # fmt: skip
