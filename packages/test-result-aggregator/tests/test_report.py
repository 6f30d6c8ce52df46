"""The HTML page in a real browser, the Markdown summary, the command."""

import json
import os
import re
import signal
import subprocess
import sys

import pytest
from maestro_test_result_aggregator import TestResultAggregator
from maestro_test_result_aggregator._cli import main
from maestro_test_result_aggregator._markdown import annotations
from maestro_test_result_aggregator.testing import result

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
]
EVIL = "<script>document.title='x'</script>"


def filled(agg, tests=60, runs=20):
    """A history with a flake, an outage, a regression, and a slower test."""
    for run in range(runs):
        agg.add([
            result(
                f"tests/test_{i // 10}.py::test_{i}",
                "failed" if (i == 3 and run % 6 == 2) or (run == 9 and i % 2) or (i in (5, 6) and run == runs - 1) else "passed",
                duration=(0.5 if i == 7 and run > runs - 7 else 0.05) + i / 1000, start=1.79e9 + run * 3600 + i, worker=f"gw{i % 2}",
                message=f"ValueError: {EVIL} {i}" if i in (3, 5, 6) else None,
            )
            for i in range(tests)
        ], run_id=f"r{run}", started=1.79e9 + run * 3600, commit=f"c{run}", branch="main")  # fmt: skip
    return agg


def test_the_page_answers_first_and_needs_no_script(agg, tmp_path):
    """The sentence comes before everything; nothing is loaded or run."""
    text = filled(agg).report_html(tmp_path / "r.html").read_text(encoding="utf-8")
    said = re.search(r"<h1[^>]*>(.*?)</h1>", text)[1]
    assert "Do not merge. 2 new failures, 1 cause. 58 passed in" in said
    assert (
        text.index("<h1")
        < text.index("Failures by cause")
        < text.index("Trend")
        < text.index("flaky</h2>")
    )
    assert "<script" not in text
    assert "http" not in re.sub(r"<meta[^>]*>", "", text)
    for words in (
        "first in run <code>r19</code> at <code>c19</code>",
        "slower",
        "Workers",
        "failed alone",
    ):
        assert words in text
    again = agg.report_html(tmp_path / "again.html").read_text(encoding="utf-8")
    assert again == text


def test_a_green_run_is_ready(agg, tmp_path):
    """And what is not known is not called stable."""
    agg.add([result("a")], run_id="1", started=1)
    text = agg.report_html(tmp_path / "r.html").read_text(encoding="utf-8")
    assert "Ready to merge. 1 passed" in text
    assert "That is no proof" in text


@pytest.mark.parametrize("mode", ["light", "dark", "print"])
def test_a_browser_shows_the_page(agg, tmp_path, require_program, mode):
    """Chromium, with JavaScript off; colours follow the mode, nothing overflows."""
    chromium, driver = require_program("chromium"), require_program("chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    page = filled(agg).report_html(tmp_path / "r.html")
    options = Options()
    options.binary_location = chromium
    for flag in [
        *FLAGS,
        f"--user-data-dir={tmp_path / 'profile'}",
        "--window-size=1000,900",
    ]:
        options.add_argument(flag)
    options.add_experimental_option(
        "prefs", {"profile.managed_default_content_settings.javascript": 2}
    )
    browser = webdriver.Chrome(options=options, service=Service(driver))
    try:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {
            "media": "print" if mode == "print" else "screen",
            "features": [{"name": "prefers-color-scheme", "value": "dark" if mode == "dark" else "light"}],
        })  # fmt: skip
        browser.get(page.as_uri())
        heading = browser.find_element("css selector", "h1")
        assert heading.text.startswith("✗ Do not merge. 2 new failures, 1 cause.")
        assert heading.location["y"] < 100
        colour = browser.find_element("css selector", "body").value_of_css_property(
            "background-color"
        )
        assert ("21, 24, 28" in colour) == (mode == "dark")
        assert browser.find_element("css selector", "nav").is_displayed() == (
            mode != "print"
        )
        cards = browser.find_elements("css selector", ".card h3")
        assert EVIL in cards[0].text
        assert browser.title == "Not ready: r19"
        assert browser.find_element("css selector", "html").size["width"] <= 1000
        assert all(
            row.size["width"] > 0
            for row in browser.find_elements("css selector", "td svg")[:3]
        )
    finally:
        browser.quit()


