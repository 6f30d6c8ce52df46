"""Publish what the log looks like now: tiles, root, signed note, history."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import final

from maestro_audit_logger._files import Files
from maestro_audit_logger._merkle import leaf_hashes
from maestro_audit_logger._note import (
    Checkpoint,
    Note,
    Signature,
    parse_checkpoint,
    parse_note,
)
from maestro_audit_logger._segments import list_segments
from maestro_audit_logger._signers import Signer
from maestro_audit_logger._store import Store
from maestro_audit_logger._tiles import TILE_WIDTH, Tiles, TileWriter
from maestro_audit_logger.errors import InvalidNote, LogDamaged

LATEST = "checkpoint"
HISTORY = "checkpoints"
_log = logging.getLogger(__name__)


def latest_note(folder: Path) -> str | None:
    """Return the text of the newest checkpoint's note, None before the first."""
    try:
        return (folder / LATEST).read_text("utf-8")
    except FileNotFoundError:
        return None


def history(folder: Path) -> Iterator[tuple[int, str | None]]:
    """Yield line number and note of each checkpoint; None for an unreadable line."""
    try:
        raw = (folder / HISTORY).read_bytes()
    except FileNotFoundError:
        return
    for number, line in enumerate(raw.split(b"\n")[:-1], 1):
        try:
            yield number, str(json.loads(line)["note"])
        except (ValueError, KeyError, TypeError):
            yield number, None


