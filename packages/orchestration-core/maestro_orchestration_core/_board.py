"""The state of one run, changed by events alone, and what people decide about it."""

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, final

from ._agent import Match
from ._budget import Budget
from ._fold import ACTIVE, STATE_EVENTS, TERMINAL, RunView, State, TaskView
from ._log import Event
from ._messages import Reply
from ._plan import Plan, Task
from ._schedule import Schedule
from ._session import Context
from .errors import ApprovalError, PlanError, did_you_mean

if TYPE_CHECKING:
    from ._driver import Driver
    from ._run import Orchestrator

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


@final
class Decisions:
    """Approvals, cancellations, larger budgets, calls in doubt, more tasks."""

    def __init__(self, driver: "Driver") -> None:
        self._driver = driver
        self._board = driver.board

    async def read_inbox(self) -> None:
        """Carry out what other processes asked for."""
        for _, kind, data in self._board.context.log.inbox():
            try:
                await self._carry_out(kind, data)
            except (ApprovalError, PlanError) as error:
                self._board.context.emit(
                    "inbox.refused", {"kind": kind, "why": str(error)}
                )

    async def _carry_out(self, kind: str, data: Mapping[str, Any]) -> None:
        if kind in {"approve", "deny"}:
            how = "granted" if kind == "approve" else "denied"
            note = str(data.get("note", ""))
            await self.decide(how, data["approval"], data["by"], note)
        elif kind == "cancel":
            await self.cancel(data.get("task"), by=data["by"])
        elif kind == "resolve":
            text = data.get("text", "")
            await self.resolve(data["task"], data["how"], by=data["by"], text=text)
        elif kind == "raise_budget":
            await self.raise_budget(**data)

    async def decide(self, how: str, approval: str, by: str, note: str) -> None:
        """Grant or deny an approval."""
        board = self._board
        known = [k for k, v in board.view.approvals.items() if v == "requested"]
        if approval not in known:
            raise ApprovalError(approval, known)
        task = board.view.tasks[approval.split(":", maxsplit=1)[0]]
        board.context.emit(
            f"approval.{how}", {"approval": approval, "note": note}, task=task.name,
            actor=by,
        )  # fmt: skip
        if how == "granted":
            board.move(task, State.READY, {})
        else:
            data = {"reason": "approval_denied", "detail": note}
            board.move(task, State.REJECTED, data)
        await self._done()

    async def cancel(self, task: str | None, *, by: str) -> None:
        """Cancel one task, or all that are not over."""
        board, jobs = self._board, self._driver.jobs
        names = [task] if task else list(board.view.tasks)
        alive = [t for t in map(board.task, names) if not t.state.terminal]
        running = [t.name for t in alive if t.name in jobs]
        # Those that wait go first: else the end of a running one would skip them.
        for found in alive:
            if found.name not in jobs:
                board.move(found, State.CANCELLED, {"reason": "user"}, actor=by)
        await self._driver.cancel(running)
        for found in alive:
            if not found.state.terminal:
                board.move(found, State.CANCELLED, {"reason": "user"}, actor=by)
        self._driver.poke()

    async def add(self, tasks: tuple[Task, ...], *, by: str) -> None:
        """Add tasks to the plan."""
        board = self._board
        plan = board.plan.with_tasks(tasks)
        for task in tasks:
            board.maestro.route(task)
        data = {"tasks": [task.to_dict() for task in tasks]}
        board.context.emit("plan.amended", data, actor=by)
        board.promote()
        board.replan(plan)
        for name in self._driver.jobs:
            board.schedule.started(name, board.view.tasks[name].agent)
        await self._done()

    async def raise_budget(
        self, *, scope: str = "run", usd: str | None = None, tokens: int | None = None,
        calls: int | None = None, by: str = "",
    ) -> None:  # fmt: skip
        """Set new limits for a scope; tasks that waited for it go on."""
        board = self._board
        limits = Budget(usd=usd, tokens=tokens, calls=calls).limits()
        for unit, limit in limits.items():
            board.context.ledger.raise_limit(scope, unit, limit)
            data = {"scope": scope, "unit": unit, "limit": limit}
            board.context.emit("budget.raised", data, actor=by)
        for task in board.view.tasks.values():
            if task.waits_for.startswith("budget:"):
                board.move(task, State.READY, {})
        board.context.wake()
        await self._done()

    async def resolve(self, task: str, how: str, *, by: str, text: str) -> None:
        """Settle a call in doubt."""
        board = self._board
        found = board.task(task)
        if found.state is not State.IN_DOUBT:
            raise ApprovalError(task, board.in_doubt())
        key = found.waits_for.removeprefix("turn:")
        if how == "done":
            self._settle(key, text, found.name, found.attempt, by)
        elif how not in {"retry", "fail"}:
            raise PlanError(f"{how!r} is not retry, done or fail", key="how")
        board.context.open_unsafe.discard((task, found.attempt, key))
        if how == "fail":
            board.move(found, State.FAILED, {"reason": "in_doubt"}, actor=by)
        else:
            board.move(found, State.READY, {"resolved": key, "how": how}, actor=by)
        await self._done()

    def _settle(self, key: str, text: str, task: str, attempt: int, by: str) -> None:
        context = self._board.context
        for event in reversed(context.log.history()):
            same = event.task == task and event.data.get("key") == key
            if event.type == "turn.started" and same:
                break
        else:
            raise ApprovalError(key, self._board.in_doubt())
        done = context.emit(
            "turn.completed",
            {
                "key": key, "in": event.data["in"], "out": Reply(text).to_json(),
                "chain": event.data["chain"], "resolved_by": by,
                "usage": {"in": 0, "out": 0, "calls": 1, "usd_micro": 0},
            },
            task=task, attempt=attempt, actor=event.actor,
        )  # fmt: skip
        context.memo[task, attempt, key] = done.data

    async def _done(self) -> None:
        await self._board.context.commit()
        self._driver.poke()
