"""The hosted repository on disk.

packages/<name>/<version>/<file>        the bytes
packages/<name>/<version>/<file>.json   the record; its rename is the commit
tmp/                                    uploads on their way

A file counts from the moment its record has its name, and an upload is
acknowledged after that rename is on disk. A kill before it leaves bytes
without a record; the next start removes them.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from email.parser import BytesParser
from pathlib import Path
from typing import IO, Any, cast

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from maestro_index.errors import ControlFault, Refused
from maestro_index.files import sync_folder

METADATA_LIMIT = 4 * 1024 * 1024  # bytes; the largest real METADATA is under 1 MB


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """One published file, as the pages and the REST API show it."""

    name: str  # normalised project name (PEP 503)
    version: str
    filename: str
    size: int
    sha256: str
    sha1: str
    md5: str
    requires_python: str | None
    metadata_sha256: str | None  # of METADATA, wheels only (PEP 658)
    uploaded: str  # RFC 3339, UTC
    uploader: str
    yanked: str | None = None  # the reason; an empty string is a yank without one

    @property
    def path(self) -> str:
        """Where the file stands below a repository, as in Nexus."""
        return f"packages/{self.name}/{self.version}/{self.filename}"


class Incoming:
    """An upload on its way: bytes go to a temporary file and three hashes."""

    def __init__(self, folder: Path) -> None:
        """Open a temporary file in `folder`, on the same file system."""
        descriptor, name = tempfile.mkstemp(dir=folder, prefix="upload-")
        self.path = Path(name)
        self.size = 0
        self._file = os.fdopen(descriptor, "wb")
        self._hashes = {
            kind: hashlib.new(kind, usedforsecurity=False)
            for kind in ("sha256", "sha1", "md5")
        }

    def write(self, block: bytes) -> None:
        """Add a block of bytes."""
        self._file.write(block)
        self.size += len(block)
        for digest in self._hashes.values():
            digest.update(block)

    def finish(self) -> dict[str, str]:
        """Put the bytes on disk and return the hashes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return {kind: digest.hexdigest() for kind, digest in self._hashes.items()}

    def discard(self) -> None:
        """Close and remove the temporary file if it is still there."""
        self._file.close()
        self.path.unlink(missing_ok=True)


