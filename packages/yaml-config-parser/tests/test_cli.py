"""The command: output, exit codes, no tracebacks."""

import json
import subprocess
import sys

import pytest
from maestro_yaml_config_parser._cli import main


@pytest.fixture
def here(tmp_path, monkeypatch, plan_text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plan.yaml").write_text(plan_text, encoding="utf-8")
    (tmp_path / "bad.yaml").write_text(
        plan_text.replace("retries: 2", "retrise: no"), encoding="utf-8"
    )
    (tmp_path / "over.yaml").write_text("defaults: {timeout: 5}\n", encoding="utf-8")
    return tmp_path


def test_validate_reports_every_file(here, capsys):
    """Clickable places, a count, exit 1."""
    assert main(["validate", "--plan", "plan.yaml"]) == 0
    capsys.readouterr()
    assert main(["validate", "--plan", "plan.yaml", "bad.yaml", "none.yaml"]) == 1
    out = capsys.readouterr().out
    assert "bad.yaml:39:9: unknown key 'retrise'" in out
    assert "none.yaml: cannot be read" in out
    assert out.endswith("3 files, 2 errors, 1 warnings\n")


def test_machine_output(here, capsys):
    """JSON and SARIF carry the same places."""
    assert main(["validate", "--plan", "--json", "bad.yaml"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [(r["line"], r["code"]) for r in rows] == [
        (39, "trap-value"),
        (39, "unknown-key"),
    ]
    assert main(["validate", "--plan", "--sarif", "bad.yaml"]) == 1
    run = json.loads(capsys.readouterr().out)["runs"][0]
    region = run["results"][1]["locations"][0]["physicalLocation"]["region"]
    assert region == {"startLine": 39, "startColumn": 9}


def test_the_other_commands(here, capsys):
    """Each prints what it promises."""
    assert (
        main(["explain", "plan.yaml", "defaults.timeout", "--overlay", "over.yaml"])
        == 0
    )
    assert "over plan.yaml:18:12  (base)" in capsys.readouterr().out
    assert main(["explain", "--json", "plan.yaml", "name"]) == 0
    assert json.loads(capsys.readouterr().out)["value"] == "shop"
    assert main(["explain", "plan.yaml", "nam"]) == 1
    assert "did you mean 'name'" in capsys.readouterr().err
    assert main(["diff", "plan.yaml", "over.yaml"]) == 1
    assert "~ defaults.timeout: 60 -> 5  (over.yaml:1:21)" in capsys.readouterr().out
    assert main(["diff", "plan.yaml", "plan.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["matrix", "plan.yaml"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert main(["matrix", "plan.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[6]["id"] == "api/unit"
    assert main(["render", "--mapping", "plan.yaml"]) == 0
    assert json.loads(capsys.readouterr().out)["plan"] == 1
    assert main(["render", "--json", "plan.yaml"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "shop"
    assert main(["schema"]) == 0
    schema = capsys.readouterr().out
    (here / "s.json").write_text(schema, encoding="utf-8")
    assert main(["validate", "plan.yaml", "--schema", "s.json"]) == 0
    assert main(["validate", "bad.yaml", "--schema", "s.json"]) == 1
    assert "did you mean 'retries'" in capsys.readouterr().out
    assert main(["lint", "plan.yaml"]) == 0
    assert main(["lint", "bad.yaml"]) == 1


def test_wrong_usage_is_one_sentence(here, capsys):
    """Exit 2, nothing of Python."""
    assert main(["validate", "plan.yaml", "--schema", "nope.json"]) == 2
    assert capsys.readouterr().err.startswith("maestro-config: cannot read the schema")
    assert main(["explain", "plan.yaml", "a..b"]) == 2
    with pytest.raises(SystemExit) as caught:
        main(["nope"])
    assert caught.value.code == 2


def test_the_installed_command(here):
    """The module runs as a program, with help and an example."""
    done = subprocess.run(
        [sys.executable, "-m", "maestro_yaml_config_parser._cli", "--help"],
        capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0
    assert "example:" in done.stdout
