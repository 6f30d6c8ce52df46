"""Active checks, their thresholds, and the graph that waits for them."""

import asyncio
import contextlib
import http.server
import itertools
import threading
import time

import pytest
from maestro_service_registry import (
    Call,
    CycleError,
    Grpc,
    Http,
    InvalidInput,
    NotReady,
    Script,
    Tcp,
    Ttl,
    Verdict,
)
from maestro_service_registry._checks import CheckState
from maestro_service_registry._graph import Graph
from maestro_service_registry._probe import probe
from registry_support import free_port, wait_until

GOOD, BAD = Verdict("passing"), Verdict("critical", "refused")


def feed(state, text):
    return "".join(state.add(GOOD if c == "+" else BAD)[0] for c in text)


def test_it_takes_some_failures_to_fall_and_some_successes_to_rise():
    state = CheckState(fails=3, passes=2, initial="passing")
    assert feed(state, "--+---+-++"[:9]) == "pppppcccc"
    assert feed(CheckState(fails=1, passes=2, initial="passing"), "-++") == "ccp"


def test_a_flapping_check_is_held_critical_until_it_calms():
    state = CheckState(fails=1, passes=1, initial="passing")
    feed(state, "+-" * 10)
    assert (state.flapping, state.status) == (True, "critical")
    assert state.output.startswith("flapping")
    assert feed(state, "+" * 20).endswith("p")
    assert not state.flapping


class Answers(http.server.BaseHTTPRequestHandler):
    codes = {"/ok": 200, "/busy": 429, "/bad": 500}

    def do_GET(self):
        if self.path == "/slow":
            time.sleep(1)
        self.send_response(self.codes.get(self.path, 404))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(b"body")

    def log_message(self, *_):
        pass


@pytest.fixture
def web():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/ok", "passing", "HTTP 200"),
        ("/busy", "warning", "HTTP 429 body"),
        ("/bad", "critical", "HTTP 500 body"),
        ("/none", "critical", "HTTP 404"),
        ("/slow", "critical", "no answer within 0.3 s"),
    ],
)
def test_http_checks_read_the_status(web, path, status, said):
    check = Http(path, timeout=0.3 if path == "/slow" else 20)
    for host in ("127.0.0.1", "localhost"):
        found = asyncio.run(probe(check, host, web))
        assert (found.status, found.output[: len(said)]) == (status, said)


@pytest.mark.parametrize(
    ("check", "status", "said"),
    [
        (Script(["/bin/sh", "-c", "echo fine"]), "passing", "fine"),
        (Script(["/bin/sh", "-c", "exit 1"]), "warning", "exit code 1"),
        (Script(["/bin/sh", "-c", "echo no; exit 2"]), "critical", "exit code 2: no"),
        (Script(["/bin/sleep", "9"], timeout=0.1), "critical", "no answer within"),
        (Script(["/no/such/program"]), "critical", "FileNotFoundError"),
        (Call(function=lambda: True), "passing", ""),
        (Call(function=lambda: False), "critical", "returned False"),
        (Call(function=lambda: Verdict("warning", "half")), "warning", "half"),
        (Call(function=lambda: 1 / 0), "critical", "ZeroDivisionError"),
        (Call(function=lambda: "yes"), "critical", "returned 'yes'"),
    ],
)
def test_other_checks_tell_what_happened(check, status, said):
    found = asyncio.run(probe(check, "127.0.0.1", 1))
    assert (found.status, found.output[: len(said)]) == (status, said)


def test_a_coroutine_can_be_a_check():
    async def fine():
        await asyncio.sleep(0)
        return True

    assert asyncio.run(probe(Call(function=fine), "h", 1)).status == "passing"


def test_a_tcp_check_connects(web):
    assert asyncio.run(probe(Tcp(), "127.0.0.1", web)).status == "passing"
    closed = asyncio.run(probe(Tcp(), "127.0.0.1", free_port()))
    assert closed.output.startswith("ConnectionRefusedError")


