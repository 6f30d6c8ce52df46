"""Sends one file with twine.

twine makes the form and the hashes and speaks with the server. Order, patience and
progress are ours, see publish.py: twine would send one file after the other, wait
for ever, and try again at once.
"""

import logging
import tarfile
import threading
import zipfile
from pathlib import Path
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from twine.exceptions import InvalidDistribution
from twine.package import PackageFile
from twine.repository import Repository

from maestro_release.errors import GateFailed

# twine lets these through.
BROKEN = (zipfile.BadZipFile, tarfile.TarError, EOFError)


class Uploader:
    """Sends files to one address; for several threads."""

    def __init__(self, url: str, user: str, password: str, *, timeout: float) -> None:
        self._to = (url, user, password)
        self._timeout = timeout
        self._mine = threading.local()  # a connection for each thread
        # It would say again what the answer says.
        logging.getLogger("twine.repository").setLevel(logging.ERROR)

    def send(self, path: Path) -> requests.Response:
        """Send a wheel or an sdist once; return the answer, whatever it says.

        twine prints a line for each file.

        Raises:
            GateFailed: the file has no metadata that can be read.
            requests.RequestException: no answer came.
        """
        try:
            package = PackageFile.from_filename(str(path), comment=None)
        except (InvalidDistribution, *BROKEN) as error:
            raise GateFailed(f"{path.name} cannot be read: {error}") from error
        return self._repository().upload(package, max_redirects=1)

    def _repository(self) -> Repository:
        if not hasattr(self._mine, "repository"):
            repository = Repository(*self._to, disable_progress_bar=True)
            repository.session.mount(self._to[0], _Patient(self._timeout))
            self._mine.repository = repository
        found: Repository = self._mine.repository
        return found


class _Patient(HTTPAdapter):
    """Waits only so long; tries once."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def send(
        self, request: requests.PreparedRequest, *args: Any, **settings: Any
    ) -> requests.Response:
        """Send with a limit on waiting for the server."""
        return super().send(request, *args, **(settings | {"timeout": self._seconds}))
