"""What can go wrong, as one tree.

OrchestrationError
├── SettingsError            a run file, persona file or argument is wrong
│   ├── PersonaError         a persona is malformed
│   │   └── PersonaCycleError
│   ├── PlanError            a plan or task is malformed
│   │   ├── PlanCycleError
│   │   └── PlanMismatchError    the journal knows this run with another plan
│   └── BudgetError          a limit that cannot be a limit
├── NoAgentError             nobody has the capabilities a task needs
├── BudgetExceededError      the next call does not fit the budget
├── UnknownPriceError        a money limit is set and the model has no price
├── JournalError
│   ├── JournalVersionError  written by a newer release
│   ├── JournalWriteError    the disk refused; nothing after it was acknowledged
│   ├── RunLockedError       another process runs this run
│   └── UnknownRunError
├── TransitionError          a task was moved where it may not go (a bug)
├── ReplayError              a replay asked for a call that was not recorded
├── InDoubtError             an unsafe effect started and its end is unknown
├── LoopError                agents call each other without end
├── ContractError            a promised artefact is missing
├── ApprovalError            no such approval, or already decided
├── GuardError               a guard refused an input or an output
├── WorkspaceError
│   ├── GitError
│   ├── DirtyWorktreeError
│   └── MergeConflictError
├── GateFailedError
├── LeaseError               somebody else holds it, or a freeze is on
├── RestartLimitError        a supervised child failed too often
├── UnhealthyError           a supervised child's health check said no
├── ProcessError
│   └── ProcessTimeoutError
└── ModelError
    ├── RateLimitedError
    ├── ContextOverflowError
    └── OutputError          the answer does not match the wanted schema
"""

