"""A store in etcd, through its JSON gateway: no dependency.

Records, leases and revisions are etcd's own; a commit is one transaction. etcd ends
late leases by itself, so nobody sweeps and nothing is kept in a mass expiry; the guard
of the cache against sudden losses remains. TTLs are whole seconds, rounded up. The
calendar is the server's Date header, exact to a second.
"""

import base64
import contextlib
import http.client
import json
import math
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, final
from urllib.parse import parse_qs, urlsplit

from ._clock import Process
from ._store import Batch, Delete, Event, Lease, Op, Record, Snapshot
from .errors import Compacted, Conflict, InvalidInput, LeaseLost, StoreUnavailable

__all__ = ["EtcdStore"]

NO_SUCH_LEASE = 5  # the gRPC code NOT_FOUND


@final
class EtcdStore:
    """An etcd v3 cluster's one address.

    Args:
        url: etcd://host:port or etcds:// with TLS; `?prefix=name` keeps registries
            apart; `user:password@` logs in.
        timeout: seconds until a silent server counts as unavailable.
        tls: an SSL context for etcds://, with client certificates if needed.
    """

    expires_itself = True
    shared_by_pid = False

    def __init__(
        self, url: str, *, timeout: float = 5.0, tls: ssl.SSLContext | None = None
    ) -> None:
        parts = urlsplit(url)
        if not parts.hostname:
            raise InvalidInput("store url", url, "etcd://host:port")
        self._host, self._port = parts.hostname, parts.port or 2379
        self._tls = (
            tls or ssl.create_default_context() if parts.scheme == "etcds" else None
        )
        name = (parse_qs(parts.query).get("prefix") or ["maestro-registry"])[0]
        self._prefix = f"/{name}/"
        self._timeout = timeout
        self._login = (parts.username, parts.password) if parts.username else None
        self._token: str | None = None
        self._local = threading.local()
        self._lock = threading.Lock()  # guards the list of connections
        self._connections: set[http.client.HTTPConnection] = set()
        self._closed = False

    def read(self, prefix: str) -> Snapshot:
        """Return every record whose key starts with `prefix`."""
        start = self._key(prefix)
        body = {"key": _b64(start), "range_end": _b64(_after_prefix(start))}
        answer = self._call("kv/range", body)
        records = [self._record(kv) for kv in answer.get("kvs", ())]
        return Snapshot(tuple(records), int(answer["header"]["revision"]))

    def commit(self, ops: Sequence[Op], expect: Mapping[str, int] | None = None) -> int:
        """Apply all operations in one transaction and return its revision."""
        wanted = dict(expect or {})
        compare = [
            {"key": _b64(self._key(key)), "target": "MOD", "mod_revision": str(at)}
            for key, at in wanted.items()
        ]
        failure = [{"request_range": {"key": _b64(self._key(key))}} for key in wanted]
        success = [self._op(op) for op in ops]
        body = {"compare": compare, "success": success, "failure": failure}
        try:
            answer = self._call("kv/txn", body)
        except _GatewayError as error:
            if error.code == NO_SUCH_LEASE or "lease not found" in str(error):
                leases = [op.lease for op in ops if not isinstance(op, Delete)]
                lost = next((lease for lease in leases if lease), "unknown")
                raise LeaseLost(lost, "it ended before the commit") from error
            raise
        if not answer.get("succeeded"):
            for (key, at), found in zip(
                wanted.items(), answer.get("responses", ()), strict=False
            ):
                kvs = found.get("response_range", {}).get("kvs", ())
                if at != (int(kvs[0]["mod_revision"]) if kvs else 0):
                    raise Conflict(key, at)
            raise Conflict(*next(iter(wanted.items())))
        return int(answer["header"]["revision"])

    def grant(self, ttl: float, *, strict: bool, owner: Process | None) -> str:
        """Create a lease of `ttl` seconds, rounded up, and return its id."""
        answer = self._call("lease/grant", {"TTL": str(math.ceil(ttl)), "ID": "0"})
        return str(answer["ID"])

    def renew(self, leases: Sequence[str]) -> frozenset[str]:
        """Start the time of each lease anew; return those that are gone."""
        gone = set()
        for id in leases:
            answer = self._call("lease/keepalive", {"ID": id})
            if int(answer.get("result", {}).get("TTL", 0)) <= 0:
                gone.add(id)
        return frozenset(gone)

    def revoke(self, leases: Sequence[str], *, only_late: bool = False) -> int:
        """End leases and remove their records; return how many ended."""
        ended = 0
        for id in leases if not only_late else ():
            try:
                self._call("lease/revoke", {"ID": id})
                ended += 1
            except _GatewayError as error:
                if error.code != NO_SUCH_LEASE:
                    raise
        return ended

    def expired(self) -> tuple[Lease, ...]:
        """Return nothing: etcd ends late leases by itself."""
        return ()

    def leases(self) -> tuple[Lease, ...]:
        """Return all leases of the cluster, also those of other programs."""
        found = []
        for entry in self._call("lease/leases", {}).get("leases", ()):
            times = self._call("lease/timetolive", {"ID": entry["ID"]})
            if int(times.get("TTL", -1)) > 0:
                ttl = float(times["grantedTTL"])
                found.append(Lease(entry["ID"], ttl, float(times["TTL"]), strict=True))
        return tuple(found)

    def events(self, prefix: str, since: int, timeout: float) -> Batch:
        """Return what happened after `since`, waiting up to `timeout` seconds."""
        start = self._key(prefix)
        deadline = time.monotonic() + max(timeout, 0.05)
        create = {
            "key": _b64(start),
            "range_end": _b64(_after_prefix(start)),
            "start_revision": str(since + 1),
        }
        present = int(
            self._call("kv/range", {"key": _b64(b"\0"), "count_only": True})["header"][
                "revision"
            ]
        )
        if since > present:
            raise Compacted(since, present)
        if since == present and timeout <= 0:
            return Batch((), since)
        # With a known present, "nothing yet" is an answer one can go on from.
        for message in self._watch(create, deadline):
            result = message.get("result", {})
            if result.get("compact_revision"):
                raise Compacted(since, int(result["compact_revision"]))
            if result.get("events"):
                revision = max(int(e["kv"]["mod_revision"]) for e in result["events"])
                return Batch(tuple(map(self._event, result["events"])), revision)
        return Batch((), max(since, present) if timeout <= 0 else since)

    def now(self) -> float:
        """Return the server's clock, exact to a second."""
        self._call("kv/range", {"key": _b64(b"\0"), "count_only": True})
        return parsedate_to_datetime(self._local.date).timestamp()

    def close(self) -> None:
        """Close the connections and wake whoever waits."""
        self._closed = True
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            _cut(connection)

    def _key(self, key: str) -> bytes:
        return (self._prefix + key).encode("utf-8")

    def _op(self, op: Op) -> dict[str, Any]:
        key = _b64(self._key(op.key))
        if isinstance(op, Delete):
            return {"request_delete_range": {"key": key}}
        put = {"key": key, "value": _b64(op.value.encode("utf-8"))}
        if op.lease is not None:
            put["lease"] = op.lease
        return {"request_put": put}

    def _record(self, raw: Mapping[str, Any]) -> Record:
        key = base64.b64decode(raw["key"]).decode("utf-8")
        lease = raw.get("lease", "0")
        return Record(
            key.removeprefix(self._prefix),
            base64.b64decode(raw.get("value", "")).decode("utf-8"),
            int(raw["create_revision"]),
            int(raw["mod_revision"]),
            None if lease == "0" else str(lease),
        )

    def _event(self, raw: Mapping[str, Any]) -> Event:
        kv = raw["kv"]
        if raw.get("type") == "DELETE":
            key = base64.b64decode(kv["key"]).decode("utf-8")
            return Event(key.removeprefix(self._prefix), int(kv["mod_revision"]), None)
        record = self._record(kv)
        return Event(record.key, record.revision, record)

    def _call(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask once; a kept connection that went stale is replaced once."""
        raw = json.dumps(body).encode("utf-8")
        for last in (False, True):
            connection, fresh = self._connection()
            try:
                connection.request("POST", f"/v3/{path}", raw, self._headers(path))
                response = connection.getresponse()
                self._local.date = response.getheader("Date") or ""
                answer = json.loads(response.read())
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._discard(connection)
                # Asking again is safe for reads and for what was never sent.
                idle = isinstance(error, http.client.RemoteDisconnected) and not fresh
                if last or not idle:
                    raise self._unavailable(error) from error
                continue
            if response.status != 200:
                self._raise(path, response.status, answer)
            return dict(answer)
        raise AssertionError("the second try returned or raised")

    def _raise(self, path: str, status: int, answer: Any) -> None:
        code = int(answer.get("code", 0)) if isinstance(answer, dict) else 0
        message = str(answer.get("error", status)) if isinstance(answer, dict) else ""
        if code == 16 or "invalid auth token" in message:
            self._token = None
        raise _GatewayError(f"etcd refused {path}: {message}", code)

    def _headers(self, path: str) -> dict[str, str]:
        if self._login is None or path == "auth/authenticate":
            return {}
        if self._token is None:
            name, password = self._login
            body = {"name": name, "password": password}
            self._token = str(self._call("auth/authenticate", body)["token"])
        return {"Authorization": self._token}

    def _connection(self) -> tuple[http.client.HTTPConnection, bool]:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        found = getattr(self._local, "connection", None)
        if found is not None and self._local.pid == os.getpid():
            return found, False
        made = self._connect(self._timeout)
        self._local.connection, self._local.pid = made, os.getpid()
        return made, True

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        kind: Any = (
            http.client.HTTPSConnection if self._tls else http.client.HTTPConnection
        )
        more = {"context": self._tls} if self._tls else {}
        made: http.client.HTTPConnection = kind(
            self._host, self._port, timeout=timeout, **more
        )
        try:
            made.connect()
        except OSError as error:
            raise self._unavailable(error) from error
        made.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._connections.add(made)
        return made

    def _discard(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            self._connections.discard(connection)
        if getattr(self._local, "connection", None) is connection:
            self._local.connection = None
        connection.close()

    def _watch(
        self, create: Mapping[str, Any], deadline: float
    ) -> Iterator[dict[str, Any]]:
        """Yield the messages of one watch until the deadline."""
        body = json.dumps({"create_request": create}).encode("utf-8")
        headers = self._headers("watch")
        connection = self._connect(self._timeout)
        response: http.client.HTTPResponse | None = None
        try:
            connection.request("POST", "/v3/watch", body, headers)
            response = connection.getresponse()
            while (left := deadline - time.monotonic()) > 0:
                connection.sock.settimeout(left)
                line = response.readline()
                if not line:
                    return
                yield json.loads(line)
        except TimeoutError:
            return
        except (
            OSError,
            http.client.HTTPException,
            ValueError,
            AttributeError,
        ) as error:
            raise self._unavailable(error) from error
        finally:
            if response is not None:
                response.close()
            self._discard(connection)

    def _unavailable(self, error: Exception) -> StoreUnavailable:
        return StoreUnavailable(f"etcd at {self._host}:{self._port}: {error}")


class _GatewayError(StoreUnavailable):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def _cut(connection: http.client.HTTPConnection) -> None:
    # shutdown wakes a thread that waits for an answer; close alone does not.
    sock = connection.sock
    with contextlib.suppress(OSError, AttributeError):
        sock.shutdown(socket.SHUT_RDWR)
    connection.close()


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _after_prefix(prefix: bytes) -> bytes:
    """Return the first key behind all that start with `prefix`."""
    return prefix[:-1] + bytes([prefix[-1] + 1])
