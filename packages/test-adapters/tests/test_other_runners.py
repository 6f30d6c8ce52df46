"""unittest and foreign commands, run for real."""

import json
import sys

import pytest
from maestro_test_adapters import CommandAdapter, TestStarted, UnittestAdapter
from maestro_test_adapters.errors import (
    RunnerNotInstalled,
    SelectionNotFound,
    Unsupported,
)
from maestro_test_adapters.testing import check_runner_adapter

UNITTEST = """
import os, sys, unittest

class Basics(unittest.TestCase):
    def test_ok(self): print("said")
    def test_bad(self): self.assertEqual(1, 2)
    def test_error(self): raise KeyError("k")
    @unittest.skip("later")
    def test_skip(self): pass
    @unittest.expectedFailure
    def test_expected(self): self.fail("known")
    @unittest.expectedFailure
    def test_unexpected(self): pass
    def test_sub(self):
        for i in range(2):
            with self.subTest(i=i): self.assertEqual(i, 0)
    def test_zz_exit(self): os._exit(4)
    def test_zzz_last(self): pass

class NoSetUp(unittest.TestCase):
    @classmethod
    def setUpClass(cls): raise OSError("no database")
    def test_never(self): pass
"""


def test_unittest(write):
    report = UnittestAdapter(cwd=write(test_u=UNITTEST)).run()
    outcomes = {result.id.removeprefix("test_u."): result.outcome for result in report}
    assert outcomes == {
        "Basics.test_bad": "failed",
        "Basics.test_error": "error",
        "Basics.test_expected": "xfailed",
        "Basics.test_ok": "passed",
        "Basics.test_skip": "skipped",
        "Basics.test_sub": "failed",
        "Basics.test_unexpected": "failed",
        "Basics.test_zz_exit": "crashed",
        "Basics.test_zzz_last": "passed",
        "setUpClass (test_u.NoSetUp)": "error",
    }
    bad = report["test_u.Basics.test_bad"]
    assert (bad.file, bad.line) == ("test_u.py", 6)
    assert bad.message == "AssertionError: 1 != 2"
    assert report["test_u.Basics.test_ok"].stdout == "said\n"
    assert [step.outcome for step in report["test_u.Basics.test_sub"].steps][
        -1
    ] == "failed"


def test_unittest_selects_and_refuses(write):
    adapter = UnittestAdapter(cwd=write(test_u=UNITTEST))
    report = adapter.run(select=["test_u.Basics.test_ok"])
    assert [result.id for result in report] == ["test_u.Basics.test_ok"]
    with pytest.raises(SelectionNotFound, match="did you mean 'test_u.Basics.test_ok'"):
        adapter.run(select=["test_u.Basics.test_okay"])
    with pytest.raises(Unsupported, match="does not support markers"):
        adapter.run(markers="slow")


def test_unittest_conforms(write):
    folder = write(
        test_v="import unittest\nclass T(unittest.TestCase):\n"
        "    def test_a(self): pass\n    def test_b(self): pass\n"
    )
    check_runner_adapter(lambda: UnittestAdapter(cwd=folder))


def printing(write, lines, *, code=0):
    """Return a command that prints lines and ends with a code."""
    text = "\n".join(
        line if isinstance(line, str) else json.dumps(line) for line in lines
    )
    write(**{"output.txt": text})
    script = f"import sys; sys.stdout.write(open('output.txt', encoding='utf-8').read()); sys.exit({code})"
    return [sys.executable, "-c", script]


def test_go_json_streams(write, tmp_path):
    argv = printing(
        write,
        [
            {"Action": "start", "Package": "example.com/a"},
            {"Action": "run", "Package": "example.com/a", "Test": "TestX"},
            {
                "Action": "output",
                "Package": "example.com/a",
                "Test": "TestX",
                "Output": "=== RUN   TestX\n",
            },
            {
                "Action": "output",
                "Package": "example.com/a",
                "Test": "TestX",
                "Output": "    a_test.go:7: got 1\n",
            },
            {
                "Action": "fail",
                "Package": "example.com/a",
                "Test": "TestX",
                "Elapsed": 0.5,
            },
            {"Action": "run", "Package": "example.com/a", "Test": "TestY"},
            {
                "Action": "pass",
                "Package": "example.com/a",
                "Test": "TestY",
                "Elapsed": 0,
            },
            {"Action": "fail", "Package": "example.com/a", "Elapsed": 0.6},
            "# example.com/b",
            {
                "Action": "output",
                "Package": "example.com/b",
                "Output": "b.go:1:1: syntax error\n",
            },
            {"Action": "fail", "Package": "example.com/b", "Elapsed": 0},
        ],
        code=1,
    )
    with CommandAdapter(argv, reads="go-json", cwd=tmp_path).start() as run:
        started = [event.id for event in run if isinstance(event, TestStarted)]
    report = run.report
    assert started == ["example.com/a.TestX", "example.com/a.TestY"]
    bad = report["example.com/a.TestX"]
    assert (bad.outcome, bad.file, bad.line, bad.duration) == (
        "failed",
        "a_test.go",
        7,
        0.5,
    )
    assert report["example.com/a.TestY"].outcome == "passed"
    assert report["example.com/b"].outcome == "error"
    assert report["example.com/b"].message == "b.go:1:1: syntax error"
    assert len(report) == 3


