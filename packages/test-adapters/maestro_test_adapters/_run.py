"""One run: the processes it takes, the events it yields, the report it ends with."""

import codecs
import dataclasses
import json
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Literal, Self

from maestro_test_adapters._ctrf import from_ctrf, to_ctrf
from maestro_test_adapters._events import (
    Event,
    Output,
    RunFinished,
    RunStarted,
    RunWarning,
    TestFinished,
    TestStarted,
)
from maestro_test_adapters._model import Outcome, Report, TestCase, TestResult
from maestro_test_adapters._process import Child
from maestro_test_adapters.errors import (
    ReportError,
    RunnerError,
    RunnerNotInstalled,
    SelectionNotFound,
)

if TYPE_CHECKING:
    from maestro_test_adapters._runner import Launch, RunnerAdapter, Selection

_TAIL = 8000  # characters of output kept for the story of a crash
_GRACE_S = 3.0
_STACK_ROUNDS = 100  # of 20 ms, for a hung child to write its stacks
_STACK_QUIET = 5  # without a change: a loaded machine may stop it halfway


class Run:
    """A run in progress: a context manager that yields events once.

    Not thread-safe. `report` is there after the last event; after an early exit it
    holds what was known by then.
    """

    def __init__(
        self,
        adapter: "RunnerAdapter",
        selection: "Selection",
        *,
        shard: tuple[int, int] | None = None,
        stream: Path | None = None,
    ) -> None:
        self._adapter = adapter
        self._selection = selection
        self._shard = shard
        self._log = _Log(stream)
        self._child: Child | None = None
        self._results: dict[str, TestResult] = {}
        self._tries: dict[str, int] = {}
        self._cases: dict[str, TestCase] = {}
        self._told_cases = False
        self._problems: list[str] = []
        self._warnings: list[str] = []
        self._counts: dict[str, int] = {}
        self._tool = (adapter.name, "")
        self._environment: dict[str, Any] = {}
        self._exit_code: int | None = None
        self._begun = time.time()
        self._ended: float | None = None
        self._deadline = (
            time.monotonic() + adapter.timeout if adapter.timeout else float("inf")
        )
        self._events: Generator[Event, None, None] = self._run()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()

    def __iter__(self) -> Iterator[Event]:
        return self._events

    def cancel(self) -> None:
        """End the runner and everything it started. Idempotent."""
        if self._child:
            self._child.interrupt(grace=_GRACE_S)
        self._events.close()
        self._log.close()
        if self._ended is None:
            self._ended = time.time()

    @property
    def cases(self) -> list[TestCase]:
        """The tests that the runner named so far."""
        return list(self._cases.values())

    @property
    def report(self) -> Report:
        """What is known by now."""
        return Report(
            tool=self._tool[0],
            tool_version=self._tool[1],
            results=tuple(self._results.values()),
            started=self._begun,
            finished=self._ended or time.time(),
            exit_code=self._exit_code,
            problems=tuple(self._problems),
            warnings=tuple(self._warnings),
            environment=self._environment,
            runner_counts=self._counts,
        )

    # The passes: all tests, what a crash left over, what is tried again -------------

    def _run(self) -> Generator[Event, None, None]:
        selection = self._selection
        if self._shard:
            selection = yield from self._shard_selection(selection, self._shard)
        yield from self._pass(selection)
        if not selection.collect:
            for _ in range(self._adapter.retries):
                failed = [r.id for r in self._results.values() if self._may_retry(r)]
                if not failed or time.monotonic() > self._deadline:
                    break
                yield from self._pass(
                    dataclasses.replace(
                        selection, only=tuple(failed), markers=None, first=()
                    ),
                    again=True,
                )
            if not self._results and not self._problems:
                self._problems.append("no tests ran")
        self._ended = time.time()
        self._log.write({"e": "finish", "exit": self._exit_code, "at": self._ended})
        self._log.close()
        yield RunFinished(report=self.report)

    def _shard_selection(
        self, selection: "Selection", shard: tuple[int, int]
    ) -> "Generator[Event, None, Selection]":
        from maestro_test_adapters._runner import in_shard

        yield from self._pass(dataclasses.replace(selection, collect=True))
        mine = in_shard(self.cases, shard)
        chosen = set(mine)
        self._cases = {i: case for i, case in self._cases.items() if i in chosen}
        self._told_cases = False
        return dataclasses.replace(selection, only=tuple(mine))

    def _pass(self, selection: "Selection", *, again: bool = False) -> Iterator[Event]:
        """Run a selection to its end, in as many processes as crashes demand."""
        done: set[str] = set()
        if selection.only is not None and not selection.only:
            return
        while True:
            process = _Process(self, selection, done, again=again)
            try:
                yield from process.events()
            finally:
                yield from process.close()
            if selection.collect:
                return
            left = process.undone()
            if not left:
                return
            why = process.stopped_by
            go_on = (
                self._adapter.after_crash == "continue"
                and why in ("crash", "timeout")
                and process.progressed
                and time.monotonic() < self._deadline
            )
            if not go_on:
                yield from self._not_run(left, process.story)
                return
            selection = dataclasses.replace(
                selection, skip=(*selection.skip, *sorted(process.finished))
            )
            done |= process.finished

    def _not_run(self, ids: list[str], why: str) -> Iterator[Event]:
        for test in ids:
            if test not in self._results:
                yield self._finish(
                    self._made_up(test, "notrun", message=f"not run: {why}"),
                    tries=False,
                )

    # Bookkeeping ------------------------------------------------------------------

    def _may_retry(self, result: TestResult) -> bool:
        return not result.ok and result.id in self._cases

    def _made_up(self, test: str, outcome: Outcome, **more: Any) -> TestResult:
        """Return a result for a test that could not give one itself."""
        case = self._cases.get(test)
        if case is None:
            return TestResult(id=test, name=test, outcome=outcome, **more)
        return TestResult(
            id=test,
            name=case.name,
            outcome=outcome,
            file=case.file,
            line=case.line,
            suite=case.suite,
            tags=case.tags,
            parameters=case.parameters,
            **more,
        )

    def _finish(
        self, result: TestResult, *, tries: bool = True, again: bool = False
    ) -> TestFinished:
        """Keep a result; `again` says that the runner tries the test once more."""
        earlier = self._results.pop(result.id, None)
        if earlier is not None:
            result = result.after(earlier)
        self._results[result.id] = result
        if not again:
            self._tries[result.id] = self._tries.get(result.id, 0) + 1
            again = (
                tries
                and self._may_retry(result)
                and self._tries[result.id] <= self._adapter.retries
            )
        self._log.write({"e": "end", "test": to_ctrf(result)})
        return TestFinished(
            result=result, attempt=len(result.attempts) + 1, will_retry=again
        )

    def _warn(self, text: str, test: str | None = None) -> RunWarning:
        self._warnings.append(text)
        return RunWarning(text=text, test=test)

    def _learn(self, event: dict[str, Any]) -> None:
        self._tool = (event["tool"], event.get("version", ""))
        for key in ("root", "python"):
            if key in event:
                self._environment[key] = event[key]
        self._log.begin(
            {
                "e": "session",
                "tool": self._tool[0],
                "version": self._tool[1],
                "at": self._begun,
            }
        )


