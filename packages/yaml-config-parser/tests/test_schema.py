"""Dataclasses as schema, JSON Schema out and in."""

import enum
import re
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from maestro_yaml_config_parser import (
    Alias,
    Bounds,
    Doc,
    SchemaError,
    json_schema,
    loads,
)


class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


@dataclass(frozen=True, kw_only=True)
class Server:
    host: Annotated[str, Bounds(pattern=r"^[a-z]+$")]
    port: Annotated[int, Bounds(ge=1, le=65535), Doc("TCP port")] = 80
    klass: Annotated[str, Alias("class")] = "x"


@dataclass(frozen=True, kw_only=True)
class App:
    name: str
    servers: list[Server] = field(default_factory=list)
    level: Level = Level.LOW
    mode: Literal["fast", "safe", 3] = "fast"
    ratio: float | None = None
    either: int | list[int] = 0
    pair: tuple[int, str] = (1, "a")
    table: dict[str, int] = field(default_factory=dict)
    anything: Any = None
    nested: Server | None = None

    def __post_init__(self):
        if self.name == "bad":
            raise ValueError("the name is taken")


@dataclass(frozen=True, kw_only=True)
class Advised:
    number: int = 0
    share: float = 0.0
    word: str = ""
    words: dict[str, str] = field(default_factory=dict)
    items: list[str] = field(default_factory=list)
    port: Annotated[int, Bounds(le=65535)] = 0


def findings(text):
    with pytest.raises(SchemaError) as caught:
        loads(text, "f").into(App)
    return [d.summary for d in caught.value.diagnostics]


def test_a_document_becomes_an_object():
    """Defaults, aliases, unions, enums, tuples."""
    app = loads(
        "name: a\nservers: [{host: h, class: y}]\nlevel: high\nmode: 3\nratio: 2\n"
        "either: [1]\npair: [2, b]\ntable: {x: 1}\nanything: [~]\nnested: {host: q}\n"
    ).into(App)
    assert app.servers == [Server(host="h", klass="y")]
    assert (app.level, app.mode, app.ratio, app.either) == (Level.HIGH, 3, 2.0, [1])
    assert type(app.ratio) is float
    assert (app.pair, app.table, app.nested.host) == ((2, "b"), {"x": 1}, "q")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "f:1:1: missing key 'name' in app"),
        ("", "f:1:1: expected a mapping (app), got nothing (null)"),
        ("name: 1", "f:1:7: expected text for 'name', got number 1; quote it: \"1\""),
        ("name: true", "f:1:7: expected text for 'name', got true; quote it: \"true\""),
        ("name: a\nservers: {}", "f:2:10: expected a list for 'servers', got an empty mapping"),
        ("name: a\nservers: [{host: A}]", "f:2:18: expected text that matches '^[a-z]+$' for 'host', got text 'A'"),
        ("name: a\nservers: [{host: a, port: 0}]", "f:2:27: expected at least 1 for 'port', got number 0"),
        ("name: a\nservers: [{host: a, port: '8'}]", "f:2:27: expected a whole number for 'port', got text '8'; write 8 without quotes"),
        ("name: a\nservers: [{host: a, class: b, klass: c}]", "f:2:31: 'klass' and 'class' are the same key"),
        ("name: a\nlevel: hihg", "f:2:8: expected one of 'low', 'high' for 'level', got text 'hihg'; did you mean 'high'?"),
        ("name: a\nratio: x", "f:2:8: expected a number for 'ratio', got text 'x'"),
        ("name: a\neither: x", "f:2:9: expected a whole number or a list for 'either', got text 'x'"),
        ("name: a\neither: [x]", "f:2:10: expected a whole number, got text 'x'"),
        ("name: a\npair: [1]", "f:2:7: expected 2 items for 'pair', got 1"),
        ("name: a\ntable: {1: 1}", 'f:2:9: expected text as key, got number 1; quote it: "1"'),
        ("name: a\nnested: {hots: a}", "f:2:10: unknown key 'hots' in server; did you mean 'host'?"),
        ("name: bad", "f:1:1: app 'bad': the name is taken"),
        ("name: a\nport: 3", "f:2:1: unknown key 'port' in app 'a'; known keys: name, "),
    ],
)  # fmt: skip
def test_a_misfit_is_named(text, message):
    """Expected, got, where, and what to write instead."""
    assert any(line.startswith(message) for line in findings(text)), findings(text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("number: 0777", "expected a whole number for 'number', got text '0777'; write 0o777 if it is octal (511), 777 if it is not"),
        ("number: 012", "got text '012'; write 0o12 if it is octal (10), 12 if it is not"),
        ("number: '012'", "got text '012'; write 0o12 if it is octal (10), 12 if it is not"),
        ("number: 089", "got text '089'; write 89"),
        ("number: 007", "got text '007'; write 0o7 if it is octal (7), 7 if it is not"),
        ("number: 00", "got text '00'; write 0"),
        ("number: -012", "got text '-012'; write -12"),
        ("number: '8'", "got text '8'; write 8 without quotes"),
        ("number: '0x1F'", "got text '0x1F'; write 0x1F without quotes"),
        ("number: 1_000", "got text '1_000'; write 1000"),
        ("number: '1.5'", "got text '1.5'"),
        ("number: 1.2.3", "got text '1.2.3'"),
        ("number: ''", "got text ''"),
        ("share: 1e3", "got text '1e3'; write 1e+3"),
        ("share: '1.5'", "got text '1.5'; write 1.5 without quotes"),
        ("word: 1.10", 'got number 1.1; quote it: "1.10"'),
        ("word: 0x1F", 'got number 31; quote it: "0x1F"'),
        ("word: True", 'got true; quote it: "True"'),
        ("words: {1.10: a}", 'got number 1.1; quote it: "1.10"'),
        ("items: a", "expected a list for 'items', got text 'a'; write [a]"),
        ("items: 'a, b'", "got text 'a, b'; write [\"a, b\"]"),
        ("port: 80990", "f:1:7: expected at most 65535 for 'port', got number 80990"),
        ("number: ${env:N}", "pass env=os.environ or secrets=... to load (maestro-config: --env)"),
    ],
)  # fmt: skip
def test_the_advice_can_be_followed(text, line):
    """What it says to write is what the type wants, and the same value."""
    with pytest.raises(SchemaError) as caught:
        loads(text, "f", references="keep").into(Advised)
    (found,) = caught.value.diagnostics
    assert found.summary.endswith(line)
    if found.hint.startswith("write "):
        key, _, _ = text.partition(":")
        words = found.hint.removeprefix("write ").removesuffix(" without quotes")
        choices = re.sub(r" if it is (?:octal \(\d+\)|not)", "", words)
        for word in choices.split(", ") if choices != words else [words]:
            loads(f"{key}: {word}").into(Advised)


