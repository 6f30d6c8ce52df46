"""The tests that failed in some runs, each judged as flaky or not."""

from collections.abc import Sequence
from dataclasses import dataclass

from ._flaky import FlakeClass, Panel, Priors, learned, outages
from ._loader import BAD, CODES
from ._past import failing, rosters
from ._runs import RunInfo
from ._stats import Interval
from ._store import History

_FAILED, _RECOVERED = b"Fr"
_PASSED = (CODES["passed"], CODES["xpassed"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Flake:
    """What history says of a test that has failed at least once.

    Attributes:
        score: Probability that it is flaky; what lists are ranked by.
        rate: Failure rate with Wilson's 95% interval.
        class_: `flaky`, `broken`, `new-failure`, `fixed`, `outage`, `not-enough-data`.
        evidence: What speaks for it, in words.
        seen: Runs in which it ran.
        row: A character a run, oldest first: `.` passed, `F` failed, `r` recovered
            on retry, `-` not run.
    """

    test: str
    score: float
    rate: Interval
    class_: FlakeClass
    evidence: tuple[str, ...]
    seen: int
    failures: int
    file: str | None
    row: str


def judged(history: History, runs: Sequence[RunInfo], priors: Priors) -> list[Flake]:
    """Judge every test that failed or recovered in some of these runs."""
    rows, failed, ran, tests = _rows(history, runs)
    panel = Panel(
        outages=outages(failed, ran),
        commits=[run.commit for run in runs],
        priors=priors,
    )
    verdicts = learned(
        list(rows.values()), panel=panel, healthy=max(tests - len(rows), 0),
        seen=sum(ran) / max(tests, 1),
    )  # fmt: skip
    names = history.keys(rows)
    return [
        Flake(
            test=names[test][0], file=names[test][1], row=row, score=verdict.score, rate=verdict.rate,
            class_=verdict.class_, evidence=verdict.evidence, seen=verdict.seen, failures=verdict.failures,
        )
        for (test, row), verdict in zip(rows.items(), verdicts, strict=True)
    ]  # fmt: skip


def _rows(
    history: History, runs: Sequence[RunInfo]
) -> tuple[dict[int, str], list[int], list[int], int]:
    """Return rows by test; by run, how many failed and ran; and how many tests ran at all."""
    order = {run.number: at for at, run in enumerate(runs)}
    found = rosters(history, runs)
    lists = [found.get(run.number, frozenset()) for run in runs]
    made: dict[int, bytearray] = {}
    templates: dict[tuple[bool, ...], bytes] = {}
    different = list(set(lists))
    which = [different.index(one) for one in lists]
    failed = [0] * len(runs)
    for (test, run), codes in failing(history, runs).items():
        row = made.get(test)
        if row is None:
            held = tuple(test in one for one in different)
            template = templates.get(held)
            if template is None:
                template = templates[held] = bytes(b"-."[held[w]] for w in which)
            row = made[test] = bytearray(template)
        mark = _mark(codes)
        row[order[run]] = mark
        failed[order[run]] += mark == _FAILED
    tests = len(frozenset().union(*different))
    rows = {test: row.decode() for test, row in made.items()}
    return rows, failed, [len(one) for one in lists], tests


def _mark(codes: Sequence[int]) -> int:
    """Return the mark of a run in which an attempt failed."""
    mark = _FAILED
    for code in codes:
        if code >= BAD:
            mark = _FAILED
        elif code in _PASSED:
            mark = _RECOVERED
    return mark
