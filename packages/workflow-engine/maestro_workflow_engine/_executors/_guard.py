"""A script that uses processes must not run again in each of them."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import Any

from ..errors import RunError  # noqa: TID252 - a private subpackage

_ADVICE = (
    "worker processes import your script again, so what runs a workflow with "
    "processes has to stand under\n\n"
    "    if __name__ == '__main__':\n\n"
    "there, or in a function that is called from there"
)


def check_main_guard() -> None:
    """Raise before a process is started that would run the caller's script again."""
    # While a process started by multiprocessing imports the script, it says so.
    process = sys.modules.get("multiprocessing.process")
    current = getattr(process, "current_process", lambda: None)()
    if getattr(current, "_inheriting", False):
        raise RunError("", f"this process was started to run steps: {_ADVICE}")
    line = _running_line()
    if line is None:
        return
    path = str(sys.modules["__main__"].__file__)
    try:
        tree = ast.parse(Path(path).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.If | ast.IfExp | ast.BoolOp)
            and node.lineno <= line <= (node.end_lineno or 0)
        ):  # fmt: skip
            return  # should it be no guard, the process says so
    raise RunError("", f"{path}:{line}: {_ADVICE}")


def _running_line() -> int | None:
    """Return where the script is, if it is a file that processes will import."""
    main = sys.modules.get("__main__")
    spec = getattr(main, "__spec__", None)
    if getattr(main, "__file__", None) is None:
        return None  # interactive, or python -c
    if spec is not None and spec.name.rpartition(".")[2] == "__main__":
        return None
    frame: Any = sys._getframe()
    while frame is not None:
        if frame.f_globals is vars(main) and frame.f_code.co_name == "<module>":
            return int(frame.f_lineno)
        frame = frame.f_back
    return None
