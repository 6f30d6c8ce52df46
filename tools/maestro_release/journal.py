"""What releases of this checkout began and ended: .maestro/journal.jsonl.

Each line is on disk before the next step begins. A release that began and did
not end is half done: the next `publish` finishes it, `delete --half-done` takes
it back. The index stays the truth about what is published; the journal says
what was meant.
"""

import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maestro_index.files import sync_folder

NAME = "journal.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfDone:
    """A release that began and did not end."""

    id: str
    index: str  # its URL
    began: str
    versions: tuple[tuple[str, str], ...]  # package and version
    files: tuple[str, ...]  # the files that it meant to upload
    uploaded: tuple[str, ...] = ()  # those whose upload was acknowledged


class Journal:
    """Append-only notes; a torn last line, left by a crash, is ignored."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME

    def begin(self, index: str, files: list[dict[str, str]]) -> str:
        """Note what is about to be uploaded; return the release's id."""
        release = uuid.uuid4().hex
        self._append("begin", release, {"index": index, "files": files})
        return release

    def note(self, release: str, event: str, **more: Any) -> None:
        """Note one step of a release."""
        self._append(event, release, more)

    def end(self, release: str) -> None:
        """Note that a release is complete, or taken back."""
        self._append("end", release, {})

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield every note that is whole."""
        try:
            text = self._path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        for line in text.split("\n"):  # splitlines cuts at U+2028 too
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                yield found

    def half_done(self, index: str) -> tuple[HalfDone, ...]:
        """Return the releases to this index that began and did not end."""
        began: dict[str, dict[str, Any]] = {}
        uploaded: dict[str, list[str]] = {}
        for line in self.lines():
            if line.get("event") == "begin":
                began[line["release"]] = line
            elif line.get("event") == "file":
                uploaded.setdefault(line["release"], []).append(line["filename"])
            elif line.get("event") == "end":
                began.pop(line["release"], None)
        return tuple(
            HalfDone(
                id=line["release"],
                index=line["index"],
                began=line["at"],
                versions=tuple(
                    dict.fromkeys((f["package"], f["version"]) for f in line["files"])
                ),
                files=tuple(f["filename"] for f in line["files"]),
                uploaded=tuple(uploaded.get(line["release"], ())),
            )
            for line in began.values()
            if line["index"] == index
        )

    def _append(self, event: str, release: str, more: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"v": 1, "at": now, "event": event, "release": release, **more}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not self._path.exists()
        with self._path.open("ab+") as file:
            torn = file.tell() > 0 and not ends_line(self._path)
            text = json.dumps(line, ensure_ascii=False) + "\n"
            file.write(b"\n" * torn + text.encode())
            file.flush()
            os.fsync(file.fileno())
        if fresh:  # its name, too, or a power cut takes it all
            sync_folder(self._path.parent)


def ends_line(path: Path) -> bool:
    """Tell whether the last byte of a file ends a line."""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
