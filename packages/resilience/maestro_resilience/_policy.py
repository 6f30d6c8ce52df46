"""What every policy offers: decorator, `call` and `guard`, for four kinds of function.

A policy builds one closure per decorated function: sync, async, generator or
async generator. Gates (policies that only let in and look at the outcome) share
the closures below; loops (Retry, Fallback, Hedge, Timeout) bring their own.
"""

from __future__ import annotations

from functools import partial, update_wrapper

from maestro_resilience import _checks
from maestro_resilience._runtime import SWITCH, SYSTEM
from maestro_resilience._streams import Delegation
from maestro_resilience.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import (
        AsyncGenerator,
        Callable,
        Generator,
        Iterable,
    )
    from types import TracebackType
    from typing import Any, ParamSpec, Self, TypeVar

    from maestro_resilience._runtime import Clock
    from maestro_resilience.events import Listener

    F = TypeVar("F", bound=Callable[..., Any])
    P = ParamSpec("P")
    R = TypeVar("R")

SYNC, ASYNC, GENERATOR, ASYNC_GENERATOR = "sync", "async", "generator", "async gen"
_GENERATOR_FLAG, _COROUTINE_FLAG, _ASYNC_GENERATOR_FLAG = 0x20, 0x80, 0x200


def function_kind(fn: Callable[..., Any]) -> str:
    """Return which of the four kinds of function `fn` is.

    Reads the code flags as `inspect` does, without importing it.
    """
    while isinstance(fn, partial):
        fn = fn.func
    fn = getattr(fn, "__func__", fn)
    if hasattr(fn, "_is_coroutine_mark") or hasattr(fn, "_is_coroutine"):
        return ASYNC
    code = getattr(fn, "__code__", None)
    if code is None and not isinstance(fn, type):
        method = getattr(type(fn), "__call__", None)  # noqa: B004 - its code is needed
        code = getattr(method, "__code__", None)
    flags = code.co_flags if code is not None else 0
    if flags & _COROUTINE_FLAG:
        return ASYNC
    if flags & _ASYNC_GENERATOR_FLAG:
        return ASYNC_GENERATOR
    return GENERATOR if flags & _GENERATOR_FLAG else SYNC


