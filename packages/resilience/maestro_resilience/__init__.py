"""Guard sync and async calls: circuit breaker, retry and their companions.

>>> from maestro_resilience import CircuitBreaker
>>> billing = CircuitBreaker("billing", failure_rate=0.5, minimum_calls=20)
>>> @billing
... def invoices(user: str) -> list[str]:
...     return ["i-1"]
>>> invoices("ada"), billing.state.value
(['i-1'], 'closed')

Names load when they are first used, so importing this package costs little.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from maestro_resilience._adaptive import AdaptiveLimit
    from maestro_resilience._breaker import CircuitBreaker
    from maestro_resilience._budget import RetryBudget
    from maestro_resilience._bulkhead import Bulkhead
    from maestro_resilience._deadline import deadline, time_remaining
    from maestro_resilience._fallback import Fallback
    from maestro_resilience._hedge import Hedge
    from maestro_resilience._keyed import Keyed, keyed
    from maestro_resilience._metrics import BreakerMetrics
    from maestro_resilience._pipeline import Pipeline, ResilienceOrderWarning
    from maestro_resilience._policy import Policy
    from maestro_resilience._ratelimit import RateLimiter
    from maestro_resilience._retry import Retry
    from maestro_resilience._state import State
    from maestro_resilience._timeout import Timeout
    from maestro_resilience._waits import decorrelated_jitter, equal_jitter, full_jitter
    from maestro_resilience.errors import (
        BulkheadFull,
        CircuitOpen,
        ConfigurationError,
        DeadlineExceeded,
        RateLimited,
        Rejected,
        ResilienceError,
        TimeoutExceeded,
        UnknownSetting,
        WorkersExhausted,
    )

_HOMES = {
    "AdaptiveLimit": "_adaptive",
    "BreakerMetrics": "_metrics",
    "Bulkhead": "_bulkhead",
    "BulkheadFull": "errors",
    "CircuitBreaker": "_breaker",
    "CircuitOpen": "errors",
    "ConfigurationError": "errors",
    "DeadlineExceeded": "errors",
    "Fallback": "_fallback",
    "Hedge": "_hedge",
    "Keyed": "_keyed",
    "Pipeline": "_pipeline",
    "Policy": "_policy",
    "RateLimited": "errors",
    "RateLimiter": "_ratelimit",
    "Rejected": "errors",
    "ResilienceError": "errors",
    "ResilienceOrderWarning": "_pipeline",
    "Retry": "_retry",
    "RetryBudget": "_budget",
    "State": "_state",
    "Timeout": "_timeout",
    "TimeoutExceeded": "errors",
    "UnknownSetting": "errors",
    "WorkersExhausted": "errors",
    "deadline": "_deadline",
    "decorrelated_jitter": "_waits",
    "equal_jitter": "_waits",
    "full_jitter": "_waits",
    "keyed": "_keyed",
    "time_remaining": "_deadline",
}

__all__ = [
    "AdaptiveLimit",
    "BreakerMetrics",
    "Bulkhead",
    "BulkheadFull",
    "CircuitBreaker",
    "CircuitOpen",
    "ConfigurationError",
    "DeadlineExceeded",
    "Fallback",
    "Hedge",
    "Keyed",
    "Pipeline",
    "Policy",
    "RateLimited",
    "RateLimiter",
    "Rejected",
    "ResilienceError",
    "ResilienceOrderWarning",
    "Retry",
    "RetryBudget",
    "State",
    "Timeout",
    "TimeoutExceeded",
    "UnknownSetting",
    "WorkersExhausted",
    "deadline",
    "decorrelated_jitter",
    "equal_jitter",
    "full_jitter",
    "keyed",
    "time_remaining",
]


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        hint = ""
        if name[:1].isupper():  # not for submodules, which are looked up here first
            import difflib

            near = difflib.get_close_matches(name, __all__, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{hint}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
