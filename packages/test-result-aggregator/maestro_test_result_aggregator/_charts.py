"""The charts of the page, as inline SVG: trend, flaky map, durations, workers."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ._model import TestResult
from ._runs import RunInfo
from ._stats import DurationChange
from ._wording import count, escape, took

if TYPE_CHECKING:
    from ._aggregator import TestResultAggregator
    from ._judged import Flake
    from ._run import Run

ROWS = 200


def trend_chart(runs: Sequence[RunInfo]) -> str:
    if len(runs) < 2:
        return ""
    width, height, step = 900, 150, 900 / len(runs)
    most = max(r.counts.tests for r in runs) or 1
    slowest = max(r.duration for r in runs) or 1.0
    bars, points = [], []
    for i, run in enumerate(runs):
        c, y, x = run.counts, float(height), i * step
        title = f"{run.run_id}: {c.passed} passed, {c.failed} failed, {c.skipped + c.pending} skipped, {took(run.duration)}"
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
        bars.append(f"<g><title>{escape(title)}</title>{inner}</g>")
        points.append(
            f"{x + step / 2:.0f},{height - run.duration / slowest * (height - 20):.0f}"
        )
    return (
        f'<h2 id="trend">Trend, {len(runs)} runs</h2><svg viewBox="0 -14 {width} {height + 30}" role="img" aria-label="outcomes and test time of the last runs">'
        + "".join(bars)
        + f'<polyline class="t" points="{" ".join(points)}"/>'
        f'<text x="0" y="{height + 13}">{escape(runs[0].run_id[:30])}</text><text x="{width}" y="{height + 13}" text-anchor="end">{escape(runs[-1].run_id[:30])}</text></svg>'
        f'<p class="dim">Bars: tests passed, skipped and, on top with their number, failed. Line: test time, up to {took(slowest)}.</p>'
    )


def flaky_map(flakes: "Sequence[Flake]", runs: Sequence[RunInfo]) -> str:
    head = f'<h2 id="flaky">Tests that failed in the last {count(len(runs), "run")}, by how probably they are flaky</h2>'
    if not flakes:
        return (
            head
            + f"<p>None failed. That is no proof: most flaky tests fail in fewer than 1 of 100 runs, and {count(len(runs), 'run')} were seen.</p>"
        )
    n = len(runs)
    outages = "".join(
        f'<rect class="o" x="{i * 3}" width="3" height="14"/>' for i in range(n)
        if sum(f.row[i] == "F" for f in flakes) > max(10, 0.25 * len(flakes))
    )  # fmt: skip
    rows = [
        _flake(f, n, first=i == 0, outages=outages) for i, f in enumerate(flakes[:ROWS])
    ]
    more = (
        f"<p>{count(len(flakes) - ROWS, 'more test')} not shown.</p>"
        if len(flakes) > ROWS
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
        f'<tr><td><code>{escape(flake.test)}</code><br><span class="dim">{escape("; ".join(flake.evidence))}</span></td><td>{flake.class_.replace("-", " ")}</td>'
        f'<td class="num">{flake.score:.2f}</td><td class="num">{flake.rate.value:.1%}<br><span class="dim">{flake.rate.low:.1%}&ndash;{flake.rate.high:.1%}</span></td>'
        f'<td><svg width="{n * 3}" height="14" role="img" aria-label="{flake.failures} of {flake.seen} failed">{shared}<use href="#out"/>{shapes}</svg></td></tr>'
    )


def duration_charts(
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
        f'<tr><td><code>{escape(r.id)}</code></td><td class="num">{took(r.duration)}</td></tr>' for r in slow
    ) + "</table>"  # fmt: skip
    moved = (
        agg.regressions(branch=run.info.branch or None)[:15] if len(runs) >= 10 else []
    )
    return made + (_movers(moved) if moved else "")


def _movers(changes: Sequence[DurationChange]) -> str:
    low = math.log(min(min(c.before, c.after) for c in changes))
    high = math.log(max(max(c.before, c.after) for c in changes))
    span = (high - low) or 1.0
    rows = []
    for c in changes:
        a, b = (20 + (math.log(v) - low) / span * 260 for v in (c.before, c.after))
        name = "F" if c.ratio > 1 else "P"
        rows.append(
            f'<tr><td><code>{escape(c.test)}</code></td><td class="num">{took(c.before)} &rarr; {took(c.after)}</td><td class="num">{"slower" if c.ratio > 1 else "faster"} {max(c.ratio, 1 / c.ratio):.1f}x</td>'
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
    return took(10 ** (i / 2 - 4))


def worker_chart(run: "Run", results: Sequence[TestResult]) -> str:
    workers: dict[str, list[TestResult]] = {}
    for result in results:
        if result.worker is not None and result.start is not None:
            workers.setdefault(result.worker, []).append(result)
    if len(workers) < 2:
        names = [s for s in run.info.shards if s]
        return (
            f'<h2 id="shards">Shards</h2><p>{escape(", ".join(names))}</p>'
            if names
            else ""
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
            f'<text x="0" y="{i * 20 + 14}">{escape(name[:14])}</text><path class="t" style="stroke-width:12" d="{path}"/>'
        )
    return (
        f'<h2 id="shards">Workers</h2><svg viewBox="0 0 900 {len(rows) * 20}" role="img" aria-label="when each worker was busy">{"".join(rows)}</svg>'
        f'<p class="dim">{took(stop - first)} from first start to last stop; bars are tests.</p>'
    )
