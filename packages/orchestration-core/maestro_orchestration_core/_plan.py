"""Plans: tasks, their order, and an honest forecast of what parallel work buys."""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from types import NoneType
from typing import Any, Final, Literal, final

from ._agent import rank, route
from ._budget import Budget
from ._log import digest, dump
from ._persona import Persona
from ._schedule import Schedule
from ._touches import Conflict, conflicts
from .errors import NoAgentError, PlanCycleError, PlanError, did_you_mean

Approval = Literal["", "before", "after", "both"]
_MAX_NAME: Final = 100
_EXPLAINED: Final = 100  # pairs of tasks that touch the same
_NUMBER: Final = (int, float)
_KINDS: Final[dict[str, tuple[type, ...]]] = {
    "prompt": (str,), "agent": (str, NoneType), "tries": (int,), "priority": (int,),
    "effort": _NUMBER, "timeout": (*_NUMBER, NoneType), "catch_up": (bool,),
    "args": (Mapping,), "output": (Mapping, NoneType), "budget": (Budget, NoneType),
}  # fmt: skip


def _texts(key: str, value: Any) -> list[str]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise PlanError(f"must be a list, got {value!r}", key=key)
    found = list(value)
    if wrong := [one for one in found if not isinstance(one, str)]:
        raise PlanError(f"expected texts, got {wrong[0]!r}", key=key)
    return found


@dataclass(frozen=True, slots=True)
class Task:
    """One piece of work for one agent.

    `needs` is {"python": 2} or {"python"}; `touches` are globs of files that
    only one task at a time may change; `effort` is in any unit, 1 by default.
    """

    name: str
    prompt: str = ""
    needs: Mapping[str, int] | Iterable[str] = field(default=(), kw_only=True)
    agent: str | None = field(default=None, kw_only=True)
    after: Sequence[str] = field(default=(), kw_only=True)
    touches: Sequence[str] = field(default=(), kw_only=True)
    produces: Sequence[str] = field(default=(), kw_only=True)
    """Globs in the workspace, or keys of a structured answer as `data.key`."""
    consumes: Sequence[str] = field(default=(), kw_only=True)
    approval: Approval = field(default="", kw_only=True)
    tries: int = field(default=1, kw_only=True)
    priority: int = field(default=0, kw_only=True)
    effort: float = field(default=1.0, kw_only=True)
    timeout: float | None = field(default=None, kw_only=True)
    """Seconds for one attempt."""
    output: Mapping[str, Any] | None = field(default=None, kw_only=True)
    """JSON schema that the answer must match."""
    budget: Budget | None = field(default=None, kw_only=True)
    catch_up: bool = field(default=False, kw_only=True)
    """Goes before everything else that is ready."""
    args: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    """Plain data for the agent."""

    def __post_init__(self) -> None:
        ok = self.name and all(c.isalnum() or c in "-_." for c in self.name)
        if not ok or len(self.name) > _MAX_NAME or self.name.startswith("."):
            raise PlanError(
                f"{self.name!r} must be letters, digits, '-', '_' or '.'",
                key="task name",
            )
        key = f"task {self.name}"
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or (
                type(value) is bool and bool not in kinds
            ):
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise PlanError(
                    f"expected {wanted}, got {value!r}", key=f"{key}.{name}"
                )
        for name in ("after", "touches", "produces", "consumes"):
            object.__setattr__(
                self, name, tuple(_texts(f"{key}.{name}", getattr(self, name)))
            )
        needs = self.needs
        if not isinstance(needs, Mapping):
            needs = dict.fromkeys(sorted(_texts(f"{key}.needs", needs)), 1)
        if any(type(level) is not int for level in needs.values()):
            raise PlanError(
                f"levels are whole numbers, got {needs!r}", key=f"{key}.needs"
            )
        object.__setattr__(self, "needs", dict(needs))
        if self.args or self.output:
            self._check_plain(key)
        if self.tries < 1:
            raise PlanError(f"{self.tries!r} is below 1", key=f"{key}.tries")
        if self.timeout is not None and not self.timeout > 0:
            raise PlanError(f"{self.timeout!r} must be above 0", key=f"{key}.timeout")
        if not self.effort > 0:
            raise PlanError(f"{self.effort!r} must be above 0", key=f"{key}.effort")
        if self.approval not in {"", "before", "after", "both"}:
            raise PlanError(
                f"{self.approval!r} is not before, after or both",
                key=f"{key}.approval",
            )

    def _check_plain(self, key: str) -> None:
        for name in ("args", "output"):
            try:
                dump(getattr(self, name))
            except (TypeError, ValueError, RecursionError) as error:
                raise PlanError(
                    f"must be plain JSON data: {error}", key=f"{key}.{name}"
                ) from None

    @property
    def levels(self) -> Mapping[str, int]:
        """The needed capabilities with their levels."""
        assert isinstance(self.needs, Mapping)
        return self.needs

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str = "") -> "Task":
        """Make a task from plain data; raise PlanError with the key."""
        if not isinstance(data, Mapping):
            raise PlanError(
                f"a task is a table, got {data!r}", source=source, key="tasks"
            )
        known = {f.name for f in fields(cls)}
        values = dict(data)
        name = values["name"] = str(values.get("name", ""))
        for key in values:
            if key not in known:
                raise PlanError(
                    f"unknown key{did_you_mean(key, known)}",
                    source=source,
                    key=f"task {name}.{key}",
                )
        if not name:
            raise PlanError("a task has no name", source=source, key="tasks")
        if isinstance(values.get("budget"), Mapping):
            values["budget"] = Budget.from_dict(values["budget"])
        try:
            return cls(**values)
        except PlanError as error:
            if source and not error.source:
                raise PlanError(str(error), source=source) from error
            raise

    def to_dict(self) -> dict[str, Any]:
        """Return the task as plain data, defaults left out."""
        found: dict[str, Any] = {"name": self.name}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name in {"name", "budget"} or not value:
                continue
            if f.name in {"tries", "effort"} and value == 1:
                continue
            found[f.name] = list(value) if isinstance(value, tuple) else value
        if self.budget:
            found["budget"] = self.budget.to_dict()
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """What a number of workers can buy, from efforts alone."""

    workers: int
    work: float
    critical_path: tuple[str, ...]
    critical_length: float
    bound: float
    """No schedule is shorter: max(critical path, work / workers)."""
    makespan: float
    """Of the schedule that the run would follow, if efforts were exact."""
    speedup_at_most: float


