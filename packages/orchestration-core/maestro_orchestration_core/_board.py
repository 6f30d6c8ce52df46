"""The state of one run, and the only way to change it: by events."""

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, final

from ._events import Event
from ._fold import RunView, TaskView
from ._plan import Plan
from ._routing import Match
from ._schedule import Schedule
from ._session import Context
from ._states import ACTIVE, STATE_EVENTS, TERMINAL, State
from .errors import PlanError, did_you_mean

if TYPE_CHECKING:
    from ._orchestrator import Orchestrator

_MOVING: Final = ACTIVE | {State.READY, State.RETRYING}


@final
class Board:
    """What the parts of a run share. One event loop, no threads."""

    def __init__(self, run: str, maestro: "Orchestrator", *, live: bool) -> None:
        self.run = run
        self.maestro = maestro
        self.live = live
        """False for a replay: no workspace, no gates, no services."""
        self.view = RunView(run)
        self.context: Context
        self.plan = Plan([])
        self.schedule = Schedule(self.plan)
        self._ended: deque[str] = deque()
        self._matches: dict[str, Match] = {}

    def emit(self, kind: str, data: Mapping[str, Any], task: TaskView) -> Event:
        """Append an event about a task."""
        return self.context.emit(
            kind, data, task=task.name, attempt=task.attempt, actor=task.agent
        )

    def move(
        self, task: TaskView, state: State, data: Mapping[str, Any], *, actor: str = ""
    ) -> None:
        """Let a task go to another state; what follows from it is queued."""
        self.context.emit(
            STATE_EVENTS[state], data, task=task.name, attempt=task.attempt,
            actor=actor or task.agent,
        )  # fmt: skip
        if state is State.READY:
            self.schedule.push(task.name)
        elif state in TERMINAL:
            self.schedule.over(task.name)
            self._ended.append(task.name)

    def request(self, task: TaskView, approval: str) -> None:
        """Let a task wait for a person."""
        self.context.emit("approval.requested", {"approval": approval}, task=task.name)
        self.move(task, State.WAITING, {"for": f"approval:{approval}"})

    def task(self, name: str) -> TaskView:
        """Return a task; raise PlanError for a name that is not there."""
        try:
            return self.view.tasks[name]
        except KeyError:
            known = self.view.tasks
            raise PlanError(
                f"no task {name!r}{did_you_mean(name, known)}", key="task"
            ) from None

    def match(self, name: str) -> Match:
        """Return who takes a task; raise NoAgentError."""
        found = self._matches.get(name)
        if found is None:
            found = self._matches[name] = self.maestro.route(self.plan.tasks[name])
        return found

    def take(self, plan: Plan) -> None:
        """Take a plan whose tasks the journal knows, with an empty schedule."""
        self.plan = plan
        agents = self.maestro.agents.values()
        capacity = {agent.name: agent.persona.concurrency for agent in agents}
        self.schedule = Schedule(plan, capacity)

    def replan(self, plan: Plan) -> None:
        """Take a plan and see what is ready."""
        self.take(plan)
        schedule = self.schedule
        self._ended.clear()
        for name in plan.order:
            task = self.view.tasks[name]
            after = set(plan.tasks[name].after)
            done = sum(self.view.tasks[a].state is State.COMPLETED for a in after)
            schedule.waits[name] = len(after) - done
            if task.state is State.READY:
                schedule.push(name)
            elif task.state is State.PENDING:
                self._promote(task)
            elif task.state in TERMINAL:
                schedule.over(name)

    def promote(self) -> None:
        """Make tasks ready whose turn has come; skip those that cannot have one."""
        while self._ended:
            name = self._ended.popleft()
            completed = self.view.tasks[name].state is State.COMPLETED
            for follower in self.plan.followers[name]:
                self.schedule.waits[follower] -= completed
                task = self.view.tasks[follower]
                if task.state is State.PENDING:
                    self._promote(task)

    def _promote(self, task: TaskView) -> None:
        if not self.schedule.waits[task.name]:
            self.move(task, State.READY, {})
            return
        failed = [
            name
            for name in self.plan.tasks[task.name].after
            if self.view.tasks[name].state in TERMINAL
            and self.view.tasks[name].state is not State.COMPLETED
        ]
        if failed:
            data = {"reason": "dependency", "detail": ", ".join(failed)}
            self.move(task, State.SKIPPED, data)

    def moving(self) -> bool:
        """Tell whether some task can go on without a person or a larger budget."""
        return any(self.view.counts[state] for state in _MOVING)

    def waiting(self) -> bool:
        """Tell whether some task waits for a person or a larger budget."""
        counts = self.view.counts
        return bool(counts[State.WAITING] or counts[State.IN_DOUBT])

    def over(self) -> bool:
        """Tell whether every task is over."""
        counts = self.view.counts
        return sum(counts[state] for state in TERMINAL) == len(self.view.tasks)

    def in_doubt(self) -> list[str]:
        """Return the tasks with a call in doubt."""
        tasks = self.view.tasks.items()
        return [name for name, task in tasks if task.state is State.IN_DOUBT]

    def people_wait(self) -> bool:
        """Tell whether a person can bring the run further."""
        return bool(self.in_doubt()) or any(
            task.waits_for.startswith("approval:") for task in self.view.tasks.values()
        )

    def pause_reason(self) -> str:
        """Return what the waiting tasks wait for."""
        waits = {t.waits_for.split(":")[0] for t in self.view.tasks.values()} - {""}
        return ", ".join(sorted(waits))