class HostedStore:
    """The files of the hosted repository; thread-safe, one process a folder."""

    def __init__(self, folder: Path) -> None:
        """Open `folder`, remove what a kill left behind, read the records."""
        self.folder = folder
        self.tmp = folder / "tmp"
        self.tmp.mkdir(parents=True, exist_ok=True)
        (folder / "packages").mkdir(exist_ok=True)
        self._owner = (folder / "owner.lock").open("a+b")
        try:
            fcntl.flock(self._owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._owner.close()
            raise ControlFault(
                f"another index already serves {folder}: stop it first, or choose "
                "another folder with --folder"
            ) from None
        # Guards _projects and every change on disk below packages/.
        self._lock = threading.Lock()
        self._projects: dict[str, dict[str, FileRecord]] = {}
        self._recover()

    def close(self) -> None:
        """Let another process open the folder."""
        self._owner.close()

    def projects(self) -> list[str]:
        """Return the names of all projects, sorted."""
        with self._lock:
            return sorted(self._projects)

    def files(self, name: str) -> list[FileRecord]:
        """Return the files of one project, oldest version first."""
        with self._lock:
            found = list(self._projects.get(canonicalize_name(name), {}).values())
        return sorted(found, key=lambda r: (Version(r.version), r.filename))

    def find(self, name: str, filename: str) -> FileRecord | None:
        """Return one file's record, or None."""
        with self._lock:
            return self._projects.get(canonicalize_name(name), {}).get(filename)

    def disk_path(self, record: FileRecord) -> Path:
        """Return where the bytes of a record are."""
        return self.folder / record.path

    def incoming(self) -> Incoming:
        """Start an upload."""
        return Incoming(self.tmp)

    def commit(
        self, incoming: Incoming, filename: str, claims: dict[str, str], uploader: str
    ) -> FileRecord:
        """Publish an upload; it is on disk when this returns.

        Args:
            incoming: the bytes.
            filename: as the client names it.
            claims: the form fields; name, version and digests must be true.
            uploader: who sent it.

        Raises:
            Refused: 400 for anything untrue, unreadable or already there.
        """
        hashes = incoming.finish()
        name, version = parse_filename(filename)
        metadata = read_metadata(incoming.path, filename)
        check_claims(claims, hashes, name, version, metadata)
        record = FileRecord(
            name=name,
            version=version,
            filename=filename,
            size=incoming.size,
            **hashes,
            requires_python=_header(metadata, "Requires-Python"),
            metadata_sha256=(
                hashlib.sha256(metadata).hexdigest()
                if filename.endswith(".whl")
                else None
            ),
            uploaded=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            uploader=uploader,
        )
        with self._lock:
            if filename in self._projects.get(name, {}):
                raise Refused(400, f"pypi-hosted/{record.path} cannot be updated")
            target = self.disk_path(record)
            make_folders(target.parent, self.folder)
            if record.metadata_sha256:
                write_durably(metadata_path(target), metadata, self.tmp)
            incoming.path.replace(target)
            self._write_record(record)
            self._projects.setdefault(name, {})[filename] = record
        return record

    def yank(self, name: str, version: str, reason: str | None) -> list[FileRecord]:
        """Mark a version as yanked (PEP 592), or take that back with None."""
        with self._lock:
            changed = [
                replace(record, yanked=reason)
                for record in self._projects.get(canonicalize_name(name), {}).values()
                if record.version == version
            ]
            for record in changed:
                self._write_record(record)
                self._projects[record.name][record.filename] = record
        return changed

    def delete(self, name: str, version: str) -> list[FileRecord]:
        """Remove every file of a version; the records go first."""
        with self._lock:
            files = self._projects.get(canonicalize_name(name), {})
            gone = [record for record in files.values() if record.version == version]
            for record in gone:
                target = self.disk_path(record)
                record_path(target).unlink(missing_ok=True)
                sync_folder(target.parent)
                target.unlink(missing_ok=True)
                metadata_path(target).unlink(missing_ok=True)
                del files[record.filename]
            if gone and not files:
                del self._projects[gone[0].name]
        return gone

    def _write_record(self, record: FileRecord) -> None:
        text = json.dumps({"v": 1} | asdict(record), indent=1)
        write_durably(record_path(self.disk_path(record)), text.encode(), self.tmp)

    def _recover(self) -> None:
        for path in self.tmp.iterdir():
            path.unlink()
        for path in sorted((self.folder / "packages").glob("*/*/*")):
            if path.name.endswith((".whl.json", ".tar.gz.json")):
                self._recover_record(path)
        known = {
            self.disk_path(record)
            for files in self._projects.values()
            for record in files.values()
        }
        for path in (self.folder / "packages").glob("*/*/*"):
            if path.name.endswith((".whl", ".tar.gz")) and path not in known:
                path.unlink()  # bytes that were never acknowledged

    def _recover_record(self, path: Path) -> None:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        fields.pop("v", None)
        record = FileRecord(**fields)
        if self.disk_path(record).exists():
            self._projects.setdefault(record.name, {})[record.filename] = record
        else:
            path.unlink()  # a delete that was killed half-way


def parse_filename(filename: str) -> tuple[str, str]:
    """Return the normalised name and the version that a file name claims.

    Raises:
        Refused: 400 when it is no name of a wheel or of a .tar.gz sdist.
    """
    try:
        if filename.endswith(".whl"):
            name, version, _, _ = parse_wheel_filename(filename)
        elif filename.endswith(".tar.gz"):
            name, version = parse_sdist_filename(filename)
        else:
            raise Refused(
                400, f"{filename!r} is neither a wheel (.whl) nor an sdist (.tar.gz)"
            )
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion) as error:
        raise Refused(400, f"{filename!r} is not a valid file name: {error}") from error
    if "/" in filename or "\\" in filename:
        raise Refused(400, f"{filename!r} is not a plain file name")
    return str(name), str(version)


