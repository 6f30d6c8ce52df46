"""Invariants over random data."""

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from maestro_yaml_config_parser import TestPlan, loads
from maestro_yaml_config_parser._builder import Session, build
from maestro_yaml_config_parser._paths import format_path, parse_path
from maestro_yaml_config_parser._source import Limits, Source
from maestro_yaml_config_parser.testing import problems

TEXT = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), max_size=12
) | st.sampled_from(
    [
        "no",
        "0777",
        "1e3",
        "0o17",
        "1.",
        "",
        "~",
        "a\nb",
        "<<",
        "- x",
        "2024-01-01",
        "0x1F",
        "-",
        "${env:A}",
    ]
)
LEAF = (
    TEXT
    | st.integers(-(10**18), 10**18)
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=False, allow_infinity=False)
)
DATA = st.recursive(
    LEAF,
    lambda d: st.lists(d, max_size=4) | st.dictionaries(TEXT, d, max_size=4),
    max_leaves=15,
)
STEPS = st.lists(st.integers(0, 99) | st.text("ab.[]' -", min_size=1), max_size=5)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.dictionaries(TEXT, DATA, max_size=4))
def test_what_is_rendered_loads_to_the_same(data):
    """Both as YAML and as JSON."""
    doc = loads(yaml.safe_dump({"x": 1}))
    doc.root = data
    for kind in ("yaml", "json"):
        assert loads(doc.render(kind), references="keep").to_dict() == data


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.dictionaries(TEXT, DATA, min_size=1, max_size=4), DATA)
def test_a_set_gives_the_value_whatever_it_is(data, value):
    """In the flow style of JSON, which quotes every key."""
    doc = loads(yaml.safe_dump({"k": 1, "other": [1, {"deep": 2}]}))
    edit = doc.edit()
    edit.set("other[1].deep", value)
    edit.set("k", data)
    assert loads(edit.text, references="keep").to_dict() == {
        "k": data,
        "other": [1, {"deep": value}],
    }


@settings(derandomize=True, deadline=None, max_examples=200)
@given(STEPS)
def test_a_path_survives_being_text(steps):
    """What format_path writes, parse_path reads."""
    assert parse_path(format_path(steps)) == tuple(steps)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.dictionaries(TEXT, DATA, max_size=4))
def test_the_python_parser_builds_the_same_with_the_same_places(data):
    """Where libyaml is missing, nothing but the speed changes."""
    text = yaml.safe_dump(data, allow_unicode=True)
    results = []
    for pure in (False, True):
        session = Session(limits=Limits(), pure=pure)
        (root,) = build(session, Source(text, "t"))
        results.append(
            (root.value, root.index, sorted(m[1:] for m in session.marks.values()))
        )
    assert results[0] == results[1]


def test_problems_lists_without_raising():
    """The helper of `testing`."""
    assert [d.code for d in problems("a: no")] == ["trap-value"]
    assert [d.code for d in problems("suites: []", TestPlan)] == [
        "missing-key",
        "bounds",
    ]
    assert problems("a: 1") == []
