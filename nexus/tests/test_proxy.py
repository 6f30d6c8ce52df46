"""Hosted or upstream, never both; and a private name is never asked upstream."""

import hashlib
import io
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maestro_index import control
from maestro_index._remote import RemoteFile
from maestro_index._upstream import PipSettings, Upstream
from maestro_index.errors import UpstreamFault

from .index_client import Client, make_wheel


@dataclass
class Pair:
    public: Client
    private: Client


def serve_with_upstream(root: Path, upstream: str) -> tuple[subprocess.Popen, Client]:
    control.prepare_users(root / ".index")
    process = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "maestro_index", "serve", "--root", root),
            *("--port", "0", "--upstream", upstream),
        ],
        stderr=subprocess.DEVNULL,
    )
    for _ in range(400):
        state = control.read_json(root / ".index/server.json")
        if state and control.probe(state["port"]).kind == "embedded":
            break
        time.sleep(0.05)
    running = control.describe(root / ".index", state, started=True)
    return process, Client(root, running)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Return an index and a second one that plays the public index behind it."""
    (tmp_path / "public").mkdir()
    public = Client(tmp_path / "public", control.ensure_running(tmp_path / "public", 0))
    simple = f"{public.url}/repository/pypi-hosted/simple"
    process, private = serve_with_upstream(tmp_path / "private", simple)
    yield Pair(public, private)
    process.terminate()
    process.wait(timeout=20)
    control.stop(tmp_path / "public")


def test_a_malicious_public_version_is_never_offered(pair):
    """Dependency confusion: the public index has maestro-demo 99.0."""
    assert pair.public.upload(*make_wheel(version="99.0")).status_code == 200
    assert pair.public.upload(*make_wheel("maestro-new", "1.0")).status_code == 200
    assert pair.private.upload(*make_wheel(version="1.0")).status_code == 200
    assert pair.private.listed("maestro-demo") == {make_wheel(version="1.0")[0]}
    assert pair.private.listed("maestro-new") == set()  # not hosted, still not asked
    direct = (
        "/repository/pypi-{}/packages/maestro-demo/99.0/"
        + make_wheel(version="99.0")[0]
    )
    for repository in ("group", "proxy", "hosted"):
        assert pair.private.get(direct.format(repository)).status_code == 404


def test_pip_installs_the_hosted_version_only(pair, tmp_path):
    assert pair.public.upload(*make_wheel(version="99.0")).status_code == 200
    assert pair.private.upload(*make_wheel(version="1.0")).status_code == 200
    index_url = f"{pair.private.url}/repository/pypi-group/simple"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--no-cache-dir"),
            *("--target", tmp_path / "t", "--index-url", index_url, "maestro-demo"),
        ],
        check=True,
        env={
            "PATH": "/usr/bin:/bin",
            "PIP_CONFIG_FILE": "/dev/null",
            "HOME": str(tmp_path),
        },
    )
    text = (tmp_path / "t/maestro_demo/__init__.py").read_text(encoding="utf-8")
    assert text == "VERSION = '1.0'\n"


def test_other_names_come_from_upstream_and_survive_its_end(pair):
    filename, content = make_wheel("public-thing", "2.0")
    assert pair.public.upload(filename, content).status_code == 200
    assert pair.private.listed("public-thing") == {filename}
    path = f"/repository/pypi-group/packages/public-thing/2.0/{filename}"
    part = pair.private.get(path, headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, content[:4])
    assert pair.private.get(path).content == content
    control.stop(pair.public.root)
    assert pair.private.get(path).content == content  # kept, its hash was right
    assert pair.private.listed("public-thing") == {filename}


def test_an_upstream_that_is_away_is_502_and_not_404(pair):
    control.stop(pair.public.root)
    answer = pair.private.get("/repository/pypi-group/simple/never-seen/")
    assert answer.status_code == 502
    assert "did not answer" in answer.text


def test_pips_built_in_index_can_be_found():
    """The line reads a private module of pip; this notices when it moves."""
    from maestro_index._upstream import _built_in_index

    assert _built_in_index().startswith("https://")


def test_pips_settings_decide_where_upstream_is(monkeypatch, tmp_path):
    from maestro_index._upstream import pip_settings

    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple/")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CERT", "/etc/cert.pem")
    found = pip_settings()
    assert found.index_url == "https://mirror.example/simple"
    assert found.find_links == (str(tmp_path),)
    assert found.cert == "/etc/cert.pem"


def test_find_links_folders_are_offered(tmp_path):
    from maestro_index._upstream import PipSettings, Upstream

    filename, content = make_wheel("local-thing", "3.0")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / filename).write_bytes(content)
    settings = PipSettings(
        "http://127.0.0.1:9/simple", None, (str(tmp_path / "links"),)
    )
    upstream = Upstream(tmp_path / "proxy", settings)
    [file] = upstream.files("local-thing")
    assert (file.filename, file.version) == (filename, "3.0")
    assert upstream.cached(file).read_bytes() == content


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that saw 200 instead of 206 hangs up: not worth a line."""


