"""Existing Consul clients work against the server, unmodified."""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request

import consul
import pytest
from registry_support import serving, wait_until


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    url = f"sqlite:///{tmp_path_factory.mktemp('consul')}/registry.db"
    with serving(url) as (found, _):
        yield found


@pytest.fixture
def client(address):
    host, port = address.removeprefix("http://").split(":")
    found = consul.Consul(host=host, port=int(port))
    yield found
    found.http.session.close() if hasattr(found.http, "session") else None


def call(address, path, method="GET", body=None, **headers):
    raw = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, raw, headers, method=method)
    with urllib.request.urlopen(request, timeout=20) as response:
        return response.headers, response.read()


def refused(address, path, method="PUT", body=None, **headers):
    with pytest.raises(urllib.error.HTTPError) as caught:
        call(address, path, method, body, **headers)
    with caught.value as error:
        return error.code, error.read().decode()


def test_py_consul_registers_passes_a_ttl_check_and_finds(client):
    check = consul.Check.ttl("10s")
    client.agent.service.register(
        "web",
        service_id="web1",
        address="127.0.0.1",
        port=8080,
        tags=["http"],
        check=check,
    )
    assert client.agent.services()["web1"]["Port"] == 8080
    index, found = client.health.service("web", passing=True)
    assert (int(index) > 0, found) == (True, [])
    client.agent.check.ttl_pass("service:web1", "fine")
    _, (entry,) = client.health.service("web", passing=True)
    assert (entry["Service"]["ID"], entry["Service"]["Tags"]) == ("web1", ["http"])
    assert {c["Status"] for c in entry["Checks"]} == {"passing"}
    assert client.catalog.services()[1]["web"] == ["http"]
    assert client.catalog.service("web")[1][0]["ServicePort"] == 8080
    client.agent.service.maintenance("web1", True, "disk swap")
    assert client.health.service("web", passing=True)[1] == []
    client.agent.service.maintenance("web1", False)
    client.agent.service.deregister("web1")
    assert client.health.service("web")[1] == []


def test_a_ttl_check_without_reports_turns_critical(client):
    client.agent.service.register("mute", port=1, check=consul.Check.ttl("2s"))
    client.agent.check.ttl_pass("service:mute")
    assert len(client.health.service("mute", passing=True)[1]) == 1
    wait_until(lambda: client.health.service("mute", passing=True)[1] == [])
    _, (entry,) = client.health.service("mute")
    assert "no report for 2 s" in entry["Checks"][0]["Output"]


def test_a_critical_service_is_deregistered_when_told_so_without_a_minimum(client):
    check = consul.Check.ttl("1s") | {"DeregisterCriticalServiceAfter": "1s"}
    client.agent.service.register("doomed", port=1, check=check)
    wait_until(lambda: client.health.service("doomed")[1])
    started = time.monotonic()
    wait_until(lambda: client.health.service("doomed")[1] == [])
    assert time.monotonic() - started < 10


def test_a_blocking_query_wakes_with_the_change_and_not_with_others(client):
    client.agent.service.register("slow", service_id="s1", port=1)

    def settled():
        # An index may lag behind what it came with: that wakes once for nothing.
        index, (entry,) = client.health.service("slow")
        return int(index) >= entry["Service"]["ModifyIndex"] and index

    index, answers = wait_until(settled), []

    def ask():
        answers.append(
            (client.health.service("slow", index=index, wait="20s"), time.monotonic())
        )

    thread = threading.Thread(target=ask)
    thread.start()
    client.agent.service.register("other", port=1)
    thread.join(0.3)  # longer than a wake-up takes
    assert answers == []
    changed = time.monotonic()
    client.agent.service.register("slow", service_id="s2", port=2)
    thread.join(15)
    (((fresh, entries), at),) = answers
    assert int(fresh) > int(index)
    assert {entry["Service"]["ID"] for entry in entries} == {"s1", "s2"}
    assert at - changed < 15, "it slept until its time was over"


