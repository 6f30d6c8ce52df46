"""Fallback: answer with something else when a call fails."""

from __future__ import annotations

from maestro_resilience import _checks
from maestro_resilience._policy import Guard, Policy, function_kind, settings
from maestro_resilience._runtime import SWITCH
from maestro_resilience._signals import tell
from maestro_resilience.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, Self

    from maestro_resilience._checks import ExceptionTest
    from maestro_resilience._runtime import Clock
    from maestro_resilience.events import Listener

_NOTHING: Any = ...


class Fallback(Policy):
    """Return a stand-in when a call raises.

    Args:
        handler: a function of the exception whose result is returned; it may be
            async for async functions. What it raises is chained to the first error.
        value: a plain value to return instead of a handler's.
        on: which exceptions it stands in for.
        name: appears in events.
        clock: unused here; every policy takes one.
        listeners: functions that get this policy's events.
    """

    __slots__ = ("_handler", "_on", "_value")

    kind = "fallback"

    def __init__(
        self,
        handler: Callable[[Exception], Any] | None = None,
        *,
        value: Any = _NOTHING,
        on: ExceptionTest = Exception,
        name: str | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        config = settings(locals(), type(self).__init__)
        super().__init__(name, clock=clock, listeners=listeners, config=config)
        me = f"Fallback {self.name!r}"
        if (handler is None) == (value is _NOTHING):
            raise ConfigurationError(
                me, "handler", handler, "given, or value= in its place, but not both"
            )
        self._handler = (
            None
            if handler is None
            else _checks.predicate(
                me, "handler", handler, "it gets the exception (value= for a value)"
            )
        )
        self._value = value
        self._on = _checks.ExceptionFilter(me, "on", on)

    def _stand_in(self, error: Exception) -> Any:
        tell(self, "FallbackUsed", error=error)
        return self._value if self._handler is None else self._handler(error)

    def _sync(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        if self._handler is not None and function_kind(self._handler) != "sync":
            raise TypeError(f"{self!r} has an async handler and guards sync code")

        def fallback(*args: Any, **kwargs: Any) -> Any:
            try:
                return fn(*args, **kwargs)
            except Exception as error:
                if not SWITCH.enabled or not self._on(error):
                    raise
                return self._stand_in(error)

        return fallback

    def _async(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        async def fallback(*args: Any, **kwargs: Any) -> Any:
            try:
                return await fn(*args, **kwargs)
            except Exception as error:
                if not SWITCH.enabled or not self._on(error):
                    raise
                stand_in = self._stand_in(error)
                if self._handler is not None and hasattr(stand_in, "__await__"):
                    return await stand_in
                return stand_in

        return fallback

    def guard(self) -> FallbackGuard:
        """Return a context manager: the error is swallowed, `result` is the stand-in."""
        return FallbackGuard(self)


class FallbackGuard(Guard):
    """One block under a Fallback; `used` tells whether it stood in."""

    __slots__ = ("_fallback", "result", "used")

    def __init__(self, fallback: Fallback) -> None:
        self._fallback = fallback
        self.result: Any = None
        self.used = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        wanted = isinstance(error, Exception) and self._fallback._on(error)
        if not wanted or not SWITCH.enabled:
            return False
        self.used = True
        self.result = self._fallback._stand_in(error)  # type: ignore[arg-type]  # as tested
        return True

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        swallowed = self.__exit__(kind, error, trace)
        if hasattr(self.result, "__await__"):
            self.result = await self.result
        return swallowed
