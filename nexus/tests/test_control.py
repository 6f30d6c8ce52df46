"""Starting, finding and stopping the index."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from maestro_index import control
from maestro_index.__main__ import main
from maestro_index._serve import bind
from maestro_index.errors import ControlFault

from .index_client import Client, make_wheel


def test_start_twice_is_one_server_and_keeps_the_password(tmp_path):
    first = control.ensure_running(tmp_path, 0)
    try:
        second = control.ensure_running(tmp_path, 0)
        assert (first.pid, first.password) == (second.pid, second.password)
        assert (first.started, second.started) == (True, False)
    finally:
        assert control.stop(tmp_path)
    assert not control.stop(tmp_path)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_answers_do_not_wait_for_acknowledgements(host):
    async def accepted():
        seen = asyncio.Queue()
        listener = bind(host, 0)
        async with await asyncio.start_server(
            lambda *pair: seen.put(pair), sock=listener
        ):
            _, client = await asyncio.open_connection(*listener.getsockname()[:2])
            _, writer = await asyncio.wait_for(seen.get(), 10)
            sock = writer.get_extra_info("socket")
            value = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            client.close()
            writer.close()
            return value

    assert asyncio.run(accepted())


def test_two_that_start_it_at_once_share_one_server_and_one_password(tmp_path):
    code = (
        "import sys; from pathlib import Path; from maestro_index import control; "
        "sys.stdin.readline(); found = control.ensure_running(Path(sys.argv[1]), 0); "
        "print(found.pid, found.password, found.started)"
    )
    with contextlib.ExitStack() as stack:
        both = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-P", "-c", code, str(tmp_path)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
                )
            )
            for _ in range(3)
        ]  # fmt: skip
        stack.callback(control.stop, tmp_path)
        for process in both:
            process.stdin.write("\n")
            process.stdin.flush()
        said = [process.communicate(timeout=90)[0].split() for process in both]
        assert len({(pid, password) for pid, password, _ in said}) == 1
        assert sorted(started for *_, started in said) == ["False", "False", "True"]
        # And it is the password that the server knows.
        url = control.ensure_running(tmp_path, 0).url
        name, content = make_wheel()
        client = Client(tmp_path, control.ensure_running(tmp_path, 0))
        assert client.url == url
        assert client.upload(name, content).status_code == 200


def test_a_port_taken_by_a_web_server_is_one_sentence(tmp_path):
    class Other(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            with pytest.raises(ControlFault, match="taken by something that is not"):
                control.ensure_running(tmp_path, server.server_port)
        finally:
            server.shutdown()
            thread.join()


def test_a_port_that_never_answers_is_taken_too(tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(0.1)
        accepted = []

        def hang_up():
            for _ in range(100):
                try:
                    accepted.append(silent.accept()[0])
                except TimeoutError:
                    continue
                accepted[-1].close()
                return

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(ControlFault, match="not an index"):
            control.ensure_running(tmp_path, silent.getsockname()[1])
        thread.join()


def test_the_index_of_another_checkout_is_named(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    running = control.ensure_running(tmp_path / "a", 0)
    try:
        port = int(running.url.rpartition(":")[2])
        with pytest.raises(ControlFault, match="another checkout"):
            control.ensure_running(tmp_path / "b", port)
    finally:
        control.stop(tmp_path / "a")


def test_one_folder_has_one_server(tmp_path):
    from maestro_index._store import HostedStore

    store = HostedStore(tmp_path)
    with pytest.raises(ControlFault, match="already serves"):
        HostedStore(tmp_path)
    store.close()
    HostedStore(tmp_path).close()


def test_another_machine_never_sees_it(tmp_path, capsys):
    code = main(["serve", "--root", str(tmp_path), "--host", "0.0.0.0", "--port", "0"])
    assert code == 3
    assert "not a loopback address" in capsys.readouterr().err


def test_the_command_starts_tells_and_stops(tmp_path, capsys):
    root = str(tmp_path)
    assert main(["status", "--root", root]) == 1
    capsys.readouterr()
    assert main(["start", "--root", root, "--port", "0", "--json"]) == 0
    url = json.loads(capsys.readouterr().out)["url"]
    assert main(["status", "--root", root, "--json"]) == 0
    state = json.loads(capsys.readouterr().out)
    assert state["running"] is True
    assert url.endswith(str(state["port"]))
    assert main(["stop", "--root", root]) == 0
    assert main(["stop", "--root", root]) == 1


@pytest.mark.parametrize("port", ["many", "70000", "-1"])
def test_a_wrong_port_is_a_usage_error_in_one_line(tmp_path, monkeypatch, capsys, port):
    monkeypatch.setenv("MAESTRO_INDEX_PORT", port)
    with pytest.raises(SystemExit) as caught:
        main(["start", "--root", str(tmp_path)])
    assert caught.value.code == 2
    assert f"'{port}' is no port" in capsys.readouterr().err
    assert main(["status", "--root", str(tmp_path)]) == 1  # needs no port


def test_another_port_than_the_running_index_has_is_explained(tmp_path):
    running = control.ensure_running(tmp_path, 0)
    try:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        there = running.url.rpartition(":")[2]
        with pytest.raises(ControlFault, match=f"runs on port {there}, not on {port}"):
            control.ensure_running(tmp_path, port)
    finally:
        control.stop(tmp_path)


def test_the_running_index_is_found_when_nobody_names_a_port(tmp_path):
    running = control.ensure_running(tmp_path, 0)
    try:
        found = control.ensure_running(tmp_path)
        assert (found.url, found.started) == (running.url, False)
    finally:
        control.stop(tmp_path)
