"""The package's face: names, import cost, types, error tree."""

import os
import subprocess
import sys
from pathlib import Path

import maestro_resilience
import pytest
from maestro_resilience import ResilienceError, errors

HERE = Path(__file__).parent


def python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


def test_every_promised_name_is_there():
    for name in maestro_resilience.__all__:
        assert getattr(maestro_resilience, name) is not None
        assert name in dir(maestro_resilience)


def test_a_misspelt_name_is_answered_with_the_right_one():
    with pytest.raises(AttributeError, match="did you mean 'CircuitBreaker'"):
        maestro_resilience.CircuitBraker


def test_every_error_has_the_one_root():
    leaves = [v for v in vars(errors).values() if isinstance(v, type)]
    assert len(leaves) == 10
    assert all(issubclass(leaf, ResilienceError) for leaf in leaves)
    tree = errors.__doc__ or ""
    assert all(leaf.__name__ in tree for leaf in leaves)


def test_importing_and_using_sync_policies_loads_nothing_heavy():
    code = """
import sys
from maestro_resilience import CircuitBreaker, Retry, Bulkhead, Timeout
CircuitBreaker("b")(Retry()(Bulkhead(1)(Timeout(1)(len))))
heavy = {"asyncio", "dataclasses", "inspect", "typing", "logging", "tenacity", "sqlite3"}
print(sorted(heavy & set(sys.modules)))
"""
    assert python(code) == "[]"


def test_no_thread_starts_before_the_first_timed_call():
    code = """
import threading
from maestro_resilience import Timeout
Timeout(1)(len)
print(threading.active_count())
"""
    assert python(code) == "1"


def test_types_survive_decoration():
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary",
         "--cache-dir", os.devnull, str(HERE / "typing_api.py")],
        capture_output=True,
        encoding="utf-8",
        timeout=110,
    )  # fmt: skip
    assert done.stdout == ""
    assert done.returncode == 0


@pytest.mark.drill
def test_pyright_agrees_on_the_types(tmp_path):
    uv = Path(sys.executable).with_name("uv")
    target = tmp_path / "env"
    steps = (
        [uv, "venv", "-q", "-p", sys.executable, target],
        [uv, "pip", "install", "-q", "-p", target / "bin/python", "pyright==1.1.414"],
        [target / "bin/pyright", "--version"],  # fetches its other half
    )
    for step in steps:
        if not uv.exists() or subprocess.run(step, capture_output=True).returncode:
            pytest.skip(f"pyright cannot be had here: {step[0]}")
    (tmp_path / "typing_api.py").write_bytes((HERE / "typing_api.py").read_bytes())
    done = subprocess.run(
        [target / "bin/pyright", "--pythonpath", sys.executable, "typing_api.py"],
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout
