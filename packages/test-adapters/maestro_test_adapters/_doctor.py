"""What this machine has to run tests with, and what to install for the rest."""

import shutil
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from maestro_test_adapters._find import BINARIES, DRIVERS, INSTALL

_PACKAGES = {
    "pytest": 'pip install "maestro-test-adapters[pytest]"',
    "selenium": 'pip install "maestro-test-adapters[selenium]"',
    "playwright": 'pip install "maestro-test-adapters[playwright]"',
    "pytest-xdist": "pip install pytest-xdist (for workers)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that may be installed."""

    what: str
    found: str = ""
    advice: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the finding as plain data."""
        return {
            "what": self.what,
            "found": self.found or None,
            "advice": self.advice or None,
        }


def examine() -> list[Finding]:
    """Return what is installed and what is not; browsers are asked for their version."""
    findings = []
    for browser, names in BINARIES.items():
        findings.append(_program(browser, names, INSTALL[browser]))
        findings.append(
            _program(DRIVERS[browser][0], DRIVERS[browser], INSTALL[browser])
        )
    by_what = {finding.what: finding for finding in findings}
    mismatch = _mismatch(by_what["chromium"].found, by_what["chromedriver"].found)
    if mismatch:
        findings.append(Finding(what="versions", advice=mismatch))
    for package, install in _PACKAGES.items():
        try:
            findings.append(Finding(what=package, found=version(package)))
        except PackageNotFoundError:
            findings.append(Finding(what=package, advice=install))
    return findings


def _program(what: str, names: tuple[str, ...], install: str) -> Finding:
    for name in names:
        path = shutil.which(name)
        if path:
            return Finding(what=what, found=f"{path} ({_version(path)})")
    return Finding(what=what, advice=install)


def _version(path: str) -> str:
    try:
        asked = subprocess.run(
            [path, "--version"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not answer: {error}"
    return (asked.stdout or asked.stderr).strip().split("\n")[0] or "no version"


def _mismatch(browser: str, driver: str) -> str:
    """Return advice if browser and driver are of different major versions."""
    majors = []
    for text in (browser, driver):
        words = [word for word in text.split() if word[:1].isdigit() and "." in word]
        if not words:
            return ""
        majors.append(words[0].partition(".")[0])
    if majors[0] == majors[1]:
        return ""
    return (
        f"browser {majors[0]} and driver {majors[1]} differ: install the same version"
    )
