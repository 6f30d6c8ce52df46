"""Time the release tool against what people type without it.

python bench_release.py [--short] [--slow] [--json FILE]

All programs run on the same made-up packages in interleaved rounds, from the
environment of this interpreter. Each end-to-end round publishes to an embedded
index that was emptied, and installs into a new environment. CPU is that of the
program and all that it starts, without the index; on a busy machine it says more
than the clock. The two peers that build in isolation take a minute and a half, so
they run only with --slow (or BENCH_SLOW), once; the kept figures of them stay.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import requests
from maestro_index import control

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
PACKAGES = 8
MODULES = 5
PYPROJECT = """\
[build-system]
requires = ["poetry-core>=2.0"]
build-backend = "poetry.core.masonry.api"

[project]
name = "maestro-bench-{n}"
version = "1.0.0"
description = "Made up"
readme = "README.md"
license = "Apache-2.0"
requires-python = ">=3.11"

[tool.poetry]
packages = [{{ include = "maestro_bench_{n}" }}]
"""


# So that uv may build all of them at once.
WORKSPACE = """\
[project]
name = "bench"
version = "0"
requires-python = ">=3.11"

[tool.uv]
package = false

[tool.uv.workspace]
members = ["packages/*"]
"""
# Targets: seconds by the clock, and the share of each peer's CPU end to end.
BUILD_S, PIP_S, UV_S, NOTHING_S, SHARE = 2.5, 4.0, 2.5, 1.2, 0.4

SLOW = ("python -m build", "python -m build + twine + pip install")
BUILD = f"build {PACKAGES} packages, gates included"
PUBLISH = f"build, upload, install by pip, import {PACKAGES} packages"
LEFT_OUT = [
    [work + suffix, peer]
    for work, peer in zip((BUILD, PUBLISH), SLOW, strict=True)
    for suffix in ("", ", CPU")
]


def make_packages(root: Path, count: int) -> None:
    (root / "pyproject.toml").write_text(WORKSPACE, encoding="utf-8")
    for n in range(count):
        folder = root / "packages" / f"bench-{n}"
        module = folder / f"maestro_bench_{n}"
        module.mkdir(parents=True)
        (module / "__init__.py").write_text('"""Made up."""\n', encoding="utf-8")
        for m in range(MODULES):
            body = (f"def f{i}(x):\n    return x + {i * m}\n\n\n" for i in range(40))
            (module / f"m{m}.py").write_text("".join(body), encoding="utf-8")
        (folder / "pyproject.toml").write_text(PYPROJECT.format(n=n), encoding="utf-8")
        (folder / "README.md").write_text(f"# maestro-bench-{n}\n", encoding="utf-8")


class Bench:
    """The programs under test, each as a method that does the whole work once."""

    def __init__(self, root: Path, count: int) -> None:
        self.root = root
        self.folders = [root / "packages" / f"bench-{n}" for n in range(count)]
        self.names = [f"maestro-bench-{n}" for n in range(count)]
        self.running = control.ensure_running(root, 0)
        group = f"{self.running.url}/repository/pypi-group/simple"
        hosted = f"{self.running.url}/repository/pypi-hosted/"
        self.environ = os.environ | {
            "MAESTRO_INDEX_PORT": "0",
            "TWINE_USERNAME": self.running.user,
            "TWINE_PASSWORD": self.running.password,
            "TWINE_REPOSITORY_URL": hosted,
            "UV_PUBLISH_USERNAME": self.running.user,
            "UV_PUBLISH_PASSWORD": self.running.password,
            "UV_PUBLISH_URL": hosted,
            "GROUP": group,
        }
        self.group = group

    def run(self, *command: object) -> None:
        done = subprocess.run(
            [str(part) for part in command],
            env=self.environ,
            cwd=self.root,
            check=False,
            capture_output=True,
            encoding="utf-8",
        )
        if done.returncode:
            sys.exit(f"{command}: {done.stdout}{done.stderr}")

    def clean(self) -> None:
        """Back to the beginning: nothing built, nothing published."""
        for name in ("dist", ".maestro", "env"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        with requests.Session() as session:
            session.auth = (self.running.user, self.running.password)
            components = f"{self.running.url}/service/rest/v1/components"
            query = {"repository": "pypi-hosted"}
            while items := session.get(components, params=query).json()["items"]:
                for item in items:
                    session.delete(f"{components}/{item['id']}").raise_for_status()

    def tool(self, *arguments: str) -> None:
        command = (sys.executable, "-P", "-m", "maestro_release", *arguments)
        self.run(*command, "--root", self.root)

    def tool_build(self) -> None:
        self.tool("build")

    def tool_publish(self) -> None:
        self.tool("publish")

    def tool_publish_by_uv(self) -> None:
        self.tool("publish", "--installer", "uv")

    def python_build(self) -> None:
        for folder in self.folders:
            self.run(sys.executable, "-m", "build", "-o", self.root / "dist", folder)

    def python_build_no_isolation(self) -> None:
        for folder in self.folders:
            self.run(
                sys.executable, "-m", "build", "-n", "-o", self.root / "dist", folder
            )

    def uv_build(self) -> None:
        self.run(BIN / "uv", "build", "--all-packages", "-o", self.root / "dist")

    def imports(self, python: Path) -> None:
        code = "; ".join(f"import {n.replace('-', '_')}" for n in self.names)
        self.run(python, "-I", "-c", code)

    def uv_pipeline(self) -> None:
        self.uv_build()
        files = sorted((self.root / "dist").iterdir())
        self.run(
            BIN / "uv", "publish", *(f for f in files if f.suffix in {".whl", ".gz"})
        )
        python = self.root / "env" / "bin" / "python"
        self.run(BIN / "uv", "venv", "-q", "-p", sys.executable, self.root / "env")
        options = ("--no-config", "--default-index", self.group, "--no-cache")
        self.run(
            BIN / "uv", "pip", "install", "-q", "-p", python, *options, *self.names
        )
        self.imports(python)

    def twine_pipeline(self) -> None:
        self.python_build()
        files = sorted((self.root / "dist").iterdir())
        files = [f for f in files if f.suffix in {".whl", ".gz"}]
        self.run(BIN / "twine", "upload", "--non-interactive", *files)
        python = self.root / "env" / "bin" / "python"
        self.run(sys.executable, "-m", "venv", self.root / "env")
        options = ("--index-url", self.group, "--no-cache-dir")
        self.run(python, "-m", "pip", "install", "-q", *options, *self.names)
        self.imports(python)


def timed(function: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds by the clock, and of CPU, of a function's children."""
    before, started = os.times(), time.perf_counter()
    function()
    spent, after = time.perf_counter() - started, os.times()
    cpu = after.children_user + after.children_system
    return spent, cpu - before.children_user - before.children_system


