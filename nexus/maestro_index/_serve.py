"""Run the server in the foreground, on loopback only."""

import ipaddress
import json
import logging
import os
import socket
from pathlib import Path
from typing import Any

import uvicorn

from maestro_index._app import create_app
from maestro_index._index import Index
from maestro_index._store import HostedStore
from maestro_index._upstream import PipSettings, Upstream
from maestro_index._users import Users
from maestro_index.control import INSTANCE_HEADER
from maestro_index.errors import ControlFault


def serve(
    folder: Path,
    *,
    host: str = "127.0.0.1",
    port: int,
    anonymous: bool = True,
    upstream: str | None = None,
) -> None:
    """Serve the index in `folder` until SIGTERM or ^C.

    Args:
        folder: see `control`.
        host: a loopback address.
        port: 0 takes a free one; server.json says which.
        anonymous: whether reading needs no password.
        upstream: a simple index instead of the one in pip's configuration.

    Raises:
        ControlFault: not a loopback address, or the port or folder is in use.
    """
    check_loopback(host)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)
    folder.mkdir(parents=True, exist_ok=True)
    store = HostedStore(folder / "data")
    settings = PipSettings(upstream.rstrip("/"), None, ()) if upstream else None
    index = Index(
        store=store,
        upstream=Upstream(folder / "data" / "proxy", settings),
        users=Users(folder / "users.json"),
        anonymous=anonymous,
    )
    listener = bind(host, port)
    write_state(folder, port=listener.getsockname()[1], instance=index.instance)
    config = uvicorn.Config(
        create_app(index),
        access_log=False,
        log_config=None,
        server_header=False,
        headers=[("Server", "maestro-index"), (INSTANCE_HEADER, index.instance)],
        timeout_graceful_shutdown=5,
    )
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        listener.close()
        # Before the store is free: else it could be what the next server wrote.
        (folder / "server.json").unlink(missing_ok=True)
        store.close()


def check_loopback(host: str) -> None:
    """Refuse to be seen from other machines: there is no TLS here."""
    address = "127.0.0.1" if host == "localhost" else host
    try:
        loopback = ipaddress.ip_address(address).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ControlFault(
            f"host {host!r} is not a loopback address; the embedded index is for one "
            "machine, use a real Nexus to serve others"
        )


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle off only where the protocol is named: else each answer
    # of two writes waits 40 ms for the client's acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(512)
    except OSError as error:
        listener.close()
        raise ControlFault(f"port {port} cannot be used: {error.strerror}") from error
    return listener


def write_state(folder: Path, **state: Any) -> None:
    """Tell `control` where this server is."""
    partial = folder / f".server.{os.getpid()}"
    partial.write_text(json.dumps({"pid": os.getpid(), **state}), encoding="utf-8")
    partial.replace(folder / "server.json")
