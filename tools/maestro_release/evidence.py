"""What a release leaves behind to be checked later, in dist/evidence/.

release.json     what was released: version, commit, files, hashes, build tool
sbom.cdx.json    CycloneDX: what an install of the package brings along
provenance.json  a signed in-toto statement (SLSA provenance) that binds both
                 and the published files to the commit

On a server with a raw repository (setting `raw`) the three are kept there too.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maestro_release.errors import VerifyFailed
from maestro_release.git import Commit
from maestro_release.plan import PlannedFile
from maestro_release.verify import Installed
from maestro_release.workspace import Package

if TYPE_CHECKING:  # cryptography takes 0.1 s, and most commands sign nothing
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

RELEASE, SBOM, PROVENANCE = "release.json", "sbom.cdx.json", "provenance.json"
NAMES = (RELEASE, SBOM, PROVENANCE)
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "maestro-release/poetry-core/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """Evidence that was found to be true."""

    commit: str | None
    dirty: bool
    key: str  # id of the key that signed


def load() -> None:
    """Import what writing evidence needs, ahead of time."""
    import cyclonedx.contrib.this.builders
    import cyclonedx.output.json
    import packageurl

    import maestro_release.signing

    _ = (cyclonedx, packageurl, maestro_release.signing)


def folder_of(dist: Path, name: str, release: str) -> Path:
    """Return where the evidence of a version stands."""
    return dist / "evidence" / f"{name}-{release}"


def write_evidence(
    folder: Path,
    package: Package,
    files: Sequence[PlannedFile],
    *,
    brings: Sequence[Installed],
    commit: Commit | None,
    index: str,
    key: "Ed25519PrivateKey",
    now: datetime | None = None,
) -> dict[str, bytes]:
    """Write the three files of one package; return them by name.

    Args:
        folder: of this package and version.
        package: what was released.
        files: its published files.
        brings: what its installation brings along, itself included.
        commit: where its sources stand; None outside git.
        index: the address it was published to.
        key: signs the statement.
        now: the time to write down.
    """
    from maestro_release.signing import signed

    at = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    release = encoded(release_record(package, files, commit, index, at))
    bom = bill_of_materials(package, brings)
    statement = provenance(
        package, files, commit, at=at, byproducts={RELEASE: release, SBOM: bom}
    )
    contents = {
        RELEASE: release,
        SBOM: bom,
        PROVENANCE: encoded(signed(statement, key)),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        partial = folder / f"{name}.partial"
        partial.write_bytes(content)
        partial.replace(folder / name)
    return contents


def release_record(
    package: Package,
    files: Sequence[PlannedFile],
    commit: Commit | None,
    index: str,
    at: str,
) -> dict[str, Any]:
    """Return release.json."""
    return {
        "v": 1,
        "name": package.name,
        "version": package.version,
        "released": at,
        "index": index,
        "source": source(commit),
        "build": {"poetry-core": version("poetry-core")},
        "files": [
            {"filename": f.filename, "size": f.size, "sha256": f.expected}
            for f in files
        ],
    }


def source(commit: Commit | None) -> dict[str, Any] | None:
    """Return where the sources stand, as JSON holds it."""
    if commit is None:
        return None
    return {"commit": commit.commit, "tree": commit.tree, "dirty": commit.dirty}


def bill_of_materials(package: Package, brings: Sequence[Installed]) -> bytes:
    """Return CycloneDX JSON: the package, and all that its install brings along."""
    from cyclonedx.contrib.this.builders import this_component
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output import make_outputter
    from cyclonedx.schema import OutputFormat, SchemaVersion
    from packageurl import PackageURL

    def component(
        name: str, release: str, digest: str, kind: ComponentType
    ) -> Component:
        return Component(
            name=name,
            version=release,
            type=kind,
            bom_ref=f"{name}=={release}",
            purl=PackageURL("pypi", name=name, version=release),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)]
            if digest
            else [],
        )

    main = component(package.name, package.version, "", ComponentType.LIBRARY)
    bom = Bom()
    bom.metadata.component = main
    bom.metadata.tools.components.add(this_component())
    others = []
    for found in one_per_name(brings):
        if found.name != package.name:
            made = component(
                found.name, found.version, found.sha256, ComponentType.LIBRARY
            )
            bom.components.add(made)
            others.append(made)
    bom.register_dependency(main, others)
    writer = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6)
    return writer.output_as_string(indent=1).encode()


def one_per_name(brings: Sequence[Installed]) -> list[Installed]:
    """Return one entry for each distribution: its wheel where there is one."""
    found: dict[str, Installed] = {}
    for entry in sorted(brings, key=lambda e: (e.name, not e.url.endswith(".whl"))):
        found.setdefault(entry.name, entry)
    return list(found.values())


def provenance(
    package: Package,
    files: Sequence[PlannedFile],
    commit: Commit | None,
    *,
    at: str,
    byproducts: Mapping[str, bytes],
) -> dict[str, Any]:
    """Return the statement to be signed."""
    materials: list[dict[str, Any]] = [
        {"uri": f"pkg:pypi/poetry-core@{version('poetry-core')}"}
    ]
    if commit is not None:
        materials.append(
            {
                "uri": f"git:{package.folder.name}",
                "digest": {"gitCommit": commit.commit, "gitTree": commit.tree},
                "annotations": {"dirty": commit.dirty},
            }
        )
    return {
        "_type": STATEMENT,
        "subject": [
            {"name": f.filename, "digest": {"sha256": f.expected}} for f in files
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "package": package.name,
                    "version": package.version,
                },
                "resolvedDependencies": materials,
            },
            "runDetails": {
                "builder": {"id": BUILD_TYPE},
                "metadata": {"finishedOn": at},
                "byproducts": [
                    {"name": name, "digest": {"sha256": digest(content)}}
                    for name, content in byproducts.items()
                ],
            },
        },
    }


def check_evidence(
    contents: Mapping[str, bytes],
    name: str,
    release: str,
    published: Mapping[str, str],
    trusted: "Mapping[str, Ed25519PublicKey]",
) -> Checked:
    """Check the evidence of a version against what the index delivers.

    Args:
        contents: the three files by name.
        name: the package.
        release: its version.
        published: sha256 by file name, from the index.
        trusted: public keys by id.

    Raises:
        VerifyFailed: says what does not fit.
    """
    from maestro_release.signing import opened

    what = f"the evidence of {name} {release}"
    missing = [file for file in NAMES if file not in contents]
    if missing:
        raise VerifyFailed(f"{what} lacks {', '.join(missing)}")
    try:
        statement, key = opened(json.loads(contents[PROVENANCE]), trusted)
        parameters = statement["predicate"]["buildDefinition"]["externalParameters"]
        subjects = {s["name"]: s["digest"]["sha256"] for s in statement["subject"]}
        byproducts = {
            b["name"]: b["digest"]["sha256"]
            for b in statement["predicate"]["runDetails"]["byproducts"]
        }
        if parameters != {"package": name, "version": release}:
            raise VerifyFailed(f"it is about {parameters}")
        if statement["_type"] != STATEMENT or statement["predicateType"] != PREDICATE:
            raise VerifyFailed(f"it is a {statement['predicateType']}, not provenance")
        if byproducts.keys() != {RELEASE, SBOM}:
            raise VerifyFailed(f"it binds {', '.join(byproducts) or 'nothing'}")
        for file, wanted in byproducts.items():
            if digest(contents[file]) != wanted:
                raise VerifyFailed(f"{file} was changed after it was signed")
        for file, there in published.items():
            if subjects.get(file) != there:
                raise VerifyFailed(
                    f"{file} is published with sha256 {there}, "
                    f"signed was {subjects.get(file, 'no such file')}"
                )
        origin = json.loads(contents[RELEASE])["source"] or {}
    except VerifyFailed as error:
        raise VerifyFailed(f"{what}: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise VerifyFailed(f"{what} cannot be read: {error!r}") from error
    return Checked(
        commit=origin.get("commit"), dirty=bool(origin.get("dirty")), key=key
    )


def read_evidence(folder: Path) -> dict[str, bytes]:
    """Return the files of the evidence that are there."""
    return {
        name: (folder / name).read_bytes() for name in NAMES if (folder / name).exists()
    }


def encoded(value: object) -> bytes:
    """Return JSON for a file."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()


def digest(content: bytes) -> str:
    """Return the SHA-256 of some bytes."""
    return hashlib.sha256(content).hexdigest()
