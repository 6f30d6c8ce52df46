"""Who may do what: tokens, kept as hashes.

A token file has one line per token: `sha256:<hex> scope scope ...`, with the scopes
`read`, `register:<prefix of service names>`, `write` (keys, sessions, locks) and
`admin`. Without a file everything is open, and the server binds loopback only.
"""

import errno
import hashlib
import hmac
import ipaddress
import secrets
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import final

from maestro_service_registry.errors import (
    AccessDenied,
    InvalidInput,
    RegistryError,
)

__all__ = ["Access", "bind_to", "is_loopback", "new_token"]


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: str
    scopes: frozenset[str]


@final
class Access:
    """Checks tokens; `None` as file lets everybody in."""

    def __init__(self, file: Path | None) -> None:
        self._entries = None if file is None else tuple(_entries(file))

    @property
    def open(self) -> bool:
        """Tell whether no token is needed."""
        return self._entries is None

    def check(self, token: str | None, scope: str) -> None:
        """Raise AccessDenied unless the token has the scope."""
        if self._entries is None:
            return
        digest = hashlib.sha256((token or "").encode("utf-8")).hexdigest()
        for entry in self._entries:
            if hmac.compare_digest(entry.digest, digest) and _allows(
                entry.scopes, scope
            ):
                return
        what = "no token was sent" if not token else "the token does not have it"
        raise AccessDenied(f"this needs the scope {scope!r}, and {what}")


def new_token(scopes: Iterable[str]) -> tuple[str, str]:
    """Make a token; return it and its line for the token file."""
    token = secrets.token_urlsafe(32)
    digest = hashlib.sha256(token.encode("utf-8")).hexdigest()
    return token, f"sha256:{digest} {' '.join(sorted(_check(set(scopes))))}"


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bind_to(sock: socket.socket, host: str, port: int, option: str) -> None:
    """Take an address, or say which one is not to be had and what to do."""
    try:
        sock.bind((host, port))
    except OSError as error:
        advice = {
            errno.EADDRINUSE: "stop what listens there, or choose another port",
            errno.EACCES: "ports below 1024 need privileges; choose a higher one",
            errno.EADDRNOTAVAIL: "choose an address of this machine",
        }.get(error.errno or 0, "check the address")
        why = error.strerror or str(error)
        raise RegistryError(
            f"cannot listen on {host}:{port}: {why}; {advice} ({option} HOST:PORT)"
        ) from error


def _allows(scopes: frozenset[str], wanted: str) -> bool:
    if "admin" in scopes or wanted in scopes:
        return True
    kind, _, name = wanted.partition(":")
    prefixes = [s.partition(":")[2] for s in scopes if s.startswith("register:")]
    return kind == "register" and any(name.startswith(p) for p in prefixes)


def _entries(file: Path) -> Iterable[_Entry]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        digest = words[0].removeprefix("sha256:")
        if len(digest) != 64 or digest == words[0]:
            where = f"{file}:{number}"
            raise InvalidInput(where, "...", "sha256:<64 hex digits> scope scope ...")
        yield _Entry(digest, frozenset(_check(set(words[1:]))))


def _check(scopes: set[str]) -> set[str]:
    for scope in scopes:
        if scope not in ("read", "write", "admin") and not scope.startswith(
            "register:"
        ):
            raise InvalidInput(
                "scope", scope, "read, write, admin or register:<prefix>"
            )
    if not scopes:
        raise InvalidInput("scopes", "", "at least one scope")
    return scopes
