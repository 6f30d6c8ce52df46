"""Where settings come from and who wins."""

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


def test_a_wrong_port_is_explained(tmp_path):
    with pytest.raises(UsageFault, match="MAESTRO_INDEX_PORT is 'x'"):
        settings(tmp_path, MAESTRO_INDEX_PORT="x")
