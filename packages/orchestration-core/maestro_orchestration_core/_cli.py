"""maestro-orchestrate: plan, run, watch, recover and measure."""

import argparse
import asyncio
import getpass
import json
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from ._budget import Budget
from ._fold import RunView
from ._journal import Journal
from ._monitor import MonitorServer, Watch, draw, follow
from ._persona import PersonaRegistry
from ._report import RunReport, compare, metrics, report_of, spans_json, text, to_csv
from ._settings import RunFile
from ._touches import JournalLeases
from .errors import BudgetError, OrchestrationError, SettingsError

_EXAMPLE: Final = """\
example, with this in plan.toml:

    journal = "runs.db"

    [budget]
    calls = 10

    [agents.writer]
    command = ["echo", "Draft: {prompt}"]

    [[tasks]]
    name = "draft"
    prompt = "why budgets need reservations"

    [[tasks]]
    name = "review"
    prompt = "is the draft fine?"
    after = ["draft"]

  maestro-orchestrate plan plan.toml
  maestro-orchestrate run plan.toml --run-id first
  maestro-orchestrate monitor first --summary

exit codes:
  0 done      1 a task failed      2 wrong use or settings      3 budget
  4 gate      5 conflict           75 waits for a person        130 interrupted or SIGTERM
"""
OK, FAILED, USAGE, BUDGET, GATE, CONFLICT = range(6)
WAITS, INTERRUPTED = 75, 130
_Command = Callable[..., argparse.ArgumentParser]
_BY_REASON: Final = {"budget": BUDGET, "gate": GATE, "conflict": CONFLICT}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    args = _parser().parse_args(argv)
    try:
        code: int = args.go(args)
    # ImportError: an extra; those of the run file are SettingsError.
    except (SettingsError, ImportError) as error:
        print(f"maestro-orchestrate: {error}", file=sys.stderr)
        return USAGE
    except (OrchestrationError, sqlite3.Error) as error:
        print(f"maestro-orchestrate: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        print(
            "interrupted; run it again with the same run id to go on", file=sys.stderr
        )
        return INTERRUPTED
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maestro-orchestrate",
        description="Many agents on one plan.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str,
        go: Callable[[argparse.Namespace], int],
        about: str,
        *,
        journal: bool = True,
    ) -> argparse.ArgumentParser:
        found = commands.add_parser(name, help=about, description=about)
        found.set_defaults(go=go)
        found.add_argument("--json", action="store_true", help="print JSON")
        if journal:
            found.add_argument("--journal", type=Path, default=Path("runs.db"),
                               help="the journal's file (runs.db)")  # fmt: skip
        return found

    _add_plans(command)
    _add_views(command)
    _add_decisions(command)
    return parser


def _add_plans(command: _Command) -> None:
    plan = command(
        "plan", _plan, "show tiers, bound, conflicts and who does what", journal=False
    )
    plan.add_argument("file", type=Path)
    plan.add_argument("--workers", type=int)
    run = command("run", _run, "run a plan, or go on with it", journal=False)
    run.add_argument("file", type=Path)
    run.add_argument("--run-id")
    run.add_argument("--journal", type=Path)
    run.add_argument("--dry-run", action="store_true", help="only check and explain")
    run.add_argument("--budget-usd", help="replaces the file's limit")
    run.add_argument("--budget-tokens", type=int, help="replaces the file's limit")
    run.add_argument("--max-workers", type=int)
    run.add_argument("--wait", action="store_true", help="wait for people's decisions")


