"""What goes beyond the shared verbs: traces, event loops, remote drivers, leaks."""

import asyncio
import subprocess
import time
import urllib.request

import pytest
from maestro_test_adapters import (
    AsyncPlaywrightAdapter,
    PlaywrightAdapter,
    SeleniumAdapter,
)
from maestro_test_adapters.errors import (
    BrowserError,
    BrowserNotFound,
    ElementNotReady,
    NavigationFailed,
)


@pytest.mark.parametrize("backend", ["selenium", "playwright"])
def test_a_trace_shows_every_verb(start_browser, tmp_path, backend):
    with start_browser(backend, trace=True, artifacts=tmp_path, timeout=0.5) as browser:
        browser.open("/index.html")
        browser.get(css="#send").click()
        with pytest.raises(ElementNotReady):
            browser.get(css="#off").click()
        with browser.dialog():
            browser.get(text="Alert").click()
    trace = (tmp_path / "trace.html").read_text(encoding="utf-8")
    assert trace.count("<section") == 4
    assert trace.count("data:image/png;base64,") == 3  # none while a dialog is open
    assert "disabled (waited" in trace
    assert "&lt;h1&gt;Shop" in trace
    assert trace.endswith("</html>\n")


def test_playwright_beside_a_running_loop(start_browser):
    async def inside():
        with start_browser("playwright") as browser:
            browser.open("/index.html")
            return browser.title

    assert asyncio.run(inside()) == "Home"
    asyncio.run(asyncio.sleep(0))  # and no loop is left behind


def test_async_playwright(site, require_program):
    require_program("chromium")

    async def use():
        async with await AsyncPlaywrightAdapter.start(base_url=site) as browser:
            await browser.open("/index.html")
            await browser.get(role="button", name="Send order").click()
            await browser.get(css="#log").should(contains="sent by")
            async with browser.route("**/api/*", json=["x"]):
                await browser.get(text="Fetch").click()
                await browser.get(css="#log").should(text="x")
            async with await browser.new_context() as other:
                await other.open("/second.html")
                assert await other.title() == "Second"
            return await browser.title()

    assert asyncio.run(use()) == "Home"


@pytest.mark.drill
def test_a_browser_with_tabs_closes_without_a_wait(site, require_program):
    """Selenium's reader of events sleeps for 10 s when its socket goes under it."""
    require_program("chromedriver")
    for _ in range(6):
        browser = SeleniumAdapter(base_url=site)
        browser.open("/index.html")
        browser.get(text="New tab").click()
        browser.wait_for_tab()
        begun = time.monotonic()
        browser.close()
        assert time.monotonic() - begun < 8


def test_an_answer_without_a_page_is_told_in_time(site, require_program):
    """It is not taken for a page that something else cut off."""
    require_program("chromium")
    with PlaywrightAdapter(base_url=site) as browser:
        browser.open("/index.html")
        begun = time.monotonic()
        with pytest.raises(NavigationFailed, match="ERR_ABORTED"):
            browser.open("/nothing", timeout=0.5)
        assert time.monotonic() - begun < 5
        assert browser.url == f"{site}/index.html"


def test_a_driver_started_by_hand(site, require_program, free_port):
    chromedriver = require_program("chromedriver")
    require_program("chromium")
    server = subprocess.Popen(
        [chromedriver, f"--port={free_port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{free_port}"
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                urllib.request.urlopen(f"{url}/status", timeout=1).close()
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        with SeleniumAdapter(remote_url=url, base_url=site) as browser:
            browser.open("/index.html")
            browser.get(role="button", name="Send order").click()
            browser.get(css="#log").should(contains="sent by")
            assert browser.screenshot(full_page=True).startswith(b"\x89PNG")
    finally:
        server.terminate()
        server.wait()


def test_events_that_selenium_tells_in_another_order(start_browser):
    request = {"request": "7", "method": "GET", "url": "http://site/late"}
    with start_browser("selenium") as browser:
        backend = browser._inner._engine.backend
        backend._heard_response({"request": request, "response": {"status": 204}})
        backend._heard_request({"request": request})
        assert browser.wait_for_request("http://site/late").status == 204
        backend._heard_console({"text": "second", "level": "info", "timestamp": 2})
        backend._heard_error({"text": "first", "timestamp": 1})
        assert [message.text for message in browser.console] == ["first", "second"]


@pytest.mark.drill
@pytest.mark.parametrize("backend", ["selenium", "playwright"])
def test_a_dead_browser_is_told(start_browser, backend):
    with start_browser(backend) as browser:
        browser.open("/index.html")
        browser.close()
        with pytest.raises((BrowserError, OSError)):
            browser.get(css="h1").text()


def test_a_missing_program_is_told():
    with pytest.raises(BrowserNotFound, match="no browser at '/nowhere/chromium'"):
        SeleniumAdapter(binary="/nowhere/chromium")
    with pytest.raises(BrowserNotFound, match="no browser at '/nowhere/chromium'"):
        PlaywrightAdapter(binary="/nowhere/chromium")
    with pytest.raises(ValueError, match="chromium, chrome or firefox"):
        SeleniumAdapter("netscape")


def test_an_unclosed_browser_warns(start_browser):
    browser = start_browser("playwright")
    with pytest.warns(ResourceWarning, match="was not closed"):
        browser.__del__()
    browser.close()
