"""Test every package from its wheel in environments that users may have.

python tools/matrix.py [--package NAME] [--full] [--jobs N] [--json FILE] [--list]

One cell is a package with one of its extras, none, or all, on one Python, with
the latest dependencies or with the lowest that its pyproject.toml allows. By
default: all extras on every Python found; on the oldest Python each extra alone
and none; and there the lowest dependencies, with none and with all. --full
crosses everything. Each cell is a new environment made by uv; a test that needs
an extra which the cell leaves out is skipped.

Exit codes: 0 every cell passed, 1 a cell failed, 2 usage, 130 interrupted.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).with_name("uv")
PYTHONS = ("3.11", "3.12", "3.13")
LIMIT = 900  # seconds for the tests of one cell
# What the tests themselves need, unless the cell leaves it out.
TOOLS = (
    *("pytest", "pytest-timeout", "hypothesis", "sybil", "mypy", "httpx", "jsonschema"),
    *("junitparser", "robotframework", "behave", "py-consul"),
)
# What tests of an extra need beside what the extra itself installs.
COMPANIONS = {"opentelemetry-api": "opentelemetry-sdk"}
SUMMARY = re.compile(r"(\d+) (passed|failed|skipped|errors?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One environment."""

    package: str  # the folder's name
    python: str  # 3.11
    extra: str  # a name, all, or - for none
    lowest: bool

    def __str__(self) -> str:
        """Return the cell as one line."""
        what = "lowest" if self.lowest else "latest"
        return f"{self.package:24} {self.python:5} {self.extra:12} {what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came out of a cell."""

    cell: Cell
    ok: bool
    summary: str
    seconds: float
    output: str = ""


def main() -> int:
    """Run the cells side by side and print one line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", metavar="NAME")
    parser.add_argument("--full", action="store_true", help="cross everything")
    parser.add_argument("--jobs", type=int, default=2, metavar="N")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--list", action="store_true", help="only list the cells")
    args = parser.parse_args()
    folders = sorted(p.parent for p in (ROOT / "packages").glob("*/pyproject.toml"))
    names = [folder.name for folder in folders]
    if args.package and args.package not in names:
        print(f"matrix: no package {args.package!r}; there are {', '.join(names)}")
        return 2
    if not UV.exists():
        print("matrix: uv is not in this environment, run `make setup`")
        return 2
    pythons = [version for version in PYTHONS if interpreter(version)]
    cells = [
        cell
        for folder in folders
        if args.package in {None, folder.name}
        for cell in cells_of(folder, pythons, full=args.full)
    ]
    if args.list:
        print("\n".join(str(cell) for cell in cells))
        return 0
    missing = [version for version in PYTHONS if version not in pythons]
    if missing:
        print(f"matrix: not on this machine: Python {', '.join(missing)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="maestro-matrix-") as place:
        results = run_all(cells, folders, Path(place), args.jobs)
    if args.json:
        args.json.write_text(json.dumps(as_json(results), indent=1), encoding="utf-8")
    failed = [result for result in results if not result.ok]
    print(f"matrix: {len(results) - len(failed)} of {len(results)} cells passed")
    return 1 if failed else 0


@cache
def interpreter(version: str) -> str | None:
    """Return the path of an interpreter that works, None when there is none."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    candidates = [
        shutil.which(f"python{version}"),
        *sorted(map(str, versions.glob(f"{version}.*/bin/python{version}"))),
    ]
    for candidate in candidates:
        if candidate is None:
            continue
        # A shim of pyenv is found, but fails when its version is not chosen.
        check = [candidate, "-c", "import sys; print(sys.executable)"]
        done = subprocess.run(check, check=False, capture_output=True, encoding="utf-8")
        if done.returncode == 0:
            return done.stdout.strip()
    return None


