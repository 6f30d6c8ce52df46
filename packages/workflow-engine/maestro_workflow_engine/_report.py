"""A run as one HTML page: Gantt chart, critical path, use of the workers, steps."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ._plan import human
from ._status import as_placed, metrics, real_critical_path

if TYPE_CHECKING:
    from ._status import RunStatus, StepStatus

_BARS = 4_000  # more bars than this say nothing; the longest are kept
_ROWS = 1_000
_SHOWN = 50  # tracebacks
_WIDTH, _LANE = 1_100.0, 22
_COLOURS = {
    "succeeded": "#3b82f6", "failed": "#dc2626", "cancelled": "#94a3b8",
    "waiting": "#f59e0b", "interrupted": "#f59e0b", "running": "#f59e0b",
}  # fmt: skip
_STYLE = """
:root{color-scheme:light dark}body{background:#fff;font:14px/1.5 system-ui,sans-serif;color:#0f172a;max-width:1180px;margin:24px auto;
padding:0 16px}h1{font-size:22px;margin:0}h2{font-size:16px;margin:28px 0 8px}
.sub{color:#475569;margin:0 0 16px}dl{display:flex;flex-wrap:wrap;gap:10px 34px;margin:0}
dt{color:#475569;font-size:12px}dd{margin:0;font-size:18px;font-variant-numeric:tabular-nums}
svg{display:block;max-width:100%;height:auto}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:3px 10px 3px 0;border-bottom:1px solid #e2e8f0;
vertical-align:top}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.failed{color:#dc2626}.critical{color:#c2410c;font-weight:600}
.key span{display:inline-block;width:12px;height:12px;border-radius:2px;margin:0 6px 0 16px}
.key span:first-child{margin-left:0}
h3{font-size:14px;margin:12px 0 4px}pre{margin:0;overflow-x:auto;font-size:12px}
ol{margin:0;padding-left:22px}td.n,th.n{padding-right:24px}
.axis{fill:#475569}.use{fill:#bfdbfe}
@media (prefers-color-scheme:dark){body{background:#0f172a;color:#e2e8f0}
.sub,dt{color:#94a3b8}th,td{border-color:#334155}.axis{fill:#94a3b8}.use{fill:#1e40af}
.failed{color:#f87171}.critical{color:#fb923c}}
"""


def report_page(status: RunStatus) -> str:
    """Return a self-contained page; it loads nothing and runs no script."""
    figures = metrics(status)
    path = real_critical_path(status)
    title = f"{status.info.workflow}: run {status.info.id}"
    cards = {
        "state": status.state,
        "steps": str(figures["steps"]),
        "attempts": str(figures["attempts"]),
        "length": human(figures["seconds"]),
        "work": human(figures["work"]),
        "speed-up": f"{figures['speedup']:.2f}x",
        "use of workers": f"{100 * figures['use']:.0f} % of {figures['workers']}",
        "critical path": human(figures["critical_seconds"]),
    }
    return "".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
            f"<h1>{escape(status.info.workflow)}</h1>",
            (
                f'<p class="sub">run {escape(status.info.id)}, executor '
                f"{escape(status.info.executor)}</p><dl>"
            ),
            *(f"<div><dt>{k}</dt><dd>{escape(v)}</dd></div>" for k, v in cards.items()),
            "</dl><h2>Steps over time</h2>",
            _gantt(status, set(path)),
            "<h2>Workers in use</h2>",
            _use(status),
            "<h2>Critical path</h2>",
            _path(status, path),
            "<h2>Steps</h2>",
            _table(status, set(path)),
            _failures(status),
            "</body></html>\n",
        ]
    )


def _scale(status: RunStatus) -> tuple[float, float]:
    length = max(status.end - status.begin, 1e-6)
    return status.begin, _WIDTH / length


def _gantt(status: RunStatus, path: set[str]) -> str:
    placed = as_placed(status)
    if not placed:
        return "<p>No step has ended yet.</p>"
    lanes = max(lane for _, lane in placed) + 1
    left_out = len(placed) - _BARS
    if left_out > 0:
        placed = sorted(placed, key=lambda pair: -pair[0].seconds)[:_BARS]
    begin, scale = _scale(status)
    height = lanes * _LANE + 24
    parts = [
        (
            f'<svg id="gantt" viewBox="0 0 {_WIDTH:g} {height}" role="img" '
            'font-family="system-ui,sans-serif" font-size="11">'
        )
    ]
    parts += [
        _bar(step, lane, begin, scale, step.name in path) for step, lane in placed
    ]
    for tenth in range(0, 11, 2):
        x = _WIDTH * tenth / 10
        anchor = "start" if not tenth else "end" if tenth == 10 else "middle"
        label = human((status.end - begin) * tenth / 10)
        parts.append(
            f'<text x="{x:g}" y="{height - 6}" class="axis" '
            f'text-anchor="{anchor}">{label}</text>'
        )
    parts.append("</svg>")
    keys = {
        "succeeded": "#3b82f6",
        "on the critical path": "#c2410c",
        "failed": "#dc2626",
    }
    parts.append('<p class="key">')
    parts += [f'<span style="background:{c}"></span>{name}' for name, c in keys.items()]
    if left_out > 0:
        parts.append(f" (the {left_out} shortest steps are left out)")
    return "".join([*parts, "</p>"])


def _bar(
    step: StepStatus,
    lane: int,
    begin: float,
    scale: float,
    critical: bool,  # noqa: FBT001 - private
) -> str:
    x, width = (step.started - begin) * scale, max(step.seconds * scale, 0.6)
    colour = "#c2410c" if critical and step.state == "succeeded" else ""
    colour = colour or _COLOURS.get(step.state, "#94a3b8")
    tip = escape(f"{step.name}: {human(step.seconds)}, {step.state}, {step.worker}")
    label = ""
    room = int(width / 6.4)
    if room >= 3:
        name = step.name if len(step.name) <= room else step.name[: room - 1] + "…"
        label = f'<text x="{x + 4:.1f}" y="{lane * _LANE + 14}" fill="#fff">{escape(name)}</text>'
    return (
        f'<g><title>{tip}</title><rect x="{x:.1f}" y="{lane * _LANE}" '
        f'width="{width:.1f}" height="{_LANE - 4}" rx="2" fill="{colour}"/>{label}</g>'
    )


def _use(status: RunStatus) -> str:
    """Draw how many steps ran at each moment."""
    changes: list[tuple[float, int]] = []
    for step in status.steps.values():
        if step.ended:
            changes += [(step.started, 1), (step.ended, -1)]
    if not changes:
        return ""
    changes.sort()
    begin, scale = _scale(status)
    top = max(status.info.workers, 1)
    points, running = ["0,60"], 0
    for at, change in changes:
        x = (at - begin) * scale
        points.append(f"{x:.1f},{60 - 56 * min(running / top, 1):.1f}")
        running += change
        points.append(f"{x:.1f},{60 - 56 * min(running / top, 1):.1f}")
    if len(points) > 8_000:  # a page, not a data set
        points = points[:: len(points) // 4_000]
    return (
        f'<svg id="use" viewBox="0 0 {_WIDTH:g} 62"><polygon class="use" '
        f'points="{" ".join(points)} {_WIDTH:g},60"/><line x1="0" x2="{_WIDTH:g}" y1="4" '
        'y2="4" stroke="#94a3b8" stroke-dasharray="4 3"/></svg>'
    )


def _path(status: RunStatus, path: list[str]) -> str:
    if not path:
        return "<p>No step has succeeded yet.</p>"
    items = [
        f"<li>{escape(name)}, {human(status.steps[name].seconds)}</li>"
        for name in path[:200]
    ]
    more = f"<p>and {len(path) - 200} more</p>" if len(path) > 200 else ""
    return f'<ol id="path">{"".join(items)}</ol>{more}'


def _table(status: RunStatus, path: set[str]) -> str:
    bad = {"failed": 0, "interrupted": 1, "running": 2, "waiting": 3}
    steps = sorted(
        status.steps.values(), key=lambda s: (bad.get(s.state, 9), -s.seconds)
    )
    rows = [
        f'<tr class="{_class(step, path)}"><td>{escape(step.name)}</td><td>{step.state}</td>'
        f'<td class="n">{step.attempts}</td><td class="n">{human(step.seconds)}</td>'
        f"<td>{escape(step.worker)}</td><td>{escape(step.note[:300])}</td></tr>"
        for step in steps[:_ROWS]
    ]
    more = len(steps) - _ROWS
    return (
        '<table id="steps"><tr><th>step</th><th>state</th><th class="n">attempts</th>'
        '<th class="n">length</th><th>worker</th><th>note</th></tr>'
        + "".join(rows)
        + "</table>"
        + (f"<p>and {more} more</p>" if more > 0 else "")
    )


def _failures(status: RunStatus) -> str:
    """Show where the steps that failed raised."""
    raised = [s for s in status.steps.values() if s.state == "failed" and s.traceback]
    if not raised:
        return ""
    more = len(raised) - _SHOWN
    return (
        '<h2>Errors</h2><div id="errors">'
        + "".join(
            f"<h3>{escape(step.name)}</h3><pre>{escape(step.traceback)}</pre>"
            for step in raised[:_SHOWN]
        )
        + "</div>"
        + (f"<p>and {more} more</p>" if more > 0 else "")
    )


def _class(step: StepStatus, path: set[str]) -> str:
    if step.state == "failed":
        return "failed"
    return "critical" if step.name in path else step.state
