"""Plain scalars by the YAML 1.2 core schema, with its traps kept as text.

A trap is a text that another YAML reader, or a reader who expects words, takes
for something else: `no`, `0777`, `22:22`, `1_000`, `48170e5694`. It stays a
string here, and `trap()` says why it should be quoted.
"""

import math
import re

_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\Z")
_HEX = re.compile(r"0x[0-9a-fA-F]+\Z")
_OCT = re.compile(r"0o[0-7]+\Z")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?\Z")
_SIGNED_EXP = re.compile(r"[-+]?[0-9]+[eE][-+][0-9]+\Z")
_BARE_EXP = re.compile(r"[-+]?[0-9]+[eE][0-9]+\Z")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+\Z")
_SEXAGESIMAL = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9]*)?\Z")
_UNDERSCORE = re.compile(r"[-+]?[0-9][0-9_]*_[0-9_]*(?:\.[0-9_]*)?\Z")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[Tt ].*)?\Z")
_WORDS = frozenset(
    word
    for base in ("yes", "no", "on", "off")
    for word in (base, base.capitalize(), base.upper())
)
_CONSTANTS: dict[str, object] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True,
    "false": False, "False": False, "FALSE": False,
    ".inf": math.inf, ".Inf": math.inf, ".INF": math.inf,
    "+.inf": math.inf, "+.Inf": math.inf, "+.INF": math.inf,
    "-.inf": -math.inf, "-.Inf": -math.inf, "-.INF": -math.inf,
    ".nan": math.nan, ".NaN": math.nan, ".NAN": math.nan,
}  # fmt: skip
_START = frozenset("+-.0123456789")
_CACHED_LENGTH = 40
_CACHED_COUNT = 200_000


class PlainTextError(ValueError):
    """A plain text that cannot be a value: too many digits, or a lone `-`."""


class MergeKey(str):
    """A plain `<<`; a quoted one is an ordinary string."""

    __slots__ = ()


class Scalars(dict[str, object]):
    """Plain text to value; remembers what it has seen and which were traps."""

    def __init__(self, digits: int) -> None:
        super().__init__(_CONSTANTS)
        self["<<"] = MergeKey("<<")
        self.digits = digits
        self.traps: set[str] = set()

    def __missing__(self, text: str) -> object:
        value = self._number(text) if text[0] in _START else text
        if value is text and trap(text):
            self.traps.add(text)
        if len(text) <= _CACHED_LENGTH and len(self) < _CACHED_COUNT:
            self[text] = value
        return value

    def _number(self, text: str) -> object:
        if len(text) > self.digits and text.strip("+-.0123456789abcdefABCDEFxo") == "":
            raise PlainTextError(text)
        if text == "-":
            raise PlainTextError(text)
        if _INT.match(text):
            return int(text)
        if _FLOAT.match(text) or _SIGNED_EXP.match(text):
            number = float(text)
            return number if math.isfinite(number) else text
        if _HEX.match(text):
            return int(text, 16)
        if _OCT.match(text):
            return int(text, 8)
        return text


def trap(text: str) -> str:
    """Say what else a plain text could be taken for, or return an empty string."""
    if text in _WORDS:
        return "a boolean in YAML 1.1"
    if not text or text[0] not in _START:
        return ""
    if _LEADING_ZERO.match(text):
        return "an octal number in YAML 1.1, and loses its zero elsewhere"
    if _BARE_EXP.match(text):
        return "a number with an exponent in YAML 1.2"
    if _FLOAT.match(text) or _SIGNED_EXP.match(text):
        return "a number too large for a float" if _overflows(text) else ""
    if _SEXAGESIMAL.match(text):
        return "a base-60 number in YAML 1.1"
    if _UNDERSCORE.match(text):
        return "a number in YAML 1.1"
    if _DATE.match(text):
        return "a date in YAML 1.1"
    return ""


def _overflows(text: str) -> bool:
    return not math.isfinite(float(text))
