"""Overlays, profiles, includes, references, expressions, secrets."""

import json

import pytest
from maestro_yaml_config_parser import (
    IncludeError,
    InterpolationError,
    LayerError,
    LimitExceededError,
    Limits,
    Secret,
    load,
    loads,
)


@pytest.fixture
def write(tmp_path):
    def put(name, text):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(text, encoding="utf-8")
        return file

    return put


def test_layers_merge_and_explain_says_who_set_what(write):
    """Mappings merge, scalars and lists are replaced, every origin is kept."""
    base = write(
        "base.yaml",
        "db: {host: a, port: 1}\nl: [1]\nprofiles:\n  ci:\n    db: {host: c}\n",
    )
    over = write("over.yaml", "db: {host: b}\nl: [2, 3]\n")
    doc = load(base, overlays=[over], profile="ci")
    assert doc.to_dict() == {"db": {"host": "c", "port": 1}, "l": [2, 3]}
    origin = doc.at("db.host").origin
    assert (origin.line, origin.layer) == (5, "profile ci")
    assert [(o.line, o.layer) for o in origin.overrode] == [
        (1, f"overlay {over}"),
        (1, "base"),
    ]
    assert doc.explain("db.host").splitlines() == [
        'db.host = "c"',
        f"  set at {base}:5:16  (profile ci)",
        f"  over {over}:1:12  (overlay {over})",
        f"  over {base}:1:12  (base)",
    ]
    assert doc.at("l[1]").origin.file == str(over)
    assert doc.at("db.port").origin.file == str(base)


def test_merge_strategies_by_path_and_by_tag(write):
    """Lists can be appended, prepended or merged by a key."""
    base = write(
        "base.yaml", "s: [{n: a, v: 1}, {n: b, v: 2}]\nl: [1]\nm: {x: 1}\nq: 1\n"
    )
    over = write(
        "over.yaml",
        "s: [{n: b, v: 3}, {n: c}]\nl: !prepend [0]\nm: !override {y: 2}\nq: !reset\n",
    )
    doc = load(base, overlays=[over], merge={"s": "merge:n"})
    assert doc.to_dict() == {
        "s": [{"n": "a", "v": 1}, {"n": "b", "v": 3}, {"n": "c"}],
        "l": [0, 1],
        "m": {"y": 2},
    }
    assert doc.at("s[1].v").origin.file == str(over)
    assert load(base, overlays=[over], merge={"*": "append"})["s"][2:] == [
        {"n": "b", "v": 3},
        {"n": "c"},
    ]


def test_a_reset_of_nothing_is_refused(write):
    """It is a typing error most of the time."""
    base = write("base.yaml", "timeout: 1\n")
    over = write("over.yaml", "timeot: !reset\n")
    with pytest.raises(LayerError, match="did you mean 'timeout'"):
        load(base, overlays=[over])
    with pytest.raises(LayerError, match="no profile 'cl'; did you mean 'ci'"):
        loads("profiles: {ci: {}}", profile="cl")


def test_includes_are_relative_and_keep_their_places(write):
    """An included value knows its own file."""
    write("parts/db.yaml", "host: a\nextra: !include more.yaml\n")
    write("parts/more.yaml", "[1, 2]\n")
    doc = load(
        write("main.yaml", "db: !include parts/db.yaml\n<<: !include parts/db.yaml\n")
    )
    assert doc["db"] == {"host": "a", "extra": [1, 2]}
    assert doc["host"] == "a"
    assert doc.at("db.extra[1]").origin.line == 1
    assert doc.at("db.extra[1]").origin.file.endswith("parts/more.yaml")
    assert doc.at("host").origin.file.endswith("parts/db.yaml")


