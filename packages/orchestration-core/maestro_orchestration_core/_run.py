"""Run a plan: claim, ask, gate, merge, journal; go on after any crash."""

import asyncio
import fnmatch
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, final

from ._agent import Agent, Tool
from ._budget import Budget, Ledger
from ._events import Event
from ._fold import RunView, TaskView
from ._gates import Gate, GateInput
from ._journal import EventStore, Journal, MemoryLog, check_run_id
from ._leases import JournalLeases, LeaseStore
from ._messages import Reply
from ._plan import Plan, Task
from ._prices import Price, Prices
from ._processes import ProcessId, reap, spawn_data
from ._report import RunReport, report_of
from ._routing import Match, route
from ._states import ACTIVE, STATE_EVENTS, State
from ._supervise import Supervisor
from ._turn import Context, LoopLimits, Turn
from ._worktrees import Worktree, Worktrees
from .errors import (
    ApprovalError,
    BudgetExceededError,
    ContractError,
    GateFailedError,
    InDoubtError,
    JournalError,
    LeaseError,
    LoopError,
    MergeConflictError,
    OrchestrationError,
    PersonaError,
    PlanError,
    PlanMismatchError,
    ReplayError,
    UnknownPriceError,
    did_you_mean,
)

_POLL_S: Final = 0.1
_LEASE_S: Final = 600.0
_FOR_GOOD: Final = (LoopError, UnknownPriceError, ReplayError, PersonaError)


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
        workspace: Worktrees | None = None,
        gates: Iterable[Gate] = (),
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
            if agent.name in self.agents:
                raise PersonaError(f"two agents are called {agent.name!r}")
            self.agents[agent.name] = agent
        if workers < 1:
            raise PlanError(f"{workers!r} is below 1", key="workers")
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
        self._fault = fault

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
    ) -> "Run":
        """Return a run to enter with `async with`; a known run_id is resumed.

        Args:
            plan: May be left out for a run that the journal knows.
            run_id: Names the run; made up when not given.
            replay: Events of an earlier run to answer every call from, in memory;
                a call that they do not know raises ReplayError.
        """
        return Run(self, plan, check_run_id(run_id or _new_id()), replay)

    async def run(self, plan: Plan, *, run_id: str | None = None) -> RunReport:
        """Run a plan to its end, or until only people can go on."""
        async with self.start(plan, run_id=run_id) as run:
            return await run.result(wait=False)

    def as_step(self, plan: Plan) -> Callable[..., Any]:
        """Return an async function that runs the plan: one step of a workflow.

        Called with `run_id=...` it resumes; it raises OrchestrationError with the
        reasons unless every task completes.
        """

        async def step(*, run_id: str | None = None) -> dict[str, Any]:
            report = await self.run(plan, run_id=run_id)
            if not report.ok:
                raise OrchestrationError(report.why())
            return report.to_json()

        return step


def _new_id() -> str:
    return f"r-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"


