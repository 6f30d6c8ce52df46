"""Files that people write: gate rules, quarantine, code owners."""

import datetime as dt
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from .errors import RulesError, did_you_mean


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRules:
    """What a run must satisfy; None leaves a rule out.

    Quarantined tests count in none of the failure rules.

    Attributes:
        max_failures: Failed tests, old and new.
        max_new_failures: Tests that fail and do not fail on the baseline branch.
        max_flaky: Tests that passed only after a failed attempt.
        min_tests: Tests that ran; guards against a run that lost its tests.
        min_pass_rate: Passed share of passed and failed, 0 to 1.
        max_duration: Seconds from first start to last stop, else the sum.
        max_slower: Tests with a duration regression in the runs up to this one.
        max_missing: Tests that ran in the run it is set against (`Run.base`), not here.
        require_shards: Number of shards that must be there.
        allow_broken_reports: Whether unreadable reports are let pass.
        ignore_known_flakes: Whether failures of tests that history calls flaky pass.
    """

    max_failures: int | None = None
    max_new_failures: int | None = 0
    max_flaky: int | None = None
    min_tests: int | None = 1
    min_pass_rate: float | None = None
    max_duration: float | None = None
    max_slower: int | None = None
    max_missing: int | None = None
    require_shards: int | None = None
    allow_broken_reports: bool = False
    ignore_known_flakes: bool = True

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read rules from a TOML file: its `[gate]` table, or its top level."""
        data = _toml(path)
        return cls.of(data.get("gate", data), path=path)

    @classmethod
    def of(cls, rules: Mapping[str, Any], *, path: object = "") -> Self:
        """Check rules given as a mapping."""
        known = {f.name: f for f in fields(cls)}
        for name, value in rules.items():
            if name not in known:
                raise RulesError(
                    path,
                    name,
                    f"no such rule{did_you_mean(name, known)}; known are {', '.join(known)}",
                )
            wanted = str(known[name].type)
            if "bool" in wanted:
                good = isinstance(value, bool)
            else:
                numbers: Any = (int, float) if "float" in wanted else int
                good = (
                    isinstance(value, numbers)
                    and not isinstance(value, bool)
                    and value >= 0
                )
            if name == "min_pass_rate" and good:
                good = value <= 1
            if not good and not (value is None and "None" in wanted):
                raise RulesError(
                    path, name, f"expected {_allowed(name, wanted)}, got {value!r}"
                )
        return cls(**rules)


def _allowed(name: str, wanted: str) -> str:
    if "bool" in wanted:
        return "true or false"
    if name == "min_pass_rate":
        return "a number from 0 to 1"
    return f"a {'number' if 'float' in wanted else 'whole number'} of at least 0"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """Whether a run may pass, and why not.

    Attributes:
        reasons: One sentence for each rule that is broken.
        notes: What was left out of account, such as quarantined failures.
        new_failures: Ids that fail here, not on the baseline, and are not left out.
        old_failures: Ids that fail on the baseline branch too, and are not left out.
        ignored: Ids of failures left out: quarantined, or known to be flaky.
    """

    ok: bool
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    new_failures: tuple[str, ...] = ()
    old_failures: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.ok


@dataclass(frozen=True, slots=True, kw_only=True)
class Quarantined:
    """A test, or a pattern of tests, whose failures do not block for a while.

    Attributes:
        test: Id, with `*` for any text.
        owner: Who mends it.
        reason: Why it is here.
        expires: The last day; from the next on, its failures block again.
    """

    test: str
    owner: str
    reason: str
    expires: dt.date

    def matches(self, test: str) -> bool:
        """Tell whether it is about this test."""
        parts = self.test.split("*")
        return (
            re.fullmatch(".*".join(map(re.escape, parts)), test, re.DOTALL) is not None
        )


class Quarantine:
    """The tests whose failures are known and do not block, each with an owner and an end.

    Args:
        entries: What is quarantined.
        today: Returns the current day.
    """

    def __init__(
        self, entries: Iterable[Quarantined] = (), *,
        today: Callable[[], dt.date] = lambda: dt.datetime.now(dt.UTC).date(),
    ) -> None:  # fmt: skip
        self.entries: list[Quarantined] = list(entries)
        self._today = today

    def load(self, path: str | os.PathLike[str]) -> "Quarantine":
        """Read `[[test]]` tables of a TOML file: id, owner, reason, expires.

        Raises:
            RulesError: A table lacks one of the four, or `expires` is no date.
        """
        tables = _toml(path).get("test", [])
        if not isinstance(tables, list):
            raise RulesError(path, "test", "expected [[test]] tables")
        self.entries = [self._entry(path, n, table) for n, table in enumerate(tables)]
        return self

    def _entry(self, path: object, number: int, table: Any) -> Quarantined:
        where = f"test[{number}]"
        if not isinstance(table, dict):
            raise RulesError(path, where, f"expected a table, got {table!r}")
        known = ("id", "owner", "reason", "expires")
        for key in table:
            if key not in known:
                raise RulesError(
                    path, f"{where}.{key}", f"no such key{did_you_mean(key, known)}"
                )
        for key in known[:3]:
            if not isinstance(table.get(key), str) or not table[key].strip():
                raise RulesError(
                    path, f"{where}.{key}", "expected a text that is not empty"
                )
        expires = table.get("expires")
        if isinstance(expires, dt.datetime) or not isinstance(expires, dt.date):
            raise RulesError(
                path,
                f"{where}.expires",
                f"expected a date such as 2026-12-31, got {expires!r}",
            )
        return Quarantined(
            test=table["id"],
            owner=table["owner"],
            reason=table["reason"],
            expires=expires,
        )

    def active(self, test: str) -> Quarantined | None:
        """Return the entry that holds for a test today."""
        today = self._today()
        return next(
            (e for e in self.entries if e.expires >= today and e.matches(test)), None
        )

    def expired(self) -> list[Quarantined]:
        """Return the entries that have ended and are still in the file."""
        today = self._today()
        return [e for e in self.entries if e.expires < today]


class Owners:
    """Who owns a file, by a CODEOWNERS file: the last pattern that matches counts."""

    def __init__(self, rules: Sequence[tuple[str, tuple[str, ...]]] = ()) -> None:
        self._rules = [(_pattern(glob), owners) for glob, owners in rules]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a CODEOWNERS file; GitLab's `[Section]` lines are passed over."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RulesError(path, "file", str(error)) from error
        rules = []
        for line in text.splitlines():
            words = line.partition(" #")[0].split()
            if words and not words[0].startswith(("#", "[", "^[")):
                rules.append((words[0], tuple(words[1:])))
        return cls(rules)

    def of(self, file: str | None) -> tuple[str, ...]:
        """Return the owners of a file, relative to the repository."""
        if not file:
            return ()
        file = file.removeprefix("./").lstrip("/")
        return next(
            (
                owners
                for pattern, owners in reversed(self._rules)
                if pattern.match(file)
            ),
            (),
        )


def _pattern(glob: str) -> re.Pattern[str]:
    anchored = "/" in glob.rstrip("/")
    text = re.escape(glob.lstrip("/").rstrip("/"))
    text = (
        text.replace(r"\*\*/", "(?:.*/)?")
        .replace(r"/\*\*", "/.*")
        .replace(r"\*\*", ".*")
    )
    text = text.replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    tail = (
        "/.*" if glob.endswith("/") else r"\Z" if glob.endswith("/*") else r"(?:/.*)?\Z"
    )
    return re.compile(("" if anchored else "(?:.*/)?") + text + tail)


def _toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    try:
        with Path(path).open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise RulesError(path, "file", error.strerror or str(error)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RulesError(path, "file", f"not TOML: {error}") from error
