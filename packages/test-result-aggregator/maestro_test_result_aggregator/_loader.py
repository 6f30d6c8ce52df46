"""Results on their way into an open transaction."""

import hashlib
import json
import sqlite3
import sys
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import itemgetter
from typing import Any

from ._ctrf import to_ctrf
from ._model import OUTCOMES, STATUS_OF, Attempt, Diagnostic, TestResult, make

CODES = {outcome: code for code, outcome in enumerate(OUTCOMES)}
BAD = 6
_RAN = frozenset({CODES["passed"], CODES["xpassed"], *range(BAD, len(OUTCOMES))})
_BATCH = 5000
_PLAIN = 5  # id, name, outcome, duration, suite
_PLACE = itemgetter(1, 2)


def pack(tests: Sequence[int]) -> bytes:
    """Return sorted numbers as compressed differences."""
    made = array("I", map(int.__sub__, tests, (0, *tests[:-1])))
    if sys.byteorder == "big":
        made.byteswap()
    return zlib.compress(made.tobytes(), 6)


def unpack(data: bytes) -> list[int]:
    """Return what `pack` took."""
    made = array("I", zlib.decompress(data))
    if sys.byteorder == "big":
        made.byteswap()
    return list(accumulate(made))


def keep_roster(db: sqlite3.Connection, tests: Sequence[int]) -> int:
    """Return the number of a roster, kept once however many runs have it."""
    data = pack(tests)
    digest = hashlib.blake2b(data, digest_size=16).digest()
    row = db.execute("SELECT id FROM roster WHERE digest = ?", (digest,)).fetchone()
    if row is None:
        made = db.execute(
            "INSERT INTO roster(digest, tests) VALUES(?,?)", (digest, data)
        ).lastrowid
        return made or 0
    return int(row[0])


