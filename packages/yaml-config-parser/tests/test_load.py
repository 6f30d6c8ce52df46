"""Loading: values, places, refusals."""

import gc
import json
import math
import pickle

import pytest
from maestro_yaml_config_parser import (
    ConfigError,
    ConfigReadError,
    ConfigSyntaxError,
    DuplicateKeyError,
    LimitExceededError,
    Limits,
    PathNotFoundError,
    UnknownTagError,
    load,
    load_all,
    loads,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-0", 0),
        ("+12", 12),
        ("0x1F", 31),
        ("0o17", 15),
        ("1.5", 1.5),
        (".5", 0.5),
        ("1.", 1.0),
        ("1.5e3", 1500.0),
        ("1e+3", 1000.0),
        (".inf", math.inf),
        ("~", None),
        ("", None),
        ("null", None),
        ("True", True),
        ("false", False),
        ("'1'", "1"),
        ('"a\\tb"', "a\tb"),
        ("!!str 1", "1"),
        ("!!int '3'", 3),
        ("!!float 3", 3.0),
        ("! 12", "12"),
    ],
)
def test_a_scalar_has_the_value_of_the_core_schema(text, value):
    """YAML 1.2 core types, and explicit core tags."""
    got = loads(f"k: {text}")["k"]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "No",
        "on",
        "OFF",
        "0777",
        "22:22",
        "1_000",
        "2024-01-01",
        "1e3",
        "48170e5694",
        "1.0e999",
    ],
)
def test_a_trap_stays_text_and_is_warned_about(text):
    """What other readers turn into something else is kept, with advice."""
    doc = loads(f"a: 1\nk:  {text}\nq: '{text}'\n")
    assert doc["k"] == text
    (warning,) = doc.warnings
    assert (warning.line, warning.column) == (2, 5)
    assert warning.hint == f'quote it: "{text}"'


def test_a_trap_as_key_is_warned_about():
    """The `on:` of GitHub's workflows is a string here."""
    doc = loads("on: push\n")
    assert doc["on"] == "push"
    assert [w.code for w in doc.warnings] == ["trap-key"]


def test_every_key_and_item_has_its_place(tmp_path):
    """Line and column count characters, from 1, as editors do."""
    file = tmp_path / "a.yaml"
    file.write_text("é: {ü: [1, 22]}\nlist:\n  - a\n  - b: {c: 3}\n", encoding="utf-8")
    doc = load(file)
    origin = doc.at("é.ü[1]").origin
    assert (origin.file, origin.line, origin.column) == (str(file), 1, 12)
    origin = doc.at("list[1].b.c").origin
    assert (origin.line, origin.column, origin.key_column) == (4, 12, 9)
    assert doc.at("list[-1]").path == "list[1]"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_places_are_true_with_every_line_end_and_a_byte_order_mark(end):
    """A BOM is not a character of the text."""
    text = "\ufeff" + end.join(["a: 1", "b:", "  c: x", ""])
    doc = loads(text)
    assert doc.at("b.c").origin.line == 3
    assert doc.at("b.c").origin.column == 6
    assert doc.at("a").origin.column == 4


def test_a_duplicate_key_names_both_places():
    """Silently keeping the last one is what other loaders do."""
    with pytest.raises(DuplicateKeyError) as caught:
        loads("a: 1\nb:\n  x: 1\n  y: 2\n  x: 3\n", "f.yaml")
    error = caught.value
    assert (error.file, error.line, error.column) == ("f.yaml", 5, 3)
    assert (error.key, error.first_line) == ("x", 3)
    assert "first at line 3, column 3" in str(error)
    assert str(error).splitlines()[1:] == ["  5 |   x: 3", "    |   ^"]


def test_an_alias_shares_and_to_dict_does_not():
    """The copy belongs to the caller."""
    doc = loads("a: &x {n: [1]}\nb: *x\n")
    assert doc["a"] is doc["b"]
    copy = doc.to_dict()
    copy["a"]["n"].append(2)
    assert copy["b"] == {"n": [1]} == doc["a"]
    assert doc.at("b").origin.line == 2
    assert doc.at("b.n").origin.line == 1


def test_merge_keys_keep_the_place_where_the_value_was_written():
    """Own keys win, then earlier mappings."""
    doc = loads(
        "one: &one {a: 1, b: 1}\ntwo: &two {b: 2, c: 2}\n"
        "it:\n  <<: [*one, *two]\n  c: 3\nq: {'<<': 1}\n"
    )
    assert doc["it"] == {"a": 1, "b": 1, "c": 3}
    assert [doc.at(f"it.{k}").origin.line for k in "abc"] == [1, 1, 5]
    assert doc["q"] == {"<<": 1}


def test_limits_are_refusals_with_a_line():
    """Each limit has a name, and the error says which to raise."""
    cases = [
        ("a: [[1]]", Limits(depth=2), "depth", 1),
        ("a:\n- 1\n- 2\n", Limits(nodes=1), "nodes", 2),
        ("a: &a [1, 2, 3]\nb: [*a, *a]\n", Limits(aliases=5), "aliases", 2),
        ("a:\n  " + "1" * 20, Limits(digits=10), "digits", 2),
    ]
    for text, limits, name, line in cases:
        with pytest.raises(LimitExceededError, match=f"Limits\\({name}=") as caught:
            loads(text, limits=limits)
        assert (caught.value.limit, caught.value.line) == (name, line)
    with pytest.raises(LimitExceededError) as caught:
        loads("a: " + "x" * 50, limits=Limits(bytes=20))
    assert caught.value.limit == "bytes"


