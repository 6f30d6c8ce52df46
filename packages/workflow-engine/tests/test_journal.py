"""The journal: resume after kill -9, one owner, refusals, large results."""

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import pytest
import wf_steps as w
from maestro_workflow_engine import Journal, Workflow, WorkflowEngine, step
from maestro_workflow_engine._results import Results
from maestro_workflow_engine.errors import (
    ChangedError,
    DecisionNeededError,
    JournalBusyError,
    JournalCorruptError,
    JournalError,
    JournalFullError,
    JournalReadOnlyError,
    JournalVersionError,
    LeaseLostError,
    ResultError,
    RunError,
    RunNotFoundError,
    WorkflowError,
)

HERE = Path(__file__).parent


def start(code, *args):
    """Start Python code in a process of its own."""
    head = f"import sys; sys.path.insert(0, {str(HERE)!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + textwrap.dedent(code), *map(str, args)],
        stderr=subprocess.DEVNULL,
    )


RUN = """
import wf_steps
from pathlib import Path
from maestro_workflow_engine import WorkflowEngine
journal, executor, workflow, folder, steps, pause = sys.argv[1:]
with WorkflowEngine(executor, journal=journal) as engine:
    try:
        engine.resume("r")
    except Exception:
        template = getattr(wf_steps, workflow)
        more = {}
        if workflow == "layered":
            more = {"steps": int(steps), "hold": Path(folder, "hold").exists()}
        engine.run(template, run_id="r", folder=folder, pause=float(pause), **more)
"""


def executions(folder):
    path = Path(folder) / "executions"
    return (
        Counter(path.read_text(encoding="utf-8").splitlines())
        if path.exists()
        else Counter()
    )


def committed(journal):
    """What the journal holds as done, with what is done twice."""
    if not journal.exists():
        return Counter()
    db = sqlite3.connect(journal)
    try:
        rows = db.execute("SELECT step FROM event WHERE kind='succeeded'").fetchall()
    except sqlite3.OperationalError:
        rows = []
    finally:
        db.close()
    return Counter(row[0] for row in rows)


