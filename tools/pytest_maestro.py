"""The pytest plugin of this repository.

It does five things. It refuses to test source trees: the packages must come
from wheels, as users get them. It runs the Python examples of every Markdown
file. It leaves `drill` tests to `make drills`. It offers `require_program`, which
skips a test that needs a system program, or fails it where CI promised the
program (`CI=true`). And it lets ^C reach what tests start: a shell ignores it for
all that it runs in the background.
"""

import importlib.util
import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser, SkipParser

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """Stop when a package would be imported from its folder; let ^C through."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for folder in (ROOT / "packages").glob("*/maestro_*"):
        spec = importlib.util.find_spec(folder.name)
        origin = Path(spec.origin) if spec and spec.origin else None
        if origin and origin.is_relative_to(ROOT / "packages"):
            pytest.exit(
                f"{folder.name} comes from {origin.parent}, not a wheel: "
                "run `make test PACKAGE=...`",
                returncode=4,
            )


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave the drills out unless `-m` names them."""
    if config.option.markexpr:
        return
    drills = [item for item in items if item.get_closest_marker("drill")]
    if drills:
        config.hook.pytest_deselected(items=drills)
        items[:] = [item for item in items if item not in set(drills)]


def _enter_folder(namespace: dict[str, Any]) -> None:
    """Give the examples of one document an empty folder of their own."""
    namespace["_cwd"] = Path.cwd()
    namespace["_folder"] = tempfile.TemporaryDirectory(prefix="example-")
    os.chdir(namespace["_folder"].name)
    # For examples that need a server: None skips them.
    namespace["redis_url"] = os.environ.get("MAESTRO_REDIS_URL")


def _leave_folder(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_cwd"])
    namespace["_folder"].cleanup()


pytest_collect_file = Sybil(
    parsers=[PythonCodeBlockParser(), SkipParser()],
    patterns=["*.md"],
    path=str(ROOT),
    setup=_enter_folder,
    teardown=_leave_folder,
).pytest()


@pytest.fixture(scope="session")
def require_program() -> Callable[[str], str]:
    """Return a function that finds a system program or skips the test."""

    def find(name: str) -> str:
        found = shutil.which(name)
        if found:
            return found
        reason = f"{name} is not installed: run `make system`"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)

    return find
