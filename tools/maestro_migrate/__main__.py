"""The command maestro-migrate."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from maestro_migrate import migrate, report
from maestro_migrate.errors import MigrateError
from maestro_migrate.mapping import DEFAULT, load_mapping

EPILOG = """
example:
  maestro-migrate run services/quality            show the diff, change nothing
  maestro-migrate run services/quality --write    change the files
  maestro-migrate report services/* --html adoption.html

exit codes: 0 nothing left to change, 1 changes pending or things left for a
person, 2 usage, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    args = parse(argv)
    try:
        code: int = args.action(args)
    except MigrateError as error:
        print(f"maestro-migrate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="maestro-migrate",
        description="Move services from their own copies to the shared packages.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="rewrite imports and add dependencies")
    run.set_defaults(action=run_migration)
    run.add_argument("service", type=folder)
    run.add_argument("--write", action="store_true", help="change the files")
    run.add_argument("--strings", action="store_true", help="also change other strings")
    run.add_argument(
        "--remove-copies",
        action="store_true",
        help="delete the old modules (with --write)",
    )
    shown = commands.add_parser("report", help="measure adoption")
    shown.set_defaults(action=run_report)
    shown.add_argument("service", type=folder, nargs="+")
    shown.add_argument("--html", type=Path, metavar="FILE", help="write a page")
    shown.add_argument("--fail-under", type=float, metavar="PERCENT")
    for command in (run, shown):
        command.add_argument("--json", action="store_true", help="for machines")
        command.add_argument("--mapping", type=Path, default=DEFAULT)
    return parser.parse_args(argv)


def folder(text: str) -> Path:
    """Return a folder's path, for argparse."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder")
    return path.resolve()


def run_migration(args: argparse.Namespace) -> int:
    """Show or make the changes of one service."""
    mapping = load_mapping(args.mapping)
    plan = migrate.plan(args.service, mapping, strings=args.strings, progress=show)
    clear()
    if args.write:
        migrate.carry_out(plan)
    removed: list[Path] = []
    needed: dict[Path, str] = {}
    if args.write and args.remove_copies:
        needed = migrate.kept(plan, mapping)
        removed = migrate.remove_copies(plan, mapping)
    if args.json:
        print(
            json.dumps(
                {
                    "files": plan.files,
                    "changed": [str(change.path) for change in plan.changes],
                    "notes": [
                        {"file": str(path), "line": note.line, "message": note.message}
                        for path, note in plan.notes
                    ],
                    "packages": sorted(plan.packages),
                    "copies": [str(path) for path in plan.copies],
                    "removed": [str(path) for path in removed],
                    "kept": {str(path): place for path, place in needed.items()},
                    "written": args.write,
                },
                indent=1,
            )
        )
    else:
        for change in plan.changes:
            print(f"changed {change.path}" if args.write else change.diff(), end="\n")
        for path, note in plan.notes:
            print(f"{path}:{note.line}: {note.message}")
        for path in removed:
            print(f"removed {path}")
        for path, place in needed.items():
            print(f"kept {path}: {place} still needs it")
        verb = "changed" if args.write else "to change"
        print(
            f"{plan.files} files, {len(plan.changes)} {verb}, {len(plan.notes)} notes"
        )
    pending = bool(plan.changes) and not args.write
    return 1 if pending or plan.notes else 0


def run_report(args: argparse.Namespace) -> int:
    """Measure services and show the figures."""
    mapping = load_mapping(args.mapping)
    rows = [report.measure(service, mapping) for service in args.service]
    if args.html:
        args.html.write_text(report.as_page(rows), encoding="utf-8")
    print(
        json.dumps(report.as_data(rows), indent=1)
        if args.json
        else report.as_table(rows)
    )
    shares = [100 * row.share for row in rows if row.share is not None]
    if args.fail_under is not None and shares and min(shares) < args.fail_under:
        return 1
    return 0


def show(count: int) -> None:
    """Show progress on a terminal."""
    if sys.stderr.isatty() and count % 50 == 0:
        print(f"\r{count} files", end="", file=sys.stderr, flush=True)


def clear() -> None:
    """Remove the progress line."""
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
