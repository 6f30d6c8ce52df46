"""Child processes that cannot be lost: own group, limits, sweep of escapees.

A child gets a mark in its environment. Cancelling kills its group, then looks
in /proc for processes that left the group (setsid) but carry the mark or
descend from the child. Without /proc (not Linux) only the group is killed.
"""

import asyncio
import contextlib
import os
import re
import shlex
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

from ._messages import Reply
from ._turn import Turn
from .errors import ProcessError, ProcessTimeoutError, SettingsError

MARK: Final = "MAESTRO_RUN_MARK"
_TAIL_LINES: Final = 200
_LINE_LIMIT: Final = 65536
_GRACE_S: Final = 5.0
_LOOK_S: Final = 0.05
_UNITS: Final = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def bytes_of(value: str | int) -> int:
    """Return the bytes in a number or a text such as `512M` or `4G`."""
    if isinstance(value, int):
        return value
    found = re.fullmatch(r"(\d+)\s*([KMGT]?)i?B?", value.strip(), re.IGNORECASE)
    if not found:
        raise SettingsError(f"{value!r} is not a size such as '512M'", key="memory")
    return int(found[1]) * _UNITS[found[2].upper()]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessResult:
    """How a process ended."""

    code: int
    """Exit code; below zero the signal that ended it."""
    tail: str
    """The last lines of its output, errors included."""
    output: str
    """Standard output, up to one megabyte from the end."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process that cannot be mistaken for a later one with the same pid."""

    pid: int
    started: str
    boot: str

    def alive(self) -> bool:
        """Tell whether exactly this process still runs."""
        return self == identify(self.pid)


def identify(pid: int) -> ProcessId | None:
    """Return the identity of a running process, None if there is none."""
    fields = _stat(pid)
    if fields is None or fields[0] == "Z":
        return None
    return ProcessId(pid, fields[19], _boot())


def _stat(pid: int) -> list[str] | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()


def _boot() -> str:
    try:
        return (
            Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        )
    except OSError:
        return ""


