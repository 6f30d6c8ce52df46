"""Measure the packages against their named peers; one table, one page.

python tools/bench.py [--package NAME] [--full] [--slow] [--write]
python tools/bench.py --tables [--check]

Each package is measured in an environment of its own below .venv-bench/, with
the peers that its benchmarks/requirements.txt pins; a peer that shares none has one
more, from requirements-NAME.txt. A peer that does not install is reported. Every
script of a package, benchmarks/bench_*.py, interleaves itself with its peers and
writes rows, and names those that it leaves out because they take too long: the kept
ones stay, with their date, and --slow measures them too. This program adds import
time and size, prints one table, and with --write keeps the rows in docs/benchmarks/
with a chart for each package and a page. How the cost grows with the size of the work is measured
with --full, with --write, and for a single package: the short mode of all ends
within five minutes. --tables writes the tables of the READMEs from those
rows; with --check it only says whether they differ.

Exit codes: 0 done, 1 a script failed or tables differ, 2 usage, 130 interrupted.
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench_report import (
    Row,
    keep,
    print_agreement,
    print_table,
    write_page,
    write_tables,
)

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".venv-bench"
UV = Path(sys.executable).with_name("uv")
TIMEOUT = 3600  # seconds for one script


def main() -> int:
    """Run the measurements or write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", help="a folder of packages/, or 'tools'")
    parser.add_argument("--full", action="store_true", help="more rounds, larger sizes")
    parser.add_argument("--slow", action="store_true", help="also what takes minutes")
    parser.add_argument("--write", action="store_true", help="keep the figures")
    parser.add_argument("--tables", action="store_true", help="write README tables")
    parser.add_argument("--check", action="store_true", help="with --tables: compare")
    args = parser.parse_args()
    if args.tables:
        return write_tables(check=args.check)
    chosen = [folder for folder in folders() if args.package in {None, folder.name}]
    if not chosen:
        names = ", ".join(folder.name for folder in folders())
        print(f"bench: no package {args.package!r}; there are {names}", file=sys.stderr)
        return 2
    if args.slow:
        os.environ["BENCH_SLOW"] = "1"  # the scripts look
    failed, total = False, 0.0
    for folder in chosen:
        growth = args.full or args.write or bool(args.package)
        result = measure(folder, full=args.full, growth=growth)
        failed = failed or bool(result["failed"])
        print_table(folder.name, result)
        print_agreement(folder.name, result)
        total += sum(script["wall"] for script in result["scripts"])
        if args.write:
            keep(folder.name, result)
    print(f"bench: {total:.0f} s of measuring", flush=True)
    if args.write:
        write_page()
        write_tables(check=False)
    return 1 if failed else 0


def folders() -> list[Path]:
    """Return the folders that have benchmarks."""
    found = sorted(p for p in (ROOT / "packages").iterdir() if p.is_dir())
    found.append(ROOT / "tools")
    return [folder for folder in found if list(folder.glob("benchmarks/bench_*.py"))]


