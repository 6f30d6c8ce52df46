"""The command `maestro-results`."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ._aggregator import TestResultAggregator
from ._html import _n, _took, sentence
from ._model import Counts
from ._read import READERS, expand, read_all
from ._rules import GateRules
from ._run import Run
from ._write import merge, write_report
from .errors import ResultsError

_HELP = """\
Read test reports of any tool, keep their history, and say whether to merge.

example:
  maestro-results ingest 'out/**/*.xml' --run 1234 --commit "$SHA" --branch main
  maestro-results gate --rules gate.toml && maestro-results report -o report.html

exit codes:
  0  done; a gate is open
  1  a gate is closed
  2  usage, or a file that says something wrong
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
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ResultsError, ValueError, OSError, ImportError) as error:
        print(f"maestro-results: {error}", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maestro-results",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str,
        run: Callable[[argparse.Namespace], int],
        help: str,
        *,
        store: bool = True,
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(run_=run)
        made.add_argument("--json", action="store_true", help="print JSON")
        if store:
            made.add_argument(
                "--store",
                default=os.environ.get("MAESTRO_RESULTS_STORE", "maestro-results.db"),
                metavar="FILE",
                help="history file (default: $MAESTRO_RESULTS_STORE or %(default)s)",
            )
            made.add_argument("--owners", metavar="FILE", help="a CODEOWNERS file")
            made.add_argument(
                "--quarantine", metavar="FILE", help="a quarantine file (TOML)"
            )
        return made

    p = add(
        "ingest",
        _ingest,
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

    p = add("merge", _merge, "put reports together into one file", store=False)
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

    p = add("convert", _convert, "write a report in another format", store=False)
    p.add_argument("report")
    p.add_argument("output", help=".json (CTRF), .xml (JUnit) or .jsonl")
    p.add_argument(
        "--format", choices=sorted(READERS), help="format of the report that is read"
    )

    p = add("summary", _summary, "say how a run went")
    _run_option(p)
    p.add_argument("--markdown", action="store_true", help="print Markdown")
    p.add_argument(
        "--annotations", action="store_true", help="print GitHub annotations"
    )
    p.add_argument("--limit", type=int, default=65_000, metavar="BYTES")
    p.add_argument("--rules", metavar="FILE")

    p = add("report", _report, "write one HTML file about a run and its history")
    _run_option(p)
    p.add_argument("-o", "--output", default="report.html", metavar="FILE")
    p.add_argument("--last", type=int, default=100, metavar="RUNS")
    p.add_argument("--rules", metavar="FILE")

    p = add("flaky", _flaky, "list tests by how probably they are flaky")
    p.add_argument("--branch")
    p.add_argument("--last", type=int, default=100, metavar="RUNS")
    p.add_argument(
        "--all", action="store_true", help="every test that failed, of any class"
    )
    p.add_argument("--top", type=int, default=20)

    p = add("failures", _failures, "list the failures of a run by cause")
    _run_option(p)

    p = add("slow", _slow, "list the slowest tests, and those whose duration changed")
    _run_option(p)
    p.add_argument("--top", type=int, default=20)

    p = add("compare", _compare, "set two runs beside each other")
    p.add_argument("base")
    p.add_argument("head")

    p = add("gate", _gate, "exit with 1 if a run breaks the rules")
    _run_option(p)
    p.add_argument(
        "--rules",
        metavar="FILE",
        help="TOML with a [gate] table (default: no new failures)",
    )

    p = add("shard", _shard, "split the tests into parts of about equal time")
    p.add_argument("count", type=int)
    p.add_argument("--index", type=int, metavar="N", help="print only part N, from 1")
    p.add_argument("--by", choices=("file", "test"), default="file")
    p.add_argument(
        "--tests", metavar="FILE", help="ids, one a line; - is standard input"
    )

    p = add(
        "quarantine",
        _quarantine,
        "check a quarantine file; exit with 1 if entries have ended",
    )
    p.add_argument("file")

    p = add("prune", _prune, "forget old runs")
    p.add_argument(
        "--keep", type=int, metavar="RUNS", help="latest runs of each branch to keep"
    )
    p.add_argument(
        "--days", type=float, metavar="DAYS", help="forget runs that are older"
    )
    return parser


def _run_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--run", metavar="ID", help="name of the run (default: the latest)"
    )


def _open(options: argparse.Namespace, *, new: bool = False) -> TestResultAggregator:
    if not new and not Path(options.store).exists():
        raise ResultsError(
            f"{options.store}: no such history; `maestro-results ingest` makes it"
        )
    agg = TestResultAggregator(options.store, owners=options.owners)
    if options.quarantine:
        try:
            agg.quarantine.load(options.quarantine)
        except BaseException:
            agg.close()
            raise
    return agg


def _rules(options: argparse.Namespace) -> GateRules | None:
    return GateRules.load(options.rules) if options.rules else None


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name.rstrip("_"): _plain(getattr(value, f.name))
            for f in dataclasses.fields(value)
        }
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value


