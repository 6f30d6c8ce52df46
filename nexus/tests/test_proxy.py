"""Hosted or upstream, never both; and a private name is never asked upstream."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from maestro_index import control

from .index_client import Client, make_wheel


@dataclass
class Pair:
    public: Client
    private: Client


def serve_with_upstream(root: Path, upstream: str) -> tuple[subprocess.Popen, Client]:
    control.prepare_users(root / ".index")
    process = subprocess.Popen(
        [
            *(sys.executable, "-P", "-m", "maestro_index", "serve", "--root", root),
            *("--port", "0", "--upstream", upstream),
        ],
        stderr=subprocess.DEVNULL,
    )
    for _ in range(400):
        state = control.read_json(root / ".index/server.json")
        if state and control.probe(state["port"]).kind == "embedded":
            break
        time.sleep(0.05)
    running = control.describe(root / ".index", state, started=True)
    return process, Client(root, running)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Return an index and a second one that plays the public index behind it."""
    (tmp_path / "public").mkdir()
    public = Client(tmp_path / "public", control.ensure_running(tmp_path / "public", 0))
    simple = f"{public.url}/repository/pypi-hosted/simple"
    process, private = serve_with_upstream(tmp_path / "private", simple)
    yield Pair(public, private)
    process.terminate()
    process.wait(timeout=20)
    control.stop(tmp_path / "public")


def test_a_malicious_public_version_is_never_offered(pair):
    """Dependency confusion: the public index has maestro-demo 99.0."""
    assert pair.public.upload(*make_wheel(version="99.0")).status_code == 200
    assert pair.public.upload(*make_wheel("maestro-new", "1.0")).status_code == 200
    assert pair.private.upload(*make_wheel(version="1.0")).status_code == 200
    assert pair.private.listed("maestro-demo") == {make_wheel(version="1.0")[0]}
    assert pair.private.listed("maestro-new") == set()  # not hosted, still not asked
    direct = (
        "/repository/pypi-{}/packages/maestro-demo/99.0/"
        + make_wheel(version="99.0")[0]
    )
    for repository in ("group", "proxy", "hosted"):
        assert pair.private.get(direct.format(repository)).status_code == 404


def test_pip_installs_the_hosted_version_only(pair, tmp_path):
    assert pair.public.upload(*make_wheel(version="99.0")).status_code == 200
    assert pair.private.upload(*make_wheel(version="1.0")).status_code == 200
    index_url = f"{pair.private.url}/repository/pypi-group/simple"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--no-cache-dir"),
            *("--target", tmp_path / "t", "--index-url", index_url, "maestro-demo"),
        ],
        check=True,
        env={
            "PATH": "/usr/bin:/bin",
            "PIP_CONFIG_FILE": "/dev/null",
            "HOME": str(tmp_path),
        },
    )
    text = (tmp_path / "t/maestro_demo/__init__.py").read_text(encoding="utf-8")
    assert text == "VERSION = '1.0'\n"


def test_other_names_come_from_upstream_and_survive_its_end(pair):
    filename, content = make_wheel("public-thing", "2.0")
    assert pair.public.upload(filename, content).status_code == 200
    assert pair.private.listed("public-thing") == {filename}
    path = f"/repository/pypi-group/packages/public-thing/2.0/{filename}"
    part = pair.private.get(path, headers={"Range": "bytes=0-3"})
    assert (part.status_code, part.content) == (206, content[:4])
    assert pair.private.get(path).content == content
    control.stop(pair.public.root)
    assert pair.private.get(path).content == content  # kept, its hash was right
    assert pair.private.listed("public-thing") == {filename}


def test_an_upstream_that_is_away_is_502_and_not_404(pair):
    control.stop(pair.public.root)
    answer = pair.private.get("/repository/pypi-group/simple/never-seen/")
    assert answer.status_code == 502
    assert "did not answer" in answer.text


def test_pips_built_in_index_can_be_found():
    """The line reads a private module of pip; this notices when it moves."""
    from maestro_index._upstream import _built_in_index

    assert _built_in_index().startswith("https://")


def test_pips_settings_decide_where_upstream_is(monkeypatch, tmp_path):
    from maestro_index._upstream import pip_settings

    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.example/simple/")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CERT", "/etc/cert.pem")
    found = pip_settings()
    assert found.index_url == "https://mirror.example/simple"
    assert found.find_links == (str(tmp_path),)
    assert found.cert == "/etc/cert.pem"


def test_find_links_folders_are_offered(tmp_path):
    from maestro_index._upstream import PipSettings, Upstream

    filename, content = make_wheel("local-thing", "3.0")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / filename).write_bytes(content)
    settings = PipSettings(
        "http://127.0.0.1:9/simple", None, (str(tmp_path / "links"),)
    )
    upstream = Upstream(tmp_path / "proxy", settings)
    [file] = upstream.files("local-thing")
    assert (file.filename, file.version) == (filename, "3.0")
    assert upstream.cached(file).read_bytes() == content