@final
class Run:
    """One run of a plan. Leaving the context early pauses it; nothing is lost."""

    def __init__(
        self,
        maestro: Orchestrator,
        plan: Plan | None,
        run_id: str,
        replay: Iterable[Event] | None,
    ) -> None:
        self.id = run_id
        self._maestro = maestro
        self._given = plan
        self._replay = replay
        self._stack = AsyncExitStack()
        self._view = RunView(run_id)
        self._jobs: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()
        self._subscribers: list[asyncio.Queue[Event | None]] = []
        self._stuck = False
        self._over = False
        self._error: Exception | None = None
        self._denied: set[str] = set()

    async def __aenter__(self) -> Self:
        maestro = self._maestro
        try:
            self._open()
            for agent in maestro.agents.values():
                budget = agent.persona.budget
                if budget:
                    self._context.ledger.add_scopes("persona", {agent.name: budget})
            self._begin()
        except BaseException:
            await self._stack.aclose()
            raise
        self._wake = asyncio.Event()
        self._changed = asyncio.Condition()
        self._merging = asyncio.Lock()
        self._started = maestro.clock()
        self._driver = asyncio.create_task(self._drive(), name=f"run {self.id}")
        self._services = asyncio.create_task(self._serve(), name="services")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._driver.cancel()
        await asyncio.gather(self._driver, return_exceptions=True)
        await self._stop_jobs()
        self._services.cancel()  # the jobs may need them to the end
        await asyncio.gather(self._services, return_exceptions=True)
        try:
            if not self._context.broken:
                if self._view.status in {"started", "resumed"}:
                    self._context.emit("run.paused", {"reason": "left"})
                self._context.commit_now()
            await self._clean()
        finally:
            self._end_streams()
            await self._stack.aclose()

    def _open(self) -> None:
        maestro = self._maestro
        log = self._open_log()
        self._stack.callback(log.close)
        self._context = Context(
            log,
            run=self.id,
            ledger=Ledger(maestro.budget),
            limits=maestro.limits,
            prices=maestro.prices,
            unpriced=maestro.unpriced,
            tools=maestro.tools,
            live=self._replay is None,
        )
        self._context.observer = self._view.apply
        self._context.listeners.append(self._publish)
        self._context.on_broken = self._break

    def _open_log(self) -> EventStore:
        journal = self._maestro.journal
        self._lease_store = self._maestro.leases
        if self._replay is not None or journal is None:
            return MemoryLog(self.id)
        if not isinstance(journal, Journal):
            journal = Journal(journal)
            self._stack.callback(journal.close)
        if self._lease_store is None:
            self._lease_store = JournalLeases(journal, run=self.id)
        return journal.open_run(self.id, fault=self._maestro._fault)

    def _begin(self) -> None:
        history = self._context.log.history()
        if history:
            self._resume(history)
        else:
            if self._given is None:
                raise JournalError(f"no run {self.id!r} to resume; give a plan")
            self.plan = self._given
            budget = self._maestro.budget
            self._context.emit(
                "run.started", {"budget": budget.to_dict() if budget else None}
            )
            tasks = [task.to_dict() for task in self.plan]
            data = {"digest": self.plan.digest(), "tasks": tasks}
            self._context.emit("plan.accepted", {**data, "barrier": self.plan.barrier})
        for task in self.plan:
            if task.budget:
                self._context.ledger.add_scopes("task", {task.name: task.budget})
            self._maestro.route(task)  # a plan that nobody can do does not start
        if self._replay is not None:
            recorded = list(self._replay)
            self._context.remember(recorded)
            self._view.approvals |= {
                str(e.data["approval"]): "granted"
                for e in recorded
                if e.type == "approval.granted"
            }
            self._context.turns = 0
            self._context.ledger = Ledger()
        if self._maestro.workspace:
            self._maestro.workspace.prepare()
        self._context.commit_now()

    def _resume(self, history: list[Event]) -> None:
        for event in history:
            self._view.apply(event)
        given = self._given
        if given is not None and given.digest() != self._view.plan_digest:
            raise PlanMismatchError(self.id)
        recorded = Plan.from_dict(
            {"tasks": self._view.plan, "barrier": self._view.barrier}
        )
        known = {task.name: task for task in given or ()}
        self.plan = Plan(
            [known.get(task.name, task) for task in recorded],
            barrier=recorded.barrier,
        )
        self._context.remember(history)
        budget = self._maestro.budget
        if all(task.state.terminal for task in self._view.tasks.values()):
            return  # it is over: there is nothing to go on with
        self._context.emit(
            "run.resumed", {"budget": budget.to_dict() if budget else None}
        )
        for mark, data in list(self._view.workers.items()):
            killed = reap(data)
            self._context.emit("worker.killed", {"mark": mark, "killed": killed})
        for task in list(self._view.tasks.values()):
            if task.state in ACTIVE or task.waits_for.startswith("budget:"):
                self._move(task, State.READY, {"resumed": True})
        if self._maestro.workspace:
            self._maestro.workspace.sweep(self.id)

    # What a caller does with a run.

    async def events(self, types: Collection[str] = ()) -> AsyncIterator[Event]:
        """Yield events from now on, once they are on disk, until the run ends.

        Args:
            types: Patterns such as `task.*`; empty for all.
        """
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        if self._over:
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
        self._context.commit_now()
        return self._context.log.history()

    def report(self) -> RunReport:
        """Return where the run stands."""
        return report_of(self._view)

    async def result(self, *, wait: bool = True) -> RunReport:
        """Wait for the end and return the report.

        Args:
            wait: Whether to wait for people (approvals, calls in doubt). Without,
                the run pauses when only they can go on. A run that is out of
                budget pauses either way; raise the budget and start it again.
        """
        async with self._changed:
            await self._changed.wait_for(
                lambda: (
                    self._over
                    or self._error
                    or (self._stuck and not (wait and self._people_wait()))
                )
            )
        if self._error:
            raise self._error
        if not self._over:
            self._context.emit("run.paused", {"reason": self._pause_reason()})
            self._context.commit_now()
        return self.report()

    async def approve(self, approval: str, *, by: str, note: str = "") -> None:
        """Grant an approval."""
        await self._decide("granted", approval, by, note)

    async def deny(self, approval: str, *, by: str, note: str = "") -> None:
        """Deny an approval: its task is rejected."""
        await self._decide("denied", approval, by, note)

    async def cancel(self, task: str | None = None, *, by: str = "") -> None:
        """Cancel one task, or all that are not over; their processes end too."""
        names = [task] if task else list(self._view.tasks)
        alive = [t for t in map(self._task, names) if not t.state.terminal]
        jobs = {t.name: self._jobs[t.name] for t in alive if t.name in self._jobs}
        # Those that wait go first: else the end of a running one would skip them.
        for found in alive:
            if found.name not in jobs:
                self._move(found, State.CANCELLED, {"reason": "user"}, actor=by)
        self._cancelled |= set(jobs)
        for job in jobs.values():
            job.cancel()
        await asyncio.gather(*jobs.values(), return_exceptions=True)
        for found in alive:
            if not found.state.terminal:
                self._move(found, State.CANCELLED, {"reason": "user"}, actor=by)
        self._poke()

    async def add(self, *tasks: Task, by: str = "") -> None:
        """Add tasks to the plan in the middle of the run."""
        plan = self.plan.with_tasks(tasks)
        for task in tasks:
            self._maestro.route(task)
        self.plan = plan
        self._context.emit(
            "plan.amended", {"tasks": [task.to_dict() for task in tasks]}, actor=by
        )
        await self._context.commit()
        self._poke()

    async def raise_budget(
        self, *, scope: str = "run", usd: str | None = None, tokens: int | None = None,
        calls: int | None = None, by: str = "",
    ) -> None:  # fmt: skip
        """Set new limits for a scope; tasks that waited for it go on."""
        limits = Budget(usd=usd, tokens=tokens, calls=calls).limits()
        for unit, limit in limits.items():
            self._context.ledger.raise_limit(scope, unit, limit)
            self._context.emit(
                "budget.raised", {"scope": scope, "unit": unit, "limit": limit},
                actor=by,
            )  # fmt: skip
        for task in self._view.tasks.values():
            if task.waits_for.startswith("budget:"):
                self._move(task, State.READY, {})
        self._context.wake()
        await self._context.commit()
        self._poke()

    async def resolve(self, task: str, how: str, *, by: str, text: str = "") -> None:
        """Settle a call in doubt: it is to `retry`, was `done` (with `text`), or `fail`."""
        found = self._task(task)
        if found.state is not State.IN_DOUBT:
            raise ApprovalError(task, self._in_doubt())
        key = found.waits_for.removeprefix("turn:")
        where: dict[str, Any] = {"task": task, "attempt": found.attempt}
        if how == "done":
            self._settle(key, text, where, by)
        elif how not in {"retry", "fail"}:
            raise PlanError(f"{how!r} is not retry, done or fail", key="how")
        self._context.open_unsafe.discard((task, found.attempt, key))
        if how == "fail":
            self._move(found, State.FAILED, {"reason": "in_doubt"}, actor=by)
        else:
            self._move(found, State.READY, {"resolved": key, "how": how}, actor=by)
        await self._context.commit()
        self._poke()

    def _settle(self, key: str, text: str, where: Mapping[str, Any], by: str) -> None:
        for event in reversed(self._context.log.history()):
            same = event.task == where["task"] and event.data.get("key") == key
            if event.type == "turn.started" and same:
                break
        else:
            raise ApprovalError(key, self._in_doubt())
        done = self._context.emit(
            "turn.completed",
            {
                "key": key, "in": event.data["in"], "out": Reply(text).to_json(),
                "chain": event.data["chain"], "resolved_by": by,
                "usage": {"in": 0, "out": 0, "calls": 1, "usd_micro": 0},
            },
            actor=event.actor, **where,
        )  # fmt: skip
        self._context.memo[where["task"], where["attempt"], key] = done.data

    async def _decide(self, how: str, approval: str, by: str, note: str) -> None:
        known = [k for k, v in self._view.approvals.items() if v == "requested"]
        if approval not in known:
            raise ApprovalError(approval, known)
        task = self._view.tasks[approval.split(":", maxsplit=1)[0]]
        self._context.emit(
            f"approval.{how}", {"approval": approval, "note": note}, task=task.name,
            actor=by,
        )  # fmt: skip
        if how == "granted":
            self._move(task, State.READY, {})
        else:
            data = {"reason": "approval_denied", "detail": note}
            self._move(task, State.REJECTED, data)
        await self._context.commit()
        self._poke()

    # The scheduler.

    async def _drive(self) -> None:
        try:
            while not self._over:
                await self._step()
                # Not wait_for: until Python 3.12 that may swallow a cancellation
                # that comes together with the wake-up, and the run would never end.
                try:
                    async with asyncio.timeout(_POLL_S):
                        await self._wake.wait()
                except TimeoutError:
                    pass
                self._wake.clear()
        except Exception as error:  # handed to whoever waits for the result
            self._break(error)

    async def _serve(self) -> None:
        supervisor = self._maestro.supervisor
        if supervisor is None or self._replay is not None:
            return

        def restarted(name: str, error: BaseException | None) -> None:
            data = {"name": name, "error": repr(error) if error else ""}
            self._context.emit("service.restarted", data)

        try:
            await supervisor.run(on_restart=restarted)
        except Exception as error:  # handed to whoever waits for the result
            self._break(error)

    async def _step(self) -> None:
        await self._read_inbox()
        self._watch_wall()
        self._promote()
        self._start_ready()
        self._context.commit_now()
        states = [task.state for task in self._view.tasks.values()]
        waiting = {State.WAITING, State.IN_DOUBT}
        stuck = not self._jobs and not any(
            s in {State.READY, State.RETRYING} or s in ACTIVE for s in states
        )
        self._stuck = stuck and any(s in waiting for s in states)
        if all(s.terminal for s in states):
            self._finish()
        if self._stuck or self._over:
            async with self._changed:
                self._changed.notify_all()

    def _finish(self) -> None:
        states = {task.state for task in self._view.tasks.values()}
        status = "failed"
        if states <= {State.COMPLETED}:
            status = "completed"
        elif State.CANCELLED in states and not states & {State.FAILED, State.REJECTED}:
            status = "cancelled"
        if self._view.status != status:
            self._context.emit("run.finished", {"status": status})
        self._context.commit_now()
        self._over = True
        self._end_streams()

    async def _read_inbox(self) -> None:
        for _, kind, data in self._context.log.inbox():
            try:
                if kind in {"approve", "deny"}:
                    how = "granted" if kind == "approve" else "denied"
                    note = str(data.get("note", ""))
                    await self._decide(how, data["approval"], data["by"], note)
                elif kind == "cancel":
                    await self.cancel(data.get("task"), by=data["by"])
                elif kind == "resolve":
                    await self.resolve(
                        data["task"], data["how"], by=data["by"],
                        text=data.get("text", ""),
                    )  # fmt: skip
                elif kind == "raise_budget":
                    await self.raise_budget(**data)
            except (ApprovalError, PlanError) as error:
                self._context.emit("inbox.refused", {"kind": kind, "why": str(error)})

    def _watch_wall(self) -> None:
        budget = self._maestro.budget
        if budget is None or budget.wall is None:
            return
        context = self._context
        elapsed = self._view.elapsed_ns / 1e9 + self._maestro.clock() - self._started
        context.warn(context.ledger.set_wall(elapsed))
        if budget.mode == "hard" and elapsed * 1000 >= budget.limits()["wall_ms"]:
            for job in self._jobs.values():
                job.cancel("budget")

    def _promote(self) -> None:
        for name in self.plan.order:
            task = self._view.tasks[name]
            if task.state is not State.PENDING:
                continue
            before = [self._view.tasks[a].state for a in self.plan.tasks[name].after]
            if all(s is State.COMPLETED for s in before):
                self._move(task, State.READY, {})
            elif any(s.terminal and s is not State.COMPLETED for s in before):
                failed = [
                    a
                    for a in self.plan.tasks[name].after
                    if self._view.tasks[a].state.terminal
                    and self._view.tasks[a].state is not State.COMPLETED
                ]
                data = {"reason": "dependency", "detail": ", ".join(failed)}
                self._move(task, State.SKIPPED, data)

    def _start_ready(self) -> None:
        ready = [n for n, t in self._view.tasks.items() if t.state is State.READY]
        for name in sorted(ready, key=self.plan.sort_key):
            if len(self._jobs) >= self._maestro.workers:
                return
            if name in self._jobs or not self._may_start(name):
                continue
            self._claim(name)

    def _may_start(self, name: str) -> bool:
        plan, task = self.plan, self._view.tasks[name]
        if not plan.startable(name, self._jobs):
            return False
        if plan.barrier and any(
            not self._view.tasks[n].state.terminal and plan.level[n] < plan.level[name]
            for n in plan.order
        ):
            return False
        if plan.tasks[name].approval in {"before", "both"}:
            approval = f"{name}:before"
            if self._view.approvals.get(approval) != "granted":
                self._request(task, approval)
                return False
        persona = self._maestro.agents[self._maestro.route(plan.tasks[name]).persona]
        most = persona.persona.concurrency
        busy = sum(self._view.tasks[n].agent == persona.name for n in self._jobs)
        return not most or busy < most

    def _request(self, task: TaskView, approval: str) -> None:
        self._context.emit("approval.requested", {"approval": approval}, task=task.name)
        self._move(task, State.WAITING, {"for": f"approval:{approval}"})

    def _claim(self, name: str) -> None:
        task, spec = self._view.tasks[name], self.plan.tasks[name]
        if not self._lease(spec):
            return
        match = self._maestro.route(spec)
        self._move(task, State.CLAIMED, {"why": match.why}, actor=match.persona)
        self._jobs[name] = asyncio.create_task(self._work(task, spec), name=name)

    def _lease(self, task: Task) -> bool:
        if self._lease_store is None or not task.touches:
            return True
        holder = f"{self.id}/{task.name}"
        try:
            for pattern in task.touches:
                self._lease_store.take(pattern, holder, ttl=_LEASE_S)
        except LeaseError as error:
            self._unlease(task)
            if task.name not in self._denied:
                self._denied.add(task.name)
                data = {"name": error.name, "holder": error.holder}
                self._context.emit("lease.denied", data, task=task.name)
            return False
        self._denied.discard(task.name)
        return True

    def _unlease(self, task: Task) -> None:
        if self._lease_store is not None:
            for pattern in task.touches:
                self._lease_store.release(pattern, f"{self.id}/{task.name}")

    async def _renew(self, task: Task) -> None:
        while True:
            await asyncio.sleep(_LEASE_S / 3)
            self._lease(task)

    # One attempt at one task.

    async def _work(self, task: TaskView, spec: Task) -> None:
        renewing = asyncio.create_task(self._renew(spec)) if spec.touches else None
        try:
            await self._attempt(task, spec)
        except asyncio.CancelledError:
            if self._error:
                return  # a resume finds it as it was
            if task.name in self._cancelled:
                self._move(task, State.CANCELLED, {"reason": "user"})
            elif not self._driver.done() and not self._driver.cancelling():
                self._move(
                    task, State.WAITING, {"for": "budget:run", "reason": "budget"}
                )
        except Exception as error:
            if self._context.broken:
                return
            self._failed(task, spec, error)
        finally:
            if renewing:
                renewing.cancel()
            if not self._context.broken:
                self._unlease(spec)
            self._jobs.pop(task.name, None)
            self._poke()

    def _failed(self, task: TaskView, spec: Task, error: Exception) -> None:
        detail = f"{error}" if isinstance(error, OrchestrationError) else repr(error)
        data: dict[str, Any] = {
            "reason": getattr(error, "reason", "error"), "detail": detail[:2000]
        }  # fmt: skip
        doubt = [k for t, n, k in self._context.open_unsafe
                 if (t, n) == (task.name, task.attempt)]  # fmt: skip
        if isinstance(error, TimeoutError):
            data = {"reason": "timeout", "detail": f"over {spec.timeout} s"}
        if isinstance(error, InDoubtError) or doubt:
            key = error.key if isinstance(error, InDoubtError) else doubt[0]
            self._move(task, State.IN_DOUBT, {**data, "for": f"turn:{key}"})
        elif isinstance(error, BudgetExceededError):
            data["for"] = f"budget:{error.scope}"
            self._move(task, State.WAITING, data)
        elif task.attempt < spec.tries and not isinstance(error, _FOR_GOOD):
            attempt = task.attempt
            self._move(task, State.RETRYING, data)
            loop = asyncio.get_running_loop()
            loop.call_later(self._maestro.backoff(attempt), self._again, task)
        else:
            self._move(task, State.FAILED, data)

    def _again(self, task: TaskView) -> None:
        if task.state is State.RETRYING and not self._over and not self._context.broken:
            self._move(task, State.READY, {})
            self._poke()

    async def _attempt(self, task: TaskView, spec: Task) -> None:
        self._move(task, State.RUNNING, {})
        agent = self._maestro.agents[task.agent]
        tree: Worktree | None = None
        merged = False
        try:
            async with asyncio.timeout(spec.timeout):
                tree = await self._acquire(task)
                self._consumes(spec, tree)
                reply = await self._ask(task, spec, agent, tree)
                self._produces(spec, tree, reply)
            if tree is not None or self._maestro.gates:
                self._move(task, State.GATING, {})
            merged = await self._pass(task, spec, tree, reply)
        finally:
            if tree is not None and not self._context.broken:
                await asyncio.shield(self._release(tree, merged=merged))
        if task.state not in {State.WAITING, State.READY}:
            self._move(
                task, State.COMPLETED, {"reason": "ok", "reply": reply.to_json()}
            )
            await self._context.commit()

    async def _release(self, tree: Worktree, *, merged: bool) -> None:
        workspace = self._maestro.workspace
        assert workspace is not None
        await asyncio.to_thread(workspace.release, tree, merged=merged)

    async def _ask(
        self, task: TaskView, spec: Task, agent: Agent, tree: Worktree | None
    ) -> Reply:
        inputs = {name: self._view.tasks[name].reply or Reply() for name in spec.after}
        prompt = spec.prompt
        if agent.model is not None:
            parts = [prompt, *(f"Result of {n}:\n{r.text}" for n, r in inputs.items())]
            if task.feedback:
                parts.append(f"The attempt before failed: {task.feedback}")
            prompt = "\n\n".join(part for part in parts if part)
        turn = Turn(
            self._context, task.name, prompt, task.attempt, "", "", spec.args,
            inputs, tree, task.feedback, ("run", f"task:{task.name}"),
        )  # fmt: skip
        reply = await turn.ask(agent, prompt, schema=spec.output)
        to = agent.persona.handoff_to
        if reply.handoff and to and reply.handoff not in to:
            raise ContractError(
                task.name, "hands over to",
                [f"{reply.handoff!r}, allowed are {', '.join(to)}"],
            )  # fmt: skip
        return reply

    async def _acquire(self, task: TaskView) -> Worktree | None:
        workspace = self._maestro.workspace
        if workspace is None or self._replay is not None:
            return None
        at = None
        for (name, attempt, _), data in self._context.memo.items():
            if (name, attempt) == (task.name, task.attempt) and "at" in data:
                at = str(data["at"])
        acquire = asyncio.ensure_future(
            asyncio.to_thread(
                workspace.acquire, self.id, task.name, task.attempt, at=at
            )
        )
        try:
            return await asyncio.shield(acquire)
        except asyncio.CancelledError:
            tree = await acquire
            await self._release(tree, merged=False)
            raise

    def _consumes(self, spec: Task, tree: Worktree | None) -> None:
        folder = tree.path if tree else Path.cwd()
        missing = [
            name
            for name in spec.consumes
            if not name.startswith("data.") and not _found(folder, name)
        ]
        for name in (n for n in spec.consumes if n.startswith("data.")):
            replies = [self._view.tasks[a].reply for a in spec.after]
            if not any(r and _has(r.data, name) for r in replies):
                missing.append(name)
        if missing:
            raise ContractError(spec.name, "needs", missing)

    def _produces(self, spec: Task, tree: Worktree | None, reply: Reply) -> None:
        folder = tree.path if tree else Path.cwd()
        missing = [
            name
            for name in spec.produces
            if not (
                _has(reply.data, name)
                if name.startswith("data.")
                else _found(folder, name)
            )
        ]
        if missing and self._replay is None:
            raise ContractError(spec.name, "promised", missing)

    async def _pass(
        self, task: TaskView, spec: Task, tree: Worktree | None, reply: Reply
    ) -> bool:
        """Run the gates and merge; tell whether the work is in the branch."""
        workspace = self._maestro.workspace
        if self._replay is not None:
            return False
        own = tree.path if tree else None
        await self._gates(task, reply, "task", own)
        if workspace is None or tree is None:
            await self._gates(task, reply, "merged", None)
            self._approved(task, spec)
            return False
        async with self._merging:
            title = f"Merge {task.name} of {self.id}"
            try:
                candidate = await asyncio.to_thread(
                    workspace.candidate, tree, task.name, title
                )
            except MergeConflictError as error:
                data = {"paths": list(error.paths), "messages": error.messages}
                self._emit("workspace.conflict", data, task)
                raise
            if candidate is None:
                return self._approved(task, spec)
            checkout = workspace.checkout(candidate.commit)
            folder = await asyncio.to_thread(checkout.__enter__)
            try:
                changed = candidate.paths
                await self._gates(task, reply, "merged", folder, changed)
            finally:
                await asyncio.shield(
                    asyncio.to_thread(checkout.__exit__, None, None, None)
                )
            if not self._approved(task, spec):
                return False
            self._move(task, State.MERGING, {"candidate": candidate.commit})
            self._context.commit_now(full=True)
            if not await asyncio.shield(
                asyncio.to_thread(workspace.advance, candidate)
            ):
                # Somebody else moved the branch: the answer is remembered, merge again.
                self._move(task, State.READY, {"again": "the branch moved"})
                return False
            data = {"commit": candidate.commit, "paths": list(candidate.paths[:200])}
            self._emit("workspace.merged", data, task)
        return True

    def _approved(self, task: TaskView, spec: Task) -> bool:
        approval = f"{task.name}:after"
        if spec.approval not in {"after", "both"}:
            return True
        if self._view.approvals.get(approval) == "granted":
            return True
        self._request(task, approval)
        return False

    async def _gates(
        self, task: TaskView, reply: Reply, on: str, folder: Path | None,
        changed: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        mark = f"{self.id}/{task.name}/gate:{uuid.uuid4().hex[:12]}"

        def spawned(identity: ProcessId) -> None:
            self._emit("worker.spawned", spawn_data(identity, mark, "gate"), task)
            self._context.commit_now()

        given = GateInput(
            task=task.name, reply=reply, folder=folder, changed=changed, mark=mark,
            on_spawn=spawned,
        )  # fmt: skip
        for gate in self._maestro.gates:
            if gate.on != on or (gate.only and task.name not in gate.only):
                continue
            if gate.spawns:
                self._emit(
                    "worker.starting", {"mark": mark, "command": gate.name}, task
                )
                self._context.commit_now()
            result = await gate.run(given)
            if mark in self._view.workers:
                self._emit("worker.exited", {"mark": mark, "code": 0}, task)
            data = {
                "gate": gate.name, "on": on, "counts": dict(result.counts),
                "duration": result.duration, "detail": result.detail[-2000:],
            }  # fmt: skip
            if result.report:
                data["junit"] = result.report
            verdict = "passed" if result.passed else "failed"
            self._emit(f"gate.{verdict}", data, task)
            if not result.passed:
                raise GateFailedError(gate.name, result.detail)

    # Small things.

    def _emit(self, kind: str, data: Mapping[str, Any], task: TaskView) -> None:
        self._context.emit(
            kind, data, task=task.name, attempt=task.attempt, actor=task.agent
        )

    def _move(
        self, task: TaskView, state: State, data: Mapping[str, Any], *, actor: str = ""
    ) -> None:
        self._context.emit(
            STATE_EVENTS[state], data, task=task.name, attempt=task.attempt,
            actor=actor or task.agent,
        )  # fmt: skip

    def _task(self, name: str) -> TaskView:
        try:
            return self._view.tasks[name]
        except KeyError:
            known = self._view.tasks
            raise PlanError(
                f"no task {name!r}{did_you_mean(name, known)}", key="task"
            ) from None

    def _in_doubt(self) -> list[str]:
        return [n for n, t in self._view.tasks.items() if t.state is State.IN_DOUBT]

    def _people_wait(self) -> bool:
        return bool(self._in_doubt()) or any(
            task.waits_for.startswith("approval:") for task in self._view.tasks.values()
        )

    def _pause_reason(self) -> str:
        waits = {t.waits_for.split(":")[0] for t in self._view.tasks.values()} - {""}
        return ", ".join(sorted(waits))

    def _publish(self, event: Event) -> None:
        for queue in self._subscribers:
            queue.put_nowait(event)

    def _end_streams(self) -> None:
        for queue in self._subscribers:
            queue.put_nowait(None)

    def _poke(self) -> None:
        self._wake.set()

    def _break(self, error: Exception) -> None:
        self._error = self._error or error
        self._end_streams()
        for job in self._jobs.values():
            job.cancel()

        async def tell() -> None:
            async with self._changed:
                self._changed.notify_all()

        self._telling = asyncio.ensure_future(tell())

    async def _stop_jobs(self) -> None:
        jobs = list(self._jobs.values())
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    async def _clean(self) -> None:
        if self._maestro.workspace and self._replay is None:
            await asyncio.to_thread(self._maestro.workspace.sweep, self.id)


def _found(folder: Path, pattern: str) -> bool:
    if not any(c in pattern for c in "*?["):
        return (folder / pattern).exists()
    return any(
        fnmatch.fnmatch(str(p.relative_to(folder)), pattern) for p in folder.rglob("*")
    )


def _has(data: Any, name: str) -> bool:
    for part in name.split(".")[1:]:
        if not isinstance(data, dict) or part not in data:
            return False
        data = data[part]
    return True
