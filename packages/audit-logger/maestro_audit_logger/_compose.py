"""Put an event together from what the caller gives and what is bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar, final

from maestro_audit_logger._clean import Sealed
from maestro_audit_logger._context import UNBOUND, Binding, Bound, carried
from maestro_audit_logger._encode import Encoder, ResourceLike
from maestro_audit_logger._event import Actor
from maestro_audit_logger.errors import MissingActor

P = ParamSpec("P")
R = TypeVar("R")
SYSTEM_ACTOR = '{"type":"system","id":"maestro-audit"}'


@final
class Composer:
    """One logger's context and encoder.

    Args:
        encoder: makes the bytes.
        actor: who acts when nothing else says so.
    """

    def __init__(self, encoder: Encoder, actor: Actor | None) -> None:
        self._encoder = encoder
        self._var: ContextVar[Bound] = ContextVar("maestro_audit", default=UNBOUND)
        self._base = UNBOUND
        if actor is not None:
            self._base = Bound(actor, encoder.actor(actor), {}, "{}")

    def bind(self, actor: Actor | None, ctx: Mapping[str, Any]) -> Binding:
        """Return the `with` block that adds to what is bound now."""
        outer = self.bound()
        merged = {**outer.ctx, **ctx}
        return Binding(
            self._var,
            Bound(
                actor=actor or outer.actor,
                actor_json=self._encoder.actor(actor) if actor else outer.actor_json,
                ctx=merged,
                ctx_json=self._encoder.mapping(merged, "$.ctx")
                if ctx
                else outer.ctx_json,
            ),
        )

    def carry(self, function: Callable[P, R]) -> Callable[P, R]:
        """Wrap a function so that what is bound now goes along."""
        return carried(self._var, function)

    def bound(self) -> Bound:
        """Return what is bound here and now."""
        bound = self._var.get()
        return self._base if bound is UNBOUND else bound

    def body(
        self,
        ts: str,
        action: str,
        actor: Actor | None,
        resource: ResourceLike,
        outcome: str,
        data: Mapping[str, Any] | None,
        ctx: Mapping[str, Any] | None,
    ) -> tuple[bytes, list[Sealed]]:
        """Encode what a caller gives, with what is bound around it."""
        bound, encoder = self._var.get(), self._encoder
        if bound is UNBOUND:
            bound = self._base
        if actor is not None:
            actor_json = encoder.actor(actor)
        elif bound.actor_json:
            actor, actor_json = bound.actor, bound.actor_json
        else:
            raise MissingActor
        if ctx:
            ctx_json = encoder.mapping({**bound.ctx, **ctx}, "$.ctx")
        else:
            ctx_json = bound.ctx_json
        return encoder.body(
            ts,
            actor_json,
            action,
            resource,
            outcome,
            ctx_json,
            data,
            actor.id if actor else "",
        )

    def system_body(
        self, action: str, data: dict[str, Any], actor_json: str = SYSTEM_ACTOR
    ) -> bytes:
        """Encode a record that the log writes about itself."""
        body, _ = self._encoder.body(
            ts=self._encoder.now(),
            actor_json=actor_json,
            action=action,
            resource=None,
            outcome="success",
            ctx_json="{}",
            data=data,
            subject="",
            system=True,
        )
        return body

    def first_body(self, log_id: str) -> tuple[str, bytes]:
        """Return the time and the body of a log's first record."""
        return self._encoder.now(), self.system_body(
            "audit.created", {"log_id": log_id}
        )
