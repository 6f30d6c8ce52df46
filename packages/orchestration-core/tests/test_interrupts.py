"""^C and kill at places that hurt: in a write, in a start, in the end of a run."""

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
from maestro_orchestration_core import (
    Agent,
    Journal,
    Orchestrator,
    Persona,
    Plan,
    Task,
    errors,
)
from maestro_orchestration_core import _journal as journal_module
from maestro_orchestration_core import _log as log_module
from maestro_orchestration_core import _touches as touches_module
from maestro_orchestration_core._processes import identify, marked, run_process

from .conftest import agent

CODE = {m.__file__ for m in (journal_module, log_module, touches_module)}


def interrupted(work, n: int) -> bool:
    """Call `work` with a ^C before its n-th line in the journal's code; False past it."""
    left = n

    def on_line(_frame, event, _arg):
        nonlocal left
        if event == "line":
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return on_line

    def on_call(frame, _event, _arg):
        return on_line if frame.f_code.co_filename in CODE else None

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def wait_for(what, *, seconds: float = 60.0):
    """Return the first true answer."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)
    return found


@pytest.mark.parametrize("full", [False, True])
def test_an_interrupt_at_any_line_of_a_write_loses_and_doubles_nothing(tmp_path, full):
    """Whether the write got through is looked up, not guessed."""
    n, cut = 0, True
    while cut:
        n += 1
        with Journal(tmp_path / f"{n}.db") as journal:
            log = journal.open_run("r")
            for k in range(3):
                log.append("note.x", {"k": k, "long": "x" * 9000 * k})
            cut = interrupted(lambda log=log: log.flush(full=full), n)
            log.append("note.x", {"k": 3})
            log.flush()
            assert [e.data["k"] for e in log.history()] == [0, 1, 2, 3]
    assert n > 15


def test_an_interrupt_at_any_line_of_a_lease_leaves_the_journal_usable(tmp_path):
    """It is taken or it is not; nothing stays begun."""
    n, cut = 0, True
    with Journal(tmp_path / "r.db") as journal:
        leases, log = touches_module.JournalLeases(journal), journal.open_run("r")
        while cut:
            n += 1
            cut = interrupted(lambda: leases.take("x", "a", ttl=60), n)
            log.append("note.x", {})
            log.flush()
            assert leases.take("x", "a", ttl=60)
            leases.release("x", "a")
    assert n > 10


def test_a_write_ahead_log_torn_anywhere_is_a_shorter_run(tmp_path):
    """Cut at each frame and inside: what is left is a beginning, and goes on."""
    with Journal(tmp_path / "r.db") as journal:
        log = journal.open_run("r")
        for k in range(12):
            log.append("note.x", {"k": k})
            log.flush()
        wal = (tmp_path / "r.db-wal").read_bytes()
        shutil.copy(tmp_path / "r.db", tmp_path / "base")
    frame = 24 + 4096
    assert len(wal) > 10 * frame
    lengths = set()
    for end in range(32, len(wal) + 1, frame):
        for cut in {end - 1, end, end + 1, end + 24, end + 2000} - {len(wal) + 1}:
            shutil.copy(tmp_path / "base", tmp_path / "t.db")
            (tmp_path / "t.db-wal").write_bytes(wal[:cut])
            (tmp_path / "t.db-shm").unlink(missing_ok=True)
            with Journal(tmp_path / "t.db") as journal:
                log = journal.open_run("r")
                found = [e.data["k"] for e in log.history()]
                assert found == list(range(len(found)))
                log.append("note.x", {"k": len(found)})
                log.flush()
                assert [e.seq for e in log.history()][-1] == len(found) + 1
            lengths.add(len(found))
    assert lengths == set(range(13))


def test_processes_that_open_a_new_journal_together_all_get_in(tmp_path):
    """The tables are made once."""
    code = textwrap.dedent(
        """
        import sys
        from maestro_orchestration_core import Journal
        sys.stdin.readline()
        with Journal(sys.argv[1]) as journal:
            journal.open_run(sys.argv[2]).append("run.started", {})
        """
    )
    command = [sys.executable, "-c", code, str(tmp_path / "r.db")]
    with contextlib.ExitStack() as stack:
        found = [
            stack.enter_context(
                subprocess.Popen([*command, f"r{n}"], stdin=subprocess.PIPE)
            )
            for n in range(5)
        ]
        for process in found:
            process.stdin.write(b"\n")
            process.stdin.flush()
        assert [process.wait(60) for process in found] == [0] * 5
    with Journal(tmp_path / "r.db") as journal:
        assert len(journal.runs()) == 5


@pytest.mark.parametrize("version", [0, 1])
def test_a_database_of_something_else_is_refused_unchanged(tmp_path, version):
    """Not even its mode is changed, whatever version it gives itself."""
    path = tmp_path / "other.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE mine(x)")
    db.execute(f"PRAGMA user_version = {version}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(errors.JournalError, match="something else"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_damaged_journal_is_one_error(tmp_path):
    """Reading says which file; nothing of SQLite's own comes out."""
    path = tmp_path / "r.db"
    with Journal(path) as journal:
        log = journal.open_run("r")
        for k in range(200):
            log.append("note.x", {"k": k, "long": "y" * 300})
        log.flush()
    raw = bytearray(path.read_bytes())
    raw[8192:] = b"\xff" * (len(raw) - 8192)
    path.write_bytes(raw)
    with (
        pytest.raises(errors.JournalError, match=r"r\.db.*(malformed|cannot be read)"),
        Journal(path) as journal,
    ):
        list(journal.events("r"))


