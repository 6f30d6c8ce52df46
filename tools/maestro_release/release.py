"""The steps of a release put together: what each command does."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from maestro_resilience import Retry

from maestro_release import record, verify
from maestro_release.build import Artefact, build
from maestro_release.check import check
from maestro_release.errors import GateFailed, UsageFault, VerifyFailed
from maestro_release.graph import in_order
from maestro_release.index import Index, Server, open_index
from maestro_release.lock import release_lock
from maestro_release.plan import (
    Plan,
    PlannedFile,
    State,
    equivalent,
    make_plan,
    version_of,
    with_equivalents,
)
from maestro_release.publish import publish
from maestro_release.report import Report
from maestro_release.settings import Settings
from maestro_release.workspace import Package, Workspace, normalise


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a publication did."""

    plan: Plan
    uploaded: tuple[PlannedFile, ...]
    verified: str  # when these bytes were proven, or why not
    proven_before: bool


@contextmanager
def connected(
    settings: Settings, workspace: Workspace, report: Report
) -> Iterator[tuple[Index, Server]]:
    """Open the index and say in the first line which one it is."""
    with closing(open_index(settings, workspace.root)) as index:
        server = index.server()
        report.line(f"index    {server}")
        yield index, server


def chosen(workspace: Workspace, names: Sequence[str]) -> tuple[Package, ...]:
    """Return the packages with these names, each after those it needs."""
    wanted = {package.name for package in workspace.select(names)}
    return tuple(p for p in in_order(workspace.packages) if p.name in wanted)


def build_step(
    packages: Sequence[Package], workspace: Workspace, report: Report
) -> tuple[Artefact, ...]:
    """Build into dist/ and say how many files came out."""
    with report.step("build") as step:
        artefacts = build(packages, workspace.dist)
        step.summary = f"{len(packages)} packages, {len(artefacts)} files"
    return artefacts


def check_step(
    artefacts: Sequence[Artefact], workspace: Workspace, report: Report
) -> None:
    """Pass the gates; files that passed before are not looked at again."""
    with report.step("check") as step:
        looked_at = check(artefacts, workspace.state / "checked.json")
        known = len(artefacts) - looked_at
        step.summary = f"{looked_at} files passed twine check and check-wheel-contents"
        if known:
            step.summary += f", {known} passed before"


def build_command(
    workspace: Workspace, names: Sequence[str], report: Report, wait: float
) -> tuple[Artefact, ...]:
    """Build the packages and pass the gates."""
    packages = chosen(workspace, names)
    with release_lock(workspace.dist, wait=wait, waiting=report.line):
        artefacts = build_step(packages, workspace, report)
        check_step(artefacts, workspace, report)
    return artefacts


def check_command(
    workspace: Workspace, names: Sequence[str], report: Report, wait: float
) -> tuple[Artefact, ...]:
    """Build, pass all gates afresh, and prove that a second build is the same.

    The second build runs from a copy of each folder, in another place, with
    another umask and other dates on the files.

    Raises:
        GateFailed: a gate does not pass, or the two builds differ.
    """
    packages = chosen(workspace, names)
    with release_lock(workspace.dist, wait=wait, waiting=report.line):
        artefacts = build_step(packages, workspace, report)
        with report.step("check") as step:
            check(artefacts)
            step.summary = f"{len(artefacts)} files passed the gates"
        with report.step("again") as step:
            differing = rebuilt_differently(artefacts)
            step.summary = f"{len(artefacts)} files came out the same byte for byte"
            if differing:
                step.summary = f"{len(differing)} files came out different"
    if differing:
        raise GateFailed("a second build gives other bytes: " + ", ".join(differing))
    return artefacts


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


def plan_step(
    packages: Sequence[Package],
    artefacts: Sequence[Artefact],
    workspace: Workspace,
    *,
    index: Index,
    server: Server,
    report: Report,
) -> Plan:
    """Compare with the index."""
    with report.step("compare") as step:
        there = index.files_of_all([p.name for p in packages], index.hosted)
        built = {a.path.name for a in artefacts}
        published = {
            name: {
                # A hash may cost a download: only where it decides something.
                f.filename: index.sha256(name, f) if f.filename in built else ""
                for f in files.values()
            }
            for name, files in there.items()
        }
        plan = make_plan(server, packages, artefacts, published, workspace.packages)
        differing = [f for f in plan.files if f.state is State.CONFLICT]
        same = {
            f.filename: equivalent(
                f.filename,
                (workspace.dist / f.filename).read_bytes(),
                index.download(there[f.package][f.filename]),
            )
            for f in differing
        }
        plan = with_equivalents(plan, same)
        step.summary = f"{len(plan.uploads)} of {len(plan.files)} files to upload"
    return plan


def plan_command(
    workspace: Workspace,
    settings: Settings,
    names: Sequence[str],
    report: Report,
    wait: float,
) -> Plan:
    """Build, compare with the index, and return what publishing would do."""
    packages = chosen(workspace, names)
    with (
        connected(settings, workspace, report) as (index, server),
        release_lock(workspace.dist, wait=wait, waiting=report.line),
    ):
        artefacts = build_step(packages, workspace, report)
        return plan_step(
            packages, artefacts, workspace, index=index, server=server, report=report
        )


