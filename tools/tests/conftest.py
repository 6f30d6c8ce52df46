"""A checkout with small packages, a real index, and a front that misbehaves."""

import contextlib
import http.client
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock
from urllib.parse import urlsplit

import pytest
import requests
from maestro_index import control
from maestro_release import cli
from maestro_release.index import open_index
from maestro_release.settings import read_settings

ROOT = Path(__file__).resolve().parents[2]

PYPROJECT = """\
[build-system]
requires = ["poetry-core>=2.0"]
build-backend = "poetry.core.masonry.api"

[project]
name = "maestro-{name}"
version = "{version}"
description = "A small package for tests"
readme = "README.md"
license = "Apache-2.0"
license-files = ["LICENSE"]
requires-python = ">=3.11"
dependencies = [{requires}]

[project.optional-dependencies]
{extras}

[tool.poetry]
packages = [{{ include = "maestro_{name}" }}]
"""


class Done(NamedTuple):
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Checkout:
    """A temporary checkout and the command run in it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)  # what a publication uploads

    def package(
        self,
        name: str,
        *,
        version: str = "1.0.0",
        requires: str = "",
        extras: str = "",
        code: str = "ANSWER = 42\n",
        readme: str | None = None,
    ) -> Path:
        """Write a package; return its folder."""
        folder = self.root / "packages" / name
        module = folder / f"maestro_{name}"
        module.mkdir(parents=True, exist_ok=True)
        (module / "__init__.py").write_text(code, encoding="utf-8")
        text = PYPROJECT.format(
            name=name, version=version, requires=requires, extras=extras
        )
        (folder / "pyproject.toml").write_text(text, encoding="utf-8")
        readme = readme or f"# maestro-{name}\n"
        (folder / "README.md").write_text(readme, encoding="utf-8")
        shutil.copyfile(ROOT / "LICENSE", folder / "LICENSE")
        return folder

    def command(self, *arguments: str) -> list[str]:
        return [
            *(sys.executable, "-P", "-m", "maestro_release"),
            *(*arguments, "--root", str(self.root)),
        ]

    def env(self, **more: str) -> dict[str, str]:
        kept = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("MAESTRO_", "TWINE_"))
        }
        return {
            **kept,
            "HOME": str(self.root),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
            **self.environment,
            **more,
        }

    def release(self, *arguments: str, **more: str) -> Done:
        """Run the command to its end, in this process."""
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.env(**more), clear=True),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = cli.run([*arguments, "--root", str(self.root)])
        return Done(code, out.getvalue(), err.getvalue())

    def listed(self) -> dict[str, str]:
        """Return name and hash of every file in the hosted repository."""
        settings = read_settings(self.root, environ=self.environment)
        with contextlib.closing(open_index(settings, self.root)) as index:
            names = [f"maestro-{p.name}" for p in (self.root / "packages").iterdir()]
            found = index.files_of_all(names, index.hosted)
            return {
                file.filename: index.sha256(name, file)
                for name, files in found.items()
                for file in files.values()
            }

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        """Start the command in a process group of its own."""
        return subprocess.Popen(
            self.command(*arguments),
            env=self.env(**more),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            start_new_session=True,
        )


@pytest.fixture(scope="session")
def passed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file in which all checkouts of a run note the bytes that passed the gates."""
    return tmp_path_factory.mktemp("passed") / "checked.json"


@pytest.fixture
def two(checkout: Checkout, passed: Path) -> Iterator[Checkout]:
    """A checkout with two packages; builds are reproducible, so gates run once."""
    extras = 'x = ["maestro-beta"]'
    checkout.package("alpha", requires='"maestro-beta>=1"', extras=extras)
    code = '"""Beta."""\n\n__all__ = ["ANSWER"]\n\nANSWER = 42\n'
    checkout.package("beta", code=code)
    checkout.files = {
        f"maestro_{name}-1.0.0{end}"
        for name in ("alpha", "beta")
        for end in ("-py3-none-any.whl", ".tar.gz")
    }
    mine = checkout.root / ".maestro" / "checked.json"
    mine.parent.mkdir()
    if passed.exists():
        shutil.copyfile(passed, mine)
    yield checkout
    if mine.exists():
        shutil.copyfile(mine, passed)


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    """An empty checkout with an embedded index of its own on a free port."""
    yield Checkout(tmp_path, {"MAESTRO_INDEX_PORT": "0"})
    if (tmp_path / ".index" / "server.json").exists():
        control.stop(tmp_path)


