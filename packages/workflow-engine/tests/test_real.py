"""The real things: our own package built from YAML, the report in a browser, spans."""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import wf_steps as w
from maestro_workflow_engine import Workflow, WorkflowEngine, step
from maestro_workflow_engine._draw import draw
from maestro_workflow_engine._report import report_page
from maestro_workflow_engine._status import read_status, real_critical_path

PACKAGE = Path(__file__).resolve().parents[1]


def test_the_workflow_of_the_readme_builds_tests_and_packages_this_package(tmp_path):
    pytest.importorskip("maestro_yaml_config_parser")
    text = (PACKAGE / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)[1]
    (tmp_path / "release.yaml").write_text(block, encoding="utf-8")
    copy = tmp_path / "package"
    shutil.copytree(
        PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "streams")
    )
    flow = Workflow.load(
        tmp_path / "release.yaml", {"package": str(copy), "python": sys.executable}
    )
    with WorkflowEngine("threads:2", journal=tmp_path / "runs.db") as engine:
        run = engine.run(flow).check()
    assert run["build"].endswith("-py3-none-any.whl")
    assert "passed" in run["test"]
    assert re.match(r"[0-9a-f]{64}  maestro_workflow_engine-", run["package"])
    assert (copy / "site" / "maestro_workflow_engine" / "py.typed").exists()


@pytest.fixture
def finished(journal_path):
    import time

    nap = step(name="nap <1>")(lambda *a: time.sleep(0.02))
    with Workflow("demo & co") as flow:
        first = nap()
        w.double.map(list(range(5)))
        nap(nap(first))
        w.double.options(name="never")(w.fails(first))
    with WorkflowEngine("threads:3", journal=journal_path) as engine:
        engine.run(flow, run_id="r")
        yield engine.journal, flow


def test_the_report_is_a_page_that_a_browser_draws(finished, tmp_path, require_program):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    journal, flow = finished
    status = read_status(journal, "r")
    page = tmp_path / "report.html"
    page.write_text(report_page(status), encoding="utf-8")
    (tmp_path / "graph.svg").write_text(draw(flow, "svg"), encoding="utf-8")
    options = webdriver.ChromeOptions()
    options.binary_location = require_program("chromium")
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
        f"--user-data-dir={tmp_path / 'profile'}",
    ):  # fmt: skip
        options.add_argument(flag)
    driver = webdriver.Chrome(options, Service(require_program("chromedriver")))
    try:
        driver.get(page.as_uri())
        bars = driver.find_elements("css selector", "#gantt rect")
        ran = [s for s in status.steps.values() if s.ended]
        assert len(bars) == len(ran)
        assert all(bar.rect["width"] > 0 and bar.rect["height"] > 10 for bar in bars)
        assert driver.find_element("id", "use").rect["height"] > 20
        path = [item.text for item in driver.find_elements("css selector", "#path li")]
        assert [text.split(",")[0] for text in path] == real_critical_path(status)
        assert "nap <1>-3" in driver.find_element("id", "steps").text
        assert driver.find_element("css selector", "tr.failed").text.startswith("fails")
        assert (
            driver.execute_script("return document.querySelectorAll('script').length")
            == 0
        )
        colours = [page_colours(driver, scheme) for scheme in ("light", "dark")]
        assert colours[0] != colours[1]
        assert all(text != background for text, background in colours)
        driver.get((tmp_path / "graph.svg").as_uri())
        assert len(driver.find_elements("css selector", "rect")) == len(flow)
    finally:
        driver.quit()


def page_colours(driver, scheme):
    """The colours of text and page for readers who like it light, or dark."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    return driver.execute_script(
        "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    )


def test_graphs_mark_the_critical_path(finished):
    _, flow = finished
    assert draw(flow).count("stroke-width:3px") >= 2
    assert "penwidth=3" in draw(flow, "dot")


def test_a_run_becomes_spans(finished):
    pytest.importorskip("opentelemetry.sdk")
    from maestro_workflow_engine.otel import export_run
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import (
        InMemorySpanExporter,
    )

    journal, _ = finished
    memory = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    count = export_run(journal, "r", tracer_provider=provider)
    spans = {span.name: span for span in memory.get_finished_spans()}
    assert len(memory.get_finished_spans()) == count
    root = spans["workflow demo & co"]
    assert spans["fails"].parent.span_id == root.context.span_id
    assert spans["fails"].status.status_code.name == "ERROR"
    assert root.start_time <= spans["nap <1>"].start_time < spans["nap <1>"].end_time
    json.dumps(dict(root.attributes))


def test_the_live_view_needs_no_terminal(journal_path, capsys):
    import io

    from maestro_workflow_engine._watch import watch

    with WorkflowEngine("inline", journal=journal_path) as engine:
        engine.run(w.gated, run_id="r")
        out = io.StringIO()
        watch(engine.journal, "r", out)
    assert out.getvalue() == "r: waiting; 1 pending, 1 succeeded, 1 waiting\n"


def test_the_live_picture_shows_what_runs(journal_path):
    import io

    pytest.importorskip("rich")
    from maestro_workflow_engine._progress import picture

    with WorkflowEngine("inline", journal=journal_path) as engine:
        engine.run(w.gated, run_id="r")
        status = read_status(engine.journal, "r")
    out = io.StringIO()
    show = picture(status, out)
    show(False)
    show(True)
    text = out.getvalue()
    assert "approve" in text
    assert "1 succeeded" in text
