"""The policy finds each kind of thing it is there for, and nothing in a good tree."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from policy.__main__ import main

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a small tree with one good package, copied from a real one."""
    source = ROOT / "packages" / "resilience"
    target = tmp_path / "packages" / "resilience"
    skipped = shutil.ignore_patterns("__pycache__", ".hypothesis", ".pytest_cache")
    shutil.copytree(source, target, ignore=skipped)
    shutil.copy(ROOT / "LICENSE", tmp_path)
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    return tmp_path


def findings(tree: Path, capsys: pytest.CaptureFixture[str]) -> str:
    code = main(["--root", str(tree), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == (1 if found else 0)
    return "\n".join(f"{f['path']}: {f['message']}" for f in found)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_real_package_has_no_findings(tree, capsys):
    assert findings(tree, capsys) == ""


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('version = "1.0.0"', 'version = "1.0"', "MAJOR.MINOR.PATCH"),
        ('license = "Apache-2.0"', 'license = "MIT"', "license must be"),
        ("dependencies = [", 'dependencies = ["six", ', "make it an extra"),
        ("dependencies = [", 'dependencies = ["a @ file:///x", ', "names a place"),
        ("[tool.poetry]", "[tool.ruff]\n[tool.poetry]", "[tool.ruff] belongs"),
        ("\nall = [", '\nnew = ["six"]\nall = [', "must be the union"),
        ('name = "maestro-resilience"', 'name = "resilience"', "name must be"),
    ],
)
def test_metadata_that_differs_is_named(tree, capsys, old, new, message):
    edit(tree / "packages/resilience/pyproject.toml", old, new)
    assert message in findings(tree, capsys)


@pytest.mark.parametrize(
    "name", ["README.md", "CHANGELOG.md", "maestro_resilience/py.typed"]
)
def test_a_missing_file_is_named(tree, capsys, name):
    (tree / "packages/resilience" / name).unlink()
    assert f"{name}: is missing" in findings(tree, capsys)


def test_a_readme_without_a_section_is_named(tree, capsys):
    edit(tree / "packages/resilience/README.md", "## Not for", "## Other")
    assert "lacks the section '## Not for'" in findings(tree, capsys)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("https://pypi" + ".org/simple", "names a package registry"),
        ("see /wor" + "k/main/x", "names a local path"),
    ],
)
def test_an_address_anywhere_is_named_with_its_line(tree, capsys, text, message):
    (tree / "packages/resilience/tests/notes.txt").write_text(f"\n{text}\n", "utf-8")
    assert message in findings(tree, capsys)


def test_a_stray_top_level_file_and_a_lock_file_are_named(tree, capsys):
    (tree / "notes.txt").write_text("", "utf-8")
    (tree / "packages/resilience/uv.lock").write_text("", "utf-8")
    found = findings(tree, capsys)
    assert "notes.txt: does not belong at the top level" in found
    assert "uv.lock: records addresses" in found


def test_a_wheel_that_grew_too_large_is_named(tree, capsys):
    big = tree / "packages/resilience/maestro_resilience/_big.py"
    import random

    noise = random.Random(1).randbytes(120_000).hex()
    big.write_text(f'X = "{noise}"\n', "utf-8")
    assert "wheel has" in findings(tree, capsys)
