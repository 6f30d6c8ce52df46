"""The history: whole runs or none, shards, retention, renames."""

import os
import resource
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from maestro_test_result_aggregator import (
    Attempt,
    History,
    HistoryError,
    InvalidArgument,
    ReportError,
    RunExists,
    RunNotFound,
    TestResult,
    TestResultAggregator,
    merge,
)
from maestro_test_result_aggregator.testing import result

CHILD = """
import sys
from maestro_test_result_aggregator import History
from maestro_test_result_aggregator.testing import result
path, name, tests = sys.argv[1], sys.argv[2], int(sys.argv[3])
def results():
    for i in range(tests):
        if i % 500 == 0:
            print(i, flush=True)
        yield result(f"t::{i}", "failed" if i % 10 == 0 else "passed", duration=0.1, message=f"m{i}" if i % 10 == 0 else None)
try:
    History(path).record(results(), run_id=name, started=1.0)
except Exception as error:
    print(type(error).__name__, error, flush=True)
    sys.exit(4)
print("kept", flush=True)
"""


def child(*arguments: object, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", CHILD, *map(str, arguments)],
        stdout=subprocess.PIPE, text=True, encoding="utf-8", **options,
    )  # fmt: skip


def kill_during_ingest(path, rounds):
    """Kill an ingesting process a little later each round; return runs that survived."""
    whole = 0
    for number in range(rounds):
        with child(path, f"run{number}", 6000) as process:
            for line in process.stdout:
                if line.strip() == str(500 * (number % 12)):
                    break
            time.sleep(0.003 * (number % 7))
            os.kill(process.pid, signal.SIGKILL)
            process.stdout.read()
        with History(path) as history:
            for run in history.runs():
                assert run.counts.tests == 6000
                assert len(history.executed(run.run_id)) == 6000
            whole = len(history.runs())
            check = history.rows("SELECT count(DISTINCT run) FROM result")[0][0]
            assert check == whole
    return whole


def test_a_killed_ingest_leaves_the_run_whole_or_absent(tmp_path):
    """A few kills here, many in the drill."""
    assert kill_during_ingest(tmp_path / "h.db", 4) <= 4


@pytest.mark.drill
def test_forty_kills_leave_whole_runs_only(tmp_path):
    """At every stage of the ingest."""
    assert kill_during_ingest(tmp_path / "h.db", 40) < 40


def test_many_processes_may_open_a_new_file_at_once(tmp_path):
    """None of them hears that the file is locked."""
    path = tmp_path / "h.db"
    children = [child(path, f"run{n}", 1) for n in range(8)]
    said = [process.communicate()[0] for process in children]
    assert [text.split()[-1] for text in said] == ["kept"] * 8


def test_two_processes_ingest_at_once(tmp_path):
    """They take turns; both runs are there."""
    path = tmp_path / "h.db"
    children = [child(path, f"run{n}", 3000) for n in range(2)]
    for process in children:
        with process:
            assert process.stdout.read().strip().endswith("kept")
    with History(path) as history:
        assert [r.counts.tests for r in history.runs()] == [3000, 3000]


def test_a_full_disk_keeps_nothing_of_the_run(tmp_path):
    """The earlier run stays, and the error names the file."""
    path = tmp_path / "h.db"
    with child(path, "first", 100) as process:
        process.stdout.read()
    size = path.stat().st_size + 100_000

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    with child(path, "second", 20_000, preexec_fn=limit) as process:
        said = process.stdout.read()
    assert process.returncode == 4
    assert "HistoryError" in said
    assert str(path) in said
    with History(path) as history:
        assert [r.run_id for r in history.runs()] == ["first"]
        assert history.run("first").counts.tests == 100


def test_a_result_comes_back_whole(tmp_path):
    """All fields, through the file."""
    whole = TestResult(
        id="a::b[1]", name="b[1]", outcome="failed", duration=1.25, start=1.5e9, file="a.py",
        line=3, suite=("a",), message="no\x00pe", trace="tr\ud800ace", stdout="out\n", stderr="err",
        log="log", tags=("x",), parameters={"n": 1}, raw_status="FAIL", worker="gw0",
        properties={"k": "v"}, extra={"other.tool": [1]},
        attempts=(Attempt(number=1, outcome="error", duration=0.5, start=1.4e9, message="m", trace="t", stdout="o"),),
    )  # fmt: skip
    with History(tmp_path / "h.db") as history:
        history.record([whole], run_id="r", started=1.0)
        assert history.results("r") == [whole]


