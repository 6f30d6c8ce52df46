"""Wrong arguments: refused before any work, with what to write instead."""

import json
import os
from pathlib import Path

import pytest
from maestro_yaml_config_parser import (
    ArgumentError,
    ConfigError,
    ConfigReadError,
    Limits,
    YamlConfigParser,
    load,
    load_all,
    loads,
)
from maestro_yaml_config_parser._cli import main


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: load("s.yaml", overlays="ci.yaml"), "load(): overlays is a list of files, got 'ci.yaml'; write overlays=['ci.yaml']"),
        (lambda: load("s.yaml", overlays=Path("ci.yaml")), "write overlays=['ci.yaml']"),
        (lambda: load("s.yaml", overlays=None), "overlays is a list of files, got None"),
        (lambda: load("s.yaml", overlays=["a.yaml", 3]), "overlays[1] is the name of a file, got 3"),
        (lambda: load("s.yaml", overlay=["ci.yaml"]), "load(): no argument 'overlay'; did you mean 'overlays'?"),
        (lambda: loads("a: 1", overlays=[]), "loads(): no argument 'overlays'; it has text, name, env, "),
        (lambda: load_all("s.yaml", limit=Limits()), "load_all(): no argument 'limit'; did you mean 'limits'?"),
        (lambda: load("s.yaml", env=True), "load(): env is a mapping of names to values, got True; write env=os.environ"),
        (lambda: load("s.yaml", secrets="T"), "secrets is a mapping or a function, got 'T'"),
        (lambda: load("s.yaml", profile=["ci"]), "profile is the name of a profile, got ['ci']"),
        (lambda: load("s.yaml", merge="append"), "merge is a mapping of paths to strategies, got 'append'"),
        (lambda: load("s.yaml", limits=3), "limits is a Limits object, got 3"),
        (lambda: load("s.yaml", unknown_tags="skip"), "unknown_tags is 'refuse' or 'ignore', got 'skip'"),
        (lambda: load("s.yaml", references=None or "no"), "references is 'refuse' or 'keep', got 'no'"),
        (lambda: load({"a": 1}), "load(): path is the name of a file, got {'a': 1}; use loads() for a text"),
        (lambda: load_all(3), "load_all(): path is the name of a file, got 3"),
        (lambda: loads(Path("s.yaml")), "loads(): text is the YAML itself, got PosixPath('s.yaml'); use load() for a file"),
        (lambda: loads(None), "loads(): text is the YAML itself, got None"),
        (lambda: loads("a: 1", 5), "loads(): name is a text, got 5"),
        (lambda: loads("a: 1", tags=["!x"]), "tags is a mapping of tags to functions, got ['!x']"),
        (lambda: Limits(depth="9"), "Limits(): depth is a whole number from 1, got '9'"),
        (lambda: Limits(nodes=0), "Limits(): nodes is a whole number from 1, got 0"),
        (lambda: YamlConfigParser(env=True), "YamlConfigParser(): env is a mapping of names to values, got True"),
        (lambda: YamlConfigParser(profil="ci"), "YamlConfigParser(): no argument 'profil'; did you mean 'profile'?"),
        (lambda: loads("a: 1").into("App"), "into(): cannot check the type 'App'"),
        (lambda: loads("a: 1").diff({"a": 1}), "diff(): other is a Document, got {'a': 1}; load() makes one"),
        (lambda: loads("a: 1").render("toml"), "render(): kind is 'yaml' or 'json', got 'toml'"),
        (lambda: loads("a: 1").at("a..b"), "path 'a..b': expected a name or [item] at character 2"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_refused(tmp_path, monkeypatch, call, message):
    """One class, which is a TypeError and a ValueError as well."""
    monkeypatch.chdir(tmp_path)
    Path("s.yaml").write_text("a: 1\n", encoding="utf-8")
    with pytest.raises(ArgumentError) as caught:
        call()
    assert message in str(caught.value)
    assert isinstance(caught.value, ConfigError)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, ValueError)


def test_a_text_given_to_load_is_recognised(tmp_path, monkeypatch):
    """Also one that no file system would take for a name."""
    monkeypatch.chdir(tmp_path)
    for text in ("a: 1\n", "a: 1", "a:\n" + "  b: 1\n" * 2_000):
        with pytest.raises(ConfigReadError, match="that looks like YAML: use loads"):
            load(text)
    with pytest.raises(ConfigReadError, match="null"):
        load("a\0b")


