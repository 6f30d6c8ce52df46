"""`make bench`: tables, targets, agreement, growth, and what a script used."""

import json
import math
import sys

import bench
import bench_growth
import bench_report
import pytest


def row(work, peer, ratio, **more):
    return {
        "work": work, "unit": "us", "peer": peer, "peer_value": 10.0,
        "ours": 10.0 * (ratio or 0.1), "ratio": ratio, "spread": 0.1, "target": None,
        "met": None, "direction": "lower",
    } | more  # fmt: skip


def result(*rows):
    machine = {"python": "3.11.7", "cores": 2, "system": "Linux", "date": "2026-01-01"}
    return {"v": 1, "name": "x", "rows": list(rows), "failed": [], "not_installed": [],
            "scripts": [], "versions": {}, "mode": "short", "machine": machine}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, ""),
        ({"target": 0.25}, "at most 0.250x"),
        ({"target": 2.0, "direction": "higher"}, "at least 2.00x"),
        ({"target": 5.0, "target_of": "ours"}, "at most 5.00 us"),
        ({"target": 5.0, "ratio": None, "peer": ""}, "at most 5.00 us"),
        ({"target": 5.0, "ratio": None}, ""),
    ],
)
def test_a_target_is_of_the_ratio_unless_the_row_says_otherwise(more, said):
    assert bench_report.target_of(row("w", "p", 0.5) | more) == said


def test_a_readme_table_has_one_line_for_each_work_and_all_its_peers():
    text = bench_report.markdown(
        result(
            row("call", "a", 0.2, target=0.25, met=True),
            row("call", "b", 0.5),
            row("start", "a", 2.0, target=1.0, met=False, note="loads sqlite3"),
            row("growth: calls", "", None, unit="slope", target=1.2, met=True),
        )
    )
    assert text.splitlines()[2:4] == [
        "| call | 2.00 us | a 10.0 us, 0.200x; b 10.0 us, 0.500x | at most 0.250x a: met |",
        "| start | 20.0 us | a 10.0 us, 2.00x | at most 1.00x: missed |",
    ]
    assert "- start: loads sqlite3" in text
    assert "growth" not in text


def test_runs_that_differ_by_more_than_a_quarter_are_named():
    before = result(row("call", "a", 0.20), row("start", "a", 1.0))
    now = result(row("call", "a", 0.24), row("start", "a", 1.3))
    said = bench_report.agreement(before, now)
    assert "1 of 2 ratios" in said
    assert "start / a: 1.00, now 1.30" in said


def test_what_a_run_leaves_out_is_kept_with_its_date(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_report, "RESULTS", tmp_path)
    bench_report.keep("x", result(row("load", "a", 0.2), row("load", "slow", 0.001)))
    for day in (2, 3):  # again and again, with the date of the measurement
        now = result(row("load", "a", 0.3)) | {"left_out": [["load", "slow"]]}
        now["machine"] = now["machine"] | {"date": f"2026-01-0{day}"}
        bench_report.keep("x", now)
    kept = json.loads((tmp_path / "x.json").read_text("utf-8"))
    text = bench_report.markdown(kept)
    assert "a 10.0 us, 0.300x; slow (on 2026-01-01) 10.0 us, 0.001x" in text
    bench_report.keep("x", result(row("load", "a", 0.3)))
    assert "slow" not in (tmp_path / "x.json").read_text("utf-8")


def test_a_table_that_differs_from_the_figures_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_report, "ROOT", tmp_path)
    monkeypatch.setattr(bench_report, "RESULTS", tmp_path / "docs/benchmarks")
    readme = tmp_path / "packages/x/README.md"
    readme.parent.mkdir(parents=True)
    readme.write_text("# x\n" + "\n".join(bench_report.MARKS) + "\nend\n", "utf-8")
    bench_report.keep("x", result(row("call", "a", 0.2)))
    assert bench_report.write_tables(check=True) == 1
    assert bench_report.write_tables(check=False) == 0
    assert bench_report.write_tables(check=True) == 0
    text = readme.read_text(encoding="utf-8")
    assert "| call | 2.00 us |" in text
    assert text.endswith("\nend\n")
    readme.write_text(text.replace("2.00", "1.00"), encoding="utf-8")
    assert bench_report.write_tables(check=True) == 1
    readme.write_text("# x\n", encoding="utf-8")
    assert bench_report.write_tables(check=True) == 1
    assert "lacks the line" in capsys.readouterr().out


def test_the_chart_and_the_page_show_every_ratio(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_report, "RESULTS", tmp_path)
    bench_report.keep("x", result(row("a < b", "p", 0.2), row("c", "p", 3.0)))
    bench_report.write_page()
    chart = (tmp_path / "x.svg").read_text(encoding="utf-8")
    assert chart.count("<rect") == 3
    assert "a &lt; b / p" in chart
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "a &lt; b" in page
    assert "3.00" in page


def test_a_script_is_charged_with_what_it_used(tmp_path):
    code, used = bench.run_script(
        [sys.executable, "-c", "x = bytearray(200_000_000); raise SystemExit(3)"],
        tmp_path,
    )
    assert code == 3
    assert used["mb"] > 190
    assert used["cpu"] > 0


def test_a_script_is_told_where_a_peer_is_that_shares_no_environment(tmp_path):
    code = "import os; raise SystemExit(os.environ['BENCH_OTHER'] != '/there')"
    words = [sys.executable, "-c", code]
    assert bench.run_script(words, tmp_path, {"BENCH_OTHER": "/there"})[0] == 0


def test_a_square_shows_in_the_slope(tmp_path):
    assert bench_growth.fit([0, 1, 2], [1, 3, 5]) == pytest.approx(2)
    cases = tmp_path / "growth.py"
    cases.write_text(
        "def square(n, _):\n"
        "    return lambda: sum(1 for _ in range(n) for _ in range(n))\n"
        "CASES = {'square': ((300, 900, 2700), square)}\n",
        encoding="utf-8",
    )
    out = tmp_path / "rows.json"
    done = bench.run_script(
        [sys.executable, bench_growth.__file__, cases, "--json", out], tmp_path
    )
    assert done[0] == 0
    [found] = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert found["met"] is False
    assert math.isclose(found["ours"], 2, abs_tol=0.4)


def test_an_unknown_package_is_refused_with_the_known_ones(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.py", "--package", "resilence"])
    assert bench.main() == 2
    assert "resilience" in capsys.readouterr().err
