"""RFC 6962 Merkle trees: roots, inclusion and consistency proofs.

Pure functions. A tree is given as `node(height, index)`, the hash of the
perfect subtree over leaves `index << height` to `(index + 1) << height`, so
that the same code works on a list in memory and on tiles on disk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import final

from maestro_audit_logger.errors import InvalidProof

HASH_BYTES = 32
_NODE = hashlib.sha256(b"\1")  # to copy it costs less than to make a new one
Node = Callable[[int, int], bytes]


def leaf_hash(entry: bytes) -> bytes:
    """Return SHA-256(0x00 || entry), RFC 6962 section 2.1."""
    return hashlib.sha256(b"\0" + entry).digest()


def leaf_hashes(entries: Iterable[bytes]) -> list[bytes]:
    """Return the leaf hash of each entry."""
    sha256 = hashlib.sha256
    return [sha256(b"\0" + entry).digest() for entry in entries]


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 || left || right), RFC 6962 section 2.1."""
    return hashlib.sha256(b"\1" + left + right).digest()


def perfect_root(hashes: Sequence[bytes]) -> bytes:
    """Return the root over 2**k hashes."""
    nodes, new = list(hashes), _NODE.copy
    add, pending = nodes.append, iter(nodes)
    for left, right in zip(pending, pending, strict=False):  # each adds its parent
        hasher = new()
        hasher.update(left)
        hasher.update(right)
        add(hasher.digest())
    return nodes[-1]


def root_hash(size: int, node: Node) -> bytes:
    """Return the root of the first `size` leaves; O(log size) node look-ups."""
    if size == 0:
        return hashlib.sha256(b"").digest()
    return _range_root(0, size, node)


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """Return the audit path of one leaf, sibling first (RFC 6962 section 2.1.1)."""
    if not 0 <= index < size:
        raise InvalidProof(f"expected an index below the size {size}, got {index}")
    path: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(_range_root(middle, high, node))
            high = middle
        else:
            path.append(_range_root(low, middle, node))
            low = middle
    path.reverse()
    return path


def consistency_proof(old: int, new: int, node: Node) -> list[bytes]:
    """Return the proof that the first `old` leaves stayed (section 2.1.2)."""
    if not 0 <= old <= new:
        raise InvalidProof(f"expected sizes that grow, got {old} and {new}")
    if old in {0, new}:
        return []
    proof: list[bytes] = []
    low, high, whole = 0, new, True
    while old != high:
        middle = low + _split(high - low)
        if old <= middle:
            proof.append(_range_root(middle, high, node))
            high = middle
        else:
            proof.append(_range_root(low, middle, node))
            low, whole = middle, False
    if not whole:
        proof.append(_range_root(low, high, node))
    proof.reverse()
    return proof


def verify_inclusion(
    leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes
) -> None:
    """Check that `leaf` is number `index` (from 0) of the tree with this root.

    Raises:
        InvalidProof: it is not, or the proof has the wrong length.
    """
    if not 0 <= index < size:
        raise InvalidProof(f"expected an index below the size {size}, got {index}")
    inner = (index ^ (size - 1)).bit_length()
    border = (index >> inner).bit_count()
    _check_proof(proof, inner + border)
    _check_proof([leaf, root], 2)
    found = leaf
    for height, sibling in enumerate(proof[:inner]):
        if (index >> height) & 1:
            found = node_hash(sibling, found)
        else:
            found = node_hash(found, sibling)
    for sibling in proof[inner:]:
        found = node_hash(sibling, found)
    if found != root:
        raise InvalidProof("the entry and its path do not lead to this root")


def verify_consistency(
    old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the tree of size `new` extends the tree of size `old`.

    Raises:
        InvalidProof: it does not, or the proof has the wrong length.
    """
    if not 0 <= old <= new:
        raise InvalidProof(f"expected sizes that grow, got {old} and {new}")
    if old == new:
        _check_proof(proof, 0)
        if old_root != new_root:
            raise InvalidProof("two roots for one size: the log has been forked")
        if old == 0 and old_root != hashlib.sha256(b"").digest():
            raise InvalidProof("this is not the root of the empty tree")
        return
    if old == 0:
        raise InvalidProof("every tree extends the empty one: nothing is proven")
    shift = (old & -old).bit_length() - 1
    inner = ((old - 1) ^ (new - 1)).bit_length() - shift
    border = ((old - 1) >> (inner + shift)).bit_count()
    start = 0 if old == 1 << shift else 1
    _check_proof(proof, start + inner + border)
    seed = old_root if start == 0 else proof[0]
    path = proof[start:]
    mask = (old - 1) >> shift
    first = second = seed
    for height, sibling in enumerate(path[:inner]):
        if (mask >> height) & 1:
            first = node_hash(sibling, first)
            second = node_hash(sibling, second)
        else:
            second = node_hash(second, sibling)
    for sibling in path[inner:]:
        first = node_hash(sibling, first)
        second = node_hash(sibling, second)
    if first != old_root:
        raise InvalidProof("the proof does not lead to the older root")
    if second != new_root:
        raise InvalidProof("the proof does not lead to the newer root")


def _check_proof(proof: Sequence[bytes], length: int) -> None:
    if len(proof) != length:
        raise InvalidProof(f"expected a proof of {length} hashes, got {len(proof)}")
    for step in proof:
        if len(step) != HASH_BYTES:
            raise InvalidProof(f"expected hashes of 32 bytes, got one of {len(step)}")


def _split(count: int) -> int:
    """Return the largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def _range_root(low: int, high: int, node: Node) -> bytes:
    count = high - low
    if count & (count - 1) == 0:
        height = count.bit_length() - 1
        return node(height, low >> height)
    middle = low + _split(count)
    return node_hash(_range_root(low, middle, node), _range_root(middle, high, node))


@final
class GrowingTree:
    """The root over a growing number of leaves, in little memory.

    Leaves go into `partial`; at `1 << height` of them comes `fold`.
    """

    def __init__(self, height: int) -> None:
        self._height = height
        self.size = 0
        self.partial: list[bytes] = []
        self._peaks: list[tuple[int, bytes]] = []

    def fold(self) -> None:
        """Turn a full `partial` into one peak."""
        height, root = self._height, perfect_root(self.partial)
        self.size += 1 << self._height
        self.partial.clear()
        while self._peaks and self._peaks[-1][0] == height:
            root = node_hash(self._peaks.pop()[1], root)
            height += 1
        self._peaks.append((height, root))

    def root(self) -> bytes:
        """Return the root over everything so far."""
        peaks = [root for _, root in self._peaks]
        rest = self.partial
        while rest:
            take = 1 << (len(rest).bit_length() - 1)
            peaks.append(perfect_root(rest[:take]))
            rest = rest[take:]
        if not peaks:
            return hashlib.sha256(b"").digest()
        root = peaks.pop()
        while peaks:
            root = node_hash(peaks.pop(), root)
        return root
