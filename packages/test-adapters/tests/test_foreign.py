"""Drills with other people's code: pytest 7 to 9, published suites, Node's runners."""

import re
import subprocess
import sys
import tarfile

import pytest
from maestro_test_adapters import CommandAdapter, PytestAdapter

pytestmark = pytest.mark.drill


@pytest.fixture
def environment(require_program, tmp_path):
    """Return a function that makes an environment with packages."""
    uv = require_program("uv")

    def make(*packages):
        folder = tmp_path / f"env{len(list(tmp_path.iterdir()))}"
        subprocess.run(
            [uv, "venv", "-q", "--python", sys.executable, folder], check=True
        )
        python = folder / "bin" / "python"
        subprocess.run(
            [uv, "pip", "install", "-q", "-p", python, *packages], check=True
        )
        return python

    return make


@pytest.mark.parametrize("version", [7, 8, 9])
@pytest.mark.parametrize("workers", [None, 2])
def test_each_pytest_from_7(environment, write, version, workers):
    python = environment(f"pytest=={version}.*", "pytest-xdist")
    folder = write(
        **{"pytest.ini": "[pytest]\n"},
        test_a="import os, pytest\n"
        "@pytest.mark.parametrize('n', [1, 2])\ndef test_n(n): assert n == 1\n"
        "@pytest.mark.xfail(reason='known')\ndef test_x(): assert 0\n"
        "def test_exit(): os._exit(3)\n"
        "def test_z(): print('out')\n",
    )
    report = PytestAdapter(cwd=folder, python=python, workers=workers).run()
    assert report.tool_version.startswith(f"{version}.")
    assert {one.name: one.outcome for one in report} == {
        "test_n[1]": "passed",
        "test_n[2]": "failed",
        "test_x": "xfailed",
        "test_exit": "crashed",
        "test_z": "passed",
    }
    assert report["test_a.py::test_z"].stdout == "out\n"


@pytest.mark.parametrize("name", ["iniconfig==2.3.1", "pathspec==1.1.1"])
def test_published_suites_count_as_pytest_counts(environment, tmp_path, name):
    python = environment("pip", "pytest")
    subprocess.run(
        [python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:", name],
        cwd=tmp_path, check=True,
    )  # fmt: skip
    (archive,) = tmp_path.glob("*.tar.gz")
    subprocess.run([python, "-m", "pip", "install", "-q", archive], check=True)
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path / "source", filter="data")
    (root,) = (tmp_path / "source").iterdir()
    # No -q: with it pytest 9 counts skipped subtests, too.
    said = subprocess.run(
        [python, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=root, capture_output=True, encoding="utf-8", check=False,
    ).stdout.splitlines()[-1]  # fmt: skip
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (\w+)", said)}
    report = PytestAdapter(cwd=root, python=python).run()
    for word in ("passed", "failed", "skipped", "xfailed"):
        assert report.runner_counts.get(word, 0) == counts.get(word, 0), said
        assert report.counts[word] == counts.get(word, 0), said
    assert counts["passed"] > 20
    assert len(report) == sum(report.counts.values())


@pytest.fixture(scope="module")
def node_modules(require_program, tmp_path_factory):
    """A folder with mocha and vitest."""
    npm = require_program("npm")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"type": "module"}', encoding="utf-8")
    subprocess.run(
        [npm, "install", "--no-audit", "--no-fund", "mocha@11", "vitest@3"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


def test_mocha_for_real(node_modules):
    (node_modules / "mocha.spec.js").write_text(
        "import assert from 'node:assert';\n"
        "describe('sums', () => {\n"
        "  it('adds', () => assert.equal(1 + 1, 2));\n"
        "  it('fails', () => assert.equal(1, 2));\n"
        "  it.skip('waits', () => {});\n"
        "});\n",
        encoding="utf-8",
    )
    report = CommandAdapter(
        ["node_modules/.bin/mocha", "--reporter", "json", "mocha.spec.js"],
        reads="mocha-json",
        cwd=node_modules,
    ).run()
    assert [(one.suite, one.name, one.outcome) for one in report] == [
        (("sums",), "adds", "passed"),
        (("sums",), "fails", "failed"),
        (("sums",), "waits", "skipped"),
    ]
    assert "1 == 2" in report.results[1].message


def test_vitest_for_real(node_modules):
    (node_modules / "sum.test.js").write_text(
        "import { describe, expect, it } from 'vitest';\n"
        "describe('sums', () => {\n"
        "  it('adds', () => expect(1 + 1).toBe(2));\n"
        "  it('fails', () => expect(1).toBe(2));\n"
        "  it.todo('later');\n"
        "});\n",
        encoding="utf-8",
    )
    report = CommandAdapter(
        ["node_modules/.bin/vitest", "run", "--reporter=json", "sum.test.js"],
        reads="vitest-json",
        cwd=node_modules,
    ).run()
    assert [(one.suite, one.name, one.outcome) for one in report] == [
        (("sums",), "adds", "passed"),
        (("sums",), "fails", "failed"),
        (("sums",), "later", "notrun"),
    ]
    assert "expected 1 to be 2" in report.results[1].message
