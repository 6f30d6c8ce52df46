"""AdaptiveLimit: find out how many calls at a time a service can take.

Source: Gradient2Limit of Netflix concurrency-limits
(com.netflix.concurrency.limits.limit.Gradient2Limit), with its defaults: a long
exponential average of the latency is the norm; while calls take longer than
`tolerance` times the norm, the limit shrinks by the ratio, else it grows by a
small queue.
"""

from __future__ import annotations

import threading

from maestro_resilience import _checks
from maestro_resilience._policy import Gate, settings
from maestro_resilience._runtime import renew_after_fork
from maestro_resilience._signals import tell
from maestro_resilience.errors import BulkheadFull, ConfigurationError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from maestro_resilience._runtime import Clock
    from maestro_resilience.events import Listener

QUEUE, WINDOW, WARMUP, DRIFT = 4, 600, 10, 0.95


class Passage:
    """The token of a call inside: knows when it began and beside how many.

    Used again and again: only one that was dropped without an end, by a ^C when no
    `except` could know of it yet, is finalised, and ends by that.
    """

    __slots__ = ("beside", "era", "limit", "started")

    def __init__(self, limit: AdaptiveLimit, era: object) -> None:
        self.limit = limit
        self.era = era
        self.started = 0.0
        self.beside = 0  # while it is not inside

    def succeeded(self, started: float) -> None:
        """Learn from the duration."""
        self.limit._ended(self, self.limit._clock.monotonic() - self.started)

    def failed(self, error: BaseException, started: float) -> None:
        """Learn from nothing: failures may be fast."""
        self.limit._ended(self, 0.0)

    def __del__(self) -> None:
        # Python finalises an object once, so this one is not used again.
        self.limit._ended(self, 0.0, again=False)


class AdaptiveLimit(Gate):
    """Let as many calls run at a time as the service answers without queueing.

    Args:
        initial: limit to begin with.
        least: the limit never goes below.
        most: the limit never goes above.
        tolerance: how much longer than the norm a call may take; at least 1.
        smoothing: share of the new value in each step; above 0, at most 1.
        name: appears in errors and events.
        clock: time source.
        listeners: functions that get `LimitChanged`.

    A call above the limit is rejected with BulkheadFull.
    """

    __slots__ = (
        "_era",
        "_estimate",
        "_in_flight",
        "_lock",
        "_norm",
        "_range",
        "_samples",
        "_smoothing",
        "_tolerance",
        "_unused",
    )

    kind = "adaptive_limit"

    def __init__(
        self,
        *,
        initial: int = 20,
        least: int = 1,
        most: int = 200,
        tolerance: float = 1.5,
        smoothing: float = 0.2,
        name: str | None = None,
        clock: Clock | None = None,
        listeners: Iterable[Listener] = (),
    ) -> None:
        config = settings(locals(), type(self).__init__)
        super().__init__(name, clock=clock, listeners=listeners, config=config)
        me = f"AdaptiveLimit {self.name!r}"
        low = _checks.whole(me, "least", least)
        high = _checks.whole(me, "most", most, least=low)
        if not low <= _checks.whole(me, "initial", initial) <= high:
            raise ConfigurationError(me, "initial", initial, f"from {low} to {high}")
        self._range = (low, high)
        self._tolerance = _checks.number(me, "tolerance", tolerance, least=1)
        self._smoothing = _checks.number(me, "smoothing", smoothing, above=0, most=1)
        self._estimate = float(initial)
        self._in_flight = 0
        self._norm = 0.0
        self._samples = 0
        self._after_fork()
        renew_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = threading.RLock()  # a passage may end in the middle of another
        self._in_flight = 0  # those calls go on in the parent
        self._era = object()  # the call that forked does not count here
        self._unused: list[Passage] = []

    @property
    def limit(self) -> int:
        """How many calls may run at a time now."""
        return int(self._estimate)

    @property
    def in_flight(self) -> int:
        """How many calls run now."""
        return self._in_flight

    def _enter(self) -> Passage:
        started = self._clock.monotonic()
        with self._lock:  # guards all the numbers, and the passages not in use
            beside = self._in_flight + 1
            if beside <= int(self._estimate):
                unused = self._unused
                passage = unused.pop() if unused else Passage(self, self._era)
                passage.started = started
                self._in_flight = passage.beside = beside
                return passage
        error = BulkheadFull(self.name, None, self.limit)
        tell(self, "CallRejected", error=error)
        raise error

    def _ended(self, passage: Passage, spent: float, *, again: bool = True) -> None:
        with self._lock:
            beside, passage.beside = passage.beside, 0
            if not beside or passage.era is not self._era:
                return
            self._in_flight -= 1
            if again:
                self._unused.append(passage)
            old = int(self._estimate)
            if spent > 0:
                self._learn(spent, beside)
            new = int(self._estimate)
        if new != old:
            tell(self, "LimitChanged", old=old, new=new)

    def _learn(self, spent: float, beside: int) -> None:
        self._samples += 1
        if self._samples <= WARMUP:  # a plain mean until the average has a start
            self._norm += (spent - self._norm) / self._samples
        else:
            self._norm += (spent - self._norm) * 2 / (WINDOW + 1)
        if self._norm / spent > 2:
            self._norm *= DRIFT  # back to normal after an outage, sooner
        if beside < self._estimate / 2:
            return  # too few calls to say anything about the limit
        gradient = max(0.5, min(1.0, self._tolerance * self._norm / spent))
        wanted = self._estimate * gradient + QUEUE
        smoothed = self._estimate * (1 - self._smoothing) + wanted * self._smoothing
        low, high = self._range
        self._estimate = max(float(low), min(float(high), smoothed))
