"""Passive health: stop using instances whose calls fail, for a while.

An instance is ejected after `consecutive` failures in a row, or when its success rate
falls well below the others'. The n-th ejection lasts n times `base` seconds. Never more
than `most` of the instances are out at once, counted with the one about to go, and
never the last. An instance that comes back at another address starts clean.

Source: Envoy's outlier detection; the cap is checked before ejecting, not after.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import final

from ._args import check_number
from ._clock import Clock
from ._model import Instance

__all__ = ["Ejection", "Outliers"]

Place = tuple[str, str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ejection:
    """When instances are left out because of their results; times in seconds."""

    consecutive: int = 5
    base: float = 30.0
    longest: float = 300.0
    most: float = 0.5
    deviations: float = 1.9
    requests: int = 20
    hosts: int = 5

    def __post_init__(self) -> None:
        for name in ("consecutive", "requests", "hosts"):
            check_number(name, getattr(self, name), 1, 1e6, "how many")
        for name in ("base", "longest"):
            check_number(name, getattr(self, name), 0, 1e9, "seconds")
        check_number("most", self.most, 0, 1, "a share")
        check_number("deviations", self.deviations, 0, 1e6, "standard deviations")


@dataclass(slots=True)
class _History:
    failures: int = 0
    ejections: int = 0
    until: float = 0.0
    back: float = 0.0
    results: deque[bool] = field(default_factory=lambda: deque(maxlen=100))


@final
class Outliers:
    """Results per instance; `version` rises when the ejected set changes."""

    def __init__(self, settings: Ejection, *, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._histories: dict[Place, _History] = {}
        self.version = 0
        self.next_return = math.inf

    def keep(self, instances: Sequence[Instance]) -> None:
        """Forget instances that are gone or moved."""
        places = {place_of(instance) for instance in instances}
        known = self._histories
        self._histories = {p: known.get(p) or _History() for p in places}
        self._plan_return()

    def record(self, instance: Instance, *, good: bool) -> bool:
        """Take the result of a call; return True when it got the instance ejected."""
        history = self._histories.get(place_of(instance))
        if history is None:
            return False
        history.failures = 0 if good else history.failures + 1
        history.results.append(good)
        now = self._clock.elapsed()
        if good and history.ejections and now - history.back > self._settings.longest:
            history.ejections = 0
        if good or history.until > now:
            return False
        if history.failures >= self._settings.consecutive or self._is_outlier(history):
            return self._eject(history, now)
        return False

    def ejected(self, instance: Instance) -> bool:
        """Tell whether it is left out now."""
        history = self._histories.get(place_of(instance))
        return history is not None and history.until > self._clock.elapsed()

    def returned(self, instance: Instance) -> float:
        """Return when it came back from its last ejection, 0 if never."""
        history = self._histories.get(place_of(instance))
        return history.back if history else 0.0

    def refresh(self) -> bool:
        """Let back in whose time is over; return True when somebody came back."""
        if self._clock.elapsed() < self.next_return:
            return False
        self.version += 1
        self._plan_return()
        return True

    def _eject(self, history: _History, now: float) -> bool:
        total = len(self._histories)
        out = sum(other.until > now for other in self._histories.values())
        if out + 1 >= total or (out + 1) / total > self._settings.most:
            return False
        history.ejections += 1
        lasts = min(self._settings.base * history.ejections, self._settings.longest)
        history.until = history.back = now + lasts
        history.failures = 0
        history.results.clear()
        self.version += 1
        self._plan_return()
        return True

    def _is_outlier(self, history: _History) -> bool:
        rules = self._settings
        enough = [
            h for h in self._histories.values() if len(h.results) >= rules.requests
        ]
        if len(enough) < rules.hosts or len(history.results) < rules.requests:
            return False
        rates = [sum(h.results) / len(h.results) for h in enough]
        mean = sum(rates) / len(rates)
        spread = math.sqrt(sum((rate - mean) ** 2 for rate in rates) / len(rates))
        rate = sum(history.results) / len(history.results)
        return rate < mean - rules.deviations * spread and mean - rate > 0.05

    def _plan_return(self) -> None:
        now = self._clock.elapsed()
        times = [h.until for h in self._histories.values() if h.until > now]
        self.next_return = min(times, default=math.inf)


def place_of(instance: Instance) -> Place:
    """Return what makes an instance the same one: id and address."""
    return (instance.id, instance.host, instance.port)
