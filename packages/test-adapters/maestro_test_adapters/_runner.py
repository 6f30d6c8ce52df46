"""What every runner adapter offers, and what an author of one has to write."""

import os
import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from maestro_test_adapters._arguments import (
    count,
    known_names,
    names_of,
    seconds,
    unknown_name,
    words,
    wrong,
)
from maestro_test_adapters._arguments import path as check_path
from maestro_test_adapters._events import TestStarted
from maestro_test_adapters._model import Report, TestCase, TestResult
from maestro_test_adapters._run import Run
from maestro_test_adapters.errors import ArgumentError, RunnerFailed, Unsupported

INJECT = Path(__file__).parent / "_inject"
"""The folder of the single files that tell our stream from inside a target."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which tests a process is to run.

    Attributes:
        only: Ids to run; None for all. An id may name a group of tests.
        skip: Ids that are done already.
        first: Ids to run before all others.
        markers: The runner's own expression, such as `slow and not net`.
        collect: Name the tests, run none.
    """

    only: tuple[str, ...] | None = None
    skip: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    markers: str | None = None
    collect: bool = False


class Reader(Protocol):
    """Turns what a runner writes into starts and results, line by line."""

    def feed(self, line: str) -> Iterable[TestStarted | TestResult]:
        """Take one line, without its end."""
        ...

    def close(self) -> Iterable[TestStarted | TestResult]:
        """Take the end of the text."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How to start the runner, and where its results will be.

    Attributes:
        argv: The command.
        env: Added to the environment.
        streams: Whether the runner tells our event stream (`MAESTRO_STREAM`).
        reader: Reads standard output, for runners that print their results.
        report: Reads the files that the runner leaves, called after its end.
        stacks: Whether the runner dumps its stacks on SIGUSR2.
    """

    argv: Sequence[str]
    env: Mapping[str, str] = field(default_factory=dict)
    streams: bool = False
    reader: Reader | None = None
    report: "ReportFiles | None" = None
    stacks: bool = False


class ReportFiles(Protocol):
    """Reads the report files of a finished runner."""

    def __call__(self) -> Iterable[TestResult]:
        """Return the results; raise ReportError for a file that cannot be read."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a runner's process ended.

    Attributes:
        exit_code: Negative for a signal, None if we killed it.
        complete: Whether the runner said that it was done.
        started: Whether it said anything at all.
        output: The last text it wrote, both streams.
        results: How many results it gave, and `failed` how many of them were bad.
    """

    exit_code: int | None
    complete: bool
    started: bool
    output: str
    results: int
    failed: int


