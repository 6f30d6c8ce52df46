"""What a closed circuit remembers: the last N calls, or the last N seconds.

A window belongs to one closed period of one breaker. Calls keep the window they
started with, so a late result of an earlier period lands in a window that nobody
reads any more and changes nothing.

Success is counted without a lock under the GIL; everything else, and everything
on free-threaded builds, happens under the breaker's lock.
"""

from __future__ import annotations

from collections import deque
from math import inf

from maestro_resilience import _runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from maestro_resilience._breaker import CircuitBreaker

OK, FAILED, SLOW_OK, SLOW_FAILED = 0, 1, 2, 3
BUCKETS = 10


class CountWindow:
    """The outcomes of the last `size` calls."""

    __slots__ = ("_append", "_breaker", "_ring", "_slow")

    def __init__(self, breaker: CircuitBreaker, size: int, slow: float | None) -> None:
        self._breaker = breaker
        self._slow = slow
        self._ring: deque[int] = deque(maxlen=size)
        self._append = self._ring.append

    def succeeded(self, started: float) -> None:
        """Count a call that returned."""
        slow = self._slow
        if slow is None or self._breaker._clock.monotonic() - started < slow:
            self._append(OK)
        else:
            self._breaker._count(self, SLOW_OK)

    def failed(self, error: BaseException, started: float) -> None:
        """Count a call that raised, if the breaker records such errors."""
        _judge(self, self._breaker, error, started)

    def add(self, outcome: int) -> None:
        """Count one outcome; the caller holds the breaker's lock."""
        self._append(outcome)

    def totals(self) -> tuple[int, int, int]:
        """Return calls, failures and slow calls; the caller holds the lock."""
        ring = self._ring
        both = ring.count(SLOW_FAILED)
        return len(ring), ring.count(FAILED) + both, ring.count(SLOW_OK) + both


class Bucket:
    """A tenth of the time window."""

    __slots__ = ("end", "failed", "ok", "slow_failed", "slow_ok")

    def __init__(self, end: float) -> None:
        self.end = end
        self.ok = 0
        self.failed = 0
        self.slow_ok = 0
        self.slow_failed = 0


class TimeWindow:
    """The outcomes of the last `seconds`, in ten buckets: forgets a tenth at a time."""

    __slots__ = ("_breaker", "_buckets", "_clock", "_slow", "_width", "bucket")

    def __init__(
        self, breaker: CircuitBreaker, seconds: float, slow: float | None
    ) -> None:
        self._breaker = breaker
        self._clock = breaker._clock
        self._slow = inf if slow is None else slow
        self._width = seconds / BUCKETS
        self.bucket = Bucket(self._clock.monotonic() + self._width)
        self._buckets: deque[Bucket] = deque((self.bucket,))

    def succeeded(self, started: float) -> None:
        """Count a call that returned."""
        now = self._clock.monotonic()
        bucket = self.bucket
        if now >= bucket.end:
            with self._breaker._lock:
                bucket = self.rotate(now)
        if now - started < self._slow:
            # No call may come between load and store: that is what makes it atomic.
            bucket.ok += 1
        else:
            self._breaker._count(self, SLOW_OK)

    def failed(self, error: BaseException, started: float) -> None:
        """Count a call that raised, if the breaker records such errors."""
        _judge(self, self._breaker, error, started)

    def rotate(self, now: float) -> Bucket:
        """Return the bucket for `now`, dropping old ones; the caller holds the lock."""
        bucket = self.bucket
        if now >= bucket.end:
            behind = (now - bucket.end) // self._width
            bucket = Bucket(bucket.end + (behind + 1) * self._width)
            self._buckets.append(bucket)
            self.bucket = bucket
            oldest = bucket.end - self._width * BUCKETS
            while self._buckets[0].end <= oldest:
                self._buckets.popleft()
        return bucket

    def add(self, outcome: int) -> None:
        """Count one outcome; the caller holds the breaker's lock."""
        bucket = self.rotate(self._clock.monotonic())
        if outcome == FAILED:
            bucket.failed += 1
        elif outcome == SLOW_OK:
            bucket.slow_ok += 1
        elif outcome == SLOW_FAILED:
            bucket.slow_failed += 1
        else:
            bucket.ok += 1

    def totals(self) -> tuple[int, int, int]:
        """Return calls, failures and slow calls; the caller holds the lock."""
        self.rotate(self._clock.monotonic())
        ok = failed = slow = both = 0
        for bucket in self._buckets:
            ok += bucket.ok
            failed += bucket.failed
            slow += bucket.slow_ok
            both += bucket.slow_failed
        return ok + failed + slow + both, failed + both, slow + both


class LockedCountWindow(CountWindow):
    """For builds without the GIL."""

    __slots__ = ()

    def succeeded(self, started: float) -> None:
        """Count a call that returned."""
        with self._breaker._lock:
            super().succeeded(started)


class LockedTimeWindow(TimeWindow):
    """For builds without the GIL."""

    __slots__ = ()

    def succeeded(self, started: float) -> None:
        """Count a call that returned."""
        with self._breaker._lock:
            super().succeeded(started)


Window = CountWindow | TimeWindow


def _judge(
    window: Window, breaker: CircuitBreaker, error: BaseException, started: float
) -> None:
    verdict = breaker._judge.verdict(error)
    if verdict is None:
        return
    slow = breaker._slow_call
    if slow is not None and breaker._clock.monotonic() - started >= slow:
        verdict = SLOW_OK if verdict == OK else SLOW_FAILED
    breaker._count(window, verdict)


def new_window(
    breaker: CircuitBreaker, seconds: float, calls: int | None, slow: float | None
) -> Window:
    """Return an empty window of the configured kind."""
    locked = _runtime.FREE_THREADED
    if calls is not None:
        return (LockedCountWindow if locked else CountWindow)(breaker, calls, slow)
    return (LockedTimeWindow if locked else TimeWindow)(breaker, seconds, slow)
