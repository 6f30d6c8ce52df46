"""The server: routes, waiting queries, tokens, background work.

Requests that touch the store run on Starlette's worker threads; requests that wait do
so as coroutines. A waiting query returns within its time plus a sixteenth, whatever
the store does. Errors are one line of plain text, as Consul's are.
"""

import asyncio
import contextlib
import json
import logging
import random
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, final

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from maestro_service_registry._clock import Process
from maestro_service_registry._model import Instance, check_name
from maestro_service_registry._registry import ServiceRegistry
from maestro_service_registry._store import Delete, Event, Op, Put, split_key
from maestro_service_registry.errors import (
    AccessDenied,
    Compacted,
    Conflict,
    InvalidInput,
    LeaseLost,
    RegistryError,
    StoreUnavailable,
)

from ._access import Access
from ._consul import (
    Agent,
    Sessions,
    agent_entry,
    check_entries,
    duration,
    entry,
    health_entry,
    lower,
)
from ._page import PAGE
from ._pulse import Pulse
from ._state import metrics, state

__all__ = ["Server"]

_log = logging.getLogger(__name__)
BODY_BYTES = 1 << 20
LONGEST_WAIT = 600.0
DEFAULT_WAIT = 300.0

Answer = tuple[int, Any]


@final
class Server:
    """The ASGI application for one registry: `Server(registry).app`."""

    def __init__(
        self,
        registry: ServiceRegistry,
        *,
        access: Access | None = None,
        scripts: bool = False,
        foreign_checks: bool = False,
    ) -> None:
        self._registry = registry
        self._access = access or Access(None)
        self._agent = Agent(registry, scripts=scripts, foreign=foreign_checks)
        self._sessions = Sessions(registry)
        self._known: dict[str, dict[str, Any]] = {}
        self._pulse = Pulse(registry.store, self._on_event)
        self._stopped = threading.Event()
        self._task: asyncio.Task[None] | None = None
        self.app = Starlette(
            routes=self._routes(),
            lifespan=self._lifespan,
            exception_handlers={RegistryError: _refuse},
        )

    def stop(self) -> None:
        """Answer every waiting request now; call it before the server shuts down."""
        self._stopped.set()
        self._pulse.close()

    @contextlib.asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        for record in self._registry.store.read("s/").records:
            self._known[split_key(record.key)[1]] = json.loads(record.value)
        self._pulse.start()
        await run_in_threadpool(self._agent.restore)
        self._registry.on_change(lambda _: None)  # starts the cache and the sweeper
        self._task = asyncio.create_task(self._tend())
        try:
            yield
        finally:
            self.stop()
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(0.5)
            try:
                await run_in_threadpool(self._agent.evict)
            except RegistryError as error:
                _log.warning("eviction waits: %s", error)

    def _on_event(self, event: Event) -> None:
        self._sessions.on_event(event, self._known)

    def _routes(self) -> list[Route]:
        put, get = ["PUT", "POST"], ["GET"]
        agent, v1 = "/v1/agent", "/v1"
        table: list[tuple[str, list[str], str, Callable[..., Any]]] = [
            (f"{agent}/service/register", put, "register", self._register),
            (
                f"{agent}/service/deregister/{{id:path}}",
                put,
                "deregister",
                self._deregister,
            ),
            (
                f"{agent}/service/maintenance/{{id:path}}",
                put,
                "deregister",
                self._maintenance,
            ),
            (f"{agent}/check/register", put, "attach", self._check_register),
            (
                f"{agent}/check/deregister/{{id:path}}",
                put,
                "check",
                self._check_deregister,
            ),
            (f"{agent}/check/{{verb}}/{{id:path}}", put, "check", self._check_report),
            (f"{v1}/session/create", put, "write", self._session_create),
            (f"{v1}/session/renew/{{id}}", put, "write", self._session_renew),
            (f"{v1}/session/destroy/{{id}}", put, "write", self._session_destroy),
            (f"{v1}/kv/{{key:path}}", put, "write", self._kv_put),
            (f"{v1}/kv/{{key:path}}", ["DELETE"], "write", self._kv_delete),
            ("/v1/maestro/store/{verb}", ["POST"], "admin", self._store_verb),
            ("/v1/maestro/may", get, "read", self._may),
            ("/v1/maestro/state", get, "read", self._state),
            ("/v1/maestro/metrics", get, "read", self._metrics),
        ]
        routes = [Route(p, self._plain(s, f), methods=m) for p, m, s, f in table]
        reads: list[tuple[str, Callable[..., list[str]], Callable[..., Any]]] = [
            (f"{agent}/self", _no_topics, lambda _: (200, _SELF)),
            (f"{agent}/services", _no_topics, self._agent_services),
            (f"{agent}/checks", _no_topics, self._agent_checks),
            (f"{v1}/status/leader", _no_topics, lambda _: (200, "127.0.0.1:8300")),
            (f"{v1}/catalog/services", _all_services, self._catalog),
            (f"{v1}/catalog/service/{{name}}", _one_service, self._catalog_service),
            (f"{v1}/health/service/{{name}}", _one_service, self._health),
            (f"{v1}/health/checks/{{name}}", _one_service, self._health_checks),
            (f"{v1}/health/state/{{status}}", _all_services, self._health_state),
            (f"{v1}/session/info/{{id}}", _one_session, self._session_info),
            (f"{v1}/session/list", _no_topics, lambda _: (200, self._sessions.all())),
            (f"{v1}/kv/{{key:path}}", _one_key, self._kv_get),
        ]
        routes += [Route(p, self._waiting(t, f), methods=["GET"]) for p, t, f in reads]
        routes.append(Route("/v1/maestro/events", self._events, methods=["GET"]))
        routes.append(Route("/", _page, methods=["GET"]))
        return routes

    def _plain(self, scope: str, answer: Callable[..., Answer]) -> Callable[..., Any]:
        """Serve something that answers at once."""

        async def endpoint(request: Request) -> Response:
            body = await _body(request)
            self._allow(request, scope, body)
            if answer == self._store_verb and request.path_params["verb"] == "events":
                return await self._store_events(body)
            status, found = await run_in_threadpool(answer, request, body)
            return _response(status, found, {})

        return endpoint

    def _waiting(
        self,
        topics: Callable[[Request], list[str]],
        answer: Callable[[Request], Answer],
    ) -> Callable[..., Any]:
        """Serve a query that may wait for a change: `?index=N&wait=10s`."""

        async def endpoint(request: Request) -> Response:
            self._allow(request, "read", None)
            about = topics(request)
            index = _number("index", request.query_params.get("index") or "0")
            if index and about:
                text = request.query_params.get("wait") or DEFAULT_WAIT
                wait = min(duration(text, "wait"), LONGEST_WAIT)
                # Consul's rule: up to a sixteenth more, so that clients spread out.
                await self._pulse.wait(
                    about, index, wait * random.uniform(1, 1 + 1 / 16)
                )
            at = self._pulse.index(
                about
            )  # before reading: too low is safe, too high not
            status, found = await run_in_threadpool(answer, request)
            headers = {
                "X-Consul-Index": str(at),
                "X-Consul-KnownLeader": "true",
                "X-Consul-LastContact": "0",
            }
            return _response(status, found, headers)

        return endpoint

    def _allow(self, request: Request, scope: str, body: Any) -> None:
        if self._access.open:
            return
        token = request.headers.get("X-Consul-Token") or request.query_params.get(
            "token"
        )
        sent = request.headers.get("Authorization", "")
        if sent.startswith("Bearer "):
            token = sent.removeprefix("Bearer ")
        if scope == "register":
            raw = lower(_json(body))
            self._access.check(token, f"register:{raw.get('name', '')}")
            # The id may be taken, by a service that this token must not replace.
            held = self._agent.instances().get(str(raw.get("id") or raw.get("name")))
            if held is None:
                return
            scope = f"register:{held.service}"
        elif scope == "attach":
            service_id = str(lower(_json(body)).get("serviceid", ""))
            held = self._agent.instances().get(service_id)
            scope = f"register:{held.service}" if held else "admin"
        elif scope == "deregister":
            held = self._agent.instances().get(request.path_params["id"])
            scope = f"register:{held.service}" if held else "admin"
        elif scope == "check":
            held = self._agent.checked(request.path_params["id"])
            scope = f"register:{held.service}" if held else "admin"
        self._access.check(token, scope)

    # Consul's agent

    def _register(self, request: Request, body: bytes) -> Answer:
        peer = request.client.host if request.client else "127.0.0.1"
        self._agent.register(_json(body), peer)
        return 200, None

    def _deregister(self, request: Request, _: bytes) -> Answer:
        id = request.path_params["id"]
        if self._agent.deregister(id):
            return 200, None
        return 404, f'Unknown service ID "{id}"'

    def _maintenance(self, request: Request, _: bytes) -> Answer:
        query = request.query_params
        enable = query.get("enable", "").lower()
        if enable not in ("true", "false"):
            raise InvalidInput("enable", enable, "true or false")
        id = request.path_params["id"]
        reason = query.get("reason", "")
        if self._agent.maintenance(id, enable=enable == "true", reason=reason):
            return 200, None
        return 404, f'Unknown service ID "{id}"'

    def _check_register(self, request: Request, body: bytes) -> Answer:
        peer = request.client.host if request.client else "127.0.0.1"
        self._agent.add_check(_json(body), peer)
        return 200, None

    def _check_deregister(self, request: Request, _: bytes) -> Answer:
        self._agent.remove_check(request.path_params["id"])
        return 200, None

    def _check_report(self, request: Request, body: bytes) -> Answer:
        verb, id = request.path_params["verb"], request.path_params["id"]
        note = request.query_params.get("note", "")
        words: dict[str, Any] = {
            "pass": "passing",
            "warn": "warning",
            "fail": "critical",
        }
        if verb == "update":
            raw = {k.lower(): v for k, v in _json(body).items()}
            status, note = raw.get("status", ""), raw.get("output", "")
        else:
            status = words.get(verb, "")
        if status not in words.values():
            raise InvalidInput("status", status or verb, "passing, warning or critical")
        if self._agent.report(id, status, note):
            return 200, None
        return 404, f'Unknown check ID "{id}"'

    def _agent_services(self, _: Request) -> Answer:
        held = self._agent.instances()
        return 200, {id: agent_entry(instance) for id, instance in held.items()}

    def _agent_checks(self, _: Request) -> Answer:
        held = self._agent.instances().values()
        found = [check for instance in held for check in check_entries(instance)]
        return 200, {check["CheckID"]: check for check in found}

    # Consul's catalog and health

    def _catalog(self, _: Request) -> Answer:
        services = self._registry.services()
        return 200, {
            name: sorted(frozenset[str]().union(*(i.tags for i in group)))
            for name, group in services.items()
        }

    def _catalog_service(self, request: Request) -> Answer:
        return 200, [entry(instance) for instance in self._find(request)]

    def _health(self, request: Request) -> Answer:
        query = request.query_params
        passing = "passing" in query and query["passing"] not in ("0", "false")
        found = self._find(request)
        if passing:
            found = [i for i in found if i.status == "up" and i.health == "passing"]
        return 200, [health_entry(instance) for instance in found]

    def _health_checks(self, request: Request) -> Answer:
        return 200, [c for i in self._find(request) for c in check_entries(i)]

    def _health_state(self, request: Request) -> Answer:
        wanted = request.path_params["status"]
        groups = self._registry.services().values()
        checks = [c for group in groups for i in group for c in check_entries(i)]
        return 200, [c for c in checks if wanted in ("any", c["Status"])]

    def _find(self, request: Request) -> list[Instance]:
        tags = request.query_params.getlist("tag")
        name = check_name("service", request.path_params["name"])
        return list(self._registry.find(name, tags=tags))

    # Consul's sessions and keys

    def _session_create(self, _: Request, body: bytes) -> Answer:
        return 200, {"ID": self._sessions.create(_json(body) if body.strip() else {})}

    def _session_renew(self, request: Request, _: bytes) -> Answer:
        id = request.path_params["id"]
        found = self._sessions.get(id) if self._sessions.renew(id) else None
        if found is None:
            return 404, f"Session id '{id}' not found"
        return 200, [found]

    def _session_destroy(self, request: Request, _: bytes) -> Answer:
        self._sessions.destroy(request.path_params["id"])
        return 200, True

    def _session_info(self, request: Request) -> Answer:
        found = self._sessions.get(request.path_params["id"])
        return 200, [found] if found else []

    def _kv_get(self, request: Request) -> Answer:
        query = request.query_params
        recurse = "recurse" in query or "keys" in query
        found = self._sessions.read(request.path_params["key"], recurse=recurse)
        if not found:
            return 404, ""
        if "keys" in query:
            return 200, [one["Key"] for one in found]
        if "raw" in query:
            import base64

            return 200, base64.b64decode(found[0]["Value"] or "")
        return 200, found

    def _kv_put(self, request: Request, body: bytes) -> Answer:
        key = request.path_params["key"]
        if not key:
            raise InvalidInput("key", key, "a name")
        return 200, self._sessions.put(key, body, dict(request.query_params))

    def _kv_delete(self, request: Request, _: bytes) -> Answer:
        query = dict(request.query_params)
        return 200, self._sessions.delete(request.path_params["key"], query)

    # our own

    def _state(self, _request: Request, _: bytes) -> Answer:
        return 200, state(self._registry)

    def _metrics(self, _request: Request, _: bytes) -> Answer:
        return 200, metrics(self._registry).encode("utf-8")

    def _may(self, request: Request, _: bytes) -> Answer:
        query = request.query_params
        decision = self._registry.may(
            query.get("action", ""),
            query.get("service", ""),
            query.get("version"),
            by=query.get("by"),
        )
        return 200, asdict(decision)

    async def _events(self, request: Request) -> Response:
        """Stream changes as server-sent events, from `?since=` or Last-Event-ID on."""
        self._allow(request, "read", None)
        service = request.query_params.get("service")
        text = request.headers.get("Last-Event-ID") or request.query_params.get("since")
        since = _number("since", text) if text else None
        watch = await run_in_threadpool(
            partial(self._registry.watch, service, since=since)
        )
        topics = [f"i/{service}" if service else "i"]

        async def stream() -> AsyncIterator[str]:
            yield f": from revision {watch.revision}\n\n"
            while not self._stopped.is_set():
                index = self._pulse.index(topics)
                for change in await run_in_threadpool(watch.poll):
                    kind = type(change).__name__.lower()
                    data = json.dumps(asdict(change), default=_plain_value)
                    yield f"id: {change.revision}\nevent: {kind}\ndata: {data}\n\n"
                await self._pulse.wait(topics, index, 15)
                yield ": still here\n\n"  # notices a client that went away

        headers = {"Cache-Control": "no-store"}
        return StreamingResponse(
            stream(), media_type="text/event-stream", headers=headers
        )

    def _store_verb(self, request: Request, body: bytes) -> Answer:
        try:
            return self._do_store_verb(request, _json(body))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise _lacking(request.path_params["verb"], body, error) from error

    def _do_store_verb(self, request: Request, raw: Any) -> Answer:
        store, verb = self._registry.store, request.path_params["verb"]
        if verb == "read":
            found = store.read(str(raw["prefix"]))
            return 200, asdict(found)
        if verb == "commit":
            ops: list[Op] = [
                Delete(one[0]) if len(one) == 1 else Put(one[0], one[1], one[2])
                for one in raw["ops"]
            ]
            return 200, store.commit(ops, raw["expect"])
        if verb == "grant":
            owner = Process.of(raw["owner"])
            return 200, store.grant(raw["ttl"], strict=raw["strict"], owner=owner)
        if verb == "renew":
            return 200, sorted(store.renew(raw["leases"]))
        if verb == "revoke":
            return 200, store.revoke(raw["leases"])
        if verb == "leases":
            return 200, [asdict(lease) for lease in store.leases()]
        if verb == "now":
            return 200, store.now()
        return 404, f"no verb {verb!r}"

    async def _store_events(self, body: bytes) -> Response:
        raw = _json(body)
        store = self._registry.store
        try:
            prefix, since = str(raw["prefix"]), int(raw["since"])
            patience = min(float(raw["timeout"]), 60.0)
        except (KeyError, TypeError, ValueError) as error:
            raise _lacking("events", body, error) from error
        deadline = asyncio.get_running_loop().time() + patience
        topics, history = [""], None
        while True:
            index = self._pulse.index(topics)
            batch = await run_in_threadpool(store.events, prefix, since, 0)
            left = deadline - asyncio.get_running_loop().time()
            same = history in (None, batch.history)
            if batch.events or left <= 0 or self._stopped.is_set() or not same:
                return JSONResponse(asdict(batch))
            since, history = max(since, batch.revision), batch.history
            # Not every store rings at once: look again after a second in any case.
            await self._pulse.wait(topics, index, min(left, 1.0))


