"""Run the server until it is told to stop.

It binds loopback unless tokens are in use: whoever reaches an open registry can take
its locks and register checks that connect anywhere.
"""

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maestro_service_registry._registry import ServiceRegistry
from maestro_service_registry.errors import InvalidInput

from . import uvicorn
from ._access import Access, bind_to, is_loopback
from ._app import Server

if TYPE_CHECKING:
    from ._dns import Responder

__all__ = ["serve"]


def serve(
    url: str,
    *,
    bind: str = "127.0.0.1:8500",
    token_file: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    authority: Path | None = None,
    dns: str | None = None,
    scripts: bool = False,
    foreign_checks: bool = False,
) -> int:
    """Serve the registry at `url`; return 0 when stopped by a signal."""
    host, port = split_address("--bind", bind)
    if not is_loopback(host) and token_file is None:
        expected = "a loopback address, or --token-file to let others in by token"
        raise InvalidInput("--bind", bind, expected)
    if (cert is None) != (key is None):
        raise InvalidInput("--tls-cert", cert, "a certificate together with --tls-key")
    for path in filter(None, (cert, key, authority)):
        path.read_bytes()  # uvicorn would not name the one that cannot be read
    access = Access(token_file)
    with ServiceRegistry.open(url) as registry:
        server = Server(
            registry, access=access, scripts=scripts, foreign_checks=foreign_checks
        )
        responder = _answer_names(registry, dns)
        try:
            _run(server, host, port, _tls(cert, key, authority))
        finally:
            if responder is not None:
                responder.close()
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def split_address(name: str, text: str) -> tuple[str, int]:
    """Read host:port; the host may be in brackets."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise InvalidInput(name, text, "HOST:PORT")
    return host.strip("[]"), int(port)


def _answer_names(registry: ServiceRegistry, dns: str | None) -> "Responder | None":
    if dns is None:
        return None
    from ._dns import Responder

    host, port = split_address("--dns", dns)
    responder = Responder(registry, host, port)
    responder.start()
    _say(f"DNS on udp://{host}:{responder.port}")
    return responder


def _run(server: Server, host: str, port: int, tls: dict[str, Any]) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named TCP, so that asyncio turns Nagle's algorithm off for what it accepts: else
    # each answer may wait 40 ms for the client's delayed acknowledgement.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bind_to(sock, host, port, "--bind")
        sock.listen(1024)  # who read the line below can connect
        config = uvicorn.Config(
            server.app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=3,
            **tls,
        )
        running = _Stopping(config, server)
        scheme = "https" if tls else "http"
        shown = f"[{host}]" if ":" in host else host
        _say(f"registry on {scheme}://{shown}:{sock.getsockname()[1]}")
        running.run(sockets=[sock])
    if not running.started:
        sys.exit(1)


class _Stopping(uvicorn.Server):
    """Answers the waiting requests before the shutdown waits for them."""

    def __init__(self, config: uvicorn.Config, server: Server) -> None:
        super().__init__(config)
        self._registry_server = server

    def handle_exit(self, sig: int, frame: Any) -> None:
        self._registry_server.stop()
        super().handle_exit(sig, frame)


def _tls(cert: Path | None, key: Path | None, authority: Path | None) -> dict[str, Any]:
    if cert is None:
        return {}
    import ssl

    found: dict[str, Any] = {"ssl_certfile": str(cert), "ssl_keyfile": str(key)}
    if authority is not None:
        found |= {"ssl_ca_certs": str(authority), "ssl_cert_reqs": ssl.CERT_REQUIRED}
    return found