def test_bad_includes_are_refused_where_they_stand(write, tmp_path):
    """Cycle, escape, missing, too many, second document."""
    main = write("in/main.yaml", "a: 1\nb: !include b.yaml\n")
    write("in/b.yaml", "c: !include main.yaml\n")
    with pytest.raises(IncludeError, match=r"main\.yaml -> b\.yaml -> main\.yaml"):
        load(main)
    write("secret.yaml", "x: 1\n")
    write("in/b.yaml", "x: !include ../secret.yaml\n")
    with pytest.raises(IncludeError, match="lies outside") as caught:
        load(main)
    assert (caught.value.line, caught.value.column) == (1, 4)
    assert load(main, root=tmp_path)["b"] == {"x": {"x": 1}}
    (tmp_path / "in" / "link.yaml").symlink_to(tmp_path / "secret.yaml")
    write("in/b.yaml", "x: !include link.yaml\n")
    with pytest.raises(IncludeError, match="lies outside"):
        load(main)
    write("in/b.yaml", "x: !include man.yaml\n")
    with pytest.raises(IncludeError, match=r"did you mean 'main\.yaml'"):
        load(main)
    write("in/b.yaml", "1\n---\n2\n")
    with pytest.raises(IncludeError, match="has one document"):
        load(main)
    write("in/b.yaml", "1\n")
    many = write("in/many.yaml", "- !include b.yaml\n" * 5)
    with pytest.raises(LimitExceededError, match="includes"):
        load(many, limits=Limits(includes=4))


def test_references_take_the_type_of_the_plain_value(write):
    """A quoted one stays text; a missing one is named."""
    write("token.txt", "t0ken\n")
    file = write(
        "a.yaml",
        "port: ${env:PORT:-80}\nq: '${env:PORT:-80}'\nu: http://${env:HOST}/\n"
        "f: ${file:token.txt}\nraw: $${env:HOST}\nother: ${HOME}\n",
    )
    doc = load(file, env={"HOST": "h"})
    assert doc.to_dict() == {
        "port": 80,
        "q": "80",
        "u": "http://h/",
        "f": "t0ken",
        "raw": "${env:HOST}",
        "other": "${HOME}",
    }
    assert doc.at("u").origin.line == 3
    with pytest.raises(
        InterpolationError, match="'HOST' is not set; did you mean 'HOTS'"
    ) as caught:
        load(file, env={"HOTS": "h"})
    assert (caught.value.line, caught.value.column) == (3, 4)
    kept = load(file, references="keep")
    assert kept["u"] == "http://${env:HOST}/"
    assert kept["raw"] == "$${env:HOST}"
    escape = write("b.yaml", "f: ${file:../x}\n")
    with pytest.raises(InterpolationError, match="lies outside"):
        load(escape, env={})


@pytest.mark.parametrize(
    ("text", "given", "words"),
    [
        (
            "a: 1\nu: x${env:URL}",
            {},
            r"\$\{env:URL\} has no value: pass env=os.environ",
        ),
        ("a: 1\nu: x${env:URL:-y}", {"secrets": {}}, "pass env=os.environ"),
        ("a: 1\nu: x${secret:T}", {"env": {}}, "has no value: pass secrets="),
        ("a: 1\nu: x${file:f}", {}, "a text has no folder, use load"),
    ],
)
def test_a_reference_without_values_is_refused(text, given, words):
    """Never taken for the text itself, which can be had in two ways."""
    with pytest.raises(InterpolationError, match=words) as caught:
        loads(text, **given)
    assert (caught.value.line, caught.value.column) == (2, 4)
    assert "for the text itself" in caught.value.first.hint
    plain = text.partition("u: ")[2]
    assert loads(text, references="keep", **given)["u"] == plain
    assert loads(text.replace("${", "$${"), **given)["u"] == plain


