"""Who acts and for which request: carried by context variables."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar, Token
from dataclasses import dataclass
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, final

from maestro_audit_logger._event import Actor

P = ParamSpec("P")
R = TypeVar("R")


@final
@dataclass(frozen=True, slots=True)
class Bound:
    """What is bound, with its encoded forms so that records need not repeat them."""

    actor: Actor | None
    actor_json: str
    ctx: Mapping[str, Any]
    ctx_json: str


UNBOUND = Bound(None, "", {}, "{}")


@final
class Binding:
    """A `with` block in which actor and context are bound; works around awaits."""

    __slots__ = ("_token", "_value", "_variable")

    def __init__(self, variable: ContextVar[Bound], value: Bound) -> None:
        self._variable = variable
        self._value = value
        self._token: Token[Bound] | None = None

    def __enter__(self) -> None:
        self._token = self._variable.set(self._value)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._token is not None:
            self._variable.reset(self._token)
            self._token = None


def carried(variable: ContextVar[Bound], function: Callable[P, R]) -> Callable[P, R]:
    """Wrap a function so that it runs with what is bound now, in any thread."""
    value = variable.get(UNBOUND)

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with Binding(variable, value):
            return function(*args, **kwargs)

    return run
