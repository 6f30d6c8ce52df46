"""Personas: inheritance, provenance, and errors with their place."""

import pytest
from maestro_orchestration_core import PersonaRegistry, Plan, Task, errors


def make(*data):
    return PersonaRegistry.from_dicts(data)


def test_inheritance_merges_in_order():
    """Tables merge, lists append what is new, replace and delete do as they say."""
    found = make(
        {"name": "base", "abstract": True, "tools": ["read"], "summary": "b",
         "capabilities": {"python": 1, "sql": 1}},
        {"name": "careful", "abstract": True, "tools": ["check", "read"]},
        {"name": "coder", "extends": ["base", "careful"], "tools": ["edit"],
         "capabilities": {"python": 3, "sql": "$delete"}},
        {"name": "bare", "extends": ["coder"], "tools": {"replace": ["x"]},
         "summary": None},
    )  # fmt: skip
    assert found["coder"].tools == ("read", "check", "edit")
    assert found["coder"].capabilities == {"python": 3}
    assert found["bare"].tools == ("x",)
    assert found["bare"].summary == ""
    assert "base, careful, coder" in found.explain("coder")
    assert list(found) == ["bare", "coder"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([{"name": "a", "extends": ["b"]}, {"name": "b", "extends": ["a"]}], "circle"),
        ([{"name": "a", "extends": ["bb"]}, {"name": "b"}], "did you mean 'b'"),
        ([{"name": "a", "capabilites": {}}], "did you mean 'capabilities'"),
        ([{"name": "a", "capabilities": {"x": 0}}], "whole number from 1"),
        ([{"name": "a", "tools": "read"}], "expected list"),
        ([{"name": "a", "budget": {"usd": -1}}], "below zero"),
    ],
)
def test_wrong_personas_are_refused(data, said):
    """Cycles, unknown keys and wrong values name the place."""
    with pytest.raises(errors.PersonaError, match=said):
        make(*data)


def test_files_are_checked_all_at_once(tmp_path):
    """`check` returns every problem, with its file."""
    (tmp_path / "good.toml").write_text('summary = "x"', encoding="utf-8")
    (tmp_path / "bad.toml").write_text("sumary = 1", encoding="utf-8")
    (tmp_path / "worse.json").write_text("{", encoding="utf-8")
    registry, problems = PersonaRegistry.check(tmp_path)
    assert list(registry) == ["good"]
    assert ["bad.toml" in str(problems[0]), "worse.json" in str(problems[1])] == [1, 1]


def test_the_bound_is_the_larger_of_path_and_work():
    """36 weeks of work for 4 workers cannot take 12 times 3."""
    plan = Plan([Task("a", effort=4), *(Task(f"b{n}", effort=8) for n in range(4))])
    forecast = plan.forecast(4)
    assert forecast.bound == 9
    assert forecast.makespan >= forecast.bound
    with pytest.raises(errors.PlanCycleError) as caught:
        Plan([Task("x", after=["y"]), Task("y", after=["x"])])
    assert caught.value.cycle in {("x", "y", "x"), ("y", "x", "y")}
