"""Drills with other people's code: pytest 7 to 9, published suites, Node's runners."""

import re
import subprocess
import sys
import tarfile

import pytest
from maestro_test_adapters import CommandAdapter, PytestAdapter

pytestmark = pytest.mark.drill


@pytest.fixture(autouse=True)
def with_plugins(without_plugins, monkeypatch):
    """Load the plugins of each environment, as its user would."""
    monkeypatch.delenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD")


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


ALL_KINDS = """
import logging, os, sys
import pytest

tries = {}

def second_time(name):
    tries[name] = tries.get(name, 0) + 1
    print("try", tries[name])
    assert tries[name] == 2, f"try {tries[name]}"

def test_plain(): pass
@pytest.mark.parametrize("n", [1, "%d"])
class TestGroup:
    def test_in_class(self, n): pass
def test_texts(record_property):
    print("out"); print("err", file=sys.stderr); logging.warning("log")
    record_property("ticket", 7)
@pytest.mark.skip(reason="not today")
def test_skipped(): pass
@pytest.mark.xfail(reason="known")
def test_xfail(): assert 0
@pytest.mark.xfail
def test_xpass(): pass
def test_flaky(): second_time("call")
@pytest.fixture
def late(): second_time("setup")
def test_late(late): pass
@pytest.fixture
def down():
    yield
    second_time("teardown")
def test_down(down): pass
def test_never(): assert 0, "never"
def test_sub(subtests):
    with subtests.test("good", i=1): print("in it")
def test_sub_bad(subtests):
    with subtests.test("bad"): assert 0, "subtest"
def test_fork_ends():
    if os.fork() == 0: os._exit(0)
    os.wait()
def test_fork_returns():
    if os.fork() == 0: return
    os.wait()
def test_exit(): os._exit(3)
def test_last(): pass
"""


@pytest.mark.parametrize("version", [7, 8, 9])
def test_plugins_of_pytest_and_both_ways_to_tell(
    environment, write, both_ways, version
):
    plugins = ["pytest-xdist", "pytest-rerunfailures"]
    if version < 9:  # pytest 9 has subtests itself; pytest-forked fails on it
        plugins += ["pytest-subtests", "pytest-forked"]
    python = environment(f"pytest=={version}.*", *plugins)
    folder = write(
        **{"pytest.ini": "[pytest]\n"}, conftest=both_ways, test_all=ALL_KINDS
    )

    def found(*args, **env):
        report = PytestAdapter(cwd=folder, python=python, args=args, env=env).run()
        assert not report.problems
        return {one.name: describe(one) for one in report}

    ways = [("--reruns=2",), ("--reruns=2", "-n2"), ("--forked",)]
    for args in ways if version < 9 else ways[:2]:
        short = found(*args)
        assert short == found(*args, MAESTRO_LONG_WAY="1")
        outcomes = {name: told[0] for name, told in short.items()}
        boxed = args == ("--forked",)
        assert outcomes == {
            "test_plain": "passed",
            "test_in_class[1]": "passed",
            "test_in_class[%d]": "passed",
            "test_texts": "passed",
            "test_skipped": "skipped",
            "test_xfail": "xfailed",
            "test_xpass": "xpassed",
            "test_flaky": "failed" if boxed else "passed",
            "test_late": "error" if boxed else "passed",
            "test_down": "error" if boxed else "passed",
            "test_never": "failed",
            "test_sub": "passed",
            "test_sub_bad": "passed" if boxed else "failed",  # as pytest-forked says
            "test_fork_ends": "passed",
            "test_fork_returns": "passed",
            "test_exit": "crashed",
            "test_last": "passed",
        }
        tries = {name: len(told[-1]) for name, told in short.items() if told[-1]}
        if boxed:
            assert tries == {}
        else:
            assert tries["test_flaky"] == tries["test_late"] == tries["test_down"] == 1
            assert tries["test_never"] == 2
    told = (folder / "told").read_text(encoding="utf-8").splitlines()
    assert set(told) == {"same"}
    assert len(told) >= 6


def describe(result):
    texts = (result.stdout, result.stderr, result.log)
    return (
        result.outcome,
        result.id,
        result.suite,
        result.line,
        (result.message or "").split("\n")[0],
        texts if result.outcome != "crashed" else None,
        result.properties,
        result.parameters,
        [(step.name, step.outcome) for step in result.steps],
        [(one.number, one.outcome, one.stdout) for one in result.attempts],
    )


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