def test_references_are_seen_wherever_they_come_from(write):
    """Overlays, includes, aliases, profiles and a document that is one text."""
    write("inc.yaml", "x: ${env:X}\n")
    base = write("base.yaml", "a: &a [1]\nb: *a\n")
    over = write("over.yaml", "a: !include inc.yaml\n")
    assert load(base).to_dict() == {"a": [1], "b": [1]}
    with pytest.raises(InterpolationError, match="inc.yaml:1:4"):
        load(base, overlays=[over])
    assert load(base, overlays=[over], env={"X": "7"})["a"] == {"x": 7}
    assert loads("${env:X}", env={"X": "7"}).root == 7
    with pytest.raises(InterpolationError, match="<string>:1:1"):
        loads("${env:X}")
    made = loads("a: !ref X", tags={"!ref": "${{env:{}}}".format}, env={"X": "b"})
    assert made["a"] == "b"
    write("token", "t\n")
    assert load(write("f.yaml", "t: ${file:token}\n"))["t"] == "t"


def test_a_secret_is_usable_and_never_printed(write):
    """Not in str, repr, format, render, explain, diff, errors; also when derived."""
    doc = loads(
        "a: ${secret:T}\nb: Bearer ${secret:T}\nc: ${{ upper(s) + '!' }}\n",
        secrets={"T": "hunter2"},
        values={"s": Secret("hunter2")},
    )
    assert doc["a"].reveal() == "hunter2"
    assert doc["b"].reveal() == "Bearer hunter2"
    assert doc["c"].reveal() == "HUNTER2!"
    other = loads("a: 1\n")
    shown = [
        str(doc["a"]),
        repr(doc.to_dict()),
        f"{doc['b']:>20}",
        "%s" % doc["c"],  # noqa: UP031 - one of the ways to print
        doc.render(),
        doc.render("json"),
        doc.explain("b"),
        "".join(map(str, other.diff(doc))),
        repr(other.diff(doc)),
    ]
    assert not [s for s in shown if "hunter2" in s.lower()]
    assert "hunter2" in doc.render(redact=False)
    with pytest.raises(InterpolationError) as caught:
        loads("a: ${{ int(s) }}", values={"s": Secret("hunter2")})
    assert "hunter2" not in str(caught.value)
    with pytest.raises(InterpolationError, match="did you mean 'TOKEN'"):
        loads("a: ${secret:TOKN}", secrets={"TOKEN": "x"})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${{ n + 1 }}", 4),
        ("${{ n / 2 }}", 1.5),
        ("n is ${{ n }}, ${{ true }}", "n is 3, true"),
        ("${{ 'x' if n > 2 and not false else 'y' }}", "x"),
        ("${{ m.a[0] }}", 7),
        ("${{ m['a'] + [8] }}", [7, 8]),
        ("${{ join(['a', 'b'], '-') }}", "a-b"),
        ("${{ default(null, 5) }}", 5),
        ("${{ 'a' in split('a,b') }}", True),
        ("${{ -n // 2 % 5 }}", 3),
        ("$${{ n }}", "$${{ n }}"),
        ("${{ matrix.os }}", "${{ matrix.os }}"),
    ],
)
def test_an_expression_has_a_typed_value(text, value):
    """Names known only later are left alone."""
    doc = loads(f"k: {json.dumps(text)}", values={"n": 3, "m": {"a": [7]}})
    assert doc["k"] == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nn", "did you mean 'n'"),
        ("n &&  1", "write and, or, not"),
        ("n.real", "in a int"),
        ("().__class__", "in a list"),
        ("__import__('os')", "unknown function"),
        ("[x for x in m]", "ListComp is not allowed"),
        ("2 ** 99999999", "Pow is not allowed"),
        ("'a' * 99999999", "expected a number"),
        ("(lambda: 1)()", "unknown function"),
        ("n / 0", "ZeroDivisionError"),
        ("f'{n}'", "JoinedStr is not allowed"),
        ("(" * 500 + "1" + ")" * 500, "nested too deeply|not an expression|at most"),
        ("1+" * 600 + "1", "at most"),
    ],
)
def test_an_expression_that_is_not_allowed_is_refused(text, words):
    """No calls into Python, no growth without bound."""
    with pytest.raises(InterpolationError, match=words) as caught:
        loads(f"a: 1\nk: {json.dumps('${{ ' + text + ' }}')}", values={"n": 3, "m": {}})
    assert (caught.value.line, caught.value.column) == (2, 4)
