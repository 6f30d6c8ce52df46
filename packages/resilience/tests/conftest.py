"""What the tests of this package share."""

import asyncio
import inspect
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from maestro_resilience.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """Return a clock that only the test moves."""
    return FakeClock()


class Mode:
    """Run the same case with a sync or an async function."""

    def __init__(self, name: str) -> None:
        self.name = name

    def function(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """Return `body` as a sync or async function."""
        if self.name == "sync":
            return body

        async def async_body(*args: Any, **kwargs: Any) -> Any:
            return body(*args, **kwargs)

        return async_body

    def run(self, guarded: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a guarded function to its end."""
        assert inspect.iscoroutinefunction(guarded) == (self.name == "async")
        if self.name == "sync":
            return guarded(*args, **kwargs)
        return asyncio.run(guarded(*args, **kwargs))


@pytest.fixture(params=["sync", "async"])
def mode(request: pytest.FixtureRequest) -> Mode:
    """Run the test twice: sync and async."""
    return Mode(request.param)


class Server:
    """A Redis of our own on a free port."""

    def __init__(self, program: str, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.command = [program, "--port", str(self.port), "--bind", "127.0.0.1",
                        "--save", "", "--dir", str(folder)]  # fmt: skip
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.process = subprocess.Popen(
            self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        give_up = time.monotonic() + 30
        while not self.answers():
            assert time.monotonic() < give_up
            time.sleep(0.005)

    def answers(self) -> bool:
        """Tell whether it serves."""
        from maestro_resilience.redis import RedisBreakerStore

        store = RedisBreakerStore(self.url)
        try:
            store.load("ping")
        except Exception:
            return False
        finally:
            store.close()
        return True

    def stop(self) -> None:
        """Kill it, as a crash would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@pytest.fixture
def server(require_program: Callable[[str], str], tmp_path: Path) -> Iterator[Server]:
    """Return a running Redis."""
    running = Server(require_program("redis-server"), tmp_path)
    running.start()
    yield running
    running.stop()
