"""Fixtures: a local web site, browsers of both back ends, a folder of tests to run."""

import functools
import http.server
import json
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

HERE = Path(__file__).parent

BOTH_WAYS = """
import json, os
import maestro_stream_pytest as stream

short = stream._line_of_passed

def both_ways(*args):
    line = short(*args)
    long = json.dumps({"e": "end", "test": stream._test_of(*args)})
    same = repr(json.loads(line)) == repr(json.loads(long))
    with open("told", "a", encoding="utf-8") as file:
        file.write("same\\n" if same else line + " is not " + long + "\\n")
    return line

stream._line_of_passed = both_ways
if "MAESTRO_LONG_WAY" in os.environ:
    stream._plainly_passed = lambda reports: False
"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the site folder and a few addresses that answer as servers do."""

    def do_GET(self):
        path, query = urlsplit(self.path)[2:4]
        if path == "/api/items":
            self._send(json.dumps(["one", "two"]).encode(), "application/json")
        elif path == "/file.csv":
            self._send(
                b"a,b\n1,2\n",
                "text/csv",
                {"Content-Disposition": 'attachment; filename="report.csv"'},
            )
        elif path == "/slow":
            time.sleep(float(query or 3))
            self._send(b"slow", "text/plain")
        elif path == "/nothing":
            self.send_response(204)
            self.end_headers()
        elif path == "/set-cookie":
            self._send(
                b"<title>cookie</title>", "text/html", {"Set-Cookie": "from=server"}
            )
        else:
            super().do_GET()

    def _send(self, body, kind, headers=None):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
        except ConnectionError:
            pass  # the browser gave up, as a test wanted

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # browsers close connections when they like


@pytest.fixture(autouse=True)
def without_plugins(monkeypatch):
    """Let pytest runs inside of tests load none of the plugins that are about.

    Hypothesis and trio alone take a second each; `-p xdist` loads one by name.
    """
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


@pytest.fixture(scope="session")
def site():
    """The address of the site that the browser tests use."""
    server = Server(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(HERE / "site"))
    )
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def start_browser(require_program, site):
    """Return a function that starts a browser of a back end."""

    def start(backend, **settings):
        require_program("chromium")
        if backend == "selenium":
            require_program("chromedriver")
        import maestro_test_adapters

        adapter = {
            "selenium": "SeleniumAdapter",
            "playwright": "PlaywrightAdapter",
        }[backend]
        return getattr(maestro_test_adapters, adapter)(
            **{"base_url": site, "timeout": 5, **settings}
        )

    return start


@pytest.fixture(scope="module", params=["selenium", "playwright"])
def browser(request, start_browser, tmp_path_factory):
    """One browser per module and back end."""
    with start_browser(
        request.param, artifacts=tmp_path_factory.mktemp("artifacts")
    ) as started:
        yield started


@pytest.fixture
def free_port():
    """A port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def both_ways():
    """Return a conftest.py that tells each plain pass the short and the long way.

    The file `told` gets a line for each: `same`, or how they differ. With
    MAESTRO_LONG_WAY in the environment every test goes the long way.
    """
    return BOTH_WAYS


@pytest.fixture
def write(tmp_path):
    """Return a function that writes files into an empty folder."""

    def put(**files):
        for name, text in files.items():
            path = tmp_path / name.replace("__", "/")
            if not path.suffix:
                path = path.with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return tmp_path

    return put
