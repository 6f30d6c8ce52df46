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
    assert len(leaves) == 9
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
