"""Files that tasks touch: patterns, tasks that could collide, leases.

Two steps that do not compare all tasks with all: patterns are sorted by the
text before their first wildcard, so that a pattern is compared only with those
that begin like it; who comes before whom is a bit set per task, kept while
tasks after it need it. What is left grows with the conflicts that there are.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Protocol, final

from ._journal import Journal
from .errors import LeaseError

if TYPE_CHECKING:
    from ._plan import Plan

_WILD: Final = re.compile(r"[*?]")


@lru_cache(maxsize=4096)
def overlap(left: str, right: str) -> bool:
    """Tell whether some path matches both: `*`, `?` in a part, `**` for any parts."""
    if not _WILD.search(left) and not _WILD.search(right):
        return left == right
    return _meet(left.split("/"), right.split("/"), "**", _same_part)


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
def _same_part(left: str, right: str) -> bool:
    if not _WILD.search(left + right):
        return left == right
    return _meet(left, right, "*", lambda a, b: a == b or "?" in {a, b})


def _meet(
    left: Sequence[str], right: Sequence[str], any_: str,
    same: Callable[[str, str], bool],
) -> bool:  # fmt: skip
    """Tell whether both sequences can mean the same one; `any_` stands for any run.

    Costs the product of the lengths: a recursion could take exponential time.
    """
    rows, columns = len(left), len(right)
    below = [False] * (columns + 2)
    for i in range(rows, -1, -1):
        row = [False] * (columns + 2)
        for j in range(columns, -1, -1):
            if i < rows and left[i] == any_:
                row[j] = below[j] or row[j + 1]
            elif j < columns and right[j] == any_:
                row[j] = row[j + 1] or below[j]
            elif i < rows and j < columns:
                row[j] = below[j + 1] and same(left[i], right[j])
            else:
                row[j] = i == rows and j == columns
        below = row
    return below[0]


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


FREEZE: Final = "freeze"


class LeaseStore(Protocol):
    """Who may change what, now."""

    def take(self, name: str, holder: str, *, ttl: float, shared: bool = False) -> int:
        """Return a fencing token, larger than all before; raise LeaseError."""

    def release(self, name: str, holder: str) -> None:
        """Let go; nothing happens when it was not held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One lease that is held."""

    name: str
    holder: str
    shared: bool
    until_ns: int
    fence: int


@final
class JournalLeases:
    """Leases in the journal's file: for all runs and processes that use it."""

    def __init__(
        self,
        journal: Journal,
        *,
        run: str = "",
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._journal, self._db = journal, journal.connection
        self._run = run
        self._clock = clock

    def take(self, name: str, holder: str, *, ttl: float, shared: bool = False) -> int:
        """Return a fencing token; raise LeaseError naming the holder."""
        now = self._clock()
        with self._journal.transaction() as db:
            db.execute("DELETE FROM lease WHERE until <= ?", (now,))
            for lease in self.held():
                mine = lease.holder == holder
                both_shared = shared and lease.shared
                if not mine and not both_shared and overlap(lease.name, name):
                    raise LeaseError(name, f"{lease.holder} ({lease.name})")
            db.execute("UPDATE fence SET value = value + 1")
            fence: int = db.execute("SELECT value FROM fence").fetchone()[0]
            db.execute(
                "INSERT OR REPLACE INTO lease VALUES (?, ?, ?, ?, ?, ?)",
                (name, holder, int(shared), now + int(ttl * 1e9), fence, self._run),
            )
        return fence

    def release(self, name: str, holder: str) -> None:
        """Let go."""
        with self._journal.transaction() as db:
            db.execute(
                "DELETE FROM lease WHERE name = ? AND holder = ?", (name, holder)
            )

    def freeze(self, name: str, *, seconds: float, why: str = "") -> int:
        """Refuse everybody for a time: a calendar freeze."""
        return self.take(name, f"{FREEZE}: {why}" if why else FREEZE, ttl=seconds)

    def held(self) -> list[Lease]:
        """Return the leases that have not run out."""
        rows = self._db.execute(
            "SELECT name, holder, shared, until, fence FROM lease WHERE until > ? "
            "ORDER BY fence",
            (self._clock(),),
        ).fetchall()
        return [
            Lease(name=n, holder=h, shared=bool(s), until_ns=u, fence=f)
            for n, h, s, u, f in rows
        ]
