"""A store behind `maestro-registry serve`: for other hosts, without their own engine.

The server keeps leases and time; this client only asks. A request that cannot be
delivered raises `StoreUnavailable`, and a waiting one returns within its time plus the
time-out even when the server is frozen.
"""

import json
import ssl
from collections.abc import Mapping, Sequence
from typing import Any, final
from urllib.parse import urlsplit

from ._clock import Process
from ._store import Batch, Delete, Event, Lease, Op, Record, Snapshot
from ._wires import Answer, Wires
from .errors import (
    AccessDenied,
    Compacted,
    Conflict,
    InvalidInput,
    LeaseLost,
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
        context = (
            tls or ssl.create_default_context() if parts.scheme == "https" else None
        )
        self._token = token
        self._wires = Wires(
            "registry", parts.hostname, parts.port, timeout=timeout, tls=context
        )

    def read(self, prefix: str) -> Snapshot:
        """Return every record whose key starts with `prefix`."""
        raw = self._ask("read", prefix=prefix)
        records = tuple(Record(**r) for r in raw["records"])
        return Snapshot(records, raw["revision"], raw.get("history", ""))

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
        return Batch(events, raw["revision"], raw.get("history", ""))

    def now(self) -> float:
        """Return the server's calendar."""
        return float(self._ask("now"))

    def close(self) -> None:
        """Close the connections and wake whoever waits."""
        self._wires.close()

    def _ask(self, verb: str, wait: float = 0.0, **body: Any) -> Any:
        raw = json.dumps(body).encode("utf-8")
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        path = f"/v1/maestro/store/{verb}"
        answer = self._wires.post(path, raw, headers, wait)
        if answer.status == 200:
            try:
                return json.loads(answer.text)
            except ValueError as error:  # something else answers there
                raise self._wires.unavailable(error) from error
        raise self._error(answer)

    def _error(self, answer: Answer) -> Exception:
        text = answer.text.decode("utf-8", "replace")
        kind = answer.headers.get("X-Maestro-Error")
        detail = json.loads(answer.headers.get("X-Maestro-Detail") or "[]")
        if kind == "Conflict":
            return Conflict(*detail)
        if kind == "LeaseLost":
            return LeaseLost(*detail)
        if kind == "Compacted":
            return Compacted(*detail)
        if answer.status == 403:
            return AccessDenied(text)
        return self._wires.unavailable(f"answered {answer.status}: {text}")
