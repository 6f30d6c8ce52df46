"""An open report: its bytes in pieces, its diagnostics, and times as tools write them."""

import datetime as dt
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ._model import Diagnostic

CHUNK = 1 << 16
MAX_JSON = 512 << 20
MAX_LINE = 64 << 20
_DAYS = re.compile(r"(?:(\d+)[.:])?(\d+):(\d+):(\d+(?:\.\d+)?)\Z")


class Source:
    """One report while it is read; readers take it and yield results.

    Attributes:
        path: Its name in messages.
        diagnostics: What could not be read so far.
        declared: What the report itself says it counts, where it says so.
        counted: Results so far, where the reader counts them.
    """

    def __init__(
        self,
        path: str | Path,
        stream: BinaryIO,
        head: bytes,
        told: Callable[[Diagnostic], None],
    ) -> None:
        self.path = str(path)
        self.head = head
        self.declared: dict[str, int] = {}
        self.counted = 0
        self._stream = stream
        self._told = told

    def tell(
        self, message: str, *, line: int | None = None, warn: bool = False
    ) -> None:
        """Record a diagnostic."""
        level = "warning" if warn else "error"
        self._told(
            Diagnostic(path=self.path, message=message, line=line, level=level)  # type: ignore[arg-type]  # the two words
        )

    def chunks(self) -> Iterator[bytes]:
        """Yield the file from its beginning."""
        yield self.head
        while chunk := self._stream.read(CHUNK):
            yield chunk

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield numbered lines; undecodable bytes become U+FFFD and are reported."""
        rest, number, bad = b"", 0, False
        encoding = "utf-8-sig"
        if self.head[:2] in (b"\xff\xfe", b"\xfe\xff"):
            text = b"".join(self.chunks()).decode("utf-16", "replace")
            yield from enumerate(text.splitlines(), start=1)
            return
        for chunk in self.chunks():
            if b"\n" not in chunk:
                rest += chunk
                if len(rest) > MAX_LINE:
                    self.tell(
                        f"line {number + 1} is over {MAX_LINE >> 20} MB; reading ends"
                    )
                    return
                continue
            *whole, rest = (rest + chunk).split(b"\n")
            for raw in whole:
                number += 1
                try:
                    yield number, raw.decode(encoding).rstrip("\r")
                except UnicodeDecodeError:
                    bad = self._undecodable(number, told=bad)
                    yield number, raw.decode(encoding, "replace").rstrip("\r")
                encoding = "utf-8"
        if rest:
            if b"\xff" in rest or b"\xfe" in rest:
                self._undecodable(number + 1, told=bad)
            yield number + 1, rest.decode(encoding, "replace").rstrip("\r")

    def _undecodable(self, line: int, *, told: bool) -> bool:
        if not told:
            self.tell("bytes that are not UTF-8 were replaced", line=line, warn=True)
        return True

    def data(self) -> bytes:
        """Return the whole file, up to the limit for JSON documents."""
        parts, size = [], 0
        for chunk in self.chunks():
            size += len(chunk)
            if size > MAX_JSON:
                self.tell(f"larger than {MAX_JSON >> 20} MB; not read")
                return b""
            parts.append(chunk)
        return b"".join(parts)


def seconds(text: str | None) -> float:
    """Read a duration: `1.5`, `1,234.5`, `00:00:01.5`, `1.5s`, `20 ms`; else ValueError."""
    if not text:
        return 0.0
    try:
        return _finite(float(text))
    except ValueError:
        pass
    text = text.strip().lower()
    if match := _DAYS.match(text):
        days, hours, minutes, rest = match.groups()
        return (
            (int(days or 0) * 24 + int(hours)) * 3600 + int(minutes) * 60 + float(rest)
        )
    scale = 1.0
    for unit, factor in (("ms", 1e-3), ("us", 1e-6), ("ns", 1e-9), ("s", 1.0)):
        if text.endswith(unit):
            text, scale = text[: -len(unit)].strip(), factor
            break
    return _finite(float(text.replace(",", ""))) * scale


def _finite(value: float) -> float:
    if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124 - NaN
        raise ValueError(value)
    return value


def moment(text: object) -> float | None:
    """Read a time stamp as seconds since 1970 (UTC where it names no zone), or None."""
    if isinstance(text, int | float):
        return text / 1000 if text > 1e11 else float(text)
    if not isinstance(text, str) or not text:
        return None
    text = text.strip().replace(" UTC", "+00:00")
    if len(text) > 8 and text[:8].isdigit() and text[8] == " ":  # robot before 7
        text = f"{text[:4]}-{text[4:6]}-{text[6:8]}T{text[9:]}"
    # More than six digits of a second, as .NET and Go write them.
    text = re.sub(r"(\.\d{6})\d+", r"\1", text)
    try:
        when = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=dt.UTC)
    return when.timestamp()
