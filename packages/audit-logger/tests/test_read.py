"""Queries, the live tail, retention, the command and the report."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from maestro_audit_logger import (
    Actor,
    AuditError,
    HmacRatchet,
    InvalidProof,
    Query,
    follow,
    prove_consistency,
    run_query,
    verify_log,
)
from maestro_audit_logger._cli import main
from maestro_audit_logger._report import Summary
from maestro_audit_logger.testing import FullDisk, capture

DAY = 86_400 * 10**9
START = 1_800_000_000_000_000_000  # 2027-01-15T08:00:00Z


@pytest.fixture
def audit(make_log):
    """Three days of events, three segments, an hour apart."""
    now = [START]
    audit = make_log(clock_ns=lambda: now[0])
    for n in range(60):
        audit.record(
            ["invoice.approve", "invoice.export", "user.login"][n % 3],
            actor=Actor.user(f"u-{n % 4}"),
            resource=("invoice", f"inv-{n % 5}"),
            outcome=["success", "denied"][n % 7 == 0],
            data={"n": n},
        )
        now[0] += DAY // 24
    return audit


def numbers(events):
    return [event.data["n"] for event in events]


def test_criteria_combine(audit):
    """Each one narrows; patterns match actions."""
    assert numbers(audit.query(actor="u-1")) == list(range(1, 60, 4))
    assert numbers(audit.query(actor="user:u-1", action="invoice.*")) == [
        n for n in range(1, 60, 4) if n % 3 < 2
    ]
    assert numbers(audit.query(resource=("invoice", "inv-2"), outcome="denied")) == [
        7,
        42,
    ]
    assert numbers(audit.query(resource="inv-2", where=lambda e: e.data["n"] > 50)) == [
        52,
        57,
    ]
    assert list(audit.query(actor="service:u-1")) == []
    assert numbers(audit.query(action="user.login", newest_first=True, limit=2)) == [
        59,
        56,
    ]


def test_a_name_that_is_part_of_another_does_not_match(make_log):
    """u-1 is not u-10, and an id in the data is not an actor."""
    audit = make_log()
    audit.record("a.b", actor=Actor.user("u-10"), data={"id": "u-1", "n": 1})
    audit.record("a.b", actor=Actor.user('u-"1'), data={"n": 2})
    assert list(audit.query(actor="u-1")) == []
    assert numbers(audit.query(actor='u-"1')) == [2]


def test_times_are_half_open_and_may_be_relative(audit):
    """Since is included, until is not."""
    moment = datetime.fromtimestamp(START / 1e9 + 3600 * 10, UTC)
    assert numbers(audit.query(since=moment))[0] == 10
    assert numbers(audit.query(until=moment))[-1] == 9
    assert numbers(audit.query(since="2027-01-16", until="2027-01-17")) == list(
        range(16, 40)
    )
    assert len(list(audit.query(since="-1d"))) == 60
    with pytest.raises(ValueError, match="expected a time such as"):
        list(audit.query(since="yesterday"))
    with pytest.raises(TypeError, match="did you mean 'actor'"):
        audit.query(actr="u-1")


def test_pages_cover_everything_once(audit):
    """Forward with after, backward with before."""
    seen, after = [], 0
    while page := list(audit.query(after=after, limit=7)):
        seen += numbers(page)
        after = page[-1].seq
    assert seen == list(range(60))
    seen, before = [], None
    while page := list(audit.query(before=before, limit=7, newest_first=True)):
        seen += numbers(page)
        before = page[-1].seq
    assert seen == list(range(59, -1, -1))


@settings(derandomize=True, max_examples=60, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    actor=st.sampled_from([None, "u-1", "user:u-2", "nobody"]),
    action=st.sampled_from([None, "user.login", "invoice.*", "*.export"]),
    outcome=st.sampled_from([None, "denied", "success"]),
    after=st.integers(0, 70),
    before=st.none() | st.integers(0, 70),
    newest_first=st.booleans(),
)
def test_a_query_finds_what_a_full_scan_finds(
    audit, actor, action, outcome, after, before, newest_first
):
    """The byte search has no false negatives."""
    from fnmatch import fnmatchcase

    wanted = [
        e
        for e in audit.query()
        if (actor is None or actor in {e.actor.id, f"{e.actor.type}:{e.actor.id}"})
        and (action is None or fnmatchcase(e.action, action))
        and (outcome is None or e.outcome == outcome)
        and e.seq > after
        and (before is None or e.seq < before)
    ]
    found = list(
        audit.query(
            actor=actor, action=action, outcome=outcome, after=after, before=before,
            newest_first=newest_first,
        )
    )  # fmt: skip
    assert found == (wanted[::-1] if newest_first else wanted)


def test_packed_segments_read_the_same(audit, folder):
    """gzip changes neither hashes nor queries nor proofs."""
    before = list(audit.query())
    assert len(audit.pack()) == 2
    assert list(audit.query()) == before
    assert numbers(audit.query(actor="u-1", newest_first=True))[0] == 57
    assert audit.verify(full=True).ok
    audit.record("a.b", data={"n": 60})
    assert audit.verify(full=True).ok
    assert len(list(folder.glob("*.gz"))) == 2


def test_the_tail_follows_over_rotation(make_log, folder):
    """A reader sees each event once, while another thread writes."""
    audit = make_log(segment_bytes=2000)
    done = threading.Event()

    def write():
        for n in range(60):
            audit.record("a.b", data={"n": n})
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    query = Query(action="a.b")
    seen = numbers(
        follow(folder, query, sleep=lambda _: time.sleep(0.005), stop=done.is_set)
    )
    thread.join()
    seen += numbers(audit.query(action="a.b"))[len(seen) :]
    assert seen == list(range(60))


def test_verifying_while_others_write_is_never_a_false_alarm(make_log, folder):
    """Four threads write and rotate; verify runs beside them."""
    audit = make_log(segment_bytes=20_000, checkpoint_every=50)
    stop = threading.Event()

    def write():
        while not stop.is_set():
            audit.record("a.b")

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        reports = [verify_log(folder, full=True) for _ in range(15)]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [r.explain() for r in reports if not r.ok] == []


def test_pruning_keeps_proofs_and_anchors(audit, folder):
    """Whole sealed segments go, their hashes stay; what is held stays too."""
    anchor = audit.checkpoint()
    proof = audit.prove(3)
    audit.hold("case-7", 30, 31)
    removed = audit.prune("2027-02-01")
    assert removed == [1]
    report = audit.verify(anchor=anchor)
    assert report.ok, report.explain()
    assert report.first_seq > 1
    assert audit.prove(3).split("\n")[:2] == proof.split("\n")[:2]
    audit.release("case-7")
    assert len(audit.prune("2027-02-01")) == 1
    assert audit.verify(anchor=anchor, full=True).ok
    assert [e.action for e in audit.query(action="audit.*")][-1] == "audit.pruned"
    with pytest.raises(KeyError):
        audit.release("case-7")


def test_pruning_a_log_that_was_changed_is_refused(audit, folder):
    """The evidence of an edit is not tidied away."""
    audit.checkpoint()
    path = folder / f"{1:020d}.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"n":3', b'"n":4'))
    with pytest.raises(AuditError, match="run verify before prune"):
        audit.prune("2027-02-01")
    assert path.exists()


def test_a_pruned_log_goes_on_after_reopening(audit, make_log, folder):
    """The first line on disk says what it continues."""
    audit.prune("2027-02-01")
    audit.close()
    with make_log() as again:
        again.record("a.b")
    assert verify_log(folder).ok


def test_the_capture_for_tests_is_a_real_log():
    """Users' tests see events as they will be stored."""
    with capture(Actor.user("u-1")) as log:
        log.audit.record("a.b", data={"password": "x"})
        assert log.actions == ["a.b"]
        assert log.one("a.b").data == {"password": "[redacted]"}
    with capture(files=FullDisk()) as log:
        with pytest.raises(AssertionError, match="expected one"):
            log.one("a.b")


