"""A copy of the checkout with nothing made yet, as after a fresh clone."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
KEPT = (
    "PATH",
    "LANG",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "PIP_CERT",
    "PIP_INDEX_URL",
    "CI",
)


@dataclass(frozen=True)
class Checkout:
    """A fresh clone with a home of its own and an index on a free port."""

    root: Path
    environment: dict[str, str]

    @property
    def index_url(self) -> str:
        port = self.environment["MAESTRO_INDEX_PORT"]
        return f"http://localhost:{port}/repository/pypi-group/simple"

    def run(self, *command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(part) for part in command],
            cwd=self.root,
            env=self.environment,
            check=False,
            encoding="utf-8",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=400,
        )


def free_port() -> int:
    """Return a port below those that the kernel gives away: it stays free for minutes."""
    for port in random.sample(range(20000, 28000), 100):
        with contextlib.suppress(OSError), socket.socket() as free:
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port below 28000")


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """Return the checkout; its index is stopped at the end."""
    folder = tmp_path_factory.mktemp("fresh")
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT, check=True, capture_output=True, encoding="utf-8",
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        if (ROOT / name).is_file():
            target = folder / "clone" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)
    subprocess.run(["git", "init", "-q"], cwd=folder / "clone", check=True)
    (folder / "home").mkdir()
    port = free_port()
    environment = {name: os.environ[name] for name in KEPT if name in os.environ}
    environment |= {"HOME": str(folder / "home"), "MAESTRO_INDEX_PORT": str(port)}
    found = Checkout(folder / "clone", environment)
    yield found
    found.run(".venv-release/bin/maestro-index", "stop")
