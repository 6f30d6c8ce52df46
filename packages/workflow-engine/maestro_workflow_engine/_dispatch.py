"""Which ready step starts next, and what it takes: shared by plans and runs.

A plan moves a virtual clock, a run waits for workers; both ask this class what to
start. So a forecast follows the same rules as the run that it foretells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Literal, final

Policy = Literal["critical-path", "fair", "newest-first"]
POLICIES: tuple[Policy, ...] = ("critical-path", "fair", "newest-first")
Needs = tuple[tuple[str, int], ...]

# A big request that was passed over so often keeps its pools to itself until it runs.
_PATIENCE = 64


@final
class _Queue:
    """The ready steps of one group that take the same from the pools."""

    __slots__ = ("group", "heap", "needs", "passed")

    def __init__(self, group: int, needs: Needs) -> None:
        self.group = group
        self.needs = needs
        self.heap: list[tuple[float, int]] = []
        self.passed = 0


@final
class Dispatcher:
    """The ready steps, best first, and the units left in each pool.

    Units are taken when a step is chosen to start, all or none, so steps that hold
    some never wait for others: no deadlock. What is taken follows from what is
    running; nothing is stored that a crash could leak. Not thread-safe.
    """

    def __init__(
        self, pools: Mapping[str, int] | None = None, policy: Policy = "critical-path"
    ) -> None:
        self.free = dict(pools or {})
        self.policy = policy
        self._plain = _Queue(0, ())
        self._queues: dict[tuple[int, Needs], _Queue] = {(0, ()): self._plain}
        self._list = [self._plain]
        self._running: dict[int, int] = {}
        self._simple = True
        self._size = 0

    def __len__(self) -> int:
        return len(self._plain.heap) if self._simple else self._size

    def push(
        self, index: int, priority: float, needs: Needs = (), group: int = 0
    ) -> None:
        """Add a ready step; a higher priority starts first, then the older step."""
        if self._simple and not needs and not group:
            heappush(self._plain.heap, (-priority, index))
            return
        if self._simple:
            self._simple = False
            self._size = len(self._plain.heap)
        key = (group if self.policy != "critical-path" else 0, needs)
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = _Queue(*key)
            self._list.append(queue)
        heappush(queue.heap, (-priority, index))
        self._size += 1

    def extend(self, indexes: Sequence[int], priority: float) -> None:
        """Add many steps of one priority that need no pool, in their order."""
        heap = self._plain.heap
        if not self._simple:
            for index in indexes:
                self.push(index, priority)
        elif heap:
            heap += [(-priority, index) for index in indexes]
            heapify(heap)
        else:  # already in heap order
            heap += [(-priority, index) for index in indexes]

    def add(self, indexes: Sequence[int], priorities: Sequence[float]) -> None:
        """Add ready steps that need no pool, each with its own priority."""
        if not self._simple:
            for index in indexes:
                self.push(index, priorities[index])
            return
        heap = self._plain.heap
        for index in indexes:
            heappush(heap, (-priorities[index], index))

    def take_up_to(self, room: int) -> list[int]:
        """Return the steps to start next, at most `room`, and take their units."""
        if self._simple:
            heap = self._plain.heap
            return [heappop(heap)[1] for _ in range(min(room, len(heap)))]
        found: list[int] = []
        while len(found) < room and (index := self._take()) >= 0:
            found.append(index)
        return found

    def take(self) -> int:
        """Return the step to start next and take its units; -1 when none can start."""
        if self._simple:
            heap = self._plain.heap
            return heappop(heap)[1] if heap else -1
        return self._take()

    def _take(self) -> int:
        held = self._reserved()
        best: _Queue | None = None
        rank: tuple[float, float, int] | None = None
        blocked = []
        for queue in self._list:
            if not queue.heap:
                continue
            if not self._fits(queue, held):
                blocked.append(queue)
                continue
            own = self._rank(queue)
            if rank is None or own < rank:
                best, rank = queue, own
        if best is None:
            return -1
        index = heappop(best.heap)[1]
        self._size -= 1
        best.passed = 0
        free = self.free
        for pool, amount in best.needs:
            free[pool] -= amount
        taken = {pool for pool, _ in best.needs}
        for queue in blocked:
            if taken.intersection(pool for pool, _ in queue.needs):
                queue.passed += 1
        if self.policy == "fair":
            self._running[best.group] = self._running.get(best.group, 0) + 1
        return index

    def _reserved(self) -> _Queue | None:
        """The queue, if any, that others have overtaken too often."""
        waiting = [q for q in self._list if q.heap and q.passed > _PATIENCE]
        return max(waiting, key=lambda queue: queue.passed) if waiting else None

    def _fits(self, queue: _Queue, held: _Queue | None) -> bool:
        free = self.free
        if held is not None and held is not queue:
            kept = {pool for pool, _ in held.needs}
            if any(pool in kept for pool, _ in queue.needs):
                return False
        return all(free[pool] >= amount for pool, amount in queue.needs)

    def _rank(self, queue: _Queue) -> tuple[float, float, int]:
        priority, index = queue.heap[0]
        if self.policy == "fair":
            return (self._running.get(queue.group, 0), priority, index)
        if self.policy == "newest-first":
            return (-queue.group, priority, index)
        return (0, priority, index)

    def release(self, needs: Needs, group: int = 0) -> None:
        """Give back what a step took; not needed for a step that took nothing."""
        for pool, amount in needs:
            self.free[pool] += amount
        if self.policy == "fair" and not self._simple:
            running = self._running.get(group, 0)
            self._running[group] = max(0, running - 1)

    def clear(self) -> list[int]:
        """Take out all ready steps, as when a run is cancelled."""
        found = [index for queue in self._list for _, index in queue.heap]
        for queue in self._list:
            queue.heap.clear()
        self._size = 0
        return found
