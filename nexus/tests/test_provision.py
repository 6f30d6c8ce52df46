"""Provisioning against a double of Nexus's REST API, typed from Sonatype's client."""

import json
import shutil
import stat
import subprocess
import tarfile

import pytest
from maestro_nexus.__main__ import main
from maestro_nexus._api import Api
from maestro_nexus.errors import NexusAway, NexusError

from .nexus_double import Double, Served, Types

CLIENT = "@sonatype/nexus-repo-api-client@3.96.3"


@pytest.fixture(scope="session")
def types(tmp_path_factory):
    """The client's types, fetched by npm; without npm or its registry, a skip."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("npm")
    done = subprocess.run(
        [npm, "pack", "--silent", CLIENT], cwd=folder, check=False, capture_output=True
    )
    archives = list(folder.glob("*.tgz"))
    if done.returncode or not archives:
        pytest.skip(f"npm cannot fetch {CLIENT}: {done.stderr.decode()[-200:]}")
    with tarfile.open(archives[0]) as archive:
        archive.extractall(folder, filter="data")
    return Types(folder / "package" / "dist" / "models")


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("MAESTRO_NEXUS_PASSWORD", "first")
    monkeypatch.chdir(tmp_path)
    double = Double(None)
    with Served(double) as url:
        yield double, url


def run(command, url, *more):
    return main(
        [
            command,
            "--url",
            url,
            "--upstream",
            "https://up.example/simple",
            "--json",
            *more,
        ]
    )


def test_every_body_fits_the_client_and_a_second_run_changes_nothing(
    server, types, capsys
):
    double, url = server
    double.types = types
    assert run("provision", url) == 0
    first = json.loads(capsys.readouterr().out)
    assert double.problems == []
    assert {step["done"] for step in first} == {"accepted", "switched off", "created"}
    assert len(double.writes) == 12
    double.writes.clear()
    assert run("provision", url) == 0
    second = json.loads(capsys.readouterr().out)
    assert double.writes == []
    assert {step["done"] for step in second} == {"unchanged"}


def test_the_types_notice_a_wrong_body(types):
    """The check can fail: each kind of mistake is named."""
    name = "PypiHostedRepositoryApiRequest"
    good = {
        "blobStoreName": "b",
        "strictContentTypeValidation": True,
        "writePolicy": "ALLOW",
    }
    assert types.check(name, {"name": "n", "online": True, "storage": good}) == []
    assert "online is missing" in types.check(name, {"name": "n", "storage": good})[0]
    wrong = {"name": 1, "online": True, "storage": good, "extra": 1}
    assert len(types.check(name, wrong)) == 2


def test_a_change_by_hand_is_found_and_put_right(server, capsys):
    double, url = server
    assert run("provision", url) == 0
    at = "/v1/repositories/pypi/hosted/pypi-hosted"
    double.things[at]["storage"]["writePolicy"] = "allow"
    double.anonymous["enabled"] = True
    capsys.readouterr()
    assert run("doctor", url) == 1
    found = {f["title"]: f["problems"] for f in json.loads(capsys.readouterr().out)}
    assert "writePolicy is 'allow'" in found["hosted repository pypi-hosted"][0]
    assert found["anonymous access"]
    double.writes.clear()
    assert run("provision", url) == 0
    assert double.writes == [("PUT", "/v1/security/anonymous"), ("PUT", at)]
    capsys.readouterr()
    assert run("doctor", url) == 0


def test_a_routing_rule_that_the_server_ignores_is_an_error(server, capsys):
    double, url = server
    double.ignore_rule = True
    assert run("provision", url) == 2
    assert "routingRuleName is None" in capsys.readouterr().err


def test_new_passwords_are_kept_for_the_owner_and_never_printed(
    server, capsys, tmp_path
):
    double, url = server
    assert run("provision", url) == 0
    path = tmp_path / ".index/nexus.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    kept = json.loads(path.read_text("utf-8"))[url]
    assert set(kept) == {"maestro-deployer", "maestro-reader"}
    assert not any(password in capsys.readouterr().out for password in kept.values())
    assert main(["rotate", "--url", url]) == 0
    kept = json.loads(path.read_text("utf-8"))[url]
    assert double.passwords["admin"] == kept["admin"]
    assert kept["admin"] not in capsys.readouterr().out


def test_a_wrong_password_and_an_absent_server_are_explained(
    server, monkeypatch, capsys
):
    _, url = server
    monkeypatch.setenv("MAESTRO_NEXUS_PASSWORD", "guess")
    assert run("provision", url) == 2
    err = capsys.readouterr().err
    assert "user or password is wrong" in err
    assert "guess" not in err
    assert run("doctor", "http://127.0.0.1:1", "--wait", "0") == 3
    assert "did not answer" in capsys.readouterr().err


def test_plain_http_to_another_machine_is_refused():
    with pytest.raises(NexusError, match="not https"):
        Api("http://nexus.example", "admin", "pw")


def test_waiting_ends_after_its_time():
    now = [0.0]

    def sleep(seconds):
        now[0] += seconds

    with pytest.raises(NexusAway, match="not writable after 5 s"):
        Api("http://127.0.0.1:1", "a", "b").wait(5, sleep=sleep, clock=lambda: now[0])
