"""A self-contained HTML report: activity, actors, failures, verification."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from html import escape
from typing import final

from maestro_audit_logger._event import Event
from maestro_audit_logger._verify import VerifyReport
from maestro_audit_logger.exporters import whole_file

_TOP = 10
_BARS = 60
_LATEST = 20
_STYLE = """
:root{color-scheme:light dark;--ink:#1b1f24;--soft:#5b6570;--line:#d8dde3;--paper:#fff;
--ok:#1a7f4b;--bad:#b42318;--warn:#9a6700;--bar:#3b6fb6;--fail:#d0573e}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--soft:#9aa4af;--line:#343b44;
--paper:#15181c;--ok:#4cc38a;--bad:#ff8577;--warn:#e2b340;--bar:#6f9fe0;--fail:#ef8069}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1040px;padding:32px 24px;
font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}
h1{font-size:24px;margin:0 0 4px}h2{font-size:17px;margin:32px 0 8px}
p,.soft{color:var(--soft)}p{margin:4px 0}.verdict{border-left:5px solid;padding:10px 16px;margin:20px 0}
.ok{border-color:var(--ok)}.damaged{border-color:var(--warn)}.tampered{border-color:var(--bad)}
.verdict b{font-size:18px;color:var(--ink)}.figures{display:flex;gap:8px 36px;flex-wrap:wrap;margin:24px 0}
.figures div{font-size:13px;color:var(--soft)}.figures b{display:block;font-size:24px;color:var(--ink)}
table{border-collapse:collapse;width:100%;font-size:14px}th,td{text-align:left;padding:5px 12px 5px 0;
border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
th{color:var(--soft);font-weight:500}td.n,th.n{text-align:right;white-space:nowrap}
td.k{white-space:nowrap}
.cols{display:grid;grid-template-columns:1fr 1fr;gap:0 40px}@media(max-width:700px){.cols{grid-template-columns:1fr}}
svg{display:block;width:100%;height:160px}code{font-size:13px;overflow-wrap:anywhere}
.ends{display:flex;justify-content:space-between;font-size:13px;color:var(--soft)}
.wide{overflow-x:auto}.wide table{min-width:620px}.verdict li{margin:2px 0}
@media print{body{max-width:none;padding:0}tr,svg,.verdict{break-inside:avoid}h2{break-after:avoid}}
"""


@final
@dataclass(slots=True)
class Summary:
    """Counts over a stream of events; memory grows with names, not with events."""

    events: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    actors: Counter[str] = field(default_factory=Counter)
    actions: Counter[str] = field(default_factory=Counter)
    failed_actors: Counter[str] = field(default_factory=Counter)
    per_hour: Counter[str] = field(default_factory=Counter)
    failed_per_hour: Counter[str] = field(default_factory=Counter)
    failures: list[Event] = field(default_factory=list)

    @classmethod
    def of(cls, events: Iterable[Event]) -> Summary:
        """Count the events."""
        summary = cls()
        for event in events:
            summary.add(event)
        return summary

    def add(self, event: Event) -> None:
        """Count one event. An intent is half an action and is not counted."""
        if event.ctx.get("phase") == "intent":
            return
        self.events += 1
        actor = f"{event.actor.type}:{event.actor.id}"
        hour = event.ts[:13]
        if hour not in self.per_hour and not _is_hour(hour):
            hour = ""  # a forger writes anything
        self.outcomes[event.outcome] += 1
        self.actors[actor] += 1
        self.actions[event.action] += 1
        if hour:
            self.per_hour[hour] += 1
        if event.outcome in {"failure", "denied"}:
            self.failed_actors[actor] += 1
            self.failed_per_hour[hour] += 1
            self.failures.append(event)
            del self.failures[:-_LATEST]


def _is_hour(text: str) -> bool:
    try:
        return len(text) == 13 and bool(datetime.fromisoformat(f"{text}:00:00+00:00"))
    except ValueError:
        return False


def write_report(
    path: str | os.PathLike[str],
    summary: Summary,
    verified: VerifyReport,
    *,
    origin: str,
    now: datetime | None = None,
) -> None:
    """Write the report as one HTML file without scripts and outside resources."""
    made = (now or datetime.now(UTC)).strftime("%Y-%m-%d %H:%M UTC")
    body = "".join(
        [
            f"<h1>Audit report: {escape(origin)}</h1>",
            f"<p>Made {made} from <code>{escape(verified.path)}</code></p>",
            _verdict(verified),
            _findings(verified),
            _figures(summary),
            _activity(summary),
            '<div class="cols">',
            _top("Top actors", "actor", summary.actors, summary.failed_actors),
            _top("Top actions", "action", summary.actions, None),
            "</div>",
            _failures(summary.failures),
        ]
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Audit report: {escape(origin)}</title><style>{_STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )
    with whole_file(path) as stream:
        stream.write(page.encode())


def _verdict(report: VerifyReport) -> str:
    words = {
        "ok": "The log is intact",
        "damaged": "Intact but for torn lines, each explained",
        "tampered": "The log has been tampered with",
    }
    signed = ", ".join(report.signed_by)
    trust = [
        (
            f"Lines {report.first_seq:,} to {report.head_seq:,} checked "
            f"against {report.checkpoints:,} checkpoints."
        ),
        f"Signed by {escape(signed)}."
        if signed
        else "No key was given: who vouches for it is not shown.",
        "Extends the outside anchor."
        if report.anchored
        else "No outside anchor was given: an older copy would pass.",
    ]
    if report.uncovered:
        trust.append(f"{report.uncovered:,} lines are newer than the last checkpoint.")
    root = f"<p>Root <code>{report.root}</code></p>" if report.root else ""
    return (
        f'<div class="verdict {report.status}"><b>{words[report.status]}</b>'
        f"<p>{' '.join(trust)}</p>{root}</div>"
    )


def _figures(summary: Summary) -> str:
    failed = summary.outcomes["failure"]
    figures = [
        ("events", f"{summary.events:,}"),
        ("actors", f"{len(summary.actors):,}"),
        ("actions", f"{len(summary.actions):,}"),
        ("failed", f"{failed:,}"),
        ("denied", f"{summary.outcomes['denied']:,}"),
    ]
    cells = "".join(f"<div><b>{value}</b>{name}</div>" for name, value in figures)
    return f'<div class="figures">{cells}</div>'


def _activity(summary: Summary) -> str:
    if not summary.per_hour:
        return "<h2>Activity</h2><p>No events in this range.</p>"
    buckets, width_hours = _buckets(summary)
    most = max(total for _, total, _ in buckets)
    step = 1000 / len(buckets)
    bars = []
    for number, (label, total, failed) in enumerate(buckets):
        x, width = number * step, max(step - 2, 1)
        tall, low = 150 * total / most, 150 * failed / most
        bars.append(
            f"<g><title>{label}: {total} events, {failed} failed or denied</title>"
            f'<rect x="{x:.1f}" y="{160 - tall:.1f}" width="{width:.1f}" '
            f'height="{tall:.1f}" fill="var(--bar)"/>'
            f'<rect x="{x:.1f}" y="{160 - low:.1f}" width="{width:.1f}" '
            f'height="{low:.1f}" fill="var(--fail)"/></g>'
        )
    unit = "hour" if width_hours == 1 else f"{width_hours} hours"
    return (
        f"<h2>Activity</h2><p>Events per {unit} (UTC), at most {most:,}; "
        'failed and denied <span style="color:var(--fail)">in red</span></p>'
        '<svg viewBox="0 0 1000 160" preserveAspectRatio="none" role="img" '
        f'aria-label="events over time">{"".join(bars)}</svg>'
        f'<div class="ends"><span>{buckets[0][0]}</span>'
        f"<span>{buckets[-1][0]}</span></div>"
    )


def _buckets(summary: Summary) -> tuple[list[tuple[str, int, int]], int]:
    """Group the hours so that at most 60 bars cover the whole range."""
    hours = {datetime.fromisoformat(f"{h}:00:00+00:00"): h for h in summary.per_hour}
    start, end = min(hours), max(hours)
    span = int((end - start).total_seconds() // 3600) + 1
    width = next(
        w for w in (1, 2, 3, 6, 12, 24, 48, 168, 720, span) if w * _BARS >= span
    )
    count = -(-span // width)
    totals, failures = [0] * count, [0] * count
    for moment, hour in hours.items():
        at = int((moment - start).total_seconds() // 3600) // width
        totals[at] += summary.per_hour[hour]
        failures[at] += summary.failed_per_hour[hour]
    labels = [
        (start + timedelta(hours=n * width)).strftime("%Y-%m-%d %H:00")
        for n in range(count)
    ]
    return list(zip(labels, totals, failures, strict=True)), width


def _top(
    title: str, name: str, counts: Counter[str], failed: Counter[str] | None
) -> str:
    head = f"<th>{name}</th><th class=n>events</th>"
    head += "<th class=n>failed or denied</th>" if failed is not None else ""
    rows = []
    for key, count in counts.most_common(_TOP):
        row = f"<td>{escape(key)}</td><td class=n>{count:,}</td>"
        row += f"<td class=n>{failed[key]:,}</td>" if failed is not None else ""
        rows.append(f"<tr>{row}</tr>")
    more = len(counts) - _TOP
    rest = f"<p>and {more:,} more</p>" if more > 0 else ""
    return f"<div><h2>{title}</h2><table><tr>{head}</tr>{''.join(rows)}</table>{rest}</div>"


def _failures(events: Sequence[Event]) -> str:
    if not events:
        return "<h2>Failures</h2><p>None.</p>"
    rows = "".join(
        f"<tr><td class=n>{event.seq}</td>"
        f"<td>{escape(event.ts[:19].replace('T', ' '))}</td>"
        f"<td>{escape(event.actor.type)}:{escape(event.actor.id)}</td>"
        f"<td>{escape(event.action)}</td><td>{_resource(event)}</td>"
        f"<td>{escape(event.outcome)}</td></tr>"
        for event in reversed(events)
    )
    return (
        '<h2>Latest failures</h2><div class="wide"><table><tr><th class=n>line</th>'
        "<th>time (UTC)</th><th>actor</th><th>action</th><th>resource</th>"
        f"<th>outcome</th></tr>{rows}</table></div>"
    )


def _resource(event: Event) -> str:
    found = event.resource
    return f"{escape(found.type)} {escape(found.id)}" if found else ""


def _findings(report: VerifyReport) -> str:
    if not report.findings:
        return ""
    rows = "".join(
        f"<tr><td class=k>{f.severity}</td><td class=n>{f.seq or ''}</td>"
        f"<td>{escape(f.message)}</td><td><code>{escape(f.where)}</code></td></tr>"
        for f in report.findings[:_LATEST]
    )
    more = len(report.findings) - _LATEST
    rest = f"<p>and {more:,} more</p>" if more > 0 else ""
    return (
        '<h2>Findings of the verification</h2><div class="wide"><table><tr><th>kind</th>'
        "<th class=n>line</th><th>what</th><th>where</th></tr>"
        f"{rows}</table></div>{rest}"
    )
