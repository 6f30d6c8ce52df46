"""One client for the index: a real Nexus, or the embedded one with its paths.

Everything that is needed works on Nexus as it is: the pages may be HTML and
may lack sha256, then the checksums come from its REST API, and where that says
nothing the file is downloaded and hashed.
"""

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import requests
from maestro_resilience import Retry

from maestro_release.errors import IndexFault, IndexRefused, IndexUnreachable
from maestro_release.pages import PublishedFile, html_files, json_files
from maestro_release.server import Server
from maestro_release.settings import Settings

if TYPE_CHECKING:
    from maestro_release.upload import Uploader

ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
AT_ONCE = 8  # requests that run side by side
TRANSIENT = frozenset({429, 500, 502, 503, 504})


class _TransientFault(Exception):
    """A failure that may pass: worth another try."""


class Index:
    """Reads one index and knows where to upload.

    Safe to use from several threads. Requests are repeated after connection
    errors and 429, 500, 502, 503 and 504.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        url: str,
        user: str | None,
        password: str | None,
        started: bool = False,
    ) -> None:
        self.url = url
        self.user = user
        self.password = password
        self._settings = settings
        self._started = started
        self._session = requests.Session()
        self._session.mount(url, requests.adapters.HTTPAdapter(pool_maxsize=AT_ONCE))
        self._retry = Retry(attempts=4, on=_TransientFault, wait=0.2)
        self.needs_password = False  # for reading; found out at the first 401

    def __repr__(self) -> str:
        """Show everything but the password."""
        return f"Index({self.url!r}, user={self.user!r})"

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    @property
    def hosted(self) -> str:
        """The name of the repository that takes uploads."""
        return self._settings.hosted

    @property
    def group(self) -> str:
        """The name of the repository that people install from."""
        return self._settings.group

    @property
    def raw(self) -> str | None:
        """The name of the raw repository for evidence, when one is set."""
        return self._settings.raw

    @property
    def upload_url(self) -> str:
        """Where files are sent to."""
        return f"{self.url}/repository/{self._settings.hosted}/"

    @property
    def install_url(self) -> str:
        """What pip gets as --index-url."""
        return f"{self.url}/repository/{self._settings.group}/simple"

    def server(self) -> Server:
        """Ask who answers.

        Raises:
            IndexUnreachable: nobody does.
        """
        response = self.request("GET", "/service/rest/v1/status", accept="*/*")
        kind, version = "other", ""
        if "X-Maestro-Index" in response.headers:
            kind = "embedded"
        elif response.headers.get("Server", "").startswith("Nexus/"):
            kind, version = "nexus", response.headers["Server"]
        elif response.status_code != requests.codes.ok:
            raise IndexFault(
                f"{self.url} answers, but is no index: GET /service/rest/v1/status "
                f"gives {response.status_code}; is another program on this port?"
            )
        return Server(kind=kind, url=self.url, version=version, started=self._started)

    def files(self, name: str, repository: str) -> dict[str, PublishedFile]:
        """Return the files of a project in a repository, by file name.

        Raises:
            IndexUnreachable: no answer.
            IndexRefused: an answer that is neither a page nor 404.
        """
        response = self.request("GET", f"/repository/{repository}/simple/{name}/")
        if response.status_code == requests.codes.not_found:
            return {}
        self._expect(response, requests.codes.ok)
        if response.headers.get("Content-Type", "").split(";")[0].endswith("json"):
            listed = json_files(response.json(), response.url)
        else:
            listed = html_files(name, response.text, response.url)
        return {file.filename: file for file in listed}

    def files_of_all(
        self, names: list[str], repository: str
    ) -> dict[str, dict[str, PublishedFile]]:
        """Return `files` of many projects, asked side by side."""
        with ThreadPoolExecutor(AT_ONCE) as pool:
            found = pool.map(lambda name: self.files(name, repository), names)
            return dict(zip(names, found, strict=True))

    def sha256(self, project: str, file: PublishedFile) -> str:
        """Return the hash of a published file, however the index gives it."""
        return (
            file.sha256
            or self.checksums(project).get(file.filename)
            or hashlib.sha256(self.download(file)).hexdigest()
        )

    def checksums(self, project: str) -> dict[str, str]:
        """Return sha256 by file name from the REST API, as far as it tells."""
        found = {}
        for component in self.components(project):
            for asset in component.get("assets", ()):
                digest = (asset.get("checksum") or {}).get("sha256")
                if digest:
                    found[asset["path"].rsplit("/", 1)[-1]] = str(digest)
        return found

    def components(
        self, project: str, version: str | None = None
    ) -> Iterator[dict[str, Any]]:
        """Yield what the REST API has about a project in the hosted repository."""
        query = {"repository": self.hosted, "name": project}
        if version is not None:
            query["version"] = version
        while True:
            path = "/service/rest/v1/search"
            response = self.request("GET", path, accept="application/json", query=query)
            if response.status_code == requests.codes.not_found:
                return  # a server without this API
            self._expect(response, requests.codes.ok)
            page = response.json()
            yield from page["items"]
            if not page.get("continuationToken"):
                return
            query["continuationToken"] = page["continuationToken"]

    def download(self, file: PublishedFile) -> bytes:
        """Return the bytes of a published file."""
        response = self.request("GET", file.url, accept="*/*")
        self._expect(response, requests.codes.ok)
        return response.content

    def expect_password(self) -> None:
        """Return when there is somebody to upload as.

        Raises:
            IndexFault: user or password is not known.
        """
        if not (self.user and self.password):
            raise IndexFault(
                f"no user and password for {self.url}: set MAESTRO_INDEX_USER and "
                "MAESTRO_INDEX_PASSWORD, or a section [maestro] in .pypirc"
            )

    def upload(self, path: Path) -> requests.Response:
        """Send one file with twine; return the answer, whatever it says.

        Raises:
            IndexUnreachable: none came; the index may have the file all the same.
        """
        limit = self._settings.upload_timeout
        try:
            return self._uploader.send(path)
        except requests.Timeout as error:
            text = f"{self.url} took no data for {limit:.0f} s"
            raise IndexUnreachable(text) from error
        except requests.RequestException as error:
            text = f"the connection to {self.url} broke ({reason(error)})"
            raise IndexUnreachable(text) from error

    @cached_property
    def _uploader(self) -> "Uploader":
        from maestro_release.upload import Uploader  # twine takes its time to load

        assert self.user is not None
        assert self.password is not None
        limit = self._settings.upload_timeout
        return Uploader(self.upload_url, self.user, self.password, timeout=limit)

    def put_raw(self, path: str, content: bytes) -> None:
        """Store a file in the raw repository.

        Raises:
            IndexRefused: it was refused.
        """
        where = f"/repository/{self.raw}/{path}"
        response = self.request(
            "PUT", where, accept="*/*", with_password=True, body=content
        )
        if response.status_code not in {requests.codes.ok, requests.codes.created}:
            raise self.refusal(response.status_code, response.text)

    def get_raw(self, path: str) -> bytes | None:
        """Return a file of the raw repository, None when it is not there."""
        response = self.request("GET", f"/repository/{self.raw}/{path}", accept="*/*")
        if response.status_code == requests.codes.not_found:
            return None
        self._expect(response, requests.codes.ok)
        return response.content

    def request(
        self,
        method: str,
        path: str,
        *,
        accept: str = ACCEPT,
        query: Mapping[str, str] | None = None,
        with_password: bool = False,
        body: bytes | None = None,
    ) -> requests.Response:
        """Send a request; read again with the password when the index asks for it.

        Raises:
            IndexUnreachable: no answer, or only 5xx, after some tries.
            IndexRefused: 401 with our user and password, or without any.
        """
        try:
            response: requests.Response = self._retry.call(
                partial(
                    self._once,
                    method,
                    path,
                    accept=accept,
                    query=query,
                    with_password=with_password,
                    body=body,
                )
            )
        except _TransientFault as error:
            raise IndexUnreachable(str(error)) from error
        if response.status_code != requests.codes.unauthorized:
            return response
        if with_password or self.needs_password or not (self.user and self.password):
            raise self.refusal(response.status_code, response.text)
        self.needs_password = True
        return self.request(method, path, accept=accept, query=query, body=body)

    def _once(
        self,
        method: str,
        path: str,
        *,
        accept: str,
        query: Mapping[str, str] | None,
        with_password: bool,
        body: bytes | None,
    ) -> requests.Response:
        auth = None
        if (with_password or self.needs_password) and self.user and self.password:
            auth = (self.user, self.password)
        try:
            response = self._session.request(
                method,
                urljoin(self.url + "/", path),
                params=query,
                headers={"Accept": accept},
                auth=auth,
                data=body,
                timeout=self._settings.timeout,
            )
        except requests.Timeout as error:
            limit = self._settings.timeout
            text = f"{self.url} did not answer within {limit:.0f} s"
            raise _TransientFault(text) from error
        except requests.RequestException as error:
            raise _TransientFault(
                f"{self.url} cannot be reached ({reason(error)}); "
                "is the server running, and is MAESTRO_INDEX_URL right?"
            ) from error
        if response.status_code in TRANSIENT:
            raise _TransientFault(
                f"{self.url} answers {response.status_code} {response.reason}"
            )
        return response

    def _expect(self, response: requests.Response, status: int) -> None:
        if response.status_code != status:
            raise self.refusal(response.status_code, response.text)

    def refusal(self, status: int, text: str = "") -> IndexRefused:
        """Return the error for an HTTP status, saying what to do about it."""
        who = f"user {self.user!r}" if self.user else "nobody (no user is set)"
        explained = {
            401: f"does not accept the password of {who}: check MAESTRO_INDEX_USER and "
            "MAESTRO_INDEX_PASSWORD, or the section of .pypirc",
            403: f"knows {who} but gives no right to do this: the account needs "
            f"browse, read, add and edit on {self.hosted}",
            404: f"has no repository {self.hosted!r} (404): check the names in "
            "tools/release.yaml",
            301: f"sends us elsewhere: is {self.url} the right address?",
            413: "takes no file of this size (413): raise its limit",
            302: f"sends us elsewhere: is {self.url} the right address?",
            507: "has no space left (507): make room and run the same command again",
        }.get(status)
        if explained is None:
            said = " ".join(text.split())[:200]
            explained = f"answers {status}" + (f": {said}" if said else "")
        return IndexRefused(f"{self.url} {explained}", status)


def reason(error: requests.RequestException) -> str:
    """Return why a connection failed, in a few words."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror.lower()
        inner = getattr(cause, "reason", None)
        cause = (
            inner
            if isinstance(inner, BaseException)
            else cause.__cause__
            or (
                cause.args[0]
                if cause.args and isinstance(cause.args[0], Exception)
                else None
            )
        )
    return type(error).__name__


def open_index(settings: Settings, root: Path) -> Index:
    """Return a client for the configured index; start the embedded one if needed.

    Raises:
        IndexUnreachable: the embedded index cannot be started here.
    """
    if settings.url is not None:
        return Index(
            settings, url=settings.url, user=settings.user, password=settings.password
        )
    from maestro_index import control
    from maestro_index.errors import ControlFault

    try:
        running = control.ensure_running(root, settings.port)
    except ControlFault as error:
        raise IndexUnreachable(str(error)) from error
    return Index(
        settings,
        url=running.url,
        user=settings.user or running.user,
        password=settings.password or running.password,
        started=running.started,
    )
