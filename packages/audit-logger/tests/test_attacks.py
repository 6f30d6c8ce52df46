"""The attack battery: what a folder's attacker does, and what verify says.

An attacker without the signing key has the whole folder. `anchor` is a
checkpoint that was kept elsewhere before.
"""

import hashlib
import json
import shutil

import pytest
from maestro_audit_logger import Actor, AuditLogger, HmacRatchet, verify_log

SEGMENT = f"{1:020d}.jsonl"


def lines_of(folder):
    return (folder / SEGMENT).read_bytes().split(b"\n")[:-1]


def put(folder, lines):
    (folder / SEGMENT).write_bytes(b"".join(line + b"\n" for line in lines))


def rechain(folder, lines):
    """Recompute every link, as anybody can."""
    prev = hashlib.sha256(b"\0" + (folder / "log.json").read_bytes()).hexdigest()
    out = []
    for seq, line in enumerate(lines, 1):
        body = line[line.index(b'"ts":') :]
        made = b'{"seq":%d,"prev":"%s",%s' % (seq, prev.encode(), body)
        prev = hashlib.sha256(b"\0" + made).hexdigest()
        out.append(made)
    return out


def rechain_after(lines, at, new):
    """Put a line there, and links to it into those that follow."""
    lines[at] = new
    for later in range(at + 1, len(lines)):
        prev = hashlib.sha256(b"\0" + lines[later - 1]).hexdigest().encode()
        body = lines[later][lines[later].index(b'"ts":') :]
        lines[later] = b'{"seq":%d,"prev":"%s",%s' % (later + 1, prev, body)


def forget_checkpoints(folder):
    for name in ("checkpoint", "checkpoints"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "tile", ignore_errors=True)


def kinds(report):
    return {f.kind for f in report.findings if f.severity == "tampered"}


def edit(lines, at=4):
    changed = list(lines)
    changed[at] = changed[at].replace(b'"number":3', b'"number":9')
    assert changed != lines
    return changed


