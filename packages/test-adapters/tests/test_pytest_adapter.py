"""PytestAdapter against real pytest processes: results, crashes, retries, selection."""

import os
import re
import subprocess
import sys
import time

import pytest
from maestro_test_adapters import (
    Output,
    PytestAdapter,
    Report,
    RunFinished,
    RunStarted,
    TestCase,
    TestFinished,
    TestStarted,
)
from maestro_test_adapters._runner import in_shard
from maestro_test_adapters.errors import (
    RunnerFailed,
    RunnerNotInstalled,
    SelectionNotFound,
)
from maestro_test_adapters.testing import check_runner_adapter

MIXED = """
import pytest

def test_ok(): print("to stdout")

@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.slow
def test_param(n): assert n == 1, "bad n"

@pytest.mark.skip(reason="not today")
def test_skipped(): pass

@pytest.mark.xfail(reason="known")
def test_xfail(): assert False

class TestGroup:
    def test_in_class(self, record_property):
        record_property("attachment", "out/picture.png")
        record_property("ticket", "A-1")

@pytest.fixture
def broken(): raise ValueError("no set-up")

def test_error(broken): pass
"""
CRASHES = """
import os, subprocess, sys, time

def test_before(): pass

def test_exit(): os._exit(0)

def test_segfault():
    import ctypes
    ctypes.string_at(0)

def test_loop():
    while True: pass

def test_fork_returns():
    if os.fork() == 0: return

def test_leaves_process():
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)

def test_leaves_fork():
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)

def test_after(): pass
"""
FLAKY = """
import pathlib

def test_flaky():
    seen = pathlib.Path("seen")
    if not seen.exists():
        seen.write_text("x", encoding="utf-8")
        raise AssertionError("first time")

def test_always_bad(): assert 0
"""


@pytest.fixture
def project(write):
    """A folder with its own pytest settings."""
    return write(**{"pytest.ini": "[pytest]\nmarkers = slow\n"})


def outcomes(report):
    return {result.id.partition("::")[2]: result.outcome for result in report}


def test_results_carry_what_pytest_knows(project, write):
    write(test_mixed=MIXED)
    report = PytestAdapter(cwd=project).run()
    assert outcomes(report) == {
        "test_ok": "passed",
        "test_param[1]": "passed",
        "test_param[2]": "failed",
        "test_skipped": "skipped",
        "test_xfail": "xfailed",
        "TestGroup::test_in_class": "passed",
        "test_error": "error",
    }
    assert report["test_mixed.py::test_ok"].stdout == "to stdout\n"
    bad = report["test_mixed.py::test_param[2]"]
    assert (bad.file, bad.line, bad.parameters) == ("test_mixed.py", 6, {"n": 2})
    assert bad.message.startswith("AssertionError: bad n")
    assert "assert n == 1" in bad.trace
    assert bad.tags == ("slow",)
    assert report["test_mixed.py::test_skipped"].message == "not today"
    assert report["test_mixed.py::test_xfail"].message == "known"
    grouped = report["test_mixed.py::TestGroup::test_in_class"]
    assert grouped.suite == ("test_mixed.py", "TestGroup")
    assert [one.path for one in grouped.attachments] == ["out/picture.png"]
    assert grouped.properties == {"ticket": "A-1"}
    assert not report.ok
    assert report.exit_code == 1
    assert report.runner_counts == {
        "passed": 3, "failed": 1, "skipped": 1, "xfailed": 1, "error": 1,
    }  # fmt: skip


def test_events_come_while_the_run_goes_on(project, write):
    write(test_slow="import time\ndef test_a(): pass\ndef test_b(): time.sleep(600)\n")
    begun = time.monotonic()
    with PytestAdapter(cwd=project).start() as run:
        kinds = []
        for event in run:
            if not isinstance(event, Output):
                kinds.append(type(event))
            if isinstance(event, TestFinished):
                break
    assert kinds[:1] == [RunStarted]
    assert kinds[-2:] == [TestStarted, TestFinished]
    assert time.monotonic() - begun < 100
    assert [result.id for result in run.report] == ["test_slow.py::test_a"]


