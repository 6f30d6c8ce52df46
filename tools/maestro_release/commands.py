"""What each command does and prints."""

import argparse
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from maestro_release import audit, proving, release
from maestro_release.build import Artefact
from maestro_release.errors import GateFailed, UsageFault
from maestro_release.journal import Journal
from maestro_release.lock import release_lock
from maestro_release.plan import Plan, version_of
from maestro_release.report import Report, count
from maestro_release.settings import Settings, read_settings
from maestro_release.workspace import Workspace

if TYPE_CHECKING:  # requests takes 0.1 s, in which the build has begun
    from maestro_release.index import Index

Value = dict[str, Any]


def settings_of(workspace: Workspace) -> Settings:
    """Return the settings of the checkout."""
    return read_settings(workspace.root)


def plan(args: argparse.Namespace, workspace: Workspace, report: Report) -> Value:
    """Show the plan; a conflict in it is the exit code."""
    found = release.plan_command(
        workspace, settings_of(workspace), args.packages, report, args.wait
    )
    print_plan(found, report)
    found.refuse_conflicts()
    return found.to_dict()


def build(args: argparse.Namespace, workspace: Workspace, report: Report) -> Value:
    """Build and pass the gates."""
    done = release.build_command(workspace, args.packages, report, args.wait)
    return print_artefacts(done, report)


def check(args: argparse.Namespace, workspace: Workspace, report: Report) -> Value:
    """Build, pass the gates, build again."""
    done = release.check_command(workspace, args.packages, report, args.wait)
    return print_artefacts(done, report)


def publish(args: argparse.Namespace, workspace: Workspace, report: Report) -> Value:
    """Publish and show what was done."""
    outcome = release.publish_command(
        workspace,
        settings_of(workspace),
        args.packages,
        report,
        args.wait,
        dry_run=args.dry_run,
        prove=not args.no_verify,
        installer=args.installer,
    )
    rows = []
    for row in outcome.plan.packages:
        planned = sum(f.package == row.name for f in outcome.plan.uploads)
        verb = "would upload" if args.dry_run else "uploaded"
        what = f"{verb} {count(planned, 'file')}" if planned else "was there"
        rows.append([row.name, row.version, what, outcome.verified])
    report.line("")
    report.table(["package", "version", "files", "verified"], rows)
    return {
        **outcome.plan.to_dict(),
        "uploaded": [f.filename for f in outcome.uploaded],
        "verified": outcome.verified,
        "proven_before": outcome.proven_before,
        "dry_run": args.dry_run,
    }


def verify(args: argparse.Namespace, workspace: Workspace, report: Report) -> Value:
    """Verify and show what was proven."""
    with release.connected(settings_of(workspace), workspace, report) as (index, _):
        proven = proving.verify_versions(
            workspace,
            index,
            args.packages,
            report,
            installer=args.installer,
            require_provenance=args.require_provenance,
        )
    rows = []
    for found in proven:
        signed = found.signed
        origin = "none here"
        if signed is not None:
            commit = (signed.commit or "no git")[:10] + " (dirty)" * signed.dirty
            origin = f"key {signed.key}, {commit}"
        s = found.subject
        rows.append([s.name, s.version, ", ".join(s.extras) or "-", origin])
    report.line("")
    report.table(["package", "version", "extras", "signed by"], rows)
    return {
        "verified": [
            {
                "name": p.subject.name,
                "version": p.subject.version,
                "extras": list(p.subject.extras),
                "files": dict(p.subject.files),
                "key": p.signed.key if p.signed else None,
                "commit": p.signed.commit if p.signed else None,
            }
            for p in proven
        ]
    }


def bump(args: argparse.Namespace, workspace: Workspace, report: Report) -> Value:
    """Propose versions; with --write, write them and the changelogs."""
    from maestro_release.bump import apply, proposals
    from maestro_release.versions import left_behind

    packages = release.chosen(workspace, args.packages)
    today = read_date(args.date)
    found = proposals(workspace.root, packages)
    rows, value, notes = [], [], []
    for proposal, breaks in found:
        package = proposal.package
        behind = left_behind(workspace.packages, package.name, proposal.to)
        notes += [f"{b}" for b in breaks]
        notes += [f"{text}: {proposal.to} leaves this range" for text in behind]
        since = str(proposal.released) if proposal.released else "-"
        why = ", ".join(proposal.reasons)
        rows.append([package.name, since, str(proposal.to), why])
        value.append(
            {
                "name": package.name,
                "released": since if proposal.released else None,
                "now": package.version,
                "to": str(proposal.to),
                "level": proposal.level.name.lower(),
                "reasons": list(proposal.reasons),
                "breaks": [str(b) for b in breaks],
                "left_behind": list(behind),
            }
        )
    report.table(["package", "released", "to", "why"], rows)
    for note in notes:
        report.line(f"  {note}")
    if args.write:
        with release_lock(workspace.dist, wait=args.wait, waiting=report.line):
            for proposal, _ in found:
                if proposal.pending:
                    apply(proposal, today)
        report.line("written; review, commit, then publish and tag")
    return {"packages": value, "written": args.write}


def read_date(text: str | None) -> str:
    """Return a date as changelogs show it; today in UTC by default."""
    if text is None:
        return datetime.now(UTC).date().isoformat()
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        raise UsageFault(
            f"--date is {text!r}, wanted a date such as 2026-11-30"
        ) from None


def tag(args: argparse.Namespace, workspace: Workspace, report: Report) -> Value:
    """Tag what is published."""
    from maestro_release.bump import tag_released

    found = release.plan_command(
        workspace, settings_of(workspace), args.packages, report, args.wait
    )
    packages = release.chosen(workspace, args.packages)
    done = tag_released(workspace.root, packages, found)
    report.line("")
    report.table(
        ["tag", ""], [[t, "new" if fresh else "was there"] for t, fresh in done]
    )
    return {"tags": [{"tag": t, "new": fresh} for t, fresh in done]}


