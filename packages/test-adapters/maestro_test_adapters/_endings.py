"""Nothing outlives the script: browsers that nobody closed, programs of a killed one.

A browser that is open at the end of the interpreter is closed there. For an end that
runs no code of ours, such as SIGKILL, a small process waits for our end of a pipe to
close, and kills what carries our mark.
"""

import atexit
import os
import secrets
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

MARK = "MAESTRO_BROWSER_RUN"
"""Environment variable that marks the drivers of this process and their browsers."""

_WAIT_S = 10.0


class Closer:
    """Closes one browser, once: by its user, when it is dropped, or at the end."""

    def __init__(self, close: Callable[[], None]) -> None:
        self._close = close
        self._owner = os.getpid()
        self._lock = threading.Lock()
        self._done = False
        _open.add(self)

    @property
    def done(self) -> bool:
        """Whether it was closed, or is the business of the process that opened it."""
        return self._done or self._owner != os.getpid()

    def __call__(self) -> None:
        with self._lock:
            if self.done:
                return
            self._done = True
        _open.discard(self)
        self._close()


class _Reaper:
    """The process that looks after what this one starts."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.mark = secrets.token_hex(16)
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-I",
                "-S",
                str(Path(__file__).with_name("_reaper.py")),
                f"{MARK}={self.mark}",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={name: text for name, text in os.environ.items() if name != MARK},
            start_new_session=True,
        )

    def remove(self, folder: Path) -> None:
        """Remove a folder at the end, should it be there still."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(os.fsencode(folder) + b"\n")
            self._process.stdin.flush()
        except OSError:
            pass  # somebody killed it: the end is then as it was without it

    def end(self) -> None:
        """Let it do its work, and wait for that."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
            self._process.wait(_WAIT_S)
        except (OSError, subprocess.TimeoutExpired):
            pass


_open: set[Closer] = set()
_lock = threading.Lock()
_reaper: _Reaper | None = None


def marked_environment(folder: Path) -> dict[str, str]:
    """Return the environment of a driver; its folder goes when we end, however."""
    global _reaper
    with _lock:
        if _reaper is None or _reaper.owner != os.getpid():
            _reaper = _Reaper()
        _reaper.remove(folder)
        return {**os.environ, MARK: _reaper.mark}


def _at_end() -> None:
    for closer in list(_open):
        if closer.done:
            continue
        warnings.warn("a browser was not closed", ResourceWarning, stacklevel=1)
        try:
            closer()
        except Exception as error:
            sys.stderr.write(f"a browser could not be closed: {error}\n")
    if _reaper is not None and _reaper.owner == os.getpid():
        _reaper.end()


atexit.register(_at_end)
