"""Async timeouts for many calls of equal length with one timer.

All calls through one Timeout last equally long, so their ends come in the order of
their starts: a dict in insertion order is the queue, and one timer per event loop
waits for its head. A call costs a dict insert and pop instead of a timer. Its key
is the identity of the token that setting the deadline has made anyway.

The cancellation protocol is that of asyncio.timeout(): cancel() the task, on the
way out uncancel() it, and turn the CancelledError into ours only if nobody else
asked for the cancellation too.
"""

from __future__ import annotations

import asyncio
import time
from weakref import WeakKeyDictionary, ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Running = tuple[asyncio.Task[Any], float, int]


class Expiry:
    """A call whose time is up: cancelled, once."""

    __slots__ = ("_cancelling", "_task")

    def __init__(self, task: asyncio.Task[Any], cancelling: int) -> None:
        self._task = task
        self._cancelling = cancelling  # requests of others, when the call began
        task.cancel()

    def timed_out(self, error: BaseException | None) -> bool:
        """Take the cancellation back; tell whether the error is only our own doing."""
        ours = self._task.uncancel() <= self._cancelling
        return ours and isinstance(error, asyncio.CancelledError)


class Watchdog:
    """The running calls of one Timeout on one event loop, oldest first.

    It does not hold the loop: a closed loop can be forgotten. `pending` has the
    task of a call, its end in the loop's time, and how often it had been cancelled
    when it began; `expired` has those that have not noticed yet. `time` is the
    clock that the loop itself reads, if that is known.
    """

    __slots__ = ("armed", "expired", "pending", "time")

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        own = getattr(type(loop), "time", None)
        plain = own is asyncio.BaseEventLoop.time
        self.time: Callable[[], float] | None = time.monotonic if plain else None
        self.armed = False
        self.pending: dict[int, Running] = {}
        self.expired: dict[int, Expiry] = {}

    def arm(self, loop: asyncio.AbstractEventLoop, until: float) -> None:
        """Look again at this time."""
        self.armed = True
        loop.call_at(until, self._bark)

    def expire(self, key: int, task: asyncio.Task[Any], cancelling: int) -> None:
        """Cancel a call."""
        self.expired[key] = Expiry(task, cancelling)

    def _bark(self) -> None:
        """Expire what is due and wait for the next; runs at most once per duration."""
        self.armed = False
        now: float | None = None
        while self.pending:
            key = next(iter(self.pending))
            task, until, cancelling = self.pending[key]
            if now is None:
                now = task.get_loop().time()
            if until > now:
                self.arm(task.get_loop(), until)
                return
            del self.pending[key]
            self.expire(key, task, cancelling)


class Watchdogs:
    """One watchdog per event loop; `last` is the one that was asked for last."""

    __slots__ = ("_by_loop", "last")

    def __init__(self) -> None:
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Watchdog] = (
            WeakKeyDictionary()
        )
        self.last: tuple[Callable[[], object], Watchdog] = (lambda: None, Watchdog())

    def find(self, loop: asyncio.AbstractEventLoop) -> Watchdog:
        """Return the watchdog of this loop."""
        known, dog = self.last  # nearly always the same loop as the last time
        if known() is loop:
            return dog
        found = self._by_loop.get(loop)
        if found is None:
            found = self._by_loop.setdefault(loop, Watchdog(loop))
        self.last = (ref(loop), found)
        return found
