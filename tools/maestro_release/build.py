"""Build wheels and sdists of many packages in a child process for each core.

A child is `_build.py`: it calls poetry-core's PEP 517 hooks one after the
other, which takes a fraction of the time of one process per file. What
poetry-core writes is the same byte for byte each time, so a hash is enough to
tell whether a package changed.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

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


class Build:
    """A build that is under way, until its `with` block ends.

    The packages are shared out among a child for each core; they run as soon as
    this is made. Nothing stands in `out` before `finish`.
    """

    def __init__(self, packages: Sequence[Package], out: Path) -> None:
        self._packages = {str(p.folder.absolute()): p for p in packages}
        self._out = out
        out.mkdir(parents=True, exist_ok=True)
        self._place, self._held = workplace(out)
        self._children: list[subprocess.Popen[bytes]] = []
        folder = Path(self._place.name)
        count = min(len(self._packages), os.cpu_count() or 1)
        self._answers = [folder / f"{n}.out" for n in range(count)]
        self._troubles = [folder / f"{n}.err" for n in range(count)]
        try:
            for n in range(count):
                self._begin(n, list(self._packages)[n::count])
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End what still runs and remove what was not taken."""
        self.close()

    def _begin(self, n: int, folders: Sequence[str]) -> None:
        command = [*(sys.executable, "-P", str(BUILDER)), self._place.name]
        with self._answers[n].open("wb") as out, self._troubles[n].open("wb") as err:
            child = subprocess.Popen(
                [*command, ",".join(KINDS), *folders],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=build_environment(),
            )
        self._children.append(child)

    def finish(self) -> tuple[Artefact, ...]:
        """Wait, and move the files to `out`: wheel before sdist, packages as given.

        A file appears in `out` complete or not at all.

        Raises:
            BuildFailed: a package does not build; nothing was moved.
        """
        codes = [child.wait() for child in self._children]
        said = [path.read_text(encoding="utf-8") for path in self._answers]
        lines = [json.loads(line) for line in "".join(said).splitlines()]
        built = {(line["folder"], line["kind"]): line for line in lines}
        wanted = [(folder, kind) for folder in self._packages for kind in KINDS]
        for line in filter(None, map(built.get, wanted)):
            if "error" in line:
                name = Path(line["folder"]).name
                raise BuildFailed(
                    f"{name} does not build ({line['kind']}): {line['error']}"
                )
        if any(codes) or len(built) != len(wanted):
            trouble = "".join(p.read_text(encoding="utf-8") for p in self._troubles)
            code = next(filter(None, codes), 0)
            raise BuildFailed(
                f"the build process ended with code {code} after "
                f"{len(built)} files: {last_line(trouble)}"
            )
        return tuple(
            take(Path(built[key]["file"]), self._out, self._packages[key[0]], key[1])
            for key in wanted
        )

    def close(self) -> None:
        """End what still runs and remove what was not taken."""
        for child in self._children:  # none may write while its folder goes
            child.kill()
            child.wait()
        self._place.cleanup()
        self._held.close()


def workplace(out: Path) -> tuple["tempfile.TemporaryDirectory[str]", ExitStack]:
    """Make a folder to build in, and remove those of builds that were killed.

    A folder is locked for as long as its process lives; `out` is locked meanwhile, so
    that nobody removes one that has no lock yet.

    Returns:
        the folder, and what holds its lock.
    """
    with ExitStack() as held:
        lock(out, held)
        for left in out.glob(".building-*"):
            with suppress(OSError), ExitStack() as taken:
                lock(left, taken, fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)  # its children may go on
        place = tempfile.TemporaryDirectory(prefix=".building-", dir=out)
        mine = ExitStack()
        lock(Path(place.name), mine)
    return place, mine


def lock(folder: Path, held: ExitStack, flags: int = 0) -> None:
    """Lock a folder until the stack ends."""
    descriptor = os.open(folder, os.O_RDONLY)  # which no child inherits
    held.callback(os.close, descriptor)
    fcntl.flock(descriptor, fcntl.LOCK_EX | flags)


def build(packages: Sequence[Package], out: Path) -> tuple[Artefact, ...]:
    """Build the packages into `out`.

    Raises:
        BuildFailed: a package does not build.
    """
    with Build(packages, out) as running:
        return running.finish()


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
