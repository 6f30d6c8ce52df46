"""A run's events, folded into what a resume has to know."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from operator import eq
from sqlite3 import Connection

_WINDOW = 4_096  # events read at a time
# What nearly all of a journal is: successes, and starts that are not in one row with
# others. One query for both would read once, but SQLite takes longer for it.
_IN_WINDOW = "run=? AND seq>? AND seq<=?"
_FIRST = "kind='started' AND attempt=1 AND step!=''"
_SUCCESSES = f"FROM event WHERE kind='succeeded' AND {_IN_WINDOW}"
_STARTS = f"FROM event WHERE {_FIRST} AND {_IN_WINDOW}"
_OTHERS = (
    f"SELECT step,attempt,kind,value,note FROM event WHERE {_IN_WINDOW} AND "  # noqa: S608 - only our own text
    f"NOT({_FIRST} OR kind='succeeded' AND attempt=1) ORDER BY seq"
)
# Between what SQLite joins. A constant: char(30) would be called for each row.
_BETWEEN = "\x1e"


@dataclass(slots=True, kw_only=True)
class Past:
    """What a run's events say, as far as a resume cares.

    Results are as the journal keeps them: by position for the steps that were known
    beforehand, by name for those that were added while the run went.
    """

    last: int
    texts: list[str | None]
    extra: dict[str, str] = field(default_factory=dict)
    # The number of a step's latest attempt; 1 for others that succeeded, else 0.
    tries: dict[str, int] = field(default_factory=dict)
    interrupted: list[str] = field(default_factory=list)
    approved: set[str] = field(default_factory=set)
    decided: dict[str, str] = field(default_factory=dict)
    compensating: bool = False
    added: list[str] = field(default_factory=list)

    def keep(
        self,
        index: Mapping[str, int],
        order: Sequence[str],
        names: list[str],
        texts: list[str],
    ) -> None:
        """Note the results of steps. `order` is what `index` has, by position."""
        if not names:
            return
        own = self.texts
        first = index.get(names[0])
        if first is not None and order[first : first + len(names)] == names:
            # They ended in the order of their definition: no need to look up each.
            own[first : first + len(names)] = texts
            return
        places = list(map(index.get, names))
        if None not in places:
            for place, text in zip(places, texts, strict=True):
                own[place] = text  # type: ignore[index] # None was looked for
            return
        for name, place, text in zip(names, places, texts, strict=True):
            if place is None:
                self.extra[name] = text
            else:
                own[place] = text

    def text(self, name: str, place: int | None) -> str | None:
        """Return the result of a step, None when it has not succeeded."""
        return self.extra.get(name) if place is None else self.texts[place]


def read_past(db: Connection, key: int, index: Mapping[str, int]) -> Past:
    """Fold a run's events; `index` has the positions of the steps known beforehand."""
    found = Past(last=last_event(db, key), texts=[None] * len(index))
    order = list(index)
    if not all(map(eq, index.values(), range(len(order)))):
        order = []
    begun: list[str] = []  # once, and not succeeded so far as we have read
    ended: dict[str, int] = {}
    for low in range(0, found.last, _WINDOW):
        window = (key, low, low + _WINDOW)
        begun += _joined(db, _STARTS, window)[0]
        _others(db, window, found, begun, ended)
        names, texts = _joined(db, _SUCCESSES, window)
        begun = _without(begun, names)
        found.keep(index, order, names, texts)
    tries = found.tries
    for step in begun:
        tries.setdefault(step, 1)
    found.interrupted = sorted(
        step
        for step, number in tries.items()
        if number
        and ended.get(step) != number
        and found.text(step, index.get(step)) is None
    )
    return found


def _without(begun: list[str], names: list[str]) -> list[str]:
    """Return what has begun and not succeeded; most succeed in the order of starts."""
    if begun[: len(names)] == names:
        return begun[len(names) :]
    gone = set(names)
    return [step for step in begun if step not in gone]


def last_event(db: Connection, key: int) -> int:
    """Return the number of a run's latest event."""
    row = db.execute(
        "SELECT coalesce(max(seq),0) FROM event WHERE run=?", (key,)
    ).fetchone()
    return int(row[0])


def _joined(
    db: Connection, where: str, window: tuple[int, int, int]
) -> tuple[list[str], list[str]]:
    """Read steps and results of a window's events of one kind.

    SQLite joins them to one text, which takes less time than a row for each.
    """
    count, *texts = db.execute(
        f"SELECT count(*),group_concat(step,'{_BETWEEN}'),"
        f"group_concat(coalesce(value,''),'{_BETWEEN}') {where}",
        window,
    ).fetchone()
    if not count:
        return [], []
    names, values = (text.split(_BETWEEN) for text in texts)
    if len(names) != count:  # a step has that character in its name
        rows = db.execute(f"SELECT step,value {where}", window).fetchall()
        return [row[0] for row in rows], [row[1] for row in rows]
    return names, values


def _others(
    db: Connection,
    window: tuple[int, int, int],
    found: Past,
    begun: list[str],
    ended: dict[str, int],
) -> None:
    """Take in what is not a first start or a success at the first attempt."""
    rows = db.execute(_OTHERS, window)
    tries = found.tries
    together: list[str] = []
    for step, attempt, kind, value, note in rows:
        if kind == "started" and not step:
            if note is None:
                together.append(value)
            else:
                tries.update(starts_of(value, note))
        elif kind in ("started", "succeeded"):
            tries[step] = attempt
        elif kind in ("failed", "retrying", "cancelled"):
            ended[step] = attempt
        elif kind == "approved":
            found.approved.add(step)
        elif kind == "decided":
            found.decided[step] = str(note)
        elif kind == "compensating":
            found.compensating = True
        elif kind == "added":
            found.added.append(str(note))
    if together:  # one call for many lists
        begun += chain.from_iterable(json.loads(f"[{','.join(together)}]"))


def starts_of(names: str, numbers: str | None) -> Iterator[tuple[str, int]]:
    """Read back what one row says about several starts."""
    return zip(
        json.loads(names), json.loads(numbers) if numbers else repeat(1), strict=False
    )
