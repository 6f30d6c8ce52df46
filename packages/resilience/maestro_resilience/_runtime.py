"""What all policies share: the clock, the switch for the fast path, fork safety.

Nothing here is read at import. `SYSTEM` is the clock of every policy that was not
given one; `maestro_resilience.testing` replaces its functions for a while.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import weakref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Protocol, TypeVar

    from maestro_resilience.events import Listener

    T = TypeVar("T")

    class Clock(Protocol):
        """Time as the policies see it; pass your own as `clock=`."""

        @property
        def monotonic(self) -> Callable[[], float]:
            """Return seconds that never go back."""
            ...

        @property
        def sleep(self) -> Callable[[float], object]:
            """Block the thread for so many seconds."""
            ...

        @property
        def async_sleep(self) -> Callable[[float], Awaitable[object]]:
            """Suspend the task for so many seconds."""
            ...

    class Forkable(Protocol):
        """Something that must be put right in a forked child."""

        def _after_fork(self) -> None: ...


def gil_disabled() -> bool:
    """Tell whether threads run Python code at the same moment."""
    probe = getattr(sys, "_is_gil_enabled", None)
    return probe is not None and not probe()


# Under the GIL `slot.n += 1` without a call between load and store loses nothing,
# so success is counted without a lock. Without the GIL every count takes the lock.
FREE_THREADED = gil_disabled()


async def _async_sleep(seconds: float) -> None:
    import asyncio

    await asyncio.sleep(seconds)


class SystemClock:
    """The machine's monotonic clock and its two ways to sleep."""

    __slots__ = ("async_sleep", "monotonic", "sleep")

    def __init__(self) -> None:
        self.monotonic: Callable[[], float] = time.monotonic
        self.sleep: Callable[[float], object] = time.sleep
        self.async_sleep: Callable[[float], Awaitable[object]] = _async_sleep

    def __reduce__(self) -> str:
        return "SYSTEM"  # there is one; a pickled policy finds it again


SYSTEM = SystemClock()


def uniform() -> float:
    """Return a random float in [0, 1)."""
    from random import random  # loads hashlib and more: not at import

    return random()


class Switch:
    """What a fast path looks at once per call.

    `plain` is True while no global listener is subscribed and nothing is
    disabled for a test; the fused pipelines run only then.
    """

    __slots__ = ("attempt_limit", "enabled", "listeners", "plain")

    def __init__(self) -> None:
        self.enabled = True
        self.attempt_limit: int | None = None
        self.listeners: tuple[Listener, ...] = ()
        self.plain = True

    def update(self) -> None:
        """Work out `plain` after a change."""
        self.plain = self.enabled and not self.listeners and self.attempt_limit is None


SWITCH = Switch()

_forkables: weakref.WeakSet[Forkable] = weakref.WeakSet()
_forkables_lock = threading.Lock()


def renew_after_fork(thing: Forkable) -> None:
    """Have `thing._after_fork()` called in forked children.

    A lock that another thread holds at the moment of the fork stays locked in
    the child for ever, so each child starts with fresh ones.
    """
    with _forkables_lock:  # guards _forkables
        _forkables.add(thing)


def living(kind: type[T]) -> list[T]:
    """Return the policies of this kind that exist now."""
    with _forkables_lock:
        things = list(_forkables)
    return [thing for thing in things if isinstance(thing, kind)]


def _renew_all() -> None:
    global _forkables_lock
    _forkables_lock = threading.Lock()
    for thing in list(_forkables):
        thing._after_fork()


os.register_at_fork(after_in_child=_renew_all)
