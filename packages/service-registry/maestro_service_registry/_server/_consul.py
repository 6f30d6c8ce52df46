"""The part of Consul's HTTP API that services, load balancers and locks use.

What differs from Consul, on purpose: names must be DNS labels; a session ends at its
TTL, not at up to twice of it; `DeregisterCriticalServiceAfter` has no minimum and is
kept to the second; check targets on foreign hosts and scripts need a flag. Keys of
request bodies are read in any case. Unknown query parameters are accepted.
"""

import base64
import contextlib
import logging
import re
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any, final

from maestro_service_registry._checks import (
    Check,
    Grpc,
    Http,
    Script,
    Tcp,
    Ttl,
    Verdict,
)
from maestro_service_registry._clock import Process
from maestro_service_registry._model import CheckReport, Health, Instance
from maestro_service_registry._notice import dump, load
from maestro_service_registry._probe import Running
from maestro_service_registry._registration import Registration
from maestro_service_registry._registry import ServiceRegistry
from maestro_service_registry._store import (
    Delete,
    Event,
    Op,
    Put,
    Record,
    join_key,
    split_key,
)
from maestro_service_registry.errors import Conflict, InvalidInput

from ._access import is_loopback

__all__ = ["Agent", "Sessions", "duration", "lower"]

_log = logging.getLogger(__name__)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|us|ns|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
AGENT_TTL = 30.0
NODE = "maestro"


def duration(text: Any, name: str) -> float:
    """Read Go's durations: "10s", "1m30s", "500ms"; a bare number is seconds."""
    if isinstance(text, int | float):
        return float(text)
    raw = str(text)
    if re.fullmatch(r"\d+", raw):
        return float(raw)
    if not raw or _DURATION.sub("", raw):
        raise InvalidInput(name, text, 'a duration such as "10s" or "1m30s"')
    return sum(float(n) * _UNITS[unit] for n, unit in _DURATION.findall(raw))


def lower(raw: Any) -> dict[str, Any]:
    """Return a JSON object with its keys in lower case and without underscores."""
    if not isinstance(raw, Mapping):
        raise InvalidInput("body", raw, "a JSON object")
    return {str(k).lower().replace("_", ""): v for k, v in raw.items() if v is not None}


def _check_id(raw: Mapping[str, Any]) -> str:
    """Return the id of a check that is added to a service."""
    given = raw.get("checkid") or raw.get("id") or raw.get("name")
    return str(given or f"service:{raw['serviceid']}")


