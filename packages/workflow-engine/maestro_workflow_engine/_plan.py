"""Forecasting a run: levels, critical path, and what more workers would gain."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any, final

from ._arguments import whole, wrong
from ._dispatch import Dispatcher, Needs, Policy
from ._graph import Graph, bottom_levels, compile_graph, critical_path, levels

if TYPE_CHECKING:
    from ._workflow import Workflow


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRow:
    """The forecast for one number of workers; times in seconds.

    `waves` and `wave_seconds` are for batches: as many steps of a level as there
    are workers, then wait for all of them. `seconds` is for starting each step as
    soon as it can, the longest way to the end first; it is what a run does.
    `bound` is what no schedule can beat: the critical path, or work over workers.
    """

    workers: int
    waves: int
    wave_seconds: float
    wave_speedup: float
    seconds: float
    speedup: float
    bound: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """Where a schedule puts one step; seconds from the start of the run."""

    step: str
    worker: int
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TierRule:
    """The tier of one step, and the reason in words."""

    step: str
    tier: str
    reason: str


@dataclass(kw_only=True)  # without slots, for the cached property
class Tasks:
    """What a plan schedules: steps, the items of maps, and joins that take no time."""

    graph: Graph
    names: list[str]
    durations: list[float]
    needs: list[Needs] | None
    instant: frozenset[int]
    pools: dict[str, int]

    @cached_property
    def bottom(self) -> list[float]:
        return bottom_levels(self.graph, self.durations)


def simulate(
    tasks: Tasks,
    priorities: Sequence[float],
    workers: int,
    *,
    policy: Policy = "critical-path",
    placed: list[tuple[int, int, float, float]] | None = None,
) -> float:
    """Return the makespan of a run on a virtual clock. O(n log n).

    With `placed`, tuples (task, worker, start, end) are added to it.
    """
    durations, needs = tasks.durations, tasks.needs
    successors, instant = tasks.graph.successors, tasks.instant
    waits = tasks.graph.waits.copy()
    dispatcher = Dispatcher(tasks.pools, policy)
    push, take = dispatcher.push, dispatcher.take
    for index in [i for i, count in enumerate(waits) if not count]:
        push(index, priorities[index], needs[index] if needs else ())
    running: list[tuple[float, int]] = []
    lanes = list(range(workers - 1, -1, -1))
    lane: dict[int, int] = {}
    free, now = workers, 0.0
    plain = needs is None
    while True:
        while free:
            index = take()
            if index < 0:
                break
            if instant and index in instant:
                end = now  # takes no worker
            else:
                end = now + durations[index]
                free -= 1
                if placed is not None:
                    lane[index] = lanes.pop()
                    placed.append((index, lane[index], now, end))
            heappush(running, (end, index))
        if not running:
            return now
        now = running[0][0]
        # All that ends now is seen before anything starts.
        while running and running[0][0] == now:
            index = heappop(running)[1]
            if not instant or index not in instant:
                free += 1
                if placed is not None:
                    lanes.append(lane.pop(index))
            if needs and needs[index]:
                dispatcher.release(needs[index])
            for other in successors[index]:
                left = waits[other] = waits[other] - 1
                if not left:
                    if plain:
                        push(other, priorities[other])
                    else:
                        push(other, priorities[other], needs[other])  # type: ignore[index]


def search(
    tasks: Tasks, workers: int, *, tries: int, seed: int = 1
) -> tuple[float, list[float]]:
    """Return the best makespan of `tries` schedules, and the priorities that give it.

    The first is highest-level-first; the others shake its priorities a little.
    Stops at the first schedule that no other can beat.
    """
    best_priorities = tasks.bottom
    best = simulate(tasks, best_priorities, workers)
    bound = max(max(tasks.bottom, default=0.0), sum(tasks.durations) / workers)
    rng = random.Random(seed)
    for turn in range(1, tries):
        if best <= bound * (1 + 1e-12):
            break
        spread = (0.05, 0.15, 0.3, 0.6)[turn % 4]
        shaken = [p * (1 + spread * rng.random()) for p in tasks.bottom]
        length = simulate(tasks, shaken, workers)
        if length < best:
            best, best_priorities = length, shaken
    return best, best_priorities


def tasks_of(
    workflow: Workflow, durations: Mapping[str, float] | None = None
) -> tuple[Tasks, dict[str, int]]:
    """Lay a workflow out as tasks; also count where the durations came from."""
    known = durations or {}
    nodes = workflow.nodes
    names = [node.name for node in nodes]
    pools = [node.spec.pools for node in nodes]
    sources = {"history": 0, "estimate": 0, "assumed": 0}
    times: list[float] = []
    instant: list[int] = []
    maps: list[int] = []
    for index, node in enumerate(nodes):
        spec = node.spec
        if spec.kind in {"gate", "barrier"}:
            times.append(0.0)
            instant.append(index)
            continue
        if known and node.name in known:
            sources["history"] += 1
            times.append(known[node.name])
        elif spec.estimate is not None:
            sources["estimate"] += 1
            times.append(spec.estimate)
        else:
            sources["assumed"] += 1
            times.append(1.0)
        if node.mapping is not None:
            maps.append(index)
    graph = workflow.graph()
    if maps:
        needs: list[Sequence[int]] = [node.needs for node in nodes]
        for index in maps:
            node, mapping = nodes[index], nodes[index].mapping
            assert mapping is not None
            items = mapping.items
            count = len(items) if isinstance(items, list) else mapping.expect
            children = -(-count // mapping.chunk)
            first = len(names)
            names += [f"{node.name}[{k}]" for k in range(children)]
            times += [times[index]] * children
            pools += [node.spec.pools] * children
            needs += [node.needs] * children
            # The map itself becomes the point where its items meet.
            needs[index] = [*node.needs, *range(first, first + children)]
            times[index], pools[index] = 0.0, ()
            instant.append(index)
        graph = compile_graph(needs)
    tasks = Tasks(
        graph=graph,
        names=names,
        durations=times,
        needs=pools if any(pools) else None,
        instant=frozenset(instant),
        pools=dict(workflow.pools),
    )
    return tasks, sources


def make_plan(
    workflow: Workflow,
    workers: int | Iterable[int],
    *,
    durations: Mapping[str, float] | None = None,
    search: int = 0,
) -> Plan:
    """Check the workflow and return its plan for these numbers of workers."""
    given: object = workers
    if isinstance(given, str) or not isinstance(given, int | Iterable):
        raise wrong(
            "plan()", "workers", "a number, or several as in (1, 2, 4)", workers
        )
    counts = (workers,) if isinstance(workers, int) else tuple(workers)
    for count in counts:
        whole("plan()", "workers", count)
    whole("plan()", "search", search, 0)
    workflow.validate()
    tasks, sources = tasks_of(workflow, durations)
    return Plan(workflow, tasks, counts, sources, tries=search)


@final
class Plan:
    """The forecast of a workflow: what depends on what, how long, with how many.

    `print(plan)` shows it all; `rows` has the table, `as_dict()` everything.
    """

    def __init__(
        self,
        workflow: Workflow,
        tasks: Tasks,
        workers: tuple[int, ...],
        sources: dict[str, int],
        *,
        tries: int = 0,
    ) -> None:
        self.workflow = workflow.name
        self.workers = workers
        self.sources = sources
        self._tasks = tasks
        self._tries = tries
        self._steps = len(workflow.nodes)
        self._priorities: dict[int, list[float]] = {}

    def __len__(self) -> int:
        return self._steps

    @property
    def work(self) -> float:
        """The sum of all durations in seconds: the time one worker needs."""
        return math.fsum(self._tasks.durations)

    @cached_property
    def critical_path(self) -> tuple[str, ...]:
        """The longest chain of steps, which no number of workers shortens."""
        path = critical_path(self._tasks.graph, self._tasks.bottom)
        return tuple(self._tasks.names[i] for i in path if i not in self._tasks.instant)

    @property
    def critical_seconds(self) -> float:
        """The length of the critical path in seconds."""
        return max(self._tasks.bottom, default=0.0)

    @cached_property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """The steps by level: each needs something of the level before it."""
        found: list[list[str]] = []
        for index, level in enumerate(levels(self._tasks.graph)):
            while len(found) <= level:
                found.append([])
            if index not in self._tasks.instant:
                found[level].append(self._tasks.names[index])
        return tuple(tuple(names) for names in found if names)

    @cached_property
    def rows(self) -> tuple[PlanRow, ...]:
        """One forecast for each number of workers."""
        return tuple(self.row(count) for count in self.workers)

    def row(self, workers: int) -> PlanRow:
        """Return the forecast for one number of workers."""
        work = self.work
        waves, wave_seconds = self._waves(workers)
        length = self.makespan(workers)
        return PlanRow(
            workers=workers,
            waves=waves,
            wave_seconds=wave_seconds,
            wave_speedup=work / wave_seconds if wave_seconds else 1.0,
            seconds=length,
            speedup=work / length if length else 1.0,
            bound=max(self.critical_seconds, work / workers),
        )

    def makespan(self, workers: int) -> float:
        """Return the forecast length of a run in seconds."""
        if self._tries > 1:
            length, self._priorities[workers] = search(
                self._tasks, workers, tries=self._tries
            )
            return length
        return simulate(self._tasks, self._tasks.bottom, workers)

    def priorities(self, workers: int) -> list[float]:
        """Return what the schedule of `makespan` ranks the tasks by."""
        if self._tries > 1 and workers not in self._priorities:
            self.makespan(workers)
        return self._priorities.get(workers, self._tasks.bottom)

    def schedule(self, workers: int) -> tuple[Placed, ...]:
        """Return where and when each step would run."""
        placed: list[tuple[int, int, float, float]] = []
        simulate(self._tasks, self.priorities(workers), workers, placed=placed)
        return tuple(
            Placed(step=self._tasks.names[i], worker=lane, start=start, end=end)
            for i, lane, start, end in placed
        )

    def _waves(self, workers: int) -> tuple[int, float]:
        """Count batches of `workers` steps, and add up the longest of each."""
        groups: dict[int, list[float]] = {}
        for index, level in enumerate(levels(self._tasks.graph)):
            if index not in self._tasks.instant:
                groups.setdefault(level, []).append(self._tasks.durations[index])
        waves, total = 0, 0.0
        for times in groups.values():
            for start in range(0, len(times), workers):
                waves += 1
                total += max(times[start : start + workers])
        return waves, total

    @cached_property
    def useful_workers(self) -> int:
        """The number of workers from which more gain less than 1 % each."""
        last, length = 1, self.makespan(1)
        widest = max((len(level) for level in self.levels), default=1)
        while last < widest and length > self.critical_seconds * 1.000001:
            shorter = self.makespan(last + 1)
            if shorter > length * 0.99 and self.makespan(2 * last) > length * 0.99:
                break
            last, length = last + 1, shorter
        return last

    def gains(
        self, workers: int, *, off: float = 0.1, top: int = 5
    ) -> dict[str, float]:
        """Return the seconds that a run gains when a step takes `off` less time.

        Looks at the steps of the critical path, longest first.
        """
        tasks = self._tasks
        path = [
            i for i in critical_path(tasks.graph, tasks.bottom) if tasks.durations[i]
        ]
        path.sort(key=lambda i: -tasks.durations[i])
        before = simulate(tasks, tasks.bottom, workers)
        found: dict[str, float] = {}
        for index in path[:top]:
            times = tasks.durations.copy()
            times[index] *= 1 - off
            faster = Tasks(
                graph=tasks.graph, names=tasks.names, durations=times,
                needs=tasks.needs, instant=tasks.instant, pools=tasks.pools,
            )  # fmt: skip
            found[tasks.names[index]] = before - simulate(
                faster, faster.bottom, workers
            )
        return found

    def tiers(self) -> tuple[TierRule, ...]:
        """Return each step's tier and why, for people who think in tiers.

        A step that three or more others wait for is foundation; one on the critical
        path is critical; one that nothing waits for is closing; the others are
        standard. A view only: runs do not wait for tiers.
        """
        tasks = self._tasks
        path = set(critical_path(tasks.graph, tasks.bottom))
        found = []
        for index in range(self._steps):
            after = len(tasks.graph.successors[index])
            if after >= 3:
                tier, reason = "foundation", f"{after} steps wait for it"
            elif index in path:
                tier, reason = "critical", "it is on the longest chain"
            elif not after:
                tier, reason = "closing", "nothing waits for it"
            else:
                tier, reason = "standard", f"{after} waits for it, and there is slack"
            found.append(TierRule(step=tasks.names[index], tier=tier, reason=reason))
        return tuple(found)

    def as_dict(self) -> dict[str, Any]:
        """Return the whole plan as plain data."""
        return {
            "workflow": self.workflow,
            "steps": len(self),
            "work": self.work,
            "critical_path": list(self.critical_path),
            "critical_seconds": self.critical_seconds,
            "durations_from": dict(self.sources),
            "useful_workers": self.useful_workers,
            "rows": [
                {name: getattr(row, name) for name in PlanRow.__slots__}
                for row in self.rows
            ],
            "levels": [list(level) for level in self.levels],
        }

    def __str__(self) -> str:
        path = list(self.critical_path)
        shown = path if len(path) <= 12 else [*path[:6], "...", *path[-5:]]
        sources = ", ".join(f"{n} {name}" for name, n in self.sources.items() if n)
        useful = self.useful_workers
        lines = [
            (
                f"{self.workflow}: {len(self)} steps in {len(self.levels)} levels, "
                f"work {human(self.work)} (durations: {sources or 'none'})"
            ),
            f"critical path {human(self.critical_seconds)}: {' -> '.join(shown)}",
            "",
            "workers  waves  by waves           event-driven        lower bound",
        ]
        lines += [
            f"{row.workers:>7}  {row.waves:>5}  "
            f"{human(row.wave_seconds):>9} {row.wave_speedup:>5.1f}x    "
            f"{human(row.seconds):>9} {row.speedup:>5.1f}x    "
            f"{human(row.bound):>9}"
            for row in self.rows
        ]
        lines += ["", f"more than {useful} worker{'s' * (useful != 1)} gain little"]
        return "\n".join(lines)


def human(length: float) -> str:
    """Return a duration for people: 7us, 2.5ms, 0.25s, 42s, 3m20s, 2h05m."""
    if 0 < length < 0.001:
        return f"{length * 1e6:.3g}us"
    if 0 < length < 0.01:
        return f"{length * 1e3:.3g}ms"
    if length < 10:
        return f"{length:.3g}s"
    if length < 120:
        return f"{length:.0f}s"
    minutes, rest = divmod(round(length), 60)
    if minutes < 120:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
