"""How far services have moved: what they use, what copies they still keep."""

import ast
import html
import importlib.util
import io
import tokenize
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maestro_migrate import apply, dependencies, migrate
from maestro_migrate.mapping import ModuleMap


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """One service.

    `share` is lines in packages used over lines in packages used plus lines in
    local copies, 0 to 1; None where there is neither. Lines are lines of code,
    without blank lines, comments and docstrings.
    """

    service: str
    packages: dict[str, str]  # name -> declared range
    package_lines: int
    copies: dict[str, int]  # file -> lines
    old_references: list[str]  # file:line
    new_references: int

    @property
    def copy_lines(self) -> int:
        """Lines in local copies."""
        return sum(self.copies.values())

    @property
    def share(self) -> float | None:
        """Share of reused code."""
        whole = self.package_lines + self.copy_lines
        return self.package_lines / whole if whole else None


def measure(root: Path, mapping: ModuleMap) -> Adoption:
    """Measure one service; its files are only read."""
    copies = {}
    for inside in migrate.old_files(root, mapping):
        copies[str(inside)] = count_lines(apply.read(root / inside).text)
    used: set[str] = set()
    old: list[str] = []
    new = 0
    for path in migrate.python_files(root):
        inside = path.relative_to(root)
        if str(inside) in copies:
            continue
        try:
            text = apply.read(path).text
            tree = ast.parse(text)
        except (SyntaxError, UnicodeDecodeError):
            continue  # `maestro-migrate` names it; a figure cannot
        name = migrate.module_name(inside)
        for line, module in migrate.references(tree, name, mapping):
            package = mapping.find(module)
            if package is not None:
                old.append(f"{inside}:{line}")
            for candidate in mapping.packages:
                if module.split(".")[0] == candidate.module:
                    used.add(candidate.name)
                    new += 1
    ranges = dependencies.declared(root)
    modules = {p.name: p.module for p in mapping.packages}
    return Adoption(
        service=root.name,
        packages={name: ranges.get(name, "not declared") for name in sorted(used)},
        package_lines=sum(package_lines(modules[name]) for name in used),
        copies=copies,
        old_references=old,
        new_references=new,
    )


def package_lines(module: str) -> int:
    """Return the lines of code of an installed package; 0 when it is not installed."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return 0
    folder = Path(spec.origin).parent
    return sum(count_lines(apply.read(path).text) for path in folder.rglob("*.py"))


def count_lines(text: str) -> int:
    """Count lines that hold code: no blank lines, comments or docstrings."""
    lines: set[int] = set()
    skipped = {
        tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT,
        tokenize.DEDENT, tokenize.ENDMARKER, tokenize.ENCODING,
    }  # fmt: skip
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        holder = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, holder) and ast.get_docstring(node) is not None:
            first = node.body[0]
            assert first.end_lineno is not None
            lines -= set(range(first.lineno, first.end_lineno + 1))
    return len(lines)


def as_data(rows: Sequence[Adoption]) -> list[dict[str, Any]]:
    """Return the rows for JSON."""
    return [
        asdict(row) | {"copy_lines": row.copy_lines, "share": row.share} for row in rows
    ]


def as_table(rows: Sequence[Adoption]) -> str:
    """Return a table for the terminal."""
    width = max([len(row.service) for row in rows] + [len("service")])
    lines = [f"{'service':{width}}  packages  old refs  copies  copy lines  reused"]
    lines += [
        f"{row.service:{width}}  {len(row.packages):8}  {len(row.old_references):8}  "
        f"{len(row.copies):6}  {row.copy_lines:10}  {percent(row.share):>6}"
        for row in rows
    ]
    for row in rows:
        lines += [f"{row.service}: {name} {r}" for name, r in row.packages.items()]
        lines += [f"{row.service}: copy left: {path}" for path in row.copies]
    return "\n".join(lines)


def percent(share: float | None) -> str:
    """Return a share as a percentage, or a dash."""
    return "-" if share is None else f"{share:.0%}"


def _versions(row: Adoption) -> str:
    lines = (f"{name} {versions}" for name, versions in row.packages.items())
    return "<br>".join(map(html.escape, lines))


def as_page(rows: Sequence[Adoption]) -> str:
    """Return one HTML page with a bar for each service; no script, no network."""
    height = 30 * len(rows) + 20
    bars = []
    for index, row in enumerate(rows):
        y = 30 * index + 10
        share = row.share or 0.0
        label = html.escape(row.service)
        bars.append(
            f'<text x="150" y="{y + 15}" text-anchor="end">{label}</text>'
            f'<rect x="160" y="{y}" width="400" height="20" class="copies"/>'
            f'<rect x="160" y="{y}" width="{400 * share:.1f}" height="20" class="used"/>'
            f'<text x="570" y="{y + 15}">{percent(row.share)}</text>'
        )
    cells = "".join(
        f"<tr><td>{html.escape(row.service)}</td><td>{_versions(row)}"
        f"</td><td>{len(row.old_references)}</td><td>{len(row.copies)}</td>"
        f"<td>{row.copy_lines}</td><td>{row.package_lines}</td>"
        f"<td>{percent(row.share)}</td></tr>"
        for row in rows
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Adoption</title><style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 56rem; }}
table {{ border-collapse: collapse; width: 100%; }}
td, th {{ text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #8886; }}
text {{ fill: currentColor; font-size: 14px; }}
.used {{ fill: #2f7d4f; }} .copies {{ fill: #c9764f; }}
:root {{ color-scheme: light dark; }}
</style></head><body><h1>Adoption of the shared packages</h1>
<p>Green: lines in packages used. Orange: lines in local copies.</p>
<svg role="img" aria-label="share of reused code per service" width="640"
 height="{height}" viewBox="0 0 640 {height}">{"".join(bars)}</svg>
<table><tr><th>Service</th><th>Packages</th><th>Old references</th><th>Copies</th>
<th>Lines in copies</th><th>Lines in packages</th><th>Reused</th></tr>{cells}</table>
</body></html>
"""
