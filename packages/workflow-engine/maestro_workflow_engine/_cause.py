"""What a step raised, in words: its message, and a traceback of bounded length."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import final

_BYTES = 3_000  # of a traceback, as the journal keeps it
_PART = 600  # of a frame or a message in it
_OURS = str(Path(__file__).parent)
# What calls a step's function, last of all that is not its own.
_CALLERS = (f"{_OURS}/_executors/", f"{_OURS}/_model.py", f"{_OURS}/redis.py")


@final
class RemoteTraceback(Exception):
    """The traceback of an error in another process, as its cause; it is text there."""

    def __init__(self, text: str) -> None:
        self.tb = text  # named so by those of concurrent.futures and multiprocessing
        super().__init__(text)

    def __str__(self) -> str:
        return f"\n{self.tb}"


def said(error: BaseException) -> str:
    """Return an error's class and message, even when the message cannot be had."""
    try:
        return _whole(f"{type(error).__name__}: {error}")
    except Exception as problem:
        return f"{type(error).__name__}: (its text raised {type(problem).__name__})"


def _whole(text: str) -> str:
    """Return a text that can be stored: half characters are spelt out."""
    return text.encode(errors="backslashreplace").decode()


def as_failure(error: BaseException) -> Exception:
    """Return what a step raised as an error that fails the step and nothing else."""
    if isinstance(error, Exception):
        return error
    if isinstance(error, SystemExit):
        text = f"the step called sys.exit({error.code!r})"
    else:
        text = f"the step raised {said(error)}"
    return RuntimeError(text).with_traceback(error.__traceback__)


def traceback_of(error: BaseException | None) -> str:
    """Return where an error was raised, from the step's function on; "" if nowhere.

    Long ones lose their middle: the end says what happened, and the begin where.
    """
    if error is None:
        return ""
    remote = getattr(error.__cause__, "tb", None)
    if isinstance(remote, str):
        return _bounded(remote.strip('"\n').splitlines())
    place = frames = error.__traceback__
    while place is not None:
        if place.tb_frame.f_code.co_filename.startswith(_CALLERS):
            frames = place.tb_next
        place = place.tb_next
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OURS):
        frames = frames.tb_next
    if frames is None:
        return ""
    try:
        parts = traceback.format_exception(type(error), error, frames)
    except Exception:  # its text, or that of its cause, cannot be had
        parts = [*traceback.format_tb(frames), said(error)]
    lines = "".join(part[:_PART].rstrip("\n") + "\n" for part in parts).splitlines()
    return _bounded(lines)


def _bounded(lines: list[str]) -> str:
    lines = [_whole(line) for line in lines]
    if sum(len(line.encode()) + 1 for line in lines) <= _BYTES:
        return "\n".join(lines)
    begin = _fitting(lines, _BYTES // 4)
    end = _fitting(lines[::-1], _BYTES * 3 // 4)[::-1]
    return "\n".join([*begin, "  ...", *end])


def _fitting(lines: list[str], room: int) -> list[str]:
    """Return the first lines that fit into so many bytes."""
    found = []
    for line in lines:
        room -= len(line.encode()) + 1
        if room < 0:
            break
        found.append(line)
    return found
