"""Signed provenance and SBOM: what is bound, and what is found when it is changed."""

import base64
import json
import stat

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from maestro_release import evidence
from maestro_release.errors import UsageFault, VerifyFailed
from maestro_release.git import Commit
from maestro_release.plan import PlannedFile, State
from maestro_release.signing import (
    key_id,
    make_key,
    opened,
    pre_authentication,
    public_pem,
    signed,
    signing_key,
    trusted_keys,
)
from maestro_release.verify import Installed
from maestro_release.workspace import Package

NAME, VERSION = "maestro-alpha", "1.0.0"
WHEEL = "maestro_alpha-1.0.0-py3-none-any.whl"
PUBLISHED = {WHEEL: "a" * 64}


@pytest.fixture
def key():
    return Ed25519PrivateKey.generate()


def trust(key):
    return {key_id(key.public_key()): key.public_key()}


@pytest.fixture
def written(tmp_path, key):
    return evidence.write_evidence(
        tmp_path,
        Package(name=NAME, version=VERSION, folder=tmp_path),
        [
            PlannedFile(
                package=NAME,
                version=VERSION,
                filename=WHEEL,
                kind="wheel",
                size=7,
                sha256="a" * 64,
                state=State.NEW,
            )
        ],
        brings=[
            Installed(name=NAME, version=VERSION, url="u/x.whl", sha256="a" * 64),
            Installed(
                name="tenacity", version="9.0", url="u/t.tar.gz", sha256="c" * 64
            ),
            Installed(name="tenacity", version="9.0", url="u/t.whl", sha256="b" * 64),
        ],
        commit=Commit(commit="1" * 40, tree="2" * 40, dirty=False),
        index="http://127.0.0.1:1",
        key=key,
    )


def check(contents, key, published=PUBLISHED):
    return evidence.check_evidence(contents, NAME, VERSION, published, trust(key))