@pytest.mark.drill
def test_crashes_keep_results_and_name_the_culprit(project, write):
    write(test_crash=CRASHES)
    report = PytestAdapter(cwd=project, timeout_per_test=5).run(
        stream=project / "kept.jsonl"
    )
    assert outcomes(report) == {
        "test_before": "passed",
        "test_exit": "crashed",
        "test_segfault": "crashed",
        "test_loop": "timeout",
        "test_fork_returns": "passed",
        "test_leaves_process": "passed",
        "test_leaves_fork": "passed",
        "test_after": "passed",
    }
    assert "exit code 0" in report["test_crash.py::test_exit"].message
    assert "SIGSEGV" in report["test_crash.py::test_segfault"].message
    assert "Fatal Python error" in report["test_crash.py::test_segfault"].trace
    assert "in test_loop" in report["test_crash.py::test_loop"].trace
    told = "\n".join(report.warnings)
    assert re.search(
        r"forked child \(pid \d+\) of test_crash.py::test_fork_returns", told
    )
    assert re.search(r"test_leaves_process left process \d+ running", told)
    assert re.search(r"test_leaves_fork left process \d+ running", told)
    for pid in re.findall(r"left process (\d+)", told):
        assert not is_running(int(pid))
    assert outcomes(Report.read(project / "kept.jsonl")) == outcomes(report)


