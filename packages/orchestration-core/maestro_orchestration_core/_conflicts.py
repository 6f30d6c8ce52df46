"""Tasks that could run at the same time and touch the same files.

Two steps that do not compare all tasks with all: patterns are sorted by the
text before their first wildcard, so that a pattern is compared only with those
that begin like it; who comes before whom is a bit set per task, kept while
tasks after it need it. What is left grows with the conflicts that there are.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ._globs import literal_head, overlap, overlaps

if TYPE_CHECKING:
    from ._plan import Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """Two tasks that could run at the same time and touch the same files."""

    left: str
    right: str
    patterns: tuple[tuple[str, str], ...]


def conflicts(plan: "Plan") -> Iterator[Conflict]:
    """Yield the conflicts, by the order of the task that comes later."""
    names = [name for name in plan.order if plan.tasks[name].touches]
    place = {name: n for n, name in enumerate(names)}
    holders: dict[str, int] = {}
    for name in names:
        for pattern in plan.tasks[name].touches:
            holders[pattern] = holders.get(pattern, 0) | 1 << place[name]
    clash = _clashes(holders)
    for name, before in _before(plan, place):
        both = 0
        for pattern in plan.tasks[name].touches:
            both |= clash[pattern]
        found = both & ((1 << place[name]) - 1) & ~before
        mine = plan.tasks[name].touches
        for n in _bits(found):
            pairs = overlaps(plan.tasks[names[n]].touches, mine)
            yield Conflict(left=names[n], right=name, patterns=tuple(pairs))


def _clashes(holders: dict[str, int]) -> dict[str, int]:
    """Return for each pattern the tasks with one that can mean the same file."""
    clash = dict(holders)
    for left, right in overlapping(holders):
        clash[left] |= holders[right]
        clash[right] |= holders[left]
    return clash


def overlapping(patterns: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the pairs of different patterns that can mean the same file."""
    rows = sorted((literal_head(pattern), pattern) for pattern in set(patterns))
    around: list[tuple[str, str]] = []
    for head, pattern in rows:
        # Sorted, so those that this one can begin with are a stack.
        while around and not head.startswith(around[-1][0]):
            around.pop()
        for _, other in around:
            if overlap(other, pattern):
                yield other, pattern
        around.append((head, pattern))


def _before(plan: "Plan", place: dict[str, int]) -> Iterator[tuple[str, int]]:
    """Yield each task that touches something with those that come before it."""
    needed = {name: len(plan.followers[name]) for name in plan.order}
    reach: dict[str, int] = {}
    for name in plan.order:
        before = 0
        for other in set(plan.tasks[name].after):
            before |= reach[other]
            needed[other] -= 1
            if not needed[other]:
                del reach[other]
        if name in place:
            yield name, before
            before |= 1 << place[name]
        if needed[name]:
            reach[name] = before


def _bits(number: int) -> Sequence[int]:
    found = []
    while number:
        lowest = number & -number
        found.append(lowest.bit_length() - 1)
        number ^= lowest
    return found