import difflib
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for a name close to `wrong`, or nothing."""
    close = difflib.get_close_matches(wrong, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def trace(error: BaseException) -> str:
    """Return where an exception came from, a line per frame, the last one last.

    At most 8 frames and 2000 characters; frames of this package before the first
    of other code are left out.
    """
    frames = traceback.extract_tb(error.__traceback__)
    own = str(Path(__file__).parent)
    first = next((n for n, f in enumerate(frames) if not f.filename.startswith(own)), 0)
    lines = [
        f"{f.filename}:{f.lineno} in {f.name}: {f.line or ''}"[:240].rstrip(": ")
        for f in frames[first:][-8:]
    ]
    return "\n".join(lines)[-2000:]


class OrchestrationError(Exception):
    """Catch this to catch everything that this package raises."""

    reason = "error"


class SettingsError(OrchestrationError):
    """A file or an argument is wrong; `source` and `key` say where."""

    def __init__(self, message: str, *, source: str = "", key: str = "") -> None:
        self.source = source
        self.key = key
        where = f"{source}: " if source else ""
        where += f"{key}: " if key else ""
        super().__init__(where + message)


class PersonaError(SettingsError):
    """A persona is malformed."""


class PersonaCycleError(PersonaError):
    """Personas extend each other in a circle, given in `cycle`."""

    def __init__(self, cycle: Sequence[str], *, source: str = "") -> None:
        self.cycle = tuple(cycle)
        super().__init__(
            f"personas extend each other in a circle: {' -> '.join(cycle)}",
            source=source,
            key="extends",
        )


class PlanError(SettingsError):
    """A plan or one of its tasks is malformed."""


class PlanCycleError(PlanError):
    """Tasks wait for each other in a circle, given in `cycle`."""

    def __init__(self, cycle: Sequence[str]) -> None:
        self.cycle = tuple(cycle)
        super().__init__(f"tasks wait for each other: {' -> '.join(cycle)}")


class PlanMismatchError(PlanError):
    """The journal knows this run with another plan; `run` names it."""

    def __init__(self, run: str) -> None:
        self.run = run
        super().__init__(
            f"run {run!r} was started with another plan; resume it with the same "
            "plan, amend it with run.add(), or choose another run_id"
        )


class BudgetError(SettingsError):
    """A limit that cannot be a limit, such as a negative one."""


class NoAgentError(OrchestrationError):
    """Nobody has what a task needs; `explanation` lists why each was refused."""

    def __init__(self, task: str, explanation: str) -> None:
        self.task = task
        self.explanation = explanation
        super().__init__(f"no agent can take task {task!r}: {explanation}")


class BudgetExceededError(OrchestrationError):
    """The next call does not fit: `scope`, `unit`, `limit`, `spent`, `wanted`."""

    reason = "budget"

    def __init__(
        self, scope: str, unit: str, *, limit: int, spent: int, wanted: int
    ) -> None:
        self.scope, self.unit = scope, unit
        self.limit, self.spent, self.wanted = limit, spent, wanted
        super().__init__(
            f"budget of {scope}: {wanted} more {unit} do not fit, "
            f"{spent} of {limit} are spent or reserved"
        )


class UnknownPriceError(OrchestrationError):
    """A money limit is set and model `model` has no price."""

    reason = "budget"

    def __init__(self, model: str) -> None:
        self.model = model
        super().__init__(
            f"no price for model {model!r} while a money limit is set; add it to "
            "the PriceTable or choose unpriced='warn' or unpriced=Price(...)"
        )


class JournalError(OrchestrationError):
    """The journal at `path` cannot be used."""

    def __init__(self, message: str, *, path: str | Path = "") -> None:
        self.path = str(path)
        super().__init__(f"{path}: {message}" if path else message)


class JournalVersionError(JournalError):
    """The journal was written by a newer release."""

    def __init__(self, path: str | Path, *, found: int, supported: int) -> None:
        self.found, self.supported = found, supported
        super().__init__(
            f"journal version {found} is newer than {supported}, the last one this "
            "release reads; it was left as it is, use a newer release",
            path=path,
        )


class JournalWriteError(JournalError):
    """The disk refused; what was acknowledged before is safe, nothing after."""


class RunLockedError(JournalError):
    """Another process runs `run`."""

    def __init__(self, run: str, path: str | Path) -> None:
        self.run = run
        super().__init__(f"run {run!r} is being run by another process", path=path)


class UnknownRunError(JournalError):
    """The journal has no run of this name."""

    def __init__(self, run: str, known: Sequence[str], path: str | Path = "") -> None:
        self.run = run
        listed = ", ".join(known[-5:]) or "none"
        super().__init__(
            f"no run {run!r}; there are: {listed}{did_you_mean(run, known)}", path=path
        )


class TransitionError(OrchestrationError):
    """A task was moved where it may not go; a bug here, please report it."""

    def __init__(self, task: str, old: str, new: str) -> None:
        self.task, self.old, self.new = task, old, new
        super().__init__(f"task {task!r} cannot go from {old} to {new}")


class ReplayError(OrchestrationError):
    """A replay asked for a call that was not recorded; `key` names it."""

    def __init__(self, key: str, why: str = "it was not recorded") -> None:
        self.key = key
        super().__init__(f"replay cannot answer call {key}: {why}")


class InDoubtError(OrchestrationError):
    """An unsafe effect started before a crash and its end is unknown."""

    reason = "in_doubt"

    def __init__(self, task: str, key: str) -> None:
        self.task, self.key = task, key
        super().__init__(
            f"task {task!r}: unsafe call {key} had started when the process died; "
            "look whether it took effect, then resolve it"
        )


class LoopError(OrchestrationError):
    """Agents call each other without end; `guard` names the limit that was hit."""

    reason = "loop"

    def __init__(self, guard: str, message: str) -> None:
        self.guard = guard
        super().__init__(f"{guard}: {message}")


class ContractError(OrchestrationError):
    """Task `task` lacks what it promised or needs, listed in `missing`."""

    def __init__(self, task: str, side: str, missing: Sequence[str]) -> None:
        self.task, self.side, self.missing = task, side, tuple(missing)
        super().__init__(f"task {task!r} {side} {', '.join(missing)}: not there")


class ApprovalError(OrchestrationError):
    """No such approval, or it is decided already."""

    def __init__(self, approval: str, known: Sequence[str]) -> None:
        self.approval = approval
        super().__init__(
            f"no open approval {approval!r}; open are: {', '.join(known) or 'none'}"
            f"{did_you_mean(approval, known)}"
        )


class GuardError(OrchestrationError):
    """A guard refused an input or an output."""

    reason = "guard"

    def __init__(self, side: str, persona: str, why: str) -> None:
        self.side, self.persona, self.why = side, persona, why
        super().__init__(f"guard on the {side} of {persona!r}: {why}")


class WorkspaceError(OrchestrationError):
    """A workspace cannot be made, used or merged."""


class GitError(WorkspaceError):
    """git failed: `command`, `code`, `stderr`."""

    def __init__(self, command: Sequence[str], code: int, stderr: str) -> None:
        self.command, self.code, self.stderr = tuple(command), code, stderr
        said = stderr.strip()[-400:]
        super().__init__(f"git {' '.join(command)} ended with {code}: {said}")


class DirtyWorktreeError(WorkspaceError):
    """A worktree has changes that nobody committed, listed in `files`."""

    def __init__(self, path: str | Path, files: Sequence[str]) -> None:
        self.path, self.files = str(path), tuple(files)
        some = ", ".join(files[:5]) + (" ..." if len(files) > 5 else "")
        super().__init__(
            f"{path} has uncommitted changes ({some}); commit or stash them first"
        )


class MergeConflictError(WorkspaceError):
    """Two branches changed the same places, listed in `paths`."""

    reason = "conflict"

    def __init__(self, task: str, paths: Sequence[str], messages: str = "") -> None:
        self.task, self.paths, self.messages = task, tuple(paths), messages
        super().__init__(
            f"task {task!r} conflicts in {', '.join(paths)}"
            + (f"\n{messages}" if messages else "")
        )


class GateFailedError(OrchestrationError):
    """A gate said no; `gate` names it, `detail` is its output's end."""

    reason = "gate"

    def __init__(self, gate: str, detail: str) -> None:
        self.gate, self.detail = gate, detail
        super().__init__(f"gate {gate!r} failed: {detail}")


