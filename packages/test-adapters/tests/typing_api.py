"""Checked by mypy, not run: the types that users see."""

from typing import assert_type

from maestro_test_adapters import (
    CommandAdapter,
    Locator,
    PytestAdapter,
    Report,
    SeleniumAdapter,
    TestCase,
    run_plan,
)


def runners() -> None:
    """Runner adapters return reports and cases."""
    adapter = PytestAdapter(["tests"], retries=1)
    assert_type(adapter.run(), Report)
    assert_type(adapter.discover(), list[TestCase])
    assert_type(CommandAdapter(["x"], reads="tap").run().ok, bool)
    assert_type(run_plan({"suites": []}), Report)


def browsers(browser: SeleniumAdapter) -> None:
    """Locators are typed through every step."""
    assert_type(browser.get(role="button").first, Locator)
    assert_type(browser.get(css="iframe").frame().get(css="a"), Locator)
    assert_type(browser.get(css="a").text(), str)
