"""The gates that files pass before they may be uploaded.

`twine check --strict` reads the metadata and renders the README,
check-wheel-contents looks for files that do not belong into a wheel, and
`Requires-Dist` may not point at a folder or an address.
"""

import json
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from email.parser import HeaderParser
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from maestro_release.build import Artefact
from maestro_release.errors import GateFailed

BIN = Path(sys.executable).parent
GATES = ("twine", "check-wheel-contents")


def check(artefacts: Sequence[Artefact], passed: Path | None = None) -> int:
    """Pass the files through all gates; return how many had to be looked at.

    Args:
        artefacts: what was built.
        passed: a file that remembers the hashes that passed these versions of
            the gates, so that the same bytes are not checked twice.

    Raises:
        GateFailed: names each file and what is wrong with it.
    """
    known = read_passed(passed)
    fresh = [a for a in artefacts if a.sha256 not in known]
    if not fresh:
        return 0
    complaints = [c for a in fresh if a.kind == "wheel" for c in requirement_faults(a)]
    complaints += run_gates(fresh)
    if complaints:
        raise GateFailed("the files do not pass:\n" + "\n".join(complaints))
    if passed is not None:
        write_passed(passed, known | {a.sha256 for a in fresh})
    return len(fresh)


def run_gates(artefacts: Sequence[Artefact]) -> list[str]:
    """Run the two programs side by side; return what they complain about."""
    wheels = [str(a.path) for a in artefacts if a.kind == "wheel"]
    commands = [["twine", "check", "--strict", *(str(a.path) for a in artefacts)]]
    if wheels:
        commands.append(["check-wheel-contents", "--no-config", *wheels])
    running = [
        subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        for command in commands
    ]
    complaints = []
    for command, process in zip(commands, running, strict=True):
        output, _ = process.communicate()
        if process.returncode:
            complaints.append(f"  {command[0]}:")
            complaints += [
                f"    {line}" for line in output.splitlines() if telling(line)
            ]
    return complaints


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


def gates() -> str:
    """Return the versions of the gates: a new one looks at every file again."""
    return " ".join(f"{gate}=={version(gate)}" for gate in GATES)


def read_passed(file: Path | None) -> frozenset[str]:
    """Return the hashes that passed before."""
    if file is None:
        return frozenset()
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
        return frozenset(noted["sha256"]) if noted["gates"] == gates() else frozenset()
    except (OSError, ValueError, KeyError, TypeError):
        return frozenset()


def write_passed(file: Path, hashes: frozenset[str]) -> None:
    """Note the hashes that passed."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    noted = {"gates": gates(), "sha256": sorted(hashes)}
    partial.write_text(json.dumps(noted, indent=1), encoding="utf-8")
    partial.replace(file)
