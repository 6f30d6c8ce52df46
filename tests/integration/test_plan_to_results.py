"""YAML plan -> adapters -> aggregator: what goes in comes out, nothing is lost.

The three packages never import each other; this is the contract between them.
"""

import sys

import pytest
from maestro_test_adapters import PytestAdapter, run_plan
from maestro_test_result_aggregator import TestResultAggregator
from maestro_yaml_config_parser import TestPlan, load

PLAN = """\
name: shop
suites:
  - name: checks
    matrix: {word: [alpha, beta]}
    cases:
      - name: says
        steps:
          - run: {argv: [PYTHON, -c, "print('${{ matrix.word }}')"], stdout: "WORD"}
      - name: fails
        tags: [known]
        steps:
          - run: {argv: [PYTHON, -c, "import sys; sys.exit('no stock')"]}
"""

TESTS = """\
import pytest

@pytest.mark.parametrize("n", [1, 2, 3])
def test_passes(n):
    assert n

def test_fails():
    print("on the way")
    assert {"stock": 0} == {"stock": 1}

@pytest.mark.skip(reason="not today")
def test_skips():
    pass

@pytest.fixture
def broken():
    raise RuntimeError("no database")

def test_errors(broken):
    pass

@pytest.mark.xfail(reason="bug 7")
def test_expected():
    assert False
"""


@pytest.mark.parametrize("name", ["report.ctrf.json", "report.xml"])
def test_every_result_of_a_run_reaches_the_aggregator(tmp_path, name):
    (tmp_path / "test_shop.py").write_text(TESTS, encoding="utf-8")
    report = PytestAdapter(["test_shop.py"], cwd=tmp_path, python=sys.executable).run()
    assert sum(report.counts.values()) == 7
    report.write(tmp_path / name)
    run = TestResultAggregator().ingest(tmp_path / name, run_id="1")
    assert run.diagnostics == ()
    assert run.counts.tests == 7
    assert run.counts.passed == report.counts["passed"] == 3
    messages = " ".join(str(failure) for failure in run.failures())
    assert "no database" in messages or "RuntimeError" in messages


def test_every_case_of_a_yaml_plan_reaches_the_aggregator(tmp_path):
    text = PLAN.replace("PYTHON", sys.executable).replace("WORD", "${{ matrix.word }}")
    (tmp_path / "plan.yaml").write_text(text, encoding="utf-8")
    mapping = load(tmp_path / "plan.yaml").into(TestPlan).mapping()
    planned = [case["id"] for suite in mapping["suites"] for case in suite["cases"]]
    assert len(planned) == 4
    report = run_plan(mapping, artifacts=tmp_path / "artifacts")
    report.write(tmp_path / "plan.ctrf.json")
    run = TestResultAggregator().ingest(tmp_path / "plan.ctrf.json", run_id="1")
    assert (run.counts.tests, run.counts.passed, run.counts.failed) == (4, 2, 2)
    assert run.diagnostics == ()
    for case in planned:
        assert any(case in str(result) for result in run.results())
