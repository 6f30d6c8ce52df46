"""Merkle proofs, signed notes, Ed25519: with vectors that others made."""

import base64
import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maestro_audit_logger import (
    InvalidNote,
    InvalidProof,
    LogDamaged,
    UntrustedNote,
    check_consistency,
    check_proof,
    parse_checkpoint,
    parse_note,
    prove_consistency,
    verify_log,
)
from maestro_audit_logger._ed25519 import ed25519_verify
from maestro_audit_logger._files import Files
from maestro_audit_logger._merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    perfect_root,
    root_hash,
    verify_consistency,
    verify_inclusion,
)
from maestro_audit_logger._note import parse_key, verify_note
from maestro_audit_logger._prove import stored_line
from maestro_audit_logger._tiles import Tiles, tile_path

# golang.org/x/mod sumdb/note, example_test.go (BSD): the keys and the note.
PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXg"
    "KvqfqdngotpRZb6KE6RyyBwJnAM=\n"
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01"
    "oOTGwnWLox33WWd1RvMc+QQ=\n"
)
# The example of C2SP's signed-note.md: its text has an empty line in it.
POEM = (
    "Ognuno sta solo sul cuor della terra\n"
    "trafitto da un raggio di sole:\n"
    "\n"
    "ed è subito sera.\n"
    "\n"
    "— quasimodo.example/salvatore NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9o"
    "JKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
)
# RFC 8032 section 7.1, tests 1 to 3 are among them.
ED25519 = json.loads(
    (Path(__file__).parent / "data" / "ed25519.json").read_text("utf-8")
)["vectors"]


def nodes_of(leaves):
    """Return the `node` function of a tree in memory."""

    def node(height, index):
        first = index << height
        return perfect_root(leaves[first : first + (1 << height)])

    return node


def b64(value):
    return base64.b64decode(value) if value else b""


def test_the_inclusion_vectors(vectors):
    """Each file of transparency-dev/merkle, good and bad."""
    paths = sorted((vectors / "inclusion").rglob("*.json"))
    assert len(paths) > 90
    for path in paths:
        case = json.loads(path.read_text("utf-8"))
        try:
            verify_inclusion(
                b64(case["leafHash"]),
                case["leafIdx"],
                case["treeSize"],
                [b64(step) for step in case["proof"] or []],
                b64(case["root"]),
            )
            failed = False
        except InvalidProof:
            failed = True
        assert failed == case["wantErr"], path


def test_the_consistency_vectors(vectors):
    """Each file of transparency-dev/merkle, good and bad."""
    paths = sorted((vectors / "consistency").rglob("*.json"))
    assert len(paths) > 90
    for path in paths:
        case = json.loads(path.read_text("utf-8"))
        try:
            verify_consistency(
                case["size1"],
                case["size2"],
                b64(case["root1"]),
                b64(case["root2"]),
                [b64(step) for step in case["proof"] or []],
            )
            failed = False
        except InvalidProof:
            failed = True
        assert failed == case["wantErr"], path


# RFC 6962 roots over the eight leaves of certificate-transparency's merkletree tests.
LEAVES = [
    "",
    "00",
    "10",
    "2021",
    "3031",
    "40414243",
    "5051525354555657",
    "606162636465666768696a6b6c6d6e6f",
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]