@dataclass
class Front:
    """A server before the real index that counts uploads and can misbehave.

    `answer` is asked for each upload, with its number from 1: None passes it
    on, a number is the status to answer instead, "drop" closes the connection,
    "lose" passes it on and then answers 502.
    """

    behind: str
    answer: Callable[[int], Any] = lambda _: None
    uploads: list[str] = field(default_factory=list)  # what was passed on
    arrived: int = 0  # how many of them the index has answered
    seen: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        assert self.server is not None
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def kill_after(self, process: subprocess.Popen[str], count: int) -> None:
        """Kill -9 a publisher when `count` files have arrived, before another."""
        reached = threading.Event()

        def answer(number: int) -> str | None:
            if number <= count:
                return None
            for _ in range(600):
                if self.arrived == count:
                    break
                time.sleep(0.05)
            reached.set()
            return "drop"

        self.answer = answer
        assert reached.wait(60)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        self.answer = lambda _: None


def handler_for(front: Front) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.pass_on(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

        do_PUT = do_DELETE = do_GET  # noqa: N815  # names that http.server looks for

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            with front.lock:
                front.seen += 1
                number = front.seen
            verdict = front.answer(number)
            if verdict == "drop":
                self.close_connection = True
                self.connection.close()
            elif isinstance(verdict, int):
                self.reply(verdict, {}, b"on purpose")
            elif verdict == "lose":
                self.forward(body)
                self.reply(502, {}, b"on purpose")
            else:
                front.uploads.append(file_name(body))
                answer = self.forward(body)
                with front.lock:
                    front.arrived += 1
                self.reply(*answer)

        def forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
            there = urlsplit(front.behind)
            connection = http.client.HTTPConnection(there.netloc, timeout=30)
            headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            content = response.read()
            connection.close()
            return response.status, dict(response.getheaders()), content

        def pass_on(self, body: bytes) -> None:
            self.reply(*self.forward(body))

        def reply(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response_only(status)
            for key, value in headers.items():
                if key.lower() not in {"content-length", "transfer-encoding"}:
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return Handler


def file_name(body: bytes) -> str:
    mark = b'filename="'
    start = body.index(mark) + len(mark)
    return body[start : body.index(b'"', start)].decode()


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that was killed leaves its connection: not worth a line."""


@pytest.fixture(scope="session")
def shared_index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[control.Running]:
    """One real index for all tests with a front; each leaves it empty."""
    folder = tmp_path_factory.mktemp("index")
    yield control.ensure_running(folder, 0)
    control.stop(folder)


def empty(running: control.Running) -> None:
    """Delete every component, as an administrator would."""
    with requests.Session() as session:
        session.auth = (running.user, running.password)
        components = f"{running.url}/service/rest/v1/components"
        page = session.get(components, params={"repository": "pypi-hosted"}).json()
        for item in page["items"]:
            session.delete(f"{components}/{item['id']}").raise_for_status()


@pytest.fixture
def front(checkout: Checkout, shared_index: control.Running) -> Iterator[Front]:
    """A front before a real index; the checkout publishes through it."""
    running = shared_index
    made = Front(running.url)
    made.server = QuietServer(("127.0.0.1", 0), handler_for(made))
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    checkout.environment |= {
        "MAESTRO_INDEX_URL": made.url,
        "MAESTRO_INDEX_USER": running.user,
        "MAESTRO_INDEX_PASSWORD": running.password,
    }
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()
    empty(running)