def marked(mark: str) -> list[int]:
    """Return the processes of this machine that carry a mark in their environment."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for pid in _pids():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        if wanted in environment.split(b"\0") and (_stat(pid) or ["Z"])[0] != "Z":
            found.append(pid)
    return found


def _pids() -> Iterator[int]:
    try:
        names = os.listdir("/proc")  # noqa: PTH208 - on /proc the names do
    except OSError:
        return
    me = os.getpid()
    for name in names:
        if name.isdigit() and int(name) != me:
            yield int(name)


def descendants(pid: int) -> list[int]:
    """Return the processes that descend from `pid`, itself left out."""
    children: dict[int, list[int]] = {}
    for other in _pids():
        fields = _stat(other)
        if fields and fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(other)
    found: list[int] = []
    todo = [pid]
    while todo:
        for child in children.get(todo.pop(), ()):
            found.append(child)
            todo.append(child)
    return found


def sweep(mark: str, also: Sequence[int] = ()) -> list[int]:
    """Kill every process that carries the mark; return those that were there."""
    killed: list[int] = []
    for _ in range(20):
        there = {*marked(mark), *(p for p in also if (_stat(p) or ["Z"])[0] != "Z")}
        if not there:
            break
        for pid in there:
            _kill(pid, signal.SIGKILL)
        killed += [pid for pid in there if pid not in killed]
    return killed


def _kill(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _kill_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


def limited(
    command: Sequence[str], *, cpu: float | None, memory: str | int | None,
    files: int | None = None,
) -> list[str]:  # fmt: skip
    """Return the command under limits: CPU seconds, address space, open files."""
    limits = []
    if cpu is not None:
        limits.append(f"ulimit -t {max(1, int(cpu))}")
    if memory is not None:
        limits.append(f"ulimit -v {bytes_of(memory) // 1024}")
    if files is not None:
        limits.append(f"ulimit -n {files}")
    if not limits:
        return list(command)
    # `sh` sets the limits and becomes the command; no data enters the script.
    return ["sh", "-c", "; ".join([*limits, 'exec "$@"']), "sh", *command]


async def run_process(
    command: Sequence[str],
    *,
    mark: str,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    timeout: float | None = None,
    cpu: float | None = None,
    memory: str | int | None = None,
    log: str | Path | None = None,
    on_line: Callable[[str], None] | None = None,
    on_spawn: Callable[[ProcessId], None] | None = None,
    grace: float = _GRACE_S,
) -> ProcessResult:
    """Run a command to its end; cancelling or a timeout leaves no process behind.

    Args:
        command: Program and arguments; there is no shell.
        mark: What finds its children again; use one per call.
        cwd: Folder to run in.
        env: Added to this process's environment.
        stdin: Text for its standard input.
        timeout: Seconds until it is stopped, with ProcessTimeoutError.
        cpu: CPU seconds, by ulimit.
        memory: Address space, bytes or such as `4G`, by ulimit.
        log: File for its whole output.
        on_line: Called with each line of output.
        on_spawn: Called once it runs.
        grace: Seconds between SIGTERM and SIGKILL.
    """
    starting = asyncio.create_subprocess_exec(
        *limited(command, cpu=cpu, memory=memory),
        cwd=cwd,
        env={**os.environ, **(env or {}), MARK: mark},
        stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        limit=_LINE_LIMIT,
    )
    try:
        process = await _started(asyncio.ensure_future(starting), mark)
    except (OSError, ValueError) as error:
        raise ProcessError(list(command), 127, f"cannot start: {error}") from error
    try:
        if on_spawn and (identity := identify(process.pid)):
            on_spawn(identity)
        async with asyncio.timeout(timeout):
            result = await _communicate(process, stdin, log, on_line)
    except TimeoutError:
        await _stop(process, mark, grace)
        raise ProcessTimeoutError(list(command), timeout or 0, "") from None
    except BaseException:
        await asyncio.shield(_stop(process, mark, grace))
        raise
    await asyncio.to_thread(sweep, mark)  # it ended, its children must too
    return result


async def _started(
    starting: asyncio.Task[asyncio.subprocess.Process], mark: str
) -> asyncio.subprocess.Process:
    """Return the process once it runs; cancelled before, nothing of it is left."""
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # asyncio kills the child alone, and then waits for as long as children of
        # that child hold its pipes; for ever, if the loop is being closed.
        try:
            while not starting.done():
                starting.cancel()
                sweep(mark)
                await asyncio.wait([starting], timeout=0.01)
        finally:
            sweep(mark)
        if not starting.cancelled():
            starting.exception()  # looked at, or asyncio complains
        raise


async def _communicate(
    process: asyncio.subprocess.Process,
    stdin: str,
    log: str | Path | None,
    on_line: Callable[[str], None] | None,
) -> ProcessResult:
    out: deque[str] = deque(maxlen=10_000)
    tail: deque[str] = deque(maxlen=_TAIL_LINES)
    file = Path(log).open("a", encoding="utf-8") if log else None  # noqa: SIM115, ASYNC230 - closed below, local
    try:
        readers = [
            asyncio.ensure_future(_read(process.stdout, (out, tail), file, on_line)),
            asyncio.ensure_future(_read(process.stderr, (tail,), file, on_line)),
        ]
        try:
            await _feed(process, stdin)
            code = await _exit_code(process)
            # A child that escaped may hold the pipe open: it does not hold us.
            await asyncio.wait(readers, timeout=1)
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)
    finally:
        if file:
            file.close()
        if process.returncode is not None:  # else it is killed, without any grace
            _close_pipes(process)
    return ProcessResult(
        code=code, tail="".join(tail), output="".join(out)[-1_000_000:]
    )


async def _exit_code(process: asyncio.subprocess.Process) -> int:
    """Return the exit code; `wait` alone also waits for whoever holds a pipe."""
    ended = asyncio.ensure_future(process.wait())
    try:
        while process.returncode is None:
            await asyncio.wait([ended], timeout=_LOOK_S)
        return process.returncode
    finally:
        ended.cancel()


async def _feed(process: asyncio.subprocess.Process, stdin: str) -> None:
    if process.stdin is None:
        return
    try:
        process.stdin.write(stdin.encode())
        await process.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it does not want to read: its exit code tells
    finally:
        process.stdin.close()


async def _read(
    stream: asyncio.StreamReader | None,
    sinks: Sequence[deque[str]],
    file: IO[str] | None,
    on_line: Callable[[str], None] | None,
) -> None:
    assert stream is not None
    while True:
        try:
            raw = await stream.readuntil(b"\n")
        except asyncio.IncompleteReadError as end:
            raw = end.partial
        except asyncio.LimitOverrunError as long:
            raw = await stream.readexactly(max(1, long.consumed))
        if not raw:
            return
        line = raw.decode("utf-8", "replace")
        for sink in sinks:
            sink.append(line)
        if file:
            file.write(line)
        if on_line:
            on_line(line.rstrip("\n"))


def _close_pipes(process: asyncio.subprocess.Process) -> None:
    transport: Any = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()


async def _stop(
    process: asyncio.subprocess.Process, mark: str, grace: float
) -> list[int]:
    """End a process, its group and what escaped; return the escapees."""
    family: list[int] = []
    try:
        family = await asyncio.to_thread(descendants, process.pid)
        _kill_group(process.pid, signal.SIGTERM)
        if process.returncode is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await _exit_code(process)
        _kill_group(process.pid, signal.SIGKILL)
        escaped = await asyncio.to_thread(sweep, mark, family)
    except BaseException:  # a second ^C: without grace, and without waiting for it
        _kill_group(process.pid, signal.SIGKILL)
        sweep(mark, family)
        _close_pipes(process)
        raise
    await _exit_code(process)
    _close_pipes(process)
    return escaped


@dataclass(frozen=True, slots=True)
class SubprocessAgent:
    """An agent body that runs a command, such as a coding tool. See subprocess_agent."""

    command: tuple[str, ...]
    timeout: float | None = None
    cpu: float | None = None
    memory: str | int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""
    ok: tuple[int, ...] = (0,)
    logs: Path | None = None

    async def __call__(self, turn: Turn) -> Reply:
        """Run the command in the turn's workspace and return its output."""
        words = {
            "prompt": turn.prompt, "task": turn.task, "attempt": str(turn.attempt),
            "run": turn.context.run, "persona": turn.persona,
            "feedback": turn.feedback, "folder": str(turn.folder or Path.cwd()),
            **{k: str(v) for k, v in turn.args.items()},
        }  # fmt: skip
        command = [_filled(part, words) for part in self.command]
        mark = f"{turn.key}:{os.urandom(6).hex()}"
        # Before it exists: a crash between spawn and journal must not hide it.
        turn.context.emit(
            "worker.starting", {"mark": mark, "command": command[0]},
            task=turn.task, attempt=turn.attempt, actor=turn.persona,
        )  # fmt: skip
        turn.context.commit_now()
        if self.logs:
            self.logs.mkdir(parents=True, exist_ok=True)

        def spawned(identity: ProcessId) -> None:
            turn.context.emit(
                "worker.spawned", spawn_data(identity, mark, command[0]),
                task=turn.task, attempt=turn.attempt, actor=turn.persona,
            )  # fmt: skip
            turn.context.commit_now()

        result = await run_process(
            command,
            mark=mark,
            cwd=turn.folder,
            env={**self.env, "MAESTRO_TASK": turn.task, "MAESTRO_KEY": turn.key},
            stdin=_filled(self.stdin, words),
            timeout=self.timeout,
            cpu=self.cpu,
            memory=self.memory,
            log=self.logs / f"{turn.task}.{turn.attempt}.log" if self.logs else None,
            on_spawn=spawned,
        )
        turn.context.emit(
            "worker.exited", {"code": result.code, "mark": mark}, task=turn.task,
            attempt=turn.attempt, actor=turn.persona,
        )  # fmt: skip
        if result.code not in self.ok:
            raise ProcessError(command, result.code, result.tail)
        return Reply(result.output.strip())