def test_the_rfc_6962_roots():
    """Root hashes that others computed, for every size up to eight."""
    node = nodes_of([leaf_hash(bytes.fromhex(leaf)) for leaf in LEAVES])
    assert [root_hash(n, node).hex() for n in range(1, 9)] == ROOTS


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.integers(1, 300), st.data())
def test_proofs_hold_for_their_tree_and_for_no_other(size, data):
    """What is proven verifies; one flipped bit does not."""
    leaves = [leaf_hash(b"%d" % n) for n in range(size)]
    node = nodes_of(leaves)
    root = root_hash(size, node)
    index = data.draw(st.integers(0, size - 1))
    proof = inclusion_proof(index, size, node)
    verify_inclusion(leaves[index], index, size, proof, root)
    with pytest.raises(InvalidProof):
        verify_inclusion(leaf_hash(b"other"), index, size, proof, root)
    with pytest.raises(InvalidProof):
        verify_inclusion(leaves[index], index, size, [*proof, root], root)
    old = data.draw(st.integers(0, size))
    steps = consistency_proof(old, size, node)
    if old == 0:
        return
    verify_consistency(old, size, root_hash(old, node), root, steps)
    if steps:
        at = data.draw(st.integers(0, len(steps) - 1))
        steps[at] = bytes([steps[at][0] ^ 1]) + steps[at][1:]
        with pytest.raises(InvalidProof):
            verify_consistency(old, size, root_hash(old, node), root, steps)


def test_an_inner_node_is_no_leaf():
    """The prefixes keep a node from being passed off as an entry."""
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)


def test_the_ed25519_vectors():
    """Good signatures pass, with one bit changed they fail; the file has the source."""
    assert len(ED25519) == 33
    for number, vector in enumerate(ED25519):
        key, text, good = (bytes.fromhex(value) for value in vector.values())
        assert ed25519_verify(key, text, good)
        at = number % 64
        bad = good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :]
        assert not ed25519_verify(key, text, bad)
        if number < 4:
            assert not ed25519_verify(key, text + b"x", good)
            assert not ed25519_verify(key, text, good[:63])


def test_a_scalar_over_the_group_order_is_refused():
    """RFC 8032 section 5.1.7: otherwise every signature has twins."""
    public, message, signature = ED25519[0].values()
    order = 2**252 + 27742317777372353535851937790883648493
    raw = bytes.fromhex(signature)
    twin = raw[:32] + (int.from_bytes(raw[32:], "little") + order).to_bytes(
        32, "little"
    )
    assert not ed25519_verify(bytes.fromhex(public), bytes.fromhex(message), twin)


def test_our_verifier_agrees_with_cryptography(ed25519):
    """Keys and signatures that another implementation made."""
    for number in range(5):
        signer = ed25519.generate("k")
        text = b"x" * number
        assert ed25519_verify(signer.public.public, text, signer.sign(text))
        assert not ed25519_verify(signer.public.public, text + b"y", signer.sign(text))


def test_the_signed_note_of_the_go_authors():
    """Two keys, two signatures; each counts alone."""
    note = parse_note(NOTE)
    keys = [parse_key(PETER), parse_key(ENOCH)]
    assert [s.name for s in verify_note(note, keys)] == ["PeterNeumann", "EnochRoot"]
    assert len(verify_note(note, keys[1:])) == 1
    assert str(note) == NOTE
    assert [str(key) for key in keys] == [PETER, ENOCH]
    changed = parse_note(NOTE.replace("answer", "question"))
    with pytest.raises(UntrustedNote, match="false"):
        verify_note(changed, keys)
    with pytest.raises(UntrustedNote, match="none given"):
        verify_note(note, [])


def test_the_signed_note_of_c2sp():
    """The last empty line ends the text; the note is written back as it was."""
    note = parse_note(POEM)
    assert note.text == POEM[: POEM.index("—") - 1]
    assert [s.name for s in note.signatures] == ["quasimodo.example/salvatore"]
    assert note.signatures[0].key_id == bytes.fromhex("367ba04b")
    assert len(note.signatures[0].value) == 64
    assert str(note) == POEM


@pytest.mark.parametrize(
    "text",
    [
        "no signatures\n",
        "text\n\n- name AAAAAAAA\n",
        "text\n\n— na+me AAAAAAAA\n",
        "text\n\n— name AAAA\n",
        "text\n\n— name not-base64!\n",
        "text\n\n— name AAAAAAB=\n",
        "te\x07xt\n\n— name AAAAAAAA\n",
        "text\n\n— name AAAAAAAA",
    ],
)
def test_malformed_notes_are_refused(text):
    """Also a signature line among good ones is never skipped in silence."""
    with pytest.raises(InvalidNote):
        parse_note(text)


