"""What the plugin inside of pytest tells: the short way of plain passes, reruns, forks."""

import importlib.util
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from maestro_test_adapters import PytestAdapter, TestFinished
from maestro_test_adapters._runner import INJECT

RERUNS = """
import pytest
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    # As pytest-rerunfailures does; since its 16.7 it tells the tear-down, too.
    newer = item.config.getini("shape") == "newer"
    tell = item.ihook
    for attempt in range(3):
        tell.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        item._initrequest()
        again = False
        for report in runtestprotocol(item, nextitem=nextitem, log=False):
            if report.failed and attempt < 2:
                report.outcome = "rerun"
                again = True
            tell.pytest_runtest_logreport(report=report)
            if again and not newer:
                break
        tell.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        if not again:
            break
    return True

def pytest_addoption(parser):
    parser.addini("shape", "how reruns are told")
"""
FLAKY = """
import pytest

tries = {}

def third_time(name):
    tries[name] = tries.get(name, 0) + 1
    assert tries[name] == 3, f"try {tries[name]}"

def test_plain(): pass
def test_call(): third_time("call")
def test_never(): assert 0
@pytest.fixture
def late(): third_time("setup")
def test_setup(late): pass
"""
ODD_PARAMETERS = """
import enum, pytest

class Number(enum.IntEnum):
    ONE = 1

class Text(str, enum.Enum):
    X = "x"

VALUES = [Number.ONE, Text.X, "\\ud800", 1.5, float("nan"), object, 10**6000]

@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_value(value): pass
"""