def is_running(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_crash_names_its_test_and_the_rest_runs(project, write):
    write(
        test_crash="import os\ndef test_a(): pass\n"
        "def test_b(): os._exit(3)\ndef test_c(): pass\n"
    )
    report = PytestAdapter(cwd=project).run(stream=project / "kept.jsonl")
    assert outcomes(report) == {
        "test_a": "passed", "test_b": "crashed", "test_c": "passed",
    }  # fmt: skip
    assert "exit code 3" in report["test_crash.py::test_b"].message
    assert outcomes(Report.read(project / "kept.jsonl")) == outcomes(report)


@pytest.mark.drill
def test_after_a_crash_the_rest_may_be_left(project, write):
    write(test_crash="import os\ndef test_a(): os._exit(3)\ndef test_b(): pass\n")
    report = PytestAdapter(cwd=project, after_crash="stop").run()
    assert outcomes(report) == {"test_a": "crashed", "test_b": "notrun"}
    assert report["test_crash.py::test_b"].status == "pending"
    assert not report.ok


def test_a_hung_test_is_ended_and_its_stack_kept(project, write):
    write(test_loop="def test_loop():\n    while True: pass\n")
    report = PytestAdapter(cwd=project, timeout_per_test=2).run()
    assert outcomes(report) == {"test_loop": "timeout"}
    assert "in test_loop" in report["test_loop.py::test_loop"].trace


@pytest.mark.drill
def test_the_whole_run_has_a_limit(project, write):
    write(test_slow="import time\ndef test_a(): time.sleep(60)\ndef test_b(): pass\n")
    report = PytestAdapter(cwd=project, timeout=15).run()
    assert outcomes(report) == {"test_a": "timeout", "test_b": "notrun"}
    assert report.problems == ("the run took longer than 15 s and was ended",)


def test_retries_are_kept_as_attempts(project, write):
    write(test_flaky=FLAKY)
    with PytestAdapter(cwd=project, retries=2).start() as run:
        finished = [event for event in run if isinstance(event, TestFinished)]
    flaky = run.report["test_flaky.py::test_flaky"]
    assert flaky.outcome == "passed"
    assert flaky.flaky
    assert [attempt.number for attempt in flaky.attempts] == [1]
    assert flaky.attempts[0].message.startswith("AssertionError: first time")
    bad = run.report["test_flaky.py::test_always_bad"]
    assert [attempt.number for attempt in bad.attempts] == [1, 2]
    assert [(e.result.name, e.attempt, e.will_retry) for e in finished] == [
        ("test_flaky", 1, True),
        ("test_always_bad", 1, True),
        ("test_flaky", 2, False),
        ("test_always_bad", 2, True),
        ("test_always_bad", 3, False),
    ]


def test_selection_by_id_class_file_and_folder(project, write):
    write(
        test_mixed=MIXED,
        sub__test_other="def test_other(): pass\n",
        lib__test_file="def test_in_file(): pass\n",
        gone__test_gone="def test_gone(): pass\n",
    )
    adapter = PytestAdapter(cwd=project)
    mixed = ["test_mixed.py::test_param[2]", "test_mixed.py::TestGroup"]
    report = adapter.run(select=[*mixed, "sub/test_other.py", "lib"])
    assert sorted(outcomes(report)) == [
        "TestGroup::test_in_class", "test_in_file", "test_other", "test_param[2]",
    ]  # fmt: skip
    report = adapter.run(select=["test_mixed.py::test_param"])
    assert list(outcomes(report)) == ["test_param[1]", "test_param[2]"]


def test_a_misspelt_id_is_refused(project, write):
    write(test_mixed=MIXED)
    with pytest.raises(
        SelectionNotFound, match="did you mean 'test_mixed.py::test_ok'"
    ):
        PytestAdapter(cwd=project).run(select=["test_mixed.py::test_okk"])


def test_markers_and_failed_first(project, write):
    write(test_mixed=MIXED)
    adapter = PytestAdapter(cwd=project)
    marked = adapter.run(markers="slow")
    assert list(outcomes(marked)) == ["test_param[1]", "test_param[2]"]
    path = marked.write(project / "earlier.json")
    again = adapter.run(failed_first=path)
    assert next(iter(outcomes(again))) == "test_param[2]"


def test_discover_runs_nothing(project, write):
    write(test_mixed=MIXED + "\nopen('imported', 'w', encoding='utf-8').close()\n")
    cases = PytestAdapter(cwd=project).discover()
    assert len(cases) == 7
    assert cases[1].id == "test_mixed.py::test_param[1]"
    assert (cases[1].file, cases[1].line, cases[1].tags) == (
        "test_mixed.py",
        6,
        ("slow",),
    )


def test_discover_tells_what_cannot_be_collected(project, write):
    write(test_broken="import nowhere_to_be_found\n")
    with pytest.raises(RunnerFailed, match="nowhere_to_be_found"):
        PytestAdapter(cwd=project).discover()
    report = PytestAdapter(cwd=project).run()
    assert [result.outcome for result in report] == ["error"]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_a_split_into_shards_loses_and_repeats_nothing(count):
    cases = [
        TestCase(id=f"f{i}.py::t{j}", name="t", file=f"f{i}.py")
        for i in range(5)
        for j in range(i + 1)
    ]
    parts = [in_shard(cases, (number, count)) for number in range(1, count + 1)]
    assert sorted(test for part in parts for test in part) == sorted(
        case.id for case in cases
    )
    assert all(parts)
    files = [{test.partition("::")[0] for test in part} for part in parts]
    assert sum(map(len, files)) == 5  # whole files


@pytest.mark.drill
def test_shards_share_all_tests(project, write):
    files = {
        f"test_{i}": "".join(f"def test_{j}(): pass\n" for j in range(i + 1))
        for i in range(4)
    }
    write(**files)
    parts = [
        {case.id for case in PytestAdapter(cwd=project, shard=f"{n}/3").run()}
        for n in (1, 2, 3)
    ]
    assert sorted(len(part) for part in parts) == [3, 3, 4]
    assert len(set.union(*parts)) == 10


def test_workers_by_xdist(project, write):
    write(test_mixed=MIXED, test_crash="import os\ndef test_exit(): os._exit(1)\n")
    report = PytestAdapter(cwd=project, workers=2, args=["-p", "xdist"]).run()
    assert outcomes(report)["test_exit"] == "crashed"
    assert outcomes(report)["test_param[2]"] == "failed"
    assert len(report) == 8
    bad = report["test_mixed.py::test_param[2]"]
    assert (bad.tags, bad.parameters, bad.line) == (("slow",), {"n": 2}, 6)
    assert {result.worker for result in report if result.outcome == "passed"} <= {
        "gw0", "gw1", "gw2",
    }  # fmt: skip


def test_environment_and_folder_of_the_target(project, write, monkeypatch):
    monkeypatch.setenv("GONE", "1")
    write(
        test_env="import os\ndef test_env():\n"
        "    assert os.environ['MINE'] == 'yes' and 'GONE' not in os.environ\n"
        f"    assert os.getcwd() == {str(project)!r}\n"
    )
    report = PytestAdapter(cwd=project, env={"MINE": "yes", "GONE": None}).run()
    assert report.ok, report.failures


def test_a_pytest_inside_of_a_test_does_not_tell_our_stream(project, write):
    write(
        test_outer="import subprocess, sys\ndef test_outer():\n"
        "    subprocess.run([sys.executable, '-m', 'pytest', 'inner.py', '-q'], check=True)\n",
        inner="def test_inner(): pass\n",
    )
    assert list(outcomes(PytestAdapter(cwd=project).run())) == ["test_outer"]


def test_subtests_are_steps(project, write):
    write(
        test_sub="def test_sub(subtests):\n    for i in range(2):\n"
        "        with subtests.test(i=i):\n            assert i == 0\n"
    )
    result = PytestAdapter(cwd=project).run()["test_sub.py::test_sub"]
    assert [step.outcome for step in result.steps][-1] == "failed"
    assert result.outcome == "failed"


def test_no_tests_is_not_ok(project):
    report = PytestAdapter(cwd=project).run()
    assert not report.ok
    assert report.problems == ("no tests ran",)


def test_a_wrong_path_or_option_is_told(project):
    with pytest.raises(RunnerFailed, match="nowhere"):
        PytestAdapter(["nowhere"], cwd=project).run()
    with pytest.raises(RunnerFailed, match="--no-such-option"):
        PytestAdapter(args=["--no-such-option"], cwd=project).run()


def test_an_interpreter_without_pytest_gets_the_install_line(project, tmp_path):
    bare = tmp_path / "bare"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True
    )
    python = bare / "bin" / "python"
    with pytest.raises(RunnerNotInstalled) as caught:
        PytestAdapter(cwd=project, python=python).run()
    assert caught.value.install == f"{python} -m pip install pytest"