class RunnerAdapter(ABC):
    """Runs a framework's tests in a process of their own.

    An author writes `launch`, and `judge` where exit codes mean something; see
    `maestro_test_adapters.testing.check_runner_adapter` for what must then hold.
    Adapters hold settings only: one adapter may start any number of runs, one after
    another or at once.

    Args:
        cwd: The folder in which the runner starts.
        env: Added to the environment; a value of None removes a variable.
        timeout: Seconds for a whole run.
        timeout_per_test: Seconds for one test; the test in flight is then named, its
            stack kept where possible, its process killed, and the rest run anew.
        retries: How often a failed test is tried again, in a new process.
        shard: `2/8` runs the second of eight parts; files stay whole.
        after_crash: `continue` runs what a crash or timeout left undone in a new
            process; `stop` reports it as `notrun`.
    """

    name: str = ""

    def __init__(
        self,
        *,
        cwd: str | os.PathLike[str] = ".",
        env: Mapping[str, str | None] | None = None,
        timeout: float | None = None,
        timeout_per_test: float | None = None,
        retries: int = 0,
        shard: str | None = None,
        after_crash: Literal["continue", "stop"] = "continue",
        **unknown: Any,
    ) -> None:
        where = type(self).__name__
        for name in unknown:
            raise unknown_name(where, name, self._names())
        for name, value in (
            ("timeout", timeout),
            ("timeout_per_test", timeout_per_test),
        ):
            if value is not None:
                seconds(where, name, value)
        count(where, "retries", retries)
        check_path(where, "cwd", cwd)
        if env is not None and not _is_environment(env):
            raise wrong(where, "env", "a mapping of names to texts or None", env)
        if after_crash not in ("continue", "stop"):
            raise wrong(where, "after_crash", "'continue' or 'stop'", after_crash)
        self.cwd = Path(cwd)
        self.env = dict(env or {})
        self.timeout = timeout
        self.timeout_per_test = timeout_per_test
        self.retries = retries
        self.shard = parse_shard(shard) if shard is not None else None
        self.after_crash = after_crash

    def _names(self) -> list[str]:
        """Return the arguments that this adapter's construction takes."""
        made = [vars(cls).get("__init__") for cls in type(self).__mro__[:-1]]
        names = [name for one in made if one is not None for name in names_of(one)]
        return list(dict.fromkeys(names))

    # What an author writes -------------------------------------------------------

    @abstractmethod
    def launch(self, selection: Selection, folder: Path) -> Launch:
        """Return how to start the runner for a selection.

        Args:
            selection: What to run.
            folder: An empty folder that lives as long as the process.

        Raises:
            Unsupported: The runner cannot select like that.
        """

    def judge(self, ending: Ending) -> list[str]:
        """Return what the process's end says is wrong, beyond failed tests.

        Raises:
            RunnerNotInstalled: The target has no such runner.
            RunnerFailed: There can be no results, such as for a wrong option.
        """
        if not ending.started and ending.results == 0:
            raise RunnerFailed(
                f"{self.name} ended without a result, exit code {ending.exit_code}",
                exit_code=ending.exit_code,
                output=ending.output,
            )
        return []

    # What a user calls -----------------------------------------------------------

    def discover(self) -> list[TestCase]:
        """Return the tests that a run would run, without running any.

        Raises:
            RunnerError: The runner is missing, or cannot collect.
            Unsupported: The runner cannot name its tests.
        """
        with Run(self, Selection(collect=True), shard=self.shard) as run:
            for _ in run:
                pass
        problems = [f"{result.id}: {result.message}" for result in run.report.failures]
        problems += run.report.problems
        if problems:
            raise RunnerFailed(
                f"{self.name} could not collect: {problems[0]}",
                exit_code=run.report.exit_code,
                output="\n".join(
                    result.trace or "" for result in run.report.failures[:5]
                ),
            )
        return run.cases

    @known_names
    def start(
        self,
        *,
        select: Iterable[str] | None = None,
        markers: str | None = None,
        failed_first: Report | str | os.PathLike[str] | None = None,
        stream: str | os.PathLike[str] | None = None,
    ) -> Run:
        """Start a run; iterate over it for its events, as they happen.

        Leaving the `with` block ends the runner and everything it started.

        Args:
            select: Ids to run; an id may name a file, a class or a folder.
            markers: The runner's own expression over markers or tags.
            failed_first: An earlier report, or its file: what failed there runs first.
            stream: A JSONL file that gets every result as soon as it is known.
        """
        only = None if select is None else tuple(words("start()", "select", select))
        first: tuple[str, ...] = ()
        if failed_first is not None:
            earlier = (
                failed_first
                if isinstance(failed_first, Report)
                else Report.read(failed_first)
            )
            first = tuple(result.id for result in earlier.failures)
        selection = Selection(only=only, markers=markers, first=first)
        return Run(
            self, selection, shard=self.shard, stream=Path(stream) if stream else None
        )

    @known_names
    def run(
        self,
        *,
        select: Iterable[str] | None = None,
        markers: str | None = None,
        failed_first: Report | str | os.PathLike[str] | None = None,
        stream: str | os.PathLike[str] | None = None,
    ) -> Report:
        """Run to the end and return the report. Arguments as for `start`."""
        with self.start(
            select=select, markers=markers, failed_first=failed_first, stream=stream
        ) as run:
            for _ in run:
                pass
        return run.report

    def environment(self) -> dict[str, str]:
        """Return the environment of the runner's process."""
        merged: dict[str, str | None] = {**os.environ, **self.env}
        return {key: value for key, value in merged.items() if value is not None}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(cwd={str(self.cwd)!r})"


def _is_environment(env: Any) -> bool:
    return isinstance(env, Mapping) and all(
        isinstance(name, str) and isinstance(text, str | None)
        for name, text in env.items()
    )


def target_python(python: str | os.PathLike[str] | None) -> str:
    """Return the interpreter of the target: this one unless another is named."""
    return os.fspath(python) if python is not None else sys.executable


def injected(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the PYTHONPATH that makes our single files importable in a target."""
    old = environment.get("PYTHONPATH")
    return {"PYTHONPATH": f"{INJECT}{os.pathsep}{old}" if old else str(INJECT)}


def refuse(selection: Selection, *, adapter: str, lacks: Sequence[str]) -> None:
    """Raise Unsupported for what a runner cannot do with a selection."""
    asked = {
        "select": selection.only is not None or bool(selection.skip),
        "failed_first": bool(selection.first),
        "markers": selection.markers is not None,
        "discover": selection.collect,
    }
    for what in lacks:
        if asked[what]:
            raise Unsupported(what, where=adapter)


def parse_shard(text: object) -> tuple[int, int]:
    """Return the number and the count of `2/8`."""
    number, _, count = text.partition("/") if isinstance(text, str) else ("", "", "")
    try:
        shard = int(number), int(count)
    except ValueError:
        shard = (0, 0)
    if not 1 <= shard[0] <= shard[1]:
        raise ArgumentError(f"shard must be like '2/8', from 1/8 to 8/8, got {text!r}")
    return shard


def in_shard(cases: Sequence[TestCase], shard: tuple[int, int]) -> list[str]:
    """Return the ids of one shard: whole files, the largest to the lightest shard.

    Deterministic: every shard of a run computes the same split. No shard is empty
    while there are at least as many files as shards.
    """
    files: dict[str, list[str]] = {}
    for case in cases:
        files.setdefault(case.file or "::".join(case.suite) or case.id, []).append(
            case.id
        )
    number, count = shard
    loads = [0] * count
    mine: list[str] = []
    for _, ids in sorted(
        files.items(), key=lambda item: (-len(item[1]), zlib.crc32(item[0].encode()))
    ):
        lightest = loads.index(min(loads))
        loads[lightest] += len(ids)
        if lightest == number - 1:
            mine += ids
    return mine