@pytest.mark.parametrize(
    ("text", "kind", "place", "words"),
    [
        ("a: 1\nb: [1, 2\n", ConfigSyntaxError, (3, 1), "flow sequence"),
        ("a: *nope\n", ConfigSyntaxError, (1, 4), "no anchor &nope"),
        ("abc: &abc 1\nb: *abd\n", ConfigSyntaxError, (2, 4), "did you mean 'abc'"),
        ("x: &x [*x]", ConfigSyntaxError, (1, 8), "contains itself"),
        ("a: !custom 1", UnknownTagError, (1, 4), "unknown tag '!custom'"),
        ("a: !!int x", ConfigSyntaxError, (1, 4), "not a value of !!int"),
        ("<<: 3", ConfigSyntaxError, (1, 5), "merges mappings"),
        ("? [a]\n: b", ConfigSyntaxError, (1, 3), "cannot be a key"),
        ("a: 1\nk: \x01\n", ConfigSyntaxError, (2, 4), "not allowed"),
        ("---\na: 1\n---\nb: 2\n", ConfigSyntaxError, (4, 1), "load_all"),
    ],
)
def test_a_refusal_says_where_and_why(text, kind, place, words):
    """The place is the one to look at."""
    with pytest.raises(kind, match=r".") as caught:
        loads(text)
    assert (caught.value.line, caught.value.column) == place
    assert words in str(caught.value)


def test_bytes_that_are_not_utf8_are_refused_at_their_place():
    """Strict UTF-8; UTF-16 is named."""
    with pytest.raises(ConfigReadError) as caught:
        loads(b"a: 1\nb: \xc3\xa9\xff")
    assert (caught.value.line, caught.value.column) == (2, 5)
    with pytest.raises(ConfigReadError, match="UTF-16"):
        loads("a: 1".encode("utf-16"))


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    """No traceback into open()."""
    (tmp_path / "plan.yaml").write_text("a: 1", encoding="utf-8")
    with pytest.raises(ConfigReadError, match=r"did you mean 'plan\.yaml'"):
        load(tmp_path / "plam.yaml")
    with pytest.raises(ConfigReadError, match="directory"):
        load(tmp_path)


def test_the_documents_of_a_stream(tmp_path):
    """Each has its own root and places; anchors do not leak."""
    file = tmp_path / "many.yaml"
    file.write_text("a: &x 1\n---\n- 2\n---\n", encoding="utf-8")
    first, second, third = load_all(file)
    assert first.to_dict() == {"a": 1}
    assert second.root == [2]
    assert second.at("[0]").origin.line == 3
    assert third.root is None
    with pytest.raises(ConfigSyntaxError, match="no anchor"):
        loads("a: &x 1\n---\nb: *x\n")


def test_a_document_reads_like_a_mapping():
    """And an empty file like an empty one."""
    doc = loads("a: 1\nb: 2\n")
    assert dict(doc) == {"a": 1, "b": 2}
    assert doc.get("z", 5) == 5
    assert len(doc) == 2
    assert list(loads("")) == []
    assert loads("").get("a") is None


def test_a_path_that_is_not_there_names_a_neighbour():
    """`at` is a KeyError with a place."""
    doc = loads("suites:\n  - timeout: 3\n")
    with pytest.raises(PathNotFoundError, match="did you mean 'timeout'") as caught:
        doc.at("suites[0].timeot")
    assert caught.value.line == 2
    with pytest.raises(KeyError, match="a list of 1"):
        doc.at("suites[4]")


def test_own_tags_get_the_plain_value():
    """Also of containers; their failure has the place."""
    tags = {"!double": lambda v: v * 2, "!keys": list}
    doc = loads("a: !double 4\nb: !keys {x: 1}\n", tags=tags)
    assert doc.to_dict() == {"a": 8, "b": ["x"]}
    with pytest.raises(ConfigError, match="refused its value") as caught:
        loads("a: 1\nb: !double {}", tags=tags)
    assert caught.value.line == 2


def test_errors_survive_pickling():
    """Worker processes hand them back."""
    with pytest.raises(DuplicateKeyError) as caught:
        loads("a: 1\na: 2\n")
    again = pickle.loads(pickle.dumps(caught.value))
    assert type(again) is DuplicateKeyError
    assert (str(again), again.key) == (str(caught.value), "a")


def test_loading_leaves_the_garbage_collector_alone():
    """A library does not switch it."""
    assert gc.isenabled()
    loads("a: 1")
    assert gc.isenabled()


def test_documents_are_json_data():
    """Nothing but dict, list, str, int, float, bool and None."""
    doc = loads("a: [1, 2.5, x, true, ~]\nb: {<<: {c: 1}}\n")
    assert json.loads(json.dumps(doc.to_dict())) == doc.to_dict()
