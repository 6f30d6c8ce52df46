"""Make the checks: one asyncio loop on one thread for all checks of a registry.

A new connection per HTTP check, since a kept one would hide a dead listener. At most
`parallel` checks run at once and at most `scripts` commands. First runs are spread over
the interval and every interval is jittered by a tenth, so that checks never march.
"""

import asyncio
import contextlib
import ipaddress
import logging
import random
import socket
import ssl
import threading
from collections.abc import Callable
from functools import lru_cache
from typing import final
from urllib.parse import SplitResult, urlsplit

from ._checks import (
    Call,
    Check,
    CheckState,
    Grpc,
    Http,
    Script,
    Tcp,
    Ttl,
    Verdict,
    call_function,
)
from ._model import CheckReport

__all__ = ["Prober", "probe"]

_log = logging.getLogger(__name__)
ANSWER_BYTES = 4096


async def probe(check: Check, host: str, port: int, scheme: str = "http") -> Verdict:
    """Make a check once; whatever goes wrong is a critical verdict."""
    try:
        async with asyncio.timeout(check.timeout):
            return await _ask(check, host, port, scheme)
    except TimeoutError:
        return Verdict("critical", f"no answer within {check.timeout:g} s")
    except asyncio.CancelledError:
        raise
    except Exception as error:  # any failure of a check is its result
        return Verdict("critical", f"{type(error).__name__}: {error}")


async def _ask(check: Check, host: str, port: int, scheme: str) -> Verdict:
    if isinstance(check, Http):
        return await _http(check, urlsplit(check.url_for(host, port, scheme)))
    if isinstance(check, Tcp):
        _, writer = await asyncio.open_connection(host, check.port or port)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return Verdict("passing", "connected")
    if isinstance(check, Script):
        return await _script(check)
    if isinstance(check, Call):
        return await call_function(check.function)
    if isinstance(check, Grpc):
        from ._grpc import ask

        return await ask(check.service, host, port, check.timeout)
    return Verdict("critical", "no report in time")


async def _http(check: Http, url: SplitResult) -> Verdict:
    head = _request(check, url.netloc, url.path, url.query)
    host = url.hostname or ""
    port = url.port or (443 if url.scheme == "https" else 80)
    if url.scheme == "http" and _is_ip(host):
        answer = await _exchange(host, port, head)
    else:
        answer = await _exchange_tls_or_named(check, url.scheme, host, port, head)
    return _read_answer(answer)


