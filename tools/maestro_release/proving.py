"""Which versions are proven, and how: after an upload, or any time later."""

import io
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.parser import HeaderParser
from typing import TYPE_CHECKING

from maestro_resilience import Retry

from maestro_release import audit, evidence, verify
from maestro_release.errors import UsageFault, VerifyFailed
from maestro_release.graph import in_order
from maestro_release.plan import Plan, version_of
from maestro_release.report import Report, count, ignore
from maestro_release.workspace import Package, Workspace

if TYPE_CHECKING:  # requests takes 0.1 s, in which the build has begun
    from maestro_release.index import Index


@dataclass(frozen=True, slots=True, kw_only=True)
class Proven:
    """One version that `verify` proved."""

    subject: verify.Subject
    signed: evidence.Checked | None  # None: there is no evidence here


def planned_subjects(
    packages: Sequence[Package], plan: Plan
) -> tuple[verify.Subject, ...]:
    """Return what is to be proven, with the planned hashes."""
    return tuple(
        verify.Subject(
            name=package.name,
            version=package.version,
            extras=tuple(name for name, _ in package.extras),
            files=tuple(
                (f.filename, f.expected)
                for f in plan.files
                if f.package == package.name
            ),
            within_all=within_all(package),
        )
        for package in packages
    )


def within_all(package: Package) -> frozenset[str]:
    """Return the extras whose every requirement the extra `all` has too."""
    extras = dict(package.extras)
    everything = set(extras.get("all", ()))
    return frozenset(
        name
        for name, requires in extras.items()
        if name != "all" and set(requires) <= everything
    )


def subjects_on_index(
    packages: Sequence[Package], index: "Index"
) -> tuple[verify.Subject, ...]:
    """Return the packages of this checkout with the hashes the index has."""
    there = index.files_of_all([p.name for p in packages], index.hosted)
    return tuple(
        verify.Subject(
            name=package.name,
            version=package.version,
            extras=tuple(name for name, _ in package.extras),
            files=tuple(
                (f.filename, index.sha256(package.name, f))
                for f in there[package.name].values()
                if str(version_of(f.filename)) == package.version
            ),
        )
        for package in packages
    )


def prove_quickly(
    index: "Index",
    subjects: Sequence[verify.Subject],
    everyone: Sequence[verify.Subject],
    report: Report,
    *,
    installer: str,
) -> dict[str, list[verify.Installed]]:
    """Install and import every bare package, resolve every extra.

    Returns:
        for each subject what its largest installation brings along.
    """
    with report.step("listed") as step:
        retry = Retry(attempts=6, on=VerifyFailed, wait=0.5)
        retry.call(expect_in_group, index, subjects)
        step.summary = (
            f"{count(sum(len(s.files) for s in subjects), 'file')} in {index.group}"
        )
    extras = sum(len(s.extras) for s in subjects)
    tool = "uv" if verify.find_uv() else "pip"
    # Side by side: both wait for other processes and for the index.
    with (
        verify.proof(index, subjects, everyone) as place,
        report.step("install", len(subjects)) as step,
        ThreadPoolExecutor(1) as pool,
    ):
        resolving = pool.submit(place.resolve_extras, ignore)
        place.bare(installer, step)
        brings = resolving.result()
        step.summary = (
            f"{count(len(subjects), 'package')} by {installer}, imported; "
            f"{count(extras, 'extra')} resolved by {tool}"
        )
    return brings


def expect_in_group(index: "Index", subjects: Sequence[verify.Subject]) -> None:
    """Return when the group offers every file with its hash.

    Raises:
        VerifyFailed: a file is missing in the group, or has another hash.
    """
    offered = index.files_of_all([s.name for s in subjects], index.group)
    for subject in subjects:
        files = [
            f
            for f in offered[subject.name].values()
            if str(version_of(f.filename)) == subject.version
        ]
        hashes = {f.sha256 or index.sha256(subject.name, f) for f in files}
        if hashes != subject.sha256:
            raise VerifyFailed(
                f"{index.group} offers other files of {subject.name} {subject.version} "
                f"than {index.hosted} holds; is {index.hosted} the group's first member?"
            )


