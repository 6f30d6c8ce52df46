"""The commands of `maestro-results`; each takes its options and returns an exit code."""

# ruff: noqa: T201 - printing is what commands do
import argparse
import sys
from pathlib import Path
from typing import Any

from ._aggregator import TestResultAggregator
from ._console import (
    Progress,
    counted,
    open_history,
    plain,
    print_json,
    print_table,
    rules_of,
    tell,
)
from ._html import sentence
from ._model import Counts
from ._read import found, read_all
from ._run import Run
from ._wording import count, took
from ._write import merge, write_report
from .errors import ResultsError


def _facts(run: Run) -> dict[str, Any]:
    return {
        "run": run.run_id, "commit": run.info.commit, "branch": run.info.branch,
        "counts": run.counts, "duration": run.duration, "shards": run.info.shards,
        "new_failures": run.new_failures, "fixed": run.fixed, "diagnostics": run.diagnostics,
    }  # fmt: skip


def ingest_command(options: argparse.Namespace) -> int:
    environment = {}
    for pair in options.env:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(f"--env expects KEY=VALUE, got {pair!r}")
        environment[key] = value
    progress = Progress()
    found(options.reports, lambda _: None)  # before a history is made for nothing
    with open_history(options, new=True) as agg:
        run = agg.ingest(
            options.reports, run_id=options.run, commit=options.commit, branch=options.branch,
            shard=options.shard, started=options.started, environment=environment,
            format=options.format, replace=options.replace, progress=progress,
        )  # fmt: skip
        progress.end()
        if options.json:
            print_json({**_facts(run), "added": run.added})
        else:
            known = "" if run.added else " (was there already)"
            print(
                f"run {run.run_id}{known}: {counted(run.counts)}; {count(len(run.new_failures), 'new failure')}"
            )
        return tell(run.diagnostics)


def merge_command(options: argparse.Namespace) -> int:
    merged = merge(options.reports, on_duplicate=options.on_duplicate)
    merged.write(options.output)
    if options.json:
        print_json(
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
        print(f"{options.output}: {counted(merged.counts)}{again}")
    return tell(merged.diagnostics)


def convert_command(options: argparse.Namespace) -> int:
    told: list[Any] = []
    results = list(
        read_all(found(options.report, told.append), told.append, format=options.format)
    )
    write_report(results, options.output)
    counts = Counts.of(results)
    if options.json:
        print_json({"counts": counts, "diagnostics": told})
    else:
        print(f"{options.output}: {counted(counts)}")
    return tell(told)


def summary_command(options: argparse.Namespace) -> int:
    with open_history(options) as agg:
        run = agg.run(options.run)
        if options.json:
            print_json(_facts(run))
        elif options.markdown:
            print(
                agg.summary_markdown(
                    run_id=run.run_id, limit=options.limit, rules=rules_of(options)
                ),
                end="",
            )
        elif options.annotations:
            from ._markdown import annotations

            print("\n".join(annotations(run)))
        else:
            gate = agg.gate(rules_of(options)).check(run)
            print(
                sentence(
                    run, gate, agg.store.runs(branch=run.info.branch or None, last=100)
                )
            )
            print_table(
                ["", "tests"],
                [
                    (name, f"{getattr(run.counts, name):,}")
                    for name in Counts.__dataclass_fields__
                ],
            )
    return 0


def report_command(options: argparse.Namespace) -> int:
    with open_history(options) as agg:
        path = agg.report_html(
            options.output,
            run_id=options.run,
            last=options.last,
            rules=rules_of(options),
        )
    size = path.stat().st_size
    if options.json:
        print_json({"path": str(path), "bytes": size})
    else:
        print(f"{path}: {size / 1000:.0f} kB")
    return 0


def flaky_command(options: argparse.Namespace) -> int:
    with open_history(options) as agg:
        flakes = agg.flaky(
            branch=options.branch,
            last=options.last,
            classes=None if options.all else ("flaky",),
        )
    if options.json:
        print_json(flakes)
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
        print_table(["score", "class", "failed", "rate", "test", "evidence"], rows)
    return 0


def failures_command(options: argparse.Namespace) -> int:
    with open_history(options) as agg:
        clusters = agg.run(options.run).failures()
    if options.json:
        print_json(clusters)
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


def slow_command(options: argparse.Namespace) -> int:
    with open_history(options) as agg:
        run = agg.run(options.run)
        slowest = agg.slowest(options.top, run_id=run.run_id)
        moved = agg.regressions(branch=run.info.branch or None)[: options.top]
    if options.json:
        print_json({"slowest": slowest, "changed": moved})
        return 0
    print_table(["time", "slowest"], [(took(spent), test) for test, spent in slowest])
    if moved:
        print()
        print_table(
            ["before", "now", "changed"],
            [(took(c.before), took(c.after), c.test) for c in moved],
        )
    return 0


def compare_command(options: argparse.Namespace) -> int:
    with open_history(options) as agg:
        made = agg.compare(options.base, options.head)
    if options.json:
        print_json(made)
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
            print(f"    {took(c.before)} -> {took(c.after)}  {c.test}")
    return 0


def gate_command(options: argparse.Namespace) -> int:
    with open_history(options) as agg:
        run = agg.run(options.run)
        made = agg.gate(rules_of(options)).check(run)
    if options.json:
        print_json({"run": run.run_id, **plain(made)})
    else:
        print(f"run {run.run_id}: {'open' if made.ok else 'closed'}")
        for text in made.reasons:
            print(f"  broken: {text}")
        for text in made.notes:
            print(f"  note: {text}")
    return 0 if made.ok else 1


def shard_command(options: argparse.Namespace) -> int:
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
    with open_history(options) as agg:
        made = agg.shards(options.count, by=options.by, tests=tests)
        if not any(made):
            raise ResultsError(
                f"{options.tests or options.store}: no tests to split: "
                + ("the list is empty" if options.tests else "the latest run has none")
            )
    if options.index is not None:
        made = [made[options.index - 1]]
    if options.json:
        print_json(made)
    else:
        print("\n\n".join("\n".join(part) for part in made))
    return 0


def quarantine_command(options: argparse.Namespace) -> int:
    with TestResultAggregator() as agg:
        agg.quarantine.load(options.file)
        ended = agg.quarantine.expired()
        entries = agg.quarantine.entries
    if options.json:
        print_json({"entries": entries, "expired": ended})
    else:
        print_table(
            ["expires", "owner", "test", ""],
            [
                (str(e.expires), e.owner, e.test, "ended" if e in ended else "")
                for e in entries
            ],
        )
    return 1 if ended else 0


def prune_command(options: argparse.Namespace) -> int:
    if options.keep is None and options.days is None:
        raise ValueError("say what to forget: --keep RUNS or --days DAYS")
    with open_history(options) as agg:
        gone = agg.prune(keep=options.keep, days=options.days)
    if options.json:
        print_json({"runs": gone})
    else:
        print(f"{count(gone, 'run')} forgotten")
    return 0