async def _page(_: Request) -> Response:
    csp = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": csp})


def _no_topics(_: Request) -> list[str]:
    return []


def _all_services(_: Request) -> list[str]:
    return ["i"]


def _one_service(request: Request) -> list[str]:
    return [f"i/{request.path_params['name']}"]


def _one_session(request: Request) -> list[str]:
    return [f"s/{request.path_params['id']}"]


def _one_key(request: Request) -> list[str]:
    from urllib.parse import quote

    if "recurse" in request.query_params or "keys" in request.query_params:
        return ["k", "s"]
    return [f"k/{quote(request.path_params['key'], safe='')}"]


async def _refuse(_: Request, error: Exception) -> Response:
    """Answer with the status that a kind of error means."""
    kinds: tuple[tuple[type[Exception], int], ...] = (
        (InvalidInput, 400),
        (AccessDenied, 403),
        (Conflict, 409),
        (LeaseLost, 410),
        (Compacted, 416),
        (StoreUnavailable, 503),
    )
    status = next((code for kind, code in kinds if isinstance(error, kind)), 500)
    headers = {"X-Maestro-Error": type(error).__name__}
    if isinstance(error, Conflict):
        headers["X-Maestro-Detail"] = json.dumps([error.key, error.expected])
    elif isinstance(error, LeaseLost):
        headers["X-Maestro-Detail"] = json.dumps([error.lease, error.why])
    elif isinstance(error, Compacted):
        headers["X-Maestro-Detail"] = json.dumps([error.since, error.oldest])
    return PlainTextResponse(str(error), status, headers)


