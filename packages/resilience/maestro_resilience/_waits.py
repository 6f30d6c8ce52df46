"""How long to wait before the next attempt.

A wait strategy is any function from the attempt's state to seconds: tenacity's
wait objects, the three jitters here, or your own.

Source of the jitters: M. Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog, 2015.
"""

from __future__ import annotations

from maestro_resilience import _checks, _runtime
from maestro_resilience.errors import ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from maestro_resilience._attempt import AttemptState

    Wait = Callable[[Any], float]

_MOST_DOUBLINGS = 62  # beyond it the cap has long been reached, and 2.0**n overflows


def _ceiling(attempt: int, base: float, cap: float) -> float:
    return min(cap, base * 2.0 ** min(attempt - 1, _MOST_DOUBLINGS))


class _Jitter:
    """Settings that the three jitters share."""

    __slots__ = ("base", "cap", "random")

    def __init__(
        self,
        base: float = 0.1,
        cap: float = 5.0,
        *,
        random: Callable[[], float] = _runtime.uniform,
    ) -> None:
        label = type(self).__name__
        self.base = _checks.number(label, "base", base, above=0)
        self.cap = _checks.number(label, "cap", cap, above=0)
        self.random = random

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base:g}, {self.cap:g})"


class full_jitter(_Jitter):  # noqa: N801 - reads as a setting: wait=full_jitter(0.2)
    """Wait a random time between 0 and `base * 2**(attempt - 1)`, at most `cap`.

    Args:
        base: seconds before the first retry, at most.
        cap: seconds that no wait exceeds.
        random: returns a float in [0, 1).
    """

    __slots__ = ()

    def __call__(self, state: AttemptState) -> float:
        return self.random() * _ceiling(state.attempt_number, self.base, self.cap)


class equal_jitter(_Jitter):  # noqa: N801 - see full_jitter
    """Wait half of the exponential time, and a random part of the other half."""

    __slots__ = ()

    def __call__(self, state: AttemptState) -> float:
        half = _ceiling(state.attempt_number, self.base, self.cap) / 2
        return half + self.random() * half


class decorrelated_jitter(_Jitter):  # noqa: N801 - see full_jitter
    """Wait a random time between `base` and three times the wait before, at most `cap`."""

    __slots__ = ()

    def __call__(self, state: AttemptState) -> float:
        last = max(self.base, state.last_wait)
        return min(self.cap, self.base + self.random() * (last * 3 - self.base))


class _Fixed:
    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self, state: AttemptState) -> float:
        return self.seconds


class _Listed:
    __slots__ = ("seconds",)

    def __init__(self, seconds: list[float]) -> None:
        self.seconds = seconds

    def __call__(self, state: AttemptState) -> float:
        return self.seconds[min(state.attempt_number, len(self.seconds)) - 1]


def as_wait(policy: str, value: Any) -> Wait:
    """Turn a `wait=` setting into a strategy."""
    if value is None:
        return full_jitter()
    if isinstance(value, (int, float)):
        return _Fixed(_checks.number(policy, "wait", value, least=0))
    if isinstance(value, (list, tuple)):
        if not value:
            raise ConfigurationError(policy, "wait", value, "at least one number")
        return _Listed([_checks.number(policy, "wait", v, least=0) for v in value])
    if isinstance(value, type) or not callable(value):
        raise ConfigurationError(
            policy,
            "wait",
            value,
            "seconds, a list of seconds, or a strategy such as full_jitter(0.1) "
            "or tenacity.wait_fixed(1)",
        )
    strategy: Wait = value
    return strategy
