"""The proxy repository: pages and files of the index that pip is set up for.

The address, its certificate and local `find-links` folders come from pip's
configuration at run time, so no address stands here. Pages are kept for ten
minutes and served stale when the upstream is away; files are kept for good
once their hash has been checked. The metadata of a wheel (PEP 658) is kept too,
and where the upstream has none, it is read out of the wheel: an installer that
looks at twenty candidates then asks this machine and not the upstream.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import requests
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion
from pypi_simple import ACCEPT_ANY, ProjectPage

from maestro_index._remote import RemoteFile
from maestro_index._store import read_metadata, read_wheel_metadata
from maestro_index.errors import Refused, UpstreamFault

PAGE_AGE = 600.0  # seconds a page is believed
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two reads
BLOCK = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamFile:
    """One file that the upstream offers."""

    filename: str
    version: str
    url: str  # http(s), or file for find-links
    sha256: str | None
    requires_python: str | None
    has_metadata: bool
    metadata_sha256: str | None
    yanked: str | None
    size: int | None
    uploaded: str | None

    @property
    def offers_metadata(self) -> bool:
        """Whether `Upstream.metadata` answers for this file."""
        wheel = self.filename.endswith(".whl") and self.sha256 is not None
        return self.has_metadata or wheel


@dataclass(frozen=True, slots=True)
class PipSettings:
    """What pip's configuration says about where packages come from."""

    index_url: str
    cert: str | None
    find_links: tuple[str, ...]


