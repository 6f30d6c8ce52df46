"""The dashboard in a real browser."""

import pytest
from maestro_service_registry import ServiceRegistry, Tcp
from registry_support import free_port, serving, wait_until


@pytest.fixture
def browser(require_program, tmp_path):
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = require_program("chromium")
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path}/profile",
    ):
        options.add_argument(flag)
    driver = webdriver.Chrome(
        options=options, service=Service(require_program("chromedriver"))
    )
    yield driver
    driver.quit()


def test_the_dashboard_shows_everything_as_text(browser, tmp_path):
    url = f"sqlite:///{tmp_path}/r.db"
    with serving(url) as (address, _), ServiceRegistry.open(url) as registry:
        registry.register("db", port=5432, version="15.0.0", id="db-1")
        ill = [Tcp(interval=0.05, fails=1, initial="critical")]
        registry.register(
            "billing",
            port=free_port(),
            id="<b>one</b>",
            requires={"db": ">=14"},
            checks=ill,
            version="1.4.2",
        )
        now = registry.store.now()
        registry.claim(["db"], by="anna", reason="schema", until=now + 600)
        registry.freeze("pay-*", now - 1, now + 600, reason="year end")
        registry.contracts.announce(
            "billing",
            change="drop x",
            version="2.0.0",
            effective=now + 15 * 86_400,
            consumers=["shop"],
        )
        with registry.lock("deploy", holder="ci"):
            browser.get(address)
            text = lambda: browser.find_element("tag name", "body").text  # noqa: E731
            wait_until(
                lambda: "2 services" in text() and "ConnectionRefused" in text(), 30
            )
            shown = text()
            for words in (
                "<b>one</b>",
                "db-1",
                "passing",
                "critical",
                "deploy",
                "ci",
                "of anna on db",
                "year end",
                "in force",
                "breaking: drop x",
                "shop",
                "billing requires db >=14",
                "lock or session",
            ):
                assert words in shown, words
            assert len(browser.find_elements("css selector", "#graph svg rect")) == 2
            assert browser.find_elements("css selector", "td b") == []
        registry.register("late", port=1, id="late-1")
        wait_until(lambda: "late-1" in text(), 20)
    errors = [
        entry
        for entry in browser.get_log("browser")
        if entry["level"] == "SEVERE" and "ERR_CONNECTION" not in entry["message"]
    ]
    assert errors == []


def test_the_dashboard_works_with_the_token_of_its_address(browser, tmp_path):
    from maestro_service_registry._server._access import new_token

    token, line = new_token(["read"])
    (tmp_path / "tokens").write_text(line, encoding="utf-8")
    url = f"sqlite:///{tmp_path}/r.db"
    with serving(url, "--token-file", f"{tmp_path}/tokens") as (address, _):
        with ServiceRegistry.open(url) as registry:
            registry.register("web", port=1, id="web-1")
            text = lambda: browser.find_element("tag name", "body").text  # noqa: E731
            browser.get(address)
            wait_until(lambda: "scope" in text() or "token" in text(), 30)
            assert "web-1" not in text()
            browser.get("about:blank")
            browser.get(f"{address}/#token={token}")
            wait_until(lambda: "web-1" in text(), 30)
            assert token not in text()
