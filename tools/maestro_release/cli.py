"""The command line of maestro-release: what can be asked, and the exit code."""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from maestro_release import commands
from maestro_release.errors import Conflict, ReleaseError
from maestro_release.report import Report
from maestro_release.workspace import find_root, read_workspace

EXAMPLE = """
examples:
  maestro-release plan                       what would be published, and why
  maestro-release publish                    build, upload what is missing, prove it
  maestro-release publish resilience         one package alone
  maestro-release verify resilience==1.0.0   install a published version, every extra
  maestro-release bump --write               raise versions, write changelogs
  maestro-release yank resilience==1.1.0 --reason "loses retries"

exit codes:
  0 done    1 a gate failed    2 usage    3 index unreachable or refusing
  4 a version is published with other bytes    130 interrupted

settings: tools/release.yaml, then MAESTRO_INDEX_URL, MAESTRO_INDEX_USER,
MAESTRO_INDEX_PASSWORD, MAESTRO_INDEX_PORT; user and password also from
.pypirc or the keyring. MAESTRO_SIGNING_KEY names the key for provenance.
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
    choices = found.add_subparsers(required=True, metavar="COMMAND")

    add = partial(add_command, choices)
    add("plan", commands.plan, "show what publish would do")
    add("build", commands.build, "build wheels and sdists into dist/, pass the gates")
    add("check", commands.check, "build, pass the gates, build again: the same bytes?")
    command = add(
        "publish", commands.publish, "build, upload what the index lacks, prove it"
    )
    command.add_argument("--dry-run", action="store_true", help="upload nothing")
    command.add_argument(
        "--no-verify", action="store_true", help="upload, prove and sign nothing"
    )
    command.add_argument(
        "--installer",
        choices=["pip", "uv"],
        default="pip",
        help="what proves the install (default: pip, as most people install)",
    )
    command = add("verify", commands.verify, "install what is published, every extra")
    command.add_argument(
        "--installer", choices=["uv", "pip"], help="default: uv where it is there"
    )
    command.add_argument(
        "--require-provenance",
        action="store_true",
        help="fail where no signed statement is found",
    )
    command = add("bump", commands.bump, "propose versions from fragments, git and API")
    command.add_argument(
        "--write", action="store_true", help="write pyproject.toml and CHANGELOG.md"
    )
    command.add_argument("--date", help="of the changelog's heading (default: today)")
    add("tag", commands.tag, "tag HEAD for what is published as it stands here")
    add("status", commands.status, "show what is published, yanked, and half done")
    command = add("yank", commands.yank, "hide a version from new installs", "+")
    command.add_argument("--reason", default="", help="shown by installers")
    command.add_argument("--undo", action="store_true", help="take the yank back")
    command = add("delete", commands.delete, "remove a version from the index")
    command.add_argument("--yes", action="store_true", help="do it; else only show")
    command.add_argument(
        "--half-done", action="store_true", help="what an unfinished release uploaded"
    )
    return found


def add_command(
    choices: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    action: Any,
    text: str,
    names: str = "*",
) -> argparse.ArgumentParser:
    """Add a command with the options that all have."""
    command = choices.add_parser(name, help=text, description=text)
    command.set_defaults(run=action)
    command.add_argument("packages", nargs=names, metavar="PACKAGE")
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


def as_dict(error: ReleaseError) -> dict[str, Any]:
    """Return an error as JSON holds it."""
    found: dict[str, Any] = {"error": type(error).__name__, "message": str(error)}
    if isinstance(error, Conflict):
        found["differences"] = [
            {"filename": d.filename, "built": d.built, "published": d.published}
            for d in error.differences
        ]
    return found