def pip_settings() -> PipSettings:
    """Read pip's merged configuration: files, then environment."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    found: dict[str, str] = {}
    for section in ("global", "install", ":env:"):  # a later one wins, as in pip
        for line in done.stdout.splitlines():
            key, _, value = line.partition("=")
            if key.startswith(f"{section}."):
                found[key.removeprefix(f"{section}.")] = value.strip("'\"")
    return PipSettings(
        index_url=(found.get("index-url") or _built_in_index()).rstrip("/"),
        cert=found.get("cert"),
        find_links=tuple(found.get("find-links", "").replace("\\n", " ").split()),
    )


def _built_in_index() -> str:
    # pip knows its default only in a private module; a test guards this line.
    from pip._internal.models.index import PyPI

    return str(PyPI.simple_url)


class _NoRanges(Exception):
    """The upstream sends whole files only."""


class Upstream:
    """The index behind the proxy; thread-safe."""

    def __init__(self, folder: Path, settings: PipSettings | None = None) -> None:
        """Keep pages and files below `folder`; read pip's settings on first use."""
        self._pages = folder / "pages"
        self._files = folder / "files"
        self._metadata = folder / "metadata"
        for place in (self._pages, self._files, self._metadata):
            place.mkdir(parents=True, exist_ok=True)
        self._settings = settings
        self._setup = threading.Lock()
        self._local = threading.local()
        self._seen: dict[str, tuple[float, list[UpstreamFile]]] = {}

    @property
    def settings(self) -> PipSettings:
        """Return pip's settings, read once."""
        with self._setup:
            if self._settings is None:
                self._settings = pip_settings()
            return self._settings

    def files(self, name: str) -> list[UpstreamFile]:
        """Return what the upstream and the find-links folders have of a project.

        Raises:
            UpstreamFault: the upstream is away and no earlier page is kept.
        """
        name = canonicalize_name(name)
        kept = self._seen.get(name)
        if kept and time.monotonic() - kept[0] < PAGE_AGE:
            return kept[1]
        local = self._local_files(name)
        try:
            found = self._fetch_page(name)
        except UpstreamFault:
            stale = self._read_page(name)
            if stale is None and not local:
                raise
            found = stale or []
        else:
            self._write_page(name, found)
        have = {file.filename for file in found}
        found = found + [file for file in local if file.filename not in have]
        self._seen[name] = (time.monotonic(), found)
        return found

    def find(self, name: str, filename: str) -> UpstreamFile | None:
        """Return one file of a project, or None."""
        for file in self.files(name):
            if file.filename == filename:
                return file
        return None

    def cached(self, file: UpstreamFile) -> Path | None:
        """Return the local copy of a file, or None."""
        if file.url.startswith("file:"):
            return Path(unquote(urlsplit(file.url).path))
        path = self._cache_path(file)
        return path if path is not None and path.exists() else None

    def request(
        self, method: str, url: str, headers: dict[str, str]
    ) -> requests.Response:
        """Send a request to the upstream and leave the body unread.

        Raises:
            UpstreamFault: no answer, or an error status.
        """
        try:
            response = self._session().request(
                method, url, headers=headers, stream=True, timeout=TIMEOUT
            )
        except requests.RequestException as error:
            raise UpstreamFault(
                f"the upstream index did not answer: {type(error).__name__}"
            ) from error
        if response.status_code >= requests.codes.bad_request:
            response.close()
            raise UpstreamFault(f"the upstream index answered {response.status_code}")
        return response

    def stream(
        self, file: UpstreamFile, response: requests.Response
    ) -> Iterator[bytes]:
        """Yield the bytes of a file and keep them when their hash is right."""
        target = self._cache_path(file)
        descriptor, name = tempfile.mkstemp(dir=self._files, prefix="partial-")
        digest = hashlib.sha256()
        try:
            with os.fdopen(descriptor, "wb") as copy, response:
                for block in response.iter_content(BLOCK):
                    copy.write(block)
                    digest.update(block)
                    yield block
            if target is not None and digest.hexdigest() == file.sha256:
                target.parent.mkdir(exist_ok=True)
                Path(name).replace(target)
        finally:
            Path(name).unlink(missing_ok=True)

    def metadata(self, file: UpstreamFile) -> bytes:
        """Return the METADATA of a wheel, fetched once.

        Raises:
            UpstreamFault: the upstream did not give it.
        """
        kept = self._metadata / file.sha256 if file.sha256 else None
        if kept is not None and kept.exists():
            return kept.read_bytes()
        content = self._fetch_metadata(file)
        if kept is not None:
            partial = self._metadata / f".{file.sha256}.{threading.get_ident()}"
            partial.write_bytes(content)
            partial.replace(kept)
        return content

    def _fetch_metadata(self, file: UpstreamFile) -> bytes:
        if file.has_metadata:
            with self.request("GET", f"{file.url}.metadata", {}) as response:
                return response.content
        try:
            path = self.cached(file)
            if path is None:
                found = self._remote_metadata(file)
                if found is not None:
                    return found
                path = self._fetch_file(file)
            return read_metadata(path, file.filename)
        except (Refused, zipfile.BadZipFile, OSError) as error:
            raise UpstreamFault(f"{file.filename} cannot be read: {error}") from error

    def _remote_metadata(self, file: UpstreamFile) -> bytes | None:
        """Read METADATA out of a wheel upstream; None where that needs all of it."""

        def fetch(wanted: str) -> tuple[bytes, int]:
            headers = {"Accept-Encoding": "identity", "Range": wanted}
            with self.request("GET", file.url, headers) as response:
                size = response.headers.get("Content-Range", "").rpartition("/")[2]
                if response.status_code != requests.codes.partial or not size.isdigit():
                    raise _NoRanges
                return response.content, int(size)

        try:
            return read_wheel_metadata(RemoteFile(fetch))
        except _NoRanges:
            return None

    def _fetch_file(self, file: UpstreamFile) -> Path:
        """Keep a whole file and return where it is."""
        headers = {"Accept-Encoding": "identity"}
        for _ in self.stream(file, self.request("GET", file.url, headers)):
            pass
        path = self.cached(file)
        if path is None:
            raise UpstreamFault(f"{file.filename} came with another hash than listed")
        return path

    def _cache_path(self, file: UpstreamFile) -> Path | None:
        # Without a hash nothing proves that the bytes are right: not kept.
        if file.sha256 is None:
            return None
        return self._files / file.sha256[:2] / file.sha256

    def _session(self) -> requests.Session:
        # A Session is not promised to be thread-safe, so each thread has its own.
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = requests.Session()
            if self.settings.cert:
                session.verify = self.settings.cert
            self._local.session = session
        return session

    def _fetch_page(self, name: str) -> list[UpstreamFile]:
        url = f"{self.settings.index_url}/{name}/"
        try:
            response = self._session().get(
                url, headers={"Accept": ACCEPT_ANY}, timeout=TIMEOUT
            )
        except requests.RequestException as error:
            raise UpstreamFault(
                f"the upstream index did not answer: {type(error).__name__}"
            ) from error
        if response.status_code == requests.codes.not_found:
            return []
        if response.status_code != requests.codes.ok:
            raise UpstreamFault(f"the upstream index answered {response.status_code}")
        try:
            page = ProjectPage.from_response(response, name)
        except Exception as error:  # pypi_simple raises several unrelated classes
            raise UpstreamFault(f"the upstream page cannot be read: {error}") from error
        return [
            UpstreamFile(
                filename=package.filename,
                version=package.version or "unknown",
                url=package.url,
                sha256=package.digests.get("sha256"),
                requires_python=package.requires_python,
                has_metadata=bool(package.has_metadata),
                metadata_sha256=(package.metadata_digests or {}).get("sha256"),
                yanked=(package.yanked_reason or "") if package.is_yanked else None,
                size=package.size,
                uploaded=(
                    package.upload_time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                    if package.upload_time
                    else None
                ),
            )
            for package in page.packages
            if package.filename.endswith((".whl", ".tar.gz", ".zip"))
        ]

    def _local_files(self, name: str) -> list[UpstreamFile]:
        found = []
        for place in self.settings.find_links:
            if "://" in place and not place.startswith("file://"):
                continue  # a page on some server is not a local folder
            folder = Path(unquote(urlsplit(place).path if "://" in place else place))
            if not folder.is_dir():
                continue
            for path in sorted(folder.iterdir()):
                version = _version_of(path.name, name)
                if version:
                    found.append(
                        UpstreamFile(
                            filename=path.name,
                            version=version,
                            url=path.absolute().as_uri(),
                            sha256=None,
                            requires_python=None,
                            has_metadata=False,
                            metadata_sha256=None,
                            yanked=None,
                            size=path.stat().st_size,
                            uploaded=None,
                        )
                    )
        return found

    def _write_page(self, name: str, files: list[UpstreamFile]) -> None:
        partial = self._pages / f".{name}.{threading.get_ident()}"
        text = json.dumps({"v": 1, "files": [asdict(file) for file in files]})
        partial.write_text(text, encoding="utf-8")
        partial.replace(self._pages / f"{name}.json")

    def _read_page(self, name: str) -> list[UpstreamFile] | None:
        try:
            text = (self._pages / f"{name}.json").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        return [UpstreamFile(**fields) for fields in json.loads(text)["files"]]


def _version_of(filename: str, name: str) -> str | None:
    """Return the version when a file belongs to the project `name`."""
    try:
        if filename.endswith(".whl"):
            project, version, _, _ = parse_wheel_filename(filename)
        elif filename.endswith(".tar.gz"):
            project, version = parse_sdist_filename(filename)
        else:
            return None
    except (InvalidWheelFilename, InvalidSdistFilename, InvalidVersion):
        return None
    return str(version) if project == name else None
