"""The command `maestro-workflow`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .errors import (
    DecisionNeededError,
    DefinitionError,
    OptionError,
    ParameterError,
    RunError,
    WorkflowError,
    did_you_mean,
)

if TYPE_CHECKING:
    from ._engine import WorkflowEngine
    from ._journal import Journal
    from ._run import Run
    from ._workflow import Workflow

_Verb = Callable[..., argparse.ArgumentParser]
OK, FAILED, USAGE, WAITING, REFUSED, INTERRUPTED = 0, 1, 2, 3, 4, 130
_TRACEBACKS = 3  # shown at the end of a run; `status --why` shows any

_EPILOG = """\
A TARGET is the path of a YAML or JSON document, or MODULE:NAME or FILE.py:NAME of a
workflow in Python.

example:
  maestro-workflow plan nightly.yaml --workers 1,2,4
  maestro-workflow run nightly.yaml -p day=monday --journal runs.db --run night-1
  maestro-workflow status night-1 --why publish --journal runs.db
  maestro-workflow resume night-1 --journal runs.db

exit codes:
  0  done                 3  the run waits for a gate or a decision
  1  failed or not valid  4  refused: another process runs it, changed, no such run,
  2  wrong usage, or an      a file that cannot be read or written
     extra is missing     130  interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code."""
    args = _parser().parse_args(argv)
    verb: Callable[[argparse.Namespace], int] = args.verb
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return verb(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except (DefinitionError, ParameterError) as error:
        return _complain(args, error, FAILED)
    except DecisionNeededError as error:
        return _complain(args, error, WAITING)
    except (OptionError, ImportError) as error:
        return _complain(args, error, USAGE)
    except WorkflowError as error:
        return _complain(args, error, REFUSED)
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does; that is no failure.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:
        return _complain(args, _cannot(error), REFUSED)


def _cannot(error: OSError) -> RunError:
    """Say which file is the trouble, and what to look at."""
    reason = error.strerror or str(error)
    advice = ""
    if isinstance(error, PermissionError):
        advice = "; check that this user may read and write it"
    elif isinstance(error, FileNotFoundError):
        advice = "; check that its folder exists"
    name = f"{error.filename}: " if error.filename else ""
    return RunError("", f"{name}{reason}{advice}")


def _complain(args: argparse.Namespace, error: Exception, code: int) -> int:
    if args.json:
        problems = getattr(error, "problems", ())
        print(
            json.dumps(
                {
                    "error": type(error).__name__,
                    "message": str(error),
                    "problems": [
                        {"where": p.where, "message": p.message} for p in problems
                    ],
                }
            )
        )
    print(f"maestro-workflow: {error}", file=sys.stderr)
    return code


class _Given(NamedTuple):
    """Options that several verbs share."""

    shared: argparse.ArgumentParser
    journal: argparse.ArgumentParser
    target: argparse.ArgumentParser
    engine: argparse.ArgumentParser
    one: argparse.ArgumentParser
    output: argparse.ArgumentParser


def _given() -> _Given:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", action="store_true", help="print JSON")
    journal = argparse.ArgumentParser(add_help=False)
    journal.add_argument(
        "--journal",
        default="maestro-runs.db",
        help="the journal (default: %(default)s)",
    )
    target = argparse.ArgumentParser(add_help=False)
    target.add_argument("target")
    target.add_argument(
        "-p", "--param", action="append", default=[], metavar="NAME=VALUE",
        help="a parameter; may be repeated",
    )  # fmt: skip
    engine = argparse.ArgumentParser(add_help=False)
    engine.add_argument("--executor", default="threads", help="default: %(default)s")
    engine.add_argument("--workers", type=int, help="steps at a time")
    engine.add_argument(
        "--policy", default="critical-path", help="default: %(default)s"
    )
    one = argparse.ArgumentParser(add_help=False)
    one.add_argument("run")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("-o", "--output", help="the file to write; default: print")
    return _Given(shared, journal, target, engine, one, output)


def _parser() -> argparse.ArgumentParser:
    given = _given()
    parser = argparse.ArgumentParser(
        prog="maestro-workflow",
        description="Plan, run, watch and resume workflows.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(
        name: str, call: Callable[[argparse.Namespace], int], about: str,
        *parents: argparse.ArgumentParser,
    ) -> argparse.ArgumentParser:  # fmt: skip
        made = verbs.add_parser(
            name, help=about, description=about, parents=[given.shared, *parents], epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        made.set_defaults(verb=call)
        return made

    _add_running(verb, given)
    _add_reading(verb, given)
    return parser


def _add_running(verb: _Verb, given: _Given) -> None:
    """Add the verbs that plan and run, and that speak to a run."""
    verb(
        "validate",
        _validate,
        "check a workflow, telling everything wrong",
        given.target,
    )
    plan = verb("plan", _plan, "forecast a run", given.target)
    plan.add_argument("--workers", default="1,2,4,8", help="default: %(default)s")
    plan.add_argument("--search", type=int, default=0, help="schedules to try")
    plan.add_argument(
        "--tiers", action="store_true", help="show each step's tier and why"
    )
    plan.add_argument("--journal", help="take durations from this journal")
    run = verb("run", _run, "run a workflow", given.target, given.engine, given.journal)
    run.add_argument("--run", help="a name for the run")
    verb("watch", _watch, "follow a run until it is over", given.one, given.journal)
    verb(
        "pause", _tell, "let a live run start nothing new", given.one, given.journal
    ).set_defaults(message="pause")
    go_on = verb(
        "continue",
        _continue,
        "go on after pause or a gate",
        given.one,
        given.engine,
        given.journal,
    )
    go_on.add_argument("--gate", action="append", default=[], help="the gate to pass")
    verb("cancel", _cancel, "stop a run", given.one, given.journal)
    resume = verb(
        "resume",
        _resume,
        "go on with a run that ended early",
        given.one,
        given.engine,
        given.journal,
    )
    resume.add_argument(
        "--workflow", metavar="TARGET", help="if it cannot be found again"
    )
    resume.add_argument("--accept-changes", action="store_true")
    for decision in ("retry", "skip", "fail"):
        resume.add_argument(
            f"--{decision}", action="append", default=[], metavar="STEP"
        )


def _add_reading(verb: _Verb, given: _Given) -> None:
    """Add the verbs that show and move what has been run, and the worker."""
    status = verb(
        "status", _status, "show runs, one run, or why a step is so", given.journal
    )
    status.add_argument("run", nargs="?")
    status.add_argument("--why", metavar="STEP", help="explain one step")
    verb(
        "trace",
        _trace,
        "write a trace for Perfetto",
        given.one,
        given.output,
        given.journal,
    )
    verb(
        "report",
        _report,
        "write a page with Gantt chart",
        given.one,
        given.output,
        given.journal,
    )
    verb(
        "export",
        _export,
        "write a run as JSON Lines",
        given.one,
        given.output,
        given.journal,
    )
    load = verb("import", _import, "add a run that was exported", given.journal)
    load.add_argument("file")
    compare = verb(
        "compare",
        _compare,
        "show what changed between two runs",
        given.one,
        given.journal,
    )
    compare.add_argument("other")
    serve = verb("worker", _worker, "run steps that an engine puts into Redis")
    serve.add_argument("--url", required=True, help="such as redis://127.0.0.1:6379/0")
    serve.add_argument(
        "--allow", action="append", required=True, metavar="MODULE",
        help="a module whose functions may be called; may be repeated",
    )  # fmt: skip
    serve.add_argument("--stream", default="maestro:streams:steps")
    serve.add_argument("--lease", type=float, default=5.0, help="seconds (default: 5)")
    serve.add_argument("--concurrency", type=int, default=1)
    graph = verb("graph", _graph, "draw a workflow", given.target, given.output)
    graph.add_argument("--format", choices=("mermaid", "dot", "svg"), default="mermaid")


def _built(args: argparse.Namespace) -> Workflow:
    from ._target import find_target
    from ._template import Template
    from ._workflow import Workflow

    texts: dict[str, str] = {}
    for pair in args.param:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ParameterError(name, f"expected -p NAME=VALUE, got {pair!r}")
        texts[name] = text
    found = find_target(args.target)
    if isinstance(found, Template):
        built = found.build(**found.parse(texts))
    elif isinstance(found, Workflow):
        built = found
    else:
        from ._document import load_texts

        return load_texts(found, texts)
    built.source = args.target
    return built


def _opened(args: argparse.Namespace) -> Journal:
    from ._journal import Journal

    if not Path(args.journal).exists():
        raise RunError(
            getattr(args, "run", None) or "",
            f"there is no journal {args.journal!r} here; name it with --journal",
        )
    return Journal(args.journal)


def _engine(args: argparse.Namespace, **more: Any) -> WorkflowEngine:
    from ._engine import WorkflowEngine

    return WorkflowEngine(
        args.executor, workers=args.workers, policy=args.policy, **more
    )


def _print(args: argparse.Namespace, data: Any, text: str) -> None:
    print(json.dumps(data, ensure_ascii=False, default=str) if args.json else text)


def _write(args: argparse.Namespace, text: str) -> int:
    if args.output:
        Path(args.output).write_text(text, encoding="utf-8")
        _print(args, {"output": args.output}, f"wrote {args.output}")
    else:
        sys.stdout.write(text)
    return OK


def _validate(args: argparse.Namespace) -> int:
    built = _built(args)
    built.validate()
    data = {"workflow": built.name, "steps": len(built), "valid": True}
    _print(args, data, f"{built.name}: {len(built)} steps, valid")
    return OK


def _plan(args: argparse.Namespace) -> int:
    built = _built(args)
    known = {}
    if args.journal:
        with _opened(args) as journal:
            known = journal.durations(built.name)
    try:
        counts = [int(part) for part in args.workers.split(",")]
    except ValueError:
        text = f"expected numbers such as 1,2,4 in --workers, got {args.workers!r}"
        raise OptionError("workers", text) from None
    plan = built.plan(counts, durations=known, search=args.search)
    text = str(plan)
    data = plan.as_dict()
    if args.tiers:
        tiers = plan.tiers()
        text += "".join(f"\n{t.tier:>11}  {t.step}: {t.reason}" for t in tiers)
        data["tiers"] = [
            {"step": t.step, "tier": t.tier, "reason": t.reason} for t in tiers
        ]
    _print(args, data, text)
    return OK


def _run(args: argparse.Namespace) -> int:
    built = _built(args)
    built.validate()
    with _engine(args, journal=args.journal) as engine:
        return _ended(args, engine.run(built, run_id=args.run))


def _ended(args: argparse.Namespace, run: Run) -> int:
    from ._cause import traceback_of

    data: dict[str, Any] = {
        "run": run.id, "workflow": run.workflow, "state": run.state, "counts": run.counts,
        "seconds": run.seconds, "waiting": list(run.waiting),
        "errors": {name: str(error) for name, error in run.errors.items()},
    }  # fmt: skip
    raised = {name: traceback_of(error.__cause__) for name, error in run.errors.items()}
    data["tracebacks"] = {name: text for name, text in raised.items() if text}
    lines = []
    for number, (name, error) in enumerate(run.errors.items()):
        lines.append(f"{name}: {error}")
        if number < _TRACEBACKS:  # the others are likely to be of the same kind
            lines += [f"    {line}" for line in raised[name].splitlines()]
    counts = ", ".join(f"{count} {state}" for state, count in run.counts.items())
    lines.append(f"{run.id}: {run.state} in {run.seconds:.3g}s ({counts})")
    if run.waiting:
        gates = " ".join(f"--gate {gate}" for gate in run.waiting)
        lines.append(f"to go on: maestro-workflow continue {run.id} {gates}")
    _print(args, data, "\n".join(lines))
    return {"succeeded": OK, "waiting": WAITING}.get(run.state, FAILED)


def _status(args: argparse.Namespace) -> int:
    from ._status import read_status, why
    from ._watch import summary

    with _opened(args) as journal:
        if args.run is None:
            runs = journal.runs()
            data = [
                {"run": r.id, "workflow": r.workflow, "state": r.state} for r in runs
            ]
            _print(
                args, data, "\n".join(f"{r.id}  {r.workflow}  {r.state}" for r in runs)
            )
            return OK
        status = read_status(journal, args.run)
    if args.why:
        lines = why(status, args.why)
        _print(args, {"step": args.why, "why": lines}, "\n".join(lines))
        return OK
    lines = [summary(status)]
    for step in status.steps.values():
        if step.state not in ("succeeded", "pending"):
            lines.append(f"  {step.name}: {step.state} {step.note}".rstrip())
    _print(args, status.as_dict(), "\n".join(lines))
    return OK


def _watch(args: argparse.Namespace) -> int:
    from ._watch import watch

    with _opened(args) as journal:
        status = watch(journal, args.run, sys.stderr if args.json else sys.stdout)
    if args.json:
        print(json.dumps(status.as_dict()))
    return {"succeeded": OK, "waiting": WAITING}.get(status.state, FAILED)


def _tell(args: argparse.Namespace) -> int:
    with _opened(args) as journal:
        info = journal.info(args.run)
        if not info.live:
            raise RunError(
                args.run, f"run {args.run!r} is not live, it is {info.state}"
            )
        journal.tell(args.run, args.message)
    _print(args, {"told": args.message}, f"told {args.run} to {args.message}")
    return OK


def _continue(args: argparse.Namespace) -> int:
    with _opened(args) as journal:
        info = journal.info(args.run)
        names = journal.shape(info.key).names if args.gate else []
        for gate in args.gate:
            if gate not in names and "/" not in gate:  # with one, it may be added work
                hint = did_you_mean(gate, names)
                text = f"run {args.run!r} has no gate {gate!r}{hint}"
                raise RunError(args.run, text)
        if info.live:
            for gate in args.gate:
                journal.tell(args.run, "approve", gate)
            if not args.gate:
                journal.tell(args.run, "continue")
            _print(args, {"told": "continue"}, f"told {args.run} to go on")
            return OK
    if not args.gate and info.state == "waiting":
        raise RunError(
            args.run, f"run {args.run!r} waits at a gate: name it with --gate"
        )
    with _engine(args, journal=args.journal) as engine:
        return _ended(args, engine.resume(args.run, approve=args.gate))


def _cancel(args: argparse.Namespace) -> int:
    with _opened(args) as journal:
        info = journal.info(args.run)
        if info.live:
            journal.tell(args.run, "cancel")
            text = f"told {args.run} to stop"
        elif info.state in ("succeeded", "failed", "cancelled"):
            raise RunError(args.run, f"run {args.run!r} is over: {info.state}")
        else:
            journal.finish(journal.take_over(args.run), "cancelled")
            text = f"{args.run} is cancelled"
    _print(args, {"cancel": args.run}, text)
    return OK


def _resume(args: argparse.Namespace) -> int:
    from ._target import load_target

    _opened(args).close()
    with _engine(args, journal=args.journal) as engine:
        workflow = None
        if args.workflow:
            assert engine.journal is not None
            workflow = load_target(args.workflow, engine.journal.info(args.run).params)
        run = engine.resume(
            args.run, workflow, accept_changes=args.accept_changes,
            retry=args.retry, skip=args.skip, fail=args.fail,
        )  # fmt: skip
        return _ended(args, run)


def _trace(args: argparse.Namespace) -> int:
    from ._status import read_status
    from ._trace import chrome_trace

    with _opened(args) as journal:
        return _write(
            args, json.dumps(chrome_trace(read_status(journal, args.run))) + "\n"
        )


def _report(args: argparse.Namespace) -> int:
    from ._report import report_page
    from ._status import metrics, read_status

    with _opened(args) as journal:
        status = read_status(journal, args.run)
    if args.json and not args.output:
        print(json.dumps(metrics(status)))
        return OK
    return _write(args, report_page(status))


def _export(args: argparse.Namespace) -> int:
    from ._trace import export_lines

    with _opened(args) as journal:
        if not args.output:
            for line in export_lines(journal, args.run):
                print(line)
            return OK
        with Path(args.output).open("w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in export_lines(journal, args.run))
    _print(args, {"output": args.output}, f"wrote {args.output}")
    return OK


def _import(args: argparse.Namespace) -> int:
    from ._journal import Journal
    from ._trace import import_lines

    with (
        Path(args.file).open(encoding="utf-8") as file,
        Journal(args.journal) as journal,
    ):
        run_id = import_lines(journal, file)
    _print(args, {"run": run_id}, f"added {run_id}")
    return OK


def _compare(args: argparse.Namespace) -> int:
    from ._plan import human
    from ._status import compare, metrics, read_status

    with _opened(args) as journal:
        one, other = (read_status(journal, name) for name in (args.run, args.other))
    before, after = metrics(one), metrics(other)
    rows = compare(one, other)
    lines = [f"{'':24} {args.run:>14} {args.other:>14}"]
    lines += [
        f"{key:24} {human(before[key]):>14} {human(after[key]):>14}"
        for key in ("seconds", "work", "critical_seconds")
    ]
    lines += [
        f"{key:24} {before[key]:>14.2f} {after[key]:>14.2f}"
        for key in ("speedup", "use")
    ]
    for row in rows[:20]:
        cells = [
            "-" if row[key] is None else human(row[key]) for key in ("before", "after")
        ]
        lines.append(f"{row['step'][:24]:24} {cells[0]:>14} {cells[1]:>14}")
    _print(args, {"before": before, "after": after, "steps": rows}, "\n".join(lines))
    return OK


def _worker(args: argparse.Namespace) -> int:
    from .redis import stream_of, worker

    sys.path.insert(0, str(Path.cwd()))
    made = worker(
        args.url, args.allow, stream=stream_of(args.stream, lease=args.lease),
        concurrency=args.concurrency,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    stats = made.run()
    _print(args, {"done": stats.done}, f"ran {stats.done} attempts")
    return OK


def _graph(args: argparse.Namespace) -> int:
    from ._draw import draw

    built = _built(args)
    built.validate()
    return _write(args, draw(built, args.format))


if __name__ == "__main__":
    sys.exit(main())