def extras_of(folder: Path) -> dict[str, list[str]]:
    """Return the extras of a package."""
    text = (folder / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    return dict(project.get("optional-dependencies", {}))


def cells_of(folder: Path, pythons: Sequence[str], *, full: bool) -> Iterator[Cell]:
    """Yield the cells of one package."""
    extras = sorted(extras_of(folder).keys() - {"all"})
    choices = ["-", *extras, *(["all"] if extras else [])]
    widest = choices[-1]
    for python in pythons:
        oldest = python == pythons[0]
        for extra in choices:
            for lowest in (False, True):
                wanted = extra == widest and not lowest
                wanted |= oldest and (not lowest or extra in {"-", widest})
                if full or wanted:
                    yield Cell(
                        package=folder.name, python=python, extra=extra, lowest=lowest
                    )


def run_all(
    cells: Sequence[Cell], folders: Sequence[Path], place: Path, jobs: int
) -> list[Result]:
    """Build the wheels once, then run every cell."""
    wheels = place / "wheels"
    builder = ROOT / "tools" / "maestro_release" / "_build.py"
    subprocess.run(
        [sys.executable, builder, wheels, "wheel", *folders],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    results = []
    with ThreadPoolExecutor(jobs) as pool:
        for result in pool.map(lambda cell: run_cell(cell, place, wheels), cells):
            verdict = "ok" if result.ok else "FAILED"
            line = f"{result.cell} {verdict:7} {result.summary}, {result.seconds:.0f} s"
            print(line, flush=True)
            if not result.ok:
                print("\n".join(f"    {x}" for x in result.output.splitlines()[-40:]))
            results.append(result)
    return results


def run_cell(cell: Cell, place: Path, wheels: Path) -> Result:
    """Make the environment of a cell and run the package's tests in it."""
    started = time.monotonic()
    label = f"{cell.package}-{cell.python}-{cell.extra}-{cell.lowest}"
    venv = place / label
    try:
        install(cell, venv, wheels)
        output, code = run_tests(cell, venv)
    except subprocess.CalledProcessError as error:
        output, code = str(error.stdout), -1
    finally:
        shutil.rmtree(venv, ignore_errors=True)
    counts = ", ".join(" ".join(found) for found in SUMMARY.findall(output[-400:]))
    return Result(
        cell=cell,
        ok=code == 0,
        summary=counts or ("not installed" if code == -1 else f"exit code {code}"),
        seconds=time.monotonic() - started,
        output=output,
    )


def install(cell: Cell, venv: Path, wheels: Path) -> None:
    """Install the wheel with its extra, then the test tools around it."""
    uv("venv", "--quiet", "--python", str(interpreter(cell.python)), str(venv))
    python = ("--python", str(venv / "bin" / "python"))
    [wheel] = wheels.glob(f"maestro_{cell.package.replace('-', '_')}-*.whl")
    extra = "" if cell.extra == "-" else f"[{cell.extra}]"
    found = ("--find-links", str(wheels), "--no-build")
    lowest = ("--resolution", "lowest-direct") if cell.lowest else ()
    name = f"maestro-{cell.package}{extra} @ {wheel.as_uri()}"
    uv("pip", "install", *python, *found, *lowest, name)
    # The tools must not move what the cell is about.
    frozen = venv / "frozen.txt"
    listed = uv("pip", "freeze", *python).splitlines()
    kept = [line for line in listed if "==" in line and not line.startswith("maestro-")]
    frozen.write_text("\n".join(kept) + "\n", encoding="utf-8")
    absent = distributions_left_out(cell)
    tools = [tool for tool in TOOLS if tool not in absent]
    names = {normalise(line.partition("==")[0]) for line in kept}
    tools += [COMPANIONS[name] for name in sorted(names & COMPANIONS.keys())]
    uv("pip", "install", *python, "--constraint", str(frozen), *tools)


def uv(*arguments: str) -> str:
    """Run uv; return its output.

    Raises:
        CalledProcessError: with what uv said.
    """
    done = subprocess.run(
        [str(UV), *arguments],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    if done.returncode:
        said = f"uv {' '.join(arguments)}\n{done.stdout}"
        raise subprocess.CalledProcessError(done.returncode, "uv", said)
    return done.stdout


def run_tests(cell: Cell, venv: Path) -> tuple[str, int]:
    """Run pytest in the environment; return its output and exit code."""
    environment = {
        **os.environ,
        "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
        "VIRTUAL_ENV": str(venv),
        "PYTHONSAFEPATH": "1",
        "PYTHONWARNDEFAULTENCODING": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "MAESTRO_LEFT_OUT": ",".join(sorted(left_out(cell))),
    }
    command = [str(venv / "bin" / "python"), "-P", "-m", "pytest", "-q", "--tb=short"]
    command += ["-p", "pytest_extras", "-p", "no:cacheprovider"]
    if cell.lowest:  # old libraries may warn on a newer Python
        command += ["-W", "default::DeprecationWarning"]
    command.append(str(ROOT / "packages" / cell.package))
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=LIMIT,
        )
    except subprocess.TimeoutExpired as error:
        said = error.stdout or ""
        text = said if isinstance(said, str) else said.decode("utf-8", "replace")
        return f"{text}\nthe tests did not end within {LIMIT} s", 1
    return done.stdout, done.returncode


def distributions_left_out(cell: Cell) -> set[str]:
    """Return the distributions of the extras that this cell does not install."""
    extras = extras_of(ROOT / "packages" / cell.package)
    mine = {distribution(text) for text in extras.get(cell.extra, ())}
    return {distribution(text) for texts in extras.values() for text in texts} - mine


def left_out(cell: Cell) -> set[str]:
    """Return the modules of the extras that this cell does not install.

    The environment that runs this has every extra, so it knows which modules a
    distribution brings.
    """
    missing = distributions_left_out(cell)
    return {
        module
        for module, providers in packages_distributions().items()
        if {normalise(provider) for provider in providers} & missing
    }


def distribution(requirement: str) -> str:
    """Return the name in a requirement."""
    return normalise(re.split(r"[\[<>=!~;@ ]", requirement, maxsplit=1)[0])


def normalise(name: str) -> str:
    """Return a project name as indexes compare them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def as_json(results: Sequence[Result]) -> list[dict[str, object]]:
    """Return the results for machines."""
    return [
        {
            "package": result.cell.package,
            "python": result.cell.python,
            "extra": None if result.cell.extra == "-" else result.cell.extra,
            "dependencies": "lowest" if result.cell.lowest else "latest",
            "ok": result.ok,
            "summary": result.summary,
            "seconds": round(result.seconds, 1),
        }
        for result in results
    ]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
