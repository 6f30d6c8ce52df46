"""A store in etcd, through its JSON gateway: no dependency.

Records, leases and revisions are etcd's own; a commit is one transaction. etcd ends
late leases by itself, so nobody sweeps and nothing is kept in a mass expiry; the guard
of the cache against sudden losses remains. TTLs are whole seconds, rounded up. The
calendar is the server's Date header, exact to a second.

A server that was restored from an older state counts the same revisions again, for
other changes. So after a broken connection or an election the history has another name,
and readers read everything anew. Fences fall back with the revisions: restore with
etcdutl's `--bump-revision` and `--mark-compacted`.
"""

import base64
import contextlib
import http.client
import json
import math
import ssl
import time
import uuid
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, final
from urllib.parse import parse_qs, urlsplit

from ._clock import Process
from ._store import Batch, Delete, Event, Lease, Op, Record, Snapshot
from ._wires import Wires
from .errors import Compacted, Conflict, InvalidInput, LeaseLost, StoreUnavailable

__all__ = ["EtcdStore"]

NO_SUCH_LEASE = 5  # the gRPC code NOT_FOUND
CATCHING_UP = 0.3  # seconds; etcd looks for watches that are behind ten times a second
_ENDED = b'{"error": "the watch ended"}'


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
        context = (
            tls or ssl.create_default_context() if parts.scheme == "etcds" else None
        )
        name = (parse_qs(parts.query).get("prefix") or ["maestro-registry"])[0]
        self._prefix = f"/{name}/"
        self._login = (parts.username, parts.password) if parts.username else None
        self._token: str | None = None
        port = parts.port or 2379
        self._wires = Wires("etcd", parts.hostname, port, timeout=timeout, tls=context)
        self._opened = uuid.uuid4().hex[:8]

    def read(self, prefix: str) -> Snapshot:
        """Return every record whose key starts with `prefix`."""
        start = self._key(prefix)
        body = {"key": _b64(start), "range_end": _b64(_after_prefix(start))}
        said = self._ask("kv/range", body)
        records = [self._record(kv) for kv in said.body.get("kvs", ())]
        return Snapshot(tuple(records), said.revision, said.history)

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
        deadline = time.monotonic() + max(timeout, CATCHING_UP)
        create = {
            "key": _b64(start),
            "range_end": _b64(_after_prefix(start)),
            "start_revision": str(since + 1),
        }
        present = self._ask("kv/range", _NOTHING)
        if since > present.revision:
            raise Compacted(since, present.revision)
        if since == present.revision and timeout <= 0:
            return Batch((), since, present.history)
        with contextlib.closing(self._watch(create, deadline)) as watch:
            for said in watch:
                if said.history != present.history:  # restarted between the two
                    return Batch((), since, said.history)
                if said.body.get("compact_revision"):
                    raise Compacted(since, int(said.body["compact_revision"]))
                events = tuple(map(self._event, said.body.get("events", ())))
                if events:
                    last = max(event.revision for event in events)
                    return Batch(events, last, said.history)
        # Not up to the present: what was silent may have had something to tell.
        return Batch((), since, present.history)

    def now(self) -> float:
        """Return the server's clock, exact to a second."""
        return parsedate_to_datetime(self._ask("kv/range", _NOTHING).date).timestamp()

    def close(self) -> None:
        """Close the connections and wake whoever waits."""
        self._wires.close()

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
        return self._ask(path, body).body

    def _ask(self, path: str, body: Mapping[str, Any]) -> "_Said":
        raw = json.dumps(body).encode("utf-8")
        answer = self._wires.post(f"/v3/{path}", raw, self._headers(path))
        try:
            found = json.loads(answer.text)
        except ValueError as error:
            raise self._wires.unavailable(error) from error
        if answer.status != 200:
            self._raise(path, answer.status, found)
        return self._said(found, answer.epoch, answer.headers.get("Date", ""))

    def _said(self, body: dict[str, Any], epoch: int, date: str = "") -> "_Said":
        header = body.get("header") or {}
        cluster, term = header.get("cluster_id"), header.get("raft_term")
        history = f"{self._opened}.{epoch}.{cluster}.{term}"
        return _Said(body, int(header.get("revision", 0)), history, date)

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

    def _watch(
        self, create: Mapping[str, Any], deadline: float
    ) -> "Generator[_Said, None, None]":
        """Yield the messages of one watch until the deadline."""
        body = json.dumps({"create_request": create}).encode("utf-8")
        headers = self._headers("watch")
        wire = self._wires.connect()
        try:
            wire.connection.request("POST", "/v3/watch", body, headers)
            with wire.connection.getresponse() as response:
                while (left := deadline - time.monotonic()) > 0:
                    wire.sock.settimeout(left)
                    message = json.loads(response.readline() or _ENDED)
                    if "result" not in message:
                        raise _EndedError(message.get("error"))
                    yield self._said(message["result"], wire.epoch)
        except TimeoutError:
            return
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._wires.broke()
            raise self._wires.unavailable(error) from error
        finally:
            self._wires.drop(wire)


@dataclass(frozen=True, slots=True)
class _Said:
    """An answer; equal histories mean that no commit was forgotten in between."""

    body: dict[str, Any]
    revision: int
    history: str
    date: str


class _EndedError(ValueError):
    """The server ended a watch: it shuts down, or may not tell."""


class _GatewayError(StoreUnavailable):
    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")


def _after_prefix(prefix: bytes) -> bytes:
    """Return the first key behind all that start with `prefix`."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


_NOTHING = {"key": _b64(b"\0"), "count_only": True}  # tells only the header
