"""What a measurement looks like: the printed table, charts, the page, README tables."""

import html
import json
import math
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "benchmarks"
MARKS = ("<!-- benchmarks: written by `make bench` -->", "<!-- end of benchmarks -->")
Row = dict[str, Any]


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
    """Return a row as text, as `HEAD` names the columns."""
    unit = entry.get("unit") or ""
    return [
        str(entry["work"]),
        str(entry.get("peer") or "-") + dated(entry),
        f"{number(entry.get('peer_value'))} {unit}" if entry.get("peer_value") else "-",
        f"{number(entry.get('ours'))} {unit}".strip(),
        number(entry.get("ratio")),
        number(entry.get("spread")),
        target_of(entry) or "-",
        {True: "yes", False: "no", None: "-"}[entry.get("met")],
    ]


def dated(entry: Row) -> str:
    """Return when a row was measured, if not with the others."""
    return f" (on {entry['date']})" if entry.get("date") else ""


def target_of(entry: Row) -> str:
    """Return a row's target: of the ratio, or of our figure where the row says so."""
    target = entry.get("target")
    own = entry.get("target_of") == "ours" or not entry.get("peer")
    if target is None or (not own and entry.get("ratio") is None):
        return ""  # a peer that is not there sets no target
    sign = "at least" if entry.get("direction") == "higher" else "at most"
    unit = f" {entry.get('unit') or ''}".rstrip() if own else "x"
    return f"{sign} {number(target)}{unit}"


HEAD = ["work", "peer", "peer's figure", "ours", "ratio", "spread", "target", "met"]


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
    for entry in result["rows"]:
        if entry.get("note"):
            print(f"  {entry['work']}: {entry['note']}")
    for script in result["scripts"]:
        print(
            f"  {script['name']}: {script['wall']:.0f} s, CPU {script['cpu']:.0f} s, "
            f"peak {script['mb']:.0f} MB"
        )
    for peer in result["not_installed"]:
        print(f"  not installed: {peer}")
    for failure in result["failed"]:
        print(f"  FAILED: {failure}")


def print_agreement(name: str, result: dict[str, Any]) -> None:
    """Say how the rows agree with the kept ones, if those are of the same mode."""
    kept = RESULTS / f"{name}.json"
    if kept.exists():
        before = json.loads(kept.read_text(encoding="utf-8"))
        if before["mode"] == result["mode"]:
            print(agreement(before, result))


def keep(name: str, result: dict[str, Any]) -> None:
    """Write a package's rows and chart; what it left out stays as it was kept."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    kept = RESULTS / f"{name}.json"
    if kept.exists() and result.get("left_out"):
        before = json.loads(kept.read_text(encoding="utf-8"))
        result["rows"] += [
            {"date": before["machine"]["date"]} | row
            for row in before["rows"]
            if [row["work"], row["peer"]] in result["left_out"]
        ]
    text = json.dumps(result, indent=1) + "\n"
    (RESULTS / f"{name}.json").write_text(text, encoding="utf-8")
    (RESULTS / f"{name}.svg").write_text(chart(name, result["rows"]), encoding="utf-8")


def chart(name: str, rows: list[Row]) -> str:
    """Return a bar for each row: ours against the peer on a log axis."""
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
        machine = html.escape(json.dumps(result["machine"] | result["versions"]))
        notes = "".join(
            f"<li>{html.escape(entry['work'])}: {html.escape(entry['note'])}</li>"
            for entry in result["rows"]
            if entry.get("note")
        )
        sections.append(
            f'<h2>{path.stem}</h2><img src="{path.stem}.svg" alt="">'
            f"<table><tr>{head}</tr>{body}</table><ul>{notes}</ul><p>{machine}</p>"
        )
    (RESULTS / "index.html").write_text(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        "<title>Benchmarks</title><style>body{font:15px/1.5 system-ui;margin:2rem auto;"
        "max-width:70rem}td,th{text-align:left;padding:.2rem .6rem;border-bottom:1px solid "
        f"#8886}}</style></head><body><h1>Benchmarks</h1>{''.join(sections)}</body></html>\n",
        encoding="utf-8",
    )


def write_tables(*, check: bool) -> int:
    """Write each README's table from the kept rows, or compare."""
    differing = []
    for path in sorted(RESULTS.glob("*.json")):
        folder = ROOT / "packages" / path.stem
        readme = (folder if folder.is_dir() else ROOT / path.stem) / "README.md"
        before = readme.read_text(encoding="utf-8")
        if MARKS[0] not in before or MARKS[1] not in before:
            differing.append(str(readme.relative_to(ROOT)))
            print(f"bench: {differing[-1]} lacks the line {MARKS[0]!r} or {MARKS[1]!r}")
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
    """Return a README's table: a line for each work, with all its peers."""
    works: dict[str, list[Row]] = {}
    for entry in result["rows"]:
        if entry.get("unit") != "slope" and not entry["work"].startswith("installed"):
            works.setdefault(entry["work"], []).append(entry)
    lines = ["| work | ours | peers: theirs, ours over theirs | target |"]
    lines.append("|---|---|---|---|")
    for work, rows in works.items():
        unit = f" {rows[0].get('unit') or ''}".rstrip()
        peers = "; ".join(
            f"{row['peer']}{dated(row)} {number(row['peer_value'])}{unit}, {number(row['ratio'])}x"
            if row.get("peer_value")
            else str(row["peer"])
            for row in rows
            if row.get("peer") and row["peer"] != "none"
        )
        lines.append(
            f"| {work} | {number(rows[0].get('ours'))}{unit} | {peers} | {goals(rows)} |"
        )
    missed = [
        f"- {entry['work']}: {entry['note']}"
        for entry in result["rows"]
        if entry.get("note") and entry.get("met") is False
    ]
    lines += ["", "Not met, and why:", "", *missed] if missed else []
    machine = result["machine"]
    lines += [
        "",
        (
            f"{machine['system']}, {machine['cores']} cores, Python "
            f"{machine['python']}, {machine['date']}; `make bench "
            f"PACKAGE={result['name']}`."
        ),
    ]
    return "\n".join(lines)


def goals(rows: list[Row]) -> str:
    """Return the targets of one work; one that holds for our figure is said once."""
    found: dict[str, None] = {}
    for entry in rows:
        goal = target_of(entry)
        if goal:
            own = entry.get("target_of") == "ours" or not entry.get("peer")
            whose = "" if own or len(rows) == 1 else f" {entry['peer']}"
            met = "met" if entry.get("met") else "missed"
            found[f"{goal}{whose}: {met}"] = None
    return "; ".join(found)


def agreement(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Say how far the ratios of two runs agree, and name those that do not."""

    def ratios(result: dict[str, Any]) -> dict[tuple[str, str], float]:
        return {
            (str(row["work"]), str(row["peer"])): row["ratio"]
            for row in result["rows"]
            if row.get("ratio")
        }

    old, new = ratios(before), ratios(now)
    both = [key for key in new if key in old]
    apart = [key for key in both if not 0.8 <= new[key] / old[key] <= 1.25]
    names = "".join(
        f"\n    {work} / {peer}: {number(old[work, peer])}, now {number(new[work, peer])}"
        for work, peer in apart
    )
    return (
        f"  {len(both) - len(apart)} of {len(both)} ratios are within 25 % of the kept "
        f"run's{names}"
    )
