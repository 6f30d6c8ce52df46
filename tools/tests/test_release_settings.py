"""Where settings come from and who wins."""

import json
import subprocess
import sys

import pytest
from maestro_release.errors import UsageFault
from maestro_release.settings import base_url, read_settings

URL = "https://nexus.example.com"
SECTION = f"""\
[maestro]
repository = {URL}/repository/pypi-hosted/
username = from-pypirc
password = secret%1
"""


def settings(tmp_path, yaml=None, pypirc=None, **environ):
    if yaml is not None:
        (tmp_path / "tools").mkdir()
        (tmp_path / "tools" / "release.yaml").write_text(yaml, encoding="utf-8")
    if pypirc is not None:
        (tmp_path / ".pypirc").write_text(pypirc, encoding="utf-8")
    return read_settings(tmp_path, environ=environ, home=tmp_path)


def test_without_settings_it_is_the_embedded_index(tmp_path):
    found = settings(tmp_path)
    assert (found.url, found.port) == (None, 28081)
    assert (found.hosted, found.group) == ("pypi-hosted", "pypi-group")


def test_the_file_is_read_and_the_environment_wins(tmp_path):
    yaml = f"index:\n  url: {URL}\n  hosted: mine\n  timeout: 5\n"
    found = settings(
        tmp_path,
        yaml,
        MAESTRO_INDEX_URL="http://127.0.0.1:1/repository/pypi-hosted/",
        MAESTRO_INDEX_USER="me",
        MAESTRO_INDEX_PASSWORD="secret",
        MAESTRO_INDEX_PORT="7",
    )
    assert found.url == "http://127.0.0.1:1"
    assert (found.hosted, found.timeout, found.port) == ("mine", 5.0, 7)
    assert (found.user, found.password) == ("me", "secret")


def test_pypirc_gives_url_user_and_password_and_the_environment_wins(tmp_path):
    found = settings(tmp_path, pypirc=SECTION, MAESTRO_INDEX_USER="me")
    assert (found.url, found.user, found.password) == (URL, "me", "secret%1")


def test_a_section_about_another_server_gives_nothing(tmp_path):
    found = settings(tmp_path, pypirc=SECTION, MAESTRO_INDEX_URL="http://other:1")
    assert (found.user, found.password) == (None, None)


def test_the_password_is_never_shown(tmp_path):
    found = settings(tmp_path, MAESTRO_INDEX_PASSWORD="secret")
    assert found.password == "secret"
    assert "secret" not in repr(found)


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("index:\n  hosten: x\n", "no setting 'hosten'"),
        ("index:\n  port: many\n", "port is 'many', wanted int"),
        ("other: 1\n", "one section `index`"),
        ("index: [\n", "release.yaml"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, yaml, message):
    with pytest.raises(UsageFault, match=message):
        settings(tmp_path, yaml)


@pytest.mark.parametrize("url", ["nexus", "ftp://x", "http://u:p@x"])
def test_wrong_addresses_are_refused_without_the_password(url):
    with pytest.raises(UsageFault) as caught:
        base_url(url)
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize(
    ("port", "message"),
    [("x", "MAESTRO_INDEX_PORT is 'x'"), ("70000", "port 70000 is none")],
)
def test_a_wrong_port_is_explained(tmp_path, port, message):
    with pytest.raises(UsageFault, match=message):
        settings(tmp_path, MAESTRO_INDEX_PORT=port)


BACKEND = """\
import json, os, pathlib
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked

class FileKeyring(KeyringBackend):
    priority = 9

    def get_password(self, service, username):
        if os.environ.get("LOCKED"):
            raise KeyringLocked("locked")
        kept = json.loads(pathlib.Path(os.environ["KEYRING_FILE"]).read_text("utf-8"))
        return kept.get(service, {}).get(username)

    def set_password(self, service, username, password):
        raise NotImplementedError

    def delete_password(self, service, username):
        raise NotImplementedError
"""


@pytest.fixture
def keyring(two, front, tmp_path_factory):
    """A backend that keyring itself loads, with the deployer's password in it."""
    folder = tmp_path_factory.mktemp("keyring")
    (folder / "file_keyring.py").write_text(BACKEND, encoding="utf-8")
    password = two.environment.pop("MAESTRO_INDEX_PASSWORD")
    kept = {front.url: {two.environment["MAESTRO_INDEX_USER"]: password}}
    (folder / "kept.json").write_text(json.dumps(kept), encoding="utf-8")
    two.environment |= {
        "PYTHON_KEYRING_BACKEND": "file_keyring.FileKeyring",
        "PYTHONPATH": str(folder),
        "KEYRING_FILE": str(folder / "kept.json"),
    }
    return password


def published(two, **more):
    process = two.start("publish", "--no-verify", **more)
    output, _ = process.communicate(timeout=90)
    return process.returncode, output


def test_the_password_comes_from_the_keyring_and_is_not_printed(two, front, keyring):
    code, output = published(two)
    assert code == 0, output
    assert set(two.listed()) == two.files
    assert keyring not in output
    for path in (*two.root.rglob("*.json"), *two.root.rglob("*.jsonl")):
        assert keyring not in path.read_text(encoding="utf-8"), path


def test_a_locked_keyring_counts_as_empty_and_the_message_says_what_to_set(
    two, front, keyring
):
    code, output = published(two, LOCKED="1")
    assert code == 3
    assert "no user and password" in output
    assert "Traceback" not in output


def test_the_environment_wins_over_the_keyring(two, front, keyring):
    code, output = published(two, MAESTRO_INDEX_PASSWORD="a-wrong-secret")
    assert code == 3
    assert "does not accept the password" in output
    assert "a-wrong-secret" not in output


def test_publishing_with_the_password_of_pypirc(two, front):
    user = two.environment.pop("MAESTRO_INDEX_USER")
    password = two.environment.pop("MAESTRO_INDEX_PASSWORD")
    del two.environment["MAESTRO_INDEX_URL"]
    (two.root / ".pypirc").write_text(  # HOME is the checkout here
        f"[maestro]\nrepository = {front.url}/repository/pypi-hosted/\n"
        f"username = {user}\npassword = {password}\n",
        encoding="utf-8",
    )
    code, output = published(two)
    assert code == 0, output
    assert f"at {front.url}" in output.splitlines()[0]
    assert password not in output
    assert len(front.uploads) == 4


def test_the_backend_of_these_tests_is_one_that_keyring_loads(keyring, two):
    code = "import keyring; print(type(keyring.get_keyring()).__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=two.env(),
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout == "FileKeyring\n"