Pairs = list[tuple[float, float]]  # clock and CPU of each round


def rows_of(
    work: str,
    peer: str,
    ours: Pairs,
    theirs: Pairs,
    *,
    seconds: float,
    share: float | None = None,
) -> list[dict[str, object]]:
    """Return a row by the clock and one by CPU.

    Figures are the least of the rounds, ratios the median of the rounds' ratios.

    Args:
        seconds: our target by the clock.
        share: our target by CPU, of the peer's.
    """
    rows: list[dict[str, object]] = []
    for which, suffix in enumerate(("", ", CPU")):
        mine = [pair[which] for pair in ours]
        other = [pair[which] for pair in theirs]
        if len(other) == 1:  # a slow peer stands beside all our rounds
            mine = [statistics.median(mine)]
        ratios = sorted(a / b for a, b in zip(mine, other, strict=True))
        ratio, own = statistics.median(ratios), min(pair[which] for pair in ours)
        target, reached = (share, ratio) if which else (seconds, own)
        rows.append(
            {
                "work": work + suffix,
                "unit": "s",
                "peer": peer,
                "peer_value": round(min(other), 3),
                "ours": round(own, 3),
                "ratio": round(ratio, 3),
                "spread": round(ratios[-1] - ratios[0], 3),
                "target": target,
                "target_of": "ratio" if which else "ours",
                "met": None if target is None else reached <= target,
                "direction": "lower",
            }
        )
    return rows