def test_shards_add_up_to_one_run(agg):
    """In any order, a duplicate is a later attempt and told."""
    agg.add([result("a"), result("b", "failed")], run_id="r", shard="2/2", started=1)
    agg.add([result("b"), result("c")], run_id="r", shard="1/2", started=2)
    run = agg.run("r")
    assert run.info.shards == ("2/2", "1/2")
    assert {r.id: (r.outcome, len(r.attempts)) for r in run.results()} == {
        "a": ("passed", 0), "b": ("passed", 1), "c": ("passed", 0),
    }  # fmt: skip
    assert "1 results of tests that were there already" in str(run.diagnostics[0])


def test_the_same_files_again_change_nothing(agg, tmp_path):
    """Other files under the name are refused, unless they replace it."""
    file = tmp_path / "r.xml"
    file.write_bytes(b'<testsuite><testcase name="a" classname="c"/></testsuite>')
    assert agg.ingest(file, run_id="r").added
    assert not agg.ingest(file, run_id="r").added
    file.write_bytes(b'<testsuite><testcase name="b" classname="c"/></testsuite>')
    with pytest.raises(RunExists, match="run 'r' is there with other content"):
        agg.ingest(file, run_id="r")
    agg.ingest(file, run_id="r", replace=True)
    assert [r.id for r in agg.run("r").results()] == ["c::b"]


def test_a_run_has_one_commit_and_one_branch(agg):
    """Other ones are refused, not passed over; replacing takes them."""
    agg.add([result("a")], run_id="r", shard="1/2", started=1)
    agg.add(
        [result("b")], run_id="r", shard="2/2", commit="aaa", branch="pr", started=1
    )
    assert (agg.run("r").info.commit, agg.run("r").info.branch) == ("aaa", "pr")
    with pytest.raises(RunExists, match="with other commit .'aaa', now 'bbb'"):
        agg.add([result("c")], run_id="r", shard="3/3", commit="bbb", started=1)
    agg.store.record([result("b")], run_id="r", shard="2/2", commit="bbb", started=1, replace=True)  # fmt: skip
    assert agg.run("r").info.commit == "bbb"


def test_the_same_report_of_another_commit_is_another_run(agg, tmp_path):
    """Where no name is given, the name is made from all three."""
    file = tmp_path / "r.xml"
    file.write_bytes(b'<testsuite><testcase name="a" classname="c"/></testsuite>')
    names = {agg.ingest(file).run_id}
    for commit, branch in (("1", ""), ("2", ""), ("2", "pr"), ("2", "pr")):
        run = agg.ingest(file, commit=commit, branch=branch)
        assert (run.info.commit, run.info.branch) == (commit, branch)
        names.add(run.run_id)
    assert len(names) == 4
    assert not run.added


def test_no_report_at_all_is_an_error_and_no_run(agg, tmp_path, golden):
    """The file that is missing is named; a missing one among others is told."""
    for given, words in (
        (tmp_path / "a.xml", "a.xml: no such file"),
        ([tmp_path / "b.xml", "c.xml"], "b.xml: no such file, nor any of 1 more"),
        (tmp_path / "*.xml", "the pattern matches no file"),
        (tmp_path, "the folder holds no report"),
        ([], "expected files, folders or patterns"),
    ):
        with pytest.raises(ReportError, match=words):
            agg.ingest(given)
        with pytest.raises(ReportError, match=words):
            merge(given)
    assert agg.store.runs() == []
    with pytest.raises(InvalidArgument, match="'worst', got 'newest'"):
        merge(golden / "jest.json", on_duplicate="newest")
    for wrong in (7, [7]):
        with pytest.raises(InvalidArgument, match="paths: expected"):
            agg.ingest(wrong)
    good = tmp_path / "good.xml"
    good.write_bytes(b'<testsuite><testcase name="a" classname="c"/></testsuite>')
    runs = [agg.ingest([good, tmp_path / name]) for name in ("x.xml", "y.xml")]
    assert [run.diagnostics[0].path[-5:] for run in runs] == ["x.xml", "y.xml"]
    assert repr(runs[0]).endswith(": 1 passed, 0 failed, 1 problem in the reports>")


