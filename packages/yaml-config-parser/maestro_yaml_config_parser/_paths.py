"""Places in a document as text: `suites[0].env["a.b"]`."""

import re
from collections.abc import Iterable

from .errors import argument_error

Path = tuple[str | int, ...]

_STEP = re.compile(
    r"""\.?(?P<name>[^.\[\]"'\s][^.\[\]"']*)
      | \[(?P<index>-?[0-9]+)\]
      | \.?\[(?P<quote>["'])(?P<quoted>.*?)(?P=quote)\]""",
    re.VERBOSE,
)
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


def parse_path(text: str) -> Path:
    """Split `a.b[0]["c.d"]` into its steps; a leading `$` is allowed.

    Raises:
        ArgumentError: the text is not a path.
    """
    rest = text.removeprefix("$")
    steps: list[str | int] = []
    at = 0
    while at < len(rest):
        match = _STEP.match(rest, at)
        if match is None:
            where = f"at character {at + 1}"
            raise argument_error(f"path {text!r}", f"expected a name or [item] {where}")
        if match["index"] is not None:
            steps.append(int(match["index"]))
        else:
            steps.append(match["quoted"] if match["name"] is None else match["name"])
        at = match.end()
    return tuple(steps)


def format_path(steps: Iterable[object]) -> str:
    """Join steps to the text that `parse_path` reads."""
    text = ""
    for step in steps:
        if isinstance(step, int) and not isinstance(step, bool):
            text += f"[{step}]"
        elif _PLAIN.match(str(step)):
            text += f".{step}" if text else str(step)
        else:
            quote = "'" if '"' in str(step) else '"'
            text += f"[{quote}{step}{quote}]"
    return text
