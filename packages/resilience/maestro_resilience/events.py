"""What policies tell their listeners: frozen values, one class per fact.

A listener is any function of one event. Give it to one policy with
`listeners=[...]` or hear every policy of the process with `subscribe`.
Listeners run in the thread or task where the event happened, one after another,
and must not block. What they raise is logged and goes no further.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from maestro_resilience._runtime import SWITCH

__all__ = [
    "AbandonedWorkEnded",
    "AttemptFinished",
    "CallFinished",
    "CallRejected",
    "Event",
    "FallbackUsed",
    "HedgeStarted",
    "LimitChanged",
    "Listener",
    "RetriesExhausted",
    "RetryScheduled",
    "StateChanged",
    "StoreFailed",
    "StoreRecovered",
    "Subscription",
    "TimedOut",
    "WorkAbandoned",
    "subscribe",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Name the policy that speaks: its name and its kind."""

    policy: str
    policy_type: str


Listener = Callable[[Event], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateChanged(Event):
    """A circuit breaker went from one state to another."""

    old: str
    new: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRejected(Event):
    """A call was refused before it started; `error` is what the caller gets."""

    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled(Event):
    """Attempt number `attempt` failed; the next follows in `wait` seconds.

    `error` is None when the result, not an exception, asked for another try.
    """

    attempt: int
    wait: float
    error: Exception | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetriesExhausted(Event):
    """A Retry gave up.

    `reason` is one of "attempts", "stop", "budget", "deadline", "retry_after",
    "abandoned" and "nested".
    """

    attempts: int
    waited: float
    reason: str
    error: Exception | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptFinished(Event):
    """One attempt of a Retry ended; `outcome` is "ok" or "error"."""

    attempt: int
    seconds: float
    outcome: str
    error_type: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedOut(Event):
    """A call took longer than allowed."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkAbandoned(Event):
    """A timed-out call goes on running on its worker; `running` such calls do."""

    running: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AbandonedWorkEnded(Event):
    """An abandoned call ended at last; `error` is what it raised, if it did."""

    seconds: float
    error: BaseException | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FallbackUsed(Event):
    """A fallback stood in for a call that raised `error`."""

    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeStarted(Event):
    """No answer so far, so attempt number `attempt` was started beside the others."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitChanged(Event):
    """An adaptive limit moved."""

    old: int
    new: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CallFinished(Event):
    """A whole pipeline call ended; `outcome` is "ok", "error" or "rejected"."""

    seconds: float
    outcome: str
    error_type: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFailed(Event):
    """The shared store did not answer; the breaker goes on by itself."""

    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreRecovered(Event):
    """The shared store answers again."""


_lock = threading.Lock()


class Subscription:
    """Stop listening with `close()` or at the end of a `with` block."""

    __slots__ = ("_listener",)

    def __init__(self, listener: Listener) -> None:
        self._listener: Listener | None = listener

    @property
    def active(self) -> bool:
        """Whether it still listens."""
        return self._listener is not None

    def close(self) -> None:
        """Stop listening; a second call does nothing."""
        with _lock:  # guards SWITCH.listeners, which readers take as a whole tuple
            listener, self._listener = self._listener, None
            if listener is not None:
                rest = list(SWITCH.listeners)
                rest.remove(listener)
                SWITCH.listeners = tuple(rest)
                SWITCH.update()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def subscribe(listener: Listener) -> Subscription:
    """Hear the events of every policy in this process until the result is closed."""
    with _lock:
        SWITCH.listeners = (*SWITCH.listeners, listener)
        SWITCH.update()
    return Subscription(listener)
