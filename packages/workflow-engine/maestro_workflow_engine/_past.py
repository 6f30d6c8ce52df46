"""A run's events, folded into what a resume has to know."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, repeat
from sqlite3 import Connection

_WINDOW = 4_096  # events read at a time
# What nearly all of a journal is: first starts, alone or together, and successes.
_BEGUN = "kind='started' AND attempt=1 AND step!=''"
_TOGETHER = "kind='started' AND step='' AND note IS NULL"
_AT_ONCE = "kind='succeeded' AND attempt=1"
_PLAIN = (
    f"SELECT total({_BEGUN}),group_concat(CASE WHEN {_BEGUN} THEN step END,char(30)),"  # noqa: S608
    f"group_concat(CASE WHEN {_TOGETHER} THEN value END),total(kind='succeeded'),"
    f"total(NOT({_BEGUN} OR {_TOGETHER} OR {_AT_ONCE})),"
    "group_concat(CASE WHEN kind='succeeded' THEN step END,char(30)),"
    "group_concat(CASE WHEN kind='succeeded' THEN value END,char(30)) "
    "FROM event WHERE run=? AND seq>? AND seq<=?"
)
_ONE_BY_ONE = (
    "SELECT kind,step,value FROM event WHERE run=? AND seq>? AND seq<=? AND "  # noqa: S608
    f"({_BEGUN} OR kind='succeeded')"
)


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
        self, index: Mapping[str, int], names: list[str], texts: list[str]
    ) -> None:
        """Note the results of steps."""
        places = list(map(index.get, names))
        own = self.texts
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
    begun: set[str] = set()  # once, and not succeeded so far as we have read
    ended: dict[str, int] = {}
    for low in range(0, found.last, _WINDOW):
        window = (key, low, low + _WINDOW)
        started, names, texts, others = _plain(db, window)
        begun.update(started)
        if others:
            _odd(db, window, found, ended)
        begun.difference_update(names)
        found.keep(index, names, texts)
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


def last_event(db: Connection, key: int) -> int:
    """Return the number of a run's latest event."""
    row = db.execute(
        "SELECT coalesce(max(seq),0) FROM event WHERE run=?", (key,)
    ).fetchone()
    return int(row[0])


def _plain(
    db: Connection, window: tuple[int, int, int]
) -> tuple[Iterable[str], list[str], list[str], float]:
    """Read a window's first starts, its successes, their results; count the others.

    SQLite joins them to one text, which is a third of the time of a row for each.
    """
    query = db.execute(_PLAIN, window)
    begun, first, together, many, others, steps, values = query.fetchone()
    names, texts = _split(steps, many), _split(values, many)
    started = _split(first, begun)
    if None in (names, texts, started):
        # A step has the separator in its name: read them one by one.
        rows = db.execute(_ONE_BY_ONE, window).fetchall()
        started = [row[1] for row in rows if row[0] == "started"]
        names = [row[1] for row in rows if row[0] == "succeeded"]
        texts = [row[2] for row in rows if row[0] == "succeeded"]
    more = json.loads(f"[{together}]") if together else ()
    assert names is not None
    assert texts is not None
    return chain(started or (), *more), names, texts, others


def _odd(
    db: Connection,
    window: tuple[int, int, int],
    found: Past,
    ended: dict[str, int],
) -> None:
    """Take in what is not a first start or a success at the first attempt."""
    rows = db.execute(
        "SELECT step,attempt,kind,value,note FROM event WHERE run=? AND seq>? AND "  # noqa: S608 - only our own text
        f"seq<=? AND NOT({_BEGUN} OR {_TOGETHER} OR {_AT_ONCE}) "
        "ORDER BY seq",
        window,
    )
    tries = found.tries
    for step, attempt, kind, value, note in rows:
        if kind == "started" and not step:
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


def _split(text: str | None, count: float) -> list[str] | None:
    """Take apart what SQLite joined; None when it cannot be told apart."""
    parts = [] if text is None else text.split("\x1e")
    return parts if len(parts) == count else None


def starts_of(names: str, numbers: str | None) -> Iterator[tuple[str, int]]:
    """Read back what one row says about several starts."""
    return zip(
        json.loads(names), json.loads(numbers) if numbers else repeat(1), strict=False
    )
