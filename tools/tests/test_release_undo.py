"""Yank, delete, and a release that stopped half way."""

import json
import os
import signal
import threading

import pytest
from maestro_release.journal import Journal

URL = "http://127.0.0.1:1"


def file(name):
    return {"package": "maestro-alpha", "version": "1.0.0", "filename": name}


def test_a_release_without_an_end_is_half_done(tmp_path):
    journal = Journal(tmp_path)
    assert journal.half_done(URL) == ()
    first = journal.begin(URL, [file("a.whl"), file("a.tar.gz")])
    second = journal.begin(URL, [file("b.whl")])
    journal.begin("http://other", [file("c.whl")])
    journal.end(first)
    [half] = journal.half_done(URL)
    assert (half.id, half.files, half.versions) == (
        second,
        ("b.whl",),
        (("maestro-alpha", "1.0.0"),),
    )


@pytest.mark.parametrize("cut", [2, 10, 60])
def test_a_torn_last_line_is_ignored_and_not_glued_to_the_next(tmp_path, cut):
    journal = Journal(tmp_path)
    first = journal.begin(URL, [file("a.whl")])
    journal.end(first)
    path = tmp_path / "journal.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert [h.id for h in journal.half_done(URL)] == [first]
    journal.end(first)
    assert journal.half_done(URL) == ()


def test_a_journal_torn_at_any_byte_tells_what_is_whole(tmp_path):
    journal = Journal(tmp_path)
    first = journal.begin(URL, [file("a.whl")])
    journal.note(first, "file", filename="a.whl", sha256="0", text='}\u2028{"\x85\n')
    journal.end(first)
    path = tmp_path / "journal.jsonl"
    whole = path.read_bytes()
    begun, noted, ended = (
        n for n, byte in enumerate(whole) if byte == ord("\n")
    )  # each line is whole without its newline
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        half = journal.half_done(URL)
        assert [h.id for h in half] == ([first] if begun <= cut < ended else []), cut
        if half:
            assert half[0].uploaded == (("a.whl",) if cut >= noted else ()), cut
        second = journal.begin(URL, [file("b.whl")])
        assert second in {h.id for h in journal.half_done(URL)}, cut
        journal.end(second)
        assert journal.half_done(URL) == half


def versions(done):
    return {p["name"]: p["versions"] for p in json.loads(done.stdout)["packages"]}


def test_yank_hides_a_version_and_can_be_taken_back(two, front):
    assert two.release("publish", "--no-verify").returncode == 0
    done = two.release("yank", "beta==1.0.0", "--reason", "it lies")
    assert done.returncode == 0, done.stderr
    status = json.loads(two.release("status", "--json").stdout)
    assert status["packages"][0]["yanked"] == {"1.0.0": "it lies"}
    assert two.release("yank", "beta==1.0.0", "--undo").returncode == 0
    status = json.loads(two.release("status", "--json").stdout)
    assert status["packages"][0]["yanked"] == {}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["yank", "beta"], 2, "wanted beta==VERSION"),
        (["yank", "beta==9"], 3, "is not published"),
        (["delete"], 2, "--half-done"),
        (["delete", "beta"], 2, "wanted beta==VERSION"),
        (["delete", "beta==1.0.0", "--half-done"], 2, "--half-done"),
    ],
)
def test_what_cannot_be_undone_is_said(two, front, arguments, code, message):
    done = two.release(*arguments)
    assert done.returncode == code
    assert message in done.stderr


def test_delete_shows_first_and_does_it_with_yes_any_number_of_times(two, front):
    assert two.release("publish", "--no-verify").returncode == 0
    done = two.release("delete", "beta==1.0.0")
    assert done.returncode == 1
    assert "would remove maestro_beta-1.0.0-py3-none-any.whl" in done.stdout
    assert set(two.listed()) == two.files
    done = two.release("delete", "beta==1.0.0", "--yes")
    assert done.returncode == 0
    assert set(two.listed()) == {f for f in two.files if "alpha" in f}
    done = two.release("delete", "beta==1.0.0", "--yes")
    assert done.returncode == 0
    assert "it was gone" in done.stdout
    # It can be published again; the other package is left alone.
    again = two.release("publish", "--no-verify", "--json")
    assert set(json.loads(again.stdout)["uploaded"]) == {
        f for f in two.files if "beta" in f
    }