def publish_command(
    workspace: Workspace,
    settings: Settings,
    names: Sequence[str],
    report: Report,
    wait: float,
    *,
    dry_run: bool = False,
    prove: bool = True,
) -> Outcome:
    """Build, compare, check, upload what is missing, prove the install.

    Raises:
        Conflict: a version is published with other bytes; nothing was uploaded.
    """
    packages = chosen(workspace, names)
    with (
        connected(settings, workspace, report) as (index, server),
        release_lock(workspace.dist, wait=wait, waiting=report.line) as lock,
    ):
        artefacts = build_step(packages, workspace, report)
        plan = plan_step(
            packages, artefacts, workspace, index=index, server=server, report=report
        )
        plan.refuse_conflicts()
        if plan.uploads:
            check_step(artefacts, workspace, report)
        if dry_run:
            return Outcome(
                plan=plan, uploaded=(), verified="dry run", proven_before=False
            )
        uploaded: tuple[PlannedFile, ...] = ()
        if plan.uploads:
            with report.step("upload", len(plan.uploads)) as step:
                uploaded = publish(
                    plan, workspace.dist, index, keep_open=[lock], progress=step
                )
                step.summary = f"{len(uploaded)} files"
        else:
            report.line("upload   nothing: the index has every file, byte for byte")
        when = record.proven_at(workspace.state, plan)
        if not prove:
            return Outcome(
                plan=plan, uploaded=uploaded, verified="no", proven_before=False
            )
        if when is not None and not uploaded:
            report.line(f"verify   not again: these bytes were proven here at {when}")
            return Outcome(
                plan=plan, uploaded=uploaded, verified=when, proven_before=True
            )
        everyone = subjects_on_index(workspace.packages, index)
        subjects = planned_subjects(packages, plan)
        prove_quickly(index, subjects, everyone, report)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        record.note(workspace.state, plan, now)
        return Outcome(plan=plan, uploaded=uploaded, verified=now, proven_before=False)


def planned_subjects(
    packages: Sequence[Package], plan: Plan
) -> tuple[verify.Subject, ...]:
    """Return what is to be proven, with the planned hashes."""
    return tuple(
        verify.Subject(
            name=package.name,
            version=package.version,
            extras=tuple(name for name, _ in package.extras),
            sha256=frozenset(
                f.expected for f in plan.files if f.package == package.name
            ),
        )
        for package in packages
    )


def subjects_on_index(
    packages: Sequence[Package], index: Index
) -> tuple[verify.Subject, ...]:
    """Return the packages of this checkout with the hashes the index has."""
    there = index.files_of_all([p.name for p in packages], index.hosted)
    return tuple(
        verify.Subject(
            name=package.name,
            version=package.version,
            extras=tuple(name for name, _ in package.extras),
            sha256=frozenset(
                index.sha256(package.name, f)
                for f in there[package.name].values()
                if str(version_of(f.filename)) == package.version
            ),
        )
        for package in packages
    )


def prove_quickly(
    index: Index,
    subjects: Sequence[verify.Subject],
    everyone: Sequence[verify.Subject],
    report: Report,
) -> None:
    """Install and import every bare package with pip, resolve every extra."""
    with report.step("listed") as step:
        Retry(attempts=6, on=VerifyFailed, wait=0.5).call(
            expect_in_group, index, subjects
        )
        step.summary = f"{sum(len(s.sha256) for s in subjects)} files in {index.group}"
    with verify.proof(index, subjects, everyone) as place:
        with report.step("install", len(subjects)) as step:
            place.bare(step)
            step.summary = f"{len(subjects)} packages by pip, imported"
        with report.step("extras", sum(len(s.extras) for s in subjects)) as step:
            count = place.resolve_extras(step)
            tool = "uv" if verify.find_uv() else "pip"
            step.summary = f"{count} extras resolved by {tool}"


def expect_in_group(index: Index, subjects: Sequence[verify.Subject]) -> None:
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


def verify_command(
    workspace: Workspace,
    settings: Settings,
    names: Sequence[str],
    report: Report,
    installer: str | None,
) -> tuple[verify.Subject, ...]:
    """Install what is published, bare and with each extra, each in its own place.

    Args:
        workspace: its packages, at their present versions, are the default.
        settings: where the index is.
        names: `resilience` or `maestro-resilience==1.0.0`, any published version.
        report: where progress goes.
        installer: uv or pip; None takes uv where it is there.

    Raises:
        VerifyFailed: what is wrong with which package.
        UsageFault: a version is not published.
    """
    installer = installer or ("uv" if verify.find_uv() else "pip")
    if installer == "uv" and verify.find_uv() is None:
        raise UsageFault("uv is not in this environment; use --installer pip")
    with connected(settings, workspace, report) as (index, _):
        wanted = wanted_versions(workspace, names)
        subjects = tuple(published_subject(index, p, version) for p, version in wanted)
        expect_in_group(index, subjects)
        everyone = subjects_on_index(workspace.packages, index)
        cases = sum(1 + len(s.extras) for s in subjects)
        with (
            verify.proof(index, subjects, everyone) as place,
            report.step("verify", cases) as step,
        ):
            count = place.install_all(installer, step)
            step.summary = (
                f"{count} environments by {installer}, imported, commands asked"
            )
    return subjects


def wanted_versions(
    workspace: Workspace, names: Sequence[str]
) -> list[tuple[Package, str]]:
    """Return package and version for each name; all packages for none."""
    if not names:
        return [(p, p.version) for p in in_order(workspace.packages)]
    found = []
    for name in names:
        bare, _, version = name.partition("==")
        package = workspace.select([bare])[0]
        found.append((package, version or package.version))
    return found


def published_subject(index: Index, package: Package, version: str) -> verify.Subject:
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
    extras = provided_extras(index.download(wheels[0])) if wheels else ()
    return verify.Subject(
        name=normalise(package.name),
        version=version,
        extras=extras,
        sha256=frozenset(index.sha256(package.name, f) for f in mine),
    )


def provided_extras(wheel: bytes) -> tuple[str, ...]:
    """Return the extras that a wheel's metadata names."""
    import io
    import zipfile
    from email.parser import HeaderParser

    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode("utf-8"))
    return tuple(str(value) for value in metadata.get_all("Provides-Extra", []))
