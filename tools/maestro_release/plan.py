"""What a release would do, as a value: printed, written as JSON, executed.

The index is the truth. A file is new when the index has none of its name, the
same when both hashes are equal, and a conflict otherwise: nothing here guesses
from dates, tags or git.
"""

import io
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from maestro_release.build import Artefact
from maestro_release.errors import Conflict, Difference
from maestro_release.graph import dependants
from maestro_release.server import Server
from maestro_release.workspace import Package


class State(StrEnum):
    """How a built file relates to the index."""

    NEW = "new"
    SAME = "same"
    EQUIVALENT = "equivalent"  # other bytes, but only the build tool's name differs
    CONFLICT = "conflict"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFile:
    """One file and what publishing would do with it."""

    package: str
    version: str
    filename: str
    kind: str  # wheel or sdist
    size: int  # bytes
    sha256: str  # of the file just built
    state: State
    published: str | None = None  # sha256 on the index

    @property
    def expected(self) -> str:
        """The hash that an installer must find."""
        return self.published if self.state is State.EQUIVALENT else self.sha256  # type: ignore[return-value]  # set whenever EQUIVALENT


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPackage:
    """One row of the table."""

    name: str
    version: str
    latest: str | None  # newest version on the index
    why: str
    needed_by: tuple[str, ...]
    on_index: str  # what the index has of this version
    proposed: str | None = None  # the version that `bump` would write


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Everything a release would do, in the order it would do it."""

    server: Server
    packages: tuple[PlannedPackage, ...]
    files: tuple[PlannedFile, ...]

    @property
    def uploads(self) -> tuple[PlannedFile, ...]:
        """The files that the index lacks."""
        return tuple(f for f in self.files if f.state is State.NEW)

    def refuse_conflicts(self) -> None:
        """Stop before anything is uploaded when a published file differs.

        Raises:
            Conflict: names each file and both hashes.
        """
        differences = tuple(
            Difference(
                filename=f.filename, built=f.sha256, published=f.published or "?"
            )
            for f in self.files
            if f.state is State.CONFLICT
        )
        if differences:
            raise Conflict(differences)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON holds it."""
        return {
            "index": {
                "kind": self.server.kind,
                "url": self.server.url,
                "version": self.server.version,
            },
            "packages": [
                {
                    "name": p.name,
                    "version": p.version,
                    "latest": p.latest,
                    "why": p.why,
                    "needed_by": list(p.needed_by),
                    "on_index": p.on_index,
                    "proposed": p.proposed,
                }
                for p in self.packages
            ],
            "files": [
                {
                    "package": f.package,
                    "version": f.version,
                    "filename": f.filename,
                    "kind": f.kind,
                    "size": f.size,
                    "sha256": f.sha256,
                    "state": f.state.value,
                    "published": f.published,
                }
                for f in self.files
            ],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Plan":
        """Return the plan that `to_dict` wrote."""
        return cls(
            server=Server(**value["index"]),
            packages=tuple(
                PlannedPackage(**{**p, "needed_by": tuple(p["needed_by"])})
                for p in value["packages"]
            ),
            files=tuple(
                PlannedFile(**{**f, "state": State(f["state"])}) for f in value["files"]
            ),
        )


def make_plan(
    server: Server,
    packages: Sequence[Package],
    artefacts: Sequence[Artefact],
    published: Mapping[str, Mapping[str, str]],
    everything: Sequence[Package] = (),
) -> Plan:
    """Compare what was built with what is published.

    Args:
        server: which index was asked.
        packages: what may be released, each after those it needs.
        artefacts: their files.
        published: by package name and file name, the sha256 on the index.
        everything: all packages of the checkout, for the column "needed by".
    """
    files = tuple(planned(a, published.get(a.package.name, {})) for a in artefacts)
    rows = []
    for package in packages:
        mine = [f for f in files if f.package == package.name]
        rows.append(
            PlannedPackage(
                name=package.name,
                version=package.version,
                latest=latest(published.get(package.name, {})),
                why=why(mine, published.get(package.name, {})),
                needed_by=dependants(everything or packages, package.name),
                on_index=on_index(mine),
            )
        )
    return Plan(server=server, packages=tuple(rows), files=files)


def planned(artefact: Artefact, published: Mapping[str, str]) -> PlannedFile:
    """Compare one file."""
    there = published.get(artefact.path.name)
    state = State.NEW if there is None else State.CONFLICT
    if there == artefact.sha256:
        state = State.SAME
    return PlannedFile(
        package=artefact.package.name,
        version=artefact.package.version,
        filename=artefact.path.name,
        kind=artefact.kind,
        size=artefact.size,
        sha256=artefact.sha256,
        state=state,
        published=there,
    )


def latest(filenames: Mapping[str, str]) -> str | None:
    """Return the newest version among file names, None when there is none."""
    versions = [v for v in map(version_of, filenames) if v is not None]
    return str(max(versions)) if versions else None


def version_of(filename: str) -> Version | None:
    """Return the version in a file name, None when it is no distribution."""
    try:
        if filename.endswith(".whl"):
            return parse_wheel_filename(filename)[1]
        return parse_sdist_filename(filename)[1]
    except (InvalidWheelFilename, InvalidSdistFilename):
        return None


def why(mine: Sequence[PlannedFile], published: Mapping[str, str]) -> str:
    """Say in a few words why a package is released or not."""
    states = {f.state for f in mine}
    if State.CONFLICT in states:
        return "changed without a new version"
    if State.NEW not in states:
        return "unchanged"
    if states == {State.NEW}:
        return "new version" if published else "never published"
    missing = ", ".join(f.kind for f in mine if f.state is State.NEW)
    return f"half published, {missing} missing"


def on_index(mine: Sequence[PlannedFile]) -> str:
    """Say what the index has of the version that was built."""
    counts = {s: sum(f.state is s for f in mine) for s in State}
    parts = [f"{n} {s.value}" for s, n in counts.items() if n and s is not State.NEW]
    return ", ".join(parts) or "nothing"


def with_equivalents(plan: Plan, same_content: Mapping[str, bool]) -> Plan:
    """Return the plan where files with the same content are no conflicts."""
    files = tuple(
        replace(f, state=State.EQUIVALENT) if same_content.get(f.filename) else f
        for f in plan.files
    )
    rows = tuple(
        replace(row, why=why(mine, {"": ""}), on_index=on_index(mine))
        if any(f.state is State.EQUIVALENT for f in mine)
        else row
        for row in plan.packages
        for mine in [[f for f in files if f.package == row.name]]
    )
    return replace(plan, files=files, packages=rows)


def equivalent(filename: str, built: bytes, published: bytes) -> bool:
    """Tell whether two files install the same: only the build tool's name differs.

    A newer poetry-core writes its own version into WHEEL, and RECORD holds the
    hash of WHEEL. Everything else must be the same byte for byte.
    """
    read = wheel_content if filename.endswith(".whl") else sdist_content
    try:
        return read(built) == read(published)
    except (zipfile.BadZipFile, tarfile.TarError, KeyError, EOFError):
        return False


def wheel_content(content: bytes) -> dict[str, bytes]:
    """Return what a wheel installs, without RECORD and the generator's name."""
    found = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            data = archive.read(name)
            last = Path(name).name
            if ".dist-info/" in name and last == "RECORD":
                continue
            if ".dist-info/" in name and last == "WHEEL":
                kept = [x for x in data.splitlines() if not x.startswith(b"Generator:")]
                data = b"\n".join(kept)
            found[name] = data
    return found


def sdist_content(content: bytes) -> dict[str, bytes]:
    """Return the files of an sdist, whatever compressed them."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:*") as archive:
        return {
            member.name: file.read()
            for member in archive.getmembers()
            if (file := archive.extractfile(member)) is not None
        }