def test_markdown_stays_within_its_size(agg):
    """And says what it left out."""
    agg.add(
        [
            result(
                f"t{i}::é{i}",
                "failed",
                message=f"{chr(65 + i % 26) * (i % 40 + 3)}Error: {i}",
            )
            for i in range(300)
        ],
        run_id="1",
        started=1,
    )
    whole = agg.summary_markdown()
    for limit in (200, 1000, 5000):
        text = agg.summary_markdown(limit=limit)
        assert len(text.encode()) <= limit
        assert "do not fit" in text
    assert len(whole.encode()) <= 65_000
    assert whole.startswith("## ✗ Do not merge. 300 new failures")
    rows = annotations(agg.run("1"))
    assert len(rows) == 49
    assert "252 more failures" in rows[-1]


def command(*arguments):
    """Exit code of the command."""
    return main([str(a) for a in arguments])


def test_the_command_from_reports_to_a_gate(tmp_path, golden, capsys):
    """As a pipeline would use it."""
    store = ("--store", tmp_path / "h.db")
    assert (
        command("ingest", golden / "jest.json", "--run", "1", "--started", 1, *store)
        == 0
    )
    assert (
        command("ingest", golden / "robot.xml", "--run", "1", "--shard", "2/2", *store)
        == 0
    )
    assert "3 tests" not in capsys.readouterr().out
    assert command("gate", *store) == 1
    assert "closed" in capsys.readouterr().out
    rules = tmp_path / "gate.toml"
    rules.write_bytes(b"[gate]\nmax_new_failures = 3\n")
    assert command("gate", "--rules", rules, *store) == 0
    capsys.readouterr()
    for name in (
        ["summary"],
        ["flaky", "--all"],
        ["failures"],
        ["slow"],
        ["compare", "1", "1"],
        ["shard", "2"],
        ["prune", "--keep", "9"],
        ["report", "-o", tmp_path / "r.html"],
    ):
        assert command(*name, *store) == 0
        assert capsys.readouterr().out
        assert command(*name, "--json", *store) == 0
        json.loads(capsys.readouterr().out)
    assert command("summary", "--markdown", *store) == 0
    assert "Do not merge" in capsys.readouterr().out
    merged, stream = tmp_path / "all.xml", tmp_path / "all.jsonl"
    assert command("merge", golden / "allure", "-o", merged) == 0
    capsys.readouterr()
    assert command("convert", merged, stream, "--json") == 0
    assert json.loads(capsys.readouterr().out)["counts"]["tests"] == 13


def test_every_command_takes_the_baseline(tmp_path, capsys, monkeypatch):
    """As an option or from the environment; gate, summary and page agree."""
    store = ("--store", tmp_path / "h.db")
    bad = tmp_path / "bad.xml"
    bad.write_bytes(
        b'<testsuite><testcase name="a"><failure message="m"/></testcase></testsuite>'
    )
    for at, branch in enumerate(("develop", "pr")):
        assert command("ingest", bad, "--branch", branch, "--commit", branch, "--started", at, *store) == 0  # fmt: skip
    page, words = tmp_path / "r.html", "1 failure of the baseline too"
    for option, rc in ((["--baseline", "develop"], 0), ([], 1)):
        assert command("gate", *option, *store) == rc
        assert command("summary", *option, *store) == 0
        assert (words in capsys.readouterr().out) == (rc == 0)
        assert command("report", "-o", page, *option, *store) == 0
        assert (words in page.read_text(encoding="utf-8")) == (rc == 0)
        assert command("summary", "--json", *option, *store) == 0
        capsys.readouterr()
    monkeypatch.setenv("MAESTRO_RESULTS_BASELINE", "develop")
    assert command("gate", *store) == 0


