"""One service as its callers see it: cached, filtered, balanced.

`pick` takes no lock and does no I/O: it reads a pool that is rebuilt when instances,
health or ejections change. Instances that are stale are used when there is no other,
and when fewer than `panic` of at least three are healthy, all are used: then the
checks are more likely wrong than so many instances.
"""

import math
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import final

from ._args import check_kind, check_number, near
from ._clock import Clock
from ._fork import hold_across_fork
from ._hashing import hash64
from ._model import Instance, check_name
from ._outliers import Ejection, Outliers, place_of
from ._pickers import Load, Picker, Policy, check_policy, loads_of, make_picker
from ._semver import VersionRange
from ._watch import Feed
from .errors import NoInstances

__all__ = ["Selection", "Service", "ServiceStats"]

OVERPROVISION = 1.4  # a level takes all its load until under 1/1.4 of it is healthy
PANIC_FROM = 3
MOST_TRIES = 3
_NOBODY: tuple[Instance, ...] = ()
_NEVER = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which instances of a service are wanted, and how one of them is chosen."""

    version: VersionRange | None = None
    tags: frozenset[str] = frozenset()
    zone: str = ""
    region: str = ""
    policy: Policy = "p2c"
    panic: float = 0.5
    slow_start: float = 0.0
    ejection: Ejection = field(default_factory=Ejection)

    def __post_init__(self) -> None:
        for name in ("zone", "region"):
            if getattr(self, name):
                check_name(name, getattr(self, name))
        check_policy(self.policy)
        check_number("panic", self.panic, 0, 1, "a share, 0 for never")
        check_number("slow_start", self.slow_start, 0, 86_400, "seconds")
        check_kind("ejection", self.ejection, Ejection, "Ejection(consecutive=3)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceStats:
    """What a service's pool looks like now; `shares` are the levels' parts."""

    instances: int
    usable: int
    ejected: int
    panic: bool
    shares: tuple[float, ...]


@dataclass(slots=True)
class _Pool:
    seen: tuple[Instance, ...]
    version: int
    choose: Picker
    stats: ServiceStats


@final
class Service:
    """Picks instances of one service; thread-safe, get it from `registry.service`."""

    def __init__(
        self,
        name: str,
        selection: Selection,
        *,
        feed: Feed,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.name = check_name("service", name)
        self._wanted = selection
        self._feed, self._clock, self._rng = feed, clock, rng
        self._lock = threading.Lock()  # guards rebuilding, loads and outcomes
        hold_across_fork(self, self._lock)
        self._loads: dict[tuple[str, str, int], Load] = {}
        self._outliers = Outliers(selection.ejection, clock=clock)
        self._ramps: dict[tuple[str, str, int], float] = {}
        self._known: set[tuple[str, str, int]] | None = None
        self._hint: tuple[float, str] | None = None
        self._pool = self._build(())

    @property
    def instances(self) -> tuple[Instance, ...]:
        """Return all known instances of the service, in order of id."""
        return self._feed.services.get(self.name, ())

    def pick(self, key: str | None = None) -> Instance:
        """Return an instance for one piece of work; do not hold on to it.

        Args:
            key: for the policy "hash": the same key gives the same instance.

        Raises:
            NoInstances: none can be used; the reasons say what was left out.
        """
        pool, outliers = self._pool, self._outliers
        if (
            pool.seen is not self._feed.services.get(self.name, _NOBODY)
            or pool.version != outliers.version
            or outliers.next_return != _NEVER
        ):
            pool = self._current()
        return pool.choose(key)

    @contextmanager
    def call(self, key: str | None = None) -> Iterator[Instance]:
        """Pick an instance and learn from the block: its time, and whether it raised.

        An exception counts as a failure of the instance and goes on to the caller.
        """
        instance = self.pick(key)
        with self._lock:
            load = self._loads.setdefault(place_of(instance), Load())
            load.active += 1
        started = self._clock.elapsed()
        good = False
        try:
            yield instance
            good = True
        finally:
            now = self._clock.elapsed()
            with self._lock:
                load.active -= 1
                if good:
                    load.observe(now - started, now)
                self._outliers.record(instance, good=good)

    def report(self, instance: Instance, *, good: bool) -> None:
        """Tell the result of a call that was made without `call`."""
        self._current()  # the instance must be known before it can be judged
        with self._lock:
            self._outliers.record(instance, good=good)

    def stats(self) -> ServiceStats:
        """Return numbers about the present pool."""
        return self._current().stats

    def __repr__(self) -> str:
        return f"<Service {self.name} {len(self.instances)} instances>"

    def _current(self) -> _Pool:
        snapshot = self._feed.services.get(self.name, _NOBODY)
        pool, outliers = self._pool, self._outliers
        if outliers.next_return < self._clock.elapsed():
            with self._lock:
                outliers.refresh()
        if pool.seen is snapshot and pool.version == outliers.version:
            return pool
        with self._lock:
            snapshot = self._feed.services.get(self.name, _NOBODY)
            if (
                self._pool.seen is not snapshot
                or self._pool.version != outliers.version
            ):
                self._pool = self._build(snapshot)
            return self._pool

    def _chooser(
        self, pairs: Sequence[tuple[float, Picker]], reasons: tuple[str, ...]
    ) -> Picker:
        """Combine the levels' pickers and their shares into one picker."""
        if not pairs:

            def refuse(key: str | None) -> Instance:  # noqa: ARG001 - as a Picker
                raise NoInstances(self.name, reasons or (self._none(),))

            return refuse
        pickers = [picker for _, picker in pairs]
        bounds = list(accumulate(share for share, _ in pairs))
        rng = self._rng

        def by_level(key: str | None) -> Instance:
            point = rng.random() if key is None else hash64(key, b"level") / 2**64
            for bound, picker in zip(bounds, pickers, strict=True):
                if point < bound:
                    return picker(key)
            return pickers[-1](key)

        choose = pickers[0] if len(pickers) == 1 else by_level
        return self._slowly(choose) if self._ramps else choose

    def _none(self) -> str:
        """Say that nothing is registered; look for a similar name once a second."""
        now = self._clock.elapsed()
        if self._hint is None or now - self._hint[0] > 1.0:
            self._hint = (now, near(self.name, self._feed.services))
        return f"none is registered{self._hint[1]}"

    def _slowly(self, choose: Picker) -> Picker:
        """Pass newcomers over at first, as far as there are others."""

        def ramped(key: str | None) -> Instance:
            if self._ramps:
                for _ in range(MOST_TRIES):
                    instance = choose(key)
                    if self._rng.random() < self._ramp(instance):
                        return instance
            return choose(key)

        return ramped

    def _ramp(self, instance: Instance) -> float:
        started = self._ramps.get(place_of(instance))
        if started is None:
            return 1.0
        part = (self._clock.elapsed() - started) / self._wanted.slow_start
        if part >= 1:
            self._ramps.pop(place_of(instance), None)
        return max(0.1, part)

    def _build(self, snapshot: tuple[Instance, ...]) -> _Pool:
        """Sort instances into levels and build a picker for each."""
        wanted = self._wanted
        self._outliers.keep(snapshot)
        self._loads = loads_of(snapshot, self._loads)
        matching, reasons = self._match(snapshot)
        healthy = [i for i in matching if i.usable and not self._outliers.ejected(i)]
        fresh = [i for i in healthy if not i.stale]
        panic = len(matching) >= PANIC_FROM and len(healthy) < wanted.panic * len(
            matching
        )
        chosen = matching if panic else (fresh or healthy)
        self._note_newcomers(chosen)
        levels = self._levels(chosen, matching)
        shares = level_shares([(len(a), len(b)) for a, b in levels])
        pairs = [
            (share, make_picker(wanted.policy, usable, self._load, self._rng))
            for share, (usable, _) in zip(shares, levels, strict=True)
            if share > 0
        ]
        stats = ServiceStats(
            instances=len(snapshot),
            usable=len(chosen),
            ejected=sum(map(self._outliers.ejected, matching)),
            panic=panic,
            shares=tuple(shares),
        )
        left_out = len(matching) - len(chosen)
        if left_out:
            reasons.append(f"{left_out} not healthy")
        choose = self._chooser(pairs, tuple(reasons))
        return _Pool(snapshot, self._outliers.version, choose, stats)

    def _load(self, instance: Instance) -> Load:
        return self._loads[place_of(instance)]

    def _match(self, snapshot: Sequence[Instance]) -> tuple[list[Instance], list[str]]:
        wanted = self._wanted
        found, off, version, tags = list[Instance](), 0, 0, 0
        for instance in snapshot:
            if instance.status != "up":
                off += 1
            elif wanted.version is not None and instance.version not in wanted.version:
                version += 1
            elif not wanted.tags <= instance.tags:
                tags += 1
            else:
                found.append(instance)
        reasons = [f"{off} draining, down or in maintenance"] if off else []
        if version:
            reasons.append(f"{version} of a version outside {wanted.version}")
        if tags:
            reasons.append(f"{tags} without the tags {', '.join(sorted(wanted.tags))}")
        return found, reasons

    def _levels(
        self, usable: Sequence[Instance], matching: Sequence[Instance]
    ) -> list[tuple[list[Instance], list[Instance]]]:
        """Divide into own zone, own region, elsewhere: usable and all of each."""
        if not self._wanted.zone and not self._wanted.region:
            return [(list(usable), list(matching))]

        def level(instance: Instance) -> int:
            if self._wanted.zone and instance.zone == self._wanted.zone:
                return 0
            near = self._wanted.region and instance.region == self._wanted.region
            return 1 if near else 2

        return [
            (
                [i for i in usable if level(i) == n],
                [i for i in matching if level(i) == n],
            )
            for n in range(3)
        ]

    def _note_newcomers(self, chosen: Sequence[Instance]) -> None:
        if not self._wanted.slow_start:
            return
        places = {place_of(instance) for instance in chosen}
        now = self._clock.elapsed()
        if self._known is not None:
            for place in places - self._known:
                self._ramps[place] = now
        if places or self._known is not None:
            self._known = places
        self._ramps = {p: t for p, t in self._ramps.items() if p in places}


def level_shares(levels: Sequence[tuple[int, int]]) -> list[float]:
    """Return each level's part of the load, from its usable and total counts.

    The first level takes what it can bear, the next what is missing: load moves by the
    deficit, not all at once, and back the same way. Source: Envoy's priority levels.
    """
    able = [min(1.0, OVERPROVISION * a / b) if b else 0.0 for a, b in levels]
    shares, left = list[float](), 1.0
    for part in able:
        shares.append(min(left, part))
        left -= shares[-1]
    total = sum(shares)
    return [share / total for share in shares] if total else shares