async def _body(request: Request) -> bytes:
    found = b""
    async for piece in request.stream():
        found += piece
        if len(found) > BODY_BYTES:
            raise InvalidInput("body", f"{len(found)} bytes", f"at most {BODY_BYTES}")
    return found


def _lacking(verb: str, body: bytes, error: Exception) -> InvalidInput:
    expected = f"what {verb!r} needs ({type(error).__name__}: {error})"
    return InvalidInput("body", body[:60], expected)


def _json(body: bytes) -> Any:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("body", body[:60], f"JSON ({error})") from error
    if not isinstance(found, Mapping):
        raise InvalidInput("body", body[:60], "a JSON object")
    return found


def _number(name: str, text: str) -> int:
    if not text.isdigit() or len(text) > 18:
        raise InvalidInput(name, text, "a whole number")
    return int(text)


def _response(status: int, found: Any, headers: dict[str, str]) -> Response:
    if found is None:
        return Response(status_code=status, headers=headers)
    if isinstance(found, bytes):
        return Response(found, status, headers, "text/plain; charset=utf-8")
    if status >= 400:
        return PlainTextResponse(found, status, headers)
    return JSONResponse(found, status, headers)


def _plain_value(value: Any) -> Any:
    return sorted(value) if isinstance(value, frozenset) else str(value)


_SELF = {
    "Config": {"Datacenter": "dc1", "NodeName": "maestro", "Server": True},
    "Member": {"Name": "maestro", "Addr": "127.0.0.1"},
}
