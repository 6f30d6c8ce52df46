"""Plans, the registry and the command line."""

import json
import subprocess
import sys

import pytest
from maestro_test_adapters import (
    PytestAdapter,
    Registry,
    adapter_names,
    get_adapter,
    register_adapter,
    run_plan,
)
from maestro_test_adapters._cli import main
from maestro_test_adapters.errors import AdapterNotFound, PlanError


def plan(*cases, **more):
    return {"name": "p", "suites": [{"name": "s", "cases": list(cases), **more}]}


def run(code):
    return {"run": {"argv": [sys.executable, "-c", code]}}


def test_commands_pass_fail_and_take_too_long(tmp_path):
    report = run_plan(
        plan(
            {"name": "good", "steps": [run("print('hi')"), {"wait": 0}]},
            {
                "name": "bad",
                "steps": [run("import sys; sys.exit('no such luck')"), run("1")],
            },
            {
                "name": "slow",
                "timeout": 0.5,
                "steps": [run("import time; time.sleep(60)")],
            },
            {"name": "skipped", "skip": "why", "steps": [run("1")]},
            {"name": "needy", "needs": ["bad"], "steps": [run("1")]},
            {
                "name": "after good",
                "needs": ["good"],
                "tags": ["x"],
                "steps": [run("1")],
            },
        ),
        artifacts=tmp_path,
    )
    assert [(one.name, one.outcome) for one in report] == [
        ("good", "passed"),
        ("bad", "failed"),
        ("slow", "timeout"),
        ("skipped", "skipped"),
        ("needy", "notrun"),
        ("after good", "passed"),
    ]
    bad = report["s/bad"]
    assert "exit code 1, expected 0: no such luck" in bad.message
    assert [step.outcome for step in bad.steps] == ["failed"]
    assert report["s/after good"].tags == ("x",)


def test_fixtures_are_set_up_and_taken_down_by_scope(tmp_path):
    log = tmp_path / "log"

    def note(word):
        return run(f"open({str(log)!r}, 'a', encoding='utf-8').write({word + ' '!r})")

    document = plan(
        {"name": "a", "fixtures": ["wide", "each"], "steps": [note("a")]},
        {
            "name": "b",
            "fixtures": ["each"],
            "steps": [note("b"), run("raise SystemExit(1)")],
        },
    )
    document["fixtures"] = {
        "wide": {
            "scope": "suite",
            "setup": [note("+wide")],
            "teardown": [note("-wide")],
        },
        "each": {"setup": [note("+each")], "teardown": [note("-each")]},
    }
    report = run_plan(document, artifacts=tmp_path)
    assert log.read_text(encoding="utf-8").split() == [
        "+wide", "+each", "a", "-each", "+each", "b", "-each", "-wide",
    ]  # fmt: skip
    assert [one.outcome for one in report] == ["passed", "failed"]


def test_a_fixture_that_fails_is_an_error(tmp_path):
    document = plan({"name": "a", "fixtures": ["f"], "steps": [run("1")]})
    document["fixtures"] = {"f": {"setup": [run("raise SystemExit(2)")]}}
    report = run_plan(document, artifacts=tmp_path)
    assert report["s/a"].outcome == "error"
    assert "fixture 'f' failed: exit code 2" in report["s/a"].message


def test_retries_of_a_case(tmp_path):
    code = (
        f"import pathlib; p = pathlib.Path({str(tmp_path / 'seen')!r})\n"
        "if not p.exists(): p.touch(); raise SystemExit(1)"
    )
    report = run_plan(
        plan({"name": "a", "retries": 2, "steps": [run(code)]}), artifacts=tmp_path
    )
    assert report["s/a"].flaky
    assert len(report["s/a"].attempts) == 1


def test_pytest_inside_of_a_plan(write, tmp_path):
    write(test_x="def test_one(): pass\ndef test_two(): assert 0\n")
    report = run_plan(
        plan({"name": "suite", "steps": [{"pytest": [str(tmp_path / "test_x.py")]}]}),
        artifacts=tmp_path,
    )
    assert {one.name: one.outcome for one in report} == {
        "test_one": "passed",
        "test_two": "failed",
        "suite": "failed",
    }


@pytest.mark.parametrize("backend", ["selenium", "playwright"])
def test_a_plan_drives_a_browser(start_browser, site, tmp_path, backend):
    document = plan(
        {
            "id": "s/order[1]",
            "name": "order",
            "steps": [
                {
                    "verb": "open",
                    "arguments": {"url": "/index.html"},
                    "name": "",
                    "timeout": None,
                },
                {"fill": {"label": "Name", "css": None, "value": "Ada", "nth": 0}},
                {"click": {"role": "button", "name": "Send order"}},
                {
                    "expect": {
                        "css": "#log",
                        "contains": "sent by Ada",
                        "url": "/index.html",
                    }
                },
                {"select": {"css": "#colour", "value": "Green"}},
                {"check": "#terms"},
                {"eval": {"script": "1 + 1", "equals": 2}},
                {"drag": {"css": "#source", "to": {"css": "#target"}}},
                {"press": "Escape"},
                {"screenshot": str(tmp_path / "shot.png")},
                {"expect": {"title": "Home"}},
            ],
        },
        {
            "name": "covered",
            "steps": [
                {"open": "/index.html"},
                {"click": {"role": "button", "name": "Cover", "nth": -1}},
                {"click": {"css": "#send"}, "timeout": 0.3},
            ],
        },
        adapter=backend,
        environment="here",
    )
    document["environments"] = {"here": {"base_url": site}}
    factory = lambda **settings: start_browser(backend, **settings)  # noqa: E731
    report = run_plan(document, adapters={backend: factory}, artifacts=tmp_path)
    assert report["s/order[1]"].outcome == "passed", report["s/order[1]"].message
    assert (tmp_path / "shot.png").exists()
    covered = report["s/covered"]
    assert covered.outcome == "failed"
    assert "covered by <div#overlay>" in covered.message
    assert covered.attachments[0].content_type == "image/png"


