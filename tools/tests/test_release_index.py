"""Reading an index that shows less than ours: HTML pages, no sha256."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from maestro_release import undo
from maestro_release.errors import IndexFault, IndexRefused, IndexUnreachable
from maestro_release.index import Index
from maestro_release.settings import read_settings

WHEEL = "maestro_alpha-1.0.0-py3-none-any.whl"
PAGE = f"""<!DOCTYPE html><html><body>
<a href="../../packages/maestro-alpha/1.0.0/{WHEEL}#md5=00" rel="internal">{WHEEL}</a>
</body></html>"""
CONTENT = b"what the wheel holds"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Nexus:
    """Pages as Nexus 3 writes them; `checksums` says whether REST has sha256."""

    def __init__(self):
        self.checksums = True
        self.password = None
        self.failures = []
        self.seen = []
        self.raw = {}
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def handler(self):
        nexus = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                nexus.seen.append(self.path)
                if nexus.failures:
                    return self.reply(nexus.failures.pop(), "text/plain", b"")
                if nexus.password and not self.headers.get("Authorization"):
                    return self.reply(401, "text/plain", b"")
                path = self.path.partition("?")[0]
                if path in nexus.raw:
                    return self.reply(200, "application/octet-stream", nexus.raw[path])
                if path == "/repository/pypi-hosted/simple/maestro-alpha/":
                    return self.reply(200, "text/html", PAGE.encode())
                if path.endswith(f"/packages/maestro-alpha/1.0.0/{WHEEL}"):
                    return self.reply(200, "application/zip", CONTENT)
                if path == "/service/rest/v1/status":
                    return self.reply(200, "application/json", b"")
                if path == "/service/rest/v1/search":
                    return self.reply(200, "application/json", nexus.search(self.path))
                return self.reply(404, "text/plain", b"")

            def do_PUT(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if not self.path.startswith("/repository/releases/"):
                    return self.reply(404, "text/plain", b"")
                if not self.headers.get("Authorization"):
                    return self.reply(401, "text/plain", b"")
                nexus.raw[self.path] = body
                return self.reply(201, "text/plain", b"")

            def reply(self, status, kind, body):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def version_string(self):
                return "Nexus/3.96.3-01 (COMMUNITY)"

        return Handler

    def search(self, path):
        if "continuationToken=second" not in path:
            return json.dumps({"items": [], "continuationToken": "second"}).encode()
        digest = {"sha256": SHA256} if self.checksums else {"md5": "00"}
        asset = {"path": f"maestro-alpha/1.0.0/{WHEEL}", "checksum": digest}
        return json.dumps(
            {"items": [{"assets": [asset]}], "continuationToken": None}
        ).encode()


@pytest.fixture
def nexus():
    made = Nexus()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.05,))
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def index(nexus, tmp_path):
    (tmp_path / "tools").mkdir()
    yaml = "index:\n  raw: releases\n"
    (tmp_path / "tools" / "release.yaml").write_text(yaml, encoding="utf-8")
    settings = read_settings(tmp_path, environ={}, home=tmp_path)
    made = Index(settings, url=nexus.url, user="reader", password="secret")
    yield made
    made.close()


def test_the_server_is_named(index):
    server = index.server()
    assert (server.kind, server.version) == ("nexus", "Nexus/3.96.3-01 (COMMUNITY)")
    assert str(server).startswith(f"a real Nexus at {index.url}")


@pytest.mark.parametrize("checksums", [True, False])
def test_hashes_come_from_rest_or_from_the_file(nexus, index, checksums):
    nexus.checksums = checksums
    file = index.files("maestro-alpha", "pypi-hosted")[WHEEL]
    assert file.sha256 is None
    assert index.sha256("maestro-alpha", file) == SHA256
    downloaded = any("/packages/" in path for path in nexus.seen)
    assert downloaded is not checksums


def test_an_unknown_project_has_no_files(index):
    assert index.files("maestro-beta", "pypi-hosted") == {}


def test_the_password_is_sent_once_it_is_asked_for(nexus, index):
    nexus.password = "secret"
    assert WHEEL in index.files("maestro-alpha", "pypi-hosted")
    assert index.needs_password
    assert len(nexus.seen) == 2
    index.files("maestro-alpha", "pypi-hosted")
    assert len(nexus.seen) == 3


def test_a_passing_failure_is_tried_again_and_a_lasting_one_reported(nexus, index):
    nexus.failures = [503, 502]
    assert WHEEL in index.files("maestro-alpha", "pypi-hosted")
    nexus.failures = [503] * 10
    with pytest.raises(IndexUnreachable, match="503"):
        index.files("maestro-alpha", "pypi-hosted")


def test_a_refusal_is_not_tried_again(nexus, index):
    nexus.failures = [403]
    with pytest.raises(IndexRefused, match="gives no right") as caught:
        index.files("maestro-alpha", "pypi-hosted")
    assert caught.value.status == 403
    assert len(nexus.seen) == 1


def test_the_password_is_not_in_the_repr(index):
    assert "secret" not in repr(index)


def test_evidence_is_kept_in_a_raw_repository(nexus, index):
    assert index.get_raw("maestro-alpha/1.0.0/release.json") is None
    index.put_raw("maestro-alpha/1.0.0/release.json", b"{}")
    assert index.get_raw("maestro-alpha/1.0.0/release.json") == b"{}"
    assert list(nexus.raw) == ["/repository/releases/maestro-alpha/1.0.0/release.json"]


def test_nexus_cannot_yank_and_the_message_says_what_to_do(index):
    with pytest.raises(IndexFault, match="Nexus has no such mark") as caught:
        undo.yank(index, "maestro-alpha", "1.0.0", "bad")
    assert "maestro-release delete maestro-alpha==1.0.0" in str(caught.value)
