"""The ways to choose one of several instances.

Pickers are built once per change of the instances and then only read, by any number
of threads. The ones that look at load see `Load` objects, which outlive the pickers.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, Literal, Protocol, final, get_args

from ._args import near
from ._hashing import Maglev, Rendezvous
from ._model import Instance
from .errors import InvalidInput

__all__ = ["Load", "Picker", "Policy", "check_policy", "make_picker"]

Policy = Literal["p2c", "ewma", "round_robin", "weighted", "least_request", "hash"]
WHEEL = 4_096
RENDEZVOUS_UP_TO = 16


@final
class Load:
    """What this process knows about the work of one instance."""

    __slots__ = ("active", "latency", "seen")

    def __init__(self) -> None:
        self.active = 0
        self.latency: float | None = None  # seconds, peak-sensitive moving average
        self.seen = 0.0

    def observe(self, seconds: float, now: float, decay: float = 10.0) -> None:
        """Take a response time: a worse one counts at once, a better one slowly.

        Source: Finagle's peak EWMA.
        """
        if self.latency is None or seconds > self.latency:
            self.latency = seconds
        else:
            keep = math.exp(-max(0.0, now - self.seen) / decay)
            self.latency = self.latency * keep + seconds * (1 - keep)
        self.seen = now


class Picker(Protocol):
    """Chooses an instance; `key` matters to consistent hashing only."""

    def __call__(self, key: str | None) -> Instance:
        """Return one of the instances the picker was built from."""
        ...


def check_policy(policy: Any) -> None:
    """Refuse what is no policy."""
    known = get_args(Policy)
    if policy not in known:
        expected = f"one of {', '.join(known)}{near(policy, known)}"
        raise InvalidInput("policy", policy, expected)


def make_picker(
    policy: Policy,
    instances: Sequence[Instance],
    load: Callable[[Instance], Load],
    rng: random.Random,
) -> Picker:
    """Build the picker of a policy for at least one instance."""
    if policy == "hash":
        return HashPicker(instances)
    if policy == "round_robin" or len(instances) == 1:
        return Wheel(instances, rng)
    if policy == "weighted":
        return Wheel(smooth_wheel(instances), rng)
    loads = [load(instance) for instance in instances]
    if policy == "least_request":
        return LeastRequest(instances, loads, rng)
    if policy == "ewma":
        return TwoChoices(instances, loads, rng)
    return two_less_busy(instances, loads, rng)


@final
class Wheel:
    """Goes round a fixed sequence; starts anywhere, so processes do not march."""

    def __init__(self, sequence: Sequence[Instance], rng: random.Random) -> None:
        self._sequence = tuple(sequence)
        self._size = len(self._sequence)
        self._next = count(rng.randrange(self._size)).__next__

    def __call__(self, key: str | None) -> Instance:
        """Return the next one."""
        return self._sequence[self._next() % self._size]


def smooth_wheel(instances: Sequence[Instance]) -> list[Instance]:
    """Spread instances by weight as nginx's smooth weighted round robin does."""
    weighted = [i for i in instances if i.weight > 0] or list(instances)
    weights = [max(1, i.weight) for i in weighted]
    divisor = math.gcd(*weights)
    weights = [w // divisor for w in weights]
    total = sum(weights)
    if total > WHEEL:
        weights = [max(1, round(w * WHEEL / total)) for w in weights]
        total = sum(weights)
    current = [0] * len(weights)
    wheel = []
    for _ in range(total):
        for i, weight in enumerate(weights):
            current[i] += weight
        best = max(range(len(weights)), key=current.__getitem__)
        current[best] -= total
        wheel.append(weighted[best])
    return wheel


@final
class HashPicker:
    """Sends each key to its instance; needs a key."""

    def __init__(self, instances: Sequence[Instance]) -> None:
        self._by_id = {instance.id: instance for instance in instances}
        self._weights = [instance.weight for instance in instances]
        self._choose: Callable[[str], str] | None = None

    def __call__(self, key: str | None) -> Instance:
        """Return the instance of `key`; the first call builds the table."""
        if key is None:
            raise InvalidInput(
                "key", key, 'a text: the policy "hash" needs pick(key=...)'
            )
        choose = self._choose
        if choose is None:
            ids = list(self._by_id)
            kind = Rendezvous if len(ids) <= RENDEZVOUS_UP_TO else Maglev
            choose = self._choose = kind(ids, self._weights)
        return self._by_id[choose(key)]


@final
class LeastRequest:
    """Takes the least busy of all, by active requests per weight; O(n)."""

    def __init__(
        self, instances: Sequence[Instance], loads: Sequence[Load], rng: random.Random
    ) -> None:
        self._pairs = list(zip(instances, loads, strict=True))
        self._rng = rng

    def __call__(self, key: str | None) -> Instance:
        """Return the least busy; equals are chosen at random."""
        costs = [(_active_cost(i, x), self._rng.random(), i) for i, x in self._pairs]
        return min(costs, key=lambda entry: entry[:2])[2]


@final
class TwoChoices:
    """Takes the quicker of two random ones (Mitzenmacher 2001); O(1)."""

    def __init__(
        self, instances: Sequence[Instance], loads: Sequence[Load], rng: random.Random
    ) -> None:
        self._pairs = tuple(zip(instances, loads, strict=True))
        self._size = len(self._pairs)
        self._random = rng.random

    def __call__(self, key: str | None) -> Instance:
        """Return the better of two."""
        size, random = self._size, self._random
        first = int(random() * size)
        second = int(random() * (size - 1))
        second += second >= first
        a, b = self._pairs[first], self._pairs[second]
        cost_a, cost_b = _latency_cost(*a), _latency_cost(*b)
        if cost_a == cost_b:
            return a[0]
        return a[0] if cost_a < cost_b else b[0]


def two_less_busy(
    instances: Sequence[Instance], loads: Sequence[Load], rng: random.Random
) -> Picker:
    """Build what takes the less busy of two random ones; the default, so the fastest.

    One random number gives both: its whole part the first, its fraction the second.
    """
    weights = [1 / (instance.weight or 0.001) for instance in instances]
    entries = tuple(zip(instances, loads, weights, strict=True))
    size, rest, random = len(entries), len(entries) - 1, rng.random

    def pick(key: str | None) -> Instance:  # noqa: ARG001 - the shape of a Picker
        point = random() * size
        first = int(point)
        a, load_a, heavy_a = entries[first]
        # Counted from the one behind the first, so never the first itself.
        b, load_b, heavy_b = entries[first - 1 - int((point - first) * rest)]
        if (load_a.active + 1) * heavy_a <= (load_b.active + 1) * heavy_b:
            return a
        return b

    return pick


def _active_cost(instance: Instance, load: Load) -> float:
    return (load.active + 1) / (instance.weight or 0.001)


def _latency_cost(instance: Instance, load: Load) -> float:
    if load.latency is None:  # a newcomer gets one probe, and no second one with it
        return math.inf if load.active else 0.0
    return load.latency * (load.active + 1) / (instance.weight or 0.001)


def loads_of(
    instances: Sequence[Instance], known: Mapping[tuple[str, str, int], Load]
) -> dict[tuple[str, str, int], Load]:
    """Keep the loads of present instances; a new address starts anew."""
    places = [(i.id, i.host, i.port) for i in instances]
    return {place: known.get(place) or Load() for place in places}