def test_a_blocking_query_without_change_returns_in_time(client):
    client.agent.service.register("quiet", port=1)
    index, _ = client.health.service("quiet")
    started = time.monotonic()
    again, _ = client.health.service("quiet", index=index, wait="1s")
    assert 0.9 < time.monotonic() - started < 15
    assert again == index


def test_answers_do_not_wait_for_delayed_acknowledgements(client):
    """With Nagle's algorithm each answer on a kept connection took 40 ms or more."""
    client.agent.service.register("quick", port=1)
    times = []
    for _ in range(40):
        started = time.monotonic()
        client.health.service("quick")
        times.append(time.monotonic() - started)
    assert min(times) < 0.035


def test_session_locks_exclude_and_count(client):
    one = client.session.create("one", ttl=10, lock_delay=0)
    two = client.session.create("two", ttl=10, lock_delay=0)
    assert client.kv.put("jobs/nightly", "a", acquire=one)
    assert not client.kv.put("jobs/nightly", "b", acquire=two)
    _, key = client.kv.get("jobs/nightly")
    assert (key["Session"], key["Value"], key["LockIndex"]) == (one, b"a", 1)
    assert client.kv.put("jobs/nightly", "a", release=one)
    assert client.kv.put("jobs/nightly", "b", acquire=two)
    assert client.kv.get("jobs/nightly")[1]["LockIndex"] == 2
    assert client.session.renew(two)["ID"] == two
    client.session.destroy(two)
    assert "Session" not in client.kv.get("jobs/nightly")[1]
    with pytest.raises(consul.NotFound):
        client.session.renew(two)


def test_a_session_ends_at_its_ttl_and_not_at_twice_of_it(address, client):
    started = time.monotonic()
    _, raw = call(
        address, "/v1/session/create", "PUT", {"TTL": "3s", "LockDelay": "0s"}
    )
    session = json.loads(raw)["ID"]
    assert client.kv.put("short", "x", acquire=session)
    wait_until(lambda: not client.session.info(session)[1])
    assert 2.9 < time.monotonic() - started < 6
    other = client.session.create(ttl=10, lock_delay=0)
    assert wait_until(lambda: client.kv.put("short", "y", acquire=other))
    assert client.kv.get("short")[1]["LockIndex"] == 2


def test_keys_compare_and_set_list_and_vanish(client):
    assert client.kv.put("tree/a", "1", cas=0)
    assert not client.kv.put("tree/a", "2", cas=0)
    index = client.kv.get("tree/a")[1]["ModifyIndex"]
    assert client.kv.put("tree/a", "2", cas=index)
    client.kv.put("tree/b", "3")
    assert client.kv.get("tree/", keys=True)[1] == ["tree/a", "tree/b"]
    assert [k["Value"] for k in client.kv.get("tree/", recurse=True)[1]] == [b"2", b"3"]
    client.kv.delete("tree/", recurse=True)
    assert client.kv.get("tree/a")[1] is None


def test_an_http_check_of_the_server_follows_the_service(client, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        stop = threading.Event()

        def answer():
            listener.settimeout(0.2)
            while not stop.is_set():
                try:
                    peer, _ = listener.accept()
                except TimeoutError:
                    continue
                with peer:
                    peer.recv(4096)
                    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        check = consul.Check.http(
            f"http://127.0.0.1:{port}/health", "200ms", timeout="1s"
        )
        client.agent.service.register(
            "checked", address="127.0.0.1", port=port, check=check
        )
        try:
            wait_until(lambda: client.health.service("checked", passing=True)[1])
        finally:
            stop.set()
            thread.join()
    wait_until(lambda: client.health.service("checked", passing=True)[1] == [])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"Name": "My_Web"}, "DNS label"),
        ({"Name": "web", "Port": 70000}, "0 to 65535"),
        (
            {
                "Name": "web",
                "Check": {"HTTP": "http://169.254.169.254/x", "Interval": "1s"},
            },
            "own host",
        ),
        (
            {
                "Name": "web",
                "Address": "10.0.0.9",
                "Check": {"TCP": "10.0.0.9:80", "Interval": "1s"},
            },
            "registrant's own host",
        ),
        (
            {"Name": "web", "Check": {"Args": ["/bin/true"], "Interval": "1s"}},
            "--allow-scripts",
        ),
        ({"Name": "web", "Check": {"TTL": "soon"}}, "a duration such as"),
        ([], "a JSON object"),
    ],
)
def test_bad_registrations_are_refused_with_the_reason(address, body, said):
    status, text = refused(address, "/v1/agent/service/register", body=body)
    assert status == 400
    assert said in text


