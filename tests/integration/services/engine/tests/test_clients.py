"""The clients against a real server, and against none."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

import pytest

import src.resilience.retry as retry_module
from src.app.clients import Refused, Templates
from src.registry import service_registry
from src.resilience import CircuitBreaker as Breaker, CircuitOpen


class Answers(BaseHTTPRequestHandler):
    code, calls = 200, 0

    def do_GET(self):
        type(self).calls += 1
        raw = json.dumps({"text": "Dear Ada"}).encode()
        self.send_response(self.code)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *args):
        pass


@pytest.fixture
def registry(tmp_path):
    registry = service_registry.ServiceRegistry.open(f"sqlite:///{tmp_path}/registry.db")
    yield registry
    registry.close()


@pytest.fixture
def server(registry):
    Answers.code, Answers.calls = 200, 0
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        handle = registry.register("template", port=server.server_port)
        yield
        handle.close()
        server.shutdown()
        thread.join()


def test_a_letter_is_fetched(registry, server):
    assert Templates(registry, "template", timeout=2).render("greeting", "Ada") == "Dear Ada"


def test_a_refusal_is_not_tried_again(registry, server):
    Answers.code = 404
    with pytest.raises(Refused):
        Templates(registry, "template", timeout=2).render("none", "Ada")
    assert Answers.calls == 1


def test_an_outage_is_tried_again(registry, server):
    Answers.code = 500
    with pytest.raises(ConnectionError):
        Templates(registry, "template", timeout=2).render("greeting", "Ada")
    assert Answers.calls == 4


def test_nobody_there_is_said(registry):
    client = Templates(registry, "template", timeout=2)
    with pytest.raises(service_registry.NoInstances):
        client.render("greeting", "Ada")


def test_a_breaker_opens():
    breaker = Breaker("x", failure_rate=0.5, minimum_calls=2, open_for=60)

    @breaker
    def fails():
        raise OSError

    for _ in range(2):
        with pytest.raises(OSError):
            fails()
    with pytest.raises(CircuitOpen):
        fails()
    assert breaker.state == "open"


def test_retry_gives_up():
    calls = []
    with pytest.raises(ZeroDivisionError):
        retry_module.Retry(attempts=2, wait=0).call(lambda: calls.append(1) or 1 / 0)
    assert len(calls) == 2


@mock.patch("src.resilience.circuit_breaker.CircuitBreaker.call")
def test_the_breaker_can_be_replaced(call):
    assert Breaker("x").call(print) is call.return_value
