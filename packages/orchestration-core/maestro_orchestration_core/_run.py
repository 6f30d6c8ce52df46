"""Who works under which limits, and one run of a plan: open, resume, watch, decide."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, final

from ._agent import Agent, Match, Tool, route
from ._board import Board
from ._budget import Budget, Ledger
from ._driver import Driver
from ._fold import ACTIVE, State
from ._journal import Journal, check_run_id
from ._log import Event, EventStore, MemoryLog
from ._messages import Price, Prices
from ._plan import Plan, Task
from ._retry import Supervisor
from ._session import Context, LoopLimits
from ._touches import JournalLeases, LeaseStore
from .errors import (
    JournalError,
    PersonaError,
    PlanError,
    PlanMismatchError,
    SettingsError,
)

if TYPE_CHECKING:
    from ._gates import Gate
    from ._report import RunReport
    from ._worktrees import Worktrees


@final
class Run:
    """One run of a plan. Leaving the context early pauses it; nothing is lost."""

    def __init__(
        self,
        maestro: "Orchestrator",
        plan: Plan | None,
        run_id: str,
        replay: Iterable[Event] | None,
    ) -> None:
        self.id = run_id
        self._maestro = maestro
        self._given = plan
        self._replay = None if replay is None else list(replay)
        self._stack = AsyncExitStack()
        self._board = Board(run_id, maestro, live=replay is None)
        self._leases: LeaseStore | None = maestro.leases
        self._subscribers: list[asyncio.Queue[Event | None]] = []
        self._error: Exception | None = None

    @property
    def plan(self) -> Plan:
        """The plan as it is now, with what was added."""
        return self._board.plan

    async def __aenter__(self) -> Self:
        try:
            self._open()
            self._begin()
        except BaseException:
            await self._stack.aclose()
            raise
        self._driver = Driver(self._board, self._leases, self._break, self._end_streams)
        self._board.context.on_broken = self._break
        self._driving = asyncio.create_task(self._driver.drive(), name=f"run {self.id}")
        self._services = asyncio.create_task(self._driver.serve(), name="services")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Whoever cancels again cuts the waiting short, not what follows it: a run
        # that kept its lock could not be started again by this process.
        try:
            await self._end_jobs()
            await self._clean()
        finally:
            try:
                self._pause()
            finally:
                self._end_streams()
                await self._stack.aclose()

    async def _end_jobs(self) -> None:
        try:
            self._driving.cancel()
            await asyncio.gather(self._driving, return_exceptions=True)
            await self._driver.stop()
        finally:
            self._services.cancel()  # the jobs may need them to the end
        await asyncio.gather(self._services, return_exceptions=True)

    def _pause(self) -> None:
        context = self._board.context
        if not context.broken:
            if self._board.view.status in {"started", "resumed"}:
                context.emit("run.paused", {"reason": "left"})
            context.commit_now()

    def _open(self) -> None:
        maestro, board = self._maestro, self._board
        log = self._open_log()
        self._stack.callback(log.close)
        board.context = Context(
            log,
            run=self.id,
            ledger=Ledger(maestro.budget),
            limits=maestro.limits,
            prices=maestro.prices,
            unpriced=maestro.unpriced,
            tools=maestro.tools,
            live=board.live,
        )
        board.context.observer = board.view.apply
        board.context.listeners.append(self._publish)
        for agent in maestro.agents.values():
            if agent.persona.budget:
                scopes = {agent.name: agent.persona.budget}
                board.context.ledger.add_scopes("persona", scopes)

    def _open_log(self) -> EventStore:
        journal = self._maestro.journal
        if self._replay is not None or journal is None:
            return MemoryLog(self.id)
        if not isinstance(journal, Journal):
            journal = Journal(journal)
            self._stack.callback(journal.close)
        if self._leases is None:
            self._leases = JournalLeases(journal, run=self.id)
        return journal.open_run(self.id, fault=self._maestro.fault)

    def _begin(self) -> None:
        board = self._board
        context = board.context
        history = context.log.history()
        plan = self._resumed(history) if history else self._started()
        for task in plan:
            if task.budget:
                context.ledger.add_scopes("task", {task.name: task.budget})
            self._maestro.route(task)  # a plan that nobody can do does not start
        if history:
            context.remember(history)
            self._go_on(plan)
        if self._replay is not None:
            self._answer_from(self._replay)
        board.replan(plan)
        if self._maestro.workspace and board.live:
            self._maestro.workspace.prepare()
        context.commit_now()

    def _started(self) -> Plan:
        """Journal a new run and return its plan."""
        plan, context = self._given, self._board.context
        if plan is None:
            raise JournalError(f"no run {self.id!r} to resume; give a plan")
        budget = self._maestro.budget
        context.emit("run.started", {"budget": budget.to_dict() if budget else None})
        tasks = [task.to_dict() for task in plan]
        data = {"digest": plan.digest(), "tasks": tasks, "barrier": plan.barrier}
        context.emit("plan.accepted", data)
        return plan

    def _resumed(self, history: list[Event]) -> Plan:
        """Take in what the journal knows and return the plan there."""
        view = self._board.view
        for event in history:
            view.apply(event)
        given = self._given
        if given is not None and given.digest() != view.plan_digest:
            raise PlanMismatchError(self.id)
        recorded = Plan.from_dict({"tasks": view.plan, "barrier": view.barrier})
        known = {task.name: task for task in given or ()}
        return Plan(
            [known.get(task.name, task) for task in recorded],
            barrier=recorded.barrier,
        )

    def _go_on(self, plan: Plan) -> None:
        """End what the session before left, unless the run is over."""
        board, budget = self._board, self._maestro.budget
        if board.over():
            return
        board.take(plan)
        board.context.emit(
            "run.resumed", {"budget": budget.to_dict() if budget else None}
        )
        for mark, data in list(board.view.workers.items()):
            from ._processes import reap

            killed = reap(data)
            board.context.emit("worker.killed", {"mark": mark, "killed": killed})
        for task in list(board.view.tasks.values()):
            if task.state in ACTIVE or task.waits_for.startswith("budget:"):
                board.move(task, State.READY, {"resumed": True})
        if self._maestro.workspace:
            self._maestro.workspace.sweep(self.id)

    def _answer_from(self, recorded: list[Event]) -> None:
        context = self._board.context
        context.remember(recorded)
        self._board.view.approvals |= {
            str(e.data["approval"]): "granted"
            for e in recorded
            if e.type == "approval.granted"
        }
        context.turns = 0
        context.ledger = Ledger()

    # What a caller does with a run.

    async def events(self, types: Collection[str] = ()) -> AsyncIterator[Event]:
        """Yield events from now on, once they are on disk, until the run ends.

        Args:
            types: Patterns such as `task.*`; empty for all.
        """
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        if self._driver.over:
            return
        self._subscribers.append(queue)
        try:
            while (event := await queue.get()) is not None:
                if event.matches(types):
                    yield event
        finally:
            if queue in self._subscribers:
                self._subscribers.remove(queue)

    def history(self) -> list[Event]:
        """Return all events of the run so far."""
        self._board.context.commit_now()
        return self._board.context.log.history()

    def report(self) -> "RunReport":
        """Return where the run stands."""
        from ._report import report_of

        return report_of(self._board.view)

    async def result(self, *, wait: bool = True) -> "RunReport":
        """Wait for the end and return the report.

        Args:
            wait: Whether to wait for people (approvals, calls in doubt). Without,
                the run pauses when only they can go on. A run that is out of
                budget pauses either way; raise the budget and start it again.
        """
        driver, board = self._driver, self._board

        def settled() -> bool:
            paused = driver.stuck and not (wait and board.people_wait())
            return driver.over or self._error is not None or paused

        async with driver.changed:
            await driver.changed.wait_for(settled)
        if self._error:
            raise self._error
        if not driver.over:
            board.context.emit("run.paused", {"reason": board.pause_reason()})
            board.context.commit_now()
        return self.report()

    async def approve(self, approval: str, *, by: str, note: str = "") -> None:
        """Grant an approval."""
        await self._driver.decisions.decide("granted", approval, by, note)

    async def deny(self, approval: str, *, by: str, note: str = "") -> None:
        """Deny an approval: its task is rejected."""
        await self._driver.decisions.decide("denied", approval, by, note)

    async def cancel(self, task: str | None = None, *, by: str = "") -> None:
        """Cancel one task, or all that are not over; their processes end too."""
        await self._driver.decisions.cancel(task, by=by)

    async def add(self, *tasks: Task, by: str = "") -> None:
        """Add tasks to the plan in the middle of the run."""
        await self._driver.decisions.add(tasks, by=by)

    async def raise_budget(
        self, *, scope: str = "run", usd: str | None = None, tokens: int | None = None,
        calls: int | None = None, by: str = "",
    ) -> None:  # fmt: skip
        """Set new limits for a scope; tasks that waited for it go on."""
        await self._driver.decisions.raise_budget(
            scope=scope, usd=usd, tokens=tokens, calls=calls, by=by
        )

    async def resolve(self, task: str, how: str, *, by: str, text: str = "") -> None:
        """Settle a call in doubt: it is to `retry`, was `done` (with `text`), or `fail`."""
        await self._driver.decisions.resolve(task, how, by=by, text=text)

    def _publish(self, event: Event) -> None:
        for queue in self._subscribers:
            queue.put_nowait(event)

    def _end_streams(self) -> None:
        for queue in self._subscribers:
            queue.put_nowait(None)

    def _break(self, error: Exception) -> None:
        """End the session: nothing more can be written, or a service is gone."""
        self._error = self._error or error
        self._end_streams()
        self._driver.closing = True
        for job in self._driver.jobs.values():
            job.cancel()
        self._telling = asyncio.ensure_future(self._driver.tell())

    async def _clean(self) -> None:
        if self._maestro.workspace and self._board.live:
            await asyncio.to_thread(self._maestro.workspace.sweep, self.id)


@final
class Orchestrator:
    """Who works, where, under which limits. Make one, start many runs.

    Args:
        agents: One per persona name.
        journal: Path or Journal; without one a run lives in memory.
        workers: Tasks at the same time.
        budget: Limits for each run.
        workspace: Give tasks git worktrees and merge what passes.
        gates: What must hold before a task counts.
        prices: What models cost.
        unpriced: For a model without a price: `error` (when money is limited),
            `warn` (journal it) or a Price to assume.
        tools: What personas may name in `tools`.
        limits: When agents that call each other are stopped.
        supervisor: Services that live as long as a run, such as a model server;
            restarts are journaled, one restart too many ends the run.
        leases: Where `touches` are held against other runs; the journal's own table
            when not given.
        backoff: Seconds before attempt n + 1, from n.
        clock: Monotonic seconds, for wall budgets.
    """

    def __init__(
        self,
        agents: Iterable[Agent],
        *,
        journal: str | Path | Journal | None = None,
        workers: int = 4,
        budget: Budget | None = None,
        workspace: "Worktrees | None" = None,
        gates: "Iterable[Gate]" = (),
        prices: Prices | None = None,
        unpriced: str | Price = "error",
        tools: Iterable[Tool] = (),
        limits: LoopLimits | None = None,
        supervisor: Supervisor | None = None,
        leases: LeaseStore | None = None,
        backoff: Callable[[int], float] = lambda n: min(30.0, 0.1 * 2**n),
        clock: Callable[[], float] = time.monotonic,
        fault: Callable[[int, str], None] | None = None,
    ) -> None:
        self.agents: dict[str, Agent] = {}
        for agent in agents:
            if not isinstance(agent, Agent):
                raise SettingsError(
                    f"expected an Agent, got {agent!r}; write Agent(Persona(...), ...)",
                    key="agents",
                )
            if agent.name in self.agents:
                raise PersonaError(f"two agents are called {agent.name!r}")
            self.agents[agent.name] = agent
        if type(workers) is not int or workers < 1:
            raise PlanError(f"expected a number from 1, got {workers!r}", key="workers")
        self.journal = journal
        self.workers = workers
        self.budget = budget
        self.workspace = workspace
        self.gates = tuple(gates)
        self.prices, self.unpriced = prices, unpriced
        self.tools = tuple(tools)
        self.limits = limits or LoopLimits()
        self.supervisor = supervisor
        self.leases = leases
        self.backoff = backoff
        self.clock = clock
        self.fault = fault

    def route(self, task: Task) -> Match:
        """Return who takes a task and why; raise NoAgentError."""
        people = [agent.persona for agent in self.agents.values()]
        return route(task.levels, people, task=task.name, agent=task.agent)

    def explain(self, plan: Plan) -> str:
        """Return tiers, bound, conflicts and who takes what, as text."""
        people = [agent.persona for agent in self.agents.values()]
        return plan.explain(workers=self.workers, personas=people)

    def start(
        self,
        plan: Plan | None = None,
        *,
        run_id: str | None = None,
        replay: Iterable[Event] | None = None,
    ) -> Run:
        """Return a run to enter with `async with`; a known run_id is resumed.

        Args:
            plan: May be left out for a run that the journal knows.
            run_id: Names the run; made up when not given.
            replay: Events of an earlier run to answer every call from, in memory;
                a call that they do not know raises ReplayError.
        """
        if plan is not None and not isinstance(plan, Plan):
            raise PlanError(
                f"expected a Plan, got {plan!r}; write Plan([...])", key="plan"
            )
        return Run(self, plan, check_run_id(run_id or _new_id()), replay)

    async def run(self, plan: Plan, *, run_id: str | None = None) -> "RunReport":
        """Run a plan to its end, or until only people can go on."""
        async with self.start(plan, run_id=run_id) as run:
            return await run.result(wait=False)


def _new_id() -> str:
    return f"r-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(3).hex()}"
