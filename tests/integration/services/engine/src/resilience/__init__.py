"""Keep calling when others fail."""

from .circuit_breaker import CircuitBreaker, CircuitOpen
from .retry import Retry

__all__ = ["CircuitBreaker", "CircuitOpen", "Retry"]