class LeaseError(OrchestrationError):
    """Lease `name` is not to be had; `holder` has it."""

    def __init__(self, name: str, holder: str) -> None:
        self.name, self.holder = name, holder
        super().__init__(f"lease {name!r} is held by {holder}")


class RestartLimitError(OrchestrationError):
    """A child failed too often; `child` names it, the cause is its last error."""

    def __init__(self, child: str, restarts: int, within: float) -> None:
        self.child = child
        super().__init__(
            f"{child!r} failed more than {restarts} times within {within} s"
        )


class UnhealthyError(OrchestrationError):
    """A child's health check said no."""


class ProcessError(OrchestrationError):
    """A process failed: `command`, `code`, `tail` of its output."""

    def __init__(self, command: Sequence[str], code: int, tail: str) -> None:
        self.command, self.code, self.tail = tuple(command), code, tail
        super().__init__(f"{command[0]} ended with {code}: {tail.strip()[-400:]}")


class ProcessTimeoutError(ProcessError):
    """A process was stopped after `timeout` seconds."""

    reason = "timeout"

    def __init__(self, command: Sequence[str], timeout: float, tail: str) -> None:
        self.timeout = timeout
        super().__init__(command, -9, f"stopped after {timeout} s; {tail}")


class ModelError(OrchestrationError):
    """A model endpoint failed; `status` is the HTTP status, 0 for no answer."""

    def __init__(self, message: str, *, status: int = 0, retry: bool = False) -> None:
        self.status = status
        self.retry = retry
        super().__init__(message)


class RateLimitedError(ModelError):
    """The endpoint asks to wait; `retry_after` seconds where it said so."""

    def __init__(
        self, message: str, *, retry_after: float | None, status: int = 429
    ) -> None:
        self.retry_after = retry_after
        super().__init__(message, status=status, retry=True)


class ContextOverflowError(ModelError):
    """The messages are longer than the model's window."""


class OutputError(ModelError):
    """The answer does not match the wanted schema; `problems` lists where."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("answer does not match the schema: " + "; ".join(problems))
