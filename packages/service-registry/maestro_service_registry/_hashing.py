"""Consistent hashing: the same key goes to the same instance in every process.

Rendezvous hashing (Thaler and Ravishankar 1998, weighted after Schindelhauer and
Schomaker) for up to 16 instances: no table, and only the keys of a removed instance
move. Above that Maglev (Eisenbud et al., NSDI 2016): one table look-up per key, about
1 % of other keys move on a removal. Hashes are blake2b, never Python's salted hash().
"""

import math
from collections.abc import Sequence
from hashlib import blake2b
from typing import final

__all__ = ["Maglev", "Rendezvous", "hash64"]

_SPREAD = 1 << 64
_PRIMES = (2_039, 8_191, 65_537, 655_373)


def hash64(text: str, salt: bytes = b"") -> int:
    """Return 64 well mixed bits of a text, alike in every process."""
    raw = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(raw, digest_size=8, salt=salt).digest(), "big")


@final
class Rendezvous:
    """Picks the node with the best score for the key; O(nodes)."""

    def __init__(self, nodes: Sequence[str], weights: Sequence[int]) -> None:
        self._nodes = [(n, w) for n, w in zip(nodes, weights, strict=True) if w > 0]
        if not self._nodes:
            self._nodes = [(node, 1) for node in nodes]

    def __call__(self, key: str) -> str:
        """Return the node of `key`."""
        best, chosen = -math.inf, ""
        for node, weight in self._nodes:
            # -w/ln(u) is the weighted score; u lies strictly between 0 and 1.
            u = (hash64(f"{node}\0{key}") + 0.5) / _SPREAD
            score = -weight / math.log(u)
            if score > best:
                best, chosen = score, node
        return chosen


@final
class Maglev:
    """Picks from a table that every process builds alike; O(1)."""

    def __init__(self, nodes: Sequence[str], weights: Sequence[int]) -> None:
        pairs = sorted((n, w) for n, w in zip(nodes, weights, strict=True) if w > 0)
        pairs = pairs or sorted((node, 1) for node in nodes)
        names = [node for node, _ in pairs]
        self.size = next((p for p in _PRIMES if p >= 60 * len(names)), _PRIMES[-1])
        self._names = names
        self._table = self._build([weight for _, weight in pairs])

    def __call__(self, key: str) -> str:
        """Return the node of `key`."""
        return self._names[self._table[hash64(key) % self.size]]

    def _build(self, weights: list[int]) -> list[int]:
        size, names = self.size, self._names
        at = [hash64(name, b"offset") % size for name in names]
        skip = [hash64(name, b"skip") % (size - 1) + 1 for name in names]
        table, filled = [-1] * size, 0
        heaviest = max(weights)
        credit = [0] * len(names)
        while True:
            for i, weight in enumerate(weights):
                credit[i] += weight  # a lighter node takes a turn less often
                if credit[i] < heaviest:
                    continue
                credit[i] -= heaviest
                place, step = at[i], skip[i]
                while table[place] >= 0:
                    place = (place + step) % size
                table[place] = i
                at[i] = (place + step) % size
                filled += 1
                if filled == size:
                    return table
