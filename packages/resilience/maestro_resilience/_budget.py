"""A limit on the share of retries, so that an outage does not multiply the load.

Source: Finagle's RetryBudget (ratio of calls plus a floor per second, over a
sliding window); Google SRE book, "Handling Overload", per-client retry budget.
"""

from __future__ import annotations

import threading
from collections import deque

from maestro_resilience import _checks
from maestro_resilience._runtime import SYSTEM, renew_after_fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from maestro_resilience._runtime import Clock

_SLICES = 10


class _Slice:
    __slots__ = ("calls", "end", "retries")

    def __init__(self, end: float) -> None:
        self.end = end
        self.calls = 0
        self.retries = 0


class RetryBudget(_checks.Checked):
    """Allow retries up to a share of the calls of the last seconds, plus a floor.

    Share one budget among all Retry policies towards the same service.

    Args:
        ratio: retries per call; 0.1 adds at most a tenth of load.
        floor: retries per second that are always allowed.
        window: seconds over which calls and retries are counted.
        clock: time source.
    """

    __slots__ = (
        "__weakref__",
        "_clock",
        "_config",
        "_lock",
        "_slice",
        "_slices",
        "floor",
        "ratio",
        "window",
    )

    def __init__(
        self,
        *,
        ratio: float = 0.1,
        floor: float = 1.0,
        window: float = 10.0,
        clock: Clock | None = None,
    ) -> None:
        self.ratio = _checks.number("RetryBudget", "ratio", ratio, least=0)
        self.floor = _checks.number("RetryBudget", "floor", floor, least=0)
        self.window = _checks.number("RetryBudget", "window", window, above=0)
        self._config = {"ratio": ratio, "floor": floor, "window": window}
        if clock is not None:
            self._config["clock"] = clock  # type: ignore[assignment]  # plain storage
        self._clock = SYSTEM if clock is None else clock
        self._after_fork()
        self._slice = _Slice(float("-inf"))
        self._slices: deque[_Slice] = deque()
        renew_after_fork(self)

    def _after_fork(self) -> None:
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self._config,))

    def __repr__(self) -> str:
        return f"RetryBudget(ratio={self.ratio:g}, floor={self.floor:g})"

    def deposit(self) -> None:
        """Count one call."""
        now = self._clock.monotonic()
        current = self._slice
        if now >= current.end:
            with self._lock:
                current = self._rotate(now)
        current.calls += 1

    def withdraw(self) -> bool:
        """Take one retry out of the budget; False when there is none."""
        now = self._clock.monotonic()
        with self._lock:  # guards the slices and their retries
            current = self._rotate(now)
            calls = sum(piece.calls for piece in self._slices)
            retries = sum(piece.retries for piece in self._slices)
            if retries + 1 > calls * self.ratio + self.floor * self.window:
                return False
            current.retries += 1
            return True

    def _rotate(self, now: float) -> _Slice:
        width = self.window / _SLICES
        if now >= self._slice.end:
            self._slice = _Slice(now + width)
            self._slices.append(self._slice)
        while self._slices[0].end <= now - self.window:
            self._slices.popleft()
        return self._slice


def _rebuild(config: dict[str, Any]) -> RetryBudget:
    return RetryBudget(**config)
