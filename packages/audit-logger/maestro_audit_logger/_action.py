"""Intent before, outcome after: `action()` and `@audited`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import wraps
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast, final

from maestro_audit_logger._event import Actor, Receipt
from maestro_audit_logger.errors import InvalidSetting

if TYPE_CHECKING:
    from maestro_audit_logger._encode import ResourceLike
    from maestro_audit_logger._logger import AuditLogger

F = TypeVar("F", bound=Callable[..., Any])


@final
class Action:
    """One action under way, for `with` and `async with`.

    The intent is stored before the block runs; if it cannot be stored, the
    block does not run. Leaving the block stores the outcome, which points at
    the intent by `ctx.intent`. A task that is cancelled while its intent is being
    stored waits until it is, stores the failure, and then raises CancelledError.

    Attributes:
        data: what to record with the outcome.
        outcome: set it to say more than success; an exception makes it
            `failure`, a PermissionError `denied`.
        intent: the receipt of the first record.
    """

    def __init__(
        self,
        audit: AuditLogger,
        name: str,
        *,
        actor: Actor | None,
        resource: ResourceLike,
        data: Mapping[str, Any] | None,
    ) -> None:
        self._audit = audit
        self._fixed: dict[str, Any] = {"actor": actor, "resource": resource}
        self._name = name
        self._intent_data = data
        self.data: dict[str, Any] = {}
        self.outcome = ""
        self.intent: Receipt | None = None

    def __enter__(self) -> Action:
        self.intent = self._audit.record(self._name, **self._opening())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._audit.record(self._name, **self._closing(error))

    async def __aenter__(self) -> Action:
        import asyncio

        opening = self._audit.arecord(self._name, **self._opening())
        storing = asyncio.ensure_future(opening)
        try:
            self.intent = await asyncio.shield(storing)
        except asyncio.CancelledError as error:
            # It is stored all the same, and the block that would end it never runs.
            while not storing.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([storing])
            if storing.cancelled():  # the loop ends: stored or not, nobody knows
                self._audit.record(self._name, **self._closing(error))
            elif storing.exception() is None:
                self.intent = storing.result()
                self._audit.record(self._name, **self._closing(error))
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None or isinstance(error, Exception):
            await self._audit.arecord(self._name, **self._closing(error))
        else:
            # A cancelled task may be cancelled again at its next await.
            self._audit.record(self._name, **self._closing(error))

    def _opening(self) -> dict[str, Any]:
        return self._fixed | {
            "outcome": "unknown",
            "ctx": {"phase": "intent"},
            "data": self._intent_data,
        }

    def _closing(self, error: BaseException | None) -> dict[str, Any]:
        data = dict(self.data)
        outcome = self.outcome or "success"
        if error is not None:
            denied = isinstance(error, PermissionError)
            outcome = self.outcome or ("denied" if denied else "failure")
            # Only the type: messages of exceptions quote passwords and values.
            kind = type(error)
            data["error"] = f"{kind.__module__}.{kind.__qualname__}".removeprefix(
                "builtins."
            )
        ctx: dict[str, Any] = {"phase": "outcome"}
        if self.intent is not None:
            ctx["intent"] = self.intent.seq
        return self._fixed | {"outcome": outcome, "ctx": ctx, "data": data}


def audited(
    audit: AuditLogger,
    action: str,
    *,
    resource: ResourceLike | Callable[..., ResourceLike],
    capture: Iterable[str],
    actor: Actor | None,
) -> Callable[[F], F]:
    """Wrap a function or coroutine function in `action()`."""
    if isinstance(capture, str):
        raise InvalidSetting("capture", f"a list, such as [{capture!r}]", capture)
    wanted = tuple(capture)

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        unknown = [name for name in wanted if name not in signature.parameters]
        if unknown:
            near = get_close_matches(unknown[0], signature.parameters, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TypeError(
                f"capture: {function.__qualname__} has no parameter {unknown[0]!r}{hint}"
            )

        def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Action:
            found = resource(*args, **kwargs) if callable(resource) else resource
            data = {}
            if wanted:
                bound = signature.bind(*args, **kwargs)
                bound.apply_defaults()
                data = {name: bound.arguments[name] for name in wanted}
            return Action(audit, action, actor=actor, resource=found, data=data)

        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def run_async(*args: Any, **kwargs: Any) -> Any:
                async with begin(args, kwargs):
                    return await function(*args, **kwargs)

            return cast("F", run_async)

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with begin(args, kwargs):
                return function(*args, **kwargs)

        return cast("F", run)

    return decorate
