"""Build wheels and sdists of many packages in one child process.

The child is `_build.py`: it calls poetry-core's PEP 517 hooks one after the
other, which takes a fraction of the time of one process per file. What
poetry-core writes is the same byte for byte each time, so a hash is enough to
tell whether a package changed.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maestro_release.errors import BuildFailed
from maestro_release.workspace import Package

BUILDER = Path(__file__).with_name("_build.py")
KINDS = ("wheel", "sdist")


@dataclass(frozen=True, slots=True, kw_only=True)
class Artefact:
    """One file that was built."""

    package: Package
    kind: str  # wheel or sdist
    path: Path
    sha256: str
    size: int  # bytes


def build(
    packages: Sequence[Package], out: Path, *, kinds: Iterable[str] = KINDS
) -> tuple[Artefact, ...]:
    """Build the packages into `out`, wheel before sdist, in the order given.

    A file appears in `out` complete or not at all.

    Raises:
        BuildFailed: a package does not build; the others are not looked at.
    """
    out.mkdir(parents=True, exist_ok=True)
    kinds = tuple(kinds)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=out) as folder:
        command = [
            *(sys.executable, "-P", str(BUILDER), folder, ",".join(kinds)),
            *(str(package.folder) for package in packages),
        ]
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            encoding="utf-8",
            env=build_environment(),
        )
        built = [json.loads(line) for line in done.stdout.splitlines()]
        for line in built:
            if "error" in line:
                name = Path(line["folder"]).name
                raise BuildFailed(
                    f"{name} does not build ({line['kind']}): {line['error']}"
                )
        if done.returncode or len(built) != len(packages) * len(kinds):
            raise BuildFailed(
                f"the build process ended with code {done.returncode} after "
                f"{len(built)} files: {last_line(done.stderr)}"
            )
        by_folder = {str(package.folder.absolute()): package for package in packages}
        return tuple(
            take(Path(line["file"]), out, by_folder[line["folder"]], line["kind"])
            for line in built
        )


def build_environment() -> dict[str, str]:
    """Return the environment without what would change the bytes."""
    unwanted = {"SOURCE_DATE_EPOCH", "PYTHONPATH"}
    return {k: v for k, v in os.environ.items() if k not in unwanted}


def take(built: Path, out: Path, package: Package, kind: str) -> Artefact:
    """Move a finished file to its place and note its hash."""
    content = built.read_bytes()
    path = out / built.name
    built.replace(path)
    return Artefact(
        package=package,
        kind=kind,
        path=path,
        sha256=hashlib.sha256(content).hexdigest(),
        size=len(content),
    )


def rebuilt_differently(artefacts: Sequence[Artefact]) -> list[str]:
    """Build copies of the packages elsewhere; return the files that differ."""
    skipped = shutil.ignore_patterns("__pycache__", ".*_cache", ".hypothesis")
    with tempfile.TemporaryDirectory(prefix="maestro-again-") as place:
        copies = []
        for package in dict.fromkeys(a.package for a in artefacts):
            folder = Path(place, package.short)
            shutil.copytree(
                package.folder, folder, ignore=skipped, copy_function=shutil.copyfile
            )
            copies.append(
                Package(name=package.name, version=package.version, folder=folder)
            )
        before = os.umask(0o077)
        try:
            again = build(copies, Path(place, "dist"))
        finally:
            os.umask(before)
    hashes = {a.path.name: a.sha256 for a in again}
    return [a.path.name for a in artefacts if hashes.get(a.path.name) != a.sha256]


def last_line(text: str) -> str:
    """Return the last line that says something."""
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
