"""Every error of this package.

WorkflowError
    DefinitionError          a workflow that cannot be run; `.problems` lists them all
        CycleError           `.path`, the steps of the circle in order
    OptionError              an argument of ours that does not fit; `.option`, `.value`
    ParameterError           a value for a template's parameter that does not fit
    StepError                what became of one step; `.step`, `.attempts`
        StepFailedError      its function raised; the cause is `__cause__`
        StepTimeoutError     it took longer than its timeout
        CommandFailedError   its command ended badly; `.code`, `.output`
        WorkerLostError      the process that ran it died
        ResultError          its result cannot be written to the journal
        StepCancelledError   it was told to stop
    RunError                 a run that cannot go on as asked; `.run_id`
        RunNotFoundError     the journal has no such run
        RunNotFinishedError  `Run.check()` on a run that waits or was cancelled
        ChangedError         the definition changed since the run began
        DecisionNeededError  a `once` step was interrupted: you must say what to do
    JournalError             the journal cannot be used; `.path`
        JournalBusyError     another live process owns the run
        LeaseLostError       another process took the run over
        JournalFullError     no space left
        JournalReadOnlyError no permission to write
        JournalVersionError  written by a later version of this package
        JournalCorruptError  not a journal, or damaged
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path


class WorkflowError(Exception):
    """The root of this package's errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing wrong with a definition, and the place where it stands."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class DefinitionError(WorkflowError):
    """A workflow that cannot be run; `problems` holds everything wrong with it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class CycleError(DefinitionError):
    """Steps that wait for each other in a circle; `path` names them in order."""

    def __init__(self, path: Iterable[str], where: str) -> None:
        self.path = tuple(path)
        circle = " -> ".join(self.path)
        super().__init__(
            [Problem(where=where, message=f"these steps wait for each other: {circle}")]
        )


class OptionError(WorkflowError, ValueError, TypeError):
    """An argument that is unknown, of the wrong type, or out of range.

    Also a ValueError and a TypeError, for callers who know those.
    """

    def __init__(self, option: str, message: str, value: object = None) -> None:
        self.option = option
        self.value = value
        super().__init__(message)


class ParameterError(WorkflowError):
    """A parameter that is missing, unknown or of the wrong type."""

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(message)


class StepError(WorkflowError):
    """What became of one step."""

    def __init__(self, step: str, attempts: int, message: str) -> None:
        self.step = step
        self.attempts = attempts
        super().__init__(message)


class StepFailedError(StepError):
    """The step's function raised; the cause is chained to this error."""


class StepTimeoutError(StepError):
    """The step took longer than its timeout."""


class CommandFailedError(StepError):
    """The command ended with a code other than 0, or could not start."""

    def __init__(
        self, step: str, attempts: int, message: str, *, code: int | None, output: str
    ) -> None:
        self.code = code
        self.output = output
        super().__init__(step, attempts, message)


class WorkerLostError(StepError):
    """The worker process died while it ran the step."""


class ResultError(StepError):
    """The step returned something that JSON cannot hold, and there is a journal."""


class StepCancelledError(StepError):
    """The step was told to stop before it had finished."""


class RunError(WorkflowError):
    """A run that cannot go on as asked."""

    def __init__(self, run_id: str, message: str) -> None:
        self.run_id = run_id
        super().__init__(message)


class RunNotFoundError(RunError):
    """The journal has no run of this name."""


class RunNotFinishedError(RunError):
    """The run ended without success and without a failed step."""


class ChangedError(RunError):
    """The workflow is no longer the one that the run began with."""

    def __init__(
        self,
        run_id: str,
        *,
        changed: Iterable[str],
        added: Iterable[str],
        removed: Iterable[str],
    ) -> None:
        self.changed = tuple(changed)
        self.added = tuple(added)
        self.removed = tuple(removed)
        parts = [
            f"{label}: {', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
            for label, names in (
                ("changed", self.changed),
                ("added", self.added),
                ("removed", self.removed),
            )
            if names
        ]
        super().__init__(
            run_id,
            f"the workflow differs from the one run {run_id!r} began with "
            f"({'; '.join(parts)}); finished steps keep their results, so pass "
            "accept_changes=True (--accept-changes) if that is right",
        )


class DecisionNeededError(RunError):
    """Steps marked `once` were interrupted; only you know whether they took effect."""

    def __init__(self, run_id: str, steps: Iterable[str]) -> None:
        self.steps = tuple(steps)
        super().__init__(
            run_id,
            f"run {run_id!r} was interrupted inside {', '.join(self.steps)}, marked "
            "once: look whether it took effect, then resume with retry=, skip= or "
            "fail= for each (--retry STEP, --skip STEP, --fail STEP)",
        )


class JournalError(WorkflowError):
    """The journal cannot be used."""

    def __init__(self, path: Path | str, message: str) -> None:
        self.path = Path(path)
        super().__init__(message)


class JournalBusyError(JournalError):
    """Another live process owns the run."""

    def __init__(self, path: Path | str, run_id: str, owner: str) -> None:
        self.run_id = run_id
        self.owner = owner
        super().__init__(
            path,
            f"run {run_id!r} in {path} is being run by {owner}; wait for it, or "
            "cancel it first",
        )


class LeaseLostError(JournalError):
    """Another process took the run over while this one could not renew its lease."""


class JournalFullError(JournalError):
    """There is no space left for the journal."""


class JournalReadOnlyError(JournalError):
    """The journal cannot be written here."""


class JournalVersionError(JournalError):
    """The journal was written by a later version of this package."""


class JournalCorruptError(JournalError):
    """The file is not a journal, or it is damaged."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a hint such as "; did you mean 'load'?", or nothing."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""