def killed_after(two, front, count):
    """Kill -9 a release when it has uploaded `count` files."""
    front.kill_after(two.start("publish", "--no-verify"), count)


def test_a_half_done_release_is_shown_and_can_be_taken_back(two, front):
    killed_after(two, front, 3)
    assert len(two.listed()) == 3
    done = two.release("status")
    assert "half done since" in done.stdout
    assert "of 4 files acknowledged" in done.stdout
    done = two.release("delete", "--half-done", "--yes")
    assert done.returncode == 0, done.stderr
    assert two.listed() == {}
    assert "half done" not in two.release("status").stdout
    assert "no release is half done" in two.release("delete", "--half-done").stdout


@pytest.mark.drill
def test_a_half_done_release_is_finished_by_the_next_publish(two, front):
    killed_after(two, front, 1)
    done = two.release("publish")
    assert done.returncode == 0, done.stderr
    assert "resume   the release begun at" in done.stdout
    assert sorted(front.uploads) == sorted(two.files)
    assert json.loads(two.release("status", "--json").stdout)["half_done"] == []


STEPS = [
    "index",
    "build",
    "compare",
    "check",
    "upload",
    "listed",
    "install",
    "evidence",
]


def journal_of(checkout):
    return Journal(checkout.root / ".maestro").lines()


def finishes(two, front):
    """Publish again after a kill; nothing may be missing, torn or sent for nothing."""
    acknowledged = {e["filename"] for e in journal_of(two) if e["event"] == "file"}
    sent = len(front.uploads)
    done = two.release("publish")
    assert done.returncode == 0, done.stderr
    assert set(two.listed()) == two.files
    assert not acknowledged & set(front.uploads[sent:])
    assert json.loads(two.release("status", "--json").stdout)["half_done"] == []
    done = two.release("verify", "--require-provenance")
    assert done.returncode == 0, done.stderr
    text = "".join(
        path.read_text(encoding="utf-8")
        for path in (two.root / ".maestro" / "audit").glob("*.jsonl")
    )
    events = [json.loads(line) for line in text.splitlines()]
    recorded = [
        e["data"]["files"] for e in events if e.get("action") == "package.publish"
    ]
    assert {name for files in recorded for name in files} == two.files


@pytest.mark.drill
@pytest.mark.parametrize("step", STEPS)
def test_kill_9_after_any_step_the_next_run_finishes(two, front, step):
    """No version is left half there, and the evidence is whole."""
    process = two.start("publish")
    assert any(line.startswith(step) for line in process.stdout)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    finishes(two, front)


@pytest.mark.drill
@pytest.mark.parametrize("files", [0, 1, 2, 3])
def test_kill_9_between_any_two_files_the_next_run_finishes(two, front, files):
    front.kill_after(two.start("publish"), files)
    assert len(two.listed()) == files
    finishes(two, front)


@pytest.mark.drill
@pytest.mark.parametrize("delay", [0.7, 1.1, 1.6])
def test_kill_9_at_any_moment_the_next_run_finishes(two, front, delay):
    process = two.start("publish")
    timer = threading.Timer(delay, os.killpg, (process.pid, signal.SIGKILL))
    timer.start()
    process.communicate()
    timer.cancel()
    finishes(two, front)


@pytest.mark.parametrize("files", [[], ["a.whl"], ["a.whl", "a.tar.gz"]])
def test_the_journal_knows_which_uploads_were_acknowledged(tmp_path, files):
    journal = Journal(tmp_path)
    release = journal.begin(URL, [file("a.whl"), file("a.tar.gz")])
    for name in files:
        journal.note(release, "file", filename=name)
    [half] = journal.half_done(URL)
    assert half.uploaded == tuple(files)
