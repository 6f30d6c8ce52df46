"""The shape of a run's graph: what a journal keeps to notice changes."""

from __future__ import annotations

import hashlib
import json
import sys
import zlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, count
from typing import TypeVar

_N = TypeVar("_N", int, float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The steps of a run: names, what each was made of, and what each waits for."""

    names: list[str]
    digests: list[str]
    needs: Sequence[Sequence[int]]

    def marks(self) -> dict[str, tuple[str, ...]]:
        """Return for each step what changes when the step does.

        By names, not positions: a new step must not change the others.
        """
        names = self.names
        return {
            name: (digest, *[names[i] for i in needs])
            for name, digest, needs in zip(names, self.digests, self.needs, strict=True)
        }

    def _body(self) -> bytes:
        # One line of JSON, then numbers: which digest each step has, how many needs,
        # and all needs in a row. JSON alone would take five times as long.
        kinds = list(dict.fromkeys(self.digests))
        place = dict(zip(kinds, count(), strict=False))
        head = json.dumps([self.names, kinds], separators=(",", ":")).encode()
        numbers = array("I", map(place.__getitem__, self.digests))
        numbers.extend(map(len, self.needs))
        numbers.extend(chain.from_iterable(self.needs))
        return head + b"\n" + little_endian(numbers).tobytes()

    def whole(self) -> str:
        """Return one digest over all steps."""
        return hashlib.sha256(self._body()).hexdigest()

    def pack(self) -> tuple[str, bytes]:
        """Return that digest, and the shape as the journal keeps it."""
        body = self._body()
        return hashlib.sha256(body).hexdigest(), zlib.compress(body, 1)

    @classmethod
    def unpack(cls, body: bytes) -> Shape:
        """Read what `pack` wrote."""
        head, _, rest = zlib.decompress(body).partition(b"\n")
        names, kinds = json.loads(head)
        numbers = array("I")
        numbers.frombytes(rest)
        numbers = little_endian(numbers)
        steps, place = len(names), 2 * len(names)
        needs = []
        for length in numbers[steps:place]:
            needs.append(numbers[place : place + length].tolist())
            place += length
        digests = [kinds[number] for number in numbers[:steps]]
        return cls(names=names, digests=digests, needs=needs)


def little_endian(numbers: array[_N]) -> array[_N]:
    """Turn numbers into little-endian ones, or back."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