class Loader:
    """Puts results into the open transaction of a new part."""

    def __init__(
        self, db: sqlite3.Connection, run: int, shard: str, digest: str
    ) -> None:
        self.db = db
        self.run = run
        self.part = db.execute(
            "INSERT INTO part(run, shard, digest, counts, diagnostics) VALUES(?,?,?,'','')",
            (run, shard, digest),
        ).lastrowid
        self.tests: dict[str, int] = dict(db.execute("SELECT key, id FROM test"))
        # The attempts there are, by test: from other shards, then from this one.
        self.attempts: dict[int, int] = dict(
            db.execute(
                "SELECT test, max(attempt) FROM result WHERE run = ? GROUP BY test",
                (run,),
            )
        )
        self.elsewhere = frozenset(self.attempts)
        self.next = (db.execute("SELECT max(id) FROM test").fetchone()[0] or 0) + 1
        self.new: list[tuple[Any, ...]] = []
        self.rows: list[tuple[Any, ...]] = []
        self.finals: dict[int, int] = {}
        self.flaky: set[int] = set()
        self.ran: set[int] = set()
        self.us = 0
        self.first: float | None = None
        self.stop: float | None = None
        self.again = 0

    def load(self, results: Iterable[TestResult]) -> None:
        """Put results in, a batch at a time."""
        known, finals, attempts, codes = (
            self.tests.get,
            self.finals,
            self.attempts,
            CODES,
        )
        rows, run, part, total = self.rows, self.run, self.part, 0
        for result in results:
            number = known(result.id) or self.meet(result)
            code = codes[result.outcome]
            us = int(result.duration * 1e6 + 0.5)
            total += us
            # Most results say no more than these keys, and their test ran once.
            if len(result.__dict__) > _PLAIN or number in finals or number in attempts:
                self.whole(result, number, code, us)
            else:
                rows.append((run, number, 1, code, us, None, part, None))
            finals[number] = code
            if len(rows) >= _BATCH:
                self.flush()
        self.flush()
        self.us = total

    def meet(self, result: TestResult) -> int:
        """Give a number to a test that is new."""
        number = self.tests[result.id] = self.next
        self.next += 1
        self.new.append(
            (number, result.id, result.name, result.file, result.line, json.dumps(result.suite))
        )  # fmt: skip
        return number

    def whole(self, result: TestResult, number: int, code: int, us: int) -> None:
        """Put in a result that says more than most, or is not its test's first."""
        attempts = self.attempts
        before = self.finals.get(number)
        for attempt in result.attempts:
            attempts[number] = at = attempts.get(number, before is not None) + 1
            self.rows.append(self.attempt(number, at, attempt))
            if CODES[attempt.outcome] in _RAN:
                self.ran.add(number)
        attempts[number] = at = attempts.get(number, before is not None) + 1
        start = result.start
        if start is not None:
            self.first = start if self.first is None else min(self.first, start)
            stop = start + result.duration
            self.stop = stop if self.stop is None else max(self.stop, stop)
            start = int(start * 1e6)
        if at > 1:
            self.again += before is not None or number in self.elsewhere
            if before is not None and before in _RAN:
                self.ran.add(number)
            if code < BAD and (result.flaky or (before or 0) >= BAD):
                self.flaky.add(number)
            elif code >= BAD:
                self.flaky.discard(number)
        body = self.body(result) if len(result.__dict__) > _PLAIN else None
        self.rows.append((self.run, number, at, code, us, start, self.part, body))

    def flush(self) -> None:
        """Hand what is collected to the database."""
        self.db.executemany(
            "INSERT INTO test(id, key, name, file, line, suite) VALUES(?,?,?,?,?,?)",
            self.new,
        )
        self.rows.sort(key=_PLACE)
        self.db.executemany("INSERT INTO result VALUES(?,?,?,?,?,?,?,?)", self.rows)
        self.rows.clear()
        self.new.clear()

    def attempt(self, number: int, at: int, attempt: Attempt) -> tuple[Any, ...]:
        known = {
            key: getattr(attempt, key) for key in ("message", "trace", "stdout", "stderr")
            if getattr(attempt, key)
        }  # fmt: skip
        body = None
        if known:
            body = self.body(
                make({"id": "", "name": "-", "outcome": attempt.outcome, **known})
            )
        start = None if attempt.start is None else int(attempt.start * 1e6)
        us = int(attempt.duration * 1e6 + 0.5)
        return self.run, number, at, CODES[attempt.outcome], us, start, self.part, body

    def body(self, result: TestResult) -> int | None:
        made = to_ctrf(result)
        extra = made.pop("extra")
        for key in (
            "maestro.id",
            "maestro.outcome",
            "maestro.seconds",
            "maestro.start",
        ):
            extra.pop(key, None)
        if extra == {"maestro.absent": ["rawStatus"]}:
            extra = {}
        for key in (
            "name",
            "status",
            "duration",
            "start",
            "stop",
            "retries",
            "retryAttempts",
            "flaky",
        ):
            made.pop(key, None)
        if result.raw_status is None:
            made.pop("rawStatus")
        for key in ("filePath", "line", "suite"):
            made.pop(key, None)
        if extra:
            made["extra"] = extra
        if not made:
            return None
        data = json.dumps(made, ensure_ascii=False, sort_keys=True).encode(
            "utf-8", "surrogatepass"
        )
        digest = hashlib.blake2b(data, digest_size=16).digest()
        row = self.db.execute(
            "SELECT id FROM body WHERE digest = ?", (digest,)
        ).fetchone()
        if row:
            return int(row[0])
        return self.db.execute(
            "INSERT INTO body(digest, message, data) VALUES(?,?,?)",
            (digest, _safe(result.message), zlib.compress(data, 6)),
        ).lastrowid

    def finish(self, told: list[Diagnostic]) -> None:
        """Put in the sums of the part and what was told, with what is to be added."""
        if self.again:
            text = f"{self.again} results of tests that were there already; kept as later attempts"
            told.append(Diagnostic(path="", message=text, level="warning"))
        self.db.execute(
            "UPDATE part SET counts = ?, diagnostics = ?, roster = ? WHERE id = ?",
            (
                json.dumps(self.sums()),
                json.dumps([[d.path, d.message, d.line, d.level] for d in told]),
                self.roster(),
                self.part,
            ),
        )

    def roster(self) -> int:
        """Keep which tests ran; returns the number of the roster."""
        ran = self.ran
        ran.update(number for number, code in self.finals.items() if code in _RAN)
        return keep_roster(self.db, sorted(ran))

    def sums(self) -> dict[str, Any]:
        """Return the counts of the part."""
        counts = dict.fromkeys(("passed", "failed", "skipped", "pending", "other"), 0)
        for code, count in Counter(self.finals.values()).items():
            counts[STATUS_OF[OUTCOMES[code]]] += count
        return {
            "tests": len(self.finals), **counts, "flaky": len(self.flaky),
            "us": self.us, "first": self.first, "stop": self.stop,
        }  # fmt: skip


def _safe(text: str | None) -> str | None:
    return text and text.encode("utf-8", "replace").decode("utf-8")
