"""Heartbeats: one thread per registry renews every lease that it holds.

A beat that fails is tried again until the store answers; when the store says that a
lease is gone, its owner is told and decides. A strict lease that could not be renewed
for its whole TTL is gone too, whatever the store thinks: its owner is told a margin
before that moment, by a thread of its own, since the beating one may hang in a store
that does not answer. Intervals are jittered, and the first beat comes at a random
moment, so that a thousand processes that start together do not beat together.

After a fork the child has no heart: its parent goes on beating, alone.
"""

import contextlib
import heapq
import itertools
import logging
import math
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

from ._clock import Clock
from ._store import Store
from ._sweep import Sweeper
from .errors import StoreError

__all__ = ["Beat", "Heart"]

_log = logging.getLogger(__name__)
BEATS_PER_TTL = 3


@dataclass(slots=True)
class Beat:
    """A lease that is being kept alive."""

    lease: str
    ttl: float
    strict: bool
    gone: Callable[[str], None]  # told once, with the reason
    beaten: Callable[[], None] = lambda: None
    next_at: float = 0.0
    deadline: float = field(default=0.0)

    @property
    def margin(self) -> float:
        """Return how long before the deadline the owner should have stopped."""
        return min(1.0, self.ttl / 10)


@final
class Heart:
    """Keeps leases alive and sweeps on one thread; a second one minds deadlines."""

    def __init__(
        self, store: Store, sweeper: Sweeper, *, clock: Clock, rng: random.Random
    ) -> None:
        self._store, self._sweeper = store, sweeper
        self._clock, self._rng = clock, rng
        self._changed = threading.Condition()  # guards the beats and the thread
        self._beats: dict[str, Beat] = {}
        self._strict: dict[str, Beat] = {}
        # (when, tie, beat): an entry of a beat that was removed or moved is skipped.
        self._queue: list[tuple[float, int, Beat]] = []
        self._ties = itertools.count()
        self._wakes_at = math.inf  # when the beating thread looks again
        self._thread: threading.Thread | None = None
        self._watchdog: threading.Thread | None = None
        self._closed = False
        self._sweep_at = 0.0

    def add(self, beat: Beat, started: float) -> None:
        """Keep a lease alive that was granted no earlier than `started`."""
        beat.deadline = started + beat.ttl
        interval = beat.ttl / BEATS_PER_TTL
        beat.next_at = started + interval * self._rng.uniform(0.3, 1.0)
        with self._changed:
            self._beats[beat.lease] = beat
            if beat.strict:
                self._strict[beat.lease] = beat
            self._push(beat)
            self._start()
            if beat.strict or beat.next_at < self._wakes_at:
                self._changed.notify_all()

    def remove(self, lease: str) -> None:
        """Stop keeping a lease alive."""
        with self._changed:
            self._beats.pop(lease, None)
            self._strict.pop(lease, None)

    def watch_over(self) -> None:
        """Sweep even when there is nothing to beat for."""
        with self._changed:
            self._start()

    def close(self) -> list[str]:
        """Stop, tell the owners that are left, return their leases.

        No beat is sent after this returns.
        """
        with self._changed:
            self._closed = True
            left = list(self._strict.values())
            self._beats.clear()
            self._strict.clear()
            self._queue.clear()
            self._changed.notify_all()
            threads = (self._thread, self._watchdog)
        for thread in threads:
            if thread and thread is not threading.current_thread():
                thread.join(10)
        for beat in left:
            beat.gone("the registry was closed")
        return [beat.lease for beat in left]

    def run_due(self) -> float:
        """Do what is due now; return the seconds until something will be."""
        now = self._clock.elapsed()
        due = self._pop_due(now)
        try:
            if due:
                self._renew(due, now)
        finally:  # a callback's fault must not cost the others their beats
            self._put_back(due, now)
        self._expire(self._clock.elapsed())
        if now >= self._sweep_at and not self._closed:
            jitter = self._rng.uniform(0.8, 1.2)
            self._sweep_at = now + self._sweeper.interval * jitter
            with contextlib.suppress(StoreError):
                self._sweeper.sweep()
        with self._changed:
            first = self._queue[0][0] if self._queue else math.inf
            self._wakes_at = min(self._sweep_at, first)
            return max(0.0, self._wakes_at - self._clock.elapsed())

    def _push(self, beat: Beat) -> None:
        heapq.heappush(self._queue, (beat.next_at, next(self._ties), beat))

    def _pop_due(self, now: float) -> list[Beat]:
        due = []
        with self._changed:
            while self._queue and self._queue[0][0] <= now:
                when, _, beat = heapq.heappop(self._queue)
                if self._beats.get(beat.lease) is beat and beat.next_at == when:
                    due.append(beat)
        return due

    def _put_back(self, due: list[Beat], now: float) -> None:
        with self._changed:
            for beat in due:
                if self._beats.get(beat.lease) is beat and beat.next_at <= now:
                    self._push(beat)

    def _postpone(self, beat: Beat, next_at: float) -> None:
        with self._changed:
            if self._beats.get(beat.lease) is beat:
                beat.next_at = next_at
                self._push(beat)

    def _start(self) -> None:
        if self._closed:
            return
        if self._thread is None:
            self._thread = _thread(self._run, "heart")
        if self._watchdog is None and self._strict:
            self._watchdog = _thread(self._mind_deadlines, "deadlines")

    def _run(self) -> None:
        while not self._pause(self._run_safely()):
            pass

    def _mind_deadlines(self) -> None:
        while True:
            self._expire(self._clock.elapsed())
            with self._changed:
                if self._closed:
                    return
                ends = (beat.deadline - beat.margin for beat in self._strict.values())
                first = min(ends, default=math.inf)
                wait = first - self._clock.elapsed()
                self._changed.wait(min(max(wait, 0.001), 3600.0))

    def _run_safely(self) -> float:
        try:
            return self.run_due()
        except Exception:  # a callback's fault must not stop the other beats
            _log.exception("heartbeat failed; going on")
            return 1.0

    def _pause(self, wait: float) -> bool:
        """Wait, at most until something changes; return True when closed."""
        with self._changed:
            if not self._closed:
                self._changed.wait(min(wait, 3600.0))
            return self._closed

    def _renew(self, due: list[Beat], now: float) -> None:
        try:
            gone = self._store.renew([beat.lease for beat in due])
        except StoreError as error:
            _log.warning("heartbeat not delivered, trying again: %s", error)
            for beat in due:
                pause = min(1.0, beat.ttl / 10)
                soon = pause * self._rng.uniform(0.5, 1)
                self._postpone(beat, self._clock.elapsed() + soon)
            return
        for beat in due:
            if beat.lease in gone:
                self._drop(beat, "the store does not know it any more")
                continue
            beat.deadline = now + beat.ttl
            interval = beat.ttl / BEATS_PER_TTL
            self._postpone(beat, now + interval * self._rng.uniform(0.85, 1.0))
            beat.beaten()

    def _expire(self, now: float) -> None:
        with self._changed:
            late = [
                beat
                for beat in self._strict.values()
                if now >= beat.deadline - beat.margin
            ]
        for beat in late:
            self._drop(beat, f"no heartbeat got through for {beat.ttl:g} s")

    def _drop(self, beat: Beat, why: str) -> None:
        with self._changed:
            if self._beats.pop(beat.lease, None) is None:
                return  # removed meanwhile: its owner let go by itself
            self._strict.pop(beat.lease, None)
        beat.gone(why)


def _thread(run: Callable[[], None], name: str) -> threading.Thread:
    thread = threading.Thread(target=run, name=f"maestro-registry-{name}", daemon=True)
    thread.start()
    return thread
