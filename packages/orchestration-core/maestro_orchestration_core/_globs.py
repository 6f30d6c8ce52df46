"""Tell whether two path patterns can mean the same file."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

_WILD: Final = re.compile(r"[*?]")


@lru_cache(maxsize=4096)
def overlap(left: str, right: str) -> bool:
    """Tell whether some path matches both: `*`, `?` in a part, `**` for any parts."""
    if not _WILD.search(left) and not _WILD.search(right):
        return left == right
    return _parts(tuple(left.split("/")), tuple(right.split("/")))


def overlaps(left: Iterable[str], right: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs of patterns that can mean the same file."""
    others = list(right)
    return [(a, b) for a in left for b in others if overlap(a, b)]


def literal_head(pattern: str) -> str:
    """Return the text that every path matching the pattern begins with."""
    head = _WILD.split(pattern, maxsplit=1)[0]
    # `a/**` means `a` as well.
    return head.removesuffix("/") if pattern.startswith("**", len(head)) else head


@lru_cache(maxsize=4096)
def _parts(left: tuple[str, ...], right: tuple[str, ...]) -> bool:
    if not left or not right:
        return all(part == "**" for part in left or right)
    if left[0] == "**":
        return _parts(left[1:], right) or _parts(left, right[1:])
    if right[0] == "**":
        return _parts(left, right[1:]) or _parts(left[1:], right)
    return _chars(left[0], right[0]) and _parts(left[1:], right[1:])


@lru_cache(maxsize=4096)
def _chars(left: str, right: str) -> bool:
    if not left or not right:
        return set(left or right) <= {"*"}
    if left[0] == "*":
        return _chars(left[1:], right) or _chars(left, right[1:])
    if right[0] == "*":
        return _chars(left, right[1:]) or _chars(left[1:], right)
    same = left[0] == right[0] or "?" in {left[0], right[0]}
    return same and _chars(left[1:], right[1:])