@pytest.mark.parametrize(
    ("document", "where", "why"),
    [
        ({}, r"\$", "needs 'suites'"),
        (plan({"name": "a"}), r"suites\[0\].cases\[0\]", "needs 'steps'"),
        (
            plan({"name": "a", "steps": [{"clik": "x"}]}),
            r"steps\[0\]",
            "did you mean 'click'",
        ),
        (
            plan({"name": "a", "steps": [{"open": "x", "click": "y"}]}),
            r"steps\[0\]",
            "one verb",
        ),
        (
            plan({"name": "a", "steps": [{"fill": "x"}]}),
            r"steps\[0\]",
            "needs a mapping",
        ),
        (
            plan({"name": "a", "fixtures": ["f"], "steps": [{"wait": 0}]}),
            "cases",
            "unknown fixture",
        ),
    ],
    ids=["empty", "no steps", "verb", "two verbs", "bare", "fixture"],
)
def test_a_bad_plan_is_refused_before_anything_runs(document, where, why):
    with pytest.raises(PlanError, match=f"{where}.*{why}"):
        run_plan(document)


def test_the_registry(monkeypatch):
    assert get_adapter("pytest") is PytestAdapter
    with pytest.raises(AdapterNotFound, match="did you mean 'pytest'"):
        get_adapter("pytst")
    registry = Registry()
    registry.register("mine", dict)
    assert registry.get("mine") is dict
    assert "mine" in registry.names()
    assert "mine" not in adapter_names()
    with pytest.raises(ValueError, match="plain text"):
        register_adapter(" x", dict)


def test_the_command_runs_and_writes_reports(write, tmp_path, capsys):
    write(test_x="def test_one(): pass\ndef test_two(): assert 0, 'no'\n")
    code = main(
        [
            "run",
            "--cwd",
            str(tmp_path),
            "--out",
            str(tmp_path / "r.json"),
            "--out",
            str(tmp_path / "r.xml"),
        ]
    )
    said = capsys.readouterr().out
    assert code == 1
    assert "failed   test_x.py::test_two" in said
    assert "AssertionError: no" in said
    assert "1 failed, 1 passed" in said
    assert (tmp_path / "r.xml").exists()
    code = main(
        ["run", "--cwd", str(tmp_path), "--select", "test_x.py::test_one", "--json"]
    )
    assert code == 0
    assert json.loads(capsys.readouterr().out)["counts"]["passed"] == 1


def test_the_command_discovers(write, tmp_path, capsys):
    write(test_x="def test_one(): pass\n")
    assert main(["discover", "--cwd", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "test_x.py::test_one\n"
    assert main(["discover", "--cwd", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["line"] == 1


def test_the_command_runs_foreign_commands(tmp_path, capsys):
    words = [
        "run",
        "--adapter",
        "command",
        "--reads",
        "tap",
        "--cwd",
        str(tmp_path),
        "--",
    ]
    assert main([*words, sys.executable, "-c", "print('ok 1 - a')"]) == 0
    assert "1 passed" in capsys.readouterr().out


def test_the_command_executes_plans(tmp_path, capsys):
    path = tmp_path / "plan.json"
    path.write_text(
        json.dumps(plan({"name": "a", "steps": [run("1")]})), encoding="utf-8"
    )
    assert main(["plan", str(path), "--artifacts", str(tmp_path)]) == 0
    assert "passed   s/a" in capsys.readouterr().out
    path.write_text("suites:\n", encoding="utf-8")
    assert main(["plan", str(path)]) == 2
    assert "plan.json:1:1: not JSON" in capsys.readouterr().err


def test_mistakes_give_one_line_and_code_2(tmp_path, capsys):
    assert main(["run", "--adapter", "pytst"]) == 2
    assert "did you mean 'pytest'" in capsys.readouterr().err
    assert main(["run", "--adapter", "command", "x"]) == 2
    assert main(["plan", str(tmp_path / "none.json")]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_doctor(capsys):
    assert main(["doctor", "--json"]) == 0
    found = {one["what"]: one for one in json.loads(capsys.readouterr().out)}
    assert found["pytest"]["found"] == pytest.__version__
    assert set(found) >= {"chromium", "chromedriver", "selenium", "playwright"}
    assert main(["doctor"]) == 0
    assert "chromium" in capsys.readouterr().out


def test_help_has_an_example():
    done = subprocess.run(
        [sys.executable, "-m", "maestro_test_adapters._cli", "--help"],
        capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert "maestro-test run tests --retries 1" in done.stdout