@final
class Agent:
    """What Consul's local agent does: holds services and makes their checks."""

    def __init__(
        self, registry: ServiceRegistry, *, scripts: bool = False, foreign: bool = False
    ) -> None:
        self._registry = registry
        self._scripts, self._foreign = scripts, foreign
        self._lock = threading.RLock()  # guards the three tables
        self._held: dict[str, Registration] = {}
        self._runs: dict[str, tuple[str, Running]] = {}  # check id -> service id, run
        self._evict: dict[str, float] = {}

    def restore(self) -> None:
        """Take up again what was registered before a restart, added checks too."""
        for record in self._registry.store.read("p/").records:
            raw = load(record)
            try:
                self._hold(raw["body"], raw["peer"])
                for added in raw.get("added", ()):
                    self._add_check(added["body"], added["peer"])
                for check in raw.get("removed", ()):
                    self._remove_check(check)
            except InvalidInput as error:  # such as a script, allowed no longer
                _log.warning(
                    "%s is not taken up again as it was: %s", record.key, error
                )

    def register(self, body: Any, peer: str) -> str:
        """Register a service and return its id."""
        id = self._hold(lower(body), peer)
        raw = {"body": lower(body), "peer": peer}
        self._registry.store.commit([Put(join_key("p", id), dump(raw))])
        return id

    def deregister(self, id: str) -> bool:
        """Remove a service; return False when it is not held here."""
        with self._lock:
            held = self._held.pop(id, None)
            self._runs = {c: r for c, r in self._runs.items() if r[0] != id}
            self._evict.pop(id, None)
        self._registry.store.commit([Delete(join_key("p", id))])
        if held is not None:
            held.close()
        return held is not None

    def maintenance(self, id: str, *, enable: bool, reason: str) -> bool:
        """Take a service out of use, or back in."""
        held = self._held.get(id)
        if held is None:
            return False
        if enable:
            held.maintenance(reason or "Maintenance mode is enabled")
        else:
            held.up()
        return True

    def report(self, check: str, status: Health, output: str) -> bool:
        """Take the result of a TTL check."""
        with self._lock:
            service, run = self._runs.get(check, ("", None))
            held = self._held.get(service)
        if run is None or held is None:
            return False
        held.report(run.hear(Verdict(status, output)))
        return True

    def add_check(self, body: Any, peer: str) -> str:
        """Add a check to a service that is held here; it outlives a restart."""
        raw = lower(body)
        check_id = self._add_check(raw, peer)

        def note(found: dict[str, Any]) -> None:
            kept = [
                a for a in found.get("added", ()) if _check_id(a["body"]) != check_id
            ]
            found["added"] = [*kept, {"body": raw, "peer": peer}]
            found["removed"] = [c for c in found.get("removed", ()) if c != check_id]

        self._note(str(raw["serviceid"]), note)
        return check_id

    def _add_check(self, raw: Mapping[str, Any], peer: str) -> str:
        id = str(raw.get("serviceid", ""))
        held = self._held.get(id)
        if held is None:
            raise InvalidInput("ServiceID", id, "a service that is registered here")
        check_id = _check_id(raw)
        check = self._check(raw, held.instance, peer)
        self._refuse_taken(check_id, id)
        self._start(held, check_id, check)
        return check_id

    def remove_check(self, check: str) -> bool:
        """Stop a check and forget its result; return False when there is none."""
        with self._lock:
            service = self._runs[check][0] if check in self._runs else ""
        if not self._remove_check(check):
            return False

        def note(found: dict[str, Any]) -> None:
            found["added"] = [
                a for a in found.get("added", ()) if _check_id(a["body"]) != check
            ]
            found["removed"] = sorted({*found.get("removed", ()), check})

        self._note(service, note)
        return True

    def _note(self, service: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change what a restart takes up again of a service."""
        key, store = join_key("p", service), self._registry.store
        while True:
            record = next((r for r in store.read(key).records if r.key == key), None)
            if record is None:  # deregistered meanwhile
                return
            found = load(record)
            change(found)
            with contextlib.suppress(Conflict):
                store.commit([Put(key, dump(found))], {key: record.revision})
                return

    def _remove_check(self, check: str) -> bool:
        with self._lock:
            service, run = self._runs.pop(check, ("", None))
            held = self._held.get(service)
        if run is None or held is None:
            return False
        run.stop()
        left = tuple(r for r in held.instance.checks if r.id != check)
        now = self._registry.store.now()
        fresh = held.instance.with_reports(left, now)
        held.update(checks=left, health=fresh.health, output=fresh.output)
        return True

    def instances(self) -> dict[str, Instance]:
        """Return what is held here, by id."""
        with self._lock:
            return {id: held.instance for id, held in self._held.items()}

    def checked(self, check: str) -> Instance | None:
        """Return the instance that a check belongs to."""
        with self._lock:
            held = self._held.get(self._runs[check][0]) if check in self._runs else None
            return held.instance if held else None

    def evict(self) -> None:
        """Deregister what has been critical for longer than it may."""
        now = self._registry.store.now()
        with self._lock:
            due = [
                id
                for id, after in self._evict.items()
                if self._held[id].instance.health == "critical"
                and now - self._held[id].instance.since >= after
            ]
        for id in due:
            self.deregister(id)

    def _hold(self, raw: Mapping[str, Any], peer: str) -> str:
        name = raw.get("name", "")
        id = str(raw.get("id") or name)
        weights = raw.get("weights") or {}
        meta = {str(k): str(v) for k, v in (raw.get("meta") or {}).items()}
        wanted = Instance(
            service=name,
            id=id,
            host=str(raw.get("address") or peer),
            port=raw.get("port") or 0,
            version=meta.get("version", "0.0.0"),
            weight=lower(weights).get("passing", 100) if weights else 100,
            tags=raw.get("tags") or frozenset(),
            meta=meta,
            ttl=AGENT_TTL,
            process=Process.current(),
            since=self._registry.store.now(),
        )
        listed = [raw["check"]] if raw.get("check") else []
        listed += raw.get("checks") or []
        bodies = [lower(one) for one in listed]
        checks = [self._check(one, wanted, peer) for one in bodies]
        default = "service:{}" if len(bodies) == 1 else "service:{}:{}"
        ids = [
            str(one.get("checkid") or one.get("id") or default.format(id, n))
            for n, one in enumerate(bodies, 1)
        ]
        for check_id in ids:
            self._refuse_taken(check_id, id)
        evict = [one.get("deregistercriticalserviceafter") for one in bodies]
        times = [
            duration(text, "DeregisterCriticalServiceAfter") for text in evict if text
        ]
        self._replace(id)
        held = self._registry.keep(wanted)
        with self._lock:
            self._held[id] = held
            if times:
                self._evict[id] = min(times)
        for check_id, check in zip(ids, checks, strict=True):
            self._start(held, check_id, check)
        return id

    def _refuse_taken(self, check_id: str, service_id: str) -> None:
        """Keep a service from taking over the check of another, and its reports."""
        with self._lock:
            owner = self._runs[check_id][0] if check_id in self._runs else service_id
        if owner != service_id:
            expected = f"an id of its own; the service {owner} has this check"
            raise InvalidInput("CheckID", check_id, expected)

    def _replace(self, id: str) -> None:
        with self._lock:
            old = self._held.pop(id, None)
            self._runs = {c: r for c, r in self._runs.items() if r[0] != id}
            self._evict.pop(id, None)
        if old is not None:
            old.close()

    def _start(self, held: Registration, check_id: str, check: Check) -> None:
        run = self._registry.run_check(held, check_id, check)
        with self._lock:
            before = self._runs.get(check_id)
            self._runs[check_id] = (held.instance.id, run)
        if before is not None:
            before[1].stop()
        held.report(run.report())

    def _check(self, raw: Mapping[str, Any], instance: Instance, peer: str) -> Check:
        """Read a check's definition."""
        timing: dict[str, Any] = {"name": str(raw.get("name") or "")}
        for name in ("interval", "timeout"):
            if raw.get(name):
                timing[name] = duration(raw[name], name)
        timing["initial"] = raw.get("status") or "critical"
        timing["fails"] = max(1, int(raw.get("failuresbeforecritical") or 1))
        timing["passes"] = max(1, int(raw.get("successbeforepassing") or 1))
        if raw.get("ttl"):
            timing["interval"] = duration(raw["ttl"], "TTL")
            return Ttl(**timing)
        if raw.get("http"):
            headers = tuple(
                (str(k), str(v))
                for k, values in (raw.get("header") or {}).items()
                for v in (values if isinstance(values, list) else [values])
            )
            check = Http(
                str(raw["http"]),
                method=str(raw.get("method") or "GET"),
                headers=headers,
                foreign=self._foreign,
                verify_tls=not raw.get("tlsskipverify"),
                **timing,
            )
            self._refuse_foreign(instance.host, peer)
            check.url_for(instance.host, instance.port, "http")
            return check
        if raw.get("tcp") or raw.get("grpc"):
            text = str(raw.get("tcp") or raw.get("grpc"))
            host, _, rest = text.rpartition(":")
            port, _, service = rest.partition("/")
            if host != instance.host and not self._foreign:
                expected = f"an address on the service's own host {instance.host}"
                raise InvalidInput("check", text, expected)
            self._refuse_foreign(instance.host, peer)
            if not port.isdigit():
                raise InvalidInput("check", text, "host:port")
            if raw.get("grpc"):
                return Grpc(service, **timing)
            return Tcp(int(port), **timing)
        if raw.get("args") or raw.get("script"):
            if not self._scripts:
                expected = "no script (start the server with --allow-scripts)"
                raise InvalidInput("script check", raw.get("args"), expected)
            return Script(raw.get("args") or (), **timing)
        raise InvalidInput("check", dict(raw), "one of TTL, HTTP, TCP, GRPC or Args")

    def _refuse_foreign(self, host: str, peer: str) -> None:
        """Refuse to be sent to a host that the registrant is not on."""
        same = host == peer or (is_loopback(host) and is_loopback(peer))
        if not same and not self._foreign:
            expected = f"the registrant's own host {peer} (or --allow-foreign-checks)"
            raise InvalidInput("check host", host, expected)


@final
class Sessions:
    """Consul's sessions and lock keys, on our leases and revisions."""

    def __init__(self, registry: ServiceRegistry) -> None:
        self._store = registry.store

    def create(self, body: Any) -> str:
        """Make a session and return its id."""
        raw = lower(body or {})
        ttl = duration(raw["ttl"], "TTL") if raw.get("ttl") else 86_400.0
        if not 1 <= ttl <= 86_400:
            raise InvalidInput("TTL", raw.get("ttl"), "1s to 86400s")
        delay = duration(raw.get("lockdelay", "15s"), "LockDelay")
        if delay > 1e6:  # Go clients may send nanoseconds
            delay /= 1e9
        behavior = raw.get("behavior") or "release"
        if behavior not in ("release", "delete"):
            raise InvalidInput("Behavior", behavior, "release or delete")
        lease = self._store.grant(ttl, strict=True, owner=None)
        id = str(uuid.uuid4())
        found = {"lease": lease, "name": raw.get("name") or "", "ttl": ttl}
        found |= {"delay": delay, "behavior": behavior}
        self._store.commit([Put(join_key("s", id), dump(found), lease)])
        return id

    def get(self, id: str) -> dict[str, Any] | None:
        """Return a session in Consul's shape."""
        record = self._one(join_key("s", id))
        if record is None:
            return None
        raw = load(record)
        return {
            "ID": id,
            "Name": raw["name"],
            "Node": NODE,
            "TTL": f"{raw['ttl']:g}s",
            "Behavior": raw["behavior"],
            "LockDelay": int(raw["delay"] * 1e9),
            "CreateIndex": record.created,
            "ModifyIndex": record.revision,
        }

    def all(self) -> list[dict[str, Any]]:
        """Return every session."""
        ids = [split_key(record.key)[1] for record in self._store.read("s/").records]
        return [found for found in map(self.get, ids) if found]

    def renew(self, id: str) -> bool:
        """Start a session's time anew; False when it ended."""
        record = self._one(join_key("s", id))
        return record is not None and not self._store.renew([load(record)["lease"]])

    def destroy(self, id: str) -> None:
        """End a session and free its keys."""
        record = self._one(join_key("s", id))
        if record is not None:
            raw = load(record)
            self._store.revoke([raw["lease"]])
            self.free(id, raw | {"delay": 0.0})

    def free(self, id: str, raw: Mapping[str, Any]) -> None:
        """Free the keys of a session that ended."""
        for record in self._store.read("k/").records:
            key = load(record)
            if key["session"] != id:
                continue
            key |= {"session": None, "until": self._store.now() + raw["delay"]}
            op: Op = Put(record.key, dump(key))
            if raw["behavior"] == "delete":
                op = Delete(record.key)
            try:
                self._store.commit([op], {record.key: record.revision})
            except Conflict:  # somebody else frees it, or took it already
                continue

    def on_event(self, event: Event, known: dict[str, dict[str, Any]]) -> None:
        """Free keys when a session's record goes, however it went."""
        if not event.key.startswith("s/"):
            return
        id = split_key(event.key)[1]
        if event.record is not None:
            known[id] = load(event.record)
        else:
            default = {"behavior": "release", "delay": 15.0}
            self.free(id, known.pop(id, default))

    def read(self, key: str, *, recurse: bool) -> list[dict[str, Any]]:
        """Return keys in Consul's shape."""
        exact = join_key("k", key)
        records = self._store.read(exact).records
        alive = {split_key(record.key)[1] for record in self._store.read("s/").records}
        return [_shape(r, alive) for r in records if recurse or r.key == exact]

    def put(self, key: str, value: bytes, query: Mapping[str, str]) -> bool:
        """Write a key: plainly, by compare-and-set, or to acquire or release it."""
        name = join_key("k", key)
        while True:
            record = self._one(name)
            expect = {name: record.revision if record else 0}
            raw = load(record) if record else dict(_NEW)
            if "cas" in query and int(query["cas"] or 0) != expect[name]:
                return False
            if "acquire" in query:
                if not self._acquire(raw, query["acquire"], expect):
                    return False
            elif "release" in query:
                if raw["session"] != query["release"]:
                    return False
                raw["session"] = None
            raw["value"] = base64.b64encode(value).decode("ascii")
            raw["flags"] = int(query.get("flags") or raw["flags"])
            try:
                self._store.commit([Put(name, dump(raw))], expect)
            except Conflict:
                continue
            return True

    def delete(self, key: str, query: Mapping[str, str]) -> bool:
        """Remove a key, or with `recurse` all that start with it."""
        exact = join_key("k", key)
        records = self._store.read(exact).records
        doomed = [r for r in records if "recurse" in query or r.key == exact]
        if "cas" in query:
            at = int(query["cas"] or 0)
            if not doomed or doomed[0].revision != at:
                return False
        if doomed:
            self._store.commit([Delete(record.key) for record in doomed])
        return True

    def _acquire(self, raw: dict[str, Any], id: str, expect: dict[str, int]) -> bool:
        session = self._one(join_key("s", id))
        if session is None:
            raise InvalidInput("acquire", id, "a session that exists")
        expect[session.key] = session.revision
        holder = raw["session"]
        if holder and holder != id and self._one(join_key("s", holder)):
            return False
        if holder != id:
            if raw["until"] > self._store.now():
                return False
            raw["lock_index"] += 1
        raw["session"] = id
        return True

    def _one(self, key: str) -> Record | None:
        return next((r for r in self._store.read(key).records if r.key == key), None)


_NEW: dict[str, Any] = {
    "value": "",
    "flags": 0,
    "lock_index": 0,
    "session": None,
    "until": 0.0,
}


def _shape(record: Record, alive: set[str]) -> dict[str, Any]:
    raw = load(record)
    found = {
        "LockIndex": raw["lock_index"],
        "Key": split_key(record.key)[1],
        "Flags": raw["flags"],
        "Value": raw["value"] or None,
        "CreateIndex": record.created,
        "ModifyIndex": record.revision,
    }
    if raw["session"] in alive:
        found["Session"] = raw["session"]
    return found


def entry(instance: Instance) -> dict[str, Any]:
    """Return an instance as the catalog shows it."""
    return {
        "ID": NODE,
        "Node": NODE,
        "Address": instance.host,
        "Datacenter": "dc1",
        "ServiceID": instance.id,
        "ServiceName": instance.service,
        "ServiceAddress": instance.host,
        "ServicePort": instance.port,
        "ServiceTags": sorted(instance.tags),
        "ServiceMeta": dict(instance.meta),
        "ServiceWeights": {"Passing": instance.weight, "Warning": 1},
        "CreateIndex": instance.created,
        "ModifyIndex": instance.revision,
    }


def agent_entry(instance: Instance) -> dict[str, Any]:
    """Return an instance as the agent shows it."""
    return {
        "ID": instance.id,
        "Service": instance.service,
        "Tags": sorted(instance.tags),
        "Meta": dict(instance.meta),
        "Port": instance.port,
        "Address": instance.host,
        "Weights": {"Passing": instance.weight, "Warning": 1},
        "EnableTagOverride": False,
        "CreateIndex": instance.created,
        "ModifyIndex": instance.revision,
    }


def check_entries(instance: Instance) -> list[dict[str, Any]]:
    """Return the checks of an instance, with one for maintenance."""
    reports = list(instance.checks)
    if instance.status != "up":
        note = instance.meta.get("maintenance", instance.status)
        reports.append(
            CheckReport(
                id=f"_service_maintenance:{instance.id}",
                name="Service Maintenance Mode",
                kind="maintenance",
                status="critical",
                output=note,
            )
        )
    if not reports:
        reports.append(
            CheckReport(id=f"lease:{instance.id}", name="Lease", status=instance.health)
        )
    return [
        {
            "Node": NODE,
            "CheckID": report.id,
            "Name": report.name or report.id,
            "Status": "critical" if report.status == "unknown" else report.status,
            "Notes": "",
            "Output": report.output,
            "ServiceID": instance.id,
            "ServiceName": instance.service,
            "ServiceTags": sorted(instance.tags),
            "Type": report.kind,
            "CreateIndex": instance.created,
            "ModifyIndex": instance.revision,
        }
        for report in reports
    ]


def health_entry(instance: Instance) -> dict[str, Any]:
    """Return an instance as a health query shows it."""
    return {
        "Node": {
            "ID": NODE,
            "Node": NODE,
            "Address": instance.host,
            "Datacenter": "dc1",
        },
        "Service": agent_entry(instance),
        "Checks": check_entries(instance),
    }
