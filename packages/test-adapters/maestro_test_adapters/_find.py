"""Which browsers and drivers this machine has, and how they are to be started."""

import os
import shutil
from pathlib import Path

from maestro_test_adapters.errors import ArgumentError, BrowserNotFound

BINARIES = {
    "chromium": (
        "chromium",
        "chromium-browser",
        "google-chrome",
        "google-chrome-stable",
        "chrome",
    ),
    "firefox": ("firefox-esr", "firefox"),
}
DRIVERS = {"chromium": ("chromedriver",), "firefox": ("geckodriver",)}
INSTALL = {
    "chromium": "apt-get install chromium chromium-driver",
    "firefox": "apt-get install firefox-esr, and geckodriver from its project",
}

QUIET_FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-search-engine-choice-screen",
)
"""Flags that keep Chromium from talking to anybody but the pages it is sent to."""


def family(browser: str) -> str:
    """Return `chromium` or `firefox` for what a user calls a browser."""
    name = {"chrome": "chromium", "chromium": "chromium", "firefox": "firefox"}.get(
        browser.lower()
    )
    if name is None:
        raise ArgumentError(
            f"browser must be chromium, chrome or firefox, got {browser!r}"
        )
    return name


def find_binary(browser: str, binary: str | os.PathLike[str] | None = None) -> str:
    """Return the browser's program.

    Raises:
        BrowserNotFound: With the line that installs it.
    """
    return _find("browser", browser, BINARIES[browser], binary)


def find_driver(browser: str, driver: str | os.PathLike[str] | None = None) -> str:
    """Return the WebDriver program.

    Raises:
        BrowserNotFound: With the line that installs it.
    """
    return _find("driver", browser, DRIVERS[browser], driver)


def _find(
    what: str,
    browser: str,
    names: tuple[str, ...],
    given: str | os.PathLike[str] | None,
) -> str:
    if given is not None:
        found = shutil.which(os.fspath(given))
        if found is None:
            raise BrowserNotFound(f"no {what} at {os.fspath(given)!r}")
        return found
    for name in names:
        found = shutil.which(name)
        if found:
            return found
    raise BrowserNotFound(
        f"no {what} for {browser}: looked for {', '.join(names)} on PATH; "
        f"install it ({INSTALL[browser]}) or name it"
    )


def chromium_flags(
    *, headless: bool, extra: tuple[str, ...], profile: Path | None
) -> list[str]:
    """Return the command line of a Chromium for tests."""
    flags = list(QUIET_FLAGS)
    if headless:
        flags.append("--headless=new")
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        flags.append("--no-sandbox")  # Chromium refuses to sandbox as root
    if profile is not None:
        flags.append(f"--user-data-dir={profile}")
    return [*flags, *extra]