def _add_views(command: _Command) -> None:
    watch = command("monitor", _watch, "look at a run from another process")
    watch.add_argument("run", nargs="?")
    how = watch.add_mutually_exclusive_group()
    how.add_argument("--follow", action="store_true", help="until it ends")
    how.add_argument("--summary", action="store_true", help="how it came out")
    how.add_argument("--web", action="store_true", help="serve the page on loopback")
    watch.add_argument("--port", type=int, default=0)
    recover = command("recover", _recover, "list, resume, discard, fork, settle")
    recover.add_argument(
        "what", choices=["list", "resume", "discard", "fork", "in-doubt"]
    )
    recover.add_argument("run", nargs="?")
    recover.add_argument("--file", type=Path, help="the run file, to resume")
    recover.add_argument("--at", type=int, help="fork after this event")
    recover.add_argument("--to", help="name of the fork")
    recover.add_argument("--task", help="task in doubt")
    recover.add_argument("--how", choices=["retry", "done", "fail"])
    recover.add_argument(
        "--text", default="", help="the answer of a call that was done"
    )
    numbers = command("metrics", _metrics, "numbers of runs")
    numbers.add_argument("what", choices=["show", "export", "compare"])
    numbers.add_argument("run")
    numbers.add_argument("other", nargs="?")
    numbers.add_argument("--format", choices=["json", "csv", "otel"], default="json")
    persona = command(
        "persona", _persona, "list, show, explain or check personas", journal=False
    )
    persona.add_argument("what", choices=["list", "show", "explain", "validate"])
    persona.add_argument("path", type=Path)
    persona.add_argument("name", nargs="?")


def _add_decisions(command: _Command) -> None:
    for name, about in (("approve", "grant an approval"), ("deny", "deny an approval")):
        found = command(name, _decide, about)
        found.set_defaults(kind=name)
        found.add_argument("run")
        found.add_argument("approval", help="such as task:before")
        found.add_argument("--by", default=_me())
        found.add_argument("--note", default="")
    cancel = command("cancel", _cancel, "cancel a run or one task")
    cancel.add_argument("run")
    cancel.add_argument("task", nargs="?")
    command("locks", _locks, "who holds which lease")
    gc = command("gc", _gc, "drop large answers of old finished runs")
    gc.add_argument("--keep-days", type=float, default=30.0)
    doctor = command("doctor", _doctor, "check journal, git, plan, models, budget")
    doctor.add_argument("file", type=Path, nargs="?")


def _me() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid {os.getuid()}"


def _print(args: argparse.Namespace, value: Any, plain: str) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False) if args.json else plain)


def _plan(args: argparse.Namespace) -> int:
    file = RunFile.load(args.file)
    workers = args.workers or file.workers
    forecast = file.plan.forecast(workers)
    conflicts = [asdict(c) for c in file.plan.conflicts()]
    value = {"levels": file.plan.levels, **asdict(forecast), "conflicts": conflicts}
    _print(args, value, file.plan.explain(workers=workers, personas=file.people()))
    return OK


def _run(args: argparse.Namespace) -> int:
    file = RunFile.load(args.file)
    budget = _budget(file.budget, args)
    maestro = file.build(journal=args.journal, workers=args.max_workers, budget=budget)
    if args.dry_run:
        for task in file.plan:
            maestro.route(task)
        _print(args, {"ok": True}, maestro.explain(file.plan))
        return OK

    async def go() -> RunReport:
        async with maestro.start(file.plan, run_id=args.run_id) as run:
            if not args.json:
                print(f"run {run.id}, journal {maestro.journal}", flush=True)
            return await run.result(wait=args.wait)

    return _finish(args, _driven(go()))


def _driven(work: Coroutine[Any, Any, RunReport]) -> RunReport:
    """Return the report of a run; SIGTERM pauses it as ^C does."""

    async def main() -> RunReport:
        task = asyncio.current_task()
        if task and threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _budget(given: Budget | None, args: argparse.Namespace) -> Budget | None:
    if args.budget_usd is None and args.budget_tokens is None:
        return given
    data: dict[str, Any] = given.to_dict() if given else {}
    if args.budget_usd is not None:
        data["usd"] = args.budget_usd
    if args.budget_tokens is not None:
        data["tokens"] = args.budget_tokens
    return Budget.from_dict(data)


def _finish(args: argparse.Namespace, report: RunReport) -> int:
    lines = [f"{report.run}: {report.status}"]
    if not report.ok:
        lines.append(report.why())
    _print(args, report.to_json(), "\n".join(lines))
    return exit_code(report)