# The command


def run(capsys, *arguments):
    code = main([str(a) for a in arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_the_command_from_init_to_check_proof(
    folder, tmp_path, capsys, make_log, ed25519
):
    """Keys, a log, a signed checkpoint, a proof that a stranger checks."""
    code, key, _ = run(capsys, "keygen", tmp_path / "key", "--name", "app.example")
    assert code == 0
    assert run(capsys, "init", folder, "--origin", "app.example/audit")[0] == 0
    make_log().record("invoice.approve", resource=("invoice", "i-1"))
    code, note, _ = run(capsys, "checkpoint", folder, "--sign-with", tmp_path / "key")
    assert note.startswith("app.example/audit\n2\n")
    (tmp_path / "note").write_text(note, "utf-8")
    (tmp_path / "pub").write_text(key, "utf-8")
    trust = ("--anchor", tmp_path / "note", "--key", tmp_path / "pub")
    assert run(capsys, "verify", folder, *trust, "--strict")[0] == 0
    code, out, _ = run(capsys, "prove", folder, 2, "--json")
    proven = json.loads(out)
    (tmp_path / "proof").write_text(proven["proof"], "utf-8")
    (tmp_path / "line").write_text(proven["line"], "utf-8")
    check = ("check-proof", tmp_path / "proof", tmp_path / "line", "--key", key.strip())
    assert run(capsys, *check)[0] == 0
    (tmp_path / "line").write_text(proven["line"] + " ", "utf-8")
    assert run(capsys, *check)[0] == 1


def test_the_exit_codes(ten, tmp_path, capsys):
    """As in --help: 0, 1, 2, 3, 4, 5."""
    assert run(capsys, "verify", ten)[0] == 0
    assert run(capsys, "verify", ten, "--strict")[0] == 4
    (tmp_path / "bad").write_text("nonsense", "utf-8")
    assert run(capsys, "verify", ten, "--anchor", tmp_path / "bad")[0] == 4
    assert run(capsys, "query", ten, "--since", "yesterday")[0] == 2
    assert run(capsys, "export", ten, "oscf")[2].count("did you mean 'ocsf'") == 1
    code, _, error = run(capsys, "verify", tmp_path / "none")
    assert code == 5
    assert "no audit log" in error
    path = ten / f"{1:020d}.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"seq":12,"pr')
    assert run(capsys, "verify", ten)[0] == 3
    path.write_bytes(whole.replace(b'"number":3', b'"number":4'))
    code, out, _ = run(capsys, "verify", ten, "--json")
    assert (code, json.loads(out)["status"]) == (1, "tampered")


def test_proofs_before_the_first_checkpoint(make_log, folder, tmp_path, capsys):
    """Say what to do; a folder without a log is called that."""
    audit = make_log()
    audit.record("a.b")
    code, _, error = run(capsys, "prove", folder, 1)
    assert code == 1
    assert "there is no checkpoint yet: run `maestro-audit checkpoint`" in error
    with pytest.raises(InvalidProof, match="no checkpoint yet"):
        prove_consistency(folder, 1)
    assert run(capsys, "checkpoint", folder)[0] == 0
    code, _, error = run(capsys, "prove", folder, 99)
    assert (code, "records 1 to 2, got 99" in error) == (1, True)
    with pytest.raises(InvalidProof, match="covers 2 lines, got 3"):
        prove_consistency(folder, 3)
    for command in (["prove", tmp_path / "none", 1], ["verify", tmp_path / "none"]):
        code, _, error = run(capsys, *command)
        assert (code, "no audit log in" in error) == (5, True)
    code, _, error = run(capsys, "verify", folder / "log.json")
    assert (code, "log.json: expected the folder of a log, got a file" in error) == (5, True)  # fmt: skip


def test_what_the_system_refuses_is_told_in_words(ten, tmp_path, capsys):
    """With the name that was given, not that of a neighbour, and no number."""
    to = tmp_path / "none" / "file"
    for command in (
        ["export", ten, "csv", "--to", to],
        ["evidence", ten, "--to", to],
        ["report", ten, "--to", to],
    ):
        code, _, error = run(capsys, *command)
        assert code == 5
        assert error == f"maestro-audit: No such file or directory: {to}\n"
    code, _, error = run(capsys, "verify", ten, "--anchor", to)
    assert error == f"maestro-audit: No such file or directory: {to}\n"


def test_a_key_is_made_once(tmp_path, capsys, ed25519):
    """The second time it is left as it is, and the error says how to open it."""
    for kind, opener in ((["--hmac"], "HmacRatchet"), ([], "Ed25519Signer.load")):
        path = tmp_path / opener
        assert run(capsys, "keygen", path, "--name", "app.example", *kind)[0] == 0
        before = path.read_bytes()
        code, _, error = run(capsys, "keygen", path, "--name", "app.example", *kind)
        assert code == 2
        assert f"open it with {opener}({str(path)!r})" in error
        assert path.read_bytes() == before
        assert run(capsys, "keygen", tmp_path / "new", "--name", "a b", *kind)[0] == 2
        assert not (tmp_path / "new").exists()
    with pytest.raises(FileExistsError):
        HmacRatchet.create(tmp_path / "HmacRatchet", name="app.example")
    _, key = HmacRatchet.create(tmp_path / "third", name="app.example")
    assert repr(key.start) not in repr(key)


def test_options_of_an_export_are_checked(ten, capsys):
    """By name, with the nearest one."""
    code, _, error = run(capsys, "export", ten, "ocsf", "-o", "versoin=1.8.0")
    assert (code, "did you mean 'version'" in error) == (2, True)
    code, _, error = run(capsys, "export", ten, "jsonl", "-o", "x")
    assert (code, "--option expects NAME=VALUE, got 'x'" in error) == (2, True)
    code, _, error = run(capsys, "query", ten, "--outcome", "failed")
    assert (code, "did you mean 'failure'" in error) == (2, True)


def test_reading_commands(ten, tmp_path, capsys):
    """query, tail, export, doctor; plain and as JSON."""
    _, out, _ = run(capsys, "query", ten, "--actor", "u-1", "--limit", 2)
    assert len(out.splitlines()) == 2
    _, out, _ = run(capsys, "tail", ten, "-n", 3, "--json")
    assert [json.loads(line)["data"]["number"] for line in out.splitlines()] == [
        7,
        8,
        9,
    ]
    assert run(capsys, "export", ten, "csv", "--to", tmp_path / "x.csv")[0] == 0
    assert (tmp_path / "x.csv").read_text("utf-8").count("\n") == 11
    _, out, _ = run(capsys, "doctor", ten, "--json")
    assert {c["check"] for c in json.loads(out)} >= {"space", "checkpoint"}


def test_doctor_attacks_a_log_of_its_own(ten, capsys, monkeypatch):
    """Each attack is found by whoever knows the least that finding it needs."""
    code, out, _ = run(capsys, "doctor", "--selftest", "--json")
    found = {c["check"]: c["message"] for c in json.loads(out)}
    assert code == 0
    assert found.pop("no attack") == "verified"
    assert found["a changed byte"] == "found by the folder alone, the key, the anchor"
    assert found["an older copy of the folder"] == "found by the anchor"
    assert len(found) >= 14
    before = sorted(ten.rglob("*"))
    monkeypatch.setattr(
        "maestro_audit_logger._selftest.verify_log", lambda *_, **__: verify_log(ten)
    )
    code, out, _ = run(capsys, "doctor", ten, "--selftest", "--json")
    blind = {c["check"]: c["ok"] for c in json.loads(out)}
    assert code == 5
    assert not any(blind[name] for name in found)
    assert sorted(ten.rglob("*")) == before
    assert run(capsys, "doctor")[0] == 2


def test_keeping_commands(ten, tmp_path, capsys):
    """seal, prune, erase; each says who did it."""
    assert run(capsys, "seal", ten, "--pack", "--actor", "ops")[0] == 0
    assert run(capsys, "erase", ten, "--subject", "u-9", "--actor", "ops")[1] == (
        "subject u-9, erased 0\n"
    )
    _, out, _ = run(capsys, "prune", ten, "--before", "2100-01-01", "--json")
    assert json.loads(out) == {"removed_segments": [1]}
    assert run(capsys, "verify", ten)[0] == 0
    _, out, _ = run(capsys, "query", ten, "--action", "audit.erased", "--json")
    assert json.loads(out)["actor"]["id"] == "ops"


def test_control_characters_do_not_reach_a_terminal(make_log, folder, capsys):
    """An escape sequence in a name is shown, not obeyed."""
    make_log().record("a.b", actor=Actor.user("\x1b[2J"))
    _, out, _ = run(capsys, "query", folder)
    assert "\x1b" not in out
    assert "\\x1b[2J" in out


def test_interrupting_the_tail_is_quiet(ten):
    """^C: 130 and no stack trace."""
    command = [
        sys.executable,
        "-m",
        "maestro_audit_logger._cli",
        "tail",
        str(ten),
        "-f",
    ]
    # A shell's background job ignores ^C, and a child would inherit that.
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            assert process.stdout.readline()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, b"maestro-audit: interrupted\n")


def test_help_has_an_example_and_the_exit_codes(capsys):
    """The first thing that a user sees."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "example: maestro-audit verify" in out
    assert "exit codes: 0 ok, 1 tampered" in out


def test_the_report_shows_counts_and_verdict_in_a_browser(
    audit, tmp_path, capsys, require_program
):
    """Rendered by chromium: what a reader sees, with names from outside inert."""
    audit.record(
        "a.b",
        actor=Actor.user("<script>document.title='owned'</script>"),
        outcome="failure",
    )
    page = tmp_path / "report.html"
    assert run(capsys, "report", audit.path, "--to", page)[0] == 0
    source = page.read_text("utf-8")
    assert "<script" not in source
    assert "http://" not in source
    assert "https://" not in source
    chromium = require_program("chromium")
    done = subprocess.run(
        [chromium, "--headless=new", "--no-sandbox", "--disable-gpu",
         "--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}",
         "--dump-dom", page.as_uri()],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    dom = done.stdout.decode()
    assert "<b>The log is intact</b>" in dom
    assert "<b>61</b>events" in dom
    assert "<title>Audit report: app.example/audit</title>" in dom
    assert dom.count("<rect") >= 2


def test_the_summary_counts_an_action_once(make_log):
    """Intent and outcome are one thing that happened."""
    audit = make_log()
    with audit.action("user.delete"):
        pass
    assert Summary.of(audit.query()).events == 1


def test_a_report_of_a_changed_log_says_so(ten, tmp_path, capsys):
    """With exit code 1, and the place."""
    path = ten / f"{1:020d}.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"number":3', b'"number":4'))
    assert run(capsys, "report", ten, "--to", tmp_path / "r.html")[0] == 1
    assert "The log has been tampered with" in (tmp_path / "r.html").read_text("utf-8")


def test_a_reader_needs_no_write_permission(ten, as_nobody, public_folder):
    """Another user, who may only read the files, verifies and queries."""
    copy = public_folder / "audit"
    shutil.copytree(ten, copy)
    for path in [copy, *copy.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)

    def work():
        assert not os.access(copy, os.W_OK)
        assert verify_log(copy).ok
        assert len(list(run_query(copy, Query(actor="u-1")))) == 10

    assert as_nobody(work) == 0


def test_a_forged_record_cannot_write_into_the_report(ten, tmp_path, capsys):
    """Every word of a tampered log comes from the attacker."""
    evil = b"<script>alert(1)</script>"
    path = ten / f"{1:020d}.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[3] = lines[3].replace(b'"outcome":"success"', b'"outcome":"%s"' % evil)
    lines[4] = lines[4].replace(b'"ts":"2', b'"ts":"%s2' % evil[:4])
    lines[5] = lines[5].replace(b'"outcome":"success"', b'"outcome":["x"]')
    lines[6] = lines[6][:-1] + b',"seq":"%s"}' % evil
    lines[7] = lines[7].replace(b"success", b"failure")
    lines[8] = lines[8].replace(b'"id":"u-1"', b'"id":"%s"' % evil)
    path.write_bytes(b"\n".join(lines))
    page = tmp_path / "r.html"
    assert run(capsys, "report", ten, "--to", page)[0] == 1
    shown = page.read_text("utf-8")
    assert "<script" not in shown
    assert "&lt;script" in shown
    assert "<b>8</b>events" in shown  # two are no events: their types are wrong
    assert run(capsys, "query", ten, "--json")[0] == 0


def test_one_change_is_not_reported_once_per_checkpoint(make_log, folder):
    """The first checkpoint that differs says where; the rest are counted."""
    with make_log(checkpoint_every=1) as audit:
        for number in range(20):
            audit.record("a.b", data={"n": number})
    path = folder / f"{1:020d}.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"n":3}', b'"n":4}'))
    found = [(f.kind, f.seq) for f in verify_log(folder).findings]
    assert found[0] == ("root-differs", 5)
    assert len(found) <= 4
