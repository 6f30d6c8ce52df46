"""One HTML file: may this be merged, why not, and what history says.

Inline SVG, no script, no network. Colours follow the reader's light or dark setting
and the print style; each colour has a sign or a word beside it.
"""

import html
import math
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ._model import TestResult
from ._rules import GateResult, GateRules
from ._runs import RunInfo

if TYPE_CHECKING:
    from ._aggregator import TestResultAggregator
    from ._judged import Flake
    from ._run import Run

_ROWS = 200
_TRACE = 6000
_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--dim:#5c6670;--line:#d5dae0;--soft:#f4f6f8;
--ok:#2f855a;--bad:#c53030;--skip:#8795a1;--flaky:#b7791f;--time:#2b6cb0}
@media(prefers-color-scheme:dark){:root{--bg:#15181c;--fg:#e6e9ec;--dim:#9aa5b1;--line:#343b43;--soft:#1f242a;
--ok:#48bb78;--bad:#fc8181;--skip:#718096;--flaky:#ecc94b;--time:#63b3ed}}
*{box-sizing:border-box}body{background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,sans-serif;max-width:68rem;margin:0 auto;padding:1.5rem}
h1{font-size:1.6rem;line-height:1.3;margin:0 0 .3rem;border-left:.5rem solid;padding-left:.8rem}h1.ok{border-color:var(--ok)}h1.bad{border-color:var(--bad)}
h2{font-size:1.15rem;margin:2.2rem 0 .6rem;border-bottom:1px solid var(--line)}p{margin:.4rem 0}.dim{color:var(--dim)}
.num{font-variant-numeric:tabular-nums;text-align:right;white-space:nowrap}table{border-collapse:collapse;width:100%;font-size:.9rem}
th{text-align:left;font-weight:600;color:var(--dim)}td,th{padding:.3rem .5rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
code,pre{font:.85em/1.45 ui-monospace,monospace}code{overflow-wrap:anywhere}pre{background:var(--soft);padding:.7rem;overflow:auto;max-height:26rem;white-space:pre-wrap;overflow-wrap:anywhere}
.card{border:1px solid var(--line);border-left:.3rem solid var(--bad);padding:.6rem .9rem;margin:.6rem 0;border-radius:.2rem}.card.old{border-left-color:var(--skip)}
.card h3{font-size:1rem;margin:0;overflow-wrap:anywhere}summary{cursor:pointer}a{color:var(--time)}svg{display:block;max-width:100%}svg text{fill:var(--dim);font:11px system-ui,sans-serif}
.p{fill:var(--ok)}.f{fill:var(--bad)}.s{fill:var(--skip)}.y{fill:var(--flaky)}.F{stroke:var(--bad)}.R{stroke:var(--flaky)}.P{stroke:var(--ok);opacity:.35}.t{stroke:var(--time);fill:none;stroke-width:2}.o{fill:var(--flaky);opacity:.3}.a{fill:var(--time)}.b{fill:none;stroke:var(--fg)}
nav a{margin-right:1rem}.list{columns:2;font-size:.85rem;max-height:40rem;overflow:auto}:target{outline:2px solid var(--time)}
@media print{:root{--bg:#fff;--fg:#000;--dim:#444;--line:#bbb;--soft:#f4f4f4;--ok:#2f855a;--bad:#c53030;--flaky:#b7791f;--time:#2b6cb0}body{max-width:none;padding:0}nav{display:none}pre,.list{max-height:none}.card,tr{break-inside:avoid}}
@media(max-width:40rem){.list{columns:1}.wide{overflow-x:auto}}
"""


def page(
    agg: "TestResultAggregator",
    run: "Run",
    *,
    last: int,
    rules: GateRules | None = None,
) -> str:
    """Return the page about a run, with history up to it."""
    branch = run.info.branch or None
    runs = [
        r
        for r in agg.store.runs(branch=branch)
        if (r.started, r.number) <= (run.info.started, run.info.number)
    ][-last:]
    gate = agg.gate(rules).check(run)
    flakes = agg.flaky(branch=branch, last=last, classes=None, until=run.info)
    results = run.results()
    parts = [
        _head(run, gate, runs),
        _failures(agg, run),
        _trend(runs[-30:]),
        _flaky(flakes, runs),
        _durations(agg, run, results, runs),
        _shards(run, results),
        _tests(results),
    ]
    title = html.escape(f"{'Ready' if gate.ok else 'Not ready'}: {run.run_id}")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>\n"
        + "\n".join(filter(None, parts))
        + "\n</body></html>\n"
    )


def sentence(run: "Run", gate: GateResult, runs: Sequence[RunInfo]) -> str:
    """Say in one or two sentences whether to merge, and what happened."""
    counts = run.counts
    parts = []
    if gate.new_failures:
        new = set(gate.new_failures)
        causes = sum(bool(set(c.tests) & new) for c in run.failures())
        parts.append(f"{_n(len(new), 'new failure')}, {_n(causes, 'cause')}")
    if gate.old_failures:
        parts.append(f"{_n(len(gate.old_failures), 'failure')} from before")
    if gate.ignored:
        parts.append(
            f"{_n(len(gate.ignored), 'failure')} known as flaky or quarantined, ignored"
        )
    ended = f"{counts.passed:,} passed in {_took(run.duration)}"
    usual = sorted(r.duration if r.wall is None else r.wall for r in runs[:-1])
    if len(usual) >= 5 and usual[len(usual) // 2] > 0:
        change = run.duration / usual[len(usual) // 2] - 1
        if abs(change) >= 0.05:
            ended += (
                f", {abs(change):.0%} {'slower' if change > 0 else 'faster'} than usual"
            )
    parts.append(ended)
    return (
        ("Ready to merge. " if gate.ok else "Do not merge. ") + ". ".join(parts) + "."
    )


def _head(run: "Run", gate: GateResult, runs: Sequence[RunInfo]) -> str:
    c = run.counts
    sign = "&#10003; " if gate.ok else "&#10007; "
    facts = [
        f"Run <code>{_e(run.run_id)}</code>",
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(run.info.started)),
    ]
    facts += [
        f"{word} <code>{_e(text)}</code>"
        for word, text in (
            ("commit", run.info.commit[:12]),
            ("branch", run.info.branch),
        )
        if text
    ]
    facts += [f"{_e(k)} {_e(v)}" for k, v in run.info.environment.items()]
    rows = "".join(f"<li>{_e(r)}</li>" for r in gate.reasons)
    rows += "".join(f'<li class="dim">{_e(n)}</li>' for n in gate.notes)
    problems = "".join(
        f"<li><code>{_e(str(d))}</code></li>" for d in run.diagnostics[:50]
    )
    warned = (
        f"<details{' open' if any(d.level == 'error' for d in run.diagnostics) else ''}><summary>{_n(len(run.diagnostics), 'remark')} about the reports</summary><ul>{problems}</ul></details>"
        if problems
        else ""
    )
    numbers = [("tests", c.tests, "tests"), ("passed", c.passed, "tests"), ("failed", c.failed, "failures"),
               ("skipped", c.skipped + c.pending, "tests"), ("flaky", c.flaky, "flaky")]  # fmt: skip
    links = " ".join(
        f'<a href="#{anchor}">{number:,} {word}</a>' for word, number, anchor in numbers
    )
    return (
        f'<h1 class="{"ok" if gate.ok else "bad"}">{sign}{_e(sentence(run, gate, runs))}</h1>'
        f'<p class="dim">{" &middot; ".join(facts)}</p><nav>{links}</nav>'
        + (f"<ul>{rows}</ul>" if rows else "")
        + warned
    )


def _failures(agg: "TestResultAggregator", run: "Run") -> str:
    if not run.failed_results:
        return '<h2 id="failures">Failures</h2><p>None.</p>'
    new = set(run.new_failures)
    by_id = {r.id: r for r in run.failed_results}
    clusters = sorted(
        run.failures(), key=lambda c: (not set(c.tests) & new, -len(c.tests))
    )
    rows = [_cluster(agg, c, by_id, new) for c in clusters[:_ROWS]]
    more = (
        f"<p>{_n(len(clusters) - _ROWS, 'more cause')} not shown.</p>"
        if len(clusters) > _ROWS
        else ""
    )
    return '<h2 id="failures">Failures by cause</h2>' + "".join(rows) + more


def _cluster(
    agg: "TestResultAggregator",
    c: "object",
    by_id: dict[str, TestResult],
    new: set[str],
) -> str:
    from ._cluster import FailureCluster

    assert isinstance(c, FailureCluster)
    fresh = sum(t in new for t in c.tests)
    facts = [
        f"{_n(len(c.tests), 'test')}, {fresh} new"
        if fresh
        else f"{_n(len(c.tests), 'test')}, failing before"
    ]
    if c.owners:
        facts.append("owner " + _e(", ".join(c.owners)))
    if c.first_seen:
        facts.append(
            f"first in run <code>{_e(c.first_seen)}</code>"
            + (f" at <code>{_e(c.first_commit[:12])}</code>" if c.first_commit else "")
        )
    held = [q for q in map(agg.quarantine.active, c.tests) if q]
    if held:
        facts.append(
            f"{len(held)} quarantined until {held[0].expires} ({_e(held[0].owner)})"
        )
    example = by_id[c.tests[0]]
    text = (example.trace or example.message or "")[-_TRACE:]
    names = "".join(f"<li><code>{_e(t)}</code></li>" for t in c.tests[:100])
    more = f"<li>{len(c.tests) - 100} more</li>" if len(c.tests) > 100 else ""
    return (
        f'<div class="card{"" if fresh else " old"}" id="c-{c.key}"><h3>{_e(c.example.splitlines()[0][:300] if c.example else c.title)}</h3>'
        f'<p class="dim">{" &middot; ".join(facts)}</p><details{" open" if len(c.tests) < 4 else ""}><summary>{_n(len(c.tests), "test")}</summary><ul>{names}{more}</ul></details>'
        + (
            f"<details><summary>trace of the first</summary><pre>{_e(text)}</pre></details>"
            if text
            else ""
        )
        + "</div>"
    )


def _trend(runs: Sequence[RunInfo]) -> str:
    if len(runs) < 2:
        return ""
    width, height, step = 900, 150, 900 / len(runs)
    most = max(r.counts.tests for r in runs) or 1
    slowest = max(r.duration for r in runs) or 1.0
    bars, points = [], []
    for i, run in enumerate(runs):
        c, y, x = run.counts, float(height), i * step
        title = f"{run.run_id}: {c.passed} passed, {c.failed} failed, {c.skipped + c.pending} skipped, {_took(run.duration)}"
        inner = ""
        for name, number in (
            ("p", c.passed),
            ("s", c.skipped + c.pending + c.other),
            ("f", c.failed),
        ):
            if number:
                tall = max(number / most * (height - 20), 2)
                y -= tall
                inner += f'<rect class="{name}" x="{x + 1:.0f}" y="{y:.0f}" width="{max(step - 2, 1):.0f}" height="{tall:.0f}"/>'
        if c.failed:
            inner += f'<text x="{x + step / 2:.0f}" y="{y - 2:.0f}" text-anchor="middle">{c.failed}</text>'
        bars.append(f"<g><title>{_e(title)}</title>{inner}</g>")
        points.append(
            f"{x + step / 2:.0f},{height - run.duration / slowest * (height - 20):.0f}"
        )
    return (
        f'<h2 id="trend">Trend, {len(runs)} runs</h2><svg viewBox="0 -14 {width} {height + 30}" role="img" aria-label="outcomes and test time of the last runs">'
        + "".join(bars)
        + f'<polyline class="t" points="{" ".join(points)}"/>'
        f'<text x="0" y="{height + 13}">{_e(runs[0].run_id[:30])}</text><text x="{width}" y="{height + 13}" text-anchor="end">{_e(runs[-1].run_id[:30])}</text></svg>'
        f'<p class="dim">Bars: tests passed, skipped and, on top with their number, failed. Line: test time, up to {_took(slowest)}.</p>'
    )


def _flaky(flakes: "Sequence[Flake]", runs: Sequence[RunInfo]) -> str:
    head = f'<h2 id="flaky">Tests that failed in the last {_n(len(runs), "run")}, by how probably they are flaky</h2>'
    if not flakes:
        return (
            head
            + f"<p>None failed. That is no proof: most flaky tests fail in fewer than 1 of 100 runs, and {_n(len(runs), 'run')} were seen.</p>"
        )
    n = len(runs)
    outages = "".join(
        f'<rect class="o" x="{i * 3}" width="3" height="14"/>' for i in range(n)
        if sum(f.row[i] == "F" for f in flakes) > max(10, 0.25 * len(flakes))
    )  # fmt: skip
    rows = [
        _flake(f, n, first=i == 0, outages=outages)
        for i, f in enumerate(flakes[:_ROWS])
    ]
    more = (
        f"<p>{_n(len(flakes) - _ROWS, 'more test')} not shown.</p>"
        if len(flakes) > _ROWS
        else ""
    )
    legend = '<p class="dim">One mark a run, oldest left: tall failed, half recovered on retry, thin passed, gap not run; shaded columns are outages. The score is the probability of being flaky; the rate has its 95% interval.</p>'
    return (
        f'{head}{legend}<div class="wide"><table><tr><th>Test</th><th>Class</th><th class="num">Score</th><th class="num">Failure rate</th><th>Runs</th></tr>'
        + "".join(rows)
        + f"</table></div>{more}"
    )


def _flake(flake: "Flake", n: int, *, first: bool, outages: str) -> str:
    # Runs of equal cells are one stroke, so the row of a rare failure is short.
    paths = {"F": "", "r": "", ".": ""}
    at = 0
    while at < n:
        cell, end = flake.row[at], at
        while end < n and flake.row[end] == cell:
            end += 1
        if cell in paths:
            paths[cell] += f"M{at * 3} 7h{(end - at) * 3 - (cell != '.')}"
        at = end
    shapes = "".join(
        f'<path class="{name}" stroke-width="{wide}" d="{paths[cell]}"/>'
        for cell, name, wide in ((".", "P", 4), ("r", "R", 8), ("F", "F", 14)) if paths[cell]
    )  # fmt: skip
    shared = f'<defs><g id="out">{outages}</g></defs>' if first else ""
    return (
        f'<tr><td><code>{_e(flake.test)}</code><br><span class="dim">{_e("; ".join(flake.evidence))}</span></td><td>{flake.class_.replace("-", " ")}</td>'
        f'<td class="num">{flake.score:.2f}</td><td class="num">{flake.rate.value:.1%}<br><span class="dim">{flake.rate.low:.1%}&ndash;{flake.rate.high:.1%}</span></td>'
        f'<td><svg width="{n * 3}" height="14" role="img" aria-label="{flake.failures} of {flake.seen} failed">{shared}<use href="#out"/>{shapes}</svg></td></tr>'
    )


def _durations(
    agg: "TestResultAggregator",
    run: "Run",
    results: Sequence[TestResult],
    runs: Sequence[RunInfo],
) -> str:
    times = [r.duration for r in results if r.duration > 0]
    if not times:
        return ""
    before = (
        [t for _, t in agg.store.executed(runs[-2].run_id).values() if t > 0]
        if len(runs) > 1
        else []
    )
    now, was = _histogram(times), _histogram(before)
    tall, wide = max([*now, *was]) or 1, 50
    bars = "".join(
        f'<g><title>{_bound(i)} to {_bound(i + 1)}: {n}</title><rect class="a" x="{i * wide + 2}" y="{110 - n / tall * 100:.0f}" width="{wide - 4}" height="{n / tall * 100:.0f}"/></g>'
        for i, n in enumerate(now) if n
    )  # fmt: skip
    outline = "".join(
        f'<path class="b" d="M{i * wide} {110 - n / tall * 100:.0f}h{wide}"/>'
        for i, n in enumerate(was)
        if n
    )
    ticks = "".join(
        f'<text x="{i * wide}" y="124">{_bound(i)}</text>'
        for i in range(0, len(now), 2)
    )
    made = (
        f'<h2 id="durations">Durations</h2><svg viewBox="0 0 {len(now) * wide + 40} 130" role="img" aria-label="histogram of durations">{bars}{outline}{ticks}</svg>'
        f'<p class="dim">{len(times):,} tests by duration, logarithmic{"; lines: the run before" if before else ""}.</p>'
    )
    slow = sorted(results, key=lambda r: (-r.duration, r.id))[:10]
    made += "<table><tr><th>Slowest</th><th class='num'>Time</th></tr>" + "".join(
        f'<tr><td><code>{_e(r.id)}</code></td><td class="num">{_took(r.duration)}</td></tr>' for r in slow
    ) + "</table>"  # fmt: skip
    moved = (
        agg.regressions(branch=run.info.branch or None)[:15] if len(runs) >= 10 else []
    )
    return made + (_movers(moved) if moved else "")


def _movers(moved: Sequence[object]) -> str:
    from ._stats import DurationChange

    changes = [m for m in moved if isinstance(m, DurationChange)]
    low = math.log(min(min(c.before, c.after) for c in changes))
    high = math.log(max(max(c.before, c.after) for c in changes))
    span = (high - low) or 1.0
    rows = []
    for c in changes:
        a, b = (20 + (math.log(v) - low) / span * 260 for v in (c.before, c.after))
        name = "F" if c.ratio > 1 else "P"
        rows.append(
            f'<tr><td><code>{_e(c.test)}</code></td><td class="num">{_took(c.before)} &rarr; {_took(c.after)}</td><td class="num">{"slower" if c.ratio > 1 else "faster"} {max(c.ratio, 1 / c.ratio):.1f}x</td>'
            f'<td><svg width="300" height="14" aria-hidden="true"><path class="{name}" stroke-width="2" d="M{a:.0f} 7L{b:.0f} 7"/><circle class="s" cx="{a:.0f}" cy="7" r="4"/><circle class="{"f" if c.ratio > 1 else "p"}" cx="{b:.0f}" cy="7" r="5"/></svg></td></tr>'
        )
    return (
        "<h2>Tests whose duration changed</h2><div class='wide'><table>"
        + "".join(rows)
        + "</table></div>"
    )


def _histogram(times: Iterable[float]) -> list[int]:
    made = [0] * 16
    for value in times:
        made[min(max(int((math.log10(value) + 4) * 2), 0), 15)] += 1
    return made


def _bound(i: int) -> str:
    return _took(10 ** (i / 2 - 4))


def _shards(run: "Run", results: Sequence[TestResult]) -> str:
    workers: dict[str, list[TestResult]] = {}
    for result in results:
        if result.worker is not None and result.start is not None:
            workers.setdefault(result.worker, []).append(result)
    if len(workers) < 2:
        names = [s for s in run.info.shards if s]
        return (
            f'<h2 id="shards">Shards</h2><p>{_e(", ".join(names))}</p>' if names else ""
        )
    first = min(r.start or 0 for rs in workers.values() for r in rs)
    stop = max((r.start or 0) + r.duration for rs in workers.values() for r in rs)
    scale = 780 / max(stop - first, 1e-6)
    rows = []
    for i, (name, tests) in enumerate(sorted(workers.items())[:64]):
        path = "".join(
            f"M{100 + ((r.start or 0) - first) * scale:.1f} {i * 20 + 10}h{max(r.duration * scale, 0.5):.1f}"
            for r in sorted(tests, key=lambda r: -r.duration)[:300]
        )
        rows.append(
            f'<text x="0" y="{i * 20 + 14}">{_e(name[:14])}</text><path class="t" style="stroke-width:12" d="{path}"/>'
        )
    return (
        f'<h2 id="shards">Workers</h2><svg viewBox="0 0 900 {len(rows) * 20}" role="img" aria-label="when each worker was busy">{"".join(rows)}</svg>'
        f'<p class="dim">{_took(stop - first)} from first start to last stop; bars are tests.</p>'
    )


def _tests(results: Sequence[TestResult]) -> str:
    groups: dict[str, list[str]] = {}
    signs = {
        "passed": "",
        "failed": "&#10007; ",
        "skipped": "&#8211; ",
        "pending": "? ",
        "other": "? ",
    }
    for result in results:
        group = result.id.removesuffix(result.name).rstrip(":> .")
        flaky = "~ " if result.flaky else ""
        groups.setdefault(group, []).append(
            signs[result.status] + flaky + _e(result.name)
        )
    blocks = "".join(
        f"<details><summary><code>{_e(group) or 'tests'}</code> {len(names)}</summary>{'<br>'.join(names)}</details>"
        for group, names in groups.items()
    )
    return (
        f'<h2 id="tests">All {_n(len(results), "test")}</h2><p class="dim">&#10007; failed, &#8211; skipped, ~ passed on retry, ? not run; others passed.</p>'
        f"<details><summary>show</summary><div class='list'>{blocks}</div></details>"
    )


def _took(seconds: float) -> str:
    if seconds < 0.0995:
        return f"{seconds * 1000:.3g} ms"
    if seconds < 99.5:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60} min"
    )


def _n(count: int, noun: str) -> str:
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def _e(text: str) -> str:
    return html.escape(text, quote=True)