def spawn_data(identity: ProcessId, mark: str, command: str) -> dict[str, Any]:
    """Return what the journal keeps of a process, to find it after a crash."""
    return {
        "pid": identity.pid, "started": identity.started, "boot": identity.boot,
        "mark": mark, "command": command,
    }  # fmt: skip


def reap(spawned: Mapping[str, Any]) -> list[int]:
    """Kill what a dead orchestrator left of one worker; return the processes."""
    identity = ProcessId(
        spawned.get("pid", 0), spawned.get("started", ""), spawned.get("boot", "")
    )
    family: list[int] = []
    if identity.pid and identity.alive():
        family = [identity.pid, *descendants(identity.pid)]
        _kill_group(identity.pid, signal.SIGKILL)
    return sweep(spawned["mark"], family)


def _filled(part: str, words: Mapping[str, str]) -> str:
    # Only known names in braces are replaced, so JSON in an argument survives.
    return re.sub(r"\{(\w+)\}", lambda m: words[m[1]] if m[1] in words else m[0], part)


def subprocess_agent(
    command: Sequence[str] | str,
    *,
    timeout: float | None = None,
    cpu: float | None = None,
    memory: str | int | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str = "",
    ok: Sequence[int] = (0,),
    logs: str | Path | None = None,
) -> SubprocessAgent:
    """Return an agent body that runs a command in the task's workspace.

    `{prompt}`, `{task}`, `{attempt}`, `{run}`, `{persona}`, `{folder}`,
    `{feedback}` and the task's `args` are filled in, in `stdin` too. Limits as
    in run_process. Exit codes not in `ok` fail the attempt.
    """
    words = shlex.split(command) if isinstance(command, str) else list(command)
    if not words:
        raise SettingsError("a command needs at least a program", key="command")
    return SubprocessAgent(
        tuple(words), timeout, cpu, memory, dict(env or {}), stdin, tuple(ok),
        Path(logs) if logs else None,
    )  # fmt: skip
