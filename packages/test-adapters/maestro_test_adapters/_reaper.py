"""Ends what a killed program left: run as a program, `_reaper.py MARK`.

Each line of standard input is a folder to remove. When standard input ends, the
program that wrote it is gone: processes that carry the mark in their environment
are killed. Needs nothing but the standard library.
"""

import os
import signal
import sys
import time
from collections.abc import Iterator

_ROUNDS = 1000  # of 20 ms and more


def marked(mark: bytes) -> Iterator[int]:
    """Yield the processes, but this one, that carry a mark (Linux; elsewhere none)."""
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():  # noqa: PTH112, PTH208 - pathlib takes 10 ms to load
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            with open(f"/proc/{name}/environ", "rb") as file:  # noqa: PTH123
                found = mark in file.read().split(b"\0")
        except OSError:
            continue  # another user's, or gone
        if found:
            yield int(name)


def main() -> None:
    """Wait for the end of standard input, then clean up."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    folders = sys.stdin.read().splitlines()
    for _ in range(_ROUNDS):
        left = list(marked(os.fsencode(sys.argv[1])))
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass  # ended meanwhile
        if not left and removed(folders):
            break
        time.sleep(0.02)


def removed(folders: list[str]) -> bool:
    """Remove what is left of the folders, and tell whether nothing is.

    A browser's helper without the mark, as Chromium's that write a title over their
    environment, may still write a file while it ends: then the caller tries again.
    """
    left = [folder for folder in folders if os.path.lexists(folder)]
    if left:
        import shutil

        for folder in left:
            shutil.rmtree(folder, ignore_errors=True)
    return not any(map(os.path.lexists, left))


if __name__ == "__main__":
    main()
