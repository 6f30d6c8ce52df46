"""Definitions in Python and in documents, and everything that can be wrong."""

import json
from pathlib import Path

import pytest
import wf_steps as w
from maestro_workflow_engine import (
    Retry,
    Workflow,
    WorkflowEngine,
    command,
    step,
    workflow,
)
from maestro_workflow_engine._expression import Expression, Text
from maestro_workflow_engine._model import seconds
from maestro_workflow_engine.errors import CycleError, DefinitionError, ParameterError

DOCUMENT = {
    "workflow": "nightly",
    "params": {"n": {"type": "integer", "default": 4}, "who": "world"},
    "pools": {"db": 2},
    "steps": {
        "sum": {"call": "wf_steps:total", "with": {"values": "${each}"}},
        "each": {
            "call": "wf_steps:double",
            "map": "${numbers}",
            "pool": "db",
            "retry": {"attempts": 2, "wait": "1ms..5ms"},
        },
        "numbers": {"call": "wf_steps:numbers", "with": {"n": "${params.n}"}},
        "greet": {"run": ["echo", "hello ${params.who}: ${sum}"], "when": "sum > 3"},
        "never": {"run": ["false"], "when": "params.who == 'nobody'"},
    },
}


def test_a_document_runs_like_python():
    with WorkflowEngine("threads:2") as engine:
        run = engine.run(Workflow.from_dict(DOCUMENT)).check()
        other = engine.run(Workflow.from_dict(DOCUMENT, {"n": 1})).check()
    assert run["sum"] == 12
    assert run["greet"] == "hello world: 12"
    assert run.step("never").reason == "condition_false"
    assert other.step("greet").state == "skipped"


def test_a_json_file_is_a_document_and_documents_nest(tmp_path):
    inner = {
        "workflow": "inner",
        "params": {"n": {"type": "integer"}},
        "steps": {"two": {"call": "wf_steps:double", "with": {"x": "${params.n}"}}},
    }
    outer = {
        "workflow": "outer",
        "steps": {
            "first": {"call": "wf_steps:double", "with": {"x": 1}},
            "part": {"workflow": "inner.json", "with": {"n": 21}, "needs": ["first"]},
            "last": {"run": ["echo", "${steps['part/two']}"], "needs": ["part"]},
        },
    }
    (tmp_path / "inner.json").write_text(json.dumps(inner), encoding="utf-8")
    (tmp_path / "outer.json").write_text(json.dumps(outer), encoding="utf-8")
    flow = Workflow.load(tmp_path / "outer.json")
    with WorkflowEngine("inline") as engine:
        run = engine.run(flow).check()
    assert run["last"] == "42"
    assert run["part/two"] == 42


def test_compensation_in_a_document(tmp_path):
    document = {
        "workflow": "w",
        "steps": {
            "make": {"run": ["touch", f"{tmp_path}/made"], "compensate": "remove"},
            "remove": {"run": ["rm", f"{tmp_path}/made"]},
            "break": {"run": ["false"], "needs": ["make"]},
        },
    }
    with WorkflowEngine("inline") as engine:
        run = engine.run(Workflow.from_dict(document))
    assert run.state == "failed"
    assert run.step("undo:make").state == "succeeded"
    assert not (tmp_path / "made").exists()


def test_everything_wrong_is_told_at_once_with_its_place():
    document = {
        "workflow": "w",
        "stepz": {},
        "params": {"day": {"type": "strings", "default": "x"}},
        "pools": {"db": 0},
        "steps": {
            "load": {"call": "wf_steps:doubl", "timeout": "soon"},
            "clean": {"call": "wf_steps:double", "with": {"x": "${loads}"}, "retry": 0},
            "both": {"run": ["ls"], "call": "a:b"},
            "shell": {"run": "rm -rf /"},
            "fan": {
                "call": "wf_steps:double",
                "map": "abc",
                "chunk": "2",
                "expect": -1,
            },
            "place": {"run": ["true"], "cwd": 3},
            "late": {"run": ["true"], "needs": ["cleans"], "when": "__import__('os')"},
        },
    }
    with pytest.raises(DefinitionError) as caught:
        Workflow.from_dict(document)
    text = str(caught.value)
    for expected in (
        "$.stepz: there is no key 'stepz' here; did you mean 'steps'?",
        "$.params.day.type: expected a type of",
        "did you mean 'string'?",
        "$.steps.load.call: 'wf_steps:doubl' cannot be imported",
        "$.steps.load.timeout: expected a duration such as '1m30s'",
        "$.steps.clean.with.x: there is no step 'loads'; did you mean 'load'?",
        "$.steps.clean.retry: expected a number of attempts of 1 or more",
        "$.steps.both: expected one of call, run, gate, workflow, got call and run",
        "$.steps.shell.run: expected a list such as [make, test], got 'rm -rf /'",
        "$.steps.fan.map: expected a list, or a text such as '${step}', got 'abc'",
        "$.steps.fan.chunk: expected a whole number of 1 or more, got '2'",
        "$.steps.fan.expect: expected a whole number of 0 or more, got -1",
        "$.steps.place.cwd: expected the path of a folder, got 3",
        "$.steps.late.needs[0]: there is no step 'cleans'; did you mean 'clean'?",
        "$.steps.late.when: \"__import__('os')\": only",
    ):
        assert expected in text


