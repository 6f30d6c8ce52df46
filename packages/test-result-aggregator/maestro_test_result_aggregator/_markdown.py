"""A summary in Markdown within a number of bytes, and annotations for GitHub."""

from typing import TYPE_CHECKING

from ._html import sentence
from ._rules import GateRules
from ._wording import count, took

if TYPE_CHECKING:
    from ._aggregator import TestResultAggregator
    from ._run import Run


def summary(
    agg: "TestResultAggregator",
    run: "Run",
    *,
    limit: int,
    rules: GateRules | None = None,
) -> str:
    """Return the summary; when it would be too long, the least important goes first."""
    if limit < 200:
        raise ValueError(f"limit must be at least 200 bytes, got {limit}")
    gate = agg.gate(rules).check(run)
    runs = agg.store.runs(branch=run.info.branch or None, last=100)
    c = run.counts
    blocks = [f"## {'✓' if gate.ok else '✗'} {_escape(sentence(run, gate, runs))}\n"]
    blocks += [f"- {_escape(text)}\n" for text in (*gate.reasons, *gate.notes)]
    blocks.append(
        f"\n| tests | passed | failed | skipped | flaky | time |\n|--:|--:|--:|--:|--:|--:|\n"
        f"| {c.tests:,} | {c.passed:,} | {c.failed:,} | {c.skipped + c.pending:,} | {c.flaky:,} | {took(run.duration)} |\n"
    )
    new = set(run.new_failures)
    clusters = sorted(
        run.failures(), key=lambda c: (not set(c.tests) & new, -len(c.tests))
    )
    for one in clusters:
        fresh = sum(t in new for t in one.tests)
        facts = [
            count(len(one.tests), "test"),
            f"{fresh} new" if fresh else "failing on the baseline too",
        ]
        facts += [", ".join(one.owners)] if one.owners else []
        rows = "".join(f"  - {_code(t)}\n" for t in one.tests[:5])
        rows += f"  - {len(one.tests) - 5} more\n" if len(one.tests) > 5 else ""
        blocks.append(
            f"\n**{_escape(one.example.splitlines()[0][:200])}** ({', '.join(facts)})\n{rows}"
        )
    flakes = agg.flaky(branch=run.info.branch or None)
    if flakes:
        blocks.append(
            "\n### Flaky tests\n\n| test | score | failure rate | evidence |\n|---|--:|--:|---|\n"
        )
        blocks += [
            f"| {_code(f.test)} | {f.score:.2f} | {f.rate} | {'; '.join(f.evidence)} |\n"
            for f in flakes
        ]
    blocks += [f"\n> {_escape(str(d))}\n" for d in run.diagnostics]
    return _within(blocks, limit)


def _within(blocks: list[str], limit: int) -> str:
    room = limit - 60
    made: list[str] = []
    for at, block in enumerate(blocks):
        size = len(block.encode())
        if size > room:
            if not made:
                made.append(block.encode()[:room].decode("utf-8", "ignore") + "\n")
                at += 1  # noqa: PLW2901 - this one is partly in
            made.append(f"\n{len(blocks) - at} more parts do not fit here.\n")
            break
        made.append(block)
        room -= size
    return "".join(made)


def annotations(run: "Run", *, most: int = 49) -> list[str]:
    """Return GitHub workflow commands, one a failure, at most `most` (GitHub keeps 50)."""
    failed = run.failed_results
    rows = []
    for result in failed[: most if len(failed) <= most else most - 1]:
        place = (
            f"file={_value(result.file)},line={result.line or 1},"
            if result.file
            else ""
        )
        text = _value(result.message or result.outcome)
        rows.append(f"::error {place}title={_value(result.id)}::{text}")
    if len(failed) > most:
        rows.append(
            f"::error title=more failures::{len(failed) - most + 1} more failures are in the report"
        )
    return rows


def _value(text: str) -> str:
    for char, code in (
        ("%", "%25"),
        ("\r", "%0D"),
        ("\n", "%0A"),
        (":", "%3A"),
        (",", "%2C"),
    ):
        text = text.replace(char, code)
    return text


def _escape(text: str) -> str:
    for char in "\\`*_[]<>|":
        text = text.replace(char, "\\" + char)
    return text.replace("\n", " ").replace("@", "@\u200b")


def _code(text: str) -> str:
    fence = "``" if "`" in text else "`"
    return f"{fence}{text.replace('|', '&#124;')}{fence}".replace("\n", " ")
