"""Runs as a child: passes files through twine check and check-wheel-contents.

Usage: python _gates.py, with one JSON object on standard input:
`{"files": [...], "wheels": [...]}`. Prints a JSON object: for each gate whether
the files passed, and what it said. Both programs are imported before the input is
read, so that this can be started while the files are still being built. Without
input there is nothing to do.
"""

import contextlib
import io
import json
import logging
import sys
from collections.abc import Callable

import check_wheel_contents.__main__ as wheel_contents  # type: ignore[import-untyped]
import twine.commands.check as twine_check


def twine(files: list[str]) -> bool:
    """Read the metadata and render the README of each file, strictly."""
    return not twine_check.main(["--strict", *files])


def contents(wheels: list[str]) -> bool:
    """Look for files that do not belong into a wheel."""
    if not wheels:
        return True
    options = ["--no-config", *wheels]
    return not wheel_contents.main(options, standalone_mode=False)


def said(gate: Callable[[list[str]], bool], files: list[str]) -> tuple[bool, str]:
    """Run one gate; return whether the files passed and what it printed."""
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    logging.getLogger().addHandler(handler)
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            passed = gate(files)
        except Exception as error:  # a process edge: a broken file fails the gate
            passed = False
            print(f"{type(error).__name__}: {error}")
    logging.getLogger().removeHandler(handler)
    return passed, output.getvalue()


if __name__ == "__main__":
    text = sys.stdin.read()
    if text:
        wanted = json.loads(text)
        results = {
            "twine": said(twine, wanted["files"]),
            "check-wheel-contents": said(contents, wanted["wheels"]),
        }
        print(json.dumps(results))
