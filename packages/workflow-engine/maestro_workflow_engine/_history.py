"""How long steps took: what plans and priorities are made of."""

from __future__ import annotations

import json
import zlib
from array import array
from collections.abc import Container, Iterable
from itertools import compress
from sqlite3 import Connection

from ._shape import little_endian

HISTORY = 9  # durations of a step that count
HISTORY_RUNS = 27  # runs of a workflow whose durations are kept
HISTORY_READ = 300_000  # durations that are enough to know, for very large workflows


def read_durations(
    db: Connection, workflow: str, wanted: Container[str] | None
) -> dict[str, float]:
    """Return the median of each step's latest durations, in seconds."""
    runs: list[dict[str, float]] = []
    rows = db.execute(
        "SELECT seconds FROM duration WHERE workflow=? ORDER BY run DESC, epoch DESC",
        (workflow,),
    )
    read = 0
    for (body,) in rows:
        runs.append(_times(body, wanted))
        read += len(runs[-1])
        if read > HISTORY_READ:
            break
    if len(runs) == 1:
        return runs[0]
    found: dict[str, list[float]] = {}
    for run in runs:
        for step, length in run.items():
            times = found.setdefault(step, [])
            if len(times) < HISTORY:
                times.append(length)
    return {step: sorted(times)[len(times) // 2] for step, times in found.items()}


def write_durations(
    db: Connection,
    workflow: str,
    run: tuple[int, int],
    times: Iterable[tuple[str, float]],
) -> None:
    """Add the durations of a run, given by key and epoch, and drop the oldest."""
    known = dict(times)
    head = json.dumps(list(known)).encode()
    numbers = little_endian(array("f", known.values())).tobytes()
    body = zlib.compress(head + b"\n" + numbers, 1)
    db.execute(
        "INSERT OR REPLACE INTO duration VALUES(?,?,?,?)", (workflow, *run, body)
    )
    db.execute(
        "DELETE FROM duration WHERE workflow=? AND (run,epoch)<=(SELECT run,epoch FROM "
        "duration WHERE workflow=? ORDER BY run DESC, epoch DESC LIMIT 1 OFFSET ?)",
        (workflow, workflow, HISTORY_RUNS),
    )


def _times(body: bytes, wanted: Container[str] | None) -> dict[str, float]:
    """Read back the durations of one run."""
    head, _, rest = zlib.decompress(body).partition(b"\n")
    numbers = array("f")
    numbers.frombytes(rest)
    steps = json.loads(head)
    pairs = zip(steps, little_endian(numbers), strict=True)
    if wanted is None:
        return dict(pairs)
    return dict(compress(pairs, map(wanted.__contains__, steps)))