ROOT_B64 = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        f"o\n1_0\n{ROOT_B64}\n",
        f"o\n 7\n{ROOT_B64}\n",
        f"o\n07\n{ROOT_B64}\n",
        f"o\n-1\n{ROOT_B64}\n",
        f"o\n٣\n{ROOT_B64}\n",
        f"\n7\n{ROOT_B64}\n",
        "o\n7\nAAAA\n",
        "o\n7\n",
    ],
)
def test_malformed_checkpoints_are_refused(text):
    """Sizes that Python's int() would take are no sizes."""
    with pytest.raises(InvalidNote):
        parse_checkpoint(text)


@pytest.mark.parametrize(
    "key",
    ["", "a+b", PETER.replace("c74f20a3", "c74f20a4"), "x+00000000+AAAA", "a b+1+AA=="],
)
def test_malformed_keys_are_refused(key):
    """The id has to belong to the key."""
    with pytest.raises(InvalidNote):
        parse_key(key)


def test_an_ed25519_log_is_verified_with_the_public_key_alone(
    make_log, folder, tmp_path, ed25519
):
    """Save and load the key; a stranger's key fails."""
    signer = ed25519.generate("app.example/audit")
    signer.save(tmp_path / "key")
    loaded = ed25519.load(tmp_path / "key")
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    with make_log(signer=loaded) as audit:
        for _ in range(300):
            audit.record("a.b")
        anchor = audit.checkpoint()
    report = verify_log(folder, anchor=anchor, keys=[str(signer.public)], full=True)
    assert report.ok
    assert report.anchored
    assert report.signed_by == ("app.example/audit",)
    other = ed25519.generate("app.example/audit")
    assert not verify_log(folder, keys=[str(other.public)]).ok


@pytest.mark.parametrize("count", [1, 2, 255, 256, 257, 600])
def test_every_record_can_be_proven(make_log, folder, count, ed25519):
    """Against a signed checkpoint, by a stranger with the line and the key."""
    signer = ed25519.generate("app.example/audit")
    with make_log(signer=signer) as audit:
        audit.record_many({"action": "a.b", "data": {"n": n}} for n in range(count))
        keys = [str(signer.public)]
        for seq in {1, 2, count, count + 1, min(256, count)}:
            proof = audit.prove(seq)
            assert (
                check_proof(proof, stored_line(folder, seq), keys=keys).size
                == count + 1
            )
        with pytest.raises(InvalidProof, match="do not lead"):
            check_proof(proof, stored_line(folder, seq) + b" ", keys=keys)
        with pytest.raises(InvalidProof, match=f"records 1 to {count + 1}"):
            audit.prove(count + 2)


def test_proofs_say_what_is_wrong_with_them(make_log, folder):
    """Extra steps, missing steps, foreign headers, signs and zeros."""
    audit = make_log()
    audit.record_many({"action": "a.b"} for _ in range(20))
    proof, line = audit.prove(5), stored_line(folder, 5)
    rows = proof.split("\n")
    for bad in (
        proof.replace("tlog-proof@v1", "tlog-proof@v2"),
        proof.replace("index 4", "index 04"),
        proof.replace("index 4", "index 5"),
        "\n".join(rows[:2] + rows[3:]),
        "\n".join(rows[:2] + rows[2:3] + rows[2:]),
        rows[0],
    ):
        with pytest.raises(InvalidProof):
            check_proof(bad, line)
    extra = "\n".join([rows[0], "extra AAAA", *rows[1:]])
    assert check_proof(extra, line).size == 21


