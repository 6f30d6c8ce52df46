"""Robot Framework and behave, run for real."""

import sys

import pytest
from maestro_test_adapters import (
    BehaveAdapter,
    RobotAdapter,
    TestFinished,
    TestStarted,
    get_adapter,
)
from maestro_test_adapters.errors import (
    RunnerFailed,
    RunnerNotInstalled,
    SelectionNotFound,
)
from maestro_test_adapters.testing import check_runner_adapter

ROBOT = """
*** Test Cases ***
Adds
    [Tags]    fast    money
    Log    counting
    Should Be Equal As Integers    ${1 + 1}    2

Fails
    Should Be Equal    one    two

Skips
    Skip    not today

Cannot Begin
    [Setup]    Fail    no database
    No Operation

Dies
    Evaluate    os._exit(9)

Goes On
    No Operation
"""
BEHAVE = """
Feature: Sums

  @fast
  Scenario: adds
    Given two numbers
    Then the sum is 4

  Scenario: fails
    Given two numbers
    Then the sum is 5

  Scenario: nobody knows
    Given something unheard of

  Scenario Outline: many
    Given two numbers
    Then the sum is <sum>

    Examples:
      | sum |
      | 4   |
      | 6   |

  Scenario: dies
    When the process dies

  Scenario: goes on
    Given two numbers
"""
STEPS = """
import os
from behave import given, then, when

@given("two numbers")
def numbers(context):
    print("said")
    context.numbers = 2, 2

@then("the sum is {n:d}")
def check(context, n):
    assert sum(context.numbers) == n, "it is %d" % sum(context.numbers)

@when("the process dies")
def die(context): os._exit(9)
"""


@pytest.fixture
def robot_project(write):
    """A folder with two suites."""
    return write(
        **{"orders.robot": ROBOT},
        **{"sub__other.robot": "*** Test Cases ***\nOther\n    No Operation\n"},
    )


@pytest.fixture
def behave_project(write):
    """A folder as behave expects it."""
    return write(
        **{"features__sums.feature": BEHAVE},
        features__steps__steps=STEPS,
    )


def outcomes(report):
    return {result.name: result.outcome for result in report}


def test_robot(robot_project):
    with RobotAdapter(["orders.robot"], cwd=robot_project).start() as run:
        events = list(run)
    report = run.report
    assert outcomes(report) == {
        "Adds": "passed",
        "Fails": "failed",
        "Skips": "skipped",
        "Cannot Begin": "error",
        "Dies": "crashed",
        "Goes On": "passed",
    }
    assert report.tool == "robot"
    adds = report["Orders.Adds"]
    assert (adds.file, adds.line, adds.suite) == ("orders.robot", 3, ("Orders",))
    assert adds.tags == ("fast", "money")
    assert adds.log.startswith("INFO counting\n")
    assert [step.name for step in adds.steps][:1] == ["Log  counting"]
    fails = report["Orders.Fails"]
    assert fails.message == "one != two"
    assert [step.outcome for step in fails.steps] == ["failed"]
    assert "exit code 9" in report["Orders.Dies"].message
    kinds = [type(event) for event in events]
    assert kinds.count(TestStarted) == kinds.count(TestFinished) == 6


def test_robot_selects(robot_project):
    adapter = RobotAdapter(cwd=robot_project)
    cases = adapter.discover()
    assert len(cases) == 7
    by_name = {case.name: case.id for case in cases}
    suite = by_name["Other"].rpartition(".")[0]
    report = adapter.run(select=[by_name["Adds"], suite])
    assert outcomes(report) == {"Adds": "passed", "Other": "passed"}
    assert list(outcomes(adapter.run(markers="fastANDmoney"))) == ["Adds"]
    with pytest.raises(SelectionNotFound, match="did you mean"):
        adapter.run(select=[by_name["Adds"] + "x"])


