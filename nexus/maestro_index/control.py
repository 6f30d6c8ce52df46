"""Start, find and stop the embedded index of one repository checkout.

Everything it keeps stands in one folder, `.index` by default:

data/             files, pages, records
users.json        hashed passwords
credentials.json  mode 0600: url, user and password of the deployer
server.json       pid, port and instance of the running server
server.log        its log
"""

import contextlib
import fcntl
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maestro_index._users import Users, write_secret
from maestro_index.errors import ControlFault

DEFAULT_PORT = 28081
DEPLOYER = "deployer"
INSTANCE_HEADER = "X-Maestro-Index"
START_LIMIT = 20.0  # seconds until a starting server must answer
STOP_LIMIT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server that answers."""

    url: str  # http://127.0.0.1:28081
    user: str
    password: str
    started: bool  # by this call
    pid: int

    def __repr__(self) -> str:
        """Show everything but the password."""
        return f"Running(url={self.url!r}, user={self.user!r}, pid={self.pid})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What answers on a port: `nobody`, `embedded`, `nexus` or `other`."""

    kind: str
    instance: str = ""


def probe(port: int, host: str = "127.0.0.1") -> Answer:
    """Ask who answers on a port of this machine."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/service/rest/v1/status")
        response = connection.getresponse()
        response.read()
    except ConnectionRefusedError:
        return Answer(kind="nobody")
    except (OSError, http.client.HTTPException):
        return Answer(kind="other")
    finally:
        connection.close()
    instance = response.headers.get(INSTANCE_HEADER)
    if instance:
        return Answer(kind="embedded", instance=instance)
    if response.headers.get("Server", "").startswith("Nexus/"):
        return Answer(kind="nexus")
    return Answer(kind="other")


def ensure_running(root: Path, port: int = DEFAULT_PORT) -> Running:
    """Return the embedded index of the checkout at `root`; start it if needed.

    Args:
        root: the checkout; the index lives in its folder `.index`.
        port: on loopback; 0 takes any free one. An index of this checkout that runs
            on another port than the default one is found without naming it.

    Raises:
        ControlFault: the port is taken by something else, or the start failed.
    """
    folder = root / ".index"
    folder.mkdir(parents=True, exist_ok=True)
    with starting(folder):
        return find_or_start(folder, port)


@contextlib.contextmanager
def starting(folder: Path) -> Iterator[None]:
    """Let one process at a time start the index: there is one password to choose."""
    with (folder / "start.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # held for START_LIMIT at most
        yield


def find_or_start(folder: Path, port: int) -> Running:
    """Do what `ensure_running` says, while nobody else does."""
    state = read_json(folder / "server.json")
    if port == 0:  # any free port, or the one it has already
        port = int(state.get("port", 0))
    answer = probe(port) if port else Answer(kind="nobody")
    if answer.kind == "embedded" and answer.instance == state.get("instance"):
        return describe(folder, state, started=False)
    elsewhere = int(state.get("port", port))
    if elsewhere != port and probe(elsewhere).instance == state["instance"]:
        if port == DEFAULT_PORT:  # nobody asked for another one: it is found there
            return describe(folder, state, started=False)
        raise ControlFault(
            f"the index of this checkout runs on port {elsewhere}, not on {port}: "
            "stop it with `maestro-index stop`, or set MAESTRO_INDEX_PORT="
            f"{elsewhere}"
        )
    if answer.kind != "nobody":
        raise ControlFault(taken(port, answer))
    return start(folder, port)


def taken(port: int, answer: Answer) -> str:
    """Say who has the port and what to do."""
    who = {
        "embedded": "the embedded index of another checkout",
        "nexus": "a real Nexus",
    }.get(answer.kind, "something that is not an index")
    remedy = (
        "set MAESTRO_INDEX_URL, MAESTRO_INDEX_USER and MAESTRO_INDEX_PASSWORD to use it, "
        if answer.kind != "other"
        else ""
    )
    return (
        f"port {port} is taken by {who}: {remedy}"
        "stop it, or choose another port with MAESTRO_INDEX_PORT"
    )


def start(folder: Path, port: int) -> Running:
    """Start a server in the background and wait until it answers."""
    prepare_users(folder)
    log = folder / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "maestro_index", "serve"),
                *("--folder", str(folder.absolute()), "--port", str(port)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # ^C in the shell must not end it
        )
    state = wait_until_running(folder, process)
    # The child outlives us by design; without this, Popen would warn.
    process.returncode = 0
    return describe(folder, state, started=True)


def wait_until_running(
    folder: Path, process: subprocess.Popen[bytes]
) -> dict[str, Any]:
    """Return what server.json says, once the process that serves `folder` answers.

    Raises:
        ControlFault: it ended, or did not answer in time and was ended.
    """
    log = folder / "server.log"
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        state = read_json(folder / "server.json")
        if state.get("pid") == process.pid:
            answer = probe(int(state["port"]))
            if answer.instance == state["instance"]:
                return state
        if process.poll() is not None:
            raise ControlFault(f"the index did not start: {last_line(log)}")
        time.sleep(0.02)
    process.terminate()
    process.wait()
    raise ControlFault(
        f"the index did not answer within {START_LIMIT:.0f} s, see {log}"
    )


def prepare_users(folder: Path) -> None:
    """Create the deployer with a random password, once."""
    credentials = folder / "credentials.json"
    if credentials.exists() and (folder / "users.json").exists():
        return
    password = secrets.token_urlsafe(24)
    Users(folder / "users.json").add(DEPLOYER, password, may_deploy=True)
    write_secret(credentials, {"user": DEPLOYER, "password": password})


def describe(folder: Path, state: dict[str, Any], *, started: bool) -> Running:
    """Put together what a client needs."""
    credentials = read_json(folder / "credentials.json")
    return Running(
        url=f"http://127.0.0.1:{state['port']}",
        user=credentials["user"],
        password=credentials["password"],
        started=started,
        pid=int(state["pid"]),
    )


def stop(root: Path) -> bool:
    """Stop the embedded index of a checkout; False when none runs."""
    folder = root / ".index"
    state = read_json(folder / "server.json")
    if not state or probe(int(state["port"])).instance != state["instance"]:
        return False  # the pid may belong to somebody else by now
    pid = int(state["pid"])
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_LIMIT
    while time.monotonic() < deadline:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    raise ControlFault(f"the index (process {pid}) did not stop in {STOP_LIMIT:.0f} s")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file, or an empty one."""
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found


def last_line(path: Path) -> str:
    """Return the last line of a log."""
    if not path.exists():
        return "no message"
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "no message"