def measure(folder: Path, *, full: bool, growth: bool) -> dict[str, Any]:
    """Run all scripts of one folder; return their rows and what failed."""
    print(f"bench: {folder.name}: making the environment", flush=True)
    python, missing = environment(folder)
    rows: list[Row] = []
    failed: list[str] = []
    versions: dict[str, str] = {}
    scripts: list[dict[str, Any]] = []
    left_out: list[list[str]] = []
    others = {}
    for path in sorted(folder.glob("benchmarks/requirements-*.txt")):
        own, installed = own_environment(path)
        name = path.stem.partition("-")[2]
        others[f"BENCH_{name.upper()}"] = str(own)
        missing += [] if installed else [name]
    for words in commands(folder, growth=growth):
        name = words[-1].name
        print(f"bench: {folder.name}: {name}", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "rows.json"
            command: list[Any] = [python, "-P", *words, "--json", out]
            command += [] if full else ["--short"]
            code, used = run_script(command, Path(scratch), others)
            scripts.append({"name": name, **used})
            if code or not out.exists():
                failed.append(f"{name}: exit code {code}")
                continue
            found = json.loads(out.read_text(encoding="utf-8"))
            rows += found["rows"]
            versions |= found.get("versions", {})
            left_out += found.get("left_out", [])
    if folder.parent.name == "packages":
        rows += import_rows(folder, python)
    return {
        "v": 1,
        "name": folder.name,
        "rows": rows,
        "left_out": left_out,
        "scripts": scripts,
        "failed": failed,
        "not_installed": missing,
        "versions": versions,
        "mode": "full" if full else "short",
        "machine": {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        },
    }


def commands(folder: Path, *, growth: bool) -> Iterator[list[Path]]:
    """Yield what to run for a folder: its scripts, and perhaps that of growth."""
    for script in sorted(folder.glob("benchmarks/bench_*.py")):
        yield [script]
    cases = folder / "benchmarks" / "growth.py"
    if growth and cases.exists():
        yield [Path(__file__).with_name("bench_growth.py"), cases]


def run_script(
    command: list[Any], scratch: Path, others: dict[str, str] | None = None
) -> tuple[int, dict[str, float]]:
    """Run one script in an empty folder; return its exit code and what it used.

    Args:
        command: the script.
        scratch: the folder.
        others: the Pythons of peers that have environments of their own.
    """
    environment = os.environ | {"PYTHONSAFEPATH": "1"} | (others or {})
    began = time.monotonic()
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=scratch, env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    late = threading.Timer(TIMEOUT, process.kill)
    late.start()
    try:
        _, status, used = os.wait4(process.pid, 0)  # with what it and its children used
    except BaseException:
        process.kill()
        process.wait()
        raise
    finally:
        late.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    return process.returncode, {
        "wall": time.monotonic() - began,
        "cpu": used.ru_utime + used.ru_stime,
        "mb": used.ru_maxrss / 1024,
    }


def environment(folder: Path) -> tuple[Path, list[str]]:
    """Make a folder's environment; return its Python and the peers it lacks."""
    place = ENVIRONMENTS / folder.name
    python = place / "bin" / "python"
    if folder == ROOT / "tools":
        command: list[str | Path] = [
            sys.executable,
            "-P",
            ROOT / "tools" / "bootstrap.py",
            "release",
        ]
        subprocess.run([*command, "--venv", place], check=True)
    elif not python.exists():
        uv("venv", "-q", "-p", sys.executable, place)
    requirements = folder / "benchmarks" / "requirements.txt"
    wanted = []
    if requirements.exists():
        lines = requirements.read_text(encoding="utf-8").splitlines()
        wanted = [line.split("#")[0].strip() for line in lines]
    # One by one: a peer that does not install costs only itself.
    missing = [
        line
        for line in filter(None, wanted)
        if not uv("pip", "install", "-q", "-p", python, line)
    ]
    if folder.parent.name == "packages":
        install_package(folder, python)
    # As pip does and uv does not: nobody's start is measured with compiling in it.
    [packages] = place.glob("lib/python3*/site-packages")
    subprocess.run([python, "-m", "compileall", "-q", "-j0", packages], check=False)
    return python, missing


def own_environment(requirements: Path) -> tuple[Path, bool]:
    """Make the environment of a peer that shares none.

    Its scripts find it as BENCH_NAME for `requirements-name.txt`.

    Returns:
        its Python, and whether the peer installed.
    """
    folder = requirements.parent.parent.name
    place = ENVIRONMENTS / f"{folder}-{requirements.stem.partition('-')[2]}"
    python = place / "bin" / "python"
    if not python.exists():
        uv("venv", "-q", "-p", sys.executable, place)
    return python, uv("pip", "install", "-q", "-p", python, "-r", requirements)


def install_package(folder: Path, python: Path) -> None:
    """Build the package's wheel and install it with all extras that resolve."""
    builder = ROOT / "tools" / "maestro_release" / "_build.py"
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(
            [sys.executable, str(builder), out, "wheel", str(folder)],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        [wheel] = Path(out).glob("*.whl")
        if not uv("pip", "install", "-q", "-p", python, "--reinstall-package",
                  f"maestro-{folder.name}", wheel):  # fmt: skip
            raise SystemExit(f"bench: {wheel.name} does not install")


def uv(*command: object) -> bool:
    """Run uv; tell whether it succeeded."""
    program = str(UV) if UV.exists() else shutil.which("uv") or "uv"
    done = subprocess.run(
        [program, *map(str, command)], check=False, capture_output=True
    )
    return done.returncode == 0


def import_rows(folder: Path, python: Path) -> Iterator[Row]:
    """Yield the cost of importing the package, and its size on disk."""
    module = f"maestro_{folder.name.replace('-', '_')}"
    statements = {
        "nothing": "pass",
        "asyncio": "import asyncio",
        "ours": f"import {module}",
    }
    ours, peers = [], []
    for _ in range(25):
        spent = {
            name: cpu_seconds([python, "-I", "-c", statement])
            for name, statement in statements.items()
        }
        # What is less than a millisecond cannot be told from the noise of a start.
        ours.append(max(spent["ours"] - spent["nothing"], 1e-3) * 1000)
        peers.append(max(spent["asyncio"] - spent["nothing"], 1e-3) * 1000)
    # Not the ratio of the medians: the machine's speed changes between rounds.
    ratios = sorted(a / b for a, b in zip(ours, peers, strict=True))
    ratio = statistics.median(ratios)
    yield {
        "work": "import, CPU over a bare start", "unit": "ms", "peer": "import asyncio",
        "peer_value": statistics.median(peers), "ours": statistics.median(ours),
        "ratio": ratio, "spread": ratios[-1] - ratios[0], "target": 1.5,
        "met": ratio <= 1.5, "direction": "lower",
    }  # fmt: skip
    place = python.parent.parent.glob(f"lib/python3*/site-packages/{module}")
    size = sum(f.stat().st_size for p in place for f in p.rglob("*.py"))
    yield {
        "work": "installed size, sources", "unit": "kB", "peer": "", "peer_value": None,
        "ours": size / 1000, "ratio": None, "spread": None, "target": None,
        "met": None, "direction": "lower",
    }  # fmt: skip


def cpu_seconds(command: list[Any]) -> float:
    """Return the CPU time of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([str(part) for part in command], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