def load_plugin():
    spec = importlib.util.spec_from_file_location(
        "maestro_stream_pytest", INJECT / "maestro_stream_pytest.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


plugin = load_plugin()
reports = st.builds(
    pytest.TestReport,
    nodeid=st.just("test_x.py::test_x"),
    location=st.just(("test_x.py", 3, "test_x")),
    keywords=st.just({}),
    outcome=st.sampled_from(["passed"] * 6 + ["failed", "skipped", "rerun"]),
    longrepr=st.none(),
    when=st.sampled_from(["setup", "call", "teardown"]),
    sections=st.sampled_from([[]] * 6 + [[("Captured stdout call", "out")]]),
    duration=st.floats(0, 1e6) | st.just(0),
    start=st.sampled_from([0, 1.5, 1763725000.25]),
    user_properties=st.sampled_from([[]] * 6 + [[("name", 1)]]),
)


@given(
    st.lists(reports, min_size=1, max_size=4),
    st.text(),
    st.floats(0, 4e9),
)
def test_the_short_way_says_what_the_long_way_says(phases, name, at):
    known = plugin._json({"name": name, "filePath": "%d{}", "suite": [name]})[1:-1]
    nodeid = f"test_x.py::{name}"
    test = plugin._test_of(nodeid, known, phases, at)
    plain = test["rawStatus"] == "passed" and not (
        {"message", "trace", "stdout", "stderr", "steps"} & set(test)
        or "maestro.properties" in test["extra"]
    )
    if plugin._plainly_passed(phases):
        assert plain
        line = plugin._line_of_passed(nodeid, known, phases, at)
        told = json.loads(plugin._json({"e": "end", "test": test}))
        assert repr(json.loads(line)) == repr(told)


@pytest.mark.parametrize("workers", [None, 2])
def test_what_a_plain_pass_tells_in_a_real_run(write, both_ways, workers):
    folder = write(
        conftest=both_ways,
        test_mixed="import pytest\ndef test_a(): pass\n"
        "@pytest.mark.parametrize('n', ['%d', '\\u20ac'])\ndef test_n(n): pass\n"
        "def test_out(): print('out')\n"
        "def test_mark(record_property): record_property('a', 1)\n"
        "@pytest.mark.xfail\ndef test_xpass(): pass\n",
    )
    report = PytestAdapter(cwd=folder, workers=workers, args=["-p", "xdist"]).run()
    assert report.ok
    found = {one.name: (one.outcome, one.stdout, one.properties) for one in report}
    assert len(found) == 6
    assert found["test_out"] == ("passed", "out\n", {})
    assert found["test_mark"] == ("passed", "", {"a": 1})
    assert found["test_xpass"][0] == "xpassed"
    if workers is None:
        told = (folder / "told").read_text(encoding="utf-8")
        assert told.splitlines() == ["same"] * 3
    else:
        assert {one.worker for one in report} <= {"gw0", "gw1"}


@pytest.mark.parametrize("shape", ["older", "newer"])
def test_reruns_inside_of_pytest_are_attempts(write, shape):
    folder = write(
        **{"pytest.ini": f"[pytest]\nshape = {shape}\n"},
        conftest=RERUNS,
        test_flaky=FLAKY,
    )
    with PytestAdapter(cwd=folder).start() as run:
        finished = [event for event in run if isinstance(event, TestFinished)]
    found = {
        one.name: (one.outcome, [(a.number, a.outcome) for a in one.attempts])
        for one in run.report
    }
    assert found == {
        "test_plain": ("passed", []),
        "test_call": ("passed", [(1, "failed"), (2, "failed")]),
        "test_never": ("failed", [(1, "failed"), (2, "failed")]),
        "test_setup": ("passed", [(1, "error"), (2, "error")]),
    }
    assert [(e.attempt, e.will_retry) for e in finished] == [
        (1, False),
        *[(1, True), (2, True), (3, False)] * 3,
    ]  # fmt: skip
    call = run.report["test_flaky.py::test_call"]
    assert call.flaky
    assert call.attempts[1].message.startswith("AssertionError: try 2")
    assert "third_time" in call.attempts[1].trace
    assert call.attempts[0].start < call.attempts[1].start < call.start


def test_a_crash_in_a_rerun_keeps_the_attempt_before(write):
    folder = write(
        **{"pytest.ini": "[pytest]\nshape = older\n"},
        conftest=RERUNS,
        test_crash="import os, pathlib\n"
        "def test_crash():\n"
        "    if pathlib.Path('seen').exists(): os._exit(3)\n"
        "    pathlib.Path('seen').touch()\n"
        "    assert 0, 'the first'\n"
        "def test_after(): pass\n",
    )
    report = PytestAdapter(cwd=folder).run()
    crashed = report["test_crash.py::test_crash"]
    assert crashed.outcome == "crashed"
    assert [one.message.split("\n")[0] for one in crashed.attempts] == [
        "AssertionError: the first"
    ]
    assert report["test_crash.py::test_after"].outcome == "passed"
    assert len(report) == 2


@pytest.mark.parametrize("workers", [None, 2])
def test_parameters_that_json_or_xdist_cannot_carry(write, workers):
    folder = write(test_odd=ODD_PARAMETERS)
    report = PytestAdapter(cwd=folder, workers=workers, args=["-p", "xdist"]).run()
    assert report.ok, report.problems
    found = {one.name: one.parameters["value"] for one in report}
    assert found.pop("test_value[int]").startswith("0x")
    assert found == {
        "test_value[Number]": 1,
        "test_value[Text]": "x",
        "test_value[str]": "\ud800",
        "test_value[float0]": 1.5,
        "test_value[float1]": "nan",
        "test_value[type]": "<class 'object'>",
    }


BOXED = """
import json, os
import pytest
from _pytest.runner import runtestprotocol

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    # As pytest-forked does: the test runs in a child, which sends its reports back.
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        told = [report._to_json() for report in runtestprotocol(item, log=False)]
        os.write(write, json.dumps(told).encode())
        os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as file:
        text = file.read()
    os.waitpid(pid, 0)
    for one in json.loads(text) if text else ():
        report = pytest.TestReport._from_json(one)
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
"""


def test_a_test_that_a_plugin_forks_may_tell_reports(write):
    folder = write(
        conftest=BOXED,
        test_boxed="import os\n"
        "def test_sub(subtests):\n    with subtests.test(): pass\n"
        "def test_out(): print('out')\n"
        "def test_escapes(subtests):\n"
        "    if os.fork():\n        os.wait()\n        return\n"
        "    with subtests.test(): pass\n",
    )
    report = PytestAdapter(cwd=folder).run()
    assert {one.name: (one.outcome, one.stdout) for one in report} == {
        "test_sub": ("passed", ""),
        "test_out": ("passed", "out\n"),
        "test_escapes": ("passed", ""),
    }
    assert [text.partition(") of ")[2] for text in report.warnings] == [
        "test_boxed.py::test_escapes returned into the runner; it was stopped"
    ]