def read_metadata(path: Path, filename: str) -> bytes:
    """Return METADATA of a wheel or PKG-INFO of an sdist.

    Raises:
        Refused: 400 when the archive is broken or has none.
    """
    try:
        found = (
            read_wheel_metadata(path)
            if filename.endswith(".whl")
            else _sdist_metadata(path)
        )
    except (zipfile.BadZipFile, tarfile.TarError, OSError, EOFError) as error:
        raise Refused(400, f"{filename} cannot be read: {error}") from error
    if found is None:
        raise Refused(400, f"{filename} holds no metadata of at most 4 MB")
    return found


def read_wheel_metadata(wheel: Path | io.RawIOBase) -> bytes | None:
    """Return METADATA of a wheel, None where it has none of a sane size."""
    # ZipFile reads and seeks only, which is more than its annotation asks for.
    with zipfile.ZipFile(cast("IO[bytes]", wheel)) as archive:
        for info in archive.infolist():
            folder, _, last = info.filename.partition("/")
            if folder.endswith(".dist-info") and last == "METADATA":
                return archive.read(info) if info.file_size <= METADATA_LIMIT else None
    return None


def _sdist_metadata(path: Path) -> bytes | None:
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if member.name.count("/") == 1 and member.name.endswith("/PKG-INFO"):
                stream = archive.extractfile(member)
                if stream is None or member.size > METADATA_LIMIT:
                    return None
                return stream.read()
    return None


def check_claims(
    claims: dict[str, str],
    hashes: dict[str, str],
    name: str,
    version: str,
    metadata: bytes,
) -> None:
    """Compare what the form says with what the file says.

    Raises:
        Refused: 400 naming the first thing that is not true.
    """
    for kind in ("sha256", "md5"):
        claim = claims.get(f"{kind}_digest")
        if claim and claim.lower() != hashes[kind]:
            raise Refused(
                400, f"{kind}_digest says {claim}, the file's is {hashes[kind]}"
            )
    inside_name = canonicalize_name(_header(metadata, "Name") or "")
    inside_version = _header(metadata, "Version") or ""
    for what, claim, true in (
        ("name in the form", canonicalize_name(claims.get("name", name)), name),
        ("name in the metadata", inside_name, name),
        ("version in the form", _normal(claims.get("version", version)), version),
        ("version in the metadata", _normal(inside_version), version),
    ):
        if claim != true:
            raise Refused(400, f"{what} is {claim!r}, the file name says {true!r}")


def _normal(version: str) -> str:
    try:
        return str(Version(version))
    except InvalidVersion:
        return version


def _header(metadata: bytes, key: str) -> str | None:
    value = BytesParser().parsebytes(metadata, headersonly=True).get(key)
    return None if value is None else str(value)


def record_path(target: Path) -> Path:
    """Return where the record of a file is."""
    return target.with_name(f"{target.name}.json")


def metadata_path(target: Path) -> Path:
    """Return where the metadata of a wheel is."""
    return target.with_name(f"{target.name}.metadata")


def write_durably(target: Path, content: bytes, tmp: Path) -> None:
    """Write a file so that it is there whole or not at all."""
    descriptor, name = tempfile.mkstemp(dir=tmp, prefix="record-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
    sync_folder(target.parent)


def make_folders(folder: Path, root: Path) -> None:
    """Create folders and put their names on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    while folder != root:
        folder = folder.parent
        sync_folder(folder)


def versions(records: Iterable[FileRecord]) -> Iterator[str]:
    """Yield each version once, oldest first."""
    yield from sorted({record.version for record in records}, key=Version)
