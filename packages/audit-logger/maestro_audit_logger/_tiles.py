"""The Merkle tree on disk, in the layout of C2SP tlog-tiles.

A tile holds up to 256 hashes: level 0 those of lines, level n the roots of
full tiles below. A partial tile carries its width, `.p/17`, and goes away when
it grows. Tiles can be made again from the segments, until those are pruned.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import final

from maestro_audit_logger._files import Files
from maestro_audit_logger._merkle import HASH_BYTES, perfect_root, root_hash
from maestro_audit_logger.errors import LogDamaged

TILE_HEIGHT = 8
TILE_WIDTH = 1 << TILE_HEIGHT


def tile_path(folder: Path, level: int, index: int, width: int = TILE_WIDTH) -> Path:
    """Return the path of a tile: `tile/0/x001/234`, partial ones below `.p`."""
    return folder / tile_name(level, index, width)


def tile_name(level: int, index: int, width: int = TILE_WIDTH) -> str:
    """Return the name of a tile below the log's folder."""
    name = f"{index % 1000:03d}"
    while index >= 1000:
        index //= 1000
        name = f"x{index % 1000:03d}/{name}"
    partial = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{level}/{name}{partial}"


@final
class Tiles:
    """Read the hashes of a tree of one size.

    Args:
        folder: the log's folder.
        size: how many leaves the tree has.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        self._kept: dict[tuple[int, int], bytes] = {}

    def root(self) -> bytes:
        """Return the root of the tree."""
        return root_hash(self.size, self.node)

    def node(self, height: int, index: int) -> bytes:
        """Return the hash of a perfect subtree."""
        level, inside = divmod(height, TILE_HEIGHT)
        first = index << inside
        tile = self.tile(level, first // TILE_WIDTH)
        at = (first % TILE_WIDTH) * HASH_BYTES
        count = 1 << inside
        hashes = tile[at : at + count * HASH_BYTES]
        if len(hashes) != count * HASH_BYTES:
            raise LogDamaged(
                str(self.folder), f"tile {level}/{first // TILE_WIDTH} is too short"
            )
        return perfect_root(_split(hashes))

    def leaves(self, first: int, last: int) -> list[bytes]:
        """Return the leaf hashes from index `first` up to, not with, `last`."""
        found: list[bytes] = []
        for index in range(first // TILE_WIDTH, -(-last // TILE_WIDTH)):
            hashes = _split(self.tile(0, index))
            base = index * TILE_WIDTH
            found += hashes[max(0, first - base) : last - base]
        return found

    def tile(self, level: int, index: int) -> bytes:
        """Return a tile's bytes, cut to this tree's size."""
        kept = self._kept.get((level, index))
        if kept is not None:
            return kept
        width = min(
            TILE_WIDTH, (self.size >> (TILE_HEIGHT * level)) - index * TILE_WIDTH
        )
        data = self._read(level, index, width)
        if len(self._kept) > 64:
            self._kept.clear()
        self._kept[level, index] = data
        return data

    def _read(self, level: int, index: int, width: int) -> bytes:
        whole = tile_path(self.folder, level, index)
        if whole.is_file():
            return whole.read_bytes()[: width * HASH_BYTES]
        partial = tile_path(self.folder, level, index, width)
        widths = [partial, *sorted(partial.parent.glob("[0-9]*"))]
        for path in widths:
            if path.name.isdigit() and int(path.name) >= width and path.is_file():
                return path.read_bytes()[: width * HASH_BYTES]
        raise LogDamaged(str(whole), f"the tile is missing (level {level}, {index})")


@final
class TileWriter:
    """Grow the tree on disk.

    Args:
        folder: the log's folder.
        size: how many leaves the tiles on disk are known to hold.
        files: the file operations.
    """

    def __init__(self, folder: Path, size: int, files: Files) -> None:
        self._folder = folder
        self._files = files
        self._partial: list[bytearray] = []
        self.size = size
        self.pruned = 0  # so many lines exist only here: their hashes are synced
        tiles = Tiles(folder, size)
        level, count = 0, size
        while count:
            width = count % TILE_WIDTH
            data = tiles.tile(level, count // TILE_WIDTH) if width else b""
            if len(data) != width * HASH_BYTES:
                raise LogDamaged(
                    str(folder), f"the last tile of level {level} is short"
                )
            self._partial.append(bytearray(data))
            count //= TILE_WIDTH
            level += 1

    def extend(self, leaves: Sequence[bytes]) -> None:
        """Add leaf hashes; full tiles are written at once, partial ones by `flush`."""
        at = 0
        while at < len(leaves):
            room = TILE_WIDTH - self.size % TILE_WIDTH
            some = leaves[at : at + room]
            self._push(0, b"".join(some))
            self.size += len(some)
            at += len(some)

    def flush(self) -> None:
        """Write the partial tiles of the present size."""
        for level, data in enumerate(self._partial):
            width = len(data) // HASH_BYTES
            index = self.size >> (TILE_HEIGHT * (level + 1))
            if not width:
                continue
            path = tile_path(self._folder, level, index, width)
            self._put(path, bytes(data), level, index)
            # Tiles of a future that was taken back must not be read for this one.
            tile_path(self._folder, level, index).unlink(missing_ok=True)
            for other in path.parent.iterdir():
                if other.name.isdigit() and int(other.name) != width:
                    other.unlink(missing_ok=True)

    def root(self) -> bytes:
        """Return the root over everything added; `flush` comes first."""
        return Tiles(self._folder, self.size).root()

    def _push(self, level: int, hashes: bytes) -> None:
        """Add hashes to the last tile of a level, of which they fill at most the rest."""
        if level == len(self._partial):
            self._partial.append(bytearray())
        data = self._partial[level]
        data += hashes
        if len(data) < TILE_WIDTH * HASH_BYTES:
            return
        # At level 0 the size is not counted up yet, above it is the same tile.
        index = self.size >> (TILE_HEIGHT * (level + 1))
        path = tile_path(self._folder, level, index)
        self._put(path, bytes(data), level, index)
        shutil.rmtree(path.with_name(path.name + ".p"), ignore_errors=True)
        root = perfect_root(_split(bytes(data)))
        self._partial[level] = bytearray()
        self._push(level + 1, root)

    def _put(self, path: Path, data: bytes, level: int, index: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        irreplaceable = level == 0 and index * TILE_WIDTH < self.pruned
        self._files.replace(path, data, durable=irreplaceable)
        if irreplaceable:
            self._files.sync_folder(path.parent.parent)


def _split(data: bytes) -> list[bytes]:
    return [data[at : at + HASH_BYTES] for at in range(0, len(data), HASH_BYTES)]
