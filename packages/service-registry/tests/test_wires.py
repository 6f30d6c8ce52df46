"""Connections to a server: none is left open, none that broke is used again."""

import contextlib
import http.client
import http.server
import json
import os
import signal
import threading

import pytest
from maestro_service_registry import StoreUnavailable, open_store
from registry_support import open_sockets, python, wait_until

NOW = {
    "http": b"1800000000.0",
    "etcd": json.dumps({"header": {"revision": "7", "raft_term": "2"}}).encode(),
}


class Server:
    """Answers whatever is asked, as both servers would; tells who connected."""

    def __init__(self, kind, version="HTTP/1.1"):
        self.url, self.connected, self.asked = "", 0, 0
        self.before_answer = self.after_answer = lambda handler: None
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = version

            def setup(self):
                super().setup()
                outer.connected += 1

            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                outer.asked += 1
                outer.before_answer(self)
                self.send_response(200)
                self.send_header("Content-Length", str(len(NOW[kind])))
                self.end_headers()
                self.wfile.write(NOW[kind])
                outer.after_answer(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"{kind}://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@contextlib.contextmanager
def asking(store):
    """Ask on another thread; give the error that it gets."""
    errors = []

    def ask():
        try:
            store.now()
        except StoreUnavailable as error:
            errors.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    yield errors
    thread.join(20)
    assert not thread.is_alive()


KINDS = pytest.mark.parametrize("kind", ["http", "etcd"])


@KINDS
def test_closing_while_another_thread_connects_leaves_no_socket(kind, monkeypatch):
    connects, closed = threading.Event(), threading.Event()
    real = http.client.HTTPConnection.connect

    def slow(connection):
        real(connection)
        connects.set()
        assert closed.wait(20)

    with Server(kind) as server:
        before = open_sockets()
        monkeypatch.setattr(http.client.HTTPConnection, "connect", slow)
        store = open_store(server.url)
        with asking(store) as errors:
            assert connects.wait(20)
            store.close()
            closed.set()
        assert errors == ["the store is closed"]
        wait_until(lambda: open_sockets() <= before)


@KINDS
@pytest.mark.parametrize("kept", [False, True], ids=["first", "later"])
def test_closing_amid_a_request_wakes_it_and_leaves_no_socket(kind, kept):
    over = threading.Event()
    with Server(kind) as server:
        before = open_sockets()
        store = open_store(server.url)
        if kept:
            store.now()
        asked = server.asked
        server.before_answer = lambda _: over.wait(20)
        with asking(store) as errors:
            wait_until(lambda: server.asked > asked)
            store.close()
        over.set()
        assert errors == ["the store is closed"]
        wait_until(lambda: open_sockets() <= before)
        with pytest.raises(StoreUnavailable, match="is closed"):
            store.now()
        assert server.connected == 1


@KINDS
def test_a_kept_connection_that_the_server_closed_is_replaced(kind):
    with Server(kind) as server:
        store = open_store(server.url)
        gone = threading.Semaphore(0)

        def hang_up(handler):
            handler.close_connection = True  # without having announced it

        real = server.server.shutdown_request

        def shutdown_request(request):
            real(request)
            gone.release()

        server.server.shutdown_request = shutdown_request
        server.after_answer = hang_up
        for times in (1, 2, 3):
            store.now()
            assert gone.acquire(timeout=20)
            assert server.connected == times
        store.close()


@KINDS
def test_a_server_that_closes_after_each_answer_is_good_enough(kind):
    with Server(kind, "HTTP/1.0") as server:
        store = open_store(server.url)
        for times in (1, 2, 3):
            store.now()
            assert server.connected == times
        store.close()


@KINDS
def test_an_interrupted_request_costs_the_next_one_nothing(kind):
    over = threading.Event()

    def interrupt(_):
        os.kill(os.getpid(), signal.SIGINT)
        over.wait(20)

    with Server(kind) as server:
        store = open_store(server.url)
        store.now()
        server.before_answer = interrupt
        with pytest.raises(KeyboardInterrupt):
            store.now()
        server.before_answer = lambda _: None
        over.set()
        store.now()
        store.close()


@KINDS
def test_threads_that_come_and_go_share_a_connection(kind):
    with Server(kind) as server:
        store = open_store(server.url)
        for _ in range(20):
            with asking(store) as errors:
                pass
            assert errors == []
        assert server.connected == 1
        store.close()


FORKS = """
import os, sys, threading
from maestro_service_registry import open_store
store = open_store(sys.argv[1])
store.now()
(kept,) = store._wires._idle
child = os.fork()
if child == 0:
    store.now()
    store.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
store.now()
assert store._wires._idle == [kept]
store.close()
"""


def test_what_a_forked_child_closes_stays_open_for_the_parent(server_url):
    process = python(FORKS, server_url)
    process.communicate(timeout=30)
    assert process.returncode == 0
