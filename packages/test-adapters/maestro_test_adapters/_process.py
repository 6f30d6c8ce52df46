"""A child process that is watched while it runs and leaves nothing behind."""

import os
import select
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

RUN_MARK = "MAESTRO_TEST_RUN"
"""Environment variable that marks every process of a run, daemonised ones too."""

_POLL_S = 0.02
_CHUNK = 65536
_KILL_WAIT_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Bytes that came from the child, or nothing: a chance to look at the clock."""

    source: Literal["stdout", "stderr", "stream", "tick"]
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftProcess:
    """A process that outlived the runner, and the test that started it."""

    pid: int
    command: str
    test: str | None


class Child:
    """A process group with piped output and, beside it, a file that it appends to.

    A file, not a pipe, carries the events: the child never blocks on it, a forked
    grandchild cannot hold it open, and it survives the death of either side.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        mark: str,
        stream: Path | None,
    ) -> None:
        self.mark = mark
        self._stream: IO[bytes] | None = None
        if stream:
            stream.touch()
            self._stream = stream.open("rb")
        try:
            self._process = subprocess.Popen(
                list(argv),
                cwd=cwd,
                env={**env, RUN_MARK: mark},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except BaseException:
            if self._stream:
                self._stream.close()
            raise
        self._closed = False

    @property
    def pid(self) -> int:
        """The child's process id, which is its group's id too."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code; negative for a signal; None while it runs."""
        return self._process.poll()

    def chunks(self) -> Iterator[Chunk]:
        """Yield what the child writes, until it has ended and all is read."""
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        pipes = {self._process.stdout: "stdout", self._process.stderr: "stderr"}
        with selectors.DefaultSelector() as selector:
            for pipe, name in pipes.items():
                os.set_blocking(pipe.fileno(), False)
                selector.register(pipe, selectors.EVENT_READ, name)
            while True:
                # The order matters: ended is asked before reading, so that nothing
                # written before the end is missed. No wait for the pipes to close:
                # a straggler may hold them.
                ended = self._process.poll() is not None
                yield from self._read_stream()
                if selector.get_map():
                    ready = selector.select(0 if ended else _POLL_S)
                else:
                    ready = []
                    if not ended:
                        time.sleep(_POLL_S)
                for key, _ in ready:
                    data = os.read(key.fd, _CHUNK)
                    if data:
                        yield Chunk(source=key.data, data=data)
                    else:
                        selector.unregister(key.fileobj)
                if ended and not ready:
                    return
                yield Chunk(source="tick")

    def _read_stream(self) -> Iterator[Chunk]:
        while self._stream:
            data = self._stream.read(_CHUNK)
            if not data:
                return
            yield Chunk(source="stream", data=data)

    def signal(self, number: int) -> None:
        """Send a signal to the child alone."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def interrupt(self, *, grace: float) -> None:
        """Ask the group to end, wait up to `grace` seconds, then kill it."""
        if self._process.poll() is None:
            _kill_group(self.pid, signal.SIGINT)
            try:
                self._process.wait(grace)
            except subprocess.TimeoutExpired:
                pass
        self.kill()

    def kill(self) -> None:
        """Kill the child and its group."""
        # Even after the child has ended its group may live on in its children.
        _kill_group(self.pid, signal.SIGKILL)
        self._process.wait()

    def close(self, forks: Mapping[int, str]) -> list[LeftProcess]:
        """Kill what is left of the run and say what it was. Idempotent.

        Args:
            forks: Process id to test, of the forks that were seen.
        """
        if self._closed:
            return []
        self._closed = True
        running = self._process.poll() is None
        left = [] if running else list(_stragglers(self.mark, forks, skip=self.pid))
        self.kill()
        for straggler in _stragglers(self.mark, forks, skip=self.pid):
            _kill_marked(straggler.pid, self.mark)
        for pipe in (self._process.stdout, self._process.stderr, self._stream):
            if pipe:
                pipe.close()
        return left


def _kill_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        pass  # gone already


def _kill_marked(pid: int, mark: str) -> None:
    """Kill a process, holding it by a descriptor so that its id cannot be reused."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if _has_mark(pid, mark):
            signal.pidfd_send_signal(handle, signal.SIGKILL)
            select.select([handle], [], [], _KILL_WAIT_S)  # readable once it is dead
    except OSError:
        pass  # ended meanwhile
    finally:
        os.close(handle)


def _environment(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def _has_mark(pid: int, mark: str) -> bool:
    return f"{RUN_MARK}={mark}".encode() in _environment(pid).split(b"\0")


def _stragglers(
    mark: str, forks: Mapping[int, str], *, skip: int
) -> Iterator[LeftProcess]:
    """Yield the living processes that carry a run's mark (Linux; elsewhere none)."""
    proc = Path("/proc")
    for entry in proc.iterdir() if proc.is_dir() else ():
        if not entry.name.isdigit() or int(entry.name) in (skip, os.getpid()):
            continue
        pid = int(entry.name)
        if not _has_mark(pid, mark) or _is_zombie(pid):
            continue
        yield LeftProcess(
            pid=pid, command=_command(pid), test=forks.get(pid) or _test_of(pid)
        )


def _is_zombie(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[:1] == ["Z"]


def _command(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "?"
    return raw.replace(b"\0", b" ").decode("utf-8", "replace").strip()[:200]


def _test_of(pid: int) -> str | None:
    """Return the test during which a process was started, as pytest's mark says."""
    for item in _environment(pid).split(b"\0"):
        name, _, value = item.partition(b"=")
        if name == b"PYTEST_CURRENT_TEST":
            return value.decode("utf-8", "replace").rpartition(" (")[0]
    return None
