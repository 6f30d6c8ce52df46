"""One HTML file: may this be merged, why not, and what history says.

Inline SVG, no script, no network. Colours follow the reader's light or dark setting
and the print style; each colour has a sign or a word beside it.
"""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ._charts import ROWS, duration_charts, flaky_map, trend_chart, worker_chart
from ._cluster import FailureCluster
from ._model import TestResult
from ._rules import GateResult, GateRules
from ._runs import RunInfo
from ._wording import count, escape, took

if TYPE_CHECKING:
    from ._aggregator import TestResultAggregator
    from ._run import Run

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
        trend_chart(runs[-30:]),
        flaky_map(flakes, runs),
        duration_charts(agg, run, results, runs),
        worker_chart(run, results),
        _tests(results),
    ]
    title = escape(f"{'Ready' if gate.ok else 'Not ready'}: {run.run_id}")
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
        parts.append(f"{count(len(new), 'new failure')}, {count(causes, 'cause')}")
    if gate.old_failures:
        parts.append(f"{count(len(gate.old_failures), 'failure')} of the baseline too")
    if gate.ignored:
        parts.append(
            f"{count(len(gate.ignored), 'failure')} known as flaky or quarantined, ignored"
        )
    ended = f"{counts.passed:,} passed in {took(run.duration)}"
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
        f"Run <code>{escape(run.run_id)}</code>",
        time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(run.info.started)),
    ]
    facts += [
        f"{word} <code>{escape(text)}</code>"
        for word, text in (
            ("commit", run.info.commit[:12]),
            ("branch", run.info.branch),
        )
        if text
    ]
    facts += [f"{escape(k)} {escape(v)}" for k, v in run.info.environment.items()]
    rows = "".join(f"<li>{escape(r)}</li>" for r in gate.reasons)
    rows += "".join(f'<li class="dim">{escape(n)}</li>' for n in gate.notes)
    problems = "".join(
        f"<li><code>{escape(str(d))}</code></li>" for d in run.diagnostics[:50]
    )
    warned = (
        f"<details{' open' if any(d.level == 'error' for d in run.diagnostics) else ''}><summary>{count(len(run.diagnostics), 'remark')} about the reports</summary><ul>{problems}</ul></details>"
        if problems
        else ""
    )
    numbers = [("tests", c.tests, "tests"), ("passed", c.passed, "tests"), ("failed", c.failed, "failures"),
               ("skipped", c.skipped + c.pending, "tests"), ("flaky", c.flaky, "flaky")]  # fmt: skip
    links = " ".join(
        f'<a href="#{anchor}">{number:,} {word}</a>' for word, number, anchor in numbers
    )
    return (
        f'<h1 class="{"ok" if gate.ok else "bad"}">{sign}{escape(sentence(run, gate, runs))}</h1>'
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
    rows = [_cluster(agg, c, by_id, new) for c in clusters[:ROWS]]
    more = (
        f"<p>{count(len(clusters) - ROWS, 'more cause')} not shown.</p>"
        if len(clusters) > ROWS
        else ""
    )
    return '<h2 id="failures">Failures by cause</h2>' + "".join(rows) + more


def _cluster(
    agg: "TestResultAggregator",
    c: FailureCluster,
    by_id: dict[str, TestResult],
    new: set[str],
) -> str:
    fresh = sum(t in new for t in c.tests)
    facts = [
        f"{count(len(c.tests), 'test')}, {fresh} new"
        if fresh
        else f"{count(len(c.tests), 'test')}, failing on the baseline too"
    ]
    if c.owners:
        facts.append("owner " + escape(", ".join(c.owners)))
    if c.first_seen:
        facts.append(
            f"first in run <code>{escape(c.first_seen)}</code>"
            + (
                f" at <code>{escape(c.first_commit[:12])}</code>"
                if c.first_commit
                else ""
            )
        )
    held = [q for q in map(agg.quarantine.active, c.tests) if q]
    if held:
        facts.append(
            f"{len(held)} quarantined until {held[0].expires} ({escape(held[0].owner)})"
        )
    example = by_id[c.tests[0]]
    text = (example.trace or example.message or "")[-_TRACE:]
    names = "".join(f"<li><code>{escape(t)}</code></li>" for t in c.tests[:100])
    more = f"<li>{len(c.tests) - 100} more</li>" if len(c.tests) > 100 else ""
    return (
        f'<div class="card{"" if fresh else " old"}" id="c-{c.key}"><h3>{escape(c.example.splitlines()[0][:300] if c.example else c.title)}</h3>'
        f'<p class="dim">{" &middot; ".join(facts)}</p><details{" open" if len(c.tests) < 4 else ""}><summary>{count(len(c.tests), "test")}</summary><ul>{names}{more}</ul></details>'
        + (
            f"<details><summary>trace of the first</summary><pre>{escape(text)}</pre></details>"
            if text
            else ""
        )
        + "</div>"
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
            signs[result.status] + flaky + escape(result.name)
        )
    blocks = "".join(
        f"<details><summary><code>{escape(group) or 'tests'}</code> {len(names)}</summary>{'<br>'.join(names)}</details>"
        for group, names in groups.items()
    )
    return (
        f'<h2 id="tests">All {count(len(results), "test")}</h2><p class="dim">&#10007; failed, &#8211; skipped, ~ passed on retry, ? not run; others passed.</p>'
        f"<details><summary>show</summary><div class='list'>{blocks}</div></details>"
    )