def test_gc_never_drops_what_a_run_writes_meanwhile(tmp_path):
    """The blob of an event that comes between its two looks stays."""
    big = {"text": "".join(str(n) for n in range(9000))}
    path = tmp_path / "r.db"
    with Journal(path) as journal:
        old = journal.open_run("old")
        old.append("note.x", {"text": "z" * 20_000})
        old.append("run.finished", {"status": "completed"})
        old.close()

        def write():
            with Journal(path) as other:
                log = other.open_run("live")
                log.append("run.started", {})
                log.append("note.x", big)
                log.close()

        writer = threading.Thread(target=write)

        def between(statement):
            if "FROM blob" in statement:
                journal.connection.set_trace_callback(None)
                writer.start()
                writer.join(0.5)  # it waits for us, as it must

        journal.connection.set_trace_callback(between)
        assert journal.gc(keep_s=-1) > 0
        writer.join()
        assert [e.data for e in journal.events("live")][-1] == big


def test_a_run_discarded_in_the_middle_of_a_start_is_locked_all_the_same(
    tmp_path, monkeypatch
):
    """The lock of a file that is gone would keep nobody out."""
    path = tmp_path / "r.db"
    with Journal(path) as journal, Journal(path) as other:
        log = journal.open_run("r")
        log.append("run.started", {})
        log.close()
        real = journal_module.fcntl.flock

        def discarded_first(file, how):
            monkeypatch.undo()
            other.discard("r")
            real(file, how)

        monkeypatch.setattr(journal_module.fcntl, "flock", discarded_first)
        journal.open_run("r")
        assert other.is_running("r")
        with pytest.raises(errors.RunLockedError):
            other.open_run("r")


def test_a_message_of_the_same_process_reaches_the_run(tmp_path):
    """Posted through the very Journal that the run writes with."""

    async def main(journal):
        maestro = Orchestrator([agent()], journal=journal)
        plan = Plan([Task("a"), Task("b", approval="before")])
        async with maestro.start(plan, run_id="r") as run:
            async for event in run.events(["task.waiting"]):
                assert event.task == "b"
                break
            journal.post("r", "approve", {"approval": "b:before", "by": "ada"})
            async with asyncio.timeout(60):
                return await run.result()

    with Journal(tmp_path / "r.db") as journal:
        assert asyncio.run(main(journal)).ok


def test_a_run_that_is_cancelled_twice_lets_go_of_its_lock(tmp_path):
    """An agent that does not want to end does not keep the run from this process."""
    plan = Plan([Task("a")])

    async def main(journal):
        stubborn = asyncio.Event()

        async def body(_turn):
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                stubborn.set()
                await asyncio.sleep(600)

        first = Orchestrator([agent(body=body)], journal=journal)
        work = asyncio.create_task(first.run(plan, run_id="r"))
        while not any(e.type == "task.started" for e in journal.events("r")):
            await asyncio.sleep(0.01)
        work.cancel()
        await asyncio.wait_for(stubborn.wait(), 60)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert not journal.is_running("r")
        again = Orchestrator([agent()], journal=journal)
        return await again.run(plan, run_id="r")

    with Journal(tmp_path / "r.db") as journal:
        assert asyncio.run(main(journal)).ok
        assert [e.seq for e in journal.events("r")] == list(
            range(1, 1 + len(list(journal.events("r"))))
        )


def test_an_unsafe_call_cut_by_an_interrupt_is_in_doubt(tmp_path):
    """A second ^C comes as KeyboardInterrupt: the mail may have been sent."""
    sent = []

    async def mail(_turn):
        sent.append(1)
        raise KeyboardInterrupt

    def build():
        mailer = Agent(Persona(name="mailer"), mail, effect="unsafe")
        return Orchestrator([mailer], journal=tmp_path / "r.db")

    with pytest.raises(KeyboardInterrupt), asyncio.Runner() as runner:
        # Else asyncio tells of the task that it ended, when that is collected.
        runner.get_loop().set_exception_handler(lambda *_: None)
        runner.run(build().run(Plan([Task("a")]), run_id="r"))
    report = asyncio.run(build().run(Plan([Task("a")]), run_id="r"))
    assert report.tasks["a"].state == "in_doubt"
    assert len(sent) == 1


