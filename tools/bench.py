"""Measure the packages against their named peers; one table, one page.

python tools/bench.py [--package NAME] [--full] [--write]
python tools/bench.py --tables [--check]

Each package is measured in an environment of its own below .venv-bench/, with
the peers that its benchmarks/requirements.txt pins. A peer that does not install
is reported. Every script of a package, benchmarks/bench_*.py, interleaves itself
with its peers and writes rows; this program adds import time and size, prints
one table, and with --write keeps the rows in docs/benchmarks/ with a chart for
each package and a page. --tables writes the tables of the READMEs from those
rows; with --check it only says whether they differ.

Exit codes: 0 done, 1 a script failed or tables differ, 2 usage, 130 interrupted.
"""

import argparse
import html
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "benchmarks"
ENVIRONMENTS = ROOT / ".venv-bench"
UV = Path(sys.executable).with_name("uv")
MARKS = ("<!-- benchmarks: written by `make bench` -->", "<!-- end of benchmarks -->")
TIMEOUT = 1800  # seconds for one script
Row = dict[str, Any]


def main() -> int:
    """Run the measurements or write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--package", help="a folder of packages/, or 'tools'")
    parser.add_argument("--full", action="store_true", help="more rounds, larger sizes")
    parser.add_argument("--write", action="store_true", help="keep the figures")
    parser.add_argument("--tables", action="store_true", help="write README tables")
    parser.add_argument("--check", action="store_true", help="with --tables: compare")
    args = parser.parse_args()
    if args.tables:
        return tables(check=args.check)
    chosen = [folder for folder in folders() if args.package in {None, folder.name}]
    if not chosen:
        names = ", ".join(folder.name for folder in folders())
        print(f"bench: no package {args.package!r}; there are {names}", file=sys.stderr)
        return 2
    failed = False
    for folder in chosen:
        result = measure(folder, full=args.full)
        failed = failed or bool(result["failed"])
        print_table(folder.name, result)
        if args.write:
            keep(folder.name, result)
    if args.write:
        write_page()
        tables(check=False)
    return 1 if failed else 0


def folders() -> list[Path]:
    """Return the folders that have benchmarks."""
    found = sorted(p for p in (ROOT / "packages").iterdir() if p.is_dir())
    found.append(ROOT / "tools")
    return [folder for folder in found if list(folder.glob("benchmarks/bench_*.py"))]


def measure(folder: Path, *, full: bool) -> dict[str, Any]:
    """Run all scripts of one folder; return their rows and what failed."""
    print(f"bench: {folder.name}: making the environment", flush=True)
    python, missing = environment(folder)
    rows: list[Row] = []
    failed: list[str] = []
    versions: dict[str, str] = {}
    for script in sorted(folder.glob("benchmarks/bench_*.py")):
        print(f"bench: {folder.name}: {script.name}", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "rows.json"
            command = [python, "-P", script, "--json", out]
            command += [] if full else ["--short"]
            code = run_script(command, Path(scratch))
            if code or not out.exists():
                failed.append(f"{script.name}: exit code {code}")
                continue
            found = json.loads(out.read_text(encoding="utf-8"))
            rows += found["rows"]
            versions |= found.get("versions", {})
    if folder.parent.name == "packages":
        rows += import_rows(folder, python)
    return {
        "v": 1,
        "rows": rows,
        "failed": failed,
        "not_installed": missing,
        "versions": versions,
        "mode": "full" if full else "short",
        "machine": {
            "python": platform.python_version(),
            "cores": os.cpu_count(),
            "system": f"{platform.system()} {platform.machine()}",
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
        },
    }


def run_script(command: list[Any], scratch: Path) -> int:
    """Run one script in an empty folder; return its exit code."""
    environment = os.environ | {"PYTHONSAFEPATH": "1"}
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=scratch, env=environment, check=False, timeout=TIMEOUT,
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return -1
    return done.returncode


def environment(folder: Path) -> tuple[Path, list[str]]:
    """Make a folder's environment; return its Python and the peers it lacks."""
    place = ENVIRONMENTS / folder.name
    python = place / "bin" / "python"
    if not python.exists():
        uv("venv", "-q", "-p", sys.executable, place)
    requirements = folder / "benchmarks" / "requirements.txt"
    wanted = []
    if requirements.exists():
        lines = requirements.read_text(encoding="utf-8").splitlines()
        wanted = [line.split("#")[0].strip() for line in lines]
    # One by one: a peer that does not install costs only itself.
    missing = [
        line
        for line in filter(None, wanted)
        if not uv("pip", "install", "-q", "-p", python, line)
    ]
    if folder.parent.name == "packages":
        install_package(folder, python)
    return python, missing