def exit_code(report: RunReport) -> int:
    """Return what the command ends with for a report."""
    if report.ok:
        return OK
    reasons = {t.reason for t in report.tasks.values() if t.reason not in {"", "ok"}}
    for reason, code in _BY_REASON.items():
        if reason in reasons:
            return code
    return WAITS if report.status == "paused" else FAILED


def _latest(journal: Journal, run: str | None) -> str:
    if run:
        return journal.require(run)
    runs = journal.runs()
    if not runs:
        raise SettingsError("no runs yet", source=str(journal.path))
    return runs[-1].run


def _watch(args: argparse.Namespace) -> int:
    if args.web:
        with MonitorServer(args.journal, port=args.port) as server:
            query = f"?run={args.run}" if args.run else ""
            print(f"{server.url}{query}", flush=True)
            while True:
                time.sleep(3600)
    with Journal(args.journal, create=False) as journal:
        run = _latest(journal, args.run)
        watch = Watch(run)
        watch.read(journal)
        view, events = watch.view, watch.recent
    if args.follow:
        follow(args.journal, run, write=_write, tty=sys.stdout.isatty())
        return OK
    report = report_of(view)
    if args.summary:
        return _finish(args, report)
    width = os.get_terminal_size().columns if sys.stdout.isatty() else 100
    _print(args, report.to_json(), draw(view, events, width=width))
    return OK


def _write(out: str) -> None:
    sys.stdout.write(out)
    sys.stdout.flush()


def _recover(args: argparse.Namespace) -> int:
    if args.what == "resume":
        if args.file is None or args.run is None:
            raise SettingsError("resume needs a run and --file", key="recover")
        file = RunFile.load(args.file)
        with Journal(args.journal, create=False) as journal:
            journal.require(args.run)
        maestro = file.build(journal=args.journal)
        return _finish(args, _driven(maestro.run(file.plan, run_id=args.run)))
    with Journal(args.journal, create=False) as journal:
        if args.what == "list":
            rows = [
                {**asdict(s), "live": journal.is_running(s.run)} for s in journal.runs()
            ]
            plain = "\n".join(
                f"{r['run']:30} {r['status']:10} {r['events']:6} events"
                + ("  live" if r["live"] else "")
                for r in rows
            )
            _print(args, rows, plain or "no runs")
            return OK
        run = _latest(journal, args.run)
        if args.what == "discard":
            journal.discard(run)
            _print(args, {"discarded": run}, f"discarded {run}")
            return OK
        if args.what == "fork":
            new = args.to or f"{run}-fork"
            count = journal.fork(run, new, at=args.at)
            _print(args, {"run": new, "events": count}, f"{new}: {count} events")
            return OK
        return _in_doubt(args, journal, run)


def _in_doubt(args: argparse.Namespace, journal: Journal, run: str) -> int:
    view = RunView.of(run, journal.events(run))
    doubt = [t for t in view.tasks.values() if t.state.value == "in_doubt"]
    if args.task:
        if args.task not in {t.name for t in doubt}:
            raise SettingsError(f"{args.task!r} is not in doubt", key="--task")
        if not args.how:
            raise SettingsError("say --how retry, done or fail", key="--how")
        data = {"task": args.task, "how": args.how, "text": args.text}
        journal.post(run, "resolve", {**data, "by": _me()})
        _print(args, data, f"{args.task}: {args.how}, taken up by the run")
        return OK
    rows = [{"task": t.name, "call": t.waits_for, "detail": t.detail} for t in doubt]
    plain = "\n".join(f"{r['task']}: {r['detail']}" for r in rows)
    _print(args, rows, plain or "nothing is in doubt")
    return WAITS if rows else OK