@lru_cache(maxsize=4096)
def _request(check: Http, netloc: str, path: str, query: str) -> bytes:
    target = (path or "/") + (f"?{query}" if query else "")
    lines = [f"{check.method} {target} HTTP/1.1", f"Host: {netloc}"]
    lines += ["User-Agent: maestro-registry", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in check.headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _exchange(host: str, port: int, head: bytes) -> bytes:
    """Use the socket itself: a third less work per check than streams."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        await loop.sock_connect(sock, (host, port))
        await loop.sock_sendall(sock, head)
        answer = b""
        # The status line is enough when all is well; else the body may say why.
        while len(answer) < ANSWER_BYTES and not _fine(answer):
            piece = await loop.sock_recv(sock, ANSWER_BYTES)
            if not piece:
                break
            answer += piece
    return answer


def _fine(answer: bytes) -> bool:
    return b"\n" in answer and answer[9:10] == b"2"


async def _exchange_tls_or_named(
    check: Http, scheme: str, host: str, port: int, head: bytes
) -> bytes:
    context = _tls(check.verify_tls) if scheme == "https" else None
    reader, writer = await asyncio.open_connection(host, port, ssl=context)
    try:
        writer.write(head)
        await writer.drain()
        answer = b""
        while len(answer) < ANSWER_BYTES and not _fine(answer):
            piece = await reader.read(ANSWER_BYTES)
            if not piece:
                break
            answer += piece
        return answer
    finally:
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


@lru_cache(maxsize=2)
def _tls(verify: bool) -> ssl.SSLContext:  # noqa: FBT001 - the cache's key
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _read_answer(answer: bytes) -> Verdict:
    line, _, rest = answer.partition(b"\r\n")
    words = line.split(b" ", 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return Verdict("critical", f"not HTTP: {answer[:80]!r}")
    code = int(words[1])
    if 200 <= code < 300:
        return Verdict("passing", f"HTTP {code}")
    body = rest.partition(b"\r\n\r\n")[2][:200].decode("utf-8", "replace")
    return Verdict(
        "warning" if code == 429 else "critical", f"HTTP {code} {body}".strip()
    )


async def _script(check: Script) -> Verdict:
    process = await asyncio.create_subprocess_exec(
        *check.command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    text = output[:ANSWER_BYTES].decode("utf-8", "replace").strip()
    code = process.returncode
    if code == 0:
        return Verdict("passing", text)
    return Verdict("warning" if code == 1 else "critical", f"exit code {code}: {text}")


@lru_cache(maxsize=4096)
def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@final
class Prober:
    """Runs checks for ever and tells their reports; one thread, started when needed."""

    def __init__(
        self, *, rng: random.Random, parallel: int = 64, scripts: int = 8
    ) -> None:
        self._rng = rng
        self._parallel, self._scripts = parallel, scripts
        self._lock = threading.Lock()  # guards starting and stopping
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    def add(
        self,
        id: str,
        check: Check,
        place: tuple[str, int, str],
        tell: Callable[[CheckReport], None],
    ) -> "Running":
        """Make `check` at host, port and scheme until it is stopped."""
        running = Running(id, check, place, tell)
        loop = self._ensure_loop()
        loop.call_soon_threadsafe(self._spawn, running)
        return running

    def close(self) -> None:
        """Stop all checks and the thread."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop and thread:
            loop.call_soon_threadsafe(loop.stop)
            if thread is not threading.current_thread():
                thread.join(10)

    def _ensure_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._run, name="maestro-registry-checks", daemon=True
                )
                self._slots = asyncio.Semaphore(self._parallel)
                self._script_slots = asyncio.Semaphore(self._scripts)
                self._thread.start()
            return self._loop

    def _run(self) -> None:
        loop = self._loop
        assert loop is not None
        asyncio.set_event_loop(loop)
        try:
            loop.run_forever()
            for task in self._tasks:
                task.cancel()
            gathered = asyncio.gather(*self._tasks, return_exceptions=True)
            loop.run_until_complete(gathered)
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()

    def _spawn(self, running: "Running") -> None:
        task = asyncio.get_running_loop().create_task(self._repeat(running))
        running.task = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _repeat(self, running: "Running") -> None:
        check = running.check
        if isinstance(check, Ttl):
            await self._await_reports(running)
            return
        await asyncio.sleep(check.interval * self._rng.uniform(0.0, 0.5))
        while not running.stopped:
            slots = self._script_slots if isinstance(check, Script) else self._slots
            async with slots:
                verdict = await probe(check, *running.place)
            await self._tell(running, verdict)
            await asyncio.sleep(check.interval * self._rng.uniform(0.9, 1.1))

    async def _await_reports(self, running: "Running") -> None:
        while not running.stopped:
            running.heard.clear()
            try:
                async with asyncio.timeout(running.check.interval):
                    await running.heard.wait()
            except TimeoutError:
                seconds = running.check.interval
                late = Verdict("critical", f"no report for {seconds:g} s")
                await self._tell(running, late)
                await running.heard.wait()

    async def _tell(self, running: "Running", verdict: Verdict) -> None:
        before = (running.state.status, running.state.flapping)
        running.state.add(verdict)
        if (running.state.status, running.state.flapping) == before and running.told:
            return
        running.told = True
        try:
            # The store may block for a while: not on the loop.
            await asyncio.to_thread(running.tell, running.report())
        except Exception:  # the next change is told again; checks go on
            running.told = False
            _log.exception("check result of %s not stored", running.id)


@final
class Running:
    """One check that is being made."""

    def __init__(
        self,
        id: str,
        check: Check,
        place: tuple[str, int, str],
        tell: Callable[[CheckReport], None],
    ) -> None:
        self.id, self.check, self.place, self.tell = id, check, place, tell
        fails = 1 if isinstance(check, Ttl) else check.fails
        self.state = CheckState(fails=fails, passes=check.passes, initial=check.initial)
        self.heard = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.stopped = False
        self.told = False

    def report(self) -> CheckReport:
        """Return the present status as stored."""
        return CheckReport(
            id=self.id,
            name=self.check.name or self.id,
            kind=self.check.kind,
            status=self.state.status,
            output=self.state.output,
            flapping=self.state.flapping,
        )

    def hear(self, verdict: Verdict) -> CheckReport:
        """Take a report that the service sent by itself (Ttl)."""
        self.state.add(verdict)
        self.told = True
        task = self.task
        if task is not None and not task.done():
            task.get_loop().call_soon_threadsafe(self.heard.set)
        return self.report()

    def stop(self) -> None:
        """Make no further run."""
        self.stopped = True
        task = self.task
        if task is not None and not task.done():
            loop = task.get_loop()
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                loop.call_soon_threadsafe(task.cancel)
