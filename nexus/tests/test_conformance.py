"""What the release tool, pip, uv, twine and Poetry need from the index.

Runs against the embedded index, or against any server, as test_clients.py does: see
nexus/README.md. What only the embedded index answers stands in test_contract.py.
"""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urljoin

import pytest

from . import conformance
from .conformance import GROUP, HOSTED, Server
from .index_client import make_sdist, make_wheel


@pytest.fixture(scope="module")
def demo(server) -> tuple[str, bytes]:
    """A wheel that is published; its project name and bytes."""
    name = server.name("demo")
    filename, content = make_wheel(name)
    assert server.upload(filename, content).status_code == 200
    return name, content


def test_the_status_says_that_it_runs_and_is_writable(server):
    for path in ("status", "status/writable"):
        assert server.send("GET", f"/service/rest/v1/{path}").status_code == 200


@pytest.mark.parametrize("repository", [HOSTED, GROUP])
@pytest.mark.parametrize("slash", ["", "/"])
def test_an_upload_is_listed_and_its_link_leads_to_the_bytes(
    server, demo, repository, slash
):
    name, content = demo
    path = f"/repository/{repository}/simple/{name}{slash}"
    answer = server.send("GET", path)
    assert answer.status_code == 200
    [file] = server.files(name, repository)
    assert file.filename == make_wheel(name)[0]
    assert file.requires_python == ">=3.11"
    found = server.send("GET", urljoin(path, file.url).removeprefix(server.url))
    assert found.content == content


def test_an_sdist_is_taken_and_listed(server):
    name = server.name("source")
    filename, content = make_sdist(name, "1.5")
    assert server.upload(filename, content).status_code == 200
    assert [f.filename for f in server.files(name)] == [filename]


def test_a_second_upload_of_a_name_is_400_and_changes_nothing(server, demo):
    name, content = demo
    filename, other = make_wheel(name, filler=b"other")
    answer = server.upload(filename, other)
    assert answer.status_code == 400
    # The two texts of Nexus, by the kind of its database.
    assert "updat" in answer.text
    [file] = server.files(name, HOSTED)
    there = urljoin(f"{server.url}/repository/{HOSTED}/simple/{name}/", file.url)
    assert server.send("GET", there.removeprefix(server.url)).content == content


@pytest.mark.parametrize("login", [None, ("nobody", "x"), "wrong password"])
def test_whoever_may_not_upload_gets_401_and_nothing_is_there(server, login):
    name = server.name("refused")
    auth = (server.login[0], "guess") if login == "wrong password" else login
    answer = server.upload(*make_wheel(name), auth=auth)
    assert answer.status_code == 401
    assert "basic" in answer.headers["WWW-Authenticate"].lower()
    assert server.files(name, HOSTED) == []


def test_the_group_takes_no_upload(server):
    name = server.name("group")
    answer = server.send(
        "POST",
        f"/repository/{GROUP}/",
        data={":action": "file_upload"},
        files={"content": make_wheel(name)},
    )
    assert answer.status_code in {400, 403, 404, 405}
    assert server.files(name) == []


def test_unknown_projects_and_repositories_are_404(server):
    for path in (f"{HOSTED}/simple/{server.name('none')}/", "no-such/simple/x/"):
        assert server.send("GET", f"/repository/{path}").status_code == 404


def test_a_private_name_that_is_not_hosted_is_not_in_the_group_either(server):
    assert server.files(server.name("confusion"), GROUP) == []


def test_the_components_api_uploads_lists_with_hashes_and_deletes(server):
    name = server.name("component")
    filename, content = make_wheel(name, "2.0")
    sent = server.send(
        "POST",
        f"/service/rest/v1/components?repository={HOSTED}",
        files={"pypi.asset": (filename, content)},
    )
    assert sent.status_code == 204
    [component] = server.components(name=name)
    assert (component["version"], component["format"]) == ("2.0", "pypi")
    [asset] = component["assets"]
    assert asset["path"].endswith(filename)
    assert asset["checksum"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert server.delete(component["id"]) == 204
    assert server.delete(component["id"]) == 404
    assert list(server.components(name=name)) == []
    assert server.files(name, HOSTED) == []


def test_the_list_of_components_comes_in_pages_that_lose_nothing(server):
    name = server.name("many")
    wanted = [f"1.{number}" for number in range(55)]
    for version in wanted:
        assert server.upload(*make_wheel(name, version)).status_code == 200
    found = [component["version"] for component in server.components(name=name)]
    assert sorted(found) == sorted(wanted)


def run(*command: object, **environment: str) -> None:
    kept = {"PATH": os.environ["PATH"], "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(
        [str(part) for part in command],
        env=kept | environment,
        check=False,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr


def upload_by_twine(server: Server, files: list[Path]) -> None:
    twine = Path(sys.executable).with_name("twine")
    user, password = server.login
    run(
        *(twine, "upload", "--non-interactive", *files),
        TWINE_REPOSITORY_URL=server.upload_url,
        TWINE_USERNAME=user,
        TWINE_PASSWORD=password,
    )


def upload_by_uv(server: Server, files: list[Path]) -> None:
    user, password = server.login
    run(
        *(Path(sys.executable).with_name("uv"), "publish", *files),
        UV_PUBLISH_URL=server.upload_url,
        UV_PUBLISH_USERNAME=user,
        UV_PUBLISH_PASSWORD=password,
    )


@pytest.mark.parametrize("upload", [upload_by_twine, upload_by_uv])
def test_twine_and_uv_upload_and_pip_and_uv_install(server, tmp_path, upload):
    name = server.name(upload.__name__.rpartition("_")[2])
    files = []
    for filename, content in (make_wheel(name), make_sdist(name)):
        files.append(tmp_path / filename)
        files[-1].write_bytes(content)
    upload(server, files)
    assert sorted(f.filename for f in server.files(name)) == sorted(
        f.name for f in files
    )
    home = {"HOME": str(tmp_path)}
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-cache-dir")
    index = ("--index-url", server.install_url, name)
    run(*pip, "--target", tmp_path / "pip", *index, **home)
    uv = (Path(sys.executable).with_name("uv"), "pip", "install", "-q", "--no-cache")
    run(*uv, "--no-config", "--target", tmp_path / "uv", *index, **home)
    module = f"{name.replace('-', '_')}/__init__.py"
    for installer in ("pip", "uv"):
        assert (tmp_path / installer / module).exists()


@pytest.mark.drill
def test_the_suite_runs_against_a_server_by_its_url(tmp_path):
    """The embedded index plays the foreign server; reading needs a password too."""
    if conformance.URL in os.environ:
        pytest.skip("this is the run against a server by its URL")
    from maestro_index import control

    control.prepare_users(tmp_path / ".index")
    process = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "maestro_index", "serve", "--no-anonymous"),
            *("--root", tmp_path, "--port", "0", "--upstream", "http://127.0.0.1:9"),
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        state = control.wait_until_running(tmp_path / ".index", process)
        credentials = control.read_json(tmp_path / ".index" / "credentials.json")
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
            env=os.environ
            | {
                conformance.URL: f"http://127.0.0.1:{state['port']}",
                conformance.USER: credentials["user"],
                conformance.PASSWORD: credentials["password"],
            },
            cwd=Path(__file__).parents[2],
            check=False,
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stdout
        # What it uploaded is gone, and it did ask this server.
        store = tmp_path / ".index" / "data" / "packages"
        assert list(store.iterdir())
        assert not list(store.rglob("*.whl"))
    finally:
        process.terminate()
        process.wait(timeout=20)