def verify_versions(
    workspace: Workspace,
    index: "Index",
    names: Sequence[str],
    report: Report,
    *,
    installer: str | None,
    require_provenance: bool = False,
) -> tuple[Proven, ...]:
    """Install what is published, bare and with each extra, each in its own place.

    Args:
        workspace: its packages, at their present versions, are the default.
        index: where they are published.
        names: `resilience` or `maestro-resilience==1.0.0`, any published version.
        report: where progress goes.
        installer: uv or pip; None takes uv where it is there.
        require_provenance: fail where there is no signed statement.

    Raises:
        VerifyFailed: what is wrong with which package.
        UsageFault: a version is not published, or uv is not there.
    """
    installer = installer or ("uv" if verify.find_uv() else "pip")
    expect_installer(installer)
    wanted = wanted_versions(workspace, names)
    subjects = tuple(published_subject(index, p, version) for p, version in wanted)
    expect_in_group(index, subjects)
    with report.step("signed") as step:
        proven = tuple(
            Proven(subject=s, signed=check_signed(workspace, index, s))
            for s in subjects
        )
        unsigned = [p.subject for p in proven if p.signed is None]
        step.summary = f"{len(proven) - len(unsigned)} of {len(proven)} with provenance"
    if unsigned and require_provenance:
        names = [f"{s.name} {s.version}" for s in unsigned]
        raise VerifyFailed(f"no provenance here for {', '.join(names)}")
    records = audit.verify(workspace.state)
    if records is not None:
        report.line(f"audit    {records} records of releases, unchanged")
    everyone = subjects_on_index(workspace.packages, index)
    cases = sum(1 + len(s.extras) for s in subjects)
    with (
        verify.proof(index, subjects, everyone) as place,
        report.step("verify", cases) as step,
    ):
        made = place.install_all(installer, step)
        step.summary = (
            f"{count(made, 'environment')} by {installer}, imported, commands asked"
        )
    return proven


def expect_installer(installer: str) -> None:
    """Raise UsageFault where this installer is not there."""
    if installer == "uv" and verify.find_uv() is None:
        raise UsageFault("uv is not in this environment; use --installer pip")


def check_signed(
    workspace: Workspace, index: "Index", subject: verify.Subject
) -> evidence.Checked | None:
    """Check the evidence of a version, from dist/ or the raw repository."""
    from maestro_release.signing import trusted_keys

    folder = evidence.folder_of(workspace.dist, subject.name, subject.version)
    contents = evidence.read_evidence(folder)
    if not contents and index.raw:
        for file in evidence.NAMES:
            found = index.get_raw(f"{subject.name}/{subject.version}/{file}")
            if found is not None:
                contents[file] = found
    if not contents:
        return None
    return evidence.check_evidence(
        contents,
        subject.name,
        subject.version,
        dict(subject.files),
        trusted_keys(workspace.root, workspace.state),
    )


def wanted_versions(
    workspace: Workspace, names: Sequence[str]
) -> list[tuple[Package, str]]:
    """Return package and version for each name; all packages for none."""
    if not names:
        return [(p, p.version) for p in in_order(workspace.packages)]
    return [one_version(workspace, name) for name in names]


def one_version(workspace: Workspace, name: str) -> tuple[Package, str]:
    """Read `resilience` or `resilience==1.0.0`."""
    bare, _, version = name.partition("==")
    package = workspace.select([bare])[0]
    return package, version or package.version


def published_subject(index: "Index", package: Package, version: str) -> verify.Subject:
    """Return a published version with the hashes and extras that the index has.

    Raises:
        UsageFault: the index has no such version.
    """
    files = index.files(package.name, index.hosted)
    mine = [f for f in files.values() if str(version_of(f.filename)) == version]
    if not mine:
        there = sorted({str(version_of(name)) for name in files})
        raise UsageFault(
            f"{package.name} {version} is not published on {index.url}; "
            f"there is {', '.join(there) or 'no version'}"
        )
    wheels = [f for f in mine if f.filename.endswith(".whl")]
    return verify.Subject(
        name=package.name,
        version=version,
        extras=provided_extras(index.download(wheels[0])) if wheels else (),
        files=tuple((f.filename, index.sha256(package.name, f)) for f in mine),
    )


def provided_extras(wheel: bytes) -> tuple[str, ...]:
    """Return the extras that a wheel's metadata names."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    return tuple(str(value) for value in metadata.get_all("Provides-Extra", []))
