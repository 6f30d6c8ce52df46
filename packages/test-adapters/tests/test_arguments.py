"""Wrong arguments and plans: refused before anything starts, with what to write."""

import json
from pathlib import Path

import pytest
from maestro_test_adapters import (
    BehaveAdapter,
    CommandAdapter,
    PlaywrightAdapter,
    PytestAdapter,
    Report,
    RobotAdapter,
    SeleniumAdapter,
    TestResult,
    UnittestAdapter,
    run_plan,
)
from maestro_test_adapters._cli import main
from maestro_test_adapters.errors import (
    ArgumentError,
    NavigationFailed,
    PlanError,
    ResultNotFound,
    TestAdaptersError,
)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PytestAdapter(args="-x"), "PytestAdapter: args must be a list of texts, such as ['-x'], got '-x'"),
        (lambda: PytestAdapter("tests"), "paths must be a list of texts, such as ['tests']"),
        (lambda: PytestAdapter(Path("tests")), "paths must be a list of texts, such as ['tests']"),
        (lambda: PytestAdapter([3]), "paths must be a list of texts, got [3]"),
        (lambda: PytestAdapter(retries="1"), "retries must be a whole number, 0 or more, got '1'"),
        (lambda: PytestAdapter(retries=True), "retries must be a whole number"),
        (lambda: PytestAdapter(retires=1), "PytestAdapter: no argument 'retires'; did you mean 'retries'?"),
        (lambda: PytestAdapter(timeout="5"), "timeout must be a number of seconds, more than 0, got '5'"),
        (lambda: PytestAdapter(timeout=float("nan")), "timeout must be a number of seconds"),
        (lambda: PytestAdapter(env={"A": 1}), "env must be a mapping of names to texts or None"),
        (lambda: PytestAdapter(workers="two"), "workers must be a whole number or 'auto', got 'two'"),
        (lambda: PytestAdapter(shard=2), "shard must be like '2/8'"),
        (lambda: PytestAdapter(cwd=None), "cwd must be a path, got None"),
        (lambda: PytestAdapter().run(select="a::b"), "select must be a list of texts, such as ['a::b']"),
        (lambda: PytestAdapter().run(selct=["a"]), "no argument 'selct'; did you mean 'select'?"),
        (lambda: UnittestAdapter(["tests"]), "UnittestAdapter: start must be a path, got ['tests']"),
        (lambda: RobotAdapter("suite.robot"), "RobotAdapter: paths must be a list of texts"),
        (lambda: BehaveAdapter(args="--stop"), "BehaveAdapter: args must be a list of texts"),
        (lambda: CommandAdapter([], reads="tap"), "argv must be a list with the program"),
        (lambda: CommandAdapter(["x"], reads="tapp"), "did you mean 'tap'"),
        (lambda: SeleniumAdapter(timeout="5"), "SeleniumAdapter: timeout must be a number of seconds, from 0, got '5'"),
        (lambda: SeleniumAdapter(args="--x"), "args must be a list of texts"),
        (lambda: SeleniumAdapter(timout=5), "SeleniumAdapter: no argument 'timout'; did you mean 'timeout'?"),
        (lambda: SeleniumAdapter(window=1280), "window must be width and height, such as (1280, 720)"),
        (lambda: PlaywrightAdapter(headles=True), "PlaywrightAdapter: no argument 'headles'; did you mean 'headless'?"),
        (lambda: PlaywrightAdapter(base_url=80), "base_url must be an address, got 80"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused(make, message):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert message in str(caught.value)
    for kind in (TestAdaptersError, TypeError, ValueError):
        assert isinstance(caught.value, kind)


def test_a_missing_result_is_named_with_the_near_one():
    report = Report(
        tool="t",
        results=(TestResult(id="t.py::test_adds", name="test_adds", outcome="passed"),),
    )
    with pytest.raises(KeyError, match="did you mean 't.py::test_adds'") as caught:
        report["t.py::test_ads"]
    assert isinstance(caught.value, ResultNotFound)
    with pytest.raises(ResultNotFound, match="did you mean 't.py::test_adds'"):
        report["test_adds"]


def plan(suite=None, case=None, **top):
    one = {"name": "c", "steps": [{"wait": 0}], **(case or {})}
    return {"suites": [{"name": "s", "cases": [one], **(suite or {})}], **top}


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (plan(suite={"matrix": {"os": ["a", "b"]}}), "'matrix' stands in plans as they are written"),
        (plan(case={"matrix": {"os": ["a"]}}), "maestro-config render --mapping FILE"),
        (plan(defaults={"retries": 2}), "'defaults' stands in plans"),
        (plan(case={"retrise": 2}), "unknown key 'retrise'; did you mean 'retries'?"),
        (plan(case={"steps": [{"open": "/"}]}), "adapter of suite 's' is 'command': set it to 'playwright' or 'selenium'"),
    ],
)  # fmt: skip
def test_nothing_of_a_plan_is_lost(written, message):
    assert run_plan(plan()).ok
    with pytest.raises(PlanError) as caught:
        run_plan(written)
    assert message in str(caught.value)


def test_the_command_names_the_way_out(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("plan.yaml").write_text("name: x\n", encoding="utf-8")
    assert main(["plan", "plan.yaml"]) == 2
    said = capsys.readouterr().err
    assert "`maestro-config render --mapping plan.yaml | maestro-test plan -`" in said
    Path("plan.json").write_text(json.dumps(plan()), encoding="utf-8")
    assert main(["plan", "plan.json"]) == 0
    capsys.readouterr()
    assert main(["run", "nope.py"]) == 2
    assert capsys.readouterr().err.count("file or directory not found: nope.py") == 1
    assert main(["run", "--adapter", "command", "--reads", "tap", "--", "nosuch"]) == 2
    said = capsys.readouterr().err
    assert said.endswith(
        "nosuch is not installed in PATH: install it, or give its path\n"
    )


@pytest.mark.parametrize("backend", ["selenium", "playwright"])
def test_an_error_page_is_no_page(start_browser, backend):
    with start_browser(backend) as browser:
        for url in ("file:///nope.html", "http://127.0.0.1:1/"):
            with pytest.raises(NavigationFailed, match="ERR_"):
                browser.open(url)