def test_leaving_the_block_ends_everything(project, write):
    write(
        test_slow="import os, time\ndef test_a():\n"
        "    open('pid', 'w', encoding='utf-8').write(str(os.getpid()))\n"
        "    time.sleep(600)\n"
    )
    with PytestAdapter(cwd=project).start() as run:
        for event in run:
            if isinstance(event, TestStarted):
                deadline = time.monotonic() + 20
                while not (project / "pid").exists() or not (project / "pid").read_text(
                    encoding="utf-8"
                ):
                    assert time.monotonic() < deadline
                    time.sleep(0.02)
                break
    assert not is_running(int((project / "pid").read_text(encoding="utf-8")))


@pytest.mark.drill
def test_what_happens_to_the_runner_when_we_are_killed(project, write):
    write(
        test_many="import os, time, pytest\n"
        "open('pid', 'w', encoding='utf-8').write(str(os.getpid()))\n"
        "@pytest.mark.parametrize('n', range(600))\ndef test_n(n): time.sleep(0.1)\n"
    )
    script = (
        "from maestro_test_adapters import PytestAdapter\n"
        "PytestAdapter().run(stream='kept.jsonl')\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=project)
    kept = project / "kept.jsonl"
    deadline = time.monotonic() + 40
    while not kept.exists() or kept.read_text(encoding="utf-8").count('"end"') < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    pid = int((project / "pid").read_text(encoding="utf-8"))
    while is_running(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(Report.read(kept)) >= 3


@pytest.mark.drill
def test_counts_equal_those_of_pytest_itself(project, write):
    write(test_mixed=MIXED)
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=project, capture_output=True, encoding="utf-8", env={**os.environ}, check=False,
    ).stdout.splitlines()[-1]  # fmt: skip
    counts = {word.rstrip("s"): int(n) for n, word in re.findall(r"(\d+) (\w+)", said)}
    report = PytestAdapter(cwd=project).run()
    for name in ("passed", "failed", "skipped", "xfailed", "error"):
        assert report.counts[name] == counts.get(name, 0) == report.runner_counts[name]


def test_the_adapter_conforms(project, write):
    write(test_two="def test_a(): pass\ndef test_b(): pass\n")
    check_runner_adapter(lambda: PytestAdapter(cwd=project))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"timeout": 0}, "a number of seconds, more than 0"),
        ({"retries": -1}, "0 or more"),
        ({"shard": "3/2"}, "like '2/8'"),
        ({"after_crash": "maybe"}, "'continue' or 'stop'"),
    ],
)
def test_bad_settings_are_refused(settings, error):
    with pytest.raises(ValueError, match=error):
        PytestAdapter(**settings)


def test_texts_where_lists_belong_are_refused():
    with pytest.raises(TypeError, match="must be a list"):
        PytestAdapter("tests")
    with pytest.raises(TypeError, match="must be a list"):
        PytestAdapter().run(select="a")


def test_the_last_event_holds_the_report(project, write):
    write(test_one="def test_a(): pass\n")
    with PytestAdapter(cwd=project).start() as run:
        events = list(run)
    assert isinstance(events[-1], RunFinished)
    assert events[-1].report.ok
    assert events[-1].report.summary().startswith("1 passed in")
