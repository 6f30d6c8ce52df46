"""What clients see: Nexus's status codes and texts, the PEPs' pages."""

import hashlib
import json
import stat

import pytest

from .index_client import Client, make_sdist, make_wheel

JSON = {"Accept": "application/vnd.pypi.simple.v1+json"}


@pytest.fixture(scope="module")
def demo(index: Client) -> bytes:
    filename, content = make_wheel()
    assert index.upload(filename, content).status_code == 200
    return content


def test_an_upload_can_be_read_back_with_and_without_the_last_slash(index, demo):
    """Nexus answers both forms; links must be right from both."""
    for path in ("simple/maestro-demo", "simple/maestro-demo/", "simple/Maestro.Demo/"):
        answer = index.get(f"/repository/pypi-hosted/{path}", headers=JSON)
        file = answer.json()["files"][0]
        from urllib.parse import urljoin

        found = index.get(urljoin(answer.url, file["url"]).removeprefix(index.url))
        assert found.content == demo
        assert file["hashes"]["sha256"] == hashlib.sha256(demo).hexdigest()


def test_a_second_upload_is_refused_in_nexus_words(index, demo):
    filename, _ = make_wheel()
    answer = index.upload(filename, make_wheel(filler=b"other")[1])
    assert answer.status_code == 400
    assert answer.text.strip() == (
        f"pypi-hosted/packages/maestro-demo/1.0.0/{filename} cannot be updated"
    )


def test_a_wrong_password_is_401_with_the_realm(index, demo):
    answer = index.upload(*make_wheel(version="9"), password="guess")
    assert answer.status_code == 401
    assert "Sonatype Nexus" in answer.headers["WWW-Authenticate"]
    assert "guess" not in answer.text


def test_an_upload_without_a_user_is_401(index):
    import requests

    answer = requests.post(
        f"{index.url}/repository/pypi-hosted/", data={"a": "b"}, timeout=10
    )
    assert answer.status_code == 401


def test_a_user_without_the_right_is_403(tmp_path):
    from maestro_index import control
    from maestro_index._users import Users

    control.prepare_users(tmp_path / ".index")
    Users(tmp_path / ".index" / "users.json").add("reader", "pw", may_deploy=False)
    running = control.ensure_running(tmp_path, 0)
    try:
        client = Client(tmp_path, running)
        answer = client.upload(*make_wheel(), user="reader", password="pw")
        assert answer.status_code == 403
        assert client.listed("maestro-demo") == set()
    finally:
        control.stop(tmp_path)


def test_the_components_api_answers_204_lists_and_deletes(index):
    import requests

    filename, content = make_wheel("maestro-gone", "2.0")
    sent = requests.post(
        f"{index.url}/service/rest/v1/components?repository=pypi-hosted",
        files={"pypi.asset": (filename, content)},
        auth=index.login,
        timeout=30,
    )
    assert sent.status_code == 204
    found = index.get("/service/rest/v1/search?name=maestro-gone").json()["items"]
    assert [item["version"] for item in found] == ["2.0"]
    checksum = found[0]["assets"][0]["checksum"]["sha256"]
    assert checksum == hashlib.sha256(content).hexdigest()
    url = f"{index.url}/service/rest/v1/components/{found[0]['id']}"
    assert requests.delete(url, timeout=10).status_code == 401
    assert requests.delete(url, auth=index.login, timeout=10).status_code == 204
    assert requests.delete(url, auth=index.login, timeout=10).status_code == 404
    assert index.listed("maestro-gone") == set()


def test_components_come_in_pages_that_lose_nothing(index):
    for number in range(55):
        name = make_wheel("maestro-many", f"1.{number}")
        assert index.upload(*name).status_code == 200
    seen, token = [], ""
    for _ in range(5):
        query = f"?repository=pypi-hosted&continuationToken={token}"
        answer = index.get(f"/service/rest/v1/components{query}").json()
        seen += [(i["name"], i["version"]) for i in answer["items"]]
        token = answer["continuationToken"]
        if not token:
            break
    mine = [version for name, version in seen if name == "maestro-many"]
    assert len(mine) == len(set(mine)) == 55