def test_old_runs_are_forgotten_by_branch(agg):
    """With their tests and texts."""
    for n in range(5):
        agg.add(
            [result(f"t{n}", "failed", message=f"m{n}")],
            run_id=str(n),
            branch="ab"[n % 2],
            started=n,
        )
    assert agg.prune(keep=1) == 3
    assert [r.run_id for r in agg.store.runs()] == ["3", "4"]
    assert agg.store.rows("SELECT count(*) FROM body")[0][0] == 2
    assert agg.store.rows("SELECT count(*) FROM test")[0][0] == 2


def test_runs_over_so_many_days_old_are_forgotten(tmp_path):
    """Whatever their branch; the clock is the aggregator's."""
    day = 86400.0
    with TestResultAggregator(tmp_path / "h.db", clock=lambda: 100 * day) as agg:
        for age in (0, 89, 90, 91, 99):
            agg.add([result("t")], run_id=str(age), started=(100 - age) * day)
        assert agg.prune(days=90) == 2
        assert [run.run_id for run in agg.store.runs()] == ["90", "89", "0"]
        assert agg.prune(days=90) == 0


def test_a_renamed_test_keeps_its_past(agg):
    """Also when the new name has results already."""
    agg.add([result("old", "failed")], run_id="1", started=1)
    agg.add([result("new")], run_id="2", started=2)
    assert agg.store.rename("old", "new") == 1
    assert [e.outcome for e in agg.history("new")] == ["failed", "passed"]
    assert agg.history("old") == []


def test_a_renamed_test_is_judged_by_both_its_pasts(agg):
    """Also where other shards hold the same tests, and after a run is replaced."""
    for run in range(12):
        name = "old" if run < 6 else "new"
        bad = run in (2, 4, 8)
        agg.add(
            [result(name, "failed" if bad else "passed"), result("x")],
            run_id=str(run),
            started=run,
            shard="1/2",
        )
        agg.add(
            [result("x"), result("y", "skipped")],
            run_id=str(run),
            started=run,
            shard="2/2",
        )
    agg.store.rename("old", "new")
    (flake,) = agg.flaky(classes=None)
    assert (flake.test, flake.row) == ("new", "..F.F...F...")
    agg.store.record([result("x")], run_id="8", started=8, shard="1/2", replace=True)
    (flake,) = agg.flaky(classes=None)
    assert flake.row == "..F.F...-..."


def test_a_run_that_is_not_there(agg):
    """Says which it could have been."""
    agg.add([result("a")], run_id="build-17", started=1)
    with pytest.raises(RunNotFound, match="did you mean 'build-17'"):
        agg.run("build-71")


def test_a_file_of_something_else_is_left_alone(tmp_path):
    """Another database, a text, a later version."""
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE mine(x)")
    db.close()
    with pytest.raises(HistoryError, match="database of something else"):
        History(other)
    with pytest.raises(HistoryError, match="it is a folder"):
        History(tmp_path)
    with pytest.raises(HistoryError, match=r"cannot be opened: .*other\.db"):
        History(other / "below" / "h.db")
    text = tmp_path / "text.db"
    text.write_bytes(b"not a database at all, " * 100)
    with pytest.raises(HistoryError, match="cannot be used"):
        History(text)
    later = tmp_path / "later.db"
    with sqlite3.connect(later) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(HistoryError, match="later version"):
        History(later)


def test_a_broken_report_among_good_ones(agg, tmp_path):
    """What can be read is kept, the rest is told, and the gate closes."""
    (tmp_path / "good.xml").write_bytes(
        b'<testsuite><testcase name="a" classname="c"/></testsuite>'
    )
    (tmp_path / "cut.xml").write_bytes(
        b'<testsuite tests="3"><testcase name="b" classname="c"/><testcase name="d'
    )
    (tmp_path / "empty.xml").write_bytes(b"")
    (tmp_path / "odd.json").write_bytes(b'{"what": 1}')
    run = agg.ingest(
        [tmp_path / "*.xml", tmp_path / "odd.json", tmp_path / "missing.xml"],
        run_id="r",
    )
    assert sorted(r.id for r in run.results()) == ["c::a", "c::b"]
    told = " | ".join(map(str, run.diagnostics))
    for words in (
        "cut.xml:1: broken XML",
        "counts 3 tests and holds 1",
        "empty",
        "its keys are 'what'",
        "no such file",
    ):
        assert words in told
    assert not agg.gate().check(run).ok
    assert agg.gate({"allow_broken_reports": True}).check(run).ok


def test_memory_is_the_default():
    """And nothing is written."""
    with TestResultAggregator() as agg:
        assert agg.add([result("a")], run_id="1").counts.passed == 1
