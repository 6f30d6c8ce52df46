"""The index killed with -9 in the middle of uploads."""

import os
import random
import signal
import socket
import threading
import time
from pathlib import Path

import pytest
import requests
from maestro_index import control

from .index_client import Client, make_wheel


def kill(client: Client) -> None:
    pid = client.running.pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def upload_until_it_dies(
    client: Client, start: int, acknowledged: dict[str, bytes]
) -> None:
    """Send one wheel after the other and note which were answered with 200."""
    for number in range(start, start + 50):
        filename, content = make_wheel(version=f"1.{number}", filler=b"x" * 300_000)
        try:
            answer = client.upload(filename, content)
        except requests.RequestException:
            return
        if answer.status_code == 200:
            acknowledged[filename] = content


def crash_rounds(root: Path, rounds: int) -> int:
    """Kill the index at random moments; return how many uploads were acknowledged."""
    chance = random.Random(rounds)
    acknowledged: dict[str, bytes] = {}
    for number in range(rounds):
        client = Client(root, control.ensure_running(root, 0))
        sender = threading.Thread(
            target=upload_until_it_dies, args=(client, number * 50, acknowledged)
        )
        before, wanted = len(acknowledged), chance.randrange(4)
        sender.start()
        deadline = time.monotonic() + 30
        while len(acknowledged) < before + wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.uniform(0.0, 0.03))
        kill(client)
        sender.join(timeout=60)
        assert not sender.is_alive()
    client = Client(root, control.ensure_running(root, 0))
    try:
        listed = client.listed("maestro-demo")
        assert set(acknowledged) <= listed
        for filename in listed:
            version = filename.split("-")[1]
            path = f"/repository/pypi-hosted/packages/maestro-demo/{version}/{filename}"
            served = client.get(path).content
            expected = make_wheel(version=version, filler=b"x" * 300_000)[1]
            assert len(served) == len(expected)  # zip times differ, sizes do not
            assert filename not in acknowledged or served == acknowledged[filename]
        assert not list((root / ".index/data/tmp").iterdir())
    finally:
        control.stop(root)
    return len(acknowledged)


def test_a_killed_index_lists_nothing_torn_and_keeps_what_it_acknowledged(tmp_path):
    assert crash_rounds(tmp_path, 5) > 0


@pytest.mark.drill
def test_a_hundred_kills_lose_and_tear_nothing(tmp_path):
    assert crash_rounds(tmp_path, 100) > 50


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.95])
def test_a_kill_in_the_middle_of_one_upload_shows_nothing(tmp_path, share):
    """The body stops at a part of its length, then the index dies."""
    client = Client(tmp_path, control.ensure_running(tmp_path, 0))
    filename, content = make_wheel(filler=b"y" * 2_000_000)
    request = requests.Request(
        "POST",
        f"{client.url}/repository/pypi-hosted/",
        data={":action": "file_upload"},
        files={"content": (filename, content)},
        auth=client.login,
    ).prepare()
    port = int(client.url.rpartition(":")[2])
    head = (
        f"POST /repository/pypi-hosted/ HTTP/1.1\r\nHost: localhost:{port}\r\n"
        + "".join(f"{key}: {value}\r\n" for key, value in request.headers.items())
    )
    with socket.create_connection(("127.0.0.1", port)) as wire:
        wire.sendall(head.encode() + b"\r\n")
        wire.sendall(request.body[: int(len(request.body) * share)])
        kill(client)
    again = Client(tmp_path, control.ensure_running(tmp_path, 0))
    try:
        assert again.listed("maestro-demo") == set()
        assert again.upload(filename, content).status_code == 200
        assert again.listed("maestro-demo") == {filename}
    finally:
        control.stop(tmp_path)


def test_racing_uploads_of_one_name_have_one_winner(tmp_path):
    client = Client(tmp_path, control.ensure_running(tmp_path, 0))
    answers: list[tuple[int, bytes]] = []

    def send(number: int) -> None:
        filename, content = make_wheel(filler=bytes([number]) * 50_000)
        answers.append((client.upload(filename, content).status_code, content))

    try:
        threads = [threading.Thread(target=send, args=(n,)) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        winners = [content for status, content in answers if status == 200]
        assert sorted(status for status, _ in answers) == [200] + [400] * 15
        filename, _ = make_wheel()
        path = f"/repository/pypi-hosted/packages/maestro-demo/1.0.0/{filename}"
        assert client.get(path).content == winners[0]
    finally:
        control.stop(tmp_path)
