"""A server to run the conformance suite against: embedded, or any by its URL."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from maestro_index import control
from pypi_simple import DistributionPackage, ProjectPage

URL = "MAESTRO_CONFORMANCE_URL"
USER = "MAESTRO_CONFORMANCE_USER"
PASSWORD = "MAESTRO_CONFORMANCE_PASSWORD"
HOSTED, GROUP = "pypi-hosted", "pypi-group"


@dataclass
class Server:
    """A server, an account that may deploy and delete, and names of our own."""

    url: str
    login: tuple[str, str]
    embedded: bool
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    used: set[str] = field(default_factory=set)

    def name(self, word: str) -> str:
        """Return a project name that no other run uses; it is removed at the end."""
        found = f"maestro-conformance-{self.run}-{word}"
        self.used.add(found)
        return found

    @property
    def upload_url(self) -> str:
        return f"{self.url}/repository/{HOSTED}/"

    @property
    def install_url(self) -> str:
        """The group's address with the account in it, for clients that read one."""
        scheme, _, rest = self.url.partition("://")
        user, password = self.login
        return f"{scheme}://{user}:{password}@{rest}/repository/{GROUP}/simple"

    def send(self, method: str, path: str, **options: Any) -> requests.Response:
        options = {"auth": self.login, "timeout": 60} | options
        return requests.request(method, f"{self.url}{path}", **options)

    def upload(
        self, filename: str, content: bytes, **options: Any
    ) -> requests.Response:
        form = {":action": "file_upload", "protocol_version": "1"}
        return self.send(
            "POST",
            f"/repository/{HOSTED}/",
            data=form,
            files={"content": (filename, content)},
            **options,
        )

    def files(self, name: str, repository: str = GROUP) -> list[DistributionPackage]:
        """Return what the project's page lists, none when there is no page."""
        answer = self.send("GET", f"/repository/{repository}/simple/{name}/")
        if answer.status_code == 404:
            return []
        answer.raise_for_status()
        return ProjectPage.from_response(answer, name).packages

    def components(self, **query: str) -> Iterator[dict[str, Any]]:
        """Yield every component of the hosted repository, page after page."""
        query = {"repository": HOSTED} | query
        while True:
            answer = self.send("GET", "/service/rest/v1/search", params=query)
            answer.raise_for_status()
            yield from answer.json()["items"]
            token = answer.json()["continuationToken"]
            if not token:
                return
            query["continuationToken"] = token

    def delete(self, component: str) -> int:
        return self.send(
            "DELETE", f"/service/rest/v1/components/{component}"
        ).status_code

    def clean(self) -> None:
        for name in self.used:
            for component in list(self.components(name=name)):
                self.delete(component["id"])


@contextmanager
def a_server(folder: Path) -> Iterator[Server]:
    """Give the server that the environment names, or an embedded one."""
    if url := os.environ.get(URL):
        named = Server(
            url.split("/repository/", maxsplit=1)[0].rstrip("/"),
            (os.environ[USER], os.environ[PASSWORD]),
            embedded=False,
        )
        try:
            yield named
        finally:
            named.clean()
        return
    running = control.ensure_running(folder, 0)
    try:
        yield Server(running.url, (running.user, running.password), embedded=True)
    finally:
        control.stop(folder)