def test_growth_is_proven_between_two_checkpoints(make_log, folder, ed25519):
    """RFC 6962 consistency from the tiles on disk; checked from the notes alone."""
    signer = ed25519.generate("app.example/audit")
    keys = [str(signer.public)]
    audit = make_log(signer=signer)
    audit.record_many({"action": "a.b"} for _ in range(300))
    old = audit.checkpoint()
    audit.record_many({"action": "a.b"} for _ in range(400))
    new = audit.checkpoint()
    steps = prove_consistency(folder, 301)
    check_consistency(old, new, steps, keys=keys)
    with pytest.raises(InvalidProof):
        check_consistency(old, new, steps[:-1], keys=keys)
    with pytest.raises(InvalidProof, match="of one log"):
        check_consistency(old.replace("app.", "any."), new, steps, keys=[])
    with pytest.raises(UntrustedNote):
        stranger = ed25519.generate("app.example/audit")
        check_consistency(old, new, steps, keys=[str(stranger.public)])
    with pytest.raises(InvalidProof):
        prove_consistency(folder, 702)


def test_lost_tiles_are_made_again(make_log, folder):
    """They are derived, as long as the segments are there."""
    audit = make_log()
    audit.record_many({"action": "a.b"} for _ in range(300))
    audit.checkpoint()
    tile_path(folder, 0, 0).write_bytes(b"")
    for path in (folder / "tile").rglob("*"):
        if path.is_file():
            path.unlink()
    audit.close()
    with make_log() as again:
        again.record("a.b")
        note = parse_checkpoint(parse_note(again.checkpoint()).text)
    assert Tiles(folder, note.size).root() == note.root
    assert verify_log(folder).ok


def pruned_log(make_log, folder):
    """A log whose oldest lines are only hashes, and its last checkpoint."""
    audit = make_log(segment_bytes=60_000)
    for _ in range(6):
        audit.record_many({"action": "a.b"} for _ in range(150))
    audit.seal()
    gone = audit.prune("2100-01-01")
    assert len(gone) > 1
    audit.record("a.after")
    note = audit.checkpoint()
    audit.close()
    return note


def test_upper_tiles_are_made_again_after_pruning(make_log, folder):
    """The lowest tiles are enough, and anchors from before keep their meaning."""
    anchor = pruned_log(make_log, folder)
    shutil.rmtree(folder / "tile" / "1")
    with make_log() as audit:
        audit.record("a.more")
        note = parse_checkpoint(parse_note(audit.checkpoint()).text)
    assert Tiles(folder, note.size).root() == note.root
    assert verify_log(folder, anchor=anchor).anchored


def test_the_only_copy_of_a_hash_is_synced(make_log, folder):
    """Once its line is pruned, a power cut must not take a half-filled tile."""
    pruned_log(make_log, folder)
    synced = []

    class Watching(Files):
        def replace(self, path, data, *, durable=True):
            if "tile" in path.parts:
                synced.append((path.relative_to(folder / "tile").parts[0], durable))
            super().replace(path, data, durable=durable)

    with make_log(files=Watching()) as audit:
        audit.record("a.more")
        audit.checkpoint()
        audit.record_many({"action": "a.b"} for _ in range(200))
        audit.checkpoint()
    assert [durable for level, durable in synced if level == "0"] == [True, True, False]
    assert not any(durable for level, durable in synced if level != "0")


def test_hashes_of_pruned_lines_are_not_invented(make_log, folder):
    """When they are changed there is no new checkpoint, and verify says so."""
    pruned_log(make_log, folder)
    shutil.rmtree(folder / "tile" / "1")
    path = tile_path(folder, 0, 0)
    path.write_bytes(bytes(32) + path.read_bytes()[32:])
    with make_log() as audit:
        audit.record("a.more")
        with pytest.raises(LogDamaged, match="pruned"):
            audit.checkpoint()
    assert "root-differs" in {f.kind for f in verify_log(folder).findings}


def test_tiles_have_the_paths_of_the_specification(tmp_path):
    """C2SP tlog-tiles: groups of three digits, all but the last with an x."""
    assert tile_path(tmp_path, 0, 1234067) == tmp_path / "tile/0/x001/x234/067"
    assert tile_path(tmp_path, 1, 5, 17) == tmp_path / "tile/1/005.p/17"