class Policy(_checks.Checked):
    """One kind of protection; see the subclasses.

    A policy object is shared: decorate many functions with it and they share its
    state (one breaker, one bulkhead). It may be used from any thread and any
    event loop.
    """

    __slots__ = ("__weakref__", "_clock", "_config", "_listeners", "name")

    kind = "policy"

    def __init__(
        self,
        name: str | None,
        *,
        clock: Clock | None,
        listeners: Iterable[Listener],
        config: dict[str, Any],
    ) -> None:
        # The fallback name is the kind: low cardinality, and honest in messages.
        label = type(self).__name__
        self.name = self.kind if name is None else _checks.name(label, name)
        self._clock: Clock = SYSTEM if clock is None else clock
        if clock is not None:
            _checks.offers(label, "clock", clock, "a Clock", "monotonic", "sleep")
        if not hasattr(listeners, "__iter__"):
            raise ConfigurationError(
                label, "listeners", listeners, "a list of functions of one event"
            )
        self._listeners = tuple(listeners)
        for listener in self._listeners:
            if not callable(listener):
                raise ConfigurationError(
                    label, "listeners", listener, "functions of one event"
                )
        self._config = config

    def __call__(self, fn: F, /) -> F:
        """Return `fn` guarded by this policy: same signature, same kind."""
        if isinstance(fn, (staticmethod, classmethod)):
            return type(fn)(self(fn.__func__))
        if not callable(fn):
            raise TypeError(f"{self!r} decorates functions, got {fn!r}")
        return update_wrapper(self._build(fn), fn)  # type: ignore[return-value]  # the same signature, as promised

    def call(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `fn` once under this policy; a coroutine function must be awaited."""
        guarded: Callable[P, R] = self._build(fn)
        return guarded(*args, **kwargs)

    def guard(self) -> Guard:
        """Return a context manager that guards one block, for `with` or `async with`.

        Each guard is used once. A policy that would have to run the block again or
        elsewhere has none and raises TypeError.
        """
        raise TypeError(f"{type(self).__name__} cannot guard a block; {self._instead}")

    _instead = "decorate a function instead"

    def describe(self) -> dict[str, Any]:
        """Return the kind, the name and the settings that were given."""
        given = {k: v for k, v in self._config.items() if k not in _UNTOLD}
        return {"type": self.kind, "name": self.name, **given}

    def __repr__(self) -> str:
        given = ", ".join(
            f"{key}={value!r}"
            for key, value in self._config.items()
            if key not in _UNTOLD and key != "name"
        )
        return f"{type(self).__name__}({self.name!r}{', ' if given else ''}{given})"

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy has the settings, and a state of its own: locks, queues and counts
        # of one process mean nothing in another.
        return (_rebuild, (type(self), self._config))

    # --- what subclasses fill in -------------------------------------------------

    def _build(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        kind = function_kind(fn)
        if kind == SYNC:
            return self._sync(fn)
        if kind == ASYNC:
            return self._async(fn)
        if kind == GENERATOR:
            return self._generator(fn)
        return self._async_generator(fn)

    def _sync(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        raise NotImplementedError

    def _async(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        raise NotImplementedError

    def _generator(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        raise self._refusal(fn, "generator functions")

    def _async_generator(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        raise self._refusal(fn, "async generator functions")

    def _refusal(self, fn: Callable[..., Any], what: str) -> TypeError:
        label = getattr(fn, "__qualname__", repr(fn))
        return TypeError(
            f"{type(self).__name__} {self.name!r} cannot guard {what} such as {label}; "
            "guard the code that consumes it"
        )


_UNTOLD = frozenset({"clock", "listeners", "store", "random"})


def _rebuild(cls: type[Policy], config: dict[str, Any]) -> Policy:
    return cls(**config)


def settings(local: dict[str, Any], init: Any) -> dict[str, Any]:
    """Return the arguments of an `__init__` that differ from their defaults."""
    code = init.__code__
    positional = code.co_varnames[: code.co_argcount]
    defaults = init.__defaults__ or ()
    known = dict(zip(reversed(positional), reversed(defaults), strict=False))
    known.update(init.__kwdefaults__ or {})
    return {
        key: value
        for key, value in local.items()
        if key not in {"self", "__class__"}
        and not (key in known and known[key] is value)
    }


class FreeToken:
    """The token of a gate that watches nothing."""

    __slots__ = ()

    def succeeded(self, started: float) -> None:
        """Count nothing."""

    def failed(self, error: BaseException, started: float) -> None:
        """Count nothing."""


OPEN_GATE = FreeToken()


class Gate(Policy):
    """A policy that lets a call in and looks at how it ended, no more.

    `_enter` returns a token or raises; after that the token's `succeeded` or its
    `failed` is called, once.
    """

    __slots__ = ()

    def _enter(self) -> Any:
        raise NotImplementedError

    async def _enter_async(self) -> Any:
        return self._enter()

    def _started(self) -> float:
        """Return the clock where the outcome depends on the duration, else 0.0."""
        return 0.0

    def _settle(self, token: Any, started: float, result: Any) -> None:
        token.succeeded(started)

    def guard(self) -> Guard:
        """Return a context manager that guards one block, for `with` or `async with`."""
        return GateGuard(self)

    def _sync(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        def gated(*args: Any, **kwargs: Any) -> Any:
            if not SWITCH.enabled:
                return fn(*args, **kwargs)
            token = self._enter()
            started = 0.0
            try:
                started = self._started()
                result = fn(*args, **kwargs)
            except BaseException as error:
                token.failed(error, started)
                raise
            self._settle(token, started, result)
            return result

        return gated

    def _async(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        async def gated(*args: Any, **kwargs: Any) -> Any:
            if not SWITCH.enabled:
                return await fn(*args, **kwargs)
            token = await self._enter_async()
            started = 0.0
            try:
                started = self._started()
                result = await fn(*args, **kwargs)
            except BaseException as error:
                token.failed(error, started)
                raise
            self._settle(token, started, result)
            return result

        return gated

    def _generator(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        def gated(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            if not SWITCH.enabled:
                return (yield from fn(*args, **kwargs))
            token = self._enter()
            started = 0.0
            try:
                started = self._started()
                result = yield from fn(*args, **kwargs)
            except BaseException as error:
                token.failed(error, started)
                raise
            token.succeeded(started)
            return result

        return gated

    def _async_generator(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        async def gated(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            stream = fn(*args, **kwargs)
            token = await self._enter_async() if SWITCH.enabled else OPEN_GATE
            started = 0.0
            try:
                started = self._started()
                # A plain loop would drop what the consumer sends and throws.
                walk = Delegation(stream)
                item = await walk.start()
                while walk.running:
                    try:
                        sent = yield item
                    except GeneratorExit:
                        await stream.aclose()
                        raise
                    except BaseException as thrown:
                        item = await walk.throw(thrown)
                    else:
                        item = await walk.send(sent)
            except BaseException as error:
                token.failed(error, started)
                raise
            token.succeeded(started)

        return gated


class Guard:
    """A block under a policy: `with policy.guard():` or `async with`."""

    __slots__ = ()

    def __enter__(self) -> Any:
        raise NotImplementedError

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        raise NotImplementedError

    async def __aenter__(self) -> Any:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return self.__exit__(kind, error, trace)


class GateGuard(Guard):
    """One passage through a gate; the token is its own, so guards never mix."""

    __slots__ = ("_gate", "_started", "_token")

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._token: Any = None
        self._started = 0.0

    def __enter__(self) -> Self:
        if SWITCH.enabled:
            self._token = self._gate._enter()
            self._begin()
        return self

    async def __aenter__(self) -> Self:
        if SWITCH.enabled:
            self._token = await self._gate._enter_async()
            self._begin()
        return self

    def _begin(self) -> None:
        try:
            self._started = self._gate._started()
        except BaseException as error:  # a ^C: there will be no __exit__
            self.__exit__(type(error), error, None)
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        token, self._token = self._token, None
        if token is None:
            return
        if error is None:
            token.succeeded(self._started)
        else:
            token.failed(error, self._started)
