"""Decide by name which values must not be written."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from json.encoder import encode_basestring_ascii as quote
from typing import final

from maestro_audit_logger.errors import InvalidSetting

REDACTED = "[redacted]"
DEFAULT_REDACT = (
    "*password*",
    "passwd",
    "pwd",
    "*secret*",
    "*token*",
    "authorization",
    "cookie",
    "set_cookie",
    "*api_key*",
    "*apikey*",
    "*private_key*",
    "*credential*",
    "card_number",
    "cvv",
    "cvc",
    "ssn",
)
_REMEMBERED_NAMES = 4096


@final
class Redactor:
    """Match names and dotted paths against shell patterns.

    A pattern without a dot matches a key at any depth; one with a dot matches
    the end of the path, so `card.*` also matches `order.card.number`. Case is
    ignored and `-` equals `_`.
    """

    def __init__(self, patterns: Iterable[str] = DEFAULT_REDACT) -> None:
        if isinstance(patterns, str):  # its letters would be the patterns
            raise InvalidSetting("redact", f"a list, such as [{patterns!r}]", patterns)
        patterns = list(patterns)
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise InvalidSetting("redact", "names and dotted paths", pattern)
        wanted = [pattern.lower().replace("-", "_") for pattern in patterns]
        names = [p for p in wanted if "." not in p]
        paths = [p for p in wanted if "." in p]
        self._names = _either(names)
        self._paths = _either([*paths, *(f"*.{p}" for p in paths)])
        self.by_path = bool(paths)
        self.known: dict[str, bool] = {}  # what the patterns said, bounded
        self.plain: dict[str, str] = {}  # names that are never hidden, with their JSON

    def hides(self, key: str, path: str) -> bool:
        """Tell whether the value under this key must be hidden."""
        hidden = self.known.get(key)
        if hidden is None:
            hidden = bool(self._names.match(_fold(key)))
            if len(self.known) < _REMEMBERED_NAMES:
                self.known[key] = hidden
                if not hidden and not self.by_path:
                    self.plain[key] = quote(key) + ":"
        return hidden or (self.by_path and bool(self._paths.match(_fold(path))))


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")


def _either(patterns: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(translate, patterns)) or r"(?!)")
