"""The command line: maestro-test discover, run, plan, doctor."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from maestro_test_adapters._doctor import examine
from maestro_test_adapters._events import Output, RunWarning, TestFinished
from maestro_test_adapters._files import write_report
from maestro_test_adapters._model import Report, TestResult
from maestro_test_adapters._plan import RENDER, run_plan
from maestro_test_adapters._registry import get_adapter
from maestro_test_adapters._runner import RunnerAdapter
from maestro_test_adapters.errors import RunnerFailed, TestAdaptersError

_EPILOG = """\
examples:
  maestro-test run tests --retries 1 --out out/ctrf.json --out out/junit.xml
  maestro-test run --adapter command --reads go-json -- go test -json ./...
  maestro-config render --mapping plan.yaml | maestro-test plan -
  maestro-test doctor

exit codes: 0 all is well, 1 a test failed, 2 wrong usage or nothing could run,
130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        code: int = arguments.command(arguments)
    except (TestAdaptersError, ImportError, OSError, ValueError) as error:
        print(f"maestro-test: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("maestro-test: interrupted", file=sys.stderr)
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maestro-test",
        description="Run tests of any framework, execute plans, look for browsers.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, does, words in (
        ("discover", _discover, "name the tests, run none"),
        ("run", _run, "run the tests"),
    ):
        command = commands.add_parser(name, help=words, description=words)
        command.set_defaults(command=does)
        _add_runner(command)
        if name == "run":
            _add_run(command)
    plan = commands.add_parser(
        "plan", help="execute a plan", description="Execute a plan."
    )
    plan.set_defaults(command=_plan)
    plan.add_argument("file", help="a plan rendered as JSON; - for standard input")
    plan.add_argument("--artifacts", default="artifacts", help="folder for screenshots")
    _add_output(plan)
    doctor = commands.add_parser(
        "doctor",
        help="say what is installed",
        description="Say which browsers, drivers and runners there are.",
    )
    doctor.set_defaults(command=_doctor)
    doctor.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _add_runner(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", nargs="*", help="paths, or the command after --")
    parser.add_argument("--adapter", default="pytest", help="default: pytest")
    parser.add_argument("--python", help="interpreter of the target")
    parser.add_argument("--cwd", default=".", help="folder to start in")
    parser.add_argument("--reads", help="format that a command writes, such as go-json")
    parser.add_argument("--report", help="file or glob that a command leaves")
    parser.add_argument("--shard", help="such as 2/8")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--select", action="append", help="an id; may be repeated")
    parser.add_argument("--markers", "-m", help="the runner's expression")
    parser.add_argument("--failed-first", help="an earlier report")
    parser.add_argument("--retries", type=int, default=0)
    parser.add_argument("--timeout", type=float, help="seconds for the run")
    parser.add_argument("--timeout-per-test", type=float, help="seconds for a test")
    parser.add_argument("--workers", "-n", help="processes, by pytest-xdist")
    parser.add_argument("--stream", help="JSONL file that gets results at once")
    parser.add_argument("--out", action="append", help="report: .json, .xml or .jsonl")


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", action="append", help="report: .json, .xml or .jsonl")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _adapter(arguments: argparse.Namespace) -> RunnerAdapter:
    settings: dict[str, Any] = {"cwd": arguments.cwd, "shard": arguments.shard}
    for name in ("retries", "timeout", "timeout_per_test"):
        if hasattr(arguments, name):
            settings[name] = getattr(arguments, name)
    kind = get_adapter(arguments.adapter)
    if arguments.adapter == "command":
        if not arguments.reads:
            raise ValueError("--adapter command needs --reads, such as --reads junit")
        return _runner(
            kind(
                arguments.what,
                reads=arguments.reads,
                report=arguments.report,
                **settings,
            )
        )
    if arguments.python:
        settings["python"] = arguments.python
    if getattr(arguments, "workers", None):
        settings["workers"] = arguments.workers
    if arguments.adapter == "unittest":
        if len(arguments.what) > 1:
            raise ValueError("unittest takes one folder to start from")
        return _runner(kind(*arguments.what, **settings))
    return _runner(kind(arguments.what, **settings))


def _runner(made: Any) -> RunnerAdapter:
    if not isinstance(made, RunnerAdapter):
        raise TypeError(f"{type(made).__name__} runs no tests: it is no RunnerAdapter")
    return made


def _discover(arguments: argparse.Namespace) -> int:
    cases = _adapter(arguments).discover()
    for case in cases:
        if arguments.json:
            line = {
                "id": case.id,
                "file": case.file,
                "line": case.line,
                "tags": list(case.tags),
                "parameters": dict(case.parameters),
            }
            print(json.dumps(line, ensure_ascii=False))
        else:
            print(case.id)
    return 0 if cases else 1


def _run(arguments: argparse.Namespace) -> int:
    adapter = _adapter(arguments)
    told: set[str] = set()
    try:
        return _follow(adapter, arguments, told)
    except RunnerFailed as error:
        # What the runner wrote to stderr stands there already.
        lines = [line for line in str(error).splitlines() if line not in told]
        print(f"maestro-test: {chr(10).join(lines).rstrip()}", file=sys.stderr)
        return 2


def _follow(
    adapter: RunnerAdapter, arguments: argparse.Namespace, told: set[str]
) -> int:
    with adapter.start(
        select=arguments.select,
        markers=arguments.markers,
        failed_first=arguments.failed_first,
        stream=arguments.stream,
    ) as run:
        for event in run:
            if isinstance(event, TestFinished) and not arguments.json:
                _say(event.result, retry=event.will_retry)
            elif isinstance(event, RunWarning):
                print(f"warning: {event.text}", file=sys.stderr)
            elif isinstance(event, Output) and event.stream == "stderr":
                sys.stderr.write(event.text)
                told.update(event.text.splitlines())
    return _finish(run.report, arguments)


def _plan(arguments: argparse.Namespace) -> int:
    if arguments.file == "-":
        text = sys.stdin.read()
    else:
        text = Path(arguments.file).read_text(encoding="utf-8")
    try:
        plan = json.loads(text)
    except json.JSONDecodeError as error:
        name = "FILE" if arguments.file == "-" else arguments.file
        raise ValueError(
            f"{arguments.file}:{error.lineno}:{error.colno}: not JSON: {error.msg}; "
            f"a YAML plan: `{RENDER} {name} | maestro-test plan -`"
        ) from error
    report = run_plan(
        plan,
        artifacts=arguments.artifacts,
        on_result=None if arguments.json else _say,
    )
    return _finish(report, arguments)


def _say(result: TestResult, *, retry: bool = False) -> None:
    """Print one line for what deserves one."""
    word = "retry" if retry else result.outcome
    print(f"{word:8} {result.id} ({result.duration:.2f} s)", flush=True)
    if not result.ok and result.message:
        print(f"         {result.message.splitlines()[0]}", flush=True)


def _finish(report: Report, arguments: argparse.Namespace) -> int:
    for path in arguments.out or ():
        write_report(report, Path(path))
    if arguments.json:
        print(
            json.dumps(
                {
                    "ok": report.ok,
                    "counts": report.counts,
                    "duration": report.duration,
                    "failures": [
                        {"id": one.id, "outcome": one.outcome, "message": one.message}
                        for one in report.failures
                    ],
                    "problems": list(report.problems),
                    "warnings": list(report.warnings),
                },
                ensure_ascii=False,
            )
        )
    else:
        for problem in report.problems:
            print(f"problem: {problem}", file=sys.stderr)
        print(report.summary())
    return 0 if report.ok else 1


def _doctor(arguments: argparse.Namespace) -> int:
    findings = examine()
    if arguments.json:
        print(
            json.dumps([finding.as_json() for finding in findings], ensure_ascii=False)
        )
    else:
        for finding in findings:
            mark = "found  " if finding.found else "missing"
            print(f"{mark} {finding.what:14} {finding.found or finding.advice}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