def _json(value: Any) -> None:
    print(json.dumps(_plain(value), indent=1, ensure_ascii=False, default=str))


def _counted(counts: Counts) -> str:
    words = [
        (counts.passed, "passed"),
        (counts.failed, "failed"),
        (counts.skipped, "skipped"),
        (counts.pending, "not run"),
        (counts.other, "other"),
        (counts.flaky, "flaky"),
    ]
    return f"{_n(counts.tests, 'test')}: " + ", ".join(
        f"{n:,} {word}" for n, word in words if n
    )


def _tell(diagnostics: Iterable[object]) -> int:
    code = 0
    for one in diagnostics:
        level = getattr(one, "level", "error")
        code = 3 if level == "error" else code
        print(f"{level}: {one}", file=sys.stderr)
    return code


class _Progress:
    """Names the file being read, on a terminal only."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.count = 0

    def __call__(self, path: Path) -> None:
        self.count += 1
        if self.live:
            sys.stderr.write(f"\r\x1b[Kreading {self.count}: {path}")
            sys.stderr.flush()

    def end(self) -> None:
        if self.live and self.count:
            sys.stderr.write("\r\x1b[K")


def _facts(run: Run) -> dict[str, Any]:
    return {
        "run": run.run_id, "commit": run.info.commit, "branch": run.info.branch,
        "counts": run.counts, "duration": run.duration, "shards": run.info.shards,
        "new_failures": run.new_failures, "fixed": run.fixed, "diagnostics": run.diagnostics,
    }  # fmt: skip


def _ingest(options: argparse.Namespace) -> int:
    environment = {}
    for pair in options.env:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--env expects KEY=VALUE, got {pair!r}")
        environment[key] = value
    progress = _Progress()
    with _open(options, new=True) as agg:
        run = agg.ingest(
            options.reports, run_id=options.run, commit=options.commit, branch=options.branch,
            shard=options.shard, started=options.started, environment=environment,
            format=options.format, replace=options.replace, progress=progress,
        )  # fmt: skip
        progress.end()
        if options.json:
            _json({**_facts(run), "added": run.added})
        else:
            known = "" if run.added else " (was there already)"
            print(
                f"run {run.run_id}{known}: {_counted(run.counts)}; {len(run.new_failures)} new failures"
            )
        return _tell(run.diagnostics)


def _merge(options: argparse.Namespace) -> int:
    merged = merge(options.reports, on_duplicate=options.on_duplicate)
    merged.write(options.output)
    if options.json:
        _json(
            {
                "counts": merged.counts,
                "duplicates": merged.duplicates,
                "diagnostics": merged.diagnostics,
            }
        )
    else:
        again = (
            f"; {len(merged.duplicates)} came more than once"
            if merged.duplicates
            else ""
        )
        print(f"{options.output}: {_counted(merged.counts)}{again}")
    return _tell(merged.diagnostics)


def _convert(options: argparse.Namespace) -> int:
    told: list[Any] = []
    results = list(
        read_all(
            expand(options.report, told.append), told.append, format=options.format
        )
    )
    write_report(results, options.output)
    counts = Counts.of(results)
    if options.json:
        _json({"counts": counts, "diagnostics": told})
    else:
        print(f"{options.output}: {_counted(counts)}")
    return _tell(told)


def _summary(options: argparse.Namespace) -> int:
    with _open(options) as agg:
        run = agg.run(options.run)
        if options.json:
            _json(_facts(run))
        elif options.markdown:
            print(
                agg.summary_markdown(
                    run_id=run.run_id, limit=options.limit, rules=_rules(options)
                ),
                end="",
            )
        elif options.annotations:
            from ._markdown import annotations

            print("\n".join(annotations(run)))
        else:
            gate = agg.gate(_rules(options)).check(run)
            print(
                sentence(
                    run, gate, agg.store.runs(branch=run.info.branch or None, last=100)
                )
            )
            _table(
                ["", "tests"],
                [
                    (name, f"{getattr(run.counts, name):,}")
                    for name in Counts.__dataclass_fields__
                ],
            )
    return 0


def _report(options: argparse.Namespace) -> int:
    with _open(options) as agg:
        path = agg.report_html(
            options.output, run_id=options.run, last=options.last, rules=_rules(options)
        )
    size = path.stat().st_size
    if options.json:
        _json({"path": str(path), "bytes": size})
    else:
        print(f"{path}: {size / 1000:.0f} kB")
    return 0


def _flaky(options: argparse.Namespace) -> int:
    with _open(options) as agg:
        flakes = agg.flaky(
            branch=options.branch,
            last=options.last,
            classes=None if options.all else ("flaky",),
        )
    if options.json:
        _json(flakes)
    elif not flakes:
        print("no test is judged flaky; one that never failed may still be (see --all)")
    else:
        rows = [
            (
                f"{f.score:.2f}",
                f.class_,
                f"{f.failures}/{f.seen}",
                str(f.rate),
                f.test,
                "; ".join(f.evidence),
            )
            for f in flakes[: options.top]
        ]
        _table(["score", "class", "failed", "rate", "test", "evidence"], rows)
    return 0


def _failures(options: argparse.Namespace) -> int:
    with _open(options) as agg:
        clusters = agg.run(options.run).failures()
    if options.json:
        _json(clusters)
    elif not clusters:
        print("no failures")
    for one in [] if options.json else clusters:
        owner = f" ({', '.join(one.owners)})" if one.owners else ""
        print(
            f"{len(one.tests)}x {one.example.splitlines()[0][:160]}{owner}, since {one.first_seen}"
        )
        for test in one.tests[:10]:
            print(f"    {test}")
        if len(one.tests) > 10:
            print(f"    {len(one.tests) - 10} more")
    return 0


def _slow(options: argparse.Namespace) -> int:
    with _open(options) as agg:
        run = agg.run(options.run)
        slowest = agg.slowest(options.top, run_id=run.run_id)
        moved = agg.regressions(branch=run.info.branch or None)[: options.top]
    if options.json:
        _json({"slowest": slowest, "changed": moved})
        return 0
    _table(["time", "slowest"], [(_took(took), test) for test, took in slowest])
    if moved:
        print()
        _table(
            ["before", "now", "changed"],
            [(_took(c.before), _took(c.after), c.test) for c in moved],
        )
    return 0


def _compare(options: argparse.Namespace) -> int:
    with _open(options) as agg:
        made = agg.compare(options.base, options.head)
    if options.json:
        _json(made)
        return 0
    for name in ("new_failures", "fixed", "still_failing", "added", "removed"):
        tests = getattr(made, name)
        print(f"{name.replace('_', ' ')}: {len(tests)}")
        for test in tests[:20]:
            print(f"    {test}")
        if len(tests) > 20:
            print(f"    {len(tests) - 20} more")
    for word, changes in (("slower", made.slower), ("faster", made.faster)):
        print(f"{word}: {len(changes)}")
        for c in changes[:20]:
            print(f"    {_took(c.before)} -> {_took(c.after)}  {c.test}")
    return 0


def _gate(options: argparse.Namespace) -> int:
    with _open(options) as agg:
        run = agg.run(options.run)
        made = agg.gate(_rules(options)).check(run)
    if options.json:
        _json({"run": run.run_id, **_plain(made)})
    else:
        print(f"run {run.run_id}: {'open' if made.ok else 'closed'}")
        for text in made.reasons:
            print(f"  broken: {text}")
        for text in made.notes:
            print(f"  note: {text}")
    return 0 if made.ok else 1


def _shard(options: argparse.Namespace) -> int:
    tests = None
    if options.tests:
        text = (
            sys.stdin.read()
            if options.tests == "-"
            else Path(options.tests).read_text(encoding="utf-8")
        )
        tests = [line for line in text.splitlines() if line]
    if options.index is not None and not 1 <= options.index <= options.count:
        raise ValueError(f"--index must be 1 to {options.count}, got {options.index}")
    with _open(options) as agg:
        made = agg.shards(options.count, by=options.by, tests=tests)
    if options.index is not None:
        made = [made[options.index - 1]]
    if options.json:
        _json(made)
    else:
        print("\n\n".join("\n".join(part) for part in made))
    return 0


def _quarantine(options: argparse.Namespace) -> int:
    with TestResultAggregator() as agg:
        agg.quarantine.load(options.file)
        ended = agg.quarantine.expired()
        entries = agg.quarantine.entries
    if options.json:
        _json({"entries": entries, "expired": ended})
    else:
        _table(
            ["expires", "owner", "test", ""],
            [
                (str(e.expires), e.owner, e.test, "ended" if e in ended else "")
                for e in entries
            ],
        )
    return 1 if ended else 0


def _prune(options: argparse.Namespace) -> int:
    if options.keep is None and options.days is None:
        raise ValueError("say what to forget: --keep RUNS or --days DAYS")
    with _open(options) as agg:
        gone = agg.prune(keep=options.keep, days=options.days)
    if options.json:
        _json({"runs": gone})
    else:
        print(f"{_n(gone, 'run')} forgotten")
    return 0


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(str(row[i])) for row in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        cells = [
            cell if i == len(row) - 1 else cell.ljust(widths[i])
            for i, cell in enumerate(row)
        ]
        print("  ".join(cells).rstrip())


__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
