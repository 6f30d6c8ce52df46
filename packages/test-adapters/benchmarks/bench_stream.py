"""What the streaming plugin costs: 1,000 tests by pytest, plain and with our stream.

    python bench_stream.py [--short] [--json FILE] [--python INTERPRETER]

CPU seconds of the whole process, plain and streaming in turns. The effect is smaller
than the noise of a shared machine, so there are many rounds: the figures are medians, the
ratio is the median of the rounds' ratios, and the spread that of their middle half. The
peers are the same pytest without the plugin, and with one whose hooks write as many lines
and do nothing else: what no plugin that streams can go below.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from maestro_test_adapters._runner import INJECT

FILES, TESTS = 50, 20
TARGET = 1.06
FLOOR = """
import os
import pytest
file = os.open(os.environ["MAESTRO_STREAM"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
def pytest_runtest_logstart(nodeid, location):
    os.write(file, b"x" * 80 + b"\\n")
@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report):
    pass
def pytest_runtest_logfinish(nodeid, location):
    os.write(file, b"x" * 400 + b"\\n")
"""
OWN = ("MAESTRO_STREAM", "MAESTRO_SELECT", "MAESTRO_STACKS", "MAESTRO_PARENT")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="fewer rounds")
    parser.add_argument("--json", metavar="FILE", help="write the result")
    parser.add_argument("--python", default=sys.executable, help="that has pytest")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for number in range(FILES):
            tests = (f"def test_{i}():\n    assert {i} >= 0\n" for i in range(TESTS))
            (root / f"test_{number}.py").write_text("".join(tests), encoding="utf-8")
        found = measure(arguments.python, root, rounds=5 if arguments.short else 20)
    for row in found["rows"]:
        print(
            f"{row['work']}: {row['peer']} {row['peer_value']:.3f} s, ours "
            f"{row['ours']:.3f} s, ratio {row['ratio']:.3f} (spread {row['spread']:.3f})"
        )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1), encoding="utf-8")


def measure(python: str, root: Path, *, rounds: int) -> dict[str, Any]:
    """Return the benchmark's document; all candidates run in turns."""
    (root / "only_writes.py").write_text(FLOOR, encoding="utf-8")
    words = {"plain": (), "floor": ("-p", "only_writes"), "ours": ("-p", "maestro_stream_pytest")}  # fmt: skip
    spent: dict[str, list[float]] = {name: [] for name in words}
    for number in range(-1, rounds):  # the first round fills the caches
        names = list(words)
        for name in names if number % 2 else reversed(names):
            seconds = run(python, root, words[name])
            if number >= 0:
                spent[name].append(seconds)
    peers = {f"pytest {said(python)}": "plain", "hooks that only write": "floor"}
    rows = []
    for peer, name in peers.items():
        ratios = [b / a for a, b in zip(spent[name], spent["ours"], strict=True)]
        quarters = statistics.quantiles(ratios)
        row = {
            "work": f"{FILES * TESTS} tests, CPU",
            "unit": "s",
            "peer": peer,
            "peer_value": statistics.median(spent[name]),
            "ours": statistics.median(spent["ours"]),
            "ratio": statistics.median(ratios),
            "spread": quarters[2] - quarters[0],
            "target": None,
            "met": None,
            "direction": "lower",
        }
        rows.append(row)
    rows[0] |= {"target": TARGET, "met": rows[0]["ratio"] <= TARGET}
    if not rows[0]["met"]:
        rest = f"{rows[1]['ratio']:.2f} of {rows[1]['peer']}"
        rows[0]["note"] = f"the file and pytest's calls of hooks are most of it: {rest}"
    return {
        "benchmark": "stream",
        "rows": rows,
        "versions": {
            "python": platform.python_version(),
            "maestro-test-adapters": version("maestro-test-adapters"),
        },
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "date": time.strftime("%Y-%m-%d"),
    }


def said(python: str) -> str:
    """Return the version of an interpreter's pytest."""
    words = [python, "-c", "import pytest; print(pytest.__version__)"]
    return subprocess.run(
        words, check=True, capture_output=True, encoding="utf-8"
    ).stdout.strip()


def run(python: str, root: Path, words: tuple[str, ...]) -> float:
    """Return the CPU seconds of one pytest process."""
    env = {key: value for key, value in os.environ.items() if key not in OWN}
    env["PYTHONPATH"] = os.pathsep.join([str(INJECT), str(root)])
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    if words:
        env["MAESTRO_STREAM"] = str(root / "stream.jsonl")
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    process = subprocess.Popen(
        command, cwd=root, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
