"""Which environments the matrix makes, and what it skips in them."""

import sys
import tomllib
from pathlib import Path

import matrix
import pytest

ROOT = Path(matrix.__file__).parents[1]

pytest_plugins = ["pytester"]


@pytest.fixture
def folder(checkout, monkeypatch):
    monkeypatch.setattr(matrix, "ROOT", checkout.root)
    extras = 'x = ["redis>=5"]\ny = ["httpx>=0.1"]\nall = ["redis>=5", "httpx>=0.1"]'
    return checkout.package("alpha", extras=extras)


def cells(folder, **options):
    found = matrix.cells_of(folder, ["3.11", "3.12"], **options)
    return [(c.python, c.extra, c.lowest) for c in found]


def test_the_cells_of_a_package(folder):
    assert cells(folder, full=False) == [
        ("3.11", "-", False),
        ("3.11", "-", True),
        ("3.11", "x", False),
        ("3.11", "y", False),
        ("3.11", "all", False),
        ("3.11", "all", True),
        ("3.12", "all", False),
    ]
    assert len(cells(folder, full=True)) == 16


def test_a_package_without_extras(checkout):
    folder = checkout.package("beta")
    assert cells(folder, full=False) == [
        ("3.11", "-", False),
        ("3.11", "-", True),
        ("3.12", "-", False),
    ]


def test_what_a_cell_leaves_out(folder):
    def cell(extra):
        return matrix.Cell(package="alpha", python="3.11", extra=extra, lowest=False)

    assert matrix.distributions_left_out(cell("-")) == {"redis", "httpx"}
    assert matrix.distributions_left_out(cell("x")) == {"httpx"}
    assert matrix.distributions_left_out(cell("all")) == set()
    assert matrix.left_out(cell("x")) == {"httpx"}


def test_every_package_of_this_repository_has_cells():
    for path in ROOT.glob("packages/*/pyproject.toml"):
        project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        found = {c.extra for c in matrix.cells_of(path.parent, ["3.11"], full=False)}
        assert found == {"-", *extras}


def test_this_interpreter_is_found():
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert matrix.interpreter(version) is not None
    assert matrix.interpreter("3.1") is None


def test_only_what_is_left_out_is_skipped(pytester, monkeypatch):
    monkeypatch.setenv("MAESTRO_LEFT_OUT", "module_left_out")
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tools"))
    pytester.makepyfile(
        test_a="import module_left_out\n",
        test_b="""
            import sys

            def test_left_out():
                import module_left_out

            def test_named_by_the_package():
                raise ImportError('x needs y: pip install "maestro-a[y]"')

            def test_said_by_a_command():
                print('pip install "maestro-a[y]"', file=sys.stderr)
                assert False

            def test_another_module():
                import module_that_nobody_has

            def test_wrong():
                assert False
        """,
    )
    done = pytester.runpytest_subprocess(
        "-p", "pytest_extras", "-p", "no:pytest_maestro", "-p", "no:cacheprovider"
    )
    done.assert_outcomes(failed=2, skipped=4)
    done.stdout.fnmatch_lines(["*test_another_module*", "*test_wrong*"])
