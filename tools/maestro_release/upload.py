"""The form in which a file is uploaded, and the answers to it.

The fields are those that twine sends, read from the file itself: servers of the
legacy upload API, Nexus among them, take name, version and hashes from there.
"""

import hashlib
import tarfile
import zipfile
from pathlib import Path
from typing import Any

from packaging.metadata import parse_email
from packaging.utils import parse_wheel_filename

from maestro_release.errors import GateFailed

# packaging's plural names -> the names of the form.
RENAMED = {
    "platforms": "platform",
    "supported_platforms": "supported_platform",
    "license_files": "license_file",
}
UNSENT = frozenset({"import_names", "import_namespaces"})  # the form has no such field


def form(path: Path) -> list[tuple[str, str]]:
    """Return the fields of the form for a wheel or an sdist.

    Raises:
        GateFailed: the file has no metadata that can be read.
    """
    content = path.read_bytes()
    raw, _ = parse_email(metadata(path))
    fields: list[tuple[str, str]] = []
    for key, value in raw.items():
        if key not in UNSENT:
            fields += [(RENAMED.get(key, key), text) for text in texts(key, value)]
    wheel = path.name.endswith(".whl")
    return [
        *fields,
        ("pyversion", python_tag(path.name) if wheel else "source"),
        ("filetype", "bdist_wheel" if wheel else "sdist"),
        ("sha256_digest", hashlib.sha256(content).hexdigest()),
        ("blake2_256_digest", hashlib.blake2b(content, digest_size=32).hexdigest()),
        (":action", "file_upload"),
        ("protocol_version", "1"),
    ]


def texts(key: str, value: Any) -> list[str]:
    """Return one text for each field that a value of the metadata becomes."""
    if key == "project_urls":
        return [f"{name}, {url}" for name, url in value.items()]
    if key == "keywords":
        return [", ".join(value)]
    return [value] if isinstance(value, str) else list(value)


def python_tag(filename: str) -> str:
    """Return the Python part of a wheel's name: py3, or py2.py3."""
    tags = {tag.interpreter for tag in parse_wheel_filename(filename)[3]}
    return ".".join(sorted(tags))


def metadata(path: Path) -> bytes:
    """Return METADATA of a wheel or PKG-INFO of an sdist.

    Raises:
        GateFailed: there is none, or the file is no archive.
    """
    try:
        found = (
            of_wheel(path) if path.name.endswith(".whl") else of_source_archive(path)
        )
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise GateFailed(f"{path.name} cannot be read: {error}") from error
    if found is None:
        raise GateFailed(f"{path.name} holds no metadata")
    return found


def of_wheel(path: Path) -> bytes | None:
    """Return METADATA of a wheel, None where there is none."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            folder, _, last = name.partition("/")
            if folder.endswith(".dist-info") and last == "METADATA":
                return archive.read(name)
    return None


def of_source_archive(path: Path) -> bytes | None:
    """Return PKG-INFO of an sdist, None where there is none."""
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            if member.name.count("/") == 1 and member.name.endswith("/PKG-INFO"):
                stream = archive.extractfile(member)
                return stream.read() if stream else None
    return None
