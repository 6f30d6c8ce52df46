"""Test cases that only passed, cut out of JUnit XML before the parser sees them.

Nine of ten cases are an empty element with a class, a name and a time. One regular
expression finds those, and a run of them is replaced by a single placeholder element,
so expat makes one call where it made two a case. Nothing is guessed: the parser still
decides what the placeholder is. As an element it stands for its cases; in a comment it
is nothing; in CDATA it is text and is put back; anywhere else the document is broken
for the parser as it was without. White space stays where it is, so lines are counted
as before. The placeholder's name is random: no report can hold it.

Only printable ASCII without references and markup is cut out, which reads the same in every
encoding that is let through here; another encoding turns the short cut off.
"""

import re
import secrets
from typing import NamedTuple

_ATTRIBUTE = re.compile(rb"""\s([\w:.-]+)\s*=\s*["'][^"'<]*["']""")
_FIRST = re.compile(rb"<testcase((?:\s[^<>]*?)?)\s*/?>")
_ENCODING = re.compile(rb"""<\?xml[^>]*\sencoding\s*=\s*["']([\w.-]+)["']""")
_LET_THROUGH = frozenset({b"utf-8", b"us-ascii", b"ascii", b"iso-8859-1"})
_TEXT = "([ !#-%'-;=-~]++)"
_VALUES = {
    "classname": _TEXT, "name": _TEXT, "file": _TEXT,
    "line": r"(\d{1,9}+)", "time": r"(\d{1,8}+(?:\.\d{1,9}+)?)",
}  # fmt: skip
_BLANK = frozenset({"", "\n", "\r\n"})
_NEEDED = {"classname", "name", "time"}

Values = tuple[str, ...]


class PlainCases:
    """The cases cut out of one report, by the number of their placeholder.

    Attributes:
        order: Names of the attributes of a case, in the order of the values.
        tag: The name of a placeholder element; its attribute is `n`.
    """

    def __init__(self, order: tuple[str, ...]) -> None:
        self.order = order
        self.tag = "plain-" + secrets.token_hex(12)
        values = " ".join(f'{name}="{_VALUES[name]}"' for name in order)
        self._case = re.compile(rf"<testcase {values} ?(?:/>|></testcase>)")
        self._held: dict[str, _Run] = {}
        self._count = 0

    def cut(self, chunk: bytes) -> bytes:
        """Return a piece of the report with placeholders for the cases in it."""
        text = chunk.decode("latin-1")
        width = len(self.order) + 1
        parts = self._case.split(text)
        if len(parts) == 1:
            return chunk
        gaps = parts[::width]
        cases = list(zip(*(parts[at::width] for at in range(1, width)), strict=True))
        made = [gaps[0]]
        start = 0
        for at, gap in enumerate(gaps[1:], 1):
            if gap not in _BLANK and gap.strip(" \t\r\n"):
                made += self._replaced(text, gaps, cases, start, at)
                made.append(gap)
                start = at
        if start < len(cases):
            made += self._replaced(text, gaps, cases, start, len(cases))
            made.append(gaps[-1])
        return "".join(made).encode("latin-1")

    def _replaced(
        self,
        text: str,
        gaps: list[str],
        cases: list[Values],
        start: int,
        end: int,
    ) -> list[str]:
        """Hold the cases of a run; return its placeholder and the white space in it."""
        self._count += 1
        between = "".join(gaps[start + 1 : end])
        self._held[str(self._count)] = _Run(cases[start:end], text, start, between)
        return [f'<{self.tag} n="{self._count}"/>', between]

    def take(self, number: str) -> list[Values]:
        """Return the values of the cases of a placeholder, and forget them."""
        return self._held.pop(number).cases

    def restored(self, text: str) -> str:
        """Return text, with what stood there in the place of placeholders."""
        made, *pieces = text.split(f'<{self.tag} n="')
        for piece in pieces:
            number, _, rest = piece.partition('"/>')
            run = self._held.pop(number)
            spans = [found.span() for found in self._case.finditer(run.text)]
            first, last = spans[run.start], spans[run.start + len(run.cases) - 1]
            made += _lines(run.text[first[0] : last[1]])
            made += rest.removeprefix(_lines(run.between))
        return made


class _Run(NamedTuple):
    """Cases that a placeholder stands for, and where they were."""

    cases: list[Values]
    text: str
    start: int
    between: str


def _lines(text: str) -> str:
    # As XML has it: the parser does the same to all other text.
    return text.replace("\r\n", "\n").replace("\r", "\n")


def plain_cases(head: bytes) -> PlainCases | None:
    """Return what cuts plain cases out of a report that begins so, if any can be.

    Tools write the attributes of every case in one order: that of the first.
    """
    encoding = _ENCODING.search(head)
    if encoding and encoding[1].lower() not in _LET_THROUGH:
        return None
    for first in _FIRST.finditer(head):
        order = tuple(name.decode() for name in _ATTRIBUTE.findall(first[1]))
        if _NEEDED <= set(order) <= _VALUES.keys() and len(set(order)) == len(order):
            return PlainCases(order)
    return None
