"""The command `maestro-config`."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ._diagnostics import Diagnostic
from ._document import Document
from ._loading import load, load_all
from ._plan import TestPlan
from .errors import ArgumentError, ConfigError

OK, FOUND, USAGE, INTERRUPTED = 0, 1, 2, 130

_EPILOG = """\
example:
  maestro-config validate plans/*.yaml
  maestro-config render --mapping plan.yaml > plan.json
  maestro-config explain plan.yaml suites[0].timeout --overlay ci.yaml
exit codes:
  0 all is well, 1 findings or differences, 2 wrong usage, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    args = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except ArgumentError as e:
        print(f"maestro-config: {e}", file=sys.stderr)
        return USAGE
    except ConfigError as e:
        if args.json:
            _print_json([d.as_dict() for d in e.diagnostics])
        else:
            print(e, file=sys.stderr)
        return FOUND
    except (ValueError, ImportError) as e:
        print(f"maestro-config: {e}", file=sys.stderr)
        return USAGE
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        print("maestro-config: interrupted", file=sys.stderr)
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="maestro-config",
        description="Check, show and explain YAML configuration and test plans.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Any, words: str, *, layers: bool = True) -> Any:
        sub = commands.add_parser(name, help=words, description=words)
        sub.set_defaults(run=run)
        sub.add_argument("--json", action="store_true", help="print JSON")
        if layers:
            sub.add_argument("--overlay", action="append", default=[], metavar="FILE")
            sub.add_argument("--profile", help="a name under the key 'profiles'")
            sub.add_argument(
                "--env", action="store_true", help="replace ${env:NAME} texts"
            )
        return sub

    sub = add("validate", _validate, "check files; report every error at once")
    sub.add_argument("files", nargs="+")
    sub.add_argument(
        "--plan",
        action=argparse.BooleanOptionalAction,
        help="check them as test plans; default: those that have suites",
    )
    sub.add_argument("--schema", metavar="FILE", help="check against a JSON Schema")
    sub.add_argument("--strict", action="store_true", help="warnings count as errors")
    sub.add_argument("--sarif", action="store_true", help="print SARIF 2.1.0")

    sub = add("lint", _lint, "warn about values that other readers misread",
              layers=False)  # fmt: skip
    sub.add_argument("files", nargs="+")
    sub.add_argument("--sarif", action="store_true", help="print SARIF 2.1.0")

    sub = add("render", _render, "print a file with its layers applied")
    sub.add_argument("file")
    sub.add_argument("--mapping", action="store_true", help="expanded test plan, JSON")

    sub = add("diff", _diff, "show what the second file changes")
    sub.add_argument("old")
    sub.add_argument("new")

    sub = add("explain", _explain, "say where a value comes from")
    sub.add_argument("file")
    sub.add_argument("path", help="such as suites[0].timeout")

    sub = add("schema", _schema, "print the JSON Schema of test plans", layers=False)

    sub = add("matrix", _matrix, "list the cases that a test plan expands to")
    sub.add_argument("file")
    return parser


def _load(args: argparse.Namespace, file: str, *, references: str = "keep") -> Document:
    return load(
        file,
        overlays=args.overlay,
        profile=args.profile,
        env=os.environ if args.env else None,
        references=references,
    )


def _validate(args: argparse.Namespace) -> int:
    schema = _read_schema(args.schema)
    found: list[Diagnostic] = []
    unchecked = []
    for file in args.files:
        try:
            document = _load(args, file)
            found.extend(document.warnings)
            plan = args.plan
            if plan is None:
                plan = schema is None and "suites" in document
            if plan:
                document.into(TestPlan)
            if schema is not None:
                document.validate(schema)
            elif not plan:
                unchecked.append(file)
        except ArgumentError:
            raise
        except ConfigError as e:
            found.extend(e.diagnostics)
    code = _report(args, found)
    if unchecked:
        print(
            f"{', '.join(unchecked)}: only the YAML was checked, no schema was given; "
            "--plan checks a test plan, --schema FILE against a JSON Schema",
            file=sys.stderr,
        )
    return code


def _read_schema(file: str | None) -> Any:
    if file is None:
        return None
    try:
        return json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as e:
        raise ValueError(f"cannot read the schema {file}: {e}") from e


def _lint(args: argparse.Namespace) -> int:
    found: list[Diagnostic] = []
    for file in args.files:
        try:
            for document in load_all(file, unknown_tags="ignore"):
                found.extend(document.warnings)
        except ConfigError as e:
            found.extend(e.diagnostics)
    args.strict = True
    return _report(args, found)


def _report(args: argparse.Namespace, found: list[Diagnostic]) -> int:
    errors = sum(d.severity == "error" for d in found)
    if args.sarif:
        _print_json(sarif(found))
    elif args.json:
        _print_json([d.as_dict() for d in found])
    else:
        for diagnostic in found:
            print(diagnostic.render())
        count = len(args.files)
        files = f"{count} file{'s' if count != 1 else ''}"
        print(f"{files}, {errors} errors, {len(found) - errors} warnings")
    return FOUND if errors or (args.strict and found) else OK


def sarif(found: Sequence[Diagnostic]) -> dict[str, Any]:
    """Return findings as a SARIF 2.1.0 log, which code hosts display."""
    results = [
        {
            "ruleId": d.code,
            "level": d.severity,
            "message": {"text": f"{d.message}; {d.hint}" if d.hint else d.message},
            "locations": [
                {
                    "physicalLocation": {
                        "artifactLocation": {"uri": Path(d.file).as_posix()},
                        "region": {
                            "startLine": max(d.line, 1),
                            "startColumn": max(d.column, 1),
                        },
                    }
                }
            ],
        }
        for d in found
    ]
    rules = [{"id": code} for code in sorted({d.code for d in found})]
    driver = {"name": "maestro-config", "rules": rules}
    return {
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }


def _render(args: argparse.Namespace) -> int:
    if args.mapping:
        plan = _load(args, args.file, references="refuse").into(TestPlan)
        _print_json(plan.mapping())
    else:
        document = _load(args, args.file)
        print(document.render("json" if args.json else "yaml"), end="")
    return OK


def _diff(args: argparse.Namespace) -> int:
    found = _load(args, args.old).diff(_load(args, args.new))
    if args.json:
        rows = [
            {"path": d.path, "kind": d.kind, "old": d.old, "new": d.new} for d in found
        ]
        _print_json(rows)
    else:
        for difference in found:
            print(difference)
    return FOUND if found else OK


def _explain(args: argparse.Namespace) -> int:
    document = _load(args, args.file)
    if not args.json:
        print(document.explain(args.path))
        return OK
    item = document.at(args.path)
    chain = (item.origin, *item.origin.overrode)
    rows = [{"at": str(o), "layer": o.layer} for o in chain]
    _print_json({"path": item.path, "value": item.value, "origins": rows})
    return OK


def _schema(_: argparse.Namespace) -> int:
    from ._jsonschema import json_schema

    _print_json(json_schema(TestPlan, title="Maestro test plan"))
    return OK


def _matrix(args: argparse.Namespace) -> int:
    plan = _load(args, args.file).into(TestPlan)
    cases = [(i, p) for suite in plan.suites for _, i, p in suite.expand()]
    if args.json:
        _print_json([{"id": i, "parameters": p} for i, p in cases])
    else:
        for name, _parameters in cases:
            print(name)
    return OK


def _print_json(data: Any) -> None:
    from ._render import redacted

    print(json.dumps(redacted(data), indent=2, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