def test_a_go_test_that_kills_its_process_is_named(write, tmp_path):
    write(
        run="import os, signal\n"
        'print(\'{"Action": "run", "Package": "p", "Test": "TestX"}\', flush=True)\n'
        "os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    report = CommandAdapter(
        [sys.executable, "run.py"], reads="go-json", cwd=tmp_path
    ).run()
    assert report["p.TestX"].outcome == "crashed"
    assert "SIGSEGV" in report["p.TestX"].message


def test_tap(write, tmp_path):
    argv = printing(
        write,
        [
            "TAP version 14",
            "1..6",
            "ok 1 - adds",
            "not ok 2 - divides",
            "  ---",
            "  message: by zero",
            "  ...",
            "ok 3 - net # SKIP offline",
            "not ok 4 - later # TODO not yet",
            "# Subtest: group",
            "    ok 1 - inner",
            "    not ok 2 - other",
            "    1..2",
            "not ok 5 - group",
        ],
        code=1,
    )
    report = CommandAdapter(argv, reads="tap", cwd=tmp_path).run()
    assert [(one.name, one.outcome) for one in report] == [
        ("adds", "passed"),
        ("divides", "failed"),
        ("net", "skipped"),
        ("later", "xfailed"),
        ("group", "failed"),
        ("6", "notrun"),
    ]
    assert report["2 divides"].trace == "  message: by zero"
    assert report["3 net"].message == "offline"
    assert [(s.name, s.outcome) for s in report["5 group"].steps] == [
        ("inner", "passed"),
        ("other", "failed"),
    ]


def test_node_runs_for_real(write, tmp_path, require_program):
    node = require_program("node")
    write(
        **{
            "sum.test.js": "const test = require('node:test'); const assert = require('assert');\n"
            "test('adds', () => assert.equal(1 + 1, 2));\n"
            "test('fails', () => assert.equal(1, 2));\n"
            "test('skipped', {skip: 'later'}, () => {});\n"
        }
    )
    report = CommandAdapter(
        [node, "--test", "--test-reporter=tap", "sum.test.js"],
        reads="tap",
        cwd=tmp_path,
    ).run()
    outcomes = {one.name: one.outcome for one in report}
    assert outcomes.get("adds") == "passed" or "adds" in {
        step.name for one in report for step in one.steps
    }
    assert not report.ok


JUNIT = """<?xml version="1.0"?>
<testsuites><testsuite name="all"><testsuite name="inner">
<testcase classname="a.B" name="ok" time="1,234.5" file="a.py" line="3"/>
<testcase classname="a.B" name="bad"><failure message="m">trace</failure>
 <rerunFailure message="first">t1</rerunFailure></testcase>
<testcase classname="a.B" name="flaky"><flakyFailure message="once"><stackTrace>st</stackTrace></flakyFailure></testcase>
<testcase name="plain"><skipped message="why"/><system-out>out</system-out></testcase>
</testsuite></testsuite></testsuites>
"""
TRX = """<?xml version="1.0"?>
<TestRun xmlns="http://microsoft.com/schemas/VisualStudio/TeamTest/2010"><Results>
<UnitTestResult testId="1" testName="N.C.Works" outcome="Passed" duration="00:00:01.5000000"/>
<UnitTestResult testId="2" testName="N.C.Breaks" outcome="Failed"><Output><StdOut>o</StdOut>
<ErrorInfo><Message>boom</Message><StackTrace>at x</StackTrace></ErrorInfo></Output></UnitTestResult>
<UnitTestResult testId="3" testName="N.C.Waits" outcome="NotExecuted"/>
</Results><TestDefinitions><UnitTest id="1"><TestMethod className="N.C, Assembly"/></UnitTest>
<UnitTest id="2"><TestMethod className="N.C"/></UnitTest></TestDefinitions></TestRun>
"""
JEST = {
    "testResults": [
        {
            "name": "/a.test.js",
            "startTime": 1000,
            "assertionResults": [
                {"title": "adds", "ancestorTitles": ["math"], "status": "passed", "duration": 5},
                {"title": "fails", "ancestorTitles": [], "status": "failed",
                 "failureMessages": ["Error: no\n  at x"], "location": {"line": 4, "column": 1}},
                {"title": "todo", "ancestorTitles": [], "status": "todo"},
            ],
        },
        {"name": "/b.test.js", "status": "failed", "message": "SyntaxError: x", "assertionResults": []},
    ]
}  # fmt: skip
MOCHA = {
    "stats": {},
    "tests": [
        {"title": "adds", "fullTitle": "math adds", "file": "/m.js", "duration": 2, "err": {}},
        {"title": "fails", "fullTitle": "math fails", "file": "/m.js",
         "err": {"message": "no", "stack": "Error: no"}},
        {"title": "waits", "fullTitle": "math waits", "file": "/m.js", "err": {}},
    ],
    "pending": [{"fullTitle": "math waits"}],
}  # fmt: skip
LIBTEST = [
    '{"type":"suite","event":"started","test_count":2}',
    '{"type":"test","event":"started","name":"krate::bin$mod::works"}',
    '{"type":"test","event":"ok","name":"krate::bin$mod::works","exec_time":0.25}',
    '{"type":"test","event":"started","name":"krate::bin$mod::breaks"}',
    '{"type":"test","event":"failed","name":"krate::bin$mod::breaks","stdout":"panicked at x"}',
]