def test_robot_runs_failed_first_and_again(robot_project):
    adapter = RobotAdapter(["orders.robot"], cwd=robot_project, retries=1)
    chosen = ["Orders.Adds", "Orders.Fails"]
    report = adapter.run(select=chosen)
    assert len(report["Orders.Fails"].attempts) == 1
    with adapter.start(select=chosen, failed_first=report) as run:
        started = [event.id for event in run if isinstance(event, TestStarted)]
    assert started == ["Orders.Fails", "Orders.Adds", "Orders.Fails"]


def test_robot_refuses_what_is_not_there(tmp_path):
    with pytest.raises(RunnerFailed) as caught:
        RobotAdapter(["nowhere.robot"], cwd=tmp_path).run()
    assert "nowhere.robot' failed" in caught.value.output


def test_behave(behave_project):
    report = BehaveAdapter(cwd=behave_project).run()
    assert [(one.name.partition(" -- ")[0], one.outcome) for one in report] == [
        ("adds", "passed"),
        ("fails", "failed"),
        ("nobody knows", "error"),
        ("many", "passed"),
        ("many", "failed"),
        ("dies", "crashed"),
        ("goes on", "passed"),
    ]
    assert report.tool == "behave"
    adds = report["features/sums.feature:5"]
    assert (adds.file, adds.line, adds.suite) == ("features/sums.feature", 5, ("Sums",))
    assert adds.tags == ("fast",)
    assert [step.name for step in adds.steps] == [
        "Given two numbers", "Then the sum is 4",
    ]  # fmt: skip
    fails = report["features/sums.feature:9"]
    assert "it is 4" in fails.message
    assert [step.outcome for step in fails.steps] == ["passed", "failed"]
    unknown = report["features/sums.feature:13"]
    assert unknown.message == "undefined step: something unheard of"


def test_behave_selects(behave_project):
    adapter = BehaveAdapter(cwd=behave_project)
    assert len(adapter.discover()) == 7
    report = adapter.run(select=["features/sums.feature:5"])
    assert outcomes(report) == {"adds": "passed"}
    assert report.ok, report.problems
    assert outcomes(adapter.run(markers="@fast")) == {"adds": "passed"}
    with pytest.raises(SelectionNotFound, match="features/sums.feature:99"):
        adapter.run(select=["features/sums.feature:99"])


def test_behave_refuses_what_is_not_there(tmp_path):
    with pytest.raises(RunnerFailed) as caught:
        BehaveAdapter(cwd=tmp_path).run()
    assert "No steps directory" in caught.value.output


@pytest.mark.drill
def test_both_conform(write, tmp_path):
    write(
        **{
            "two.robot": "*** Test Cases ***\nA\n    No Operation\nB\n    No Operation\n",
            "features__two.feature": "Feature: F\n  Scenario: a\n    Given nothing\n"
            "  Scenario: b\n    Given nothing\n",
            "features__steps__steps.py": "from behave import given\n"
            "@given('nothing')\ndef nothing(context): pass\n",
        }
    )
    check_runner_adapter(lambda: RobotAdapter(["two.robot"], cwd=tmp_path))
    check_runner_adapter(lambda: get_adapter("behave")(cwd=tmp_path))


@pytest.mark.parametrize("adapter", [RobotAdapter, BehaveAdapter])
def test_a_target_without_the_runner_gets_the_install_line(adapter, tmp_path):
    (tmp_path / "bare").write_text(
        f'#!/bin/sh\nexec {sys.executable} -S -P "$@"\n', encoding="utf-8"
    )
    (tmp_path / "bare").chmod(0o755)
    bare = adapter(python=tmp_path / "bare", cwd=tmp_path)
    with pytest.raises(RunnerNotInstalled) as caught:
        bare.run()
    assert caught.value.install == f"{tmp_path}/bare -m pip install {adapter.package}"
    with pytest.raises(TypeError, match="must be a list"):
        adapter("tests")
