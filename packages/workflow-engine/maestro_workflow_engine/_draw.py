"""A workflow's graph as text: Mermaid, DOT and SVG."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ._graph import bottom_levels, critical_path, levels

if TYPE_CHECKING:
    from ._workflow import Workflow

FORMATS = ("mermaid", "dot", "svg")
_WIDE, _HIGH, _GAP_X, _GAP_Y = 150, 34, 46, 16


def draw(workflow: Workflow, format: str = "mermaid") -> str:
    """Return the graph in one of the formats; the critical path is marked."""
    drawers = {"mermaid": _mermaid, "dot": _dot, "svg": _svg}
    return drawers[format](workflow)


def _marked(workflow: Workflow) -> set[int]:
    from ._plan import tasks_of

    tasks, _ = tasks_of(workflow)
    path = critical_path(tasks.graph, bottom_levels(tasks.graph, tasks.durations))
    return {index for index in path if index < len(workflow.nodes)}


def _mermaid(workflow: Workflow) -> str:
    shapes = {"gate": ("{{", "}}"), "barrier": ("[/", "/]"), "command": ("[[", "]]")}
    marked = _marked(workflow)
    lines = ["flowchart LR"]
    for index, node in enumerate(workflow.nodes):
        left, right = shapes.get(node.spec.kind, ("[", "]"))
        many = " &times; n" if node.mapping is not None else ""
        label = escape(node.name, quote=True).replace("[", "#91;").replace("]", "#93;")
        lines.append(f'  s{index}{left}"{label}{many}"{right}')
    for index, node in enumerate(workflow.nodes):
        for other in node.needs:
            arrow = "-.->" if other in node.after else "-->"
            lines.append(f"  s{other} {arrow} s{index}")
    lines += [f"  style s{index} stroke-width:3px" for index in sorted(marked)]
    return "\n".join(lines) + "\n"


def _dot(workflow: Workflow) -> str:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    marked = _marked(workflow)
    lines = [f"digraph {quoted(workflow.name)} {{", "  rankdir=LR; node [shape=box];"]
    for index, node in enumerate(workflow.nodes):
        bold = ", penwidth=3" if index in marked else ""
        lines.append(f"  s{index} [label={quoted(node.name)}{bold}];")
    for index, node in enumerate(workflow.nodes):
        for other in node.needs:
            style = " [style=dashed]" if other in node.after else ""
            lines.append(f"  s{other} -> s{index}{style};")
    return "\n".join([*lines, "}"]) + "\n"


def _svg(workflow: Workflow) -> str:
    marked = _marked(workflow)
    rows: dict[int, int] = {}
    places: list[tuple[int, int]] = []
    for level in levels(workflow.graph()):
        row = rows.get(level, 0)
        rows[level] = row + 1
        places.append((12 + level * (_WIDE + _GAP_X), 12 + row * (_HIGH + _GAP_Y)))
    width = 24 + max(rows, default=0) * (_WIDE + _GAP_X) + _WIDE
    height = 24 + max(rows.values(), default=1) * (_HIGH + _GAP_Y)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">'
        ),
        f"<title>{escape(workflow.name)}</title>",
    ]
    for index, node in enumerate(workflow.nodes):
        x, y = places[index]
        for other in node.needs:
            ox, oy = places[other]
            dash = ' stroke-dasharray="4 3"' if other in node.after else ""
            on_path = index in marked and other in marked
            colour = "#c2410c" if on_path else "#94a3b8"
            bend = max(20, (x - ox - _WIDE) / 2)
            parts.append(
                f'<path d="M{ox + _WIDE} {oy + _HIGH / 2:g} C{ox + _WIDE + bend:g} '
                f"{oy + _HIGH / 2:g} {x - bend:g} {y + _HIGH / 2:g} {x} "
                f'{y + _HIGH / 2:g}" fill="none" stroke="{colour}"{dash}/>'
            )
    for index, node in enumerate(workflow.nodes):
        x, y = places[index]
        colour = "#c2410c" if index in marked else "#334155"
        name = node.name if len(node.name) <= 22 else node.name[:21] + "…"
        parts.append(
            f'<rect x="{x}" y="{y}" width="{_WIDE}" height="{_HIGH}" rx="5" fill="#fff" '
            f'stroke="{colour}"/><text x="{x + 8}" y="{y + 21}">{escape(name)}'
            f"<title>{escape(node.name)}</title></text>"
        )
    return "".join([*parts, "</svg>\n"])