@pytest.mark.parametrize(
    ("filename", "fields", "reason"),
    [
        ("maestro_demo-1.0.0.zip", {}, "neither a wheel"),
        ("demo.whl", {}, "not a valid file name"),
        ("maestro_other-3.0-py3-none-any.whl", {}, "name in the metadata"),
        ("maestro_demo-3.0-py3-none-any.whl", {}, "version in the metadata"),
        ("maestro_demo-1.0.1-py3-none-any.whl", {"sha256_digest": "0" * 64}, "digest"),
        ("maestro_demo-1.0.1-py3-none-any.whl", {"name": "evil"}, "name in the form"),
    ],
)
def test_untrue_uploads_are_refused(index, filename, fields, reason):
    _, content = make_wheel(version="1.0.1")
    answer = index.upload(filename, content, **fields)
    assert answer.status_code == 400
    assert reason in answer.text
    assert filename not in index.listed("maestro-demo")


def test_a_broken_archive_is_refused(index):
    answer = index.upload("maestro_demo-5.0-py3-none-any.whl", b"no zip at all")
    assert answer.status_code == 400
    assert "cannot be read" in answer.text
    assert not list((index.root / ".index/data/tmp").iterdir())


def test_an_sdist_is_read_and_listed(index):
    filename, content = make_sdist("maestro-source", "1.5")
    assert index.upload(filename, content).status_code == 200
    assert index.listed("maestro-source") == {filename}


def test_the_html_page_says_what_pip_needs(index, demo):
    text = index.get("/repository/pypi-group/simple/maestro-demo/").text
    assert 'data-requires-python="&gt;=3.11"' in text
    assert "#sha256=" in text
    assert "data-core-metadata=" in text


def test_metadata_of_a_wheel_is_served_beside_it(index, demo):
    page = index.get(
        "/repository/pypi-hosted/simple/maestro-demo/", headers=JSON
    ).json()
    wheel = next(f for f in page["files"] if f["filename"].endswith(".whl"))
    base = "/repository/pypi-hosted/packages/maestro-demo/1.0.0/"
    metadata = index.get(f"{base}{wheel['filename']}.metadata").content
    assert hashlib.sha256(metadata).hexdigest() == wheel["core-metadata"]["sha256"]
    assert page["versions"] == ["1.0.0"]
    assert wheel["size"] == len(demo)
    assert wheel["upload-time"].endswith("Z")


def test_a_yank_shows_and_can_be_taken_back(index):
    import requests

    assert index.upload(*make_wheel("maestro-yank")).status_code == 200
    url = f"{index.url}/service/rest/maestro/yank/maestro-yank/1.0.0"
    assert requests.put(url, data=b"bad", timeout=5).status_code == 401
    done = requests.put(url, data=b"broken build", auth=index.login, timeout=5)
    assert done.status_code == 204
    page = "/repository/pypi-group/simple/maestro-yank/"
    assert index.get(page, headers=JSON).json()["files"][0]["yanked"] == "broken build"
    assert 'data-yanked="broken build"' in index.get(page).text
    assert requests.delete(url, auth=index.login, timeout=5).status_code == 204
    assert index.get(page, headers=JSON).json()["files"][0]["yanked"] is False


def test_an_unknown_repository_and_a_group_upload_are_refused(index):
    import requests

    assert index.get("/repository/nothing/simple/").status_code == 404
    filename, content = make_wheel(version="7")
    answer = requests.post(
        f"{index.url}/repository/pypi-group/",
        files={"content": (filename, content)},
        auth=index.login,
        timeout=10,
    )
    assert answer.status_code == 405


def test_path_tricks_stay_outside(index):
    for name in ("..%2f..%2fusers.json", "..", "%2e%2e%2f%2e%2e%2fusers.json"):
        answer = index.get(f"/repository/pypi-hosted/packages/a/b/{name}")
        assert answer.status_code == 404


def test_secrets_are_for_the_owner_only(index):
    for name in ("credentials.json", "users.json"):
        mode = (index.root / ".index" / name).stat().st_mode
        assert stat.S_IMODE(mode) == 0o600
    users = json.loads((index.root / ".index/users.json").read_text(encoding="utf-8"))
    assert index.running.password not in json.dumps(users)
    assert index.running.password not in repr(index.running)
