"""Policies of maestro-resilience around model calls: extra `resilience`."""

from collections.abc import Awaitable, Callable
from typing import TypeVar, cast, final

from maestro_orchestration_core.errors import ModelError

try:
    from maestro_resilience import Pipeline, Policy, ResilienceError
except ImportError as error:
    raise ImportError(
        'policies need pip install "maestro-orchestration-core[resilience]"'
    ) from error

T = TypeVar("T")


def worth_a_retry(error: BaseException) -> bool:
    """Tell whether a model call may succeed later: for `Retry(on=worth_a_retry)`."""
    return isinstance(error, ModelError) and error.retry


@final
class Policies:
    """An agent's `retry` made of policies, the outermost first.

    A breaker or a bulkhead that is shared by agents guards them all. What a policy
    itself raises (an open circuit, a full bulkhead, a timeout) becomes a ModelError
    with the cause; its attempt fails with reason `error` and may be tried again.
    """

    def __init__(self, *policies: Policy) -> None:
        self._policy = policies[0] if len(policies) == 1 else Pipeline(*policies)

    def __repr__(self) -> str:
        return f"Policies({self._policy!r})"

    async def call(self, fn: Callable[[], Awaitable[T]]) -> T:
        """Return what `fn` returns under the policies."""

        async def once() -> T:  # policies look for a coroutine function
            return await fn()

        try:
            # A policy returns what the function returns: here a coroutine.
            return cast("T", await self._policy.call(once))
        except ResilienceError as error:
            raise ModelError(f"{type(error).__name__}: {error}", retry=True) from error
