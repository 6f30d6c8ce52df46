"""One place of a real file is spoilt at random; the error must point at it."""

import random
import re
from dataclasses import field, make_dataclass
from typing import Annotated, Any

import pytest
from maestro_yaml_config_parser import Alias, ConfigError, loads

KEY = re.compile(
    r"^(?P<indent> *)(?P<dash>(?:- +)*)(?P<key>[A-Za-z_][\w./-]*):(?P<rest>(?: .*)?)$"
)


def schema_of(value, counter):
    """Infer the type that a value has, as a schema that accepts it."""
    if isinstance(value, dict):
        if not value or not all(isinstance(k, str) for k in value):
            return dict[Any, Any]
        counter[0] += 1
        keys = [
            (f"k{i}", Annotated[schema_of(v, counter), Alias(k)], field(kw_only=True))
            for i, (k, v) in enumerate(value.items())
        ]
        return make_dataclass(f"Mapping{counter[0]}", keys)
    if isinstance(value, list):
        return tuple[tuple(schema_of(v, counter) for v in value)] if value else list
    return Any if value is None else type(value)


def outside_text_blocks(text, doc):
    """Return the lines that hold a block-style key of the data, with their paths."""
    found = []
    for path, container, key, value in doc._walk():
        if not isinstance(container, dict) or not isinstance(key, str):
            continue
        place = doc.places(container, key)[0]
        line, column = place.source.place(place.key)
        match = KEY.match(place.source.line_text(line))
        if match and match.start("key") == column - 1 and match["key"] == key:
            found.append((line, column, path, container, value, match))
    return found


def mutate(rng, text, doc):
    """Return a spoilt text and where the error must be, or None."""
    line, column, path, container, value, match = rng.choice(
        outside_text_blocks(text, doc)
    )
    lines = text.split("\n")
    at = line - 1
    kind = rng.choice(["unknown key", "wrong type", "duplicate", "indent"])
    if kind == "unknown key":
        start, end = match.span("key")
        lines[at] = lines[at][:start] + match["key"] + "_x" + lines[at][end:]
        return kind, "\n".join(lines), line, column
    if kind == "duplicate":
        if match["dash"]:
            return None
        copy = f"{match['indent']}{match['key']}: 1"
        lines.insert(at, copy)
        return kind, "\n".join(lines), line + 1, column
    if kind == "wrong type":
        if isinstance(value, dict | list) or value is None:
            return None
        place = doc.places(container, path[-1])[0]
        row, col = place.source.place(place.value)
        plain = lines[row - 1][col - 1 :]
        if (
            row != line
            or plain.rstrip() != str(value)
            or (
                at + 1 < len(lines)
                and (
                    lines[at + 1].startswith(match["indent"] + "  ")
                    and not KEY.match(lines[at + 1])
                )
            )
        ):
            return None
        lines[at] = lines[at][: col - 1] + "[1]"
        return kind, "\n".join(lines), line, col
    before = list(container).index(path[-1])
    if match["dash"] or before == 0 or not match["indent"]:
        return None
    previous = list(container.values())[before - 1]
    if previous is None or isinstance(previous, dict | list):
        return None
    lines[at] = " " + lines[at]
    return kind, "\n".join(lines), line, None


def run(texts, count, seed):
    rng = random.Random(seed)
    kinds = dict.fromkeys(["unknown key", "wrong type", "duplicate", "indent"], 0)
    schemas = {}
    names = sorted(texts)
    tries = 0
    while sum(kinds.values()) < count:
        tries += 1
        assert tries < 40 * count
        name = rng.choice(names)
        text = texts[name].replace("\r\n", "\n")
        doc = loads(text, name)
        if name not in schemas:
            schemas[name] = schema_of(doc.root, [0])
            doc.into(schemas[name])
        made = mutate(rng, text, doc)
        if made is None:
            continue
        kind, spoilt, line, column = made
        with pytest.raises(ConfigError) as caught:
            loads(spoilt, name).into(schemas[name])
        got = [(d.line, d.column) for d in caught.value.diagnostics]
        if column is None:  # an indent: its line, at or before the value
            assert got[0][0] == line, (name, kind, got, line)
            indent = len(spoilt.split("\n")[line - 1]) - len(
                spoilt.split("\n")[line - 1].lstrip()
            )
            assert got[0][1] == indent + 1, (name, kind, got, line)
        else:
            assert (line, column) in got, (name, kind, got, (line, column))
        kinds[kind] += 1
    return kinds


def test_the_error_points_at_the_mutation(real_texts):
    """500 cases over the real files, each kind among them."""
    kinds = run(real_texts, 500, 7)
    assert min(kinds.values()) >= 20, kinds