def test_the_encoding_is_the_one_of_the_protocol():
    # The example of the DSSE protocol document.
    assert (
        pre_authentication("http://example.com/HelloWorld", b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_evidence_that_fits(written, key, tmp_path):
    found = check(written, key)
    assert (found.commit, found.dirty, found.key) == (
        "1" * 40,
        False,
        key_id(key.public_key()),
    )
    assert evidence.read_evidence(tmp_path) == written


def test_the_statement_is_in_toto_with_slsa_provenance(written, key):
    statement, _ = opened(json.loads(written["provenance.json"]), trust(key))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"] == [{"name": WHEEL, "digest": {"sha256": "a" * 64}}]
    materials = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert {"gitCommit": "1" * 40, "gitTree": "2" * 40} in [
        m.get("digest") for m in materials
    ]


def test_the_sbom_lists_what_an_install_brings_and_validates(written):
    from cyclonedx.model.bom import Bom
    from cyclonedx.schema import SchemaVersion

    bom = json.loads(written["sbom.cdx.json"])
    assert bom["specVersion"] == SchemaVersion.V1_6.to_version()
    parsed = Bom.from_json(bom)
    assert parsed.metadata.component.name == NAME
    assert [(c.name, c.version) for c in parsed.components] == [("tenacity", "9.0")]
    assert bom["components"][0]["hashes"][0]["content"] == "b" * 64
    assert bom["components"][0]["purl"] == "pkg:pypi/tenacity@9.0"


@pytest.mark.parametrize("name", ["release.json", "sbom.cdx.json"])
def test_a_changed_file_is_found(written, key, name):
    written[name] += b" "
    with pytest.raises(VerifyFailed, match="was changed after it was signed"):
        check(written, key)


def test_a_changed_statement_is_found(written, key):
    envelope = json.loads(written["provenance.json"])
    payload = base64.b64decode(envelope["payload"]).replace(b"a" * 64, b"b" * 64)
    envelope["payload"] = base64.b64encode(payload).decode()
    written["provenance.json"] = json.dumps(envelope).encode()
    with pytest.raises(VerifyFailed, match="the statement was changed"):
        check(written, key, {WHEEL: "b" * 64})


def test_other_bytes_on_the_index_are_found(written, key):
    with pytest.raises(VerifyFailed, match="is published with sha256 bbb"):
        check(written, key, {WHEEL: "b" * 64})
    with pytest.raises(VerifyFailed, match="no such file"):
        check(written, key, {"maestro_alpha-1.0.0.tar.gz": "b" * 64})


def test_a_stranger_is_not_trusted(written, key):
    with pytest.raises(VerifyFailed, match="whom nobody here trusts"):
        check(written, Ed25519PrivateKey.generate())


def test_evidence_of_another_version_is_refused(written, key):
    with pytest.raises(VerifyFailed, match="it is about"):
        evidence.check_evidence(written, NAME, "1.0.1", PUBLISHED, trust(key))


def test_a_missing_file_is_named(written, key):
    del written["sbom.cdx.json"]
    with pytest.raises(VerifyFailed, match=r"lacks sbom.cdx.json"):
        check(written, key)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"payload": "*"}'])
def test_rubbish_is_refused(written, key, content):
    written["provenance.json"] = content
    with pytest.raises(VerifyFailed, match=r"evidence of maestro-alpha 1.0.0"):
        check(written, key)


def test_the_key_is_made_once_and_private(tmp_path):
    first = signing_key(tmp_path, environ={})
    mode = (tmp_path / "signing-key.pem").stat().st_mode
    assert stat.S_IMODE(mode) == 0o600
    assert public_pem(signing_key(tmp_path, environ={})) == public_pem(first)


def test_a_named_key_signs_and_a_public_key_in_the_tree_is_trusted(tmp_path):
    path = tmp_path / "mine.pem"
    make_key(path)
    key = signing_key(tmp_path / "state", {"MAESTRO_SIGNING_KEY": str(path)})
    folder = tmp_path / "tools" / "release-keys"
    folder.mkdir(parents=True)
    (folder / "ci.pem").write_text(public_pem(key), encoding="utf-8")
    trusted = trusted_keys(tmp_path, tmp_path / "state", environ={})
    statement, keyid = opened(signed({"a": 1}, key), trusted)
    assert statement == {"a": 1}
    assert keyid == key_id(key.public_key())
    assert not (tmp_path / "state").exists(), "verifying must not make a key"


def test_a_key_that_is_none_is_explained(tmp_path):
    path = tmp_path / "key.pem"
    path.write_text("rubbish", encoding="utf-8")
    with pytest.raises(UsageFault, match="cannot be read as a signing key"):
        signing_key(tmp_path, {"MAESTRO_SIGNING_KEY": str(path)})


def test_publish_signs_and_verify_finds_a_change(two, front):
    assert two.release("publish").returncode == 0
    folder = two.root / "dist" / "evidence" / "maestro-beta-1.0.0"
    done = two.release("verify", "beta", "--require-provenance")
    assert done.returncode == 0, done.stderr
    assert "1 of 1 with provenance" in done.stdout
    bom = json.loads((folder / "sbom.cdx.json").read_bytes())
    bom["components"] = [{"name": "evil", "type": "library"}]
    (folder / "sbom.cdx.json").write_text(json.dumps(bom), encoding="utf-8")
    done = two.release("verify", "beta")
    assert done.returncode == 1
    assert "sbom.cdx.json was changed" in done.stderr
    for path in folder.iterdir():
        path.unlink()
    assert two.release("verify", "beta", "--require-provenance").returncode == 1


def test_every_release_is_in_the_audit_log_and_a_change_there_is_found(two, front):
    pytest.importorskip("maestro_audit_logger")
    assert two.release("publish", "--no-verify").returncode == 0
    folder = two.root / ".maestro" / "audit"
    [segment] = folder.glob("*.jsonl")
    lines = segment.read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    published = [e for e in events if e.get("action") == "package.publish"]
    assert len(published) == 2
    hashes = [h for e in published for h in e["data"]["files"].values()]
    assert len(hashes) == 4
    text = segment.read_text(encoding="utf-8")
    segment.write_text(text.replace(hashes[0], "0" * 64), encoding="utf-8")
    done = two.release("verify")
    assert done.returncode == 1
    assert "the record of releases was changed" in done.stderr
