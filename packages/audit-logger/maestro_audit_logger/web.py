"""Audit middleware for ASGI and WSGI applications; no framework needed.

Each request runs with actor, request id and client address bound, and becomes
one event. It is stored before the first byte of the answer leaves: a client
never sees the success of something unrecorded.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http import HTTPStatus
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, final

from maestro_audit_logger._event import Actor, Outcome

if TYPE_CHECKING:
    from maestro_audit_logger._logger import AuditLogger

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
StartResponse = Callable[..., Any]
WsgiApp = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]
ANONYMOUS = Actor("anonymous", "anonymous")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}\Z")


def outcome_of(status: int) -> Outcome:
    """Return success below 400, denied for 401, 403 and 407, else failure."""
    if status < 400:
        return "success"
    return "denied" if status in {401, 403, 407} else "failure"


def client_address(peer: str, forwarded_for: str, trusted_proxies: int) -> str:
    """Return the client's address, taking only what our own proxies added.

    Each proxy appends the address it saw, so with n proxies of our own the
    n-th entry from the end is the last one a client could not invent.
    """
    hops = [hop.strip() for hop in forwarded_for.split(",") if hop.strip()]
    if trusted_proxies < 1 or len(hops) < trusted_proxies:
        return peer
    try:
        return str(ip_address(hops[-trusted_proxies]))
    except ValueError:
        return peer


@final
class AuditASGIMiddleware:
    """Wrap an ASGI application.

    Args:
        app: the application.
        audit: the log.
        actor: who makes a request, from its scope; anonymous when left out.
            Called when the answer starts too, because routers and
            authentication fill the scope while they work.
        trusted_proxies: how many of our own proxies append X-Forwarded-For.
        when: which requests become events; all of them when left out.
        action: the action of the events.
    """

    def __init__(
        self,
        app: AsgiApp,
        audit: AuditLogger,
        *,
        actor: Callable[[Scope], Actor | None] = lambda _: None,
        trusted_proxies: int = 0,
        when: Callable[[Scope], bool] = lambda _: True,
        action: str = "http.request",
    ) -> None:
        self._app = app
        self._audit = audit
        self._actor = actor
        self._proxies = trusted_proxies
        self._when = when
        self._action = action

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {k.lower(): v.decode("latin-1") for k, v in scope.get("headers", [])}
        peer = (scope.get("client") or ("",))[0]
        forwarded = headers.get(b"x-forwarded-for", "")
        address = client_address(peer, forwarded, self._proxies)
        request_id = _request_id(headers.get(b"x-request-id", ""))
        started = False

        async def record(status: int) -> None:
            nonlocal started
            started = True
            if self._when(scope):
                await self._audit.arecord(
                    self._action,
                    actor=self._actor(scope) or ANONYMOUS,
                    resource=("path", scope["path"]),
                    outcome=outcome_of(status),
                    data={"method": scope["method"], "status": status},
                )

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                await record(message["status"])
            await send(message)

        actor = self._actor(scope) or ANONYMOUS
        with self._audit.bind(actor=actor, request_id=request_id, ip=address):
            try:
                await self._app(scope, receive, watched)
            except Exception:
                if not started:
                    await record(500)
                raise


@final
class AuditWSGIMiddleware:
    """Wrap a WSGI application; see `AuditASGIMiddleware` for the arguments."""

    def __init__(
        self,
        app: WsgiApp,
        audit: AuditLogger,
        *,
        actor: Callable[[dict[str, Any]], Actor | None] = lambda _: None,
        trusted_proxies: int = 0,
        when: Callable[[dict[str, Any]], bool] = lambda _: True,
        action: str = "http.request",
    ) -> None:
        self._app = app
        self._audit = audit
        self._actor = actor
        self._proxies = trusted_proxies
        self._when = when
        self._action = action

    def __call__(
        self, environ: dict[str, Any], start_response: StartResponse
    ) -> Iterable[bytes]:
        """Run one request."""
        address = client_address(
            environ.get("REMOTE_ADDR", ""),
            environ.get("HTTP_X_FORWARDED_FOR", ""),
            self._proxies,
        )
        request_id = _request_id(environ.get("HTTP_X_REQUEST_ID", ""))
        started = False

        def record(status: int) -> None:
            nonlocal started
            started = True
            if self._when(environ):
                self._audit.record(
                    self._action,
                    actor=self._actor(environ) or ANONYMOUS,
                    resource=("path", environ.get("PATH_INFO") or "/"),
                    outcome=outcome_of(status),
                    data={"method": environ["REQUEST_METHOD"], "status": status},
                    ctx={"request_id": request_id, "ip": address},
                )

        def watched(status: str, *rest: Any) -> Any:
            record(int(status.split(" ", 1)[0]))
            return start_response(status, *rest)

        actor = self._actor(environ) or ANONYMOUS
        with self._audit.bind(actor=actor, request_id=request_id, ip=address):
            try:
                # A generator runs to its first piece here, while actor and
                # address are bound.
                return _begun(self._app(environ, watched))
            except Exception:
                if not started:
                    record(HTTPStatus.INTERNAL_SERVER_ERROR)
                raise


def _begun(body: Iterable[bytes]) -> Iterable[bytes]:
    if isinstance(body, list | tuple):
        return body
    pieces = iter(body)
    first = next(pieces, b"")

    def rest() -> Iterable[bytes]:
        try:
            yield first
            yield from pieces
        finally:
            close = getattr(body, "close", None)
            if close is not None:
                close()

    return rest()


def _request_id(given: str) -> str:
    """Return the caller's request id if it is one, else a new one."""
    return given if _REQUEST_ID.match(given) else secrets.token_hex(8)
