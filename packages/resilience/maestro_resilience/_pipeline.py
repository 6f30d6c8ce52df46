"""Pipeline: several policies around one call, the first listed outermost."""

from __future__ import annotations

import warnings
from contextlib import AsyncExitStack, ExitStack

from maestro_resilience import _checks, _runtime
from maestro_resilience._breaker import CircuitBreaker
from maestro_resilience._fallback import Fallback
from maestro_resilience._policy import ASYNC, SYNC, Guard, Policy, function_kind
from maestro_resilience._retry import Retry
from maestro_resilience._runtime import SWITCH
from maestro_resilience._signals import heard, tell
from maestro_resilience.errors import ConfigurationError, Rejected

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Any, Self

    from maestro_resilience._runtime import Clock
    from maestro_resilience.events import Listener


class ResilienceOrderWarning(UserWarning):
    """Tell that the order of a pipeline is probably not what was meant."""


def order_mistakes(policies: tuple[Policy, ...]) -> list[str]:
    """Return what looks wrong in an order, one sentence each."""
    found = []
    for i, outer in enumerate(policies):
        for inner in policies[i + 1 :]:
            if isinstance(outer, CircuitBreaker) and isinstance(inner, Retry):
                found.append(
                    f"CircuitBreaker {outer.name!r} is outside Retry {inner.name!r}: "
                    "it sees one outcome per call, not per attempt"
                )
            if isinstance(outer, (Retry, CircuitBreaker)) and isinstance(
                inner, Fallback
            ):
                found.append(
                    f"Fallback {inner.name!r} is inside {type(outer).__name__} "
                    f"{outer.name!r}, which then never sees a failure"
                )
            if isinstance(outer, Retry) and isinstance(inner, Retry):
                found.append(
                    f"Retry {inner.name!r} is inside Retry {outer.name!r}: attempts "
                    "multiply (see multiply=False)"
                )
    return found


class Pipeline(Policy):
    """Guard calls by several policies; the first listed is the outermost.

    A good order: Fallback, Retry, CircuitBreaker, Bulkhead, Timeout. A Timeout
    before the Retry limits all attempts together, after it each of them. An order
    that looks like a mistake warns with ResilienceOrderWarning.

    That usual order (any of the five, RateLimiter elsewhere) runs as one fused
    function while nobody listens to the whole process; everything else runs as
    nested layers, with the same outcome and the same events.

    Args:
        policies: at least one; a Pipeline may be one of them.
        name: appears in events.
        fuse: False keeps the nested layers.
        clock: time source for the duration of calls.
        listeners: functions that get `CallFinished` for each call.
    """

    __slots__ = ("_fuse", "policies")

    kind = "pipeline"

    def __init__(
        self,
        *policies: Policy,
        name: str | None = None,
        fuse: bool = True,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        super().__init__(
            name,
            clock=clock,
            listeners=listeners,
            config={"name": name, "fuse": fuse, "clock": clock, "listeners": listeners},
        )
        me = f"Pipeline {self.name!r}"
        if not policies:
            raise ConfigurationError(me, "policies", policies, "at least one policy")
        for policy in policies:
            given: object = policy  # a caller without a type checker may pass anything
            if not isinstance(given, Policy):
                hint = "policy objects such as Retry(attempts=3)"
                if isinstance(given, type):
                    hint += ", not classes"
                raise ConfigurationError(me, "policies", given, hint)
        self.policies = policies
        self._fuse = _checks.flag(me, "fuse", fuse)
        mistakes = order_mistakes(policies)
        if mistakes:
            text = "\n  ".join(mistakes)
            warnings.warn(
                f"{me} has a doubtful order:\n  {text}\n{self}",
                ResilienceOrderWarning,
                stacklevel=2,
            )

    def __reduce__(self) -> tuple[Any, ...]:
        config = {k: v for k, v in self._config.items() if v not in (None, ())}
        return (_rebuild_pipeline, (self.policies, config))

    def describe(self) -> dict[str, Any]:
        """Return the name and the descriptions of the policies, outermost first."""
        return {
            "type": self.kind,
            "name": self.name,
            "policies": [policy.describe() for policy in self.policies],
        }

    def __repr__(self) -> str:
        inner = ", ".join(map(repr, self.policies))
        return f"Pipeline({inner}, name={self.name!r})"

    def __str__(self) -> str:
        lines = [f"Pipeline {self.name!r}, outermost first:"]
        for depth, policy in enumerate(self.policies):
            lines.append("  " * (depth + 1) + repr(policy))
        lines.append("  " * (len(self.policies) + 1) + "the function")
        return "\n".join(lines)

    def _build(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        layered = fn
        for policy in reversed(self.policies):
            layered = policy._build(layered)
        kind = function_kind(fn)
        if kind not in (SYNC, ASYNC):
            return layered
        observed = self._observe(layered, kind)
        if not self._fuse or self._listeners or _runtime.FREE_THREADED:
            return observed
        from maestro_resilience._kernel import fuse

        return fuse(fn, kind, self.policies, observed) or observed

    def _observe(self, layered: Callable[..., Any], kind: str) -> Callable[..., Any]:
        """Time calls while somebody listens."""

        def pipeline(*args: Any, **kwargs: Any) -> Any:
            if not heard(self) or not SWITCH.enabled:
                return layered(*args, **kwargs)
            started = self._clock.monotonic()
            try:
                result = layered(*args, **kwargs)
            except BaseException as error:
                self._finished(started, error)
                raise
            self._finished(started, None)
            return result

        async def pipeline_async(*args: Any, **kwargs: Any) -> Any:
            if not heard(self) or not SWITCH.enabled:
                return await layered(*args, **kwargs)
            started = self._clock.monotonic()
            try:
                result = await layered(*args, **kwargs)
            except BaseException as error:
                self._finished(started, error)
                raise
            self._finished(started, None)
            return result

        return pipeline if kind == SYNC else pipeline_async

    def _finished(self, started: float, error: BaseException | None) -> None:
        outcome = "ok" if error is None else "error"
        tell(
            self,
            "CallFinished",
            seconds=self._clock.monotonic() - started,
            outcome="rejected" if isinstance(error, Rejected) else outcome,
            error_type=None if error is None else type(error).__qualname__,
        )

    def guard(self) -> Guard:
        """Return a context manager for one block, if every policy has one."""
        return PipelineGuard([policy.guard() for policy in self.policies])


def _rebuild_pipeline(policies: tuple[Policy, ...], config: dict[str, Any]) -> Pipeline:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResilienceOrderWarning)  # given the first time
        return Pipeline(*policies, **config)


class PipelineGuard(Guard):
    """One block under several guards."""

    __slots__ = ("_guards", "_stack")

    def __init__(self, guards: list[Guard]) -> None:
        self._guards = guards
        self._stack: Any = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for guard in self._guards:
                stack.enter_context(guard)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        swallowed: bool | None = self._stack.__exit__(kind, error, trace)
        return swallowed

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for guard in self._guards:
                await stack.enter_async_context(guard)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        swallowed: bool | None = await self._stack.__aexit__(kind, error, trace)
        return swallowed
