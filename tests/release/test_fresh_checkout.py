"""The two commands of the README, on a machine where nothing has been made."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Checkout

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def published(checkout: Checkout) -> str:
    done = checkout.run("make", "publish", f"PYTHON={sys.executable}")
    assert done.returncode == 0, done.stdout
    return done.stdout


def packages(root: Path) -> list[str]:
    return sorted(
        f"maestro-{p.parent.name}" for p in root.glob("packages/*/pyproject.toml")
    )


def test_publish_builds_uploads_and_verifies_every_package(checkout, published):
    names = packages(checkout.root)
    assert len(names) >= 2
    for name in names:
        assert re.search(
            rf"^{name} +\d+\.\d+\.\d+ +uploaded 2 files", published, re.MULTILINE
        )
    assert published.splitlines()[0].startswith(("setup", "index"))
    assert "the embedded index at http://127.0.0.1:" in published


def test_a_second_publish_uploads_nothing_and_says_so(checkout, published):
    done = checkout.run("make", "publish", f"PYTHON={sys.executable}")
    assert done.returncode == 0, done.stdout
    assert "upload   nothing" in done.stdout


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_people_install_one_package_from_the_index(
    checkout, published, tmp_path, installer
):
    uv = checkout.root / ".venv-release/bin/uv"
    target = tmp_path / "venv"
    if installer == "uv":
        checkout.run(uv, "venv", "-q", "-p", sys.executable, target)
        install = [uv, "pip", "install", "-p", target / "bin/python"]
    else:
        checkout.run(sys.executable, "-m", "venv", target)
        install = [target / "bin/pip", "install", "--no-cache-dir"]
    done = checkout.run(
        *install, "--index-url", checkout.index_url, "maestro-resilience"
    )
    assert done.returncode == 0, done.stdout
    code = "import maestro_resilience as m; print(m.CircuitBreaker.__module__)"
    done = checkout.run(target / "bin/python", "-I", "-c", code)
    assert done.stdout.startswith("maestro_resilience")


def test_a_changed_byte_without_a_new_version_is_exit_4_before_any_upload(
    checkout, published
):
    init = checkout.root / "packages/resilience/maestro_resilience/__init__.py"
    original = init.read_bytes()
    init.write_bytes(original + b"# changed\n")
    try:
        done = subprocess.run(
            [checkout.root / ".venv-release/bin/maestro-release", "publish"],
            cwd=checkout.root, env=checkout.environment, check=False, encoding="utf-8",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120,
        )  # fmt: skip
    finally:
        init.write_bytes(original)
    assert done.returncode == 4, done.stdout
    assert len(set(re.findall(r"[0-9a-f]{64}", done.stdout))) >= 2
    assert "maestro_resilience-1.0.0" in done.stdout
    assert "upload   " not in done.stdout


def test_the_plan_is_data(checkout, published):
    done = checkout.run(".venv-release/bin/maestro-release", "plan", "--json")
    assert done.returncode == 0, done.stdout
    plan = json.loads(done.stdout[done.stdout.index("{") :])
    assert plan
