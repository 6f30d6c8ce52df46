"""Errors of maestro-resilience.

ResilienceError
    ConfigurationError (also ValueError)     a policy was built with bad settings
        UnknownSetting (also TypeError)      it has no setting of that name
    Rejected                                 the call was not started
        CircuitOpen                          a circuit breaker is open or isolated
        BulkheadFull                         all slots of a bulkhead are taken
        RateLimited                          a rate limiter has no permit in time
        WorkersExhausted                     too many timed-out calls still run
    TimeoutExceeded (also TimeoutError)      a call took longer than its Timeout
        DeadlineExceeded                     a `deadline()` around the call ran out

Every error names the policy that raised it and can be pickled. Messages are put
together only when they are read.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class ResilienceError(Exception):
    """Catch everything that this package raises by itself."""

    policy: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.args, self.__dict__))


class ConfigurationError(ResilienceError, ValueError):
    """Say which setting of a policy is wrong, what was given and what is allowed."""

    def __init__(self, policy: str, field: str, value: object, allowed: str) -> None:
        super().__init__(f"{policy}: {field} must be {allowed}, got {value!r}")
        self.policy = policy
        self.field = field
        self.value = repr(value)
        self.allowed = allowed


class UnknownSetting(ConfigurationError, TypeError):
    """Say which name is no setting of a policy, and which one is like it."""

    def __init__(self, policy: str, field: str, known: tuple[str, ...]) -> None:
        import difflib

        near = difflib.get_close_matches(field, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        allowed = ", ".join(known)
        Exception.__init__(self, f"{policy} has no setting {field!r}{hint} ({allowed})")
        self.policy = policy
        self.field = field
        self.value = repr(field)
        self.allowed = allowed


class Rejected(ResilienceError):
    """Tell that a call was refused before it started.

    `retry_after` is the number of seconds after which a new try makes sense, or
    None when nobody knows.
    """

    retry_after: float | None

    def __init__(self, policy: str, retry_after: float | None = None) -> None:
        self.policy = policy
        self.retry_after = retry_after

    def _hint(self) -> str:
        if self.retry_after is None:
            return ""
        return f"; try again in {self.retry_after:.3g} s"


class CircuitOpen(Rejected):
    """Tell that the circuit is open, or isolated by hand.

    `state` is the breaker's state as a string. `reason` says why it left the
    closed state. `retry_after` is None while it is isolated.
    """

    # An open circuit makes many of these: nothing is taken apart until it is read.
    if TYPE_CHECKING:

        def __init__(
            self, policy: str, retry_after: float | None, state: str, reason: str
        ) -> None: ...

    else:
        __init__ = Exception.__init__

        policy = property(lambda self: self.args[0])
        retry_after = property(lambda self: self.args[1])

    @property
    def state(self) -> str:
        """The breaker's state, such as "open"."""
        return str(self.args[2])

    @property
    def reason(self) -> str:
        """Why the circuit is not closed."""
        return str(self.args[3])

    def __str__(self) -> str:
        why = f" ({self.reason})" if self.reason else ""
        return f"circuit {self.policy!r} is {self.state}{why}{self._hint()}"


class BulkheadFull(Rejected):
    """Tell that all slots were taken, and the queue full or the wait over."""

    def __init__(
        self, policy: str, retry_after: float | None = None, limit: int = 0
    ) -> None:
        self.policy = policy
        self.retry_after = retry_after
        self.limit = limit

    def __str__(self) -> str:
        return f"all {self.limit} slots of {self.policy!r} are taken{self._hint()}"


class RateLimited(Rejected):
    """Tell that the rate limiter has no permit within the allowed wait."""

    def __str__(self) -> str:
        return f"rate limit {self.policy!r} is used up{self._hint()}"


class WorkersExhausted(Rejected):
    """Tell that too many timed-out calls are still running on worker threads."""

    def __init__(
        self, policy: str, retry_after: float | None = None, running: int = 0
    ) -> None:
        self.policy = policy
        self.retry_after = retry_after
        self.running = running

    def __str__(self) -> str:
        return (
            f"{self.running} timed-out calls of {self.policy!r} still run; "
            "no further call is started until one of them ends"
        )


class TimeoutExceeded(ResilienceError, TimeoutError):
    """Tell that a call took longer than its Timeout.

    `abandoned` is True when the call still runs on a worker thread.
    """

    def __init__(
        self, policy: str, seconds: float = 0.0, *, abandoned: bool = False
    ) -> None:
        self.policy = policy
        self.seconds = seconds
        self.abandoned = abandoned

    def __str__(self) -> str:
        tail = "; the call still runs on its worker thread" if self.abandoned else ""
        return f"{self.policy!r} exceeded {self.seconds:.6g} s{tail}"


class DeadlineExceeded(TimeoutExceeded):
    """Tell that the deadline around a call ran out."""

    def __str__(self) -> str:
        return f"the deadline around {self.policy!r} ran out"


def _rebuild(
    cls: type[ResilienceError], args: tuple[Any, ...], state: dict[str, Any]
) -> ResilienceError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error
