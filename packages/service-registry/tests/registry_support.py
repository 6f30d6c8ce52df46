"""What the tests share: real processes, bounded waiting, short timings."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from maestro_service_registry import Timing


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def wait_until(done: Callable[[], object], seconds: float = 20.0) -> object:
    """Ask until the answer is true; fail after a bound."""
    deadline = time.monotonic() + seconds
    while True:
        answer = done()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.005)


def accepts(port: int, host: str = "127.0.0.1") -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
        return True
    return False


@contextlib.contextmanager
def running(*command: str, port: int, **options) -> Iterator[subprocess.Popen]:
    """Run a server until the block ends; stop it by its own id."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options
    )
    try:
        wait_until(lambda: accepts(port) or process.poll() is not None, 30)
        assert process.poll() is None, f"{command[0]} ended with {process.returncode}"
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def etcd_command(program: str, port: int, folder: Path) -> list[str]:
    peer = f"http://127.0.0.1:{free_port()}"
    return [
        program,
        f"--data-dir={folder}",
        f"--listen-client-urls=http://127.0.0.1:{port}",
        f"--advertise-client-urls=http://127.0.0.1:{port}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
    ]


def quick_timing() -> Timing:
    return Timing(sweep=0.1, confirm=0.1)


def python(code: str, *args: str, **options) -> subprocess.Popen:
    """Start a Python process with some code."""
    return subprocess.Popen(
        [sys.executable, "-c", code, *args],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        **options,
    )


def fresh(url: str) -> str:
    """Make the URL of a new, empty store on a shared server."""
    return f"{url}?prefix=t{uuid.uuid4().hex[:8]}"


def open_sockets(pid: int | None = None) -> int:
    return len(list(Path(f"/proc/{pid or os.getpid()}/fd").iterdir()))


@contextlib.contextmanager
def serving(
    url: str, *options: str, bind: str = "127.0.0.1:0"
) -> Iterator[tuple[str, subprocess.Popen]]:
    """Run `maestro-registry serve` on a free port; give its address and process."""
    command = [sys.executable, "-m", "maestro_service_registry", "--url", url]
    command += ["serve", "--bind", bind, *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    try:
        address = ""
        while not address.startswith("registry on"):
            address = process.stdout.readline()
            assert address, f"the server ended with {process.wait(10)}"
        yield address.split()[-1], process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        try:
            process.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
