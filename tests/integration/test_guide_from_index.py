"""The guide's Python blocks in clean environments, installed from the index."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sybil import Document
from sybil.parsers.markdown import PythonCodeBlockParser

ROOT = Path(__file__).resolve().parent.parent.parent
# One way to make a fresh checkout with an index of its own serves two suites.
_SPEC = importlib.util.spec_from_file_location(
    "fresh_checkout", ROOT / "tests" / "release" / "conftest.py"
)
assert _SPEC
assert _SPEC.loader
_MODULE = importlib.util.module_from_spec(_SPEC)
sys.modules[_SPEC.name] = _MODULE
_SPEC.loader.exec_module(_MODULE)
checkout = _MODULE.checkout

pytestmark = [pytest.mark.drill, pytest.mark.timeout(900)]
PACKAGES = sorted(p.parent.name for p in ROOT.glob("packages/*/pyproject.toml"))
EXTRA = {"test-adapters": "[pytest]"}  # what the guide's own example needs
RUNNER = """
import json, sys
namespace = {"__name__": "guide", "redis_url": None}
for line, source in json.loads(sys.stdin.read()):
    exec(compile("\\n" * line + source, "INTEGRATION_GUIDE.md", "exec"), namespace)
    print("line", line)
"""


def blocks(text: str) -> list[tuple[int, str]]:
    """Return (line, source) of each Python block, as the tests find them."""
    document = Document(text, "INTEGRATION_GUIDE.md")
    regions = sorted(PythonCodeBlockParser()(document), key=lambda r: r.start)
    return [
        (text.count("\n", 0, region.start) + 1, str(region.parsed))
        for region in regions
    ]


@pytest.fixture(scope="module")
def published(checkout):
    done = checkout.run("make", "publish", f"PYTHON={sys.executable}")
    assert done.returncode == 0, done.stdout
    return checkout


def environment(checkout, folder: Path, installer: str, names: list[str]) -> Path:
    """Return the Python of a clean environment with these packages from the index."""
    uv = checkout.root / ".venv-release/bin/uv"
    python = folder / "bin/python"
    if installer == "uv":
        checkout.run(uv, "venv", "-q", "-p", sys.executable, folder)
        install = [uv, "pip", "install", "--no-cache", "-p", python]
    else:
        checkout.run(sys.executable, "-m", "venv", folder)
        install = [folder / "bin/pip", "install", "--no-cache-dir"]
    done = checkout.run(*install, "--index-url", checkout.index_url, *names)
    assert done.returncode == 0, done.stdout
    return python


def run_blocks(python: Path, found: list[tuple[int, str]], folder: Path) -> str:
    folder.mkdir()
    done = subprocess.run(
        [python, "-I", "-W", "error", "-c", RUNNER],
        input=json.dumps(found), cwd=folder, capture_output=True, encoding="utf-8",
        check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_the_whole_guide_runs_in_a_clean_environment(published, tmp_path, installer):
    names = [f"maestro-{name}{EXTRA.get(name, '')}" for name in PACKAGES]
    python = environment(published, tmp_path / "venv", installer, names)
    found = blocks((published.root / "INTEGRATION_GUIDE.md").read_text("utf-8"))
    assert len(found) >= 8 + 5
    ran = run_blocks(python, found, tmp_path / "work")
    assert ran.count("line ") == len(found)


@pytest.mark.parametrize("name", PACKAGES)
def test_each_section_runs_with_its_package_alone(published, tmp_path, name):
    text = (published.root / "INTEGRATION_GUIDE.md").read_text("utf-8")
    section = text.split(f"\n### maestro-{name}\n", 1)[1]
    section = re.split(r"\n##+ ", section, maxsplit=1)[0]
    wanted = [f"maestro-{name}{EXTRA.get(name, '')}"]
    python = environment(published, tmp_path / "venv", "uv", wanted)
    found = blocks(section)
    assert len(found) == 1
    closing = "\nfor thing in ('audit', 'me', 'registry'):\n"
    closing += "    if thing in globals(): globals()[thing].close()\n"
    run_blocks(python, [*found, (0, closing)], tmp_path / "work")
    done = subprocess.run(
        [python, "-I", "-m", "pip", "--version"], capture_output=True, check=False
    )
    assert done.returncode != 0  # nothing but the package and what it needs


def test_a_missing_package_says_what_the_guide_says(published, tmp_path):
    """The first row of the guide's table, word for word."""
    folder = tmp_path / "venv"
    published.run(sys.executable, "-m", "venv", folder)
    done = published.run(
        folder / "bin/pip", "install", "--index-url", published.index_url,
        "maestro-nothing",
    )  # fmt: skip
    words = "Could not find a version that satisfies the requirement maestro-nothing"
    assert words in done.stdout
    uv = published.root / ".venv-release/bin/uv"
    done = published.run(
        uv, "pip", "install", "-p", folder / "bin/python",
        "--index-url", published.index_url, "maestro-nothing",
    )  # fmt: skip
    assert "No solution found when resolving dependencies" in done.stdout