class Plain:
    """An upstream of HTML pages and files, with or without ranges."""

    def __init__(self, files: dict[str, bytes], *, ranges: bool) -> None:
        self.files, self.ranges = files, ranges
        self.sent: list[tuple[str, int]] = []
        self.server = Quiet(("127.0.0.1", 0), self.handler())
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))

    def handler(self) -> type[BaseHTTPRequestHandler]:
        plain = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                name = self.path.rstrip("/").rpartition("/")[2]
                content, status, headers = plain.page(), 200, {}
                if name in plain.files:
                    content = plain.files[name]
                    wanted = self.headers.get("Range")
                    if wanted and plain.ranges:
                        content, status, headers = part(content, wanted)
                    plain.sent.append((name, len(content)))
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        return Handler

    def page(self) -> bytes:
        links = (
            f'<a href="/files/{name}#sha256={hashlib.sha256(content).hexdigest()}">'
            f"{name}</a>"
            for name, content in self.files.items()
        )
        return f"<html><body>{''.join(links)}</body></html>".encode()

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}/simple"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


def part(content: bytes, wanted: str) -> tuple[bytes, int, dict[str, str]]:
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    start = int(first) if first else max(0, len(content) - int(last))
    end = int(last) + 1 if first and last else len(content)
    where = f"bytes {start}-{end - 1}/{len(content)}"
    return content[start:end], 206, {"Content-Range": where}


@pytest.mark.parametrize("ranges", [True, False])
def test_metadata_of_an_upstream_wheel_is_read_once_and_in_parts(tmp_path, ranges):
    """An upstream without PEP 658 is asked for the end of the wheel, if it can."""
    filename, content = make_wheel("public-thing", "2.0", filler=os.urandom(2_000_000))
    plain = Plain({filename: content}, ranges=ranges)
    with plain as simple:
        upstream = Upstream(tmp_path, PipSettings(simple, None, ()))
        [file] = upstream.files("public-thing")
        assert file.offers_metadata
        assert not file.has_metadata
        found = upstream.metadata(file)
        assert b"Name: public-thing\nVersion: 2.0\n" in found
        if ranges:
            assert sum(size for _, size in plain.sent) < 300_000
        # Where all of it had to come, all of it is kept.
        assert (upstream.cached(file) is None) is ranges
        count = len(plain.sent)
        assert upstream.metadata(file) == found
        assert Upstream(tmp_path, upstream.settings).metadata(file) == found
        assert len(plain.sent) == count, "asked upstream for what is kept"


def test_the_page_promises_metadata_and_the_server_delivers_it(tmp_path):
    filename, content = make_wheel("public-thing", "2.0")
    with Plain({filename: content}, ranges=True) as simple:
        process, private = serve_with_upstream(tmp_path, simple)
        try:
            page = "/repository/pypi-group/simple/public-thing/"
            assert 'data-core-metadata="true"' in private.get(page).text
            path = f"/repository/pypi-group/packages/public-thing/2.0/{filename}"
            answer = private.get(f"{path}.metadata")
            assert answer.content.startswith(b"Metadata-Version: 2.1\n")
        finally:
            process.terminate()
            process.wait(timeout=20)


def test_metadata_of_a_wheel_that_is_none_is_an_upstream_fault(tmp_path):
    plain = Plain({"public_thing-2.0-py3-none-any.whl": b"no zip"}, ranges=True)
    with plain as simple:
        upstream = Upstream(tmp_path, PipSettings(simple, None, ()))
        [file] = upstream.files("public-thing")
        with pytest.raises(UpstreamFault, match="cannot be read"):
            upstream.metadata(file)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 400_000), st.data())
def test_a_remote_file_reads_as_a_local_one(size, data):
    content = random.Random(size).randbytes(size)
    remote = RemoteFile(lambda wanted: (part(content, wanted)[0], len(content)))
    local = io.BytesIO(content)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) + 3))
        size = data.draw(st.integers(-1, 200_000))
        assert remote.seek(place) == local.seek(place)
        assert remote.read(size) == local.read(size)
        assert remote.tell() == local.tell()
