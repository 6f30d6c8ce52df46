"""Which task goes next: counted as things happen, never searched for.

A ready task that something blocks (files that another one touches, a tier that
is not open, an agent with enough to do) waits in a queue of that thing. When
the thing is free again, the best of its queue is looked at; the next one only
if the thing is still free. So a task costs a few heap operations, however many
wait. The run and its forecast use the same code.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, final

from ._touches import overlap

if TYPE_CHECKING:
    from ._plan import Plan

_Key = tuple[bool, int, float, int]


@final
class Schedule:
    """The ready tasks of a plan, the best first, and what they wait for.

    `waits` counts for each task those before it that have not completed.
    """

    def __init__(self, plan: "Plan", capacity: Mapping[str, int] | None = None) -> None:
        self._plan = plan
        self._capacity = capacity or {}
        self.waits = {task.name: len(set(task.after)) for task in plan}
        self._touched: Counter[str] = Counter()
        self._busy: Counter[str] = Counter()
        self._agents: dict[str, str] = {}
        self._open = Counter(plan.level.values()) if plan.barrier else Counter[int]()
        self._tier = 0
        self._ready: list[tuple[_Key, str, str]] = []
        self._parked: dict[str, list[tuple[_Key, str]]] = {}

    def push(self, name: str) -> None:
        """Let a task be offered."""
        heapq.heappush(self._ready, (self._plan.sort_key(name), name, ""))

    def offer(self, start: Callable[[str], str], room: Callable[[], bool]) -> None:
        """Offer tasks, the best first, while there is room.

        Args:
            start: Starts a task or drops it and returns an empty text, or returns
                what blocks it, as `blocker` or `full` named it.
            room: Whether another one can start.
        """
        while self._ready and room():
            key, name, cause = heapq.heappop(self._ready)
            if blocker := start(name):
                heapq.heappush(self._parked.setdefault(blocker, []), (key, name))
            if cause and not self._holds(cause):
                self._free(cause)

    def blocker(self, name: str) -> str:
        """Return what keeps a task from starting beside those that run, or nothing."""
        if self._plan.barrier and self._plan.level[name] > self._tier:
            return f"tier:{self._plan.level[name]}"
        for pattern in self._plan.tasks[name].touches:
            for other in self._touched:
                if overlap(pattern, other):
                    return f"path:{other}"
        return ""

    def full(self, agent: str) -> str:
        """Return what blocks more work for an agent that has enough, or nothing."""
        most = self._capacity.get(agent, 0)
        return f"agent:{agent}" if most and self._busy[agent] >= most else ""

    def started(self, name: str, agent: str = "") -> None:
        """Count what a task holds while it runs."""
        self._agents[name] = agent
        self._busy[agent] += 1
        self._touched.update(self._plan.tasks[name].touches)

    def stopped(self, name: str) -> None:
        """Give back what a task held."""
        agent = self._agents.pop(name)
        self._busy[agent] -= 1
        self._free(f"agent:{agent}")
        for pattern in self._plan.tasks[name].touches:
            self._touched[pattern] -= 1
            if not self._touched[pattern]:
                del self._touched[pattern]
                self._free(f"path:{pattern}")

    def over(self, name: str) -> None:
        """Count a task that is over for good: the next tier may open."""
        if not self._plan.barrier:
            return
        self._open[self._plan.level[name]] -= 1
        while self._tier in self._open and not self._open[self._tier]:
            self._tier += 1
            self._free(f"tier:{self._tier}")

    def _holds(self, cause: str) -> bool:
        kind, _, what = cause.partition(":")
        if kind == "path":
            return what in self._touched
        if kind == "tier":
            return int(what) > self._tier
        return bool(self.full(what))

    def _free(self, cause: str) -> None:
        parked = self._parked.get(cause)
        if not parked:
            return
        key, name = heapq.heappop(parked)
        heapq.heappush(self._ready, (key, name, cause))
        if not parked:
            del self._parked[cause]