def test_checks_that_were_added_or_removed_stay_so_after_a_restart(tmp_path):
    url = f"sqlite:///{tmp_path}/r.db"
    register, add = "/v1/agent/service/register", "/v1/agent/check/register"

    def checks(address):
        _, raw = call(address, "/v1/health/checks/web")
        return sorted(check["CheckID"] for check in json.loads(raw))

    with serving(url) as (address, _):
        own = [{"CheckID": name, "TTL": "60s"} for name in ("own", "gone")]
        call(address, register, "PUT", {"Name": "web", "Port": 1, "Checks": own})
        for name in ("added", "dropped"):
            body = {"ServiceID": "web", "ID": name, "Name": name, "TTL": "60s"}
            call(address, add, "PUT", body)
        for name in ("gone", "dropped"):
            call(address, f"/v1/agent/check/deregister/{name}", "PUT", {})
        assert checks(address) == ["added", "own"]
    with serving(url) as (address, _):
        assert checks(address) == ["added", "own"]
        call(address, "/v1/agent/check/pass/added", "PUT", {})
        call(address, register, "PUT", {"Name": "web", "Port": 1})
    with serving(url) as (address, _):
        assert checks(address) == ["lease:web"], "registering again starts anew"


def test_a_service_that_may_not_be_taken_up_does_not_stop_the_server(tmp_path):
    url, register = f"sqlite:///{tmp_path}/r.db", "/v1/agent/service/register"
    script = {"Args": ["true"], "Interval": "60s"}
    with serving(url, "--allow-scripts") as (address, _):
        call(address, register, "PUT", {"Name": "old", "Port": 1, "Check": script})
        call(address, register, "PUT", {"Name": "web", "Port": 1})
    with serving(url) as (address, _):
        _, raw = call(address, "/v1/agent/services")
        assert list(json.loads(raw)) == ["web"]


def test_registrations_survive_a_restart_of_the_server(tmp_path):
    url = f"sqlite:///{tmp_path}/registry.db"
    with serving(url) as (address, process):
        call(address, "/v1/agent/service/register", "PUT", {"Name": "web", "Port": 80})
        process.send_signal(signal.SIGKILL)
        process.wait()
    with serving(url) as (address, _):
        found = wait_until(
            lambda: json.loads(call(address, "/v1/health/service/web")[1])
        )
    assert found[0]["Service"]["Port"] == 80