def _metrics(args: argparse.Namespace) -> int:
    with Journal(args.journal, create=False) as journal:
        found = _numbers(journal, args.run)
        if args.what == "compare":
            if not args.other:
                raise SettingsError("compare needs two runs", key="metrics")
            rows = compare(found, _numbers(journal, args.other))
            plain = "\n".join(
                f"{r['what']:20} {r['left']!s:>12} {r['right']!s:>12} "
                f"{r['ratio'] if r['ratio'] is not None else '':>8}"
                for r in rows
            )
            _print(args, rows, plain)
        elif args.what == "show":
            _print(args, found, text(found))
        elif args.format == "csv":
            print(to_csv(found), end="")
        elif args.format == "otel":
            print(json.dumps(spans_json(list(journal.events(args.run))), indent=1))
        else:
            print(json.dumps(found, indent=1))
    return OK


def _numbers(journal: Journal, run: str) -> dict[str, Any]:
    journal.require(run)
    return metrics(RunView.of(run, journal.events(run)))


def _persona(args: argparse.Namespace) -> int:
    registry, problems = PersonaRegistry.check(args.path)
    if args.what == "validate":
        found = [str(p) for p in problems]
        _print(args, {"ok": not found, "problems": found},
               "\n".join(found) or f"{len(registry)} personas, no problem")  # fmt: skip
        return USAGE if found else OK
    if problems:
        raise problems[0]
    if args.what == "list":
        rows = {p.name: p.summary for p in registry.values()}
        _print(args, rows, "\n".join(f"{n:20} {s}" for n, s in rows.items()))
        return OK
    if not args.name:
        raise SettingsError(f"{args.what} needs a name", key="persona")
    persona = registry[args.name]
    value = {
        "name": persona.name, "summary": persona.summary,
        "capabilities": dict(persona.capabilities), "tools": list(persona.tools),
        "instructions": persona.instructions, "provenance": dict(persona.provenance),
    }  # fmt: skip
    plain = registry.explain(args.name)
    if args.what == "show":
        plain = f"{plain.splitlines()[0]}\n{persona.instructions}"
    _print(args, value, plain)
    return OK


def _post(args: argparse.Namespace, kind: str, data: Mapping[str, Any]) -> int:
    with Journal(args.journal, create=False) as journal:
        journal.require(args.run)
        journal.post(args.run, kind, data)
        live = journal.is_running(args.run)
    when = "now" if live else "when the run is started again"
    _print(args, {"posted": kind, "live": live}, f"posted; takes effect {when}")
    return OK


def _decide(args: argparse.Namespace) -> int:
    with Journal(args.journal, create=False) as journal:
        journal.require(args.run)
        view = RunView.of(args.run, journal.events(args.run))
    known = [k for k, v in view.approvals.items() if v == "requested"]
    if args.approval not in known:
        raise SettingsError(
            f"no open approval {args.approval!r}; open are: {', '.join(known) or 'none'}"
        )
    data = {"approval": args.approval, "by": args.by, "note": args.note}
    return _post(args, args.kind, data)


def _cancel(args: argparse.Namespace) -> int:
    return _post(args, "cancel", {"task": args.task, "by": _me()})


def _locks(args: argparse.Namespace) -> int:
    with Journal(args.journal, create=False) as journal:
        rows = [asdict(lease) for lease in JournalLeases(journal).held()]
    plain = "\n".join(f"{r['name']:30} {r['holder']}" for r in rows)
    _print(args, rows, plain or "nothing is held")
    return OK


def _gc(args: argparse.Namespace) -> int:
    if args.keep_days < 0:
        raise BudgetError(f"{args.keep_days} is below zero", key="--keep-days")
    with Journal(args.journal, create=False) as journal:
        freed = journal.gc(keep_s=args.keep_days * 86400)
    _print(args, {"freed": freed}, f"{freed} bytes freed")
    return OK


def _doctor(args: argparse.Namespace) -> int:
    from ._settings import examine

    file = RunFile.load(args.file) if args.file else None
    found = examine(file, file.journal if file else args.journal)
    plain = "\n".join(f"{'ok ' if f.ok else 'BAD'} {f.what}: {f.detail}" for f in found)
    _print(args, [asdict(f) for f in found], plain)
    return OK if all(f.ok for f in found) else FAILED
