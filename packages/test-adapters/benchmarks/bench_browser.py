"""Late elements: five clicks, each on a button that appears 100 ms after the last one.

    python bench_browser.py [--short] [--json FILE]

Raw Selenium (find again until it is there and can be clicked), Playwright, and ours on
both back ends: four browsers that stay open, in turns. Seconds for the five clicks;
the spread is that of the ratios of the rounds.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from maestro_test_adapters import PlaywrightAdapter, SeleniumAdapter
from maestro_test_adapters._find import find_binary, find_driver

CLICKS = 5
TARGET = 1.2
PAGE = """<!doctype html><title>late</title><body><script>
function late(n) {
  setTimeout(() => {
    const button = document.createElement('button');
    button.id = 'b' + n;
    button.textContent = 'Button ' + n;
    button.onclick = () => { document.title = 'clicked ' + n; late(n + 1); };
    document.body.append(button);
  }, 100);
}
late(1);
</script></body>"""
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
Round = Callable[[str], float]


def timed(open_page: Callable[[str], object], click: Callable[[str], object]) -> Round:
    """Return what opens the page and measures the clicks."""

    def once(url: str) -> float:
        open_page(url)
        begun = time.perf_counter()
        for number in range(1, CLICKS + 1):
            click(f"#b{number}")
        return time.perf_counter() - begun

    return once


@contextmanager
def raw_selenium() -> Iterator[Round]:
    """Selenium as its users write it: wait until clickable, polled every 50 ms."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support import expected_conditions as ready
    from selenium.webdriver.support.wait import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = find_binary("chromium")
    for flag in FLAGS:
        options.add_argument(flag)
    driver = webdriver.Chrome(options, Service(find_driver("chromium")))
    wait = WebDriverWait(driver, 5, poll_frequency=0.05)
    try:
        yield timed(
            driver.get,
            lambda css: wait.until(
                ready.element_to_be_clickable((By.CSS_SELECTOR, css))
            ).click(),
        )
    finally:
        driver.quit()


@contextmanager
def playwright() -> Iterator[Round]:
    """Playwright alone."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=find_binary("chromium"), args=list(FLAGS[1:])
        )
        page = browser.new_page()
        yield timed(page.goto, page.click)
        browser.close()


@contextmanager
def ours(adapter: Callable[[], Any]) -> Iterator[Round]:
    """Our verbs over a back end."""
    with adapter() as browser:
        yield timed(browser.open, lambda css: browser.get(css=css).click())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--short", action="store_true", help="fewer rounds")
    parser.add_argument("--json", metavar="FILE", help="write the result")
    arguments = parser.parse_args()
    rounds = 3 if arguments.short else 15
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        page = Path(folder, "late.html")
        page.write_text(PAGE, encoding="utf-8")
        # Playwright's own loop must not run in the thread that drives the others,
        # so ours over Playwright starts first, on its thread.
        runners = {
            "ours on Playwright": stack.enter_context(ours(PlaywrightAdapter)),
            "ours on Selenium": stack.enter_context(ours(SeleniumAdapter)),
            "Selenium": stack.enter_context(raw_selenium()),
            "Playwright": stack.enter_context(playwright()),
        }
        times: dict[str, list[float]] = {name: [] for name in runners}
        for number in range(-1, rounds):  # the first round warms up
            for name, once in runners.items():
                seconds = once(page.as_uri())
                if number >= 0:
                    times[name].append(seconds)
    found = document(times)
    for name, taken in times.items():
        print(f"{name:20} {statistics.median(taken):.3f} s")
    for row in found["rows"]:
        print(f"{row['work']}: {row['ratio']:.2f} x {row['peer']}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1), encoding="utf-8")


def document(times: dict[str, list[float]]) -> dict[str, Any]:
    """Return the benchmark's document: ours on each back end against both peers."""
    rows = []
    for mine in ("ours on Selenium", "ours on Playwright"):
        for peer in ("Playwright", "Selenium"):
            pairs = zip(times[mine], times[peer], strict=True)
            ratios = [own / other for own, other in pairs]
            ratio = statistics.median(ratios)
            quarters = statistics.quantiles(ratios)
            target = TARGET if peer == "Playwright" else None
            rows.append(
                {
                    "work": f"{CLICKS} late clicks, {mine}",
                    "unit": "s",
                    "peer": peer,
                    "peer_value": statistics.median(times[peer]),
                    "ours": statistics.median(times[mine]),
                    "ratio": ratio,
                    "spread": quarters[2] - quarters[0],
                    "target": target,
                    "met": None if target is None else ratio <= target,
                    "direction": "lower",
                }
            )
    return {
        "benchmark": "browser",
        "rows": rows,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("playwright", "selenium")},
        },
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
