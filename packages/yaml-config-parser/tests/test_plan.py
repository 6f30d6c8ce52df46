"""Test plans: what they expand to, and what they refuse."""

import json
from importlib.resources import files

import jsonschema
import maestro_yaml_config_parser
import pytest
from maestro_yaml_config_parser import SchemaError, TestPlan, json_schema, loads


def plan_of(text):
    return loads(text, "plan.yaml").into(TestPlan)


def test_a_plan_expands_to_json(plan_text):
    """The mapping is what a runner executes."""
    mapping = plan_of(plan_text).mapping()
    assert json.loads(json.dumps(mapping)) == mapping
    checkout, api = mapping["suites"]
    assert [c["id"] for c in checkout["cases"]] == [
        "checkout/login[chromium-1]",
        "checkout/login[chromium-2]",
        "checkout/login[firefox-1]",
        "checkout/pay[chromium-1]",
        "checkout/pay[chromium-2]",
        "checkout/pay[firefox-1]",
    ]
    pay = checkout["cases"][4]
    assert pay["needs"] == ["checkout/login[chromium-2]"]
    assert pay["parameters"] == {"amount": 12, "browser": "chromium", "size": 2}
    assert (pay["timeout"], pay["retries"]) == (60.0, 2)
    assert pay["tags"] == ["nightly", "smoke", "slow"]
    assert pay["steps"][0]["arguments"] == {"url": "/pay?n=2"}
    assert (pay["steps"][0]["file"], pay["steps"][0]["line"]) == ("plan.yaml", 43)
    login = checkout["cases"][0]
    assert login["steps"][1]["arguments"] == {"label": "Name", "value": "ada"}
    assert login["steps"][2]["timeout"] == 2.5
    assert api["needs"] == ["checkout"]
    assert api["cases"][0]["steps"][0]["arguments"] == {"paths": ["tests"]}
    assert mapping["fixtures"]["server"]["teardown"][0]["arguments"] == {
        "argv": ["pkill", "shop"],
        "exit": 1,
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("retries: 2", "retrise: 2", "39:9: unknown key 'retrise' in case 'pay'; did you mean 'retries'?"),
        ("needs: [login]", "needs: [lgin]", "38:17: unknown case 'lgin'; did you mean 'login'?"),
        ("- press", "- pres", "48:13: unknown verb 'pres' in a step; did you mean 'press'?"),
        ("role: button", "rol: button", "35:21: unknown key 'rol' in locator 'Sign in'; did you mean 'role'?"),
        ("retries: 2", "retries: two", "39:18: expected a whole number for 'retries', got text 'two'"),
        ("retries: 2", "retries: -1", "39:18: expected at least 0 for 'retries', got number -1"),
        ("adapter: playwright", "adapter: playwrite", "22:14: expected one of 'command', 'playwright', 'pytest', 'selenium' for 'adapter', got text 'playwrite'; did you mean 'playwright'?"),
        ("fixtures: [server]", "fixtures: [sever]", "23:16: unknown fixture 'sever'; did you mean 'server'?"),
        ("environment: local", "environment: locl", "17:16: unknown environment 'locl'; did you mean 'local'?"),
        ("matrix.size", "matrix.sise", "43:19: no 'sise' here; did you mean 'size'?"),
        ("firefox, size: 2", "firefx, size: 2", "29:21: axis 'browser' has no value 'firefx'; did you mean 'firefox'?"),
        ("name: pay", "name: login", "37:15: second case named 'login', first at line 31"),
        ("needs: [checkout]", "needs: [api]", "50:13: suite 'api' needs itself through 'api'; remove one of the needs"),
        ("visible: true", "visible: yes", "47:24: expected true or false for 'visible', got text 'yes'; write true"),
        ('text: "42"', "text: 42", "46:21: expected text for 'text', got number 42; quote it: \"42\""),
        ('testid: total\n              text: "42"', "count: 1", "45:15: expect: says no element"),
        ("name: shop", "nam: shop", "2:1: unknown key 'nam' in plan; did you mean 'name'?"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_plan_is_named_where_it_is(plan_text, old, new, message):
    """The message is enough to mend it."""
    assert plan_text.count(old) >= 1
    with pytest.raises(SchemaError) as caught:
        plan_of(plan_text.replace(old, new, 1))
    lines = [d.summary for d in caught.value.diagnostics]
    assert any(line.startswith(f"plan.yaml:{message}") for line in lines), lines


def test_all_mistakes_are_reported_at_once(plan_text):
    """In the order of the file."""
    text = plan_text.replace("retries: 2", "retrise: 2").replace(
        "open: /login", "opn: 1"
    )
    with pytest.raises(SchemaError) as caught:
        plan_of(text.replace("scope: suite", "scope: sweet"))
    assert [d.line for d in caught.value.diagnostics] == [11, 33, 39]


def test_a_matrix_has_a_maximum():
    """Counted, not built."""
    axes = ", ".join(f"a{i}: [{', '.join(map(str, range(50)))}]" for i in range(8))
    text = (
        "name: p\nsuites:\n- name: s\n  matrix: {" + axes + "}\n"
        "  cases: [{name: c, steps: [{wait: 1}]}]\n"
    )
    with pytest.raises(SchemaError, match="39062500000000 combinations"):
        plan_of(text)


def test_include_extends_or_adds():
    """As in GitHub's matrix."""
    plan = plan_of(
        "name: p\nsuites:\n- name: s\n  matrix:\n    os: [a, b]\n    include:\n"
        "    - {os: a, fast: true}\n    - {os: c}\n"
        "  cases: [{name: c, steps: [{wait: 1}]}]\n"
    )
    rows = [dict(c.values) for c in plan.suites[0].matrix.expand()]
    assert rows == [{"os": "a", "fast": True}, {"os": "b"}, {"os": "c"}]


def test_a_cycle_between_cases_is_found(plan_text):
    """Each edge of it is named."""
    text = plan_text.replace("- name: login\n", "- name: login\n        needs: [pay]\n")
    with pytest.raises(SchemaError, match="needs itself through 'login'"):
        plan_of(text)


def test_the_published_schema_is_the_exported_one(plan_text):
    """plan.schema.json never drifts, and accepts what TestPlan accepts."""
    published = json.loads(
        files(maestro_yaml_config_parser)
        .joinpath("plan.schema.json")
        .read_text(encoding="utf-8")
    )
    assert published == json_schema(TestPlan, title="Maestro test plan")
    jsonschema.Draft202012Validator.check_schema(published)
    jsonschema.validate(loads(plan_text).to_dict(), published)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(
            loads(plan_text.replace("retries: 2", "retrise: 2")).to_dict(), published
        )
