"""One policy per key: a breaker per host, a limiter per customer; bounded in number."""

from __future__ import annotations

import threading
from collections import OrderedDict
from functools import update_wrapper

from maestro_resilience import _checks
from maestro_resilience._policy import ASYNC, SYNC, function_kind
from maestro_resilience._runtime import renew_after_fork
from maestro_resilience.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from typing import Any, TypeVar

    from maestro_resilience._policy import Policy

    F = TypeVar("F", bound=Callable[..., Any])

_BUSY_LOOKS = 16


class Keyed:
    """Policies made on demand, one per key; see `keyed()`."""

    def __init__(
        self,
        factory: Callable[[Any], Policy],
        *,
        limit: int = 1024,
        key: Callable[..., Hashable] | None = None,
    ) -> None:
        if not callable(factory):
            raise ConfigurationError(
                "keyed", "factory", factory, "a function of the key"
            )
        self._factory = factory
        self._limit = _checks.whole("keyed", "limit", limit)
        self._key = (
            None
            if key is None
            else _checks.predicate("keyed", "key", key, "it gets the call's arguments")
        )
        self._policies: OrderedDict[Hashable, Any] = OrderedDict()
        self._lock = threading.Lock()
        renew_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def __getitem__(self, key: Hashable) -> Any:
        """Return the policy of this key, made now if need be."""
        with self._lock:  # guards the order and the number
            policy = self._policies.get(key)
            if policy is None:
                policy = self._policies[key] = self._factory(key)
                if len(self._policies) > self._limit:
                    self._evict(key)
            self._policies.move_to_end(key)
            return policy

    def _evict(self, newest: Hashable) -> None:
        """Drop the longest unused policy; spare those that are at work now."""
        oldest = [k for k, _ in zip(self._policies, range(_BUSY_LOOKS), strict=False)]
        idle = [k for k in oldest if k != newest and not _busy(self._policies[k])]
        del self._policies[idle[0] if idle else oldest[0]]

    def __len__(self) -> int:
        return len(self._policies)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._policies

    def __call__(self, fn: F, /) -> F:
        """Return `fn` guarded by the policy that `key(*args, **kwargs)` names."""
        if self._key is None:
            raise ConfigurationError(
                "keyed", "key", None, "a function of the arguments, to decorate with"
            )
        key = self._key
        kind = function_kind(fn)

        def guarded(*args: Any, **kwargs: Any) -> Any:
            return self[key(*args, **kwargs)].call(fn, *args, **kwargs)

        async def guarded_async(*args: Any, **kwargs: Any) -> Any:
            return await self[key(*args, **kwargs)].call(fn, *args, **kwargs)

        if kind not in (SYNC, ASYNC):
            raise TypeError("keyed policies guard functions and coroutine functions")
        wrapper = guarded if kind == SYNC else guarded_async
        return update_wrapper(wrapper, fn)  # type: ignore[return-value]  # same signature


def _busy(policy: Any) -> bool:
    return getattr(policy, "state", "closed") != "closed" or bool(
        getattr(policy, "in_flight", 0)
    )


def keyed(
    factory: Callable[[Any], Policy],
    *,
    limit: int = 1024,
    key: Callable[..., Hashable] | None = None,
) -> Keyed:
    """Keep one policy per key, at most `limit`, dropping the longest unused.

    Open breakers and bulkheads with calls inside are kept while others can go.

    Args:
        factory: makes the policy for a key.
        limit: how many are kept.
        key: finds the key in a call's arguments, for use as a decorator.

    >>> from maestro_resilience import CircuitBreaker, keyed
    >>> hosts = keyed(CircuitBreaker, limit=100, key=lambda host: host)
    """
    return Keyed(factory, limit=limit, key=key)
