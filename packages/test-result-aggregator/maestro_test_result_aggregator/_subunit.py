"""subunit v2: packets of bytes that test runners of OpenStack, Samba and stestr write.

A packet is a signature, flags, its length, fields, and a CRC-32 of all that. Bytes
between packets belong to no test (a program's own output); they are told, not lost.
Source: the protocol's specification, testing-cabal/subunit, README, "Version 2".
"""

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ._model import Outcome, TestResult, make
from ._source import Source

SIGNATURE = 0xB3
_LARGEST = 4 << 20
_TEST_ID, _ROUTE, _STAMP, _RUNNABLE = 0x0800, 0x0400, 0x0200, 0x0100
_TAGS, _FILE, _MIME, _EOF = 0x0080, 0x0040, 0x0020, 0x0010
_STATUS = ("", "exists", "inprogress", "success", "uxsuccess", "skip", "fail", "xfail")
_OUTCOMES: dict[str, Outcome] = {
    "success": "passed", "uxsuccess": "xpassed", "skip": "skipped", "fail": "failed", "xfail": "xfailed",
}  # fmt: skip
_KEPT = 1 << 20
_RAISED = re.compile(r"(?m)^[A-Za-z_][\w.]*: .*")


class _Bad(Exception):
    """A packet that says something impossible."""


@dataclass(slots=True)
class _Packet:
    status: str
    test: str
    moment: float | None
    tags: tuple[str, ...]
    name: str
    content: bytes
    size: int


@dataclass(slots=True)
class _Open:
    """A test that has been heard of and has not ended."""

    start: float | None = None
    running: bool = False
    tags: tuple[str, ...] = ()
    texts: dict[str, bytearray] = field(default_factory=dict)


def read_subunit(source: Source) -> Iterator[TestResult]:
    """Yield the results of a subunit v2 stream; what was running at its end crashed."""
    tests: dict[str, _Open] = {}
    for packet in _packets(source):
        if not packet.test:
            continue
        one = tests.setdefault(packet.test, _Open())
        one.tags = packet.tags or one.tags
        if packet.name and len(one.texts.setdefault(packet.name, bytearray())) < _KEPT:
            one.texts[packet.name] += packet.content
        if packet.status == "inprogress":
            one.start, one.running = packet.moment, True
        outcome = _OUTCOMES.get(packet.status)
        if outcome:
            yield _result(packet.test, tests.pop(packet.test), outcome, packet.moment)
    for test, one in tests.items():
        if one.running:
            source.tell(f"the stream ends while {test!r} runs", warn=True)
            yield _result(test, one, "crashed", None)
        elif one.texts:
            source.tell(f"the stream says nothing of the outcome of {test!r}")


def _result(test: str, one: _Open, outcome: Outcome, stop: float | None) -> TestResult:
    start = one.start if one.start is not None else stop
    duration = max((stop or 0.0) - (start or 0.0), 0.0) if stop is not None else 0.0
    fields: dict[str, Any] = {
        "id": test, "name": test.rpartition(".")[2] or test, "outcome": outcome,
        "duration": duration, "suite": tuple(filter(None, [test.rpartition(".")[0]])),
    }  # fmt: skip
    if start is not None:
        fields["start"] = start
    if one.tags:
        fields["tags"] = one.tags
    texts = {
        name: bytes(data).decode("utf-8", "replace") for name, data in one.texts.items()
    }
    for key in ("stdout", "stderr"):
        if texts.get(key):
            fields[key] = texts.pop(key)
    trace = texts.pop("traceback", "") or texts.pop("reason", "")
    rest = "\n".join(f"{name}:\n{text}" for name, text in texts.items() if text.strip())
    if trace.strip():
        fields["message"] = (_RAISED.findall(trace) or [trace.strip().splitlines()[0]])[
            -1
        ]
        if fields["message"] != trace.strip():
            fields["trace"] = trace.strip("\n")
    if outcome == "crashed":
        fields.setdefault("message", "the process ended while the test ran")
    if rest:
        fields["log"] = rest
    return make(fields)


def _packets(source: Source) -> Iterator[_Packet]:
    """Yield packets; what is none, or broken, is told once with its place."""
    data, base, told = b"", 0, False
    for chunk in source.chunks():
        data += chunk
        at = 0
        while at < len(data):
            if data[at] != SIGNATURE:
                end = data.find(SIGNATURE, at)
                end = len(data) if end < 0 else end
                if not told:
                    told = True
                    some = data[at : min(end, at + 40)].decode("utf-8", "replace")
                    source.tell(f"byte {base + at}: {some!r} is no packet", warn=True)
                at = end
                continue
            try:
                packet = _packet(data, at)
            except _Bad as error:
                source.tell(f"byte {base + at}: broken packet ({error})")
                at += 1
                told = (
                    True  # what follows up to the next packet is the rest of this one
                )
                continue
            if packet is None:
                break
            yield packet
            at += packet.size
        base += at
        data = data[at:]
    if data:
        source.tell(f"byte {base}: the stream ends inside a packet")


def _packet(data: bytes, at: int) -> _Packet | None:
    """Read the packet at a place; None if it is not there in full."""
    if len(data) < at + 6:
        return None
    (flags,) = struct.unpack_from(">H", data, at + 1)
    if flags >> 12 != 2:
        raise _Bad(f"version {flags >> 12}, known is 2")
    size, place = _number(data, at + 3)
    if size > _LARGEST or size < place - at + 4:
        raise _Bad(f"a length of {size} bytes")
    if len(data) < at + size:
        return None
    end = at + size - 4
    (wanted,) = struct.unpack_from(">I", data, end)
    if zlib.crc32(data[at:end]) != wanted:
        raise _Bad("the checksum is wrong")
    return _fields(data[:end], place, flags, size)


def _fields(data: bytes, place: int, flags: int, size: int) -> _Packet:
    moment, test, name, content = None, "", "", b""
    tags: list[str] = []
    try:
        if flags & _STAMP:
            (whole,) = struct.unpack_from(">I", data, place)
            nanos, place = _number(data, place + 4)
            moment = whole + nanos / 1e9
        if flags & _TEST_ID:
            test, place = _text(data, place)
        if flags & _TAGS:
            count, place = _number(data, place)
            for _ in range(count):
                tag, place = _text(data, place)
                tags.append(tag)
        if flags & _MIME:
            _, place = _text(data, place)
        if flags & _FILE:
            name, place = _text(data, place)
            length, place = _number(data, place)
            content, place = _take(data, place, length)
        if flags & _ROUTE:
            _, place = _text(data, place)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise _Bad(f"its fields: {error}") from error
    return _Packet(_STATUS[flags & 7], test, moment, tuple(tags), name, content, size)


def _number(data: bytes, place: int) -> tuple[int, int]:
    """Read a number of one to four bytes; its first two bits say how many."""
    more = data[place] >> 6
    value = data[place] & 0x3F
    for byte in data[place + 1 : place + 1 + more]:
        value = value << 8 | byte
    if len(data) < place + 1 + more:
        raise IndexError("a number is cut off")
    return value, place + 1 + more


def _text(data: bytes, place: int) -> tuple[str, int]:
    length, place = _number(data, place)
    raw, place = _take(data, place, length)
    return raw.decode("utf-8"), place


def _take(data: bytes, place: int, length: int) -> tuple[bytes, int]:
    if place + length > len(data):
        raise IndexError("a field is longer than its packet")
    return data[place : place + length], place + length
