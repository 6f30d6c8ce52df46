"""Nexus's REST API, as far as provisioning needs it."""

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, urlsplit

import requests

from maestro_nexus.errors import NexusAway, NexusError

TIMEOUT = (5.0, 60.0)  # seconds to connect, and to answer
LOOPBACK = {"localhost", "127.0.0.1", "::1"}


class Api:
    """One server and one user; passwords never reach a message."""

    def __init__(self, url: str, user: str, password: str) -> None:
        """Keep the address; nothing is sent yet.

        Raises:
            NexusError: plain http to another machine would show the password.
        """
        parts = urlsplit(url)
        if parts.scheme != "https" and parts.hostname not in LOOPBACK:
            raise NexusError(
                f"{url} is not https: the password would be readable on the network"
            )
        self.url = url.rstrip("/")
        self.user = user
        self._session = requests.Session()
        self._session.auth = (user, password)

    def get(self, path: str) -> Any:
        """Return the JSON at a path, or None when there is nothing (404)."""
        response = self._send("GET", path)
        if response.status_code == requests.codes.not_found:
            return None
        self._expect(response, "GET", path, 200)
        return response.json() if response.content else {}

    def put(self, path: str, body: Any) -> None:
        """Replace what is at a path."""
        self._expect(self._send("PUT", path, json=body), "PUT", path, 200, 204)

    def put_text(self, path: str, body: str) -> None:
        """Send plain text, as the password change wants it."""
        headers = {"Content-Type": "text/plain"}
        response = self._send("PUT", path, data=body.encode(), headers=headers)
        self._expect(response, "PUT", path, 200, 204)

    def post(self, path: str, body: Any) -> None:
        """Create something."""
        response = self._send("POST", path, json=body)
        self._expect(response, "POST", path, 200, 201, 204)

    def works(self) -> bool:
        """Tell whether user and password are accepted."""
        return self._send("GET", "/v1/security/users?userId=admin").status_code == 200

    def wait(
        self,
        seconds: float,
        *,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wait until the server can write; a first start takes minutes.

        Raises:
            NexusAway: not within `seconds`.
        """
        deadline = clock() + seconds
        last = "no answer"
        while True:
            try:
                response = self._send("GET", "/v1/status/writable")
                if response.status_code == requests.codes.ok:
                    return
                last = f"status {response.status_code}"
            except NexusAway as error:
                last = str(error)
            if clock() >= deadline:
                raise NexusAway(
                    f"{self.url} is not writable after {seconds:.0f} s: {last}"
                )
            sleep(1.0)

    def _send(self, method: str, path: str, **options: Any) -> requests.Response:
        try:
            return self._session.request(
                method, f"{self.url}/service/rest{path}", timeout=TIMEOUT, **options
            )
        except requests.RequestException as error:
            raise NexusAway(
                f"{self.url} did not answer: {type(error).__name__}"
            ) from error

    def _expect(
        self, response: requests.Response, method: str, path: str, *codes: int
    ) -> None:
        if response.status_code in codes:
            return
        reason = {
            401: "user or password is wrong",
            403: f"user {self.user!r} lacks the right, or the EULA is not accepted",
        }.get(response.status_code, response.text[:300])
        raise NexusError(f"{method} {path}: {response.status_code}, {reason}")


def quoted(name: str) -> str:
    """Return a name as part of a path."""
    return quote(name, safe="")