def test_a_process_cancelled_while_it_starts_leaves_nothing():
    """At each step of its start, with children of its own by then."""
    command = ["sh", "-c", "sleep 300 & sleep 300 & wait"]

    async def cancelled_after(steps: int, mark: str) -> None:
        work = asyncio.create_task(run_process(command, mark=mark, grace=0.2))
        for _ in range(steps):
            await asyncio.sleep(0)
        if steps > 1:
            wait_for(lambda: len(marked(mark)) >= 3)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    for steps in range(7):
        mark = f"start-{os.getpid()}-{steps}"
        asyncio.run(cancelled_after(steps, mark))
        wait_for(lambda mark=mark: not marked(mark))


def test_a_child_that_stays_and_holds_the_output_does_not_hold_the_call():
    """A server left in the background is ended once its parent has exited."""
    mark = f"holds-{os.getpid()}"
    command = ["sh", "-c", "setsid sleep 300 & echo hello"]

    async def main():
        async with asyncio.timeout(60):
            return await run_process(command, mark=mark)

    assert asyncio.run(main()).output == "hello\n"
    assert not marked(mark)


CLOSING = """
import asyncio, sys, time
from maestro_orchestration_core._processes import marked, run_process

async def main(mark, steps):
    command = ["sh", "-c", "trap '' TERM; sleep 300 & sleep 300 & wait"]
    asyncio.create_task(run_process(command, mark=mark, grace=60))
    for _ in range(steps):
        await asyncio.sleep(0)
    deadline = time.monotonic() + 60
    while steps > 1 and len(marked(mark)) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


def test_a_child_has_time_to_save_its_work(tmp_path):
    """SIGTERM comes first, and its handler gets to its end."""
    trap = f"trap 'sleep 0.3; echo saved > {tmp_path}/work; exit' TERM"
    command = ["sh", "-c", f"{trap}; echo up; while :; do sleep 0.1; done"]

    async def main():
        up = asyncio.Event()
        work = asyncio.create_task(
            run_process(command, mark="save", grace=60, on_line=lambda _: up.set())
        )
        await asyncio.wait_for(up.wait(), 60)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    asyncio.run(main())
    assert _text(tmp_path / "work") == "saved"
    with pytest.raises(errors.ProcessTimeoutError):
        asyncio.run(run_process(command, mark="save", timeout=1, grace=60))
    assert not marked("save")


@pytest.mark.parametrize("steps", range(6))
def test_a_loop_that_closes_while_a_process_starts_leaves_nothing(steps):
    """As after a second ^C: everything is cancelled at once, nothing is waited for."""
    mark = f"close-{os.getpid()}-{steps}"
    command = [sys.executable, "-c", CLOSING, mark, str(steps)]
    subprocess.run(command, check=True, timeout=90)
    wait_for(lambda: not marked(mark))


PLAN = """
[agents.w]
command = ["sh", "-c", "trap 'echo x > term' TERM; echo $$ > pid; while :; do sleep 0.1; done"]
[[tasks]]
name = "a"
"""


@pytest.mark.parametrize("signals", [[signal.SIGINT] * 2, [signal.SIGTERM] * 2])
def test_a_second_interrupt_ends_a_child_that_does_not_want_to(tmp_path, signals):
    """The first is polite; after the second nothing is left, and the run goes on."""
    (tmp_path / "plan.toml").write_text(PLAN, encoding="utf-8")
    # Started in the background, a shell has it ignore SIGINT.
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from maestro_orchestration_core._cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        [*command, "run", "plan.toml", "--run-id", "r", "--journal", "r.db"],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        encoding="utf-8",
    ) as process:  # fmt: skip
        pid = int(wait_for(lambda: _text(tmp_path / "pid")))
        # Cancelled while it starts, it would be ended without a SIGTERM.
        with Journal(tmp_path / "r.db") as journal:
            wait_for(
                lambda: any(e.type == "worker.spawned" for e in journal.events("r"))
            )
        process.send_signal(signals[0])
        wait_for(lambda: _text(tmp_path / "term"))
        process.send_signal(signals[1])
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("interrupted; run it again")
    wait_for(lambda: identify(pid) is None)
    with Journal(tmp_path / "r.db") as journal:
        assert not journal.is_running("r")
    maestro = Orchestrator([agent("w")], journal=tmp_path / "r.db")
    assert asyncio.run(maestro.run(Plan([Task("a")]), run_id="r")).ok


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.exists() else ""