@pytest.mark.parametrize(
    ("there", "asked", "hint"),
    [
        ("s.yaml", "nope.yaml", ""),
        ("plan.yaml", "plan.yml", "did you mean 'plan.yaml'?"),
        ("plan.yaml", "plans.yaml", "did you mean 'plan.yaml'?"),
        (".env.yaml", ".evn.yaml", "did you mean '.env.yaml'?"),
    ],
)
def test_a_missing_file_is_compared_without_its_suffix(tmp_path, there, asked, hint):
    """That both end in .yaml says nothing."""
    (tmp_path / there).write_text("a: 1\n", encoding="utf-8")
    with pytest.raises(ConfigReadError) as caught:
        load(tmp_path / asked)
    assert caught.value.first.hint == hint
    (tmp_path / "main.yaml").write_text(f"a: !include {asked}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "main.yaml")
    assert caught.value.first.hint == hint


def test_a_missing_key_is_named_with_the_near_one():
    """As `at` does; `in` and `get` work as in any mapping."""
    doc = loads("timeout: 3\nurl: x\n", "s.yaml")
    with pytest.raises(KeyError) as caught:
        doc["timout"]
    assert "s.yaml:1:1: no key 'timout' in the document; did you mean 'timeout'?" in str(
        caught.value
    )  # fmt: skip
    assert doc.get("timout") is None
    assert doc.get("timout", 5) == 5
    assert doc.get("timeout") == 3
    assert "timeout" in doc
    assert "timout" not in doc
    rows = loads("[a, b]", "s.yaml")
    assert rows[1] == "b"
    assert "b" in rows
    assert rows.get(7) is None
    with pytest.raises(
        IndexError, match="no item 7 in the document; it is a list of 2"
    ):
        rows[7]
    with pytest.raises(KeyError, match="no item 'a' in the document"):
        rows["a"]
    with pytest.raises(KeyError, match="no 'a' in the document"):
        loads("")["a"]


def test_the_command_says_what_was_checked(tmp_path, monkeypatch, capsys, plan_text):
    """A file with suites is a plan; for any other the command names its limits."""
    monkeypatch.chdir(tmp_path)
    bad = plan_text.replace("retries: 2", "retrise: 2")
    Path("bad.yaml").write_text(bad, encoding="utf-8")
    Path("app.yaml").write_text("port: 1\n", encoding="utf-8")
    Path("s.json").write_text('{"type": "object"}', encoding="utf-8")
    assert main(["validate", "bad.yaml"]) == 1
    assert "did you mean 'retries'?" in capsys.readouterr().out
    assert main(["validate", "--no-plan", "bad.yaml"]) == 0
    assert "bad.yaml: only the YAML was checked" in capsys.readouterr().err
    assert main(["validate", "app.yaml", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out) == []
    assert said.err.startswith("app.yaml: only the YAML was checked, no schema")
    assert "--plan checks a test plan" in said.err
    assert main(["validate", "--schema", "s.json", "app.yaml", "bad.yaml"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["validate", "--plan", "app.yaml"]) == 1


def test_the_command_replaces_the_environment_only_when_asked(
    tmp_path, monkeypatch, capsys
):
    """A mapping for a runner never holds a text that should have been replaced."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SECONDS", "3")
    plan = "name: p\nsuites: [{name: s, cases: [{name: c, steps: [{run: [sleep, '${env:SECONDS}']}]}]}]\n"
    Path("plan.yaml").write_text(plan, encoding="utf-8")
    for command in (["validate"], ["matrix"], ["render"]):
        assert main([*command, "plan.yaml"]) == 0
    capsys.readouterr()
    assert main(["render", "--mapping", "plan.yaml"]) == 1
    assert "pass env=os.environ (maestro-config: --env)" in capsys.readouterr().err
    assert main(["render", "--mapping", "--env", "plan.yaml"]) == 0
    steps = json.loads(capsys.readouterr().out)["suites"][0]["cases"][0]["steps"]
    assert steps[0]["arguments"]["argv"] == ["sleep", "3"]
    assert os.environ["SECONDS"] == "3"