def test_a_grpc_check_asks_the_health_service():
    grpc = pytest.importorskip("grpc")
    from concurrent.futures import ThreadPoolExecutor

    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        servicer.set("db", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert asyncio.run(probe(Grpc(""), "127.0.0.1", port)).status == "passing"
        found = asyncio.run(probe(Grpc("db"), "127.0.0.1", port))
        assert (found.status, found.output) == ("critical", "NOT_SERVING")
    finally:
        server.stop(None).wait()


def test_a_registered_check_takes_the_instance_out_and_back(registry, web):
    check = Http("/ok", interval=0.05, fails=2)
    registry.register("web", port=web, id="w1", checks=[check])
    service = registry.service("web")
    wait_until(lambda: service.stats().usable)
    Answers.codes["/ok"] = 500
    try:
        wait_until(lambda: not service.stats().usable)
        (found,) = registry.find("web")
        assert found.output.endswith("HTTP 500 body")
    finally:
        Answers.codes["/ok"] = 200
    wait_until(lambda: service.stats().usable)


def test_a_ttl_check_turns_critical_without_beats(registry):
    me = registry.register("job", port=0, id="j1", checks=[Ttl(interval=0.2)])
    wait_until(lambda: registry.find("job")[0].health == "critical")
    assert "no report for 0.2 s" in registry.find("job")[0].output
    me.beat("passing", "done")
    assert registry.find("job")[0].health == "passing"
    wait_until(lambda: registry.find("job")[0].health == "critical")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Http("ftp://x"), "a path or an http"),
        (lambda: Http("/a\r\nHost: b"), "line breaks"),
        (lambda: Http("/", headers=(("X", "a\nb"),)), "no line breaks"),
        (lambda: Script("rm -rf x"), "no shell line"),
        (lambda: Script([]), "a list of words"),
        (lambda: Tcp(interval=0), "0.01 to 86400"),
        (lambda: Tcp(fails=0), "1 to 100"),
    ],
)
def test_bad_checks_are_refused(make, said):
    with pytest.raises(InvalidInput, match=said):
        make()


def test_an_http_check_to_a_foreign_host_is_refused_unless_told(memory):
    foreign = Http("http://169.254.169.254/latest")
    with pytest.raises(InvalidInput, match="own host 127.0.0.1"):
        memory.register("web", port=1, checks=[foreign])
    assert memory.services() == {}
    assert Http("http://elsewhere/", foreign=True).url_for("h", 1, "http")


def graph(**edges):
    return Graph(
        {k: {n: frozenset({"*"}) for n in v.split()} for k, v in edges.items()}
    )


def test_the_order_is_layered_and_stable():
    found = graph(shop="billing ledger", billing="ledger", ledger="db", mail="")
    assert found.order() == [["db", "mail"], ["ledger"], ["billing"], ["shop"]]
    assert found.order(["billing"]) == [["db"], ["ledger"], ["billing"]]
    assert found.consumers("ledger") == ("billing", "shop")
    assert '"shop" -> "billing" [label="*"];' in found.dot()


def test_a_circle_is_reported_with_its_path():
    with pytest.raises(CycleError, match="b -> c -> b") as caught:
        graph(a="b", b="c", c="b").order()
    assert caught.value.path == ("b", "c", "b")
    with pytest.raises(CycleError, match="a -> a"):
        graph(a="a").order()


def test_a_long_chain_needs_no_recursion():
    names = [f"s{n:04}" for n in range(3000)]
    edges = {a: {b: frozenset({"*"})} for a, b in itertools.pairwise(names)}
    assert len(Graph(edges).order()) == 3000


def test_waiting_follows_the_requirements(registry):
    registry.register("shop", port=1, requires={"billing": "^2"})
    old = registry.register("billing", port=2, id="old", version="1.0.0")
    with pytest.raises(NotReady, match=r"shop: requires billing \^2, and no passing"):
        registry.wait_ready(["shop"], timeout=0.1)
    timer = threading.Timer(
        0.1, lambda: registry.register("billing", port=3, id="new", version="2.1.0")
    )
    timer.start()
    registry.wait_ready(["shop"], timeout=20)
    timer.join()
    assert old.instance.version == "1.0.0"
    with pytest.raises(NotReady, match="nobody: no passing instance"):
        registry.wait_ready(["nobody"], timeout=0.05)