def install_package(folder: Path, python: Path) -> None:
    """Build the package's wheel and install it with all extras that resolve."""
    builder = ROOT / "tools" / "maestro_release" / "_build.py"
    with tempfile.TemporaryDirectory() as out:
        subprocess.run(
            [sys.executable, str(builder), out, "wheel", str(folder)],
            check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        [wheel] = Path(out).glob("*.whl")
        if not uv("pip", "install", "-q", "-p", python, "--reinstall-package",
                  f"maestro-{folder.name}", wheel):  # fmt: skip
            raise SystemExit(f"bench: {wheel.name} does not install")


def uv(*command: object) -> bool:
    """Run uv; tell whether it succeeded."""
    program = str(UV) if UV.exists() else shutil.which("uv") or "uv"
    done = subprocess.run(
        [program, *map(str, command)], check=False, capture_output=True
    )
    return done.returncode == 0


def import_rows(folder: Path, python: Path) -> Iterator[Row]:
    """Yield the cost of importing the package, and its size on disk."""
    module = f"maestro_{folder.name.replace('-', '_')}"
    statements = {
        "nothing": "pass",
        "asyncio": "import asyncio",
        "ours": f"import {module}",
    }
    spent: dict[str, list[float]] = {name: [] for name in statements}
    for _ in range(15):
        for name, statement in statements.items():
            spent[name].append(cpu_seconds([python, "-I", "-c", statement]))
    base = statistics.median(spent["nothing"])
    ours = max(statistics.median(spent["ours"]) - base, 1e-5) * 1000
    peer = max(statistics.median(spent["asyncio"]) - base, 1e-5) * 1000
    yield row("import, CPU over a bare start", "ms", "import asyncio", peer, ours, 1.5)
    place = python.parent.parent.glob(f"lib/python3*/site-packages/{module}")
    size = sum(f.stat().st_size for p in place for f in p.rglob("*.py"))
    yield row("installed size, sources", "kB", "", None, size / 1000, None)


def row(
    work: str,
    unit: str,
    peer: str,
    peer_value: float | None,
    ours: float,
    target: float | None,
) -> Row:
    """Return a row in the form that the scripts write."""
    ratio = ours / peer_value if peer_value else None
    return {
        "work": work, "unit": unit, "peer": peer, "peer_value": peer_value,
        "ours": ours, "ratio": ratio, "spread": None, "target": target,
        "met": None if target is None or ratio is None else ratio <= target,
        "direction": "lower",
    }  # fmt: skip


def cpu_seconds(command: list[Any]) -> float:
    """Return the CPU time of a process."""
    before = os.times()
    subprocess.run([str(part) for part in command], check=True)
    after = os.times()
    return (
        after.children_user + after.children_system
        - before.children_user - before.children_system
    )  # fmt: skip


def number(value: float | None) -> str:
    """Return a figure with three digits that count."""
    if value is None:
        return "-"
    if value and abs(value) < 0.001:
        return f"{value:.1e}"
    digits = (
        0
        if abs(value) >= 100
        else 1
        if abs(value) >= 10
        else 2
        if abs(value) >= 1
        else 3
    )
    return f"{value:,.{digits}f}"


def cells(entry: Row) -> list[str]:
    """Return a row as text: work, peer, its figure, ours, ratio, target, met."""
    unit = entry.get("unit") or ""
    met = {True: "yes", False: "no"}.get(entry.get("met"), "-")
    sign = "at least " if entry.get("direction") == "higher" else "at most "
    target = entry.get("target")
    return [
        str(entry["work"]),
        str(entry.get("peer") or "-"),
        f"{number(entry.get('peer_value'))} {unit}" if entry.get("peer_value") else "-",
        f"{number(entry.get('ours'))} {unit}",
        number(entry.get("ratio")),
        sign + number(target) if target is not None else "-",
        met,
    ]


HEAD = ["work", "peer", "peer's figure", "ours", "ratio", "target", "met"]


def print_table(name: str, result: dict[str, Any]) -> None:
    """Print one package's rows."""
    lines = [HEAD, *(cells(entry) for entry in result["rows"])]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    print(f"\n{name}")
    for line in lines:
        print(
            "  "
            + "  ".join(f"{c:{w}}" for c, w in zip(line, widths, strict=True)).rstrip()
        )
    for peer in result["not_installed"]:
        print(f"  not installed: {peer}")
    for failure in result["failed"]:
        print(f"  FAILED: {failure}")


def keep(name: str, result: dict[str, Any]) -> None:
    """Write a package's rows and chart."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    (RESULTS / f"{name}.svg").write_text(chart(name, result["rows"]), encoding="utf-8")


def chart(name: str, rows: list[Row]) -> str:
    """Return a bar for each row: ours against the peer on a log axis."""
    import math

    shown = [r for r in rows if r.get("ratio")]
    height = 26 * len(shown) + 50
    middle, scale = 520, 60.0  # one decade
    parts = []
    for index, entry in enumerate(shown):
        y = 26 * index + 36
        ratio = float(entry["ratio"])
        better = ratio < 1 if entry.get("direction") != "higher" else ratio > 1
        length = max(min(math.log10(ratio) * scale, 240), -240)
        x = middle + min(length, 0)
        colour = "#2f7d4f" if better else "#c9764f"
        label = html.escape(f"{entry['work']} / {entry['peer']}"[:64])
        parts.append(
            f'<text x="250" y="{y + 14}" text-anchor="end" font-size="10">{label}</text>'
            f'<rect x="{x:.1f}" y="{y}" width="{max(abs(length), 1):.1f}" height="18" '
            f'fill="{colour}"/><text x="770" y="{y + 14}" font-size="11">'
            f"{number(ratio)}</text>"
        )
    title = html.escape(f"{name}: ours over the peer, log axis; green is better")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="820" height="{height}" '
        f'viewBox="0 0 820 {height}" font-family="sans-serif">'
        f'<rect width="820" height="{height}" fill="white"/>'
        f'<text x="10" y="20" font-size="14">{title}</text>'
        f'<line x1="{middle}" y1="30" x2="{middle}" y2="{height - 10}" stroke="#888"/>'
        f"{''.join(parts)}</svg>\n"
    )


def write_page() -> None:
    """Write one page over all kept rows."""
    sections = []
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        body = "".join(
            "<tr>"
            + "".join(f"<td>{html.escape(c)}</td>" for c in cells(entry))
            + "</tr>"
            for entry in result["rows"]
        )
        head = "".join(f"<th>{title}</th>" for title in HEAD)
        machine = html.escape(json.dumps(result["machine"]))
        sections.append(
            f'<h2>{path.stem}</h2><img src="{path.stem}.svg" alt="">'
            f"<table><tr>{head}</tr>{body}</table><p>{machine}</p>"
        )
    (RESULTS / "index.html").write_text(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<title>Benchmarks</title><style>body{font:15px/1.5 system-ui;margin:2rem auto;"
        "max-width:70rem}td,th{text-align:left;padding:.2rem .6rem;border-bottom:1px solid "
        f"#8886}}</style></head><body><h1>Benchmarks</h1>{''.join(sections)}</body></html>\n",
        encoding="utf-8",
    )


def tables(*, check: bool) -> int:
    """Write each README's table from the kept rows, or compare."""
    differing = []
    for path in sorted(RESULTS.glob("*.json")):
        folder = ROOT / "packages" / path.stem
        readme = (folder if folder.is_dir() else ROOT / path.stem) / "README.md"
        before = readme.read_text(encoding="utf-8")
        if MARKS[0] not in before or MARKS[1] not in before:
            continue
        head, _, rest = before.partition(MARKS[0])
        _, _, tail = rest.partition(MARKS[1])
        result = json.loads(path.read_text(encoding="utf-8"))
        after = f"{head}{MARKS[0]}\n{markdown(result)}\n{MARKS[1]}{tail}"
        if after != before:
            differing.append(str(readme.relative_to(ROOT)))
            if not check:
                readme.write_text(after, encoding="utf-8")
    if check and differing:
        print(f"bench: tables differ from docs/benchmarks: {', '.join(differing)}")
        print("bench: run `python tools/bench.py --tables`")
        return 1
    return 0


def markdown(result: dict[str, Any]) -> str:
    """Return a README's table."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    lines += ["| " + " | ".join(cells(entry)) + " |" for entry in result["rows"]]
    machine = result["machine"]
    lines.append("")
    lines.append(
        f"{machine['system']}, {machine['cores']} cores, Python {machine['python']}, "
        f"{machine['date']}; `make bench`."
    )
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
