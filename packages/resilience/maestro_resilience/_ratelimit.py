"""RateLimiter: only so many calls per second, with bursts.

Source: the generic cell rate algorithm (GCRA), ITU-T I.371; one number of state.
"""

from __future__ import annotations

import threading

from maestro_resilience import _checks
from maestro_resilience._deadline import DEADLINE
from maestro_resilience._policy import OPEN_GATE, Gate, settings
from maestro_resilience._runtime import renew_after_fork
from maestro_resilience._signals import tell
from maestro_resilience.errors import RateLimited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from maestro_resilience._runtime import Clock
    from maestro_resilience.events import Listener


class RateLimiter(Gate):
    """Let `rate` calls pass per `per` seconds, evenly, with bursts of `burst`.

    Args:
        rate: calls per period; more than 0.
        per: length of the period in seconds.
        burst: calls that may come at once after a pause; default: one period's
            worth, at least 1.
        wait: seconds that a call may wait for its turn; 0 rejects at once. A
            deadline around the call shortens it.
        name: appears in errors and events.
        clock: time source and sleep.
        listeners: functions that get this policy's events.
    """

    __slots__ = ("_interval", "_lock", "_next", "_tolerance", "_wait")

    kind = "rate_limiter"

    def __init__(
        self,
        rate: float,
        *,
        per: float = 1.0,
        burst: int | None = None,
        wait: float = 0.0,
        name: str | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        config = settings(locals(), type(self).__init__)
        super().__init__(name, clock=clock, listeners=listeners, config=config)
        me = f"RateLimiter {self.name!r}"
        rate = _checks.number(me, "rate", rate, above=0)
        self._interval = _checks.number(me, "per", per, above=0) / rate
        if burst is None:
            burst = max(1, int(rate))
        self._tolerance = self._interval * (_checks.whole(me, "burst", burst) - 1)
        self._wait = _checks.number(me, "wait", wait, least=0)
        self._next = float("-inf")  # when the bucket is empty again: GCRA's TAT
        self._after_fork()
        renew_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def _reserve(self) -> tuple[float, float]:
        """Take a turn; return the seconds until it comes and the mark of the turn."""
        now = self._clock.monotonic()
        patience = self._wait
        until = DEADLINE.get()
        if until is not None:
            patience = min(patience, until - now)
        with self._lock:  # guards _next
            due = max(self._next, now)
            delay = due - self._tolerance - now
            # A millionth of an interval: sums of floats must not cost a permit.
            if delay <= max(patience, 0.0) + self._interval * 1e-6:
                self._next = due + self._interval
                return max(0.0, delay), self._next
        error = RateLimited(self.name, delay)
        tell(self, "CallRejected", error=error)
        raise error

    def _give_back(self, mark: float) -> None:
        """Undo the newest reservation; an older one has others behind it."""
        with self._lock:
            if self._next == mark:
                self._next -= self._interval

    def _enter(self) -> Any:
        delay, mark = self._reserve()
        if delay > self._interval * 1e-6:
            try:
                self._clock.sleep(delay)
            except BaseException:
                self._give_back(mark)
                raise
        return OPEN_GATE

    async def _enter_async(self) -> Any:
        delay, mark = self._reserve()
        if delay > self._interval * 1e-6:
            try:
                await self._clock.async_sleep(delay)
            except BaseException:
                self._give_back(mark)
                raise
        return OPEN_GATE