@final
class Checkpointer:
    """Make checkpoints. The caller keeps other threads from the store.

    Args:
        store: the writing end of the log.
        signer: who signs; None leaves checkpoints unsigned.
        files: the file operations.
        now: the present time as text.
        hooks: called with each new note, to carry it off this machine.
        durable: sync the checkpoint files themselves.
    """

    def __init__(
        self,
        store: Store,
        *,
        signer: Signer | None,
        files: Files,
        now: Callable[[], str],
        hooks: Sequence[Callable[[str], object]],
        durable: bool,
    ) -> None:
        self._store = store
        self._signer = signer
        self._files = files
        self._now = now
        self._hooks = hooks
        self._durable = durable
        self._tiles: TileWriter | None = None
        self._place = (0, 0, 0)  # first line of a segment, lines read, offset

    def run(self) -> str:
        """Publish a checkpoint over everything stored; return its note.

        A log that has not grown keeps its checkpoint.
        """
        with self._store.lock.held():
            size = self._store.refresh()
            folder = self._store.folder
            note, signatures = self._previous(folder)
            if (
                note is not None
                and parse_checkpoint(parse_note(note).text).size == size
            ):
                return note
            # A checkpoint over lines that a power cut takes back would look
            # like tampering.
            self._store.sync()
            root = self._grow(size)
            text = Checkpoint(self._store.identity.origin, size, root).text
            note = self._publish(folder, text, signatures)
        for hook in self._hooks:
            try:
                hook(note)
            except Exception:  # a deaf witness must not stop the log
                _log.exception("the checkpoint hook %r failed", hook)
        return note

    def _publish(self, folder: Path, text: str, previous: tuple[Signature, ...]) -> str:
        signer = self._signer
        signatures: tuple[Signature, ...] = ()
        if signer is not None:
            mine = [
                s
                for s in previous
                if (s.name, s.key_id) == (signer.name, signer.key_id)
            ]
            for old in mine:
                signer.retire(old.value)
            value = signer.sign(text.encode())
            signatures = (Signature(signer.name, signer.key_id, value),)
        note = str(Note(text, signatures))
        self._append_history(folder, note)
        if signer is not None:
            signer.retire(signatures[0].value)
        self._files.replace(folder / LATEST, note.encode(), durable=self._durable)
        return note

    def _append_history(self, folder: Path, note: str) -> None:
        line = json.dumps({"time": self._now(), "note": note}).encode() + b"\n"
        fd = self._files.open_append(folder / HISTORY)
        try:
            end = os.fstat(fd).st_size
            if end and os.pread(fd, 1, end - 1) != b"\n":
                line = b"\n" + line
            self._files.write_all(fd, line)
            if self._durable:
                self._files.sync(fd)
        finally:
            os.close(fd)

    def _previous(self, folder: Path) -> tuple[str | None, tuple[Signature, ...]]:
        """Return the newest note and its signatures, from the history."""
        newest = _newest_note(folder)
        if newest is None:
            return None, ()
        try:
            return newest, parse_note(newest).signatures
        except InvalidNote:
            return None, ()

    def _grow(self, size: int) -> bytes:
        try:
            return self._extend(size, self._tiles_now())
        except (LogDamaged, InvalidNote):
            # Tiles are not synced one by one; after a power cut they are made
            # again from the segments.
            return self._extend(size, self._made_again())

    def _made_again(self) -> TileWriter:
        """Return new tiles, over what the oldest segments left behind when pruned.

        The hashes of pruned lines are in the lowest tiles only. They count when
        they lead to the root of the newest checkpoint.
        """
        folder = self._store.folder
        self._place = (0, 0, 0)
        tiles = TileWriter(folder, 0, self._files)
        tiles.pruned = pruned = list_segments(folder)[0].first - 1
        if not pruned:
            return tiles
        note, _ = self._previous(folder)
        newest = parse_checkpoint(parse_note(note).text) if note else None
        if newest is None or newest.size < pruned:
            raise LogDamaged(str(folder), "no checkpoint covers the pruned lines")
        kept = Tiles(folder, newest.size)
        for start in range(0, pruned, TILE_WIDTH):
            tiles.extend(kept.leaves(start, min(start + TILE_WIDTH, pruned)))
        if self._extend(newest.size, tiles) != newest.root:
            raise LogDamaged(
                str(folder), "the hashes of pruned lines do not fit the checkpoint"
            )
        return tiles

    def _tiles_now(self) -> TileWriter:
        note = latest_note(self._store.folder)
        on_disk = parse_checkpoint(parse_note(note).text).size if note else 0
        tiles = self._tiles
        if tiles is None or tiles.size != on_disk:
            tiles = TileWriter(self._store.folder, on_disk, self._files)
        return tiles

    def _extend(self, size: int, tiles: TileWriter) -> bytes:
        self._tiles = None  # half-grown tiles are not kept after an error
        tiles.pruned = list_segments(self._store.folder)[0].first - 1
        known = self._store.leaves(tiles.size) if size == self._store.seq else None
        for leaves in [known] if known else self._leaves(tiles.size, size):
            tiles.extend(leaves)
        if tiles.size != size:
            raise LogDamaged(
                str(self._store.folder),
                f"expected {size} lines, found {tiles.size}",
            )
        tiles.flush()
        root = tiles.root()
        self._tiles = tiles
        return root

    def _leaves(self, done: int, size: int) -> Iterator[list[bytes]]:
        """Yield the leaf hashes of lines done+1 to size, a segment's at a time."""
        for segment in list_segments(self._store.folder):
            following = segment.first
            if self._place[0] > segment.first or done >= size:
                continue
            data_from = 0
            if self._place[0] == segment.first and self._place[1] <= done:
                following, data_from = self._place[1] + 1, self._place[2]
            data = (
                segment.read()
                if segment.packed
                else _read_from(segment.path, data_from)
            )
            lines = data.split(b"\n")
            rest = lines.pop()
            fresh = lines[max(0, done + 1 - following) : size + 1 - following]
            yield leaf_hashes(fresh)
            done += len(fresh)
            following += len(lines)
            if not segment.packed:
                end = data_from + len(data) - len(rest)
                self._place = (segment.first, following - 1, end)


def _newest_note(folder: Path, limit: int = 1 << 16) -> str | None:
    """Return the last readable note of the history, without reading all of it."""
    path = folder / HISTORY
    try:
        end = path.stat().st_size
    except FileNotFoundError:
        return None
    for line in reversed(_read_from(path, max(0, end - limit)).split(b"\n")[:-1]):
        try:
            return str(json.loads(line)["note"])
        except (ValueError, KeyError, TypeError):
            continue  # torn by a crash
    return None


def _read_from(path: Path, offset: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read()