@final
class Plan:
    """A checked, ordered set of tasks. Immutable; `with_tasks` returns a new one.

    With `barrier=True` a tier starts when the one before it is over.
    """

    def __init__(self, tasks: Iterable[Task], *, barrier: bool = False) -> None:
        self.barrier = barrier
        self.tasks: dict[str, Task] = {}
        if not isinstance(tasks, Iterable):
            raise PlanError(f"expected a list of Task, got {tasks!r}", key="tasks")
        for task in tasks:
            if not isinstance(task, Task):
                raise PlanError(f"expected a Task, got {task!r}", key="tasks")
            if task.name in self.tasks:
                raise PlanError("is there twice", key=f"task {task.name}")
            self.tasks[task.name] = task
        for task in self.tasks.values():
            for name in task.after:
                if name not in self.tasks:
                    raise PlanError(
                        f"waits for unknown task {name!r}"
                        f"{did_you_mean(name, self.tasks)}",
                        key=f"task {task.name}.after",
                    )
        self.order = self._sorted()
        self._position = {name: n for n, name in enumerate(self.order)}
        self.level = self._levels()
        self.tail = self._tails()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, source: str = "") -> "Plan":
        """Make a plan from `{"tasks": [...], "barrier": ...}`."""
        tasks = data.get("tasks", [])
        if not isinstance(tasks, list) or not tasks:
            raise PlanError("a plan needs a list of tasks", source=source, key="tasks")
        made = [Task.from_dict(task, source=source) for task in tasks]
        try:
            return cls(made, barrier=bool(data.get("barrier", False)))
        except PlanError as error:
            if source and not error.source and type(error) is PlanError:
                raise PlanError(str(error), source=source) from error
            raise

    def with_tasks(self, tasks: Iterable[Task]) -> "Plan":
        """Return this plan with more tasks, checked as a whole."""
        return Plan([*self.tasks.values(), *tasks], barrier=self.barrier)

    def digest(self) -> str:
        """Return a hash over everything that tells the plan from another."""
        return digest([self.barrier, [t.to_dict() for t in self.tasks.values()]])

    def __len__(self) -> int:
        return len(self.tasks)

    def __iter__(self) -> Iterator[Task]:
        return iter(self.tasks.values())

    def _sorted(self) -> tuple[str, ...]:
        waits = {t.name: set(t.after) for t in self}
        followers: dict[str, list[str]] = {name: [] for name in self.tasks}
        for task in self:
            for name in dict.fromkeys(task.after):
                followers[name].append(task.name)
        free = deque(name for name, after in waits.items() if not after)
        order: list[str] = []
        while free:
            name = free.popleft()
            order.append(name)
            for follower in followers[name]:
                waits[follower].discard(name)
                if not waits[follower]:
                    free.append(follower)
        if len(order) < len(self.tasks):
            raise PlanCycleError(_cycle({n: w for n, w in waits.items() if w}))
        self.followers = followers
        return tuple(order)

    def _levels(self) -> dict[str, int]:
        level: dict[str, int] = {}
        for name in self.order:
            level[name] = 1 + max(
                (level[a] for a in self.tasks[name].after), default=-1
            )
        return level

    def _tails(self) -> dict[str, float]:
        tail: dict[str, float] = {}
        for name in reversed(self.order):
            after = max((tail[f] for f in self.followers[name]), default=0.0)
            tail[name] = self.tasks[name].effort + after
        return tail

    @property
    def levels(self) -> list[list[str]]:
        """Tiers: what could start together if all took the same time."""
        found: list[list[str]] = [
            [] for _ in range(1 + max(self.level.values(), default=-1))
        ]
        for name in self.order:
            found[self.level[name]].append(name)
        return found

    @property
    def critical_path(self) -> tuple[str, ...]:
        """The chain of tasks that no number of workers shortens."""
        path: list[str] = []
        choices: Sequence[str] = self.order
        while choices:
            best = max(choices, key=lambda name: self.tail[name])
            path.append(best)
            choices = self.followers[best]
        return tuple(path)

    def sort_key(self, name: str) -> tuple[bool, int, float, int]:
        """Return what ready tasks are ordered by, the smallest first."""
        task = self.tasks[name]
        return (
            not task.catch_up, -task.priority, -self.tail[name], self._position[name]
        )  # fmt: skip

    def forecast(self, workers: int) -> Forecast:
        """Return bound, makespan and speed-up for a number of workers."""
        if workers < 1:
            raise PlanError(f"{workers!r} is below 1", key="workers")
        work = sum(task.effort for task in self)
        length = max(self.tail.values(), default=0.0)
        bound = max(length, work / workers)
        return Forecast(
            workers=workers, work=work, critical_path=self.critical_path,
            critical_length=length, bound=bound,
            makespan=self._simulate(workers),
            speedup_at_most=work / bound if bound else 1.0,
        )  # fmt: skip

    def _simulate(self, workers: int) -> float:
        """Follow the scheduler's own rule: leases, priority, critical path."""
        schedule = Schedule(self)
        for name in self.order:
            if not schedule.waits[name]:
                schedule.push(name)
        running: list[tuple[float, int, str]] = []
        now = 0.0

        def start(name: str) -> str:
            if blocker := schedule.blocker(name):
                return blocker
            schedule.started(name)
            end = now + self.tasks[name].effort
            heapq.heappush(running, (end, self._position[name], name))
            return ""

        schedule.offer(start, lambda: len(running) < workers)
        while running:
            now, _, done = heapq.heappop(running)
            schedule.stopped(done)
            schedule.over(done)
            for follower in self.followers[done]:
                schedule.waits[follower] -= 1
                if not schedule.waits[follower]:
                    schedule.push(follower)
            schedule.offer(start, lambda: len(running) < workers)
        return now

    def conflicts(self) -> list[Conflict]:
        """Return the pairs that could run together and touch the same files."""
        place = self._position
        return sorted(conflicts(self), key=lambda c: (place[c.left], place[c.right]))

    def explain(self, *, workers: int = 4, personas: Iterable[Persona] = ()) -> str:
        """Return tiers, critical path, bound, conflicts and who takes what, as text."""
        forecast = self.forecast(workers)
        lines = [f"{len(self)} tasks in {len(self.levels)} tiers, {workers} workers"]
        lines += [f"  tier {n}: {', '.join(t)}" for n, t in enumerate(self.levels)]
        lines += [
            f"critical path {forecast.critical_length:g}: "
            + " -> ".join(forecast.critical_path),
            (
                f"work {forecast.work:g}; no schedule under {forecast.bound:g} (larger "
                f"of the critical path and {forecast.work:g}/{workers}), this one "
                f"takes {forecast.makespan:g}; speed-up at most "
                f"{forecast.speedup_at_most:.2f}"
            ),
        ]
        found = list(islice(conflicts(self), _EXPLAINED + 1))
        for c in found[:_EXPLAINED]:
            both = "; ".join(
                sorted({" and ".join(dict.fromkeys(p)) for p in c.patterns})
            )
            lines.append(
                f"not at the same time: {c.left}, {c.right} (both touch {both})"
            )
        if len(found) > _EXPLAINED:
            lines.append("and more pairs: see Plan.conflicts()")
        people = list(personas)
        if people:
            lines += [self._explain_agent(task, people) for task in self]
        return "\n".join(lines)

    def _explain_agent(self, task: Task, people: Sequence[Persona]) -> str:
        try:
            match = route(task.levels, people, task=task.name, agent=task.agent)
        except NoAgentError as error:
            return f"{task.name}: nobody: {error.explanation}"
        others = [m.persona for m in rank(task.levels, people) if m.fits]
        also = [name for name in others if name != match.persona]
        return f"{task.name}: {match.persona} ({match.why})" + (
            f"; could too: {', '.join(also)}" if also and not task.agent else ""
        )


def _cycle(waits: Mapping[str, set[str]]) -> list[str]:
    path = [next(iter(waits))]
    while True:
        following = min(name for name in waits[path[-1]] if name in waits)
        if following in path:
            return [*path[path.index(following) :], following]
        path.append(following)