def test_a_circle_is_shown_as_its_path():
    steps = {
        "a": {"run": ["true"], "needs": ["c"]},
        "b": {"run": ["true"], "needs": ["a"]},
        "c": {"run": ["true"], "needs": ["b"]},
        "d": {"run": ["true"], "needs": ["c"]},
    }
    flow = Workflow.from_dict({"workflow": "w", "steps": steps})
    with pytest.raises(CycleError, match="a -> b -> c -> a") as caught:
        flow.validate()
    assert caught.value.path == ("a", "b", "c", "a")


def test_calls_and_pools_are_checked_before_a_run():
    one = step(name="one", pool="dbb")(lambda x: x)
    big = step(name="big", resources={"db": 9})(lambda: None)
    with Workflow("w", pools={"db": 2}) as flow:
        one()
        one(1)
        big()
    with pytest.raises(DefinitionError) as caught:
        flow.validate()
    text = str(caught.value)
    assert "there is no pool 'dbb'; did you mean 'db'?" in text
    assert "missing a required argument: 'x'" in text
    assert "takes 9 of pool 'db', which has only 2" in text


def test_parameters_are_typed_and_named():
    @workflow
    def typed(day: str, count: int = 3, ratio: float = 1, dry: bool = False):
        w.double(count)

    with pytest.raises(
        ParameterError, match="no parameter 'cuont'; did you mean 'count'"
    ):
        typed.build(cuont="x")
    with pytest.raises(ParameterError, match="needs parameter 'day'"):
        typed.build()
    with pytest.raises(
        ParameterError, match="'count' .* should be a whole number, got 'x'"
    ):
        typed.build(day="d", count="x")
    assert typed.parse({"day": "1", "count": "4", "ratio": "2.5", "dry": "yes"}) == {
        "day": "1", "count": 4, "ratio": 2.5, "dry": True,
    }  # fmt: skip
    with pytest.raises(ParameterError, match="true or false, got 'maybe'"):
        typed.parse({"dry": "maybe"})
    document = {
        "workflow": "d",
        "params": {"n": {"type": "integer"}},
        "steps": {"a": {"gate": True}},
    }
    with pytest.raises(ParameterError, match="needs parameter 'n'"):
        Workflow.from_dict(document)
    with pytest.raises(ParameterError, match="whole number, got 'x'"):
        Workflow.from_dict(document, {"n": "x"})


def test_a_step_outside_a_workflow_is_the_function():
    assert w.double(4) == 8
    assert w.double.map([1, 2]) == [2, 4]
    with pytest.raises(TypeError, match="inside a workflow"):
        command("ls", ["ls"])()
    with pytest.raises(TypeError, match="a list such as"):
        command("ls", "ls -l")
    with pytest.raises(TypeError, match="parameter 'after'"):
        step(lambda after: None)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("90", 90),
        ("1m30s", 90),
        ("250ms", 0.25),
        ("2h", 7200),
        (1.5, 1.5),
        ("1w", 604800),
    ],
)
def test_durations(text, value):
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["soon", "", "3 parsecs", -1, True, "1m30", None])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="duration"):
        seconds(text)


def test_waits_grow_to_their_end():
    retry = Retry(9, wait="1s..30s")
    assert [retry.delay(n) for n in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    with pytest.raises(ValueError, match="grows"):
        Retry(2, wait="5s..1s")


def test_expressions_are_small_and_safe():
    results = {"load": {"rows": [1, 2, 3]}}

    def value(text, **params):
        return Expression(text).evaluate(results.__getitem__, params)

    assert value("len(load.rows) == 3 and not params.dry", dry=False) is True
    assert value("load['rows'][-1] * 2 if params.n in [1, 2] else 0", n=1) == 6
    assert value("steps.load.rows[0] + max(1, 2)") == 3
    assert Text("${load.rows}").evaluate(results.__getitem__, {}) == [1, 2, 3]
    assert Text("n=${len(load.rows)}!").evaluate(results.__getitem__, {}) == "n=3!"
    with pytest.raises(LookupError, match="no 'row' in a dict; it has rows"):
        value("load.row")
    for bad in (
        "().__class__", "open('x')", "lambda: 1", "[x for x in y]", "a.b()", "2 ** 9",
        "f'{x}'", "x := 1", "(", "load.__dict__", "str(x, encoding='u')",
    ):  # fmt: skip
        with pytest.raises(ValueError, match="."):
            Expression(bad)
    with pytest.raises(ValueError, match="repetition"):
        value("'x' * 99999999")


def test_yaml_errors_carry_line_and_column(tmp_path):
    pytest.importorskip("maestro_yaml_config_parser")
    path = tmp_path / "flow.yaml"
    path.write_text(
        "workflow: w\nsteps:\n  load:\n    run: [echo, hi]\n    timeout: soon\n",
        encoding="utf-8",
    )
    with pytest.raises(DefinitionError, match=r"flow.yaml:5:14: \$.steps.load.timeout"):
        Workflow.load(path)
    path.write_text("workflow: [", encoding="utf-8")
    with pytest.raises(DefinitionError, match="flow.yaml"):
        Workflow.load(path)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(DefinitionError, match="No such file"):
        Workflow.load(tmp_path / "none.json")
    Path(tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(DefinitionError, match="is not JSON"):
        Workflow.load(tmp_path / "bad.json")
