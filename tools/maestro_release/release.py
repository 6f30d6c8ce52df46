"""The steps of a release put together: what each command does."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING

from packaging.version import Version

from maestro_release import audit, evidence, git, proving, record
from maestro_release.build import Artefact, Build, rebuilt_differently
from maestro_release.check import Gates, check, likely
from maestro_release.errors import GateFailed
from maestro_release.graph import in_order, needs
from maestro_release.journal import Journal
from maestro_release.lock import release_lock
from maestro_release.plan import (
    Plan,
    PlannedFile,
    State,
    equivalent,
    make_plan,
    with_equivalents,
)
from maestro_release.report import Report, count
from maestro_release.server import Server
from maestro_release.settings import Settings
from maestro_release.versions import Level, raised
from maestro_release.workspace import Package, Workspace

if TYPE_CHECKING:  # requests takes 0.1 s, in which the build has begun
    from maestro_release.index import Index

CHECKED = "checked.json"  # the hashes that passed the gates


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
) -> Iterator[tuple["Index", Server]]:
    """Open the index and say in the first line which one it is."""
    from maestro_release.index import open_index

    with closing(open_index(settings, workspace.root)) as index:
        server = index.server()
        report.line(f"index    {server}")
        yield index, server


def chosen(workspace: Workspace, names: Sequence[str]) -> tuple[Package, ...]:
    """Return the packages with these names, each after those it needs."""
    wanted = {package.name for package in workspace.select(names)}
    return tuple(p for p in in_order(workspace.packages) if p.name in wanted)


@contextmanager
def gates_for(packages: Sequence[Package], workspace: Workspace) -> Iterator[Gates]:
    """Give the gates, started already when they will likely be needed."""
    with Gates() as gates:
        if likely(packages, workspace.state / CHECKED):
            gates.start()
            # Loading twine takes as long as the build, which runs in children.
            threading.Thread(
                target=import_module, args=["maestro_release.upload"], daemon=True
            ).start()
        yield gates


def build_step(running: Build, report: Report) -> tuple[Artefact, ...]:
    """Wait for what is being built into dist/ and say how many files came out."""
    with report.step("build") as step:
        artefacts = running.finish()
        packages = {artefact.package.name for artefact in artefacts}
        step.summary = (
            f"{count(len(packages), 'package')}, {count(len(artefacts), 'file')}"
        )
    return artefacts


def check_step(
    artefacts: Sequence[Artefact],
    workspace: Workspace,
    report: Report,
    gates: Gates,
) -> None:
    """Pass the gates; files that passed before are not looked at again."""
    with report.step("check") as step:
        looked_at = check(artefacts, workspace.state / CHECKED, gates)
        known = len(artefacts) - looked_at
        step.summary = (
            f"{count(looked_at, 'file')} passed twine check and check-wheel-contents"
        )
        if known:
            step.summary += f", {known} passed before"


def build_command(
    workspace: Workspace, names: Sequence[str], report: Report, wait: float
) -> tuple[Artefact, ...]:
    """Build the packages and pass the gates."""
    packages = chosen(workspace, names)
    with (
        Build(packages, workspace.dist) as running,
        release_lock(workspace.dist, wait=wait, waiting=report.line),
        gates_for(packages, workspace) as gates,
    ):
        artefacts = build_step(running, report)
        check_step(artefacts, workspace, report, gates)
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
    with (
        Build(packages, workspace.dist) as running,
        release_lock(workspace.dist, wait=wait, waiting=report.line),
    ):
        artefacts = build_step(running, report)
        with report.step("check") as step:
            check(artefacts)
            step.summary = f"{count(len(artefacts), 'file')} passed the gates"
        with report.step("again") as step:
            differing = rebuilt_differently(artefacts)
            step.summary = (
                f"{count(len(artefacts), 'file')} came out the same byte for byte"
            )
            if differing:
                step.summary = f"{count(len(differing), 'file')} came out different"
    if differing:
        raise GateFailed("a second build gives other bytes: " + ", ".join(differing))
    return artefacts


def plan_step(
    packages: Sequence[Package],
    artefacts: Sequence[Artefact],
    workspace: Workspace,
    *,
    index: "Index",
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
        Build(packages, workspace.dist) as running,
        connected(settings, workspace, report) as (index, server),
        release_lock(workspace.dist, wait=wait, waiting=report.line),
    ):
        artefacts = build_step(running, report)
        plan = plan_step(
            packages, artefacts, workspace, index=index, server=server, report=report
        )
    return with_proposals(plan, packages, workspace)


def with_proposals(
    plan: Plan, packages: Sequence[Package], workspace: Workspace
) -> Plan:
    """Add, where a version must rise, the version that `bump` would write."""
    from maestro_release.bump import propose_one  # griffe and tomlkit: 0.1 s

    if not git.is_repository(workspace.root):
        return plan
    by_name = {package.name: package for package in packages}
    rows = []
    for row in plan.packages:
        states = {f.state for f in plan.files if f.package == row.name}
        if State.CONFLICT not in states:
            rows.append(row)
            continue
        proposal, _ = propose_one(workspace.root, by_name[row.name])
        to = proposal.to
        if str(to) == row.version:  # published, but never tagged
            to = raised(Version(row.version), max(proposal.level, Level.PATCH))
        reasons = ", ".join(r for r in proposal.reasons if r != "first release")
        why = f"{row.why}: {reasons}" if reasons else row.why
        rows.append(replace(row, proposed=str(to), why=why))
    return replace(plan, packages=tuple(rows))


def publish_command(
    workspace: Workspace,
    settings: Settings,
    names: Sequence[str],
    report: Report,
    wait: float,
    *,
    dry_run: bool = False,
    prove: bool = True,
    installer: str = "pip",
) -> Outcome:
    """Build, compare, check, upload what is missing, prove the install.

    Raises:
        UsageFault: the installer is uv, and uv is not there.
        Conflict: a version is published with other bytes; nothing was uploaded.
    """
    packages = chosen(workspace, names)
    proving.expect_installer(installer)
    with (
        Build(packages, workspace.dist) as running,
        gates_for(packages, workspace) as gates,
        connected(settings, workspace, report) as (index, server),
        release_lock(workspace.dist, wait=wait, waiting=report.line),
    ):
        journal = Journal(workspace.state)
        half_done = journal.half_done(index.url)
        for release in half_done:
            report.line(f"resume   the release begun at {release.began}")
        artefacts = build_step(running, report)
        plan = plan_step(
            packages, artefacts, workspace, index=index, server=server, report=report
        )
        plan.refuse_conflicts()
        if plan.uploads:
            check_step(artefacts, workspace, report, gates)
        if dry_run:
            return Outcome(
                plan=plan, uploaded=(), verified="dry run", proven_before=False
            )
        if plan.uploads:
            upload_step(plan, workspace, index, journal, report=report)
        else:
            report.line("upload   nothing: the index has every file, byte for byte")
        finish(plan, workspace, index, journal)
        if not prove:
            return Outcome(
                plan=plan, uploaded=plan.uploads, verified="no", proven_before=False
            )
        when = None
        if not plan.uploads and has_evidence(packages, workspace):
            when = record.proven_at(workspace.state, plan)
        proven_before = when is not None
        if proven_before:
            report.line(f"verify   not again: these bytes were proven here at {when}")
        else:
            when = prove_step(
                packages, plan, workspace, index, report, installer=installer
            )
        return Outcome(
            plan=plan,
            uploaded=plan.uploads,
            verified=str(when),
            proven_before=proven_before,
        )


def upload_step(
    plan: Plan,
    workspace: Workspace,
    index: "Index",
    journal: Journal,
    *,
    report: Report,
) -> None:
    """Note what is meant, upload it, and note each file that arrived."""
    from maestro_release.publish import publish

    release = journal.begin(
        index.url,
        [
            {"package": f.package, "version": f.version, "filename": f.filename}
            for f in plan.uploads
        ],
    )

    def done(file: PlannedFile) -> None:
        journal.note(release, "file", filename=file.filename, sha256=file.sha256)
        step(f"{file.filename}, {file.size:,} bytes")

    with report.step("upload", len(plan.uploads), each=True) as step:
        order = needs(workspace.packages)
        publish(plan, workspace.dist, index, needs=order, done=done)
        step.summary = count(len(plan.uploads), "file")
    journal.note(release, "uploaded")


def finish(plan: Plan, workspace: Workspace, index: "Index", journal: Journal) -> None:
    """Record and end every release whose files are all published now.

    That is the present one, and those that were killed before they got here.
    """
    published = {f.filename: f for f in plan.files}
    for release in journal.half_done(index.url):
        if not published.keys() >= set(release.files):
            continue
        for name, version in release.versions:
            files = [
                published[f] for f in release.files if published[f].package == name
            ]
            audit.record(
                workspace.state,
                "package.publish",
                package=name,
                version=version,
                data={
                    "index": index.url,
                    "user": index.user,
                    "release": release.id,
                    "files": {f.filename: f.expected for f in files},
                },
            )
        journal.end(release.id)


def has_evidence(packages: Sequence[Package], workspace: Workspace) -> bool:
    """Tell whether the evidence of all these versions stands in dist/."""
    return all(
        len(
            evidence.read_evidence(
                evidence.folder_of(workspace.dist, p.name, p.version)
            )
        )
        == len(evidence.NAMES)
        for p in packages
    )


def prove_step(
    packages: Sequence[Package],
    plan: Plan,
    workspace: Workspace,
    index: "Index",
    report: Report,
    *,
    installer: str,
) -> str:
    """Prove the install, write the evidence; return when."""
    # What the evidence needs is imported while installers run.
    loading = threading.Thread(target=evidence.load, daemon=True)
    loading.start()
    brings = proving.prove_quickly(
        index,
        proving.planned_subjects(packages, plan),
        proving.subjects_on_index(workspace.packages, index),
        report,
        installer=installer,
    )
    with report.step("evidence") as step:
        loading.join()
        from maestro_release.signing import signing_key

        key = signing_key(workspace.state)
        in_git = git.is_repository(workspace.root)
        uploaded = {f.package for f in plan.uploads}
        written = 0
        for package in packages:
            folder = evidence.folder_of(workspace.dist, package.name, package.version)
            if package.name not in uploaded and has_evidence([package], workspace):
                continue
            contents = evidence.write_evidence(
                folder,
                package,
                [f for f in plan.files if f.package == package.name],
                brings=brings[package.name],
                commit=git.commit_of(workspace.root, package) if in_git else None,
                index=index.url,
                key=key,
            )
            written += 1
            if index.raw:
                for name, content in contents.items():
                    index.put_raw(f"{package.name}/{package.version}/{name}", content)
        step.summary = f"{count(written, 'signed statement')} and SBOM in dist/evidence"
    now = datetime.now(UTC).isoformat(timespec="seconds")
    record.note(workspace.state, plan, now)
    return now
