"""Bulkhead: only so many calls at a time, the others wait in line or are turned away.

Free slots are tokens in a list, whose pop() and append() are atomic, so nobody takes
a lock while there is room. The lock guards only the line of those who wait, which
threads and tasks of any event loop share.
"""

from __future__ import annotations

import threading
from collections import deque

from maestro_resilience import _checks
from maestro_resilience._deadline import DEADLINE
from maestro_resilience._policy import Gate, settings
from maestro_resilience._runtime import renew_after_fork
from maestro_resilience._signals import tell
from maestro_resilience.errors import BulkheadFull

TYPE_CHECKING = False
if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterable
    from typing import Any

    from maestro_resilience._runtime import Clock
    from maestro_resilience.events import Listener


class ThreadWaiter:
    """A thread in line."""

    __slots__ = ("_wake", "slot")

    def __init__(self) -> None:
        self.slot: Slot | None = None
        self._wake = threading.Lock()
        self._wake.acquire()

    def grant(self, slot: Slot) -> bool:
        """Wake the thread up with a slot."""
        self.slot = slot
        self._wake.release()
        return True

    def wait(self, seconds: float) -> None:
        """Block until a slot is granted or the time is up."""
        self._wake.acquire(timeout=min(seconds, threading.TIMEOUT_MAX))


class TaskWaiter:
    """A task in line, on the loop where it runs."""

    __slots__ = ("_future", "_loop", "slot")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.slot: Slot | None = None
        self._loop = loop
        self._future: asyncio.Future[None] = loop.create_future()

    def grant(self, slot: Slot) -> bool:
        """Wake the task up with a slot; False when its loop is gone."""
        try:
            self._loop.call_soon_threadsafe(self._set)
        except RuntimeError:  # the loop was closed under the waiting task
            return False
        self.slot = slot
        return True

    def _set(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Suspend until a slot is granted or the time is up."""
        timer = self._loop.call_later(seconds, self._set)
        try:
            await self._future
        finally:
            timer.cancel()


class Slot:
    """The token of a call inside: gives the slot back, however the call ends.

    A slot that nobody holds any more gives itself back: a ^C may arrive at the
    moment it is taken, when no `except` can know of it yet.
    """

    __slots__ = ("_bulkhead", "_home")

    def __init__(self, bulkhead: Bulkhead, home: list[Slot]) -> None:
        self._bulkhead = bulkhead
        self._home = home  # of this process: a forked child has new ones

    def succeeded(self, started: float) -> None:
        """Give the slot back."""
        self._home.append(self)
        self._bulkhead._slot_came_back()

    def failed(self, error: BaseException, started: float) -> None:
        """Give the slot back."""
        self._home.append(self)
        self._bulkhead._slot_came_back()

    def __del__(self) -> None:
        home, bulkhead = self._home, self._bulkhead
        if home is bulkhead._slots and self not in home:
            home.append(Slot(bulkhead, home))  # this one is spent
            bulkhead._slot_came_back()


class Bulkhead(Gate):
    """Let at most `limit` calls run at a time.

    One object counts threads and the tasks of all event loops together. Those who
    wait are served in the order they came; a cancelled or timed-out one leaves the
    line.

    Args:
        limit: calls at a time.
        wait: seconds that a call may wait for a slot; 0 rejects at once. A deadline
            around the call shortens it.
        queue: how many may wait at a time; None for any number.
        name: appears in errors and events.
        clock: time source for deadlines; the waiting itself is real.
        listeners: functions that get this policy's events.
    """

    __slots__ = ("_limit", "_line", "_lock", "_queue", "_slots", "_wait")

    kind = "bulkhead"

    def __init__(
        self,
        limit: int,
        *,
        wait: float = 0.0,
        queue: int | None = None,
        name: str | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        config = settings(locals(), type(self).__init__)
        super().__init__(name, clock=clock, listeners=listeners, config=config)
        me = f"Bulkhead {self.name!r}"
        self._limit = _checks.whole(me, "limit", limit)
        self._wait = _checks.number(me, "wait", wait, least=0)
        self._queue = queue if queue is None else _checks.whole(me, "queue", queue)
        self._line: deque[ThreadWaiter | TaskWaiter] = deque()
        self._slots: list[Slot] = []
        self._after_fork()
        renew_after_fork(self)

    def _after_fork(self) -> None:
        # The threads that held slots, or waited, exist only in the parent; a call
        # that forked gives its slot back to the list of the parent.
        self._lock = threading.RLock()  # a slot may come back in the middle of _serve
        self._line.clear()
        home: list[Slot] = []
        home.extend(Slot(self, home) for _ in range(self._limit))
        self._slots = home

    @property
    def limit(self) -> int:
        """How many calls may run at a time."""
        return self._limit

    @property
    def in_flight(self) -> int:
        """How many calls run now."""
        return self._limit - len(self._slots)

    @property
    def waiting(self) -> int:
        """How many calls wait in line now."""
        return len(self._line)

    def _enter(self) -> Slot:
        if not self._line:
            try:
                return self._slots.pop()
            except IndexError:
                pass
        seconds = self._patience()
        waiter = ThreadWaiter()
        slot = self._join(waiter)
        if slot is not None:
            return slot
        try:
            waiter.wait(seconds)
        except BaseException as error:
            granted = self._leave(waiter)
            if granted is not None:
                granted.failed(error, 0.0)
            raise
        return self._leave(waiter) or self._reject()

    async def _enter_async(self) -> Slot:
        if not self._line:
            try:
                return self._slots.pop()
            except IndexError:
                pass
        seconds = self._patience()
        import asyncio

        waiter = TaskWaiter(asyncio.get_running_loop())
        slot = self._join(waiter)
        if slot is not None:
            return slot
        try:
            await waiter.wait(seconds)
        except BaseException as error:
            granted = self._leave(waiter)
            if granted is not None:
                granted.failed(error, 0.0)
            raise
        return self._leave(waiter) or self._reject()

    def _patience(self) -> float:
        """Return the seconds to wait in line, or reject at once."""
        seconds = self._wait
        until = DEADLINE.get()
        if until is not None:
            seconds = min(seconds, until - self._clock.monotonic())
        if seconds <= 0:
            self._reject()
        return seconds

    def _join(self, waiter: ThreadWaiter | TaskWaiter) -> Slot | None:
        """Get in line, unless a slot has become free in the meantime."""
        with self._lock:  # guards the line, and the handing out to it
            self._serve()
            full = self._queue is not None and len(self._line) >= self._queue
            if not full:
                self._line.append(waiter)
                # Only now: who gives a slot back looks at the line after that.
                self._serve()
                return waiter.slot
        return self._reject()  # type: ignore[no-any-return]  # it raises

    def _serve(self) -> None:
        """Hand free slots to the head of the line; the caller holds the lock."""
        while self._line:
            try:
                slot = self._slots.pop()
            except IndexError:
                return
            while self._line:
                if self._line.popleft().grant(slot):
                    break
            else:
                self._slots.append(slot)

    def _leave(self, waiter: ThreadWaiter | TaskWaiter) -> Slot | None:
        """Leave the line and return the slot that was granted, if any."""
        with self._lock:
            slot, waiter.slot = waiter.slot, None
            if slot is None and waiter in self._line:
                self._line.remove(waiter)
        return slot

    def _slot_came_back(self) -> None:
        if self._line:
            self._wake_line()

    def _wake_line(self) -> None:
        with self._lock:
            self._serve()

    def _reject(self) -> Any:
        error = BulkheadFull(self.name, None, self._limit)
        tell(self, "CallRejected", error=error)
        raise error
