"""A real redis-server on a free port, started and stopped by its process id."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis


class Server:
    """One redis-server with its own folder and an append-only file."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program, self.folder = program, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        for _ in range(400):
            if self.process is None or self.process.poll() is not None:
                self._launch()  # also when somebody else had the port just now
            try:
                with redis.Redis(port=self.port) as client:
                    if client.info("server")["process_id"] == self.process.pid:
                        return
            except (redis.ConnectionError, redis.BusyLoadingError):
                pass
            time.sleep(0.05)
        raise RuntimeError("redis-server did not start")

    def _launch(self) -> None:
        self.process = subprocess.Popen(
            [
                self.program,
                *("--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", str(self.folder), "--appendonly", "yes"),
                *("--appendfsync", "always", "--save", ""),
            ],
            stdout=subprocess.DEVNULL,
        )

    def stop(self, how: int = signal.SIGTERM) -> None:
        if self.process:
            os.kill(self.process.pid, how)
            self.process.wait(timeout=20)
            self.process = None


@pytest.fixture(scope="session")
def redis_server(
    require_program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    server = Server(require_program("redis-server"), tmp_path_factory.mktemp("redis"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def own_server(
    require_program: Callable[[str], str], tmp_path: Path
) -> Iterator[Server]:
    """A server that a test may stop, kill or freeze."""
    server = Server(require_program("redis-server"), tmp_path)
    server.start()
    yield server
    if server.process:
        os.kill(server.process.pid, signal.SIGCONT)
    server.stop()


@pytest.fixture
def url(redis_server: Server) -> str:
    """The session's server, emptied."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
    return redis_server.url