def compare(
    bench: Bench,
    work: str,
    ours: Callable[[], None],
    peers: dict[str, Callable[[], None]],
    *,
    rounds: int,
    seconds: float,
    share: float | None = None,
) -> list[dict[str, object]]:
    """Interleave; return two rows for each peer. Those of SLOW run in one round."""
    mine: Pairs = []
    theirs: dict[str, Pairs] = {name: [] for name in peers}
    for number in range(rounds):
        bench.clean()
        mine.append(timed(ours))
        for name, peer in peers.items():
            if number and name in SLOW:
                continue
            bench.clean()
            theirs[name].append(timed(peer))
    return [
        row
        for name, values in theirs.items()
        for row in rows_of(work, name, mine, values, seconds=seconds, share=share)
    ]


def nothing_changed(bench: Bench, rounds: int) -> list[dict[str, object]]:
    """A second publish against the bare start of twine, its floor."""
    bench.clean()
    bench.tool_publish()
    ours: Pairs = []
    floor: Pairs = []
    for _ in range(rounds):
        ours.append(timed(bench.tool_publish))
        floor.append(timed(lambda: bench.run(BIN / "twine", "--version")))
    work = "publish again, nothing changed"
    return rows_of(work, "twine --version", ours, floor, seconds=NOTHING_S)


def measure(bench: Bench, rounds: int, *, slow: bool) -> list[dict[str, object]]:
    """Return all rows; those of the two slowest peers where they are asked for."""
    slow_build = {SLOW[0]: bench.python_build}
    slow_publish = {SLOW[1]: bench.twine_pipeline}
    if not slow:
        slow_build, slow_publish = {}, {}
    rows = compare(
        bench,
        BUILD,
        bench.tool_build,
        {
            **slow_build,
            "python -m build --no-isolation": bench.python_build_no_isolation,
            "uv build --all-packages": bench.uv_build,
        },
        rounds=rounds,
        seconds=BUILD_S,
    )
    uv_publish = {"uv build + uv publish + uv pip install": bench.uv_pipeline}
    rows += compare(
        bench,
        PUBLISH,
        bench.tool_publish,
        uv_publish | slow_publish,
        rounds=rounds,
        seconds=PIP_S,
        share=SHARE,
    )
    rows += compare(
        bench,
        f"build, upload, install by uv, import {PACKAGES} packages",
        bench.tool_publish_by_uv,
        uv_publish,
        rounds=rounds,
        seconds=UV_S,
        share=SHARE,
    )
    return rows + nothing_changed(bench, 2 * rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="one round, fewer peers")
    slow = "BENCH_SLOW" in os.environ
    parser.add_argument(
        "--slow", action="store_true", default=slow, help="the slowest peers too"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-release-") as place:
        root = Path(place)
        make_packages(root, PACKAGES)
        bench = Bench(root, PACKAGES)
        try:
            rows = measure(bench, 1 if args.short else args.rounds, slow=args.slow)
        finally:
            control.stop(root)
    for row in rows:
        print(
            f"{row['work']:48} {row['peer']:42} {row['peer_value']:8} s  "
            f"ours {row['ours']:7} s  ratio {row['ratio']}"
        )
    names = ("poetry-core", "build", "uv", "twine", "pip")
    result = {
        "benchmark": "release",
        "rows": rows,
        "left_out": [] if args.slow else LEFT_OUT,
        "versions": {name: importlib.metadata.version(name) for name in names},
        "machine": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "cpus": os.cpu_count(),
        },
    }
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
