"""Run every static check, side by side, and say in one line each what came out.

python tools/check.py [--fix] [PACKAGE]

With a package name, only that package is linted and type-checked. Exit code 1
when a check fails; its output is printed.
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def main() -> int:
    """Run the checks and return 0 when all pass."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--fix", action="store_true", help="format and fix instead")
    parser.add_argument("package", nargs="?")
    args = parser.parse_args()
    folders = sorted(p.parent for p in (ROOT / "packages").glob("*/pyproject.toml"))
    if args.package:
        folders = [f for f in folders if f.name == args.package]
        if not folders:
            print(f"check: no package {args.package!r}", file=sys.stderr)
            return 2
    targets = [str(f.relative_to(ROOT)) for f in folders] if args.package else ["."]
    if args.fix:
        run("ruff", "check", "-q", "--fix", *targets)
        return 0 if run("ruff", "format", "-q", *targets) else 1
    wanted = checks(folders, targets, whole=not args.package)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = {pool.submit(one, *check): check[0] for check in wanted}
        failed = [
            running[done] for done in as_completed(running) if not report(done.result())
        ]
    if failed:
        print(f"check: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def checks(
    folders: list[Path], targets: list[str], *, whole: bool
) -> list[tuple[str, list[str]]]:
    """Return the checks in the order they begin: the longest one first."""
    modules = [f"maestro_{f.name.replace('-', '_')}" for f in folders]
    if whole:
        modules += ["maestro_release", "maestro_index", "maestro_nexus", "policy"]
        modules += ["maestro_migrate"] * (ROOT / "tools/maestro_migrate").is_dir()
    found = [
        ("types", ["mypy", *(part for m in modules for part in ("-p", m))]),
        ("ruff", ["ruff", "check", *targets]),
        ("format", ["ruff", "format", "--check", *targets]),
        ("codespell", ["codespell", *targets]),
    ]
    found += [
        (f"deptry {folder.name}", deptry(folder, module))
        for folder, module in zip(folders, modules, strict=False)
    ]
    if whole:
        documents = [str(p) for p in ROOT.rglob("*.md") if not hidden(p)]
        found += [
            ("imports", ["lint-imports"]),
            ("links", ["lychee", "-q", "--offline", "--include-fragments", *documents]),
            ("policy", ["python", "-m", "policy"]),
            ("tables", ["python", "tools/bench.py", "--tables", "--check"]),
        ]
    return found


def deptry(folder: Path, module: str) -> list[str]:
    """Return the command that compares imports with declared dependencies."""
    inside = folder.relative_to(ROOT)
    config = str(inside / "pyproject.toml")
    return [
        *("deptry", str(inside / module), "--config", config, "--no-ansi"),
        *("--known-first-party", module),
    ]


def hidden(path: Path) -> bool:
    """Tell whether a path lies in a folder that starts with a dot."""
    inside = path.relative_to(ROOT)
    return any(part.startswith(".") or part == "dist" for part in inside.parts)


def one(name: str, command: list[str]) -> tuple[str, str | None, float]:
    """Run one check; return its name, what it said when it failed, and seconds."""
    started = time.monotonic()
    done = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=ROOT,
        check=False,
        text=True,
        encoding="utf-8",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = done.stdout if done.returncode else None
    return name, said, time.monotonic() - started


def report(result: tuple[str, str | None, float]) -> bool:
    """Print the line of one check, and its output when it failed."""
    name, said, spent = result
    verdict = "ok" if said is None else "FAILED"
    print(f"  {name:28} {verdict:7} {spent:5.1f} s", flush=True)
    if said is not None:
        print(said)
    return said is None


def run(*command: str) -> bool:
    """Run a tool of this environment; tell whether it succeeded."""
    return not subprocess.run(
        [str(BIN / command[0]), *command[1:]], cwd=ROOT, check=False
    ).returncode


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