def crash_once(journal, executor, folder, steps, rng):
    """Start (or resume) the run, kill it at a random moment; return what was lost."""
    before = sum(executions(folder).values())
    process = start(RUN, journal, executor, "layered", folder, steps, 0.002)
    goal = before + rng.randrange(1, max(2, (steps - before) // 6))
    deadline = time.monotonic() + 30
    while process.poll() is None and time.monotonic() < deadline:
        if sum(executions(folder).values()) >= goal:
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return process.returncode == -signal.SIGKILL


def crash_drill(executor, workers, kills, steps, tmp_path, seed):
    """Kill a run again and again; then finish it and count.

    Its last step waits until the last kill is over, so that each hits it alive.
    """
    journal, folder = tmp_path / "runs.db", tmp_path
    rng = random.Random(seed)
    hold = folder / "hold"
    hold.touch()
    died = 0
    for _ in range(kills):
        done = committed(journal)
        traces = executions(folder)
        died += crash_once(journal, f"{executor}", folder, steps, rng)
        # No step that was committed before this life ran in it.
        for name in done:
            assert executions(folder)[name] == traces[name], name
    assert died == kills
    hold.unlink()
    steps += 1  # the one that waited
    with WorkflowEngine(executor, journal=journal) as engine:
        run = engine.resume("r").check()
        assert run.counts == {"succeeded": steps}
    ran = executions(folder)
    done = committed(journal)
    assert len(done) == steps
    assert set(done.values()) == {1}, "a success was committed twice"
    assert len(ran) == steps, "a step was lost"
    again = sum(ran.values()) - steps
    assert again <= died * in_flight(workers), (again, died)


def in_flight(workers):
    return 2 * workers  # steps of 2 ms: at most twice the workers


@pytest.mark.parametrize(
    ("executor", "workers"), [("inline", 1), ("threads:4", 4), ("processes:2", 2)]
)
def test_kill_9_loses_no_step_and_repeats_no_committed_one(executor, workers, tmp_path):
    crash_drill(executor, workers, 3, 150, tmp_path, 1)


@pytest.mark.drill
@pytest.mark.parametrize(
    ("executor", "workers", "kills"),
    [("inline", 1, 30), ("threads:4", 4, 52), ("processes:2", 2, 16)],
)
def test_many_kills(executor, workers, kills, tmp_path):
    """With those of Dask and Redis more than a hundred, where one costs least time."""
    crash_drill(executor, workers, kills, 1_000, tmp_path, 2)


def wait_for(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.01)


def test_a_second_resume_of_a_live_run_is_refused(tmp_path, journal_path):
    process = start(RUN, journal_path, "threads:2", "layered", tmp_path, 40, 0.2)
    try:
        wait_for(lambda: executions(tmp_path))
        with WorkflowEngine("inline", journal=journal_path) as engine:
            with pytest.raises(JournalBusyError, match=str(process.pid)):
                engine.resume("r")
    finally:
        process.kill()
        process.wait()
    with WorkflowEngine("threads:4", journal=journal_path) as engine:
        engine.resume("r").check()


def test_an_interrupted_once_step_asks(tmp_path, journal_path):
    process = start(RUN, journal_path, "threads:2", "with_once", tmp_path, 0, 60)
    wait_for(lambda: executions(tmp_path)["traced_once"])
    process.kill()
    process.wait()
    with WorkflowEngine("inline", journal=journal_path) as engine:
        with pytest.raises(DecisionNeededError, match="--retry STEP") as caught:
            engine.resume("r")
        assert caught.value.steps == ("traced_once",)
        assert executions(tmp_path)["traced_once"] == 1
        run = engine.resume("r", skip=["traced_once"])
    assert run.state == "succeeded"
    assert run.step("traced_once").state == "skipped"
    assert executions(tmp_path) == {"traced": 1, "traced_once": 1}


def test_a_resume_does_not_run_what_succeeded(journal_path):
    calls = Counter()
    broken = [True]

    @step
    def good(x):
        calls["good"] += 1
        return {"rows": [x]}

    @step
    def late(value):
        calls["late"] += 1
        if broken[0]:
            raise ValueError("not yet")
        return value["rows"][0]

    def flow():
        with Workflow("w") as made:
            late(good(7))
        return made

    with WorkflowEngine("threads:2", journal=journal_path) as engine:
        assert engine.run(flow(), run_id="r").state == "failed"
        broken[0] = False
        run = engine.resume("r", flow()).check()
        assert run["late"] == 7
        assert calls == {"good": 1, "late": 2}
        with pytest.raises(RunError, match="nothing is left"):
            engine.resume("r", flow())


def test_a_gate_is_passed_by_a_resume(journal_path):
    with WorkflowEngine("inline", journal=journal_path) as engine:
        assert engine.run(w.gated, run_id="r").state == "waiting"
        assert engine.resume("r").state == "waiting"
        assert engine.resume("r", approve=["approve"]).check()["add"] == 42


def test_items_of_a_map_are_resumed_one_by_one(journal_path):
    calls = []
    broken = [True]

    @step
    def item(x):
        calls.append(x)
        if x == 3 and broken[0]:
            raise ValueError(x)
        return x * x

    def flow():
        with Workflow("w") as made:
            item.map(w.numbers(5))
        return made

    with WorkflowEngine("inline", journal=journal_path) as engine:
        engine.run(flow(), run_id="r")
        broken[0] = False
        run = engine.resume("r", flow()).check()
    assert run["item"] == [0, 1, 4, 9, 16]
    assert Counter(calls) == {0: 1, 1: 1, 2: 1, 3: 2, 4: 1}


def test_changed_steps_are_listed_before_a_resume(journal_path):
    def flow(argument, *, more=False):
        with Workflow("w") as made:
            if more:  # before the others: their positions change, they do not
                w.numbers(1)
            w.fails(w.double(argument))
        return made

    with WorkflowEngine("inline", journal=journal_path) as engine:
        engine.run(flow(1), run_id="r")
        with pytest.raises(ChangedError) as caught:
            engine.resume("r", flow(2, more=True))
        assert caught.value.changed == ("double",)
        assert caught.value.added == ("numbers",)
        assert "--accept-changes" in str(caught.value)
        run = engine.resume("r", flow(2, more=True), accept_changes=True)
    assert run["double"] == 2  # its result of before
    assert run["numbers"] == [0]


def test_a_compensation_that_was_interrupted_goes_on(journal_path):
    undone = []

    def undo(value):
        if value == "first" and len(undone) == 1:
            undone.append("died")
            raise KeyboardInterrupt
        undone.append(value)

    @step(compensate=undo)
    def book(what, *before):
        return what

    def flow():
        with Workflow("w") as made:
            w.fails(book("second", book("first")))
        return made

    with WorkflowEngine("inline", journal=journal_path) as engine:
        with pytest.raises(KeyboardInterrupt):
            engine.run(flow(), run_id="r")
        run = engine.resume("r", flow())
    assert undone == ["second", "died", "first"]
    assert run.step("undo:book").state == "succeeded"
    assert run.step("fails").state == "cancelled"


def test_large_results_are_kept_once_and_checked(journal_path):
    @step
    def big():
        return ["x" * 10_000]

    with Workflow("w") as flow:
        w.fails(big(), big())
    with WorkflowEngine("inline", journal=journal_path) as engine:
        engine.run(flow, run_id="r")
        files = [p for p in engine.journal.objects.rglob("*") if p.is_file()]
        assert len(files) == 1
        values = [e.value for e in engine.journal.events("r") if e.value]
        assert engine.journal.decode(values[0]) == ["x" * 10_000]
        files[0].write_bytes(b"changed")
        with pytest.raises(JournalCorruptError, match="cannot be read"):
            engine.journal.decode(values[0])


def test_a_large_result_that_was_cut_is_noticed_and_written_again(tmp_path):
    value = list(range(2_000))
    results = Results(tmp_path / "runs.db", synced=True)
    text = results.encode("big", 1, value)
    (path,) = (p for p in results.objects.rglob("*") if p.is_file())
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(JournalCorruptError, match="cannot be read"):
            results.decode(text)
    assert results.encode("big", 2, value) == text
    assert results.decode(text) == value
    assert [p for p in results.objects.rglob("*") if p.is_file()] == [path]


def test_a_large_result_that_cannot_be_written_leaves_nothing(tmp_path):
    results = Results(tmp_path / "runs.db", synced=False)
    text = "x" * 10_000
    digest = hashlib.sha256(json.dumps(text).encode()).hexdigest()
    (results.objects / digest[:2] / digest[2:] / "in the way").mkdir(parents=True)
    with pytest.raises(JournalError, match="cannot be written"):
        results.encode("big", 1, text)
    assert not [p for p in results.objects.rglob("*") if p.is_file()]


LEAVE_A_LOG = """
import os, wf_steps
from maestro_workflow_engine import Journal, WorkflowEngine
journal = Journal(sys.argv[1])
journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
journal._db.execute("PRAGMA wal_autocheckpoint=0")
WorkflowEngine("inline", journal=journal).run(
    wf_steps.layered, run_id="r", folder=sys.argv[2], steps=12, width=3
)
os.kill(os.getpid(), 9)
"""


def cuts(size):
    """Each edge of a frame of the log and of its head, and bytes in between."""
    edges = range(32, size + 1, 24 + 4096)
    near = {edge + by for edge in edges for by in (-1, 0, 1, 23, 24, 25)}
    return sorted({0, 1, 31, *near, *range(0, size, 487)} & set(range(size + 1)))


def test_a_log_cut_at_any_byte_holds_the_first_transactions_whole(tmp_path):
    """After power loss the end of SQLite's log may be missing, or be rubbish."""
    source, made = tmp_path / "source.db", tmp_path / "made"
    made.mkdir()
    assert start(LEAVE_A_LOG, source, made).wait() == -signal.SIGKILL
    main, log = source.read_bytes(), Path(f"{source}-wal").read_bytes()
    assert len(log) > 12 * 4096
    whole = events_of(tmp_path / "whole.db", main, log)
    assert Counter(e.kind for e in whole) == {"started": 12, "succeeded": 12}
    prefixes = []
    for cut in cuts(len(log)):
        for tail in (b"", b"\xa5" * min(4096, len(log) - cut)):
            found = events_of(tmp_path / "cut.db", main, log[:cut] + tail)
            assert found == whole[: len(found)]
        prefixes.append(len(found))
    assert prefixes == sorted(prefixes)
    assert (prefixes[0], prefixes[-1]) == (0, len(whole))
    # From each state that a cut can leave, the run goes on where that ends.
    for cut in [c for c, n in zip(cuts(len(log)), prefixes, strict=True) if n][::60]:
        path = tmp_path / "cut.db"
        before = executions(made)
        done = {
            e.step for e in events_of(path, main, log[:cut]) if e.kind == "succeeded"
        }
        with WorkflowEngine("inline", journal=path) as engine:
            if engine.journal.info("r").state != "succeeded":
                engine.resume("r").check()
        again = set(executions(made) - before)
        assert len(again) == 12 - len(done)
        assert not again & done


def events_of(path, main, log):
    """What a journal of these bytes holds of its run."""
    path.write_bytes(main)
    Path(f"{path}-wal").write_bytes(log)
    Path(f"{path}-shm").unlink(missing_ok=True)
    with Journal(path) as journal:
        try:
            events = list(journal.events("r"))
            past = journal.past(journal.info("r").key)
        except RunNotFoundError:
            return []
    assert past.last == len(events)
    done = {e.step: e.value for e in events if e.kind == "succeeded"}
    assert past.extra == done
    return events


def test_a_write_that_fails_at_its_end_does_not_block_the_next(journal_path):
    with Journal(journal_path) as journal:
        journal._db.execute("PRAGMA foreign_keys=1")
        journal._db.execute("CREATE TABLE parent(key INTEGER PRIMARY KEY)")
        journal._db.execute(
            "CREATE TABLE child(key REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"
        )
        with pytest.raises(sqlite3.IntegrityError), journal.transaction() as db:
            db.execute("INSERT INTO child VALUES(1)")  # noticed by the COMMIT
        with journal.transaction() as db:
            db.execute("INSERT INTO parent VALUES(1)")
        assert db.execute("SELECT count(*) FROM child").fetchone() == (0,)


def test_a_resume_that_cannot_begin_leaves_the_run_free(journal_path):
    with WorkflowEngine("inline", journal=journal_path) as engine:
        engine.run(w.gated, run_id="r")
        info = engine.journal.take_over("r")
        note = json.dumps({"prefix": "x", "source": "no_such:flow", "params": {}})
        row = ("x", 0, "added", 1.0, None, None, None, note)
        engine.journal.commit(info, [row])
        engine.journal.finish(info, "waiting")
        for _ in range(2):  # the second says the same, and not that the run is busy
            with pytest.raises(WorkflowError, match="no_such"):
                engine.resume("r", approve=["approve"])
            assert not engine.journal.info("r").live
            assert engine.journal.info("r").state == "interrupted"


def test_a_result_that_json_cannot_hold_fails_the_step(journal_path):
    @step
    def thing():
        return object()

    with Workflow("w") as flow:
        thing()
    with WorkflowEngine("inline", journal=journal_path) as engine:
        run = engine.run(flow)
    assert isinstance(run.errors["thing"], ResultError)
    assert "plain data" in str(run.errors["thing"])


def test_a_run_that_was_taken_over_stops_writing(journal_path):
    with (
        Journal(journal_path) as journal,
        WorkflowEngine("inline", journal=journal) as engine,
    ):

        @step
        def stolen():
            other = sqlite3.connect(journal_path)
            other.execute("UPDATE run SET epoch=epoch+1")
            other.commit()
            other.close()

        with Workflow("w") as flow:
            w.double(stolen())
        with pytest.raises(LeaseLostError, match="taken over"):
            engine.run(flow, run_id="r")
        assert [e.kind for e in journal.events("r")] == ["started"]


def test_a_full_disk_stops_the_run_and_loses_nothing(tmp_path):
    """With a real limit: no file of this process may grow over 200 KB."""
    code = """
    import resource
    import wf_steps
    from maestro_workflow_engine import WorkflowEngine, Workflow
    from maestro_workflow_engine.errors import JournalFullError
    import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
    with WorkflowEngine("threads:4", journal=sys.argv[1]) as engine:
        try:
            engine.run(wf_steps.layered, run_id="r", folder=sys.argv[2], steps=5000, pause=0.0)
        except JournalFullError as error:
            assert "free some space" in str(error), error
            sys.exit(7)
    """
    journal = tmp_path / "runs.db"
    assert start(code, journal, tmp_path).wait() == 7
    before, done = executions(tmp_path), committed(journal)
    assert 0 < len(done) < 5_000
    with WorkflowEngine("threads:4", journal=journal) as engine:
        engine.resume("r").check()
    after = executions(tmp_path)
    assert len(after) == 5_000
    for name in done:
        assert after[name] == before[name]


def test_a_folder_that_cannot_be_written_is_refused_clearly(tmp_path):
    with pytest.raises(JournalReadOnlyError, match="folder exists"):
        Journal(tmp_path / "missing" / "runs.db")
    code = """
    import os
    from maestro_workflow_engine import Journal
    from maestro_workflow_engine.errors import JournalReadOnlyError
    os.chdir(sys.argv[1])
    if os.getuid() == 0:
        os.setuid(65534)
    try:
        Journal("runs.db")
    except JournalReadOnlyError as error:
        assert "may be written by this user" in str(error)
        sys.exit(7)
    """
    with Journal(tmp_path / "runs.db"):
        pass
    for path in tmp_path.iterdir():
        path.chmod(0o444)
    tmp_path.chmod(0o555)
    for parent in tmp_path.parents[:3]:
        if os.getuid() == 0 and parent != Path("/tmp"):
            parent.chmod(0o755)
    try:
        assert start(code, tmp_path).wait() == 7
    finally:
        tmp_path.chmod(0o755)


def test_other_files_and_later_versions_are_refused(tmp_path):
    path = tmp_path / "other.db"
    path.write_text(
        "not a database, but long enough to be looked at " * 30, encoding="utf-8"
    )
    with pytest.raises(JournalCorruptError, match="not a journal"):
        Journal(path)
    db = sqlite3.connect(tmp_path / "foreign.db")
    db.execute("CREATE TABLE t(x)")
    db.commit()
    db.close()
    with pytest.raises(JournalCorruptError, match="something else"):
        Journal(tmp_path / "foreign.db")
    with Journal(tmp_path / "runs.db") as journal:
        journal._db.execute("PRAGMA user_version=99")
    with pytest.raises(JournalVersionError, match="upgrade"):
        Journal(tmp_path / "runs.db")


def test_unknown_and_repeated_runs_are_refused(journal_path):
    with WorkflowEngine("inline", journal=journal_path) as engine:
        engine.run(w.gated, run_id="nightly-1")
        with pytest.raises(RunNotFoundError, match="did you mean 'nightly-1'"):
            engine.resume("nightly-2")
        with pytest.raises(JournalError, match="exists already"):
            engine.run(w.gated, run_id="nightly-1")
    with (
        WorkflowEngine("inline") as engine,
        pytest.raises(RunError, match="no journal"),
    ):
        engine.resume("x")


def test_durations_of_earlier_runs_are_what_plans_use(journal_path):
    nap = step(name="nap")(lambda: time.sleep(0.03))
    with Workflow("w") as flow:
        nap()
    with WorkflowEngine("inline", journal=journal_path) as engine:
        assert engine.plan(flow).sources["assumed"] == 1
        engine.run(flow)
        plan = engine.plan(flow)
    assert plan.sources["history"] == 1
    assert 0.03 <= plan.work < 0.5


def test_the_history_keeps_the_latest_runs_and_adds_up_a_resumed_one(journal_path):
    from maestro_workflow_engine._history import HISTORY, HISTORY_RUNS

    with WorkflowEngine("inline", journal=journal_path) as engine:
        for n in range(HISTORY_RUNS + 5):
            engine.run(w.gated, run_id=f"r{n}")
        journal = engine.journal
        rows = journal._db.execute("SELECT run FROM duration").fetchall()
        assert [run for (run,) in rows] == list(range(6, HISTORY_RUNS + 6))
        engine.resume(f"r{HISTORY_RUNS + 4}", approve=["approve"]).check()
        known = journal.durations("gated")
        assert set(known) == {"double", "add"}
        assert 0 < known["double"] < 1
        for n in range(HISTORY // 2 + 1):
            journal.remember(journal.info(f"r{n + 26}"), [("double", 7.0)])
        assert journal.durations("gated")["double"] == 7.0


def test_starts_of_one_turn_are_events_of_their_own_for_readers(journal_path):
    flaky = [True]

    @step
    def some(x):
        if x == 2 and flaky[0]:
            raise ValueError(x)
        return x

    def flow():
        with Workflow("w") as made:
            some.map([0, 1, 2, 3, 4, 5])
        return made

    with WorkflowEngine("threads:6", journal=journal_path) as engine:
        engine.run(flow(), run_id="r")
        flaky[0] = False
        engine.resume("r", flow()).check()
        journal = engine.journal
        events = list(journal.events("r"))
        assert [e.seq for e in events] == list(range(1, len(events) + 1))
        begun = [(e.step, e.attempt) for e in events if e.kind == "started"]
        assert sorted(begun) == sorted(
            [(f"some[{n}]", 1) for n in range(6)] + [("some[2]", 2)]
        )
        for event in events:  # also from the middle of a turn
            after = [e.seq for e in journal.events("r", after=event.seq)]
            assert after == list(range(event.seq + 1, len(events) + 1))
        assert journal.past(1).tries["some[2]"] == 2
        assert journal.past(1).interrupted == []


def test_an_import_that_is_refused_leaves_nothing_behind(journal_path, tmp_path):
    from maestro_workflow_engine._trace import export_lines, import_lines

    with WorkflowEngine("threads:2", journal=journal_path) as engine:
        engine.run(w.everything, run_id="r").check()
        lines = list(export_lines(engine.journal, "r"))
    with Journal(tmp_path / "other.db") as other:
        with pytest.raises(JournalError, match=f"line {len(lines) + 1} of the import"):
            import_lines(other, [*lines, "{cut off"])
        assert other.runs() == []
        assert import_lines(other, lines) == "r"
        assert list(export_lines(other, "r"))[1:] == lines[1:]


def test_a_once_step_that_waited_its_turn_is_not_asked_about(tmp_path, journal_path):
    """Very short steps are handed over in batches; `once` steps never are."""
    code = """
    import os, signal
    from maestro_workflow_engine import Workflow, WorkflowEngine, step
    @step
    def quick(n): pass
    @step(once=True)
    def pay(n, *before):
        if n == 3: os.kill(os.getpid(), signal.SIGKILL)
    with Workflow("w") as flow:
        first = [quick(n) for n in range(300)]
        for n in range(20): pay(n, first[-1])
    with WorkflowEngine("inline", journal=sys.argv[1]) as engine:
        engine.run(flow, run_id="r")
    """
    assert start(code, journal_path).wait() == -signal.SIGKILL
    with Journal(journal_path) as journal:
        past = journal.past(journal.info("r").key)
    assert past.interrupted == ["pay-4"]


def test_a_journal_survives_power_loss_when_asked_to(journal_path):
    with Journal(journal_path, durability="power") as journal:
        assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)
        with WorkflowEngine("threads:2", journal=journal) as engine:
            engine.run(w.everything).check()


def test_events_are_plain_json(journal_path):
    with WorkflowEngine("inline", journal=journal_path) as engine:
        engine.run(w.everything, run_id="r").check()
        for event in engine.journal.events("r"):
            if event.value:
                json.loads(event.value)
        assert JournalFullError.__mro__[1] is JournalError
