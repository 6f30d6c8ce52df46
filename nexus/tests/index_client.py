"""Tiny packages, and a client that speaks to an index as twine does."""

import io
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import requests
from maestro_index import control


def make_wheel(
    name: str = "maestro-demo", version: str = "1.0.0", *, filler: bytes = b""
) -> tuple[str, bytes]:
    """Return the file name and bytes of a wheel that pip can install."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"{module}/__init__.py", f"VERSION = {version!r}\n")
        if filler:
            archive.writestr(f"{module}/filler.bin", filler)
        archive.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            "Requires-Python: >=3.11\n",
        )
        archive.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{info}/RECORD", "")
    return f"{module}-{version}-py3-none-any.whl", buffer.getvalue()


def make_sdist(name: str = "maestro-demo", version: str = "1.0.0") -> tuple[str, bytes]:
    """Return the file name and bytes of an sdist with a PKG-INFO."""
    stem = f"{name.replace('-', '_')}-{version}"
    text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for file, content in (("PKG-INFO", text), ("pyproject.toml", b"")):
            member = tarfile.TarInfo(f"{stem}/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return f"{stem}.tar.gz", buffer.getvalue()


@dataclass
class Client:
    """Speaks to an index as twine does."""

    root: Path
    running: control.Running

    @property
    def url(self) -> str:
        return self.running.url

    @property
    def login(self) -> tuple[str, str]:
        return (self.running.user, self.running.password)

    def upload(self, filename: str, content: bytes, **fields: str) -> requests.Response:
        auth = (
            fields.pop("user", self.login[0]),
            fields.pop("password", self.login[1]),
        )
        form = {":action": "file_upload", "protocol_version": "1"} | fields
        return requests.post(
            f"{self.url}/repository/pypi-hosted/",
            data=form,
            files={"content": (filename, content)},
            auth=auth,
            timeout=30,
        )

    def get(self, path: str, **options: object) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=30, **options)

    def listed(self, name: str) -> set[str]:
        answer = self.get(
            f"/repository/pypi-group/simple/{name}/",
            headers={"Accept": "application/vnd.pypi.simple.v1+json"},
        )
        if answer.status_code == 404:
            return set()
        return {file["filename"] for file in answer.json()["files"]}