def test_a_misspelt_key_is_not_missing_besides():
    """One mistake, one finding; another missing key is still reported."""
    assert findings("nmae: a") == [
        "f:1:1: unknown key 'nmae' in app; did you mean 'name'?"
    ]
    lines = findings("name: a\nnested: {hots: a}")
    assert lines == ["f:2:10: unknown key 'hots' in server; did you mean 'host'?"]
    assert len(findings("xyz: a")) == 2


def test_the_json_schema_agrees():
    """What the dataclass accepts, the schema accepts, and the other way round."""
    schema = json_schema(App)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["properties"]["servers"]["items"] == {"$ref": "#/$defs/Server"}
    port = schema["$defs"]["Server"]["properties"]["port"]
    assert port == {
        "type": "integer", "minimum": 1, "maximum": 65535,
        "description": "TCP port", "default": 80,
    }  # fmt: skip
    jsonschema.validate({"name": "a", "servers": [{"host": "h", "class": "q"}]}, schema)
    for bad in ({"name": 1}, {"name": "a", "servers": [{"host": "H"}]}, {"nam": "a"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, schema)


def test_a_foreign_json_schema_reports_places():
    """The extra `schema`: jsonschema finds, we say where."""
    schema = {
        "type": "object",
        "properties": {
            "port": {"type": "integer"},
            "mode": {"enum": ["fast", "safe"]},
        },
        "additionalProperties": False,
    }
    loads("port: 1\nmode: fast\n").validate(schema)
    with pytest.raises(SchemaError) as caught:
        loads("port: x\nmode: fats\nprot: 1\n", "f").validate(schema)
    assert [(d.line, d.column) for d in caught.value.diagnostics] == [
        (1, 7), (2, 7), (3, 1),
    ]  # fmt: skip
    assert [d.hint for d in caught.value.diagnostics][1:] == [
        "did you mean 'fast'?",
        "did you mean 'port'?",
    ]
