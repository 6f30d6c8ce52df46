"""A store behind `maestro-registry serve`: for other hosts, without their own engine.

The server keeps leases and time; this client only asks. A request that cannot be
delivered raises `StoreUnavailable`, and a waiting one returns within its time plus the
time-out even when the server is frozen. One connection per thread, made again after a
fork.
"""

import http.client
import json
import os
import socket
import ssl
import threading
from collections.abc import Mapping, Sequence
from typing import Any, final
from urllib.parse import urlsplit

from ._clock import Process
from ._store import Batch, Delete, Event, Lease, Op, Record, Snapshot
from .errors import (
    AccessDenied,
    Compacted,
    Conflict,
    InvalidInput,
    LeaseLost,
    StoreUnavailable,
)

__all__ = ["HttpStore"]

LONG_POLL = 25.0


@final
class HttpStore:
    """A client of the server's store.

    Args:
        url: http://host:port or https://.
        token: one with the scope `admin`, when the server asks for tokens.
        timeout: seconds until a silent server counts as unavailable.
        tls: an SSL context for https://, with a client certificate if needed.
    """

    expires_itself = True
    shared_by_pid = False

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        timeout: float = 5.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        if not parts.hostname or parts.path not in ("", "/"):
            raise InvalidInput("store url", url, "http://host:port")
        self._host, self._port = parts.hostname, parts.port
        self._tls = (
            tls or ssl.create_default_context() if parts.scheme == "https" else None
        )
        self._token, self._timeout = token, timeout
        self._local = threading.local()
        self._lock = threading.Lock()  # guards the set of connections
        self._connections: set[http.client.HTTPConnection] = set()
        self._closed = False

    def read(self, prefix: str) -> Snapshot:
        """Return every record whose key starts with `prefix`."""
        raw = self._ask("read", prefix=prefix)
        return Snapshot(tuple(Record(**r) for r in raw["records"]), raw["revision"])

    def commit(self, ops: Sequence[Op], expect: Mapping[str, int] | None = None) -> int:
        """Apply all operations at one new revision and return it."""
        plain = [
            [op.key] if isinstance(op, Delete) else [op.key, op.value, op.lease]
            for op in ops
        ]
        return int(self._ask("commit", ops=plain, expect=dict(expect or {})))

    def grant(self, ttl: float, *, strict: bool, owner: Process | None) -> str:
        """Create a lease of `ttl` seconds and return its id."""
        raw = owner.to_dict() if owner else None
        return str(self._ask("grant", ttl=ttl, strict=strict, owner=raw))

    def renew(self, leases: Sequence[str]) -> frozenset[str]:
        """Start the time of each lease anew; return those that are gone."""
        return frozenset(self._ask("renew", leases=list(leases)))

    def revoke(self, leases: Sequence[str], *, only_late: bool = False) -> int:
        """End leases and remove their records; the server sweeps late ones."""
        return 0 if only_late else int(self._ask("revoke", leases=list(leases)))

    def expired(self) -> tuple[Lease, ...]:
        """Return nothing: the server ends late leases."""
        return ()

    def leases(self) -> tuple[Lease, ...]:
        """Return all leases."""
        found = self._ask("leases")
        return tuple(Lease(**(r | {"owner": Process.of(r["owner"])})) for r in found)

    def events(self, prefix: str, since: int, timeout: float) -> Batch:
        """Return what happened after `since`, waiting up to `timeout` seconds."""
        wait = max(0.0, min(timeout, LONG_POLL))
        raw = self._ask("events", wait, prefix=prefix, since=since, timeout=wait)
        events = tuple(
            Event(
                e["key"], e["revision"], Record(**e["record"]) if e["record"] else None
            )
            for e in raw["events"]
        )
        return Batch(events, raw["revision"])

    def now(self) -> float:
        """Return the server's calendar."""
        return float(self._ask("now"))

    def close(self) -> None:
        """Close the connections and wake whoever waits."""
        self._closed = True
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            if connection.sock is not None:
                try:
                    connection.sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
            connection.close()

    def _ask(self, verb: str, wait: float = 0.0, **body: Any) -> Any:
        raw = json.dumps(body).encode("utf-8")
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        for last in (False, True):
            connection, fresh = self._connection()
            try:
                connection.sock.settimeout(wait + self._timeout)
                connection.request("POST", f"/v1/maestro/store/{verb}", raw, headers)
                response = connection.getresponse()
                answer = response.read()
            except (OSError, http.client.HTTPException, AttributeError) as error:
                self._discard(connection)
                # A kept connection that the server closed: nothing was done yet.
                idle = isinstance(
                    error, http.client.RemoteDisconnected | BrokenPipeError
                )
                if last or fresh or not idle:
                    raise self._unavailable(error) from error
                continue
            if response.status == 200:
                return json.loads(answer)
            raise self._error(response, answer.decode("utf-8", "replace"))
        raise AssertionError("the second try returned or raised")

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        found = getattr(self._local, "connection", None)
        if found is not None and self._local.pid == os.getpid():
            return found, False
        kind: Any = (
            http.client.HTTPSConnection if self._tls else http.client.HTTPConnection
        )
        more = {"context": self._tls} if self._tls else {}
        made: http.client.HTTPConnection = kind(
            self._host, self._port, timeout=self._timeout, **more
        )
        try:
            made.connect()
        except OSError as error:
            raise self._unavailable(error) from error
        made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._local.connection, self._local.pid = made, os.getpid()
        with self._lock:
            self._connections.add(made)
        return made, True

    def _discard(self, connection: http.client.HTTPConnection) -> None:
        self._local.connection = None
        with self._lock:
            self._connections.discard(connection)
        connection.close()

    def _error(self, response: http.client.HTTPResponse, text: str) -> Exception:
        kind = response.getheader("X-Maestro-Error")
        detail = json.loads(response.getheader("X-Maestro-Detail") or "[]")
        if kind == "Conflict":
            return Conflict(*detail)
        if kind == "LeaseLost":
            return LeaseLost(*detail)
        if kind == "Compacted":
            return Compacted(*detail)
        if response.status == 403:
            return AccessDenied(text)
        where = f"{self._host}:{self._port}"
        return StoreUnavailable(
            f"registry at {where} answered {response.status}: {text}"
        )

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"registry at {self._host}:{self._port}: {error}")