def status(args: argparse.Namespace, workspace: Workspace, report: Report) -> Value:
    """Show what is published and what is half done."""
    packages = release.chosen(workspace, args.packages)
    with release.connected(settings_of(workspace), workspace, report) as (index, _):
        there = index.files_of_all([p.name for p in packages], index.hosted)
        half = Journal(workspace.state).half_done(index.url)
    rows, value = [], []
    for package in packages:
        files = there[package.name].values()
        versions: dict[str, list[str]] = {}
        yanked = {}
        for file in files:
            version = str(version_of(file.filename))
            versions.setdefault(version, []).append(file.filename)
            if file.yanked is not None:
                yanked[version] = file.yanked
        for version, names in sorted(versions.items()):
            note = f"yanked: {yanked[version]}" if version in yanked else ""
            rows.append([package.name, version, str(len(names)), note])
        rows += [] if versions else [[package.name, "-", "0", "never published"]]
        value.append({"name": package.name, "versions": versions, "yanked": yanked})
    report.line("")
    report.table(["package", "version", "files", ""], rows)
    for begun in half:
        what = ", ".join(f"{name} {version}" for name, version in begun.versions)
        report.line(
            f"half done since {begun.began}: {what}, {len(begun.uploaded)} of "
            f"{count(len(begun.files), 'file')} acknowledged; finish it with `publish`, "
            "take it back with `delete --half-done --yes`"
        )
    return {
        "packages": value,
        "half_done": [
            {
                "release": b.id,
                "began": b.began,
                "files": list(b.files),
                "uploaded": list(b.uploaded),
            }
            for b in half
        ],
    }


def yank(args: argparse.Namespace, workspace: Workspace, report: Report) -> Value:
    """Yank versions, or take it back."""
    from maestro_release import undo

    wanted = [explicit_version(workspace, name) for name in args.packages]
    reason = None if args.undo else args.reason
    with release.connected(settings_of(workspace), workspace, report) as (index, _):
        for name, version in wanted:
            undo.yank(index, name, version, reason)
            action = "package.unyank" if args.undo else "package.yank"
            note(workspace, index, action, name, version, reason=reason)
            verb = "offered again" if args.undo else "yanked"
            report.line(f"{name} {version} {verb}")
    return {"yanked": [{"name": n, "version": v, "reason": reason} for n, v in wanted]}


def delete(args: argparse.Namespace, workspace: Workspace, report: Report) -> Value:
    """Delete versions, after a look at what that would be."""
    from maestro_release import undo

    if args.half_done == bool(args.packages):
        raise UsageFault("name versions such as resilience==1.0.0, or give --half-done")
    journal = Journal(workspace.state)
    removed: dict[str, list[str]] = {}
    with (
        release.connected(settings_of(workspace), workspace, report) as (index, _),
        release_lock(workspace.dist, wait=args.wait, waiting=report.line),
    ):
        half = journal.half_done(index.url) if args.half_done else ()
        wanted = [v for begun in half for v in begun.versions]
        wanted += [explicit_version(workspace, name) for name in args.packages]
        for name, version in dict.fromkeys(wanted):
            key = f"{name} {version}"
            files = undo.files_of_version(index, name, version)
            if not args.yes:
                shown = ", ".join(files) or "nothing"
                report.line(f"{key}: would remove {shown}")
                removed[key] = []
                continue
            removed[key] = undo.delete(index, name, version)
            if removed[key]:
                note(
                    workspace,
                    index,
                    "package.delete",
                    name,
                    version,
                    files=removed[key],
                )
            report.line(
                f"{key}: removed {', '.join(removed[key]) or 'nothing, it was gone'}"
            )
        if args.yes:
            for begun in half:
                journal.end(begun.id)
    if wanted and not args.yes:
        raise GateFailed("nothing was removed; say --yes to do it")
    if not wanted:
        report.line("no release is half done")
    return {"removed": removed}


def explicit_version(workspace: Workspace, name: str) -> tuple[str, str]:
    """Read `resilience==1.0.0`; to undo something, the version must be said."""
    if "==" not in name:
        raise UsageFault(f"{name!r} names no version, wanted {name}==VERSION")
    package, version = proving.one_version(workspace, name)
    return package.name, version


def note(
    workspace: Workspace,
    index: "Index",
    action: str,
    name: str,
    version: str,
    **data: Any,
) -> None:
    """Record an action in the audit log."""
    more = {"index": index.url, "user": index.user, **data}
    audit.record(workspace.state, action, package=name, version=version, data=more)


def print_plan(found: Plan, report: Report) -> None:
    """Print the table of a plan."""
    report.line("")
    report.table(
        ["package", "from", "to", "why", "needed by", "on the index"],
        [
            [
                row.name,
                row.latest or "-",
                f"{row.proposed} proposed" if row.proposed else row.version,
                row.why,
                ", ".join(row.needed_by) or "-",
                row.on_index,
            ]
            for row in found.packages
        ],
    )


def print_artefacts(done: Sequence[Artefact], report: Report) -> Value:
    """Print the table of built files."""
    report.line("")
    report.table(
        ["file", "bytes", "sha256"],
        [[a.path.name, f"{a.size:,}", a.sha256] for a in done],
    )
    return {
        "files": [
            {
                "package": a.package.name,
                "version": a.package.version,
                "filename": a.path.name,
                "kind": a.kind,
                "size": a.size,
                "sha256": a.sha256,
            }
            for a in done
        ]
    }