class _Log:
    """The JSONL file that a user may keep; every line is written through at once."""

    def __init__(self, path: Path | None) -> None:
        self._file: IO[str] | None = None
        self._begun = False
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("w", encoding="utf-8", errors="backslashreplace")

    def begin(self, event: dict[str, Any]) -> None:
        if not self._begun:
            self._begun = True
            self.write(event)

    def write(self, event: dict[str, Any]) -> None:
        if self._file:
            self._file.write(json.dumps(event, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        if self._file:
            self._file.close()
            self._file = None


class _Process:
    """One process of a run."""

    def __init__(
        self, run: Run, selection: "Selection", done: set[str], *, again: bool
    ) -> None:
        self._run = run
        self._adapter = run._adapter
        self._selection = selection
        self._again = again
        self._done = done
        self.finished: set[str] = set()
        self._planned: list[str] = []
        self._flying: dict[str, tuple[float, float]] = {}
        self._forks: dict[int, str] = {}
        self._complete = False
        self._talked = False
        self._tail = {"stdout": "", "stderr": ""}
        self._line_rest = b""
        self._text_rest = ""
        self._killed = False
        self.stopped_by: Literal["", "crash", "timeout", "deadline"] = ""
        self.story = "the runner ended early"
        self._mark = secrets.token_hex(8)
        self._folder = Path(tempfile.mkdtemp(prefix="maestro-test-"))
        self._launch: Launch | None = None
        self._last: str | None = None
        self._failed = 0

    @property
    def progressed(self) -> bool:
        """Whether this process got at least one test off the list."""
        return bool(self.finished)

    def undone(self) -> list[str]:
        """Return the tests that were to run here and did not."""
        if not self.stopped_by:
            return []
        return [test for test in self._planned if test not in self.finished]

    def events(self) -> Iterator[Event]:
        launch = self._launch = self._adapter.launch(self._selection, self._folder)
        stream = self._folder / "stream.jsonl" if launch.streams else None
        env = {**self._adapter.environment(), **launch.env}
        if stream:
            env["MAESTRO_STREAM"] = str(stream)
            env["MAESTRO_PARENT"] = str(os.getpid())
        if launch.stacks:
            env["MAESTRO_STACKS"] = str(self._folder / "stacks.txt")
        try:
            child = Child(
                launch.argv,
                cwd=self._adapter.cwd,
                env=env,
                mark=self._mark,
                stream=stream,
            )
        except FileNotFoundError as error:
            if not self._adapter.cwd.is_dir():
                raise RunnerError(f"no such folder: {self._adapter.cwd}") from error
            raise RunnerNotInstalled(str(launch.argv[0]), where="PATH") from error
        self._run._child = child
        decoders = {
            name: codecs.getincrementaldecoder("utf-8")("replace")
            for name in ("stdout", "stderr")
        }
        for chunk in child.chunks():
            if chunk.source == "stream":
                yield from self._lines(chunk.data)
            elif chunk.source == "tick":
                yield from self._clock(child)
            else:
                text = decoders[chunk.source].decode(chunk.data)
                yield from self._output(chunk.source, text)
        if launch.reader:
            if self._text_rest:
                yield from self._told(launch.reader.feed(self._text_rest))
            yield from self._told(launch.reader.close())
        self._run._exit_code = None if self._killed else child.exit_code
        if launch.report and not self._killed:
            yield from self._read_report(launch)
        yield from self._end(child.exit_code)

    def close(self) -> Iterator[Event]:
        """Kill what is left and tell who left it."""
        child, self._run._child = self._run._child, None
        left = child.close(self._forks) if child else []
        shutil.rmtree(self._folder, ignore_errors=True)
        for straggler in left:
            who = f"{straggler.test} left" if straggler.test else "the run left"
            yield self._run._warn(
                f"{who} process {straggler.pid} running ({straggler.command}); "
                "it was killed",
                straggler.test,
            )

    # What the child says -----------------------------------------------------------

    def _output(
        self, source: Literal["stdout", "stderr"], text: str
    ) -> Iterator[Event]:
        self._tail[source] = (self._tail[source] + text)[-_TAIL:]
        if text:
            yield Output(stream=source, text=text)
        if source == "stdout" and self._launch and self._launch.reader:
            *lines, self._text_rest = (self._text_rest + text).split("\n")
            for line in lines:
                yield from self._told(self._launch.reader.feed(line.rstrip("\r")))

    def _told(self, items: Any) -> Iterator[Event]:
        for item in items:
            self._announce()
            if isinstance(item, TestStarted):
                self._talked = True
                self._flying[item.id] = (time.monotonic(), item.at)
                yield item
            else:
                yield from self._result(item)

    def _announce(self) -> None:
        if not self._run._told_cases:
            self._run._told_cases = True
            self._run._learn({"tool": self._run._tool[0], "version": ""})

    def _read_report(self, launch: "Launch") -> Iterator[Event]:
        assert launch.report is not None
        try:
            yield from self._told(launch.report())
        except ReportError as error:
            self._run._problems.append(str(error))
            self._talked = True

    def _lines(self, data: bytes) -> Iterator[Event]:
        *lines, self._line_rest = (self._line_rest + data).split(b"\n")
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                # Two processes wrote at once on a file system without atomic append.
                yield self._run._warn(f"unreadable line in the stream: {line[:200]!r}")
                continue
            yield from self._heard(event)

    def _heard(self, event: dict[str, Any]) -> Iterator[Event]:
        kind = event["e"]
        self._talked = True
        if kind == "session":
            self._run._learn(event)
        elif kind == "cases":
            yield from self._named(event["cases"])
        elif kind == "start":
            test = event["id"]
            self._flying[test] = (time.monotonic(), event["at"])
            yield TestStarted(id=test, at=event["at"])
        elif kind == "end":
            result = from_ctrf(event["test"])
            if event.get("again"):
                self._flying.pop(result.id, None)
                yield self._run._finish(result, again=True)
            else:
                yield from self._result(result)
        elif kind == "missing":
            if not self._again and not self._done:
                raise SelectionNotFound(event["ids"], event["known"])
        elif kind == "fork":
            self._forks[event["pid"]] = event["id"]
        elif kind == "escaped":
            yield self._run._warn(
                f"a forked child (pid {event['pid']}) of {event['id']} returned into "
                "the runner; it was stopped",
                event["id"] or None,
            )
        elif kind == "finish":
            self._complete = True
            if not self._again:
                for name, count in (event.get("counts") or {}).items():
                    self._run._counts[name] = self._run._counts.get(name, 0) + count

    def _named(self, told: list[dict[str, Any]]) -> Iterator[Event]:
        cases = [_case(case) for case in told]
        self._planned = [case.id for case in cases]
        for case in cases:
            self._run._cases.setdefault(case.id, case)
        if not self._run._told_cases and not self._selection.collect:
            self._run._told_cases = True
            tool, version = self._run._tool
            yield RunStarted(tool=tool, tool_version=version, cases=tuple(cases))

    def _result(self, result: TestResult) -> Iterator[Event]:
        self._talked = True
        self._flying.pop(result.id, None)
        if result.id in self.finished:
            # The runner has two tests of one id: both are kept, told apart.
            number = 2
            while f"{result.id} ({number})" in self.finished:
                number += 1
            result = dataclasses.replace(result, id=f"{result.id} ({number})")
        self.finished.add(result.id)
        self._failed += not result.ok
        self._last = result.id
        yield self._run._finish(result)

    # The clock, and the end --------------------------------------------------------

    def _clock(self, child: Child) -> Iterator[Event]:
        now = time.monotonic()
        if self._killed:
            return
        limit = self._adapter.timeout_per_test
        late = [
            test
            for test, (since, _) in self._flying.items()
            if limit is not None and now - since > limit
        ]
        if late:
            yield from self._time_out(child, late, f"{limit:g} s for one test")
            self.stopped_by = "timeout"
        elif now > self._run._deadline:
            limit = self._adapter.timeout
            yield from self._time_out(
                child, list(self._flying), f"{limit:g} s for the whole run"
            )
            self._run._problems.append(
                f"the run took longer than {limit:g} s and was ended"
            )
            self.stopped_by = "deadline"

    def _time_out(self, child: Child, tests: list[str], limit: str) -> Iterator[Event]:
        stacks = self._stacks(child)
        self._killed = True
        child.kill()
        self.story = f"a time limit of {limit} was over"
        for test in tests:
            since, at = self._flying.pop(test)
            yield from self._result(
                self._run._made_up(
                    test,
                    "timeout",
                    message=f"timeout: longer than {limit}",
                    trace=stacks or None,
                    duration=time.monotonic() - since,
                    start=at,
                    raw_status="timeout",
                    stderr=self._tail["stderr"],
                )
            )

    def _stacks(self, child: Child) -> str:
        """Return the stacks of a hung child; an uncooperative one gives none."""
        if not (self._launch and self._launch.stacks):
            return ""
        path = self._folder / "stacks.txt"
        if not path.exists():
            return ""  # not up yet: the signal would end it without a word
        child.signal(signal.SIGUSR2)
        text, quiet = "", 0
        for _ in range(_STACK_ROUNDS):
            time.sleep(0.02)
            seen = path.read_text(encoding="utf-8", errors="replace")
            quiet = quiet + 1 if seen == text else 0
            text = seen
            if text and quiet == _STACK_QUIET:
                break
        return text

    def _end(self, exit_code: int | None) -> Iterator[Event]:
        from maestro_test_adapters._runner import Ending

        assert self._launch is not None
        if self._killed:
            return
        died = exit_code is not None and exit_code < 0
        gone = not self._complete if self._launch.streams else died
        if gone and self._talked and self._flying:
            yield from self._crashed(exit_code)
            return
        problems = self._adapter.judge(
            Ending(
                exit_code=exit_code,
                complete=self._complete or not self._launch.streams,
                started=self._talked,
                output=(self._tail["stderr"] or self._tail["stdout"]).strip(),
                results=len(self.finished),
                failed=self._failed,
            )
        )
        if gone and self._talked:
            self.stopped_by = "crash"
            self.story = f"the runner died: {_ending(exit_code)}"
            after = f" after {self._last}" if self._last else ""
            problems = [*problems, self.story + after]
        self._run._problems += [
            problem for problem in problems if problem not in self._run._problems
        ]

    def _crashed(self, exit_code: int | None) -> Iterator[Event]:
        self.stopped_by = "crash"
        self.story = f"the process died: {_ending(exit_code)}"
        for test, (since, at) in list(self._flying.items()):
            yield from self._result(
                self._run._made_up(
                    test,
                    "crashed",
                    message=f"{self.story} while this test ran",
                    trace=self._tail["stderr"] or None,
                    duration=time.monotonic() - since,
                    start=at,
                    raw_status="crashed",
                    stdout=self._tail["stdout"],
                    stderr=self._tail["stderr"],
                )
            )


def _ending(exit_code: int | None) -> str:
    if exit_code is None:
        return "killed"
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        return signal.Signals(-exit_code).name
    except ValueError:
        return f"signal {-exit_code}"


def _case(told: dict[str, Any]) -> TestCase:
    return TestCase(
        id=told["id"],
        name=told["name"],
        file=told.get("filePath"),
        line=told.get("line"),
        suite=tuple(told.get("suite") or ()),
        tags=tuple(told.get("tags") or ()),
        parameters=told.get("parameters") or {},
    )
