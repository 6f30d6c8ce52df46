"""Versions and version ranges, by Semantic Versioning 2.0.0 and npm's range grammar.

A version that does not parse raises `InvalidInput`; so does a range. Nothing is
guessed. Pre-releases match a range only when the range itself names a pre-release of
the same major.minor.patch, as npm does, so that `^1.0` never picks `2.0.0-beta`.
"""

import re
from dataclasses import dataclass
from functools import lru_cache, total_ordering
from operator import eq, ge, gt, le, lt
from typing import Any

from .errors import InvalidInput

__all__ = ["Version", "VersionRange", "parse_range", "parse_version"]

_VERSION = re.compile(
    r"v?(0|[1-9]\d*)(?:\.(0|[1-9]\d*))?(?:\.(0|[1-9]\d*))?"
    r"(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?"
)
_PART = re.compile(
    r"(<=|>=|<|>|=|\^|~)?\s*v?(x|X|\*|0|[1-9]\d*)(?:\.(x|X|\*|0|[1-9]\d*))?"
    r"(?:\.(x|X|\*|0|[1-9]\d*))?(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?"
    r"(?:\+[0-9A-Za-z.-]+)?"
)
_OPERATORS = {"<": lt, "<=": le, ">": gt, ">=": ge, "=": eq}
_EXPECTED = "a version such as 1.4.2 or 2.0.0-rc.1"
_EXPECTED_RANGE = 'a range such as "^1.4", "~1.4.2", ">=1.2 <2" or "1.x || 3.x"'


@total_ordering
@dataclass(frozen=True, slots=True)
class Version:
    """One version; ordered as Semantic Versioning 2.0.0, section 11, says."""

    major: int
    minor: int
    patch: int
    pre: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.major}.{self.minor}.{self.patch}"
        return f"{text}-{'.'.join(self.pre)}" if self.pre else text

    def __lt__(self, other: "Version") -> bool:
        return self._key() < other._key()

    def _key(self) -> tuple[object, ...]:
        # A release sorts after its pre-releases; numbers sort before words.
        pre = tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in self.pre)
        return (self.major, self.minor, self.patch, not self.pre, pre)


@dataclass(frozen=True, slots=True)
class VersionRange:
    """A set of versions; `version in range` tells whether it holds one."""

    text: str
    alternatives: tuple[tuple[tuple[str, Version], ...], ...]

    def __contains__(self, version: "Version | str") -> bool:
        found = parse_version(version) if isinstance(version, str) else version
        return any(_holds(group, found) for group in self.alternatives)

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=4096)
def parse_version(text: Any) -> Version:
    """Read a version; missing minor and patch numbers count as 0."""
    match = _VERSION.fullmatch(text) if isinstance(text, str) else None
    if not match:
        raise InvalidInput("version", text, _EXPECTED)
    pre = tuple(match[4].split(".")) if match[4] else ()
    if any(p.isdigit() and len(p) > 1 and p[0] == "0" for p in pre):
        raise InvalidInput("version", text, f"{_EXPECTED}, no leading zeros")
    return Version(int(match[1]), int(match[2] or 0), int(match[3] or 0), pre)


@lru_cache(maxsize=4096)
def parse_range(text: Any) -> VersionRange:
    """Read a range in npm's grammar: ^ ~ < <= > >= = x-ranges, `a - b`, `||`."""
    if not isinstance(text, str) or len(text) > 256:
        raise InvalidInput("version range", text, _EXPECTED_RANGE)
    groups = [_group(part.strip(), text) for part in text.split("||")]
    return VersionRange(text, tuple(groups))


def _holds(group: tuple[tuple[str, Version], ...], version: Version) -> bool:
    if not all(_OPERATORS[op](version, bound) for op, bound in group):
        return False
    if not version.pre:
        return True
    core = (version.major, version.minor, version.patch)
    return any(b.pre and (b.major, b.minor, b.patch) == core for _, b in group)


def _group(part: str, text: str) -> tuple[tuple[str, Version], ...]:
    hyphen = re.fullmatch(r"(\S+)\s+-\s+(\S+)", part)
    if hyphen:
        low = _bounds(f">={hyphen[1]}", text)
        high = _bounds(f"<={hyphen[2]}", text)
        return (*low, *high)
    found: list[tuple[str, Version]] = []
    position = 0
    while position < len(part):
        match = _PART.match(part, position)
        if not match or (match.end() < len(part) and part[match.end()] not in " ,"):
            raise InvalidInput("version range", text, _EXPECTED_RANGE)
        found += _expand(match, text)
        position = match.end()
        while position < len(part) and part[position] in " ,":
            position += 1
    return tuple(found)  # the empty range holds everything, as in npm


def _bounds(part: str, text: str) -> list[tuple[str, Version]]:
    match = _PART.fullmatch(part)
    if not match:
        raise InvalidInput("version range", text, _EXPECTED_RANGE)
    return _expand(match, text)


def _expand(match: re.Match[str], text: str) -> list[tuple[str, Version]]:
    """Turn one comparator into plain bounds."""
    operator = match[1] or ""
    numbers = [int(n) if n and n.isdigit() else None for n in match.group(2, 3, 4)]
    major, minor, patch = numbers
    pre = tuple(match[5].split(".")) if match[5] else ()
    if major is None:
        if operator in ("<", ">"):
            raise InvalidInput("version range", text, _EXPECTED_RANGE)
        return []
    low = Version(major, minor or 0, patch or 0, pre)
    whole = minor is not None and patch is not None
    if operator == "^":
        return [(">=", low), ("<", _caret(major, minor, patch))]
    if operator == "~" or (operator in ("", "=") and not whole):
        return [(">=", low), ("<", _next(major, minor))]
    if operator == "<=" and not whole:
        return [("<", _next(major, minor))]
    if operator == ">" and not whole:
        return [(">=", _next(major, minor))]
    return [(operator or "=", low)]


def _next(major: int, minor: int | None) -> Version:
    # The lowest pre-release "0" keeps 2.0.0-beta outside of "<2.0.0".
    if minor is None:
        return Version(major + 1, 0, 0, ("0",))
    return Version(major, minor + 1, 0, ("0",))


def _caret(major: int, minor: int | None, patch: int | None) -> Version:
    if major > 0 or minor is None:
        return Version(major + 1, 0, 0, ("0",))
    if minor > 0 or patch is None:
        return Version(0, minor + 1, 0, ("0",))
    return Version(0, 0, patch + 1, ("0",))