def test_a_frozen_server_does_not_hang_our_client(tmp_path):
    from maestro_service_registry import StoreUnavailable, open_store

    with serving(f"sqlite:///{tmp_path}/r.db") as (address, process):
        first = open_store(address)  # a slow machine may take its time here
        now = first.read("").revision
        first.close()
        store = open_store(address, timeout=0.5)
        process.send_signal(signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(StoreUnavailable, match="timed out"):
            store.events("", now, 1.0)
        assert 0.5 <= time.monotonic() - started < 15
        store.close()


def test_tokens_open_what_their_scopes_say(tmp_path):
    from maestro_service_registry._server._access import new_token

    tokens, lines = {}, []
    for scope in ("read", "register:web", "admin"):
        tokens[scope], line = new_token([scope])
        lines.append(line)
    file = tmp_path / "tokens"
    file.write_text("\n".join(["# ours", *lines]), encoding="utf-8")
    assert not any(
        token in file.read_text(encoding="utf-8") for token in tokens.values()
    )
    with serving(f"sqlite:///{tmp_path}/r.db", "--token-file", str(file)) as (
        address,
        _,
    ):
        register, body = "/v1/agent/service/register", {"Name": "web-1", "Port": 1}
        assert refused(address, "/v1/catalog/services", "GET")[0] == 403
        assert (
            refused(
                address, register, body=body, Authorization=f"Bearer {tokens['read']}"
            )[0]
            == 403
        )
        call(
            address, register, "PUT", body, **{"X-Consul-Token": tokens["register:web"]}
        )
        other = {"Name": "shop", "Port": 1}
        assert (
            refused(
                address,
                register,
                body=other,
                Authorization=f"Bearer {tokens['register:web']}",
            )[0]
            == 403
        )
        _, raw = call(
            address, "/v1/catalog/services", Authorization=f"Bearer {tokens['read']}"
        )
        assert list(json.loads(raw)) == ["web-1"]
        from maestro_service_registry import AccessDenied, ServiceRegistry

        with ServiceRegistry.open(address, token=tokens["admin"]) as registry:
            assert list(registry.services()) == ["web-1"]
        with (
            pytest.raises(AccessDenied, match="'admin'"),
            ServiceRegistry.open(address, token=tokens["read"]) as registry,
        ):
            registry.services()


def test_events_are_streamed(address):
    request = urllib.request.urlopen(
        f"{address}/v1/maestro/events?service=streamed", timeout=20
    )
    with request as stream:
        assert stream.readline().startswith(b": from revision")
        call(
            address,
            "/v1/agent/service/register",
            "PUT",
            {"Name": "streamed", "Port": 5},
        )
        lines = []
        while not lines or not lines[-1].startswith("data:"):
            lines.append(stream.readline().decode().strip())
    assert "event: added" in lines
    assert json.loads(lines[-1].removeprefix("data:"))["instance"]["port"] == 5


def test_metrics_and_may_answer(address):
    call(address, "/v1/agent/service/register", "PUT", {"Name": "counted", "Port": 5})
    _, raw = call(address, "/v1/maestro/metrics")
    assert (
        'maestro_registry_instances{service="counted",status="up",health="passing"} 1'
        in raw.decode()
    )
    _, raw = call(address, "/v1/maestro/may?action=restart&service=counted")
    assert json.loads(raw)["ok"] is True


NODE = """
const Consul = require("consul");
const client = new Consul({host: "127.0.0.1", port: Number(process.argv[2])});
(async () => {
  await client.agent.service.register({name: "npm", id: "npm1", port: 7, check: {ttl: "10s"}});
  await client.agent.check.pass("service:npm1");
  const found = await client.health.service({service: "npm", passing: true});
  const index = found[0].Service.ModifyIndex;
  const waiting = client.health.service({service: "npm", index: 1, wait: "10s"});
  const session = (await client.session.create({ttl: "10s", lockdelay: "1s"})).ID;
  const got = await client.kv.set({key: "npm-lock", value: "x", acquire: session});
  const again = await client.session.create({ttl: "10s"});
  const not = await client.kv.set({key: "npm-lock", value: "y", acquire: again.ID});
  const key = await client.kv.get("npm-lock");
  const blocked = await waiting;
  await client.agent.service.deregister("npm1");
  console.log(JSON.stringify({id: found[0].Service.ID, index: index > 0, got, not: Boolean(not),
    value: key.Value, mine: key.Session === session, blocked: blocked.length}));
})().catch(e => { console.error(e); process.exit(1); });
"""


def test_the_npm_client_works_unmodified(address, tmp_path):
    npm, node = shutil.which("npm"), shutil.which("node")
    if not npm or not node:
        pytest.skip("npm or node is not installed")
    done = subprocess.run(
        [npm, "install", "--silent", "--no-audit", "--no-fund", "consul@2.0.1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=100,
        check=False,
        env=os.environ | {"npm_config_cache": str(tmp_path / "cache")},
    )
    if done.returncode:
        pytest.skip(f"npm cannot install consul here: {done.stderr[-200:]}")
    (tmp_path / "try.js").write_text(NODE, encoding="utf-8")
    port = address.rpartition(":")[2]
    done = subprocess.run(
        [node, "try.js", port],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "id": "npm1",
        "index": True,
        "got": True,
        "not": False,
        "value": "x",
        "mine": True,
        "blocked": 1,
    }