@pytest.mark.parametrize(
    ("reads", "text", "expected"),
    [
        (
            "junit",
            JUNIT,
            {"ok": "passed", "bad": "failed", "flaky": "passed", "plain": "skipped"},
        ),
        ("trx", TRX, {"Works": "passed", "Breaks": "failed", "N.C.Waits": "skipped"}),
        (
            "jest-json",
            json.dumps(JEST),
            {
                "adds": "passed",
                "fails": "failed",
                "todo": "notrun",
                "/b.test.js": "error",
            },
        ),
        (
            "mocha-json",
            json.dumps(MOCHA),
            {"adds": "passed", "fails": "failed", "waits": "skipped"},
        ),
        ("libtest-json", "\n".join(LIBTEST), {"works": "passed", "breaks": "failed"}),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 15 else "",
)
@pytest.mark.parametrize("way", ["stdout", "file"])
def test_formats_from_output_and_from_files(
    write, tmp_path, reads, text, expected, way
):
    if way == "stdout":
        adapter = CommandAdapter(printing(write, [text]), reads=reads, cwd=tmp_path)
    else:
        write(**{"source.txt": text})
        copy = "import shutil; shutil.copyfile('source.txt', 'report.out')"
        adapter = CommandAdapter(
            [sys.executable, "-c", copy], reads=reads, report="*.out", cwd=tmp_path
        )
    report = adapter.run()
    assert {one.name: one.outcome for one in report} == expected
    assert report.problems == ()


def test_details_of_junit(write, tmp_path):
    report = CommandAdapter(printing(write, [JUNIT]), reads="junit", cwd=tmp_path).run()
    ok, bad, flaky, plain = report
    assert (ok.duration, ok.file, ok.line, ok.suite) == (
        1234.5,
        "a.py",
        3,
        ("all", "inner", "a.B"),
    )
    assert (bad.message, bad.trace, len(bad.attempts)) == ("m", "trace", 1)
    assert flaky.flaky
    assert flaky.attempts[0].trace == "st"
    assert (plain.message, plain.stdout) == ("why", "out")


def test_reports_of_an_earlier_run_are_left_out(write, tmp_path):
    write(**{"old.xml": JUNIT})
    adapter = CommandAdapter(
        [sys.executable, "-c", "pass"], reads="junit", report="*.xml", cwd=tmp_path
    )
    report = adapter.run()
    assert report.problems == ("*.xml: the command left no such report",)
    assert not report.ok


def test_a_torn_report_is_a_problem_with_its_place(write, tmp_path):
    write(**{"source.txt": JUNIT[:300]})
    copy = "import shutil; shutil.copyfile('source.txt', 'torn.xml')"
    report = CommandAdapter(
        [sys.executable, "-c", copy], reads="junit", report="torn.xml", cwd=tmp_path
    ).run()
    assert "torn.xml:6: not XML" in report.problems[0]


def test_an_exit_code_without_a_failed_test_is_a_problem(write, tmp_path):
    argv = printing(write, ["1..1", "ok 1 - fine"], code=3)
    report = CommandAdapter(argv, reads="tap", cwd=tmp_path).run()
    assert "exit code 3 though no test failed" in report.problems[0]
    assert not report.ok


def test_selection_needs_to_know_how(write, tmp_path):
    argv = printing(write, ["ok 1 - a"])
    with pytest.raises(Unsupported, match="give select="):
        CommandAdapter(argv, reads="tap", cwd=tmp_path).run(select=["a"])
    with pytest.raises(Unsupported, match="give select="):
        CommandAdapter(argv, reads="tap", retries=1)
    adapter = CommandAdapter(
        argv, reads="tap", cwd=tmp_path, select=lambda ids: ["--", *ids]
    )
    assert adapter.run(select=["1 a"]).ok


def test_a_command_that_is_not_there(tmp_path):
    with pytest.raises(RunnerNotInstalled, match="no-such-program"):
        CommandAdapter(["no-such-program"], reads="tap", cwd=tmp_path).run()


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="did you mean 'junit'"):
        CommandAdapter(["x"], reads="junitt")
    with pytest.raises(TypeError, match="list of texts"):
        CommandAdapter("go test", reads="go-json")


def test_a_command_conforms(write, tmp_path):
    argv = printing(write, ["1..2", "ok 1 - a", "ok 2 - b"])
    check_runner_adapter(lambda: CommandAdapter(argv, reads="tap", cwd=tmp_path))
