"""The command `maestro-results`."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from . import _commands
from ._read import READERS
from .errors import ResultsError

_HELP = """\
Read test reports of any tool, keep their history, and say whether to merge.

example:
  maestro-results ingest 'out/**/*.xml' --run 1234 --commit "$SHA" --branch main
  maestro-results gate --rules gate.toml && maestro-results report -o report.html

exit codes:
  0  done; a gate is open
  1  a gate is closed
  2  usage, a file that says something wrong, or no report there at all
  3  a report could not be read in full (ingest, merge, convert); the rest was kept
  130  interrupted
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        code: int = options.run_(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("maestro-results: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ResultsError, ValueError, OSError, ImportError) as error:
        print(f"maestro-results: {error}", file=sys.stderr)
        return 2
    return code


class _Add:
    """Adds commands to a parser, with the options that all of them have."""

    def __init__(self, commands: "argparse._SubParsersAction[Any]") -> None:
        self.commands = commands

    def __call__(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int],
        help: str,
        *,
        store: bool = True,
    ) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = self.commands.add_parser(
            name, help=help, description=help
        )
        made.set_defaults(run_=run)
        made.add_argument("--json", action="store_true", help="print JSON")
        if store:
            made.add_argument(
                "--store",
                default=os.environ.get("MAESTRO_RESULTS_STORE", "maestro-results.db"),
                metavar="FILE",
                help="history file (default: $MAESTRO_RESULTS_STORE or %(default)s)",
            )
            made.add_argument(
                "--baseline",
                default=os.environ.get("MAESTRO_RESULTS_BASELINE"),
                metavar="BRANCH",
                help="the branch whose failures are old (default: "
                "$MAESTRO_RESULTS_BASELINE, else main or master)",
            )
            made.add_argument("--owners", metavar="FILE", help="a CODEOWNERS file")
            made.add_argument(
                "--quarantine", metavar="FILE", help="a quarantine file (TOML)"
            )
        return made


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maestro-results",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = _Add(parser.add_subparsers(metavar="COMMAND", required=True))
    _report_files(add)
    _questions(add)
    _decisions(add)
    return parser


def _report_files(add: _Add) -> None:
    """Commands that read report files."""
    p = add(
        "ingest",
        _commands.ingest_command,
        "read reports into the history, as one run or one shard of it",
    )
    p.add_argument(
        "reports", nargs="+", help="files, folders or patterns; - is standard input"
    )
    p.add_argument(
        "--run", metavar="ID", help="name of the run (default: made from the content)"
    )
    for name in ("commit", "branch", "shard"):
        p.add_argument(f"--{name}", default="")
    p.add_argument(
        "--started", type=float, metavar="SECONDS", help="when it began, since 1970"
    )
    p.add_argument("--env", action="append", default=[], metavar="KEY=VALUE")
    p.add_argument("--format", choices=sorted(READERS))
    p.add_argument("--replace", action="store_true", help="replace a run of this name")

    p = add(
        "merge",
        _commands.merge_command,
        "put reports together into one file",
        store=False,
    )
    p.add_argument("reports", nargs="+")
    p.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="FILE",
        help=".json (CTRF), .xml (JUnit) or .jsonl",
    )
    p.add_argument(
        "--on-duplicate", choices=("attempt", "last", "worst"), default="attempt"
    )

    p = add(
        "convert",
        _commands.convert_command,
        "write a report in another format",
        store=False,
    )
    p.add_argument("report")
    p.add_argument("output", help=".json (CTRF), .xml (JUnit) or .jsonl")
    p.add_argument(
        "--format", choices=sorted(READERS), help="format of the report that is read"
    )


def _questions(add: _Add) -> None:
    """Commands that ask the history."""
    p = add("summary", _commands.summary_command, "say how a run went")
    _run_option(p)
    p.add_argument("--markdown", action="store_true", help="print Markdown")
    p.add_argument(
        "--annotations", action="store_true", help="print GitHub annotations"
    )
    p.add_argument("--limit", type=int, default=65_000, metavar="BYTES")
    p.add_argument("--rules", metavar="FILE")

    p = add(
        "report",
        _commands.report_command,
        "write one HTML file about a run and its history",
    )
    _run_option(p)
    p.add_argument("-o", "--output", default="report.html", metavar="FILE")
    p.add_argument("--last", type=int, default=100, metavar="RUNS")
    p.add_argument("--rules", metavar="FILE")

    p = add(
        "flaky", _commands.flaky_command, "list tests by how probably they are flaky"
    )
    p.add_argument("--branch")
    p.add_argument("--last", type=int, default=100, metavar="RUNS")
    p.add_argument(
        "--all", action="store_true", help="every test that failed, of any class"
    )
    p.add_argument("--top", type=int, default=20)

    p = add(
        "failures", _commands.failures_command, "list the failures of a run by cause"
    )
    _run_option(p)

    p = add(
        "slow",
        _commands.slow_command,
        "list the slowest tests, and those whose duration changed",
    )
    _run_option(p)
    p.add_argument("--top", type=int, default=20)


def _decisions(add: _Add) -> None:
    """Commands that compare, decide, split and forget."""
    p = add("compare", _commands.compare_command, "set two runs beside each other")
    p.add_argument("base")
    p.add_argument("head")

    p = add("gate", _commands.gate_command, "exit with 1 if a run breaks the rules")
    _run_option(p)
    p.add_argument(
        "--rules",
        metavar="FILE",
        help="TOML with a [gate] table (default: no new failures)",
    )

    p = add(
        "shard",
        _commands.shard_command,
        "split the tests into parts of about equal time",
    )
    p.add_argument("count", type=int)
    p.add_argument("--index", type=int, metavar="N", help="print only part N, from 1")
    p.add_argument("--by", choices=("file", "test"), default="file")
    p.add_argument(
        "--tests", metavar="FILE", help="ids, one a line; - is standard input"
    )

    p = add(
        "quarantine",
        _commands.quarantine_command,
        "check a quarantine file; exit with 1 if entries have ended",
    )
    p.add_argument("file")

    p = add("prune", _commands.prune_command, "forget old runs")
    p.add_argument(
        "--keep", type=int, metavar="RUNS", help="latest runs of each branch to keep"
    )
    p.add_argument(
        "--days", type=float, metavar="DAYS", help="forget runs that are older"
    )


def _run_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run", metavar="ID", help="name of the run (default: the latest)"
    )


__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