# The change; what verify says first, with tiles and without; and the line.
CHANGED, BROKEN = "record-changed", "chain-broken"
CHANGES = {
    "edit": (edit, (CHANGED, 5), (BROKEN, 6)),
    "delete": (lambda x: x[:4] + x[5:], (BROKEN, 5), (BROKEN, 5)),
    "insert": (lambda x: [*x[:4], x[3], *x[4:]], (BROKEN, 5), (BROKEN, 5)),
    "reorder": (lambda x: [*x[:4], x[5], x[4], *x[6:]], (BROKEN, 5), (BROKEN, 5)),
    "cut the head": (lambda x: x[2:], (BROKEN, 1), (BROKEN, 1)),
    "whitespace": (
        lambda x: [*x[:4], x[4].replace(b",", b", "), *x[5:]],
        (BROKEN, 5),
        (BROKEN, 5),
    ),
    "carriage returns": (
        lambda x: [line + b"\r" for line in x],
        (BROKEN, 1),
        (BROKEN, 1),
    ),
    "a foreign line separator": (
        lambda x: [
            *x[:4],
            x[4].replace(b'"data"', b"\xe2\x80\xa8" + b'"data"'),
            *x[5:],
        ],
        (CHANGED, 5),
        (BROKEN, 6),
    ),
    "an ASCII line separator": (
        lambda x: [*x[:4], x[4].replace(b'"data"', b"\x1e" + b'"data"'), *x[5:]],
        (CHANGED, 5),
        (BROKEN, 6),
    ),
    "NUL bytes": (
        lambda x: [*x[:4], b"\0" * len(x[4]), *x[5:]],
        (BROKEN, 5),
        (BROKEN, 5),
    ),
    "invalid UTF-8": (
        lambda x: [*x[:4], x[4][:-3] + b"\xff}}", *x[5:]],
        (CHANGED, 5),
        (BROKEN, 6),
    ),
    "byte order mark": (
        lambda x: [b"\xef\xbb\xbf" + x[0], *x[1:]],
        (BROKEN, 1),
        (BROKEN, 1),
    ),
    "unknown field": (
        lambda x: [*x[:4], x[4][:-1] + b',"approved_by":"ceo"}', *x[5:]],
        (CHANGED, 5),
        (BROKEN, 6),
    ),
    "duplicate key": (
        lambda x: [*x[:4], x[4][:-1] + b',"actor":{"type":"user","id":"x"}}', *x[5:]],
        (CHANGED, 5),
        (BROKEN, 6),
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_line_is_found_and_located(ten, name):
    """Without any key or anchor. The chain alone sees the line whose link fails;
    with the tiles the changed line itself is named."""
    change, with_tiles, by_chain = CHANGES[name]
    put(ten, change(lines_of(ten)))
    first = verify_log(ten).findings[0]
    assert (first.kind, first.seq) == with_tiles
    forget_checkpoints(ten)
    assert [(f.kind, f.seq) for f in verify_log(ten).findings] == [by_chain]


@pytest.mark.parametrize("keep", range(11))
def test_a_tail_cut_before_the_checkpoint_is_found(ten, keep):
    """To every boundary, down to an empty file."""
    put(ten, lines_of(ten)[:keep])
    report = verify_log(ten)
    assert report.status == "tampered"
    assert "truncated" in kinds(report)


LINES = 130  # the numbers get a digit longer twice


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A log without checkpoints and tiles: only its links tell of a change."""
    folder = tmp_path_factory.mktemp("many") / "audit"
    with AuditLogger(folder, origin="app.example/many") as log:
        for number in range(LINES - 1):  # the first line is the log's own
            log.record("order.note", actor=Actor.user("ada"), data={"number": number})
    forget_checkpoints(folder)
    return folder, lines_of(folder)


@pytest.fixture
def quick(monkeypatch):
    """Take the quick way, also where the log speaks of itself: in its first line."""
    monkeypatch.setattr("maestro_audit_logger._lines._SYSTEM", b"not in any line")


@pytest.mark.parametrize("at", [0, 7, 8, 9, 10, 97, 98, 99, 100, LINES - 2])
@pytest.mark.usefixtures("quick")
def test_a_changed_head_is_found_wherever_it_is(many, at):
    folder, lines = many
    head = lines[at].index(b'"ts":')
    for place in {*range(8), 10, 40, head - 3, head - 2, head - 1, len(lines[at]) - 1}:
        for new in (b"", b"7", b"}", lines[at][place : place + 1] + b"0"):
            changed = lines[at][:place] + new + lines[at][place + 1 :]
            if changed != lines[at]:
                put(folder, [*lines[:at], changed, *lines[at + 1 :]])
                assert not verify_log(folder).ok, (place, new)
    for moved in (-1, 1, head):  # the end of the line comes earlier, or later
        joined = lines[at] + lines[at + 1]
        cut = len(lines[at]) + moved
        put(folder, [*lines[:at], joined[:cut], joined[cut:], *lines[at + 2 :]])
        assert not verify_log(folder).ok, moved
    put(folder, lines)
    assert verify_log(folder).ok


@pytest.mark.parametrize("at", [0, 8, 9, 98, 99, LINES - 1])
@pytest.mark.parametrize("number", ["{0}0", "0{0}", "-{0}", "{1}", '"{0}"', ""])
@pytest.mark.usefixtures("quick")
def test_a_chain_with_a_wrong_number_is_refused(many, at, number):
    folder, lines = many
    wrong = number.format(at + 1, at + 2).encode()
    changed = rechain(folder, lines)
    rechain_after(
        changed, at, changed[at].replace(b'"seq":%d' % (at + 1), b'"seq":' + wrong, 1)
    )
    put(folder, changed)
    assert not verify_log(folder).ok
    put(folder, rechain(folder, lines))
    assert verify_log(folder).ok


@pytest.mark.parametrize("at", [1, 8, 50, LINES - 2, LINES - 1])
@pytest.mark.usefixtures("quick")
def test_a_chain_over_half_a_line_is_refused(many, at):
    folder, lines = many
    changed = list(lines)
    rechain_after(changed, at, lines[at][:-3])
    put(folder, changed)
    assert not verify_log(folder).ok
    put(folder, lines)
    assert verify_log(folder).ok


def test_an_emptied_file_is_found_without_any_checkpoint(ten):
    """A log starts with a record of its creation: it is never empty."""
    forget_checkpoints(ten)
    (ten / SEGMENT).write_bytes(b"")
    assert "emptied" in kinds(verify_log(ten))


def test_a_deleted_file_is_found_without_any_checkpoint(ten):
    """No segment at all is no empty log."""
    forget_checkpoints(ten)
    (ten / SEGMENT).unlink()
    assert "segments-missing" in kinds(verify_log(ten))


def test_a_deleted_identity_is_found(ten):
    """log.json is the root of the chain."""
    (ten / "log.json").unlink()
    assert "identity-missing" in kinds(verify_log(ten))


def test_a_changed_identity_is_found(ten):
    """Its bytes are the first link."""
    path = ten / "log.json"
    path.write_bytes(path.read_bytes() + b" ")
    assert "chain-broken" in kinds(verify_log(ten))


@pytest.fixture
def several(make_log, folder):
    """A log of several segments, closed."""
    with make_log(segment_bytes=2000) as audit:
        for number in range(30):
            audit.record("a.b", data={"number": number})
    return folder, sorted(folder.glob("0*.jsonl"))


def test_swapped_segments_are_found(several):
    """The links cross the files."""
    folder, paths = several
    first, second = paths[1].read_bytes(), paths[2].read_bytes()
    paths[1].write_bytes(second)
    paths[2].write_bytes(first)
    assert verify_log(folder).status == "tampered"


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_removed_segment_is_found(several, which):
    """In the middle by the chain, at either end by the checkpoint."""
    folder, paths = several
    if which == 0:
        shutil.rmtree(folder / "tile")
    paths[which].unlink()
    report = verify_log(folder)
    assert kinds(report) & {"segment-missing", "lines-missing", "truncated"}


def test_a_segment_of_another_log_is_found(ten, tmp_path):
    """Every log has its own random id at the root of its chain."""
    other = tmp_path / "other"
    with AuditLogger(other, origin="app.example/audit", actor=Actor.user("x")) as audit:
        for number in range(10):
            audit.record("invoice.approve", data={"number": number})
    shutil.copy(other / SEGMENT, ten / SEGMENT)
    assert verify_log(ten).status == "tampered"


def test_a_full_rewrite_needs_the_checkpoints_gone_and_the_anchor_finds_it(ten):
    """UNDETECTABLE without an outside anchor or key: a perfect forgery."""
    anchor = (ten.parent / "anchor").read_text("utf-8")
    put(ten, rechain(ten, edit(lines_of(ten))))
    assert "root-differs" in kinds(verify_log(ten))
    forget_checkpoints(ten)
    assert verify_log(ten, full=True).ok
    report = verify_log(ten, anchor=anchor)
    assert ("root-differs", 11) in {(f.kind, f.seq) for f in report.findings}


def test_a_truncation_with_the_checkpoints_gone_is_found_by_the_anchor(ten):
    """UNDETECTABLE without an outside anchor or key."""
    anchor = (ten.parent / "anchor").read_text("utf-8")
    put(ten, lines_of(ten)[:6])
    forget_checkpoints(ten)
    assert verify_log(ten).ok
    report = verify_log(ten, anchor=anchor)
    assert ("truncated", 7) in {(f.kind, f.seq) for f in report.findings}


def test_checkpoints_made_again_over_a_forgery_are_found_by_the_anchor(ten, make_log):
    """UNDETECTABLE without an outside anchor or key: unsigned notes cost nothing."""
    anchor = (ten.parent / "anchor").read_text("utf-8")
    put(ten, rechain(ten, edit(lines_of(ten))))
    forget_checkpoints(ten)
    with make_log() as audit:
        audit.record("a.b")
    report = verify_log(ten, full=True)
    assert report.ok
    assert report.checkpoints > 0
    assert "root-differs" in kinds(verify_log(ten, anchor=anchor))


def test_lines_cut_after_the_newest_checkpoint_are_found_by_the_anchor(
    make_log, folder, tmp_path
):
    """UNDETECTABLE without an outside anchor; the report says how many are uncovered."""
    audit = make_log()
    audit.record("a.b")
    audit.checkpoint()
    audit.record("a.b")
    audit.record("user.delete")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert verify_log(copy).uncovered == 2
    put(copy, lines_of(copy)[:-1])
    assert verify_log(copy).ok
    assert "truncated" in kinds(verify_log(copy, anchor=audit.checkpoint()))


def test_a_rolled_back_copy_is_found_by_the_anchor(make_log, folder, tmp_path):
    """UNDETECTABLE without outside memory: an older state is a true state."""
    audit = make_log()
    audit.record("a.b")
    audit.checkpoint()
    old = tmp_path / "old"
    shutil.copytree(folder, old)
    audit.record("user.delete")
    anchor = audit.checkpoint()
    assert verify_log(old).ok
    assert "truncated" in kinds(verify_log(old, anchor=anchor))
    assert verify_log(folder, anchor=anchor).anchored


def test_a_fork_of_the_log_is_found_by_the_anchor(make_log, folder, tmp_path):
    """Two continuations of one past: only one extends the anchor."""
    audit = make_log()
    audit.record("a.b")
    audit.close()
    twin = tmp_path / "twin"
    shutil.copytree(folder, twin)
    with make_log() as audit:
        audit.record("a.true")
        anchor = audit.checkpoint()
    with make_log(twin) as audit:
        audit.record("a.false")
        audit.record("a.more")
    assert verify_log(twin).ok
    assert "root-differs" in kinds(verify_log(twin, anchor=anchor))


def test_duplicate_keys_in_a_perfect_forgery_are_found_by_full(ten):
    """Readers disagree about duplicate keys, so `full` refuses them."""
    forged = lines_of(ten)
    forged[4] = forged[4][:-1] + b',"actor":{"type":"user","id":"boss"}}'
    put(ten, rechain(ten, forged))
    forget_checkpoints(ten)
    report = verify_log(ten, full=True)
    assert ("not-a-record", 5) in {(f.kind, f.seq) for f in report.findings}


def test_a_false_recovery_record_explains_nothing(ten):
    """Damage is explained only by a record with its place, size and digest."""
    lines = lines_of(ten)[:6]
    fake = json.loads(lines[5])
    fake["action"] = "audit.recovered"
    fake["data"] = {"bytes": 3, "first": 5, "last": 5, "sha256": "0" * 64}
    lines[5] = json.dumps(fake, separators=(",", ":")).encode()
    put(ten, rechain(ten, lines))
    forget_checkpoints(ten)
    assert "false-recovery" in kinds(verify_log(ten))


def test_a_running_writer_raises_the_alarm_when_its_file_is_cut(make_log, folder):
    """The chain goes on, and says for ever that the file was cut."""
    audit = make_log()
    for _ in range(5):
        audit.record("a.b")
    put(folder, lines_of(folder)[:3])
    audit.record("a.b")
    report = audit.verify()
    assert ("alarm", 4) in {(f.kind, f.seq) for f in report.findings}


@pytest.mark.parametrize("how", ["unlink", "rename", "replace"])
def test_a_running_writer_notices_that_its_file_is_gone(make_log, folder, how):
    """Unlinked, rotated away by another tool, or replaced by a shorter copy."""
    audit = make_log()
    for _ in range(5):
        audit.record("a.b")
    path = folder / SEGMENT
    if how == "unlink":
        path.unlink()
    elif how == "rename":
        path.rename(folder / "old.log")
    else:
        copy = folder / "copy"
        copy.write_bytes(b"\n".join(path.read_bytes().split(b"\n")[:3]) + b"\n")
        copy.rename(path)
    receipt = audit.record("a.after")
    assert [e.seq for e in audit.query(action="a.after")] == [receipt.seq]
    report = audit.verify()
    assert "alarm" in kinds(report)


class TestRatchet:
    """The forward-secure seal: who breaks in later cannot remake earlier seals."""

    @pytest.fixture
    def sealed(self, make_log, folder, tmp_path):
        """A log with three seals, and the auditor's key."""
        ratchet, key = HmacRatchet.create(tmp_path / "ratchet", name="app.example")
        with make_log(signer=ratchet) as audit:
            for number in range(10):
                audit.record("invoice.approve", data={"number": number})
                if number % 4 == 3:
                    audit.checkpoint()
        return folder, str(key), tmp_path / "ratchet"

    def test_the_auditors_key_verifies_every_seal(self, sealed):
        """And the report names it."""
        folder, key, _ = sealed
        report = verify_log(folder, keys=[key])
        assert report.ok
        assert report.signed_by == ("app.example",)

    def test_another_key_does_not(self, sealed, tmp_path):
        """A wrong key must fail, not be ignored."""
        folder, _, _ = sealed
        _, other = HmacRatchet.create(tmp_path / "other", name="app.example")
        assert "bad-seal" in kinds(verify_log(folder, keys=[str(other)]))

    def test_unsealed_where_seals_are_expected_fails(self, sealed):
        """Removing the checkpoints is no way out."""
        folder, key, _ = sealed
        forget_checkpoints(folder)
        assert "unsealed" in kinds(verify_log(folder, keys=[key]))

    def test_a_removed_seal_leaves_a_gap_of_epochs(self, sealed):
        """The seal before the last is gone."""
        folder, key, _ = sealed
        path = folder / "checkpoints"
        rows = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(rows[:1] + rows[2:]))
        assert "bad-seal" in kinds(verify_log(folder, keys=[key]))

    def test_the_thief_of_the_present_key_cannot_rewrite_the_past(
        self, sealed, make_log
    ):
        """He rewrites, forgets all seals and seals anew: his epochs start late."""
        folder, key, state = sealed
        put(folder, rechain(folder, edit(lines_of(folder))))
        forget_checkpoints(folder)
        with make_log(signer=HmacRatchet(state)) as audit:
            audit.record("a.b")
        assert verify_log(folder, full=True).ok
        assert "bad-seal" in kinds(verify_log(folder, keys=[key]))

    def test_an_old_seal_on_a_new_text_is_false(self, sealed):
        """The text is under the seal."""
        folder, key, _ = sealed
        path = folder / "checkpoints"
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        rows[1]["note"] = rows[1]["note"].replace("\n10\n", "\n9\n")
        rows[1]["note"] = rows[1]["note"].replace("\n9\n", "\n8\n")
        path.write_bytes(b"".join(json.dumps(r).encode() + b"\n" for r in rows))
        assert kinds(verify_log(folder, keys=[key])) & {"bad-seal", "root-differs"}

    def test_a_crash_before_the_key_is_replaced_leaves_no_second_seal(
        self, sealed, make_log
    ):
        """The published seal retires its key at the next checkpoint."""
        folder, key, state = sealed
        kept = state.read_bytes()
        with make_log(signer=HmacRatchet(state)) as audit:
            audit.record("a.b")
        state.write_bytes(kept)
        with make_log(signer=HmacRatchet(state)) as audit:
            audit.record("a.b")
        assert verify_log(folder, keys=[key]).ok


def history_of(folder):
    return (folder / "checkpoints").read_bytes().splitlines(keepends=True)


def set_history(folder, rows):
    (folder / "checkpoints").write_bytes(b"".join(rows))


def note_row(text):
    return json.dumps({"time": "x", "note": text}).encode() + b"\n"


def flip(path, at=100):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def segments(folder):
    return sorted(folder.glob("0*"))


# What the attacker does to a log of four hundred lines, twenty segments and some
# checkpoints; the kind of the finding and how bad it is.
FOLDER_ATTACKS = {
    "the history of checkpoints removed": (
        lambda f: (f / "checkpoints").unlink(),
        ("history-cut", "tampered"),
    ),
    "the history cut": (
        lambda f: set_history(f, history_of(f)[:-1]),
        ("history-cut", "tampered"),
    ),
    "the history turned round": (
        lambda f: set_history(f, history_of(f)[::-1]),
        ("checkpoints-reordered", "tampered"),
    ),
    "a checkpoint of another log in the history": (
        lambda f: set_history(
            f,
            [
                *history_of(f),
                history_of(f)[-1].replace(b"app.example/audit", b"app.example/other"),
            ],
        ),
        ("other-log", "tampered"),
    ),
    "a checkpoint that is none": (
        lambda f: (f / "checkpoint").write_text("x", "utf-8"),
        ("bad-checkpoint", "tampered"),
    ),
    "a line of the history that is no checkpoint": (
        lambda f: set_history(f, [note_row("x\n"), *history_of(f)]),
        ("bad-checkpoint", "tampered"),
    ),
    "a torn line in the history, as a crash leaves it": (
        lambda f: set_history(f, [*history_of(f), b'{"time\n']),
        ("torn-checkpoint", "damaged"),
    ),
    "a root changed in the history": (
        lambda f: set_history(
            f, [history_of(f)[0].replace(b"=", b"A=", 1), *history_of(f)[1:]]
        ),
        ("bad-checkpoint", "tampered"),
    ),
    "a sealed segment cut in mid-line": (
        lambda f: segments(f)[2].write_bytes(segments(f)[2].read_bytes()[:-9]),
        ("segment-cut", "tampered"),
    ),
    "a sealed segment emptied": (
        lambda f: segments(f)[2].write_bytes(b""),
        ("segment-empty", "tampered"),
    ),
    "a packed segment spoilt": (
        lambda f: (
            segments(f)[0].with_suffix(".jsonl.gz").write_bytes(b"\x1f\x8bx")
            and segments(f)[0].unlink()
        ),
        ("unreadable", "tampered"),
    ),
    "a hash changed in a tile": (
        lambda f: flip(f / "tile" / "0" / "000"),
        ("tile-differs", "tampered"),
    ),
    "a tail cut in mid-line, as a crash leaves it": (
        lambda f: segments(f)[-1].write_bytes(
            segments(f)[-1].read_bytes() + b'{"seq":'
        ),
        ("torn-tail", "damaged"),
    ),
}


@pytest.fixture
def long(make_log, folder):
    """A closed log of four hundred events in many segments."""
    with make_log(segment_bytes=6000, checkpoint_every=100) as audit:
        for number in range(400):
            audit.record("a.b", data={"number": number})
    assert verify_log(folder, full=True).ok
    return folder


@pytest.mark.parametrize("name", FOLDER_ATTACKS)
def test_an_attack_on_the_files_around_the_lines_is_found(long, name):
    """Checkpoints, their history, tiles and segments."""
    attack, wanted = FOLDER_ATTACKS[name]
    attack(long)
    report = verify_log(long)
    assert wanted in {(f.kind, f.severity) for f in report.findings}
    assert report.status == wanted[1]


def test_an_anchor_of_another_log_is_refused(ten):
    """An old checkpoint of a friendlier log proves nothing here."""
    anchor = (ten.parent / "anchor").read_text("utf-8")
    other = anchor.replace("app.example/audit", "app.example/other")
    report = verify_log(ten, anchor=other)
    assert "other-log" in kinds(report)
    assert not report.anchored


def test_a_forged_field_in_a_perfect_forgery_is_found_by_full(ten):
    """A record has exactly the keys that this package writes."""
    forged = lines_of(ten)
    forged[4] = forged[4][:-1] + b',"approved_by":"ceo"}'
    put(ten, rechain(ten, forged))
    forget_checkpoints(ten)
    assert verify_log(ten).ok  # UNDETECTABLE without anchor, key or `full`
    report = verify_log(ten, full=True)
    assert ("foreign-keys", 5) in {(f.kind, f.seq) for f in report.findings}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"outcome":"success"', b'"outcome":["success"]'),
        (b'"data":{"number":3}', b'"data":[3]'),
        (b'"id":"u-1"', b'"id":1'),
        (b'"data":{"number":3}', b'"data":{"number":NaN}'),
    ],
)
def test_a_wrong_type_in_a_perfect_forgery_is_found_by_full(ten, old, new):
    """Readers that trust the types are not led astray."""
    forged = lines_of(ten)
    forged[4] = forged[4].replace(old, new)
    put(ten, rechain(ten, forged))
    forget_checkpoints(ten)
    report = verify_log(ten, full=True)
    assert ("not-a-record", 5) in {(f.kind, f.seq) for f in report.findings}
