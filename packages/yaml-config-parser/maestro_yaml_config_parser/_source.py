"""A text with a name: offsets to lines and columns, lines to excerpts."""

import os
import re
from bisect import bisect_right
from dataclasses import dataclass, fields
from pathlib import Path

from ._diagnostics import Diagnostic, near_file
from .errors import ConfigReadError, LimitExceededError, argument_error

_LINE_END = re.compile(r"\r\n|\r|\n")
_WORD = re.compile(r"[^\s,:\[\]{}#]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much a document may ask for; each refusal names the line.

    Attributes:
        bytes: size of one file.
        depth: nesting of mappings and lists.
        nodes: keys and values of all files of one load together.
        aliases: nodes that `*aliases` and merge keys stand for.
        digits: length of one number.
        includes: files that one load may include.
    """

    bytes: int = 16_000_000
    depth: int = 100
    nodes: int = 5_000_000
    aliases: int = 1_000_000
    digits: int = 1_000
    includes: int = 200

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if type(value) is not int or value < 1:
                message = f"{item.name} is a whole number from 1, got {value!r:.60}"
                raise argument_error("Limits()", message)


class Source:
    """The text of one file, decoded, without a byte order mark."""

    __slots__ = ("_starts", "bom", "layer", "name", "text")

    def __init__(
        self, text: str, name: str, *, layer: str = "", bom: bool = False
    ) -> None:
        self.text = text
        self.name = name
        self.layer = layer
        self.bom = bom
        self._starts: list[int] | None = None

    def __repr__(self) -> str:
        return f"Source({self.name!r}, {len(self.text)} characters)"

    def labelled(self, layer: str) -> "Source":
        """Return the same text under the name of another layer."""
        return Source(self.text, self.name, layer=layer, bom=self.bom)

    def _line_starts(self) -> list[int]:
        if self._starts is None:
            ends = (m.end() for m in _LINE_END.finditer(self.text))
            self._starts = [0, *ends]
        return self._starts

    def place(self, index: int) -> tuple[int, int]:
        """Return line and column, both from 1, of an offset."""
        starts = self._line_starts()
        line = bisect_right(starts, index)
        return line, index - starts[line - 1] + 1

    def offset(self, line: int, column: int) -> int:
        """Return the offset of a line and column, both from 1."""
        starts = self._line_starts()
        return starts[min(line, len(starts)) - 1] + column - 1

    def line_text(self, line: int) -> str:
        """Return one line without its end."""
        starts = self._line_starts()
        end = starts[line] if line < len(starts) else len(self.text)
        return self.text[starts[line - 1] : end].rstrip("\r\n")

    def diagnostic(
        self,
        index: int,
        message: str,
        *,
        code: str,
        hint: str = "",
        path: str = "",
        severity: str = "error",
    ) -> Diagnostic:
        """Return a finding at an offset of this text."""
        line, column = self.place(min(max(index, 0), len(self.text)))
        word = _WORD.match(self.text, index)
        return Diagnostic(
            file=self.name,
            line=line,
            column=column,
            message=message,
            code=code,
            hint=hint,
            path=path,
            severity=severity,
            excerpt=self.line_text(line),
            length=len(word.group()) if word else 1,
        )


def no_place(name: str, message: str, *, code: str, hint: str = "") -> Diagnostic:
    """Return a finding about a file as a whole."""
    return Diagnostic(
        file=name, line=0, column=0, message=message, code=code, hint=hint
    )


def read_source(
    path: str | os.PathLike[str], *, limits: Limits, layer: str = ""
) -> Source:
    """Read a file, at most `limits.bytes` of it."""
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as stream:
            data = stream.read(limits.bytes + 1)
    except (OSError, ValueError) as e:  # ValueError: a null character
        raise ConfigReadError(_unreadable(name, e)) from e
    return decode(data, name, limits=limits, layer=layer)


def _unreadable(name: str, error: OSError | ValueError) -> Diagnostic:
    hint = ""
    if "\n" in name or ": " in name:
        hint = "that looks like YAML: use loads() for a text"
        name = repr(name if len(name) <= 60 else name[:57] + "...")
    elif isinstance(error, FileNotFoundError):
        hint = near_file(Path(name))
    reason = (getattr(error, "strerror", None) or str(error)).lower()
    return no_place(name, f"cannot be read: {reason}", code="unreadable", hint=hint)


def decode(data: bytes, name: str, *, limits: Limits, layer: str = "") -> Source:
    """Turn bytes into a Source; anything but UTF-8 is refused with its place."""
    if len(data) > limits.bytes:
        found = no_place(
            name,
            f"is larger than {limits.bytes} bytes",
            code="too-large",
            hint="raise Limits(bytes=...) if that is intended",
        )
        raise LimitExceededError(found, limit="bytes", allowed=limits.bytes)
    bom = data.startswith(b"\xef\xbb\xbf")
    body = data[3:] if bom else data
    if body[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in body[:4]:
        found = no_place(
            name, "is UTF-16 or UTF-32", code="encoding", hint="save it as UTF-8"
        )
        raise ConfigReadError(found)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as e:
        before = Source(body[: e.start].decode("utf-8"), name)
        line, column = before.place(len(before.text))
        found = Diagnostic(
            file=name,
            line=line,
            column=column,
            message=f"byte 0x{body[e.start]:02x} is not UTF-8",
            code="encoding",
            hint="save the file as UTF-8",
        )
        raise ConfigReadError(found) from e
    return Source(text, name, layer=layer, bom=bom)
