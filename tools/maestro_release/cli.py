"""The commands of maestro-release."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maestro_release import release
from maestro_release.build import Artefact
from maestro_release.errors import Conflict, ReleaseError
from maestro_release.plan import Plan
from maestro_release.report import Report
from maestro_release.settings import Settings, read_settings
from maestro_release.workspace import Workspace, find_root, read_workspace

EXAMPLE = """
examples:
  maestro-release plan                       what would be published, and why
  maestro-release publish                    build, upload what is missing, prove it
  maestro-release publish resilience         one package alone
  maestro-release verify resilience==1.0.0   install a published version, every extra

exit codes:
  0 done    1 a gate failed    2 usage    3 index unreachable or refusing
  4 a version is published with other bytes    130 interrupted

settings: tools/release.yaml, then MAESTRO_INDEX_URL, MAESTRO_INDEX_USER,
MAESTRO_INDEX_PASSWORD, MAESTRO_INDEX_PORT; user and password also from
.pypirc or the keyring.
"""


def run(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code."""
    args = parser().parse_args(argv)
    report = Report(as_json=args.json)
    try:
        workspace = read_workspace((args.root or find_root(Path.cwd())).absolute())
        value: dict[str, Any] = args.run(args, workspace, report)
    except ReleaseError as error:
        report.error(str(error))
        report.result(as_dict(error))
        return error.exit_code
    except KeyboardInterrupt:
        report.error("interrupted; run the same command again to go on")
        return 130
    report.result(value)
    return 0


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    found = argparse.ArgumentParser(
        prog="maestro-release",
        description="Build, check, publish and prove the packages of this checkout.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = found.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, action: Any, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=action)
        command.add_argument("packages", nargs="*", metavar="PACKAGE")
        command.add_argument("--root", type=Path, help="the checkout (default: here)")
        command.add_argument("--json", action="store_true", help="print JSON")
        command.add_argument(
            "--wait",
            type=float,
            default=300.0,
            metavar="SECONDS",
            help="how long to wait for another release (default: 300)",
        )
        return command

    add("plan", plan, "show what publish would do")
    add("build", build, "build wheels and sdists into dist/ and pass the gates")
    add("check", check, "build, pass the gates, prove that a second build is the same")
    command = add("publish", publish, "build, upload what the index lacks, prove it")
    command.add_argument("--dry-run", action="store_true", help="upload nothing")
    command.add_argument(
        "--no-verify", action="store_true", help="upload, prove nothing"
    )
    command = add("verify", verify, "install what is published, with every extra")
    command.add_argument(
        "--installer", choices=["uv", "pip"], help="default: uv where it is there"
    )
    return found


def settings_of(workspace: Workspace) -> Settings:
    """Return the settings of the checkout."""
    return read_settings(workspace.root)


def plan(
    args: argparse.Namespace, workspace: Workspace, report: Report
) -> dict[str, Any]:
    """Show the plan; a conflict in it is the exit code."""
    found = release.plan_command(
        workspace, settings_of(workspace), args.packages, report, args.wait
    )
    print_plan(found, report)
    found.refuse_conflicts()
    return found.to_dict()


def build(
    args: argparse.Namespace, workspace: Workspace, report: Report
) -> dict[str, Any]:
    """Build and check."""
    done = release.build_command(workspace, args.packages, report, args.wait)
    return print_artefacts(done, report)


def check(
    args: argparse.Namespace, workspace: Workspace, report: Report
) -> dict[str, Any]:
    """Build, check, build again."""
    done = release.check_command(workspace, args.packages, report, args.wait)
    return print_artefacts(done, report)


def publish(
    args: argparse.Namespace, workspace: Workspace, report: Report
) -> dict[str, Any]:
    """Publish and show what was done."""
    outcome = release.publish_command(
        workspace,
        settings_of(workspace),
        args.packages,
        report,
        args.wait,
        dry_run=args.dry_run,
        prove=not args.no_verify,
    )
    uploaded = [f.filename for f in outcome.uploaded]
    rows = []
    for row in outcome.plan.packages:
        count = sum(f.package == row.name for f in outcome.uploaded)
        planned = sum(f.package == row.name for f in outcome.plan.uploads)
        what = f"uploaded {count} files" if count else "was there"
        if args.dry_run:
            what = f"would upload {planned} files" if planned else "is there"
        rows.append([row.name, row.version, what, outcome.verified])
    report.line("")
    report.table(["package", "version", "files", "verified"], rows)
    return {
        **outcome.plan.to_dict(),
        "uploaded": uploaded,
        "verified": outcome.verified,
        "proven_before": outcome.proven_before,
        "dry_run": args.dry_run,
    }


def verify(
    args: argparse.Namespace, workspace: Workspace, report: Report
) -> dict[str, Any]:
    """Verify and show what was proven."""
    subjects = release.verify_command(
        workspace, settings_of(workspace), args.packages, report, args.installer
    )
    rows = [[s.name, s.version, ", ".join(s.extras) or "-"] for s in subjects]
    report.line("")
    report.table(["package", "version", "extras"], rows)
    return {
        "verified": [
            {
                "name": s.name,
                "version": s.version,
                "extras": list(s.extras),
                "sha256": sorted(s.sha256),
            }
            for s in subjects
        ]
    }


def print_plan(found: Plan, report: Report) -> None:
    """Print the table of a plan."""
    report.line("")
    report.table(
        ["package", "from", "to", "why", "needed by", "on the index"],
        [
            [
                row.name,
                row.latest or "-",
                row.version,
                row.why,
                ", ".join(row.needed_by) or "-",
                row.on_index,
            ]
            for row in found.packages
        ],
    )


def print_artefacts(done: Sequence[Artefact], report: Report) -> dict[str, Any]:
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


def as_dict(error: ReleaseError) -> dict[str, Any]:
    """Return an error as JSON holds it."""
    found: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
    if isinstance(error, Conflict):
        found["differences"] = [
            {"filename": d.filename, "built": d.built, "published": d.published}
            for d in error.differences
        ]
    return found
