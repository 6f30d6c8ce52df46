"""Async timeouts for many calls of equal length with one timer.

All calls through one Timeout last equally long, so their ends come in the order of
their starts: a dict in insertion order is the queue, and one timer per event loop
waits for its head. A call costs a dict insert and pop instead of a timer.

The cancellation protocol is that of asyncio.timeout(): cancel() the task, on the
way out uncancel() it, and turn the CancelledError into ours only if nobody else
asked for the cancellation too.
"""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary, ref

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Entry:
    """One running call."""

    __slots__ = ("cancelling", "expired", "task", "until")

    def __init__(self, task: asyncio.Task[Any], until: float) -> None:
        self.task = task
        self.until = until
        self.cancelling = task.cancelling()
        self.expired = False

    def expire(self) -> None:
        """Cancel the call, once."""
        self.expired = True
        self.task.cancel()

    def timed_out(self, error: BaseException | None) -> bool:
        """Take the cancellation back; tell whether the error is only our own doing."""
        if not self.expired:
            return False
        ours = self.task.uncancel() <= self.cancelling
        return ours and isinstance(error, asyncio.CancelledError)


class Watchdog:
    """The running calls of one Timeout on one event loop, oldest first.

    It does not hold the loop: a closed loop can be forgotten.
    """

    __slots__ = ("_armed", "pending")

    def __init__(self) -> None:
        self._armed = False
        self.pending: dict[Entry, None] = {}

    def watch(self, entry: Entry) -> None:
        """Expire the entry at its time unless it is removed before."""
        self.pending[entry] = None
        if not self._armed:
            self._arm(entry)

    def _arm(self, entry: Entry) -> None:
        self._armed = True
        entry.task.get_loop().call_at(entry.until, self._bark)

    def _bark(self) -> None:
        """Expire what is due and wait for the next; runs at most once per duration."""
        self._armed = False
        now: float | None = None
        while self.pending:
            entry = next(iter(self.pending))
            if now is None:
                now = entry.task.get_loop().time()
            if entry.until > now:
                self._arm(entry)
                return
            del self.pending[entry]
            entry.expire()


class Watchdogs:
    """One watchdog per event loop."""

    __slots__ = ("_by_loop", "_last")

    def __init__(self) -> None:
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Watchdog] = (
            WeakKeyDictionary()
        )
        self._last: tuple[Callable[[], object], Watchdog] = (lambda: None, Watchdog())

    def find(self, loop: asyncio.AbstractEventLoop) -> Watchdog:
        """Return the watchdog of this loop."""
        known, dog = self._last  # nearly always the same loop as the last time
        if known() is loop:
            return dog
        found = self._by_loop.get(loop)
        if found is None:
            found = self._by_loop.setdefault(loop, Watchdog())
        self._last = (ref(loop), found)
        return found
