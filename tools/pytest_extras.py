"""A pytest plugin for the matrix: what needs an extra that is left out is skipped.

`MAESTRO_LEFT_OUT` names the top-level modules that this environment lacks on
purpose. A test or a test module that fails because one of them is missing, or
with the ImportError by which a package names the extra to install, counts as
skipped; so does one whose command printed that line. Every other failure stays one.
"""

import os
from collections.abc import Generator
from typing import Any

import pytest

LEFT_OUT = frozenset(filter(None, os.environ.get("MAESTRO_LEFT_OUT", "").split(",")))
HINT = 'pip install "maestro-'  # how every package names a missing extra


def left_out(error: BaseException | None) -> str | None:
    """Return what is missing when an error only says that an extra is left out."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and error.name:
            top = error.name.partition(".")[0]
            if {top, error.name} & LEFT_OUT:
                return f"needs {error.name}, left out here"
        elif isinstance(error, ImportError) and HINT in str(error):
            return f"needs an extra, left out here: {error}"
        error = error.__cause__ or error.__context__
    return None


def skip(report: Any, reason: str) -> None:
    """Turn a failed report into a skipped one."""
    report.outcome = "skipped"
    report.longrepr = (str(report.nodeid), 0, f"Skipped: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,  # noqa: ARG001  # the hook's signature
    call: pytest.CallInfo[None],
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Skip a test that needs what is left out."""
    report = yield
    if report.failed and call.excinfo is not None:
        reason = left_out(call.excinfo.value)
        if reason is None and LEFT_OUT and HINT in report.capstderr:
            reason = "needs an extra, left out here, as its command says"
        if reason:
            skip(report, reason)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,  # noqa: ARG001  # the hook's signature
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Skip a test module whose imports need what is left out."""
    report = yield
    call = getattr(report, "call", None)  # set by pytest for a failed collection
    if report.failed and call is not None and call.excinfo is not None:
        reason = left_out(call.excinfo.value)
        if reason:
            skip(report, reason)
    return report
