"""Gates: what must be true of the merged result before it counts."""

import asyncio
import inspect
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from ._messages import Reply
from ._processes import ProcessId, run_process
from .errors import ProcessError, SettingsError, trace

On = Literal["merged", "task"]
_NOTHING_COLLECTED: Final = 5
_MAX_REPORT: Final = 50_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class GateInput:
    """What a gate looks at."""

    task: str
    reply: Reply
    folder: Path | None
    """The merged candidate, the task's worktree, or None without a workspace."""
    changed: tuple[str, ...] = ()
    mark: str = "gate"
    on_spawn: Callable[[ProcessId], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """What a gate says."""

    passed: bool
    detail: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Of a test gate: tests, failures, errors, skipped."""
    duration: float = 0.0
    report: str = ""
    """JUnit XML of a test gate, for an aggregator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One check; `on="merged"` runs it on the merge candidate, never the branch."""

    name: str
    check: Callable[[GateInput], Any]
    on: On = "merged"
    only: tuple[str, ...] = ()
    """Tasks it applies to; empty for all."""
    spawns: bool = False
    """Whether it starts processes, which the journal then knows of beforehand."""

    @classmethod
    def pytest(
        cls,
        *args: str,
        on: On = "merged",
        timeout: float = 600,
        python: str = "",
        only: Sequence[str] = (),
    ) -> "Gate":
        """Run pytest; no test collected does not pass."""

        async def check(given: GateInput) -> GateResult:
            with tempfile.TemporaryDirectory(prefix="maestro-junit-") as folder:
                report = Path(folder) / "report.xml"
                command = [
                    python or sys.executable, "-m", "pytest", "-q",
                    "-p", "no:cacheprovider", f"--junitxml={report}", *args,
                ]  # fmt: skip
                result = await run_process(
                    command, cwd=given.folder, timeout=timeout, mark=given.mark,
                    on_spawn=given.on_spawn, env={"PYTHONDONTWRITEBYTECODE": "1"},
                )  # fmt: skip
                counts, text = _junit(report)
            detail = result.tail.strip()[-2000:]
            if result.code == _NOTHING_COLLECTED:
                detail = "no test was collected"
            return GateResult(
                passed=result.code == 0, detail=detail, counts=counts, report=text
            )

        return cls(name="pytest", check=check, on=on, only=tuple(only), spawns=True)

    @classmethod
    def command(
        cls,
        command: str | Sequence[str],
        *,
        name: str = "",
        on: On = "merged",
        timeout: float = 600,
        only: Sequence[str] = (),
    ) -> "Gate":
        """Run a command; exit code 0 passes."""
        words = shlex.split(command) if isinstance(command, str) else list(command)
        if not words:
            raise SettingsError("a gate's command is empty", key="gates.command")

        async def check(given: GateInput) -> GateResult:
            result = await run_process(
                words, cwd=given.folder, timeout=timeout, mark=given.mark,
                on_spawn=given.on_spawn,
            )  # fmt: skip
            return GateResult(
                passed=result.code == 0, detail=result.tail.strip()[-2000:]
            )

        own = name or words[0]
        return cls(name=own, check=check, on=on, only=tuple(only), spawns=True)

    @classmethod
    def function(
        cls,
        check: Callable[[GateInput], Any],
        *,
        name: str = "",
        on: On = "merged",
        only: Sequence[str] = (),
    ) -> "Gate":
        """Call a function; True, None or a passed GateResult lets through.

        False or a text (the reason) does not.
        """
        own = name or getattr(check, "__name__", "function")
        return cls(name=own, check=check, on=on, only=tuple(only))

    async def run(self, given: GateInput) -> GateResult:
        """Return the verdict; an error of the gate itself does not pass."""
        started = time.monotonic()
        try:
            verdict = self.check(given)
            if inspect.isawaitable(verdict):
                verdict = await verdict
            result = _result(verdict)
        except asyncio.CancelledError:
            raise
        except ProcessError as error:
            result = GateResult(passed=False, detail=str(error))
        except Exception as error:  # user code: recorded in the result
            detail = f"{type(error).__name__}: {error}\n{trace(error)}"
            result = GateResult(passed=False, detail=detail)
        return GateResult(
            passed=result.passed, detail=result.detail, counts=result.counts,
            duration=round(time.monotonic() - started, 3), report=result.report,
        )  # fmt: skip


def _result(verdict: Any) -> GateResult:
    if isinstance(verdict, GateResult):
        return verdict
    if isinstance(verdict, str):
        return GateResult(passed=False, detail=verdict)
    return GateResult(passed=verdict is None or bool(verdict))


def _junit(path: Path) -> tuple[dict[str, int], str]:
    if not path.exists() or path.stat().st_size > _MAX_REPORT:
        return {}, ""
    from xml.etree import ElementTree as ET

    text = path.read_text(encoding="utf-8")
    root = ET.fromstring(text)  # noqa: S314 - pytest wrote it just now
    suites = [root] if root.tag == "testsuite" else list(root.iter("testsuite"))
    names = ("tests", "failures", "errors", "skipped")
    counts = {n: sum(int(s.get(n, 0)) for s in suites) for n in names}
    return counts, text