def test_mistakes_have_an_exit_code_and_one_line(tmp_path, golden, capsys):
    """Never a stack trace."""
    store = ("--store", tmp_path / "h.db")
    assert command("summary", *store) == 2
    assert "no such history" in capsys.readouterr().err
    cut = tmp_path / "cut.xml"
    cut.write_bytes((golden / "pytest.junit.xml").read_bytes()[:1200])
    assert command("ingest", cut, *store) == 3
    assert "broken XML" in capsys.readouterr().err
    fresh = tmp_path / "fresh.db"
    assert command("ingest", tmp_path / "no.xml", "--store", fresh) == 2
    assert "no.xml: no such file" in capsys.readouterr().err
    assert not fresh.exists()
    assert command("convert", tmp_path / "no.xml", tmp_path / "no.json") == 2
    assert not (tmp_path / "no.json").exists()
    assert command("convert", golden / "robot.xml", tmp_path / "out.csv") == 2
    assert "(jsonl), got suffix '.csv'" in capsys.readouterr().err
    assert command("merge", golden / "robot.xml", "-o", cut / "below.json") == 2
    assert "below.json: cannot be written in" in capsys.readouterr().err
    none = tmp_path / "none.txt"
    none.touch()
    assert command("shard", "2", "--tests", none, *store) == 2
    assert "none.txt: no tests to split: the list is empty" in capsys.readouterr().err
    assert command("summary", "--run", "nope", *store) == 2
    assert command("convert", golden / "robot.xml", tmp_path / "out.pdf") == 2
    assert command("prune", *store) == 2
    old = tmp_path / "q.toml"
    old.write_bytes(b'[[test]]\nid="a"\nowner="me"\nreason="r"\nexpires=2020-01-01\n')
    assert command("quarantine", old) == 1
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith("maestro-results: ")


def test_help_has_an_example():
    """And the exit codes."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "maestro_test_result_aggregator._cli", "--help"],
        capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert "maestro-results ingest" in done.stdout
    assert "exit codes" in done.stdout


def test_ten_thousand_tests_and_a_hundred_runs_fit_in_a_megabyte(tmp_path):
    """With 2 % flaky tests; only the last runs hold all tests, to keep this test short."""
    with TestResultAggregator() as agg:
        names = [
            f"tests/package_{i // 200}/test_module_{i // 20}.py::test_behaviour_{i}"
            for i in range(10_000)
        ]
        for run in range(100):
            some = names if run > 97 else names[:200]
            agg.add(
                [
                    result(
                        n,
                        "failed"
                        if i < 200 and (i * 7 + run * 13) % 101 == 0
                        else "passed",
                        duration=0.1,
                    )
                    for i, n in enumerate(some)
                ],
                run_id=str(run),
                started=run,
            )
        path = agg.report_html(tmp_path / "r.html")
        assert path.stat().st_size < 1_000_000
        text = path.read_text(encoding="utf-8")
        assert "test_behaviour_9999" in text
        assert text.count("<use ") > 190


# Started in the background, a shell has it ignore SIGINT.
INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from maestro_test_result_aggregator._cli import main
sys.exit(main())
"""


def test_an_interrupted_command_says_so_and_leaves_the_history(tmp_path, golden):
    """^C amid a report that is still being written: 130, and no half run."""
    pipe, history = tmp_path / "report.xml", tmp_path / "history.db"
    os.mkfifo(pipe)
    program = [sys.executable, "-P", "-c", INTERRUPTIBLE, "ingest"]
    options = ["--store", history]
    subprocess.run([*program, golden / "robot.xml", *options], check=True)
    with subprocess.Popen(
        [*program, pipe, *options], stderr=subprocess.PIPE, encoding="utf-8"
    ) as child:
        try:
            with pipe.open("w", encoding="utf-8") as writer:  # when the child reads
                writer.write('<testsuite name="s"><testcase name="a" classname="c"/>')
                writer.flush()
                child.send_signal(signal.SIGINT)
                _, err = child.communicate(timeout=30)
        finally:
            child.kill()
    assert (child.returncode, err) == (130, "maestro-results: interrupted\n")
    with TestResultAggregator(history) as agg:
        assert len(agg.store.runs()) == 1
