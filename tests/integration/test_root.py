"""The repository as a whole: what its root promises."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_installing_the_root_says_what_to_install_instead(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--target", tmp_path, str(ROOT)],
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "the_repository_root_is_not_a_package" in done.stdout + done.stderr


def test_make_help_lists_every_target():
    done = subprocess.run(
        ["make"], cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    listed = {
        line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")
    }
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))
    assert targets <= listed
    assert len(targets) <= 16


def test_the_readme_names_every_package_and_stays_short():
    text = (ROOT / "README.md").read_text("utf-8")
    for package in (ROOT / "packages").glob("*/pyproject.toml"):
        assert f"packages/{package.parent.name}/README.md" in text
    assert len(text.splitlines()) <= 120


def test_ci_fails_when_a_step_fails(tmp_path):
    """.ci/run with a `make` that fails at `test` must fail and stop there."""
    fake = tmp_path / "make"
    fake.write_text('#!/bin/sh\necho "$1"\n[ "$1" != test ]\n', "utf-8")
    fake.chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / ".ci/run")],
        capture_output=True, encoding="utf-8", check=False,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )  # fmt: skip
    assert done.returncode != 0
    assert done.stdout.split() == ["system", "check", "test"]
