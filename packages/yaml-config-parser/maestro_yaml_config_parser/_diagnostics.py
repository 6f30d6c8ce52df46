"""One finding: what is wrong, where, and what to do about it."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_WIDTH = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """A finding in a file.

    Attributes:
        file: as the caller named it.
        line, column: from 1, in characters; 0 when there is no place.
        message: what is wrong, without the place.
        code: a stable short name, such as `duplicate-key`.
        severity: `error` or `warning`.
        hint: what to do next; may be empty.
        path: the place in the data, such as `suites[0].timeout`.
        excerpt: the line of the file, without its end.
        length: how many characters of the line are meant.
    """

    file: str
    line: int
    column: int
    message: str
    code: str
    severity: str = "error"
    hint: str = ""
    path: str = ""
    excerpt: str = ""
    length: int = 1

    @property
    def place(self) -> str:
        """`file:line:column`, which editors make clickable."""
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file

    @property
    def summary(self) -> str:
        """The finding on one line."""
        hint = f"; {self.hint}" if self.hint else ""
        mark = "warning: " if self.severity == "warning" else ""
        return f"{self.place}: {mark}{self.message}{hint}"

    def render(self) -> str:
        """The finding with the line of the file and a caret under the place."""
        if not self.excerpt:
            return self.summary
        text, column = _window(self.excerpt, self.column - 1)
        number = str(self.line)
        lead = "".join("\t" if c == "\t" else " " for c in text[:column])
        caret = "^" * max(1, min(self.length, len(text) - column))
        pad = " " * len(number)
        return f"{self.summary}\n  {number} | {text}\n  {pad} | {lead}{caret}"

    def as_dict(self) -> dict[str, object]:
        """The finding as JSON-able data."""
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "severity": self.severity,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "path": self.path,
        }


def _window(text: str, column: int) -> tuple[str, int]:
    """Cut a long line around the column; return the cut and the new column."""
    if len(text) <= _WIDTH:
        return text, column
    start = max(0, min(column - _WIDTH // 2, len(text) - _WIDTH))
    return text[start : start + _WIDTH], column - start


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Return `did you mean 'x'?`, or an empty string when nothing is near."""
    near = closest(name, known)
    return f"did you mean {near!r}?" if near is not None else ""


def near_file(missing: Path) -> str:
    """Return `did you mean 'x'?` when a file of nearly that name is in its folder."""
    stems: dict[str, str] = {}
    name = missing.name
    try:
        known = [file.name for file in missing.parent.iterdir()]
    except OSError:  # no such folder, or none that may be listed
        return ""
    for file in known:
        stems.setdefault(file.partition(".")[0] or file, file)
    near = closest(name.partition(".")[0] or name, stems)
    return f"did you mean {stems[near]!r}?" if near is not None else ""


def closest(name: object, known: Iterable[object]) -> str | None:
    """Return the known name that a typing error would turn into `name`."""
    names = [str(k) for k in known]
    text = str(name)
    folded = {n.casefold().replace("-", "_"): n for n in reversed(names)}
    same = folded.get(text.casefold().replace("-", "_"))
    if same is not None:
        return same
    found = difflib.get_close_matches(
        text, names, n=1, cutoff=0.6 if len(text) > 3 else 0.5
    )
    return found[0] if found else None
