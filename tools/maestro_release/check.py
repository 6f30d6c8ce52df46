"""The gates that files pass before they may be uploaded.

`twine check --strict` reads the metadata and renders the README,
check-wheel-contents looks for files that do not belong into a wheel, and
`Requires-Dist` may not point at a folder or an address.
"""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from email.parser import HeaderParser
from importlib.metadata import version
from pathlib import Path
from typing import Self

from packaging.requirements import InvalidRequirement, Requirement

from maestro_release.build import Artefact, last_line
from maestro_release.errors import GateFailed
from maestro_release.workspace import Package

CHILD = Path(__file__).with_name("_gates.py")
GATES = ("twine", "check-wheel-contents")


class Gates:
    """The two programs, in one child process that may be started early.

    Importing them takes longer than checking: started beside the build, they
    are ready when the files are.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End a child that was not needed."""
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def start(self) -> None:
        """Start the child; it waits for files."""
        if self._child is None:
            self._child = subprocess.Popen(
                [sys.executable, "-P", str(CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                # Their lines must not be folded or coloured.
                env=os.environ | {"NO_COLOR": "1", "COLUMNS": "1000"},
            )

    def complaints(self, artefacts: Sequence[Artefact]) -> list[str]:
        """Pass files through both programs; return what they complain about.

        Raises:
            GateFailed: the child broke.
        """
        self.start()
        assert self._child is not None
        child, self._child = self._child, None
        wanted = {
            "files": [str(a.path) for a in artefacts],
            "wheels": [str(a.path) for a in artefacts if a.kind == "wheel"],
        }
        answer, trouble = child.communicate(json.dumps(wanted))
        try:
            results = json.loads(answer)
        except ValueError:
            raise GateFailed(
                f"the gates ended with code {child.returncode}: {last_line(trouble)}"
            ) from None
        found = []
        for gate, (passed, said) in results.items():
            if not passed:
                found.append(f"  {gate}:")
                found += [f"    {line}" for line in said.splitlines() if telling(line)]
        return found


def likely(packages: Sequence[Package], passed: Path) -> bool:
    """Tell whether sources are newer than the last note of what passed.

    Only a guess, to start the gates early: the hashes decide.
    """
    try:
        noted = passed.stat().st_mtime
    except OSError:
        return True
    return any(
        file.stat().st_mtime > noted
        for package in packages
        for file in (*package.folder.glob("*.*"), *package.folder.glob("*/*.py"))
    )


def check(
    artefacts: Sequence[Artefact],
    passed: Path | None = None,
    gates: Gates | None = None,
) -> int:
    """Pass the files through all gates; return how many had to be looked at.

    Args:
        artefacts: what was built.
        passed: a file that remembers the hashes that passed these versions of
            the gates, so that the same bytes are not checked twice.
        gates: the programs, when they were started before.

    Raises:
        GateFailed: names each file and what is wrong with it.
    """
    known = read_passed(passed)
    fresh = [a for a in artefacts if a.sha256 not in known]
    if not fresh:
        return 0
    complaints = [c for a in fresh if a.kind == "wheel" for c in requirement_faults(a)]
    with gates or Gates() as programs:
        complaints += programs.complaints(fresh)
    if complaints:
        raise GateFailed("the files do not pass:\n" + "\n".join(complaints))
    if passed is not None:
        write_passed(passed, known | {a.sha256 for a in fresh})
    return len(fresh)


def telling(line: str) -> bool:
    """Tell whether a line of a gate's output is about a fault."""
    return bool(line.strip()) and not line.rstrip().endswith(("PASSED", ": OK"))


def requirement_faults(artefact: Artefact) -> list[str]:
    """Return a line for each requirement that only works on this machine."""
    faults = []
    for text in requirements(artefact.path):
        try:
            direct = Requirement(text).url
        except InvalidRequirement as error:
            faults.append(f"  {artefact.path.name}: Requires-Dist {text!r}: {error}")
            continue
        if direct:
            faults.append(
                f"  {artefact.path.name}: Requires-Dist {text!r} points at an address; "
                "name a version range instead"
            )
    return faults


def requirements(wheel: Path) -> list[str]:
    """Return the Requires-Dist lines of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    return [str(value) for value in metadata.get_all("Requires-Dist", [])]


def versions() -> str:
    """Return the versions of the gates: a new one looks at every file again."""
    return " ".join(f"{gate}=={version(gate)}" for gate in GATES)


def read_passed(file: Path | None) -> frozenset[str]:
    """Return the hashes that passed before."""
    if file is None:
        return frozenset()
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
        return (
            frozenset(noted["sha256"]) if noted["gates"] == versions() else frozenset()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def write_passed(file: Path, hashes: frozenset[str]) -> None:
    """Note the hashes that passed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    noted = {"gates": versions(), "sha256": sorted(hashes)}
    partial.write_text(json.dumps(noted, indent=1), encoding="utf-8")
    partial.replace(file)
