"""The scheduler of a run: claim what is ready, and see each attempt to its end."""

import asyncio
from collections.abc import Callable
from typing import Any, Final, final

from ._attempt import Attempt
from ._board import Board, Decisions
from ._fold import State, TaskView
from ._plan import Task
from ._touches import LeaseStore
from .errors import (
    BudgetExceededError,
    InDoubtError,
    LeaseError,
    LoopError,
    OrchestrationError,
    PersonaError,
    ReplayError,
    UnknownPriceError,
    trace,
)

_POLL_S: Final = 0.1
_LEASE_S: Final = 600.0
_FOR_GOOD: Final = (LoopError, UnknownPriceError, ReplayError, PersonaError)


@final
class Driver:
    """The tasks of a run that are at work now.

    Args:
        board: The run.
        leases: Where `touches` are held against other runs.
        fail: Told about an error that ends the session.
        end: Called when every task is over.
    """

    def __init__(
        self,
        board: Board,
        leases: LeaseStore | None,
        fail: Callable[[Exception], None],
        end: Callable[[], None],
    ) -> None:
        self.board = board
        self.jobs: dict[str, asyncio.Task[None]] = {}
        self.changed = asyncio.Condition()
        self.stuck = False
        self.over = False
        self.closing = False
        """True once jobs are stopped for a later session to go on with them."""
        self.decisions = Decisions(self)
        self._leases = leases
        self._fail, self._end = fail, end
        self._wake = asyncio.Event()
        self._merging = asyncio.Lock()
        self._started = board.maestro.clock()
        self._cancelled: set[str] = set()
        self._late: set[str] = set()
        self._refused: list[str] = []
        self._denied: set[str] = set()

    def poke(self) -> None:
        """Look again at what can be done."""
        self._wake.set()

    async def drive(self) -> None:
        """Run the plan until every task is over."""
        try:
            while not self.over:
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
            self._fail(error)

    async def serve(self) -> None:
        """Keep the services of the run alive."""
        supervisor = self.board.maestro.supervisor
        if supervisor is None or not self.board.live:
            return

        def restarted(name: str, error: BaseException | None) -> None:
            data = {"name": name, "error": repr(error) if error else ""}
            self.board.context.emit("service.restarted", data)

        try:
            await supervisor.run(on_restart=restarted)
        except Exception as error:  # handed to whoever waits for the result
            self._fail(error)

    async def stop(self) -> None:
        """Stop every job; a later session goes on with the tasks."""
        self.closing = True
        jobs = list(self.jobs.values())
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    async def cancel(self, names: list[str]) -> None:
        """Cancel the jobs of tasks and wait for their end."""
        jobs = [self.jobs[name] for name in names]
        self._cancelled |= set(names)
        for job in jobs:
            job.cancel()
        await asyncio.gather(*jobs, return_exceptions=True)

    async def tell(self) -> None:
        """Wake those that wait for the result."""
        async with self.changed:
            self.changed.notify_all()

    async def _step(self) -> None:
        board = self.board
        await self.decisions.read_inbox()
        self._watch_wall()
        board.promote()
        for name in self._refused:
            board.schedule.push(name)
        self._refused.clear()
        board.schedule.offer(self._start, self._room)
        board.context.commit_now()
        self.stuck = not self.jobs and not board.moving() and board.waiting()
        if board.over():
            self._finish()
        if self.stuck or self.over:
            await self.tell()

    def _finish(self) -> None:
        board = self.board
        states = {state for state, n in board.view.counts.items() if n}
        status = "failed"
        if states <= {State.COMPLETED}:
            status = "completed"
        elif State.CANCELLED in states and not states & {State.FAILED, State.REJECTED}:
            status = "cancelled"
        if board.view.status != status:
            board.context.emit("run.finished", {"status": status})
        board.context.commit_now()
        self.over = True
        self._end()

    def _watch_wall(self) -> None:
        board = self.board
        budget = board.maestro.budget
        if budget is None or budget.wall is None:
            return
        now = board.maestro.clock() - self._started
        elapsed = board.view.elapsed_ns / 1e9 + now
        board.context.warn(board.context.ledger.set_wall(elapsed))
        if budget.mode == "hard" and elapsed * 1000 >= budget.limits()["wall_ms"]:
            self._late |= set(self.jobs)
            for job in self.jobs.values():
                job.cancel()

    # What may start.

    def _room(self) -> bool:
        return len(self.jobs) < self.board.maestro.workers

    def _start(self, name: str) -> str:
        """Start a ready task, or return what blocks it."""
        board = self.board
        task = board.view.tasks[name]
        if task.state is not State.READY or name in self.jobs:
            return ""  # it comes again when it is ready and its job is gone
        if blocker := board.schedule.blocker(name):
            return blocker
        spec = board.plan.tasks[name]
        if spec.approval in {"before", "both"}:
            approval = f"{name}:before"
            if board.view.approvals.get(approval) != "granted":
                board.request(task, approval)
                return ""
        match = board.match(name)
        if full := board.schedule.full(match.persona):
            return full
        if not self._lease(spec):
            self._refused.append(name)
            return ""
        board.move(task, State.CLAIMED, {"why": match.why}, actor=match.persona)
        board.schedule.started(name, match.persona)
        self.jobs[name] = asyncio.create_task(self._work(task, spec), name=name)
        return ""

    def _lease(self, task: Task) -> bool:
        if self._leases is None or not task.touches:
            return True
        holder = f"{self.board.run}/{task.name}"
        try:
            for pattern in task.touches:
                self._leases.take(pattern, holder, ttl=_LEASE_S)
        except LeaseError as error:
            self._unlease(task)
            if task.name not in self._denied:
                self._denied.add(task.name)
                data = {"name": error.name, "holder": error.holder}
                self.board.context.emit("lease.denied", data, task=task.name)
            return False
        self._denied.discard(task.name)
        return True

    def _unlease(self, task: Task) -> None:
        if self._leases is not None:
            for pattern in task.touches:
                self._leases.release(pattern, f"{self.board.run}/{task.name}")

    async def _renew(self, task: Task) -> None:
        while True:
            await asyncio.sleep(_LEASE_S / 3)
            self._lease(task)

    # How an attempt ends.

    async def _work(self, task: TaskView, spec: Task) -> None:
        board = self.board
        renewing = asyncio.create_task(self._renew(spec)) if spec.touches else None
        try:
            await Attempt(board, task, spec, merging=self._merging).perform()
        except asyncio.CancelledError:
            self._stopped(task)
        except Exception as error:
            if board.context.broken:
                return
            self._failed(task, spec, error)
        finally:
            if renewing:
                renewing.cancel()
            self.jobs.pop(task.name, None)
            board.schedule.stopped(task.name)
            if task.state is State.READY:
                board.schedule.push(task.name)
            try:
                self._unlease(spec)
            except Exception as error:  # handed to whoever waits for the result
                self._fail(error)
            self.poke()

    def _stopped(self, task: TaskView) -> None:
        if task.name in self._cancelled:
            self.board.move(task, State.CANCELLED, {"reason": "user"})
        elif self.closing:
            return
        elif task.name in self._late:
            data = {"for": "budget:run", "reason": "budget"}
            self.board.move(task, State.WAITING, data)
        else:
            data = {"reason": "error", "detail": "the agent cancelled itself"}
            self.board.move(task, State.FAILED, data)

    def _failed(self, task: TaskView, spec: Task, error: Exception) -> None:
        board = self.board
        detail = f"{error}" if isinstance(error, OrchestrationError) else repr(error)
        data: dict[str, Any] = {
            "reason": getattr(error, "reason", "error"), "detail": detail[:2000]
        }  # fmt: skip
        if not isinstance(error, OrchestrationError) and (found := trace(error)):
            data["trace"] = found
        doubt = [k for t, n, k in board.context.open_unsafe
                 if (t, n) == (task.name, task.attempt)]  # fmt: skip
        if isinstance(error, TimeoutError) and spec.timeout is not None:
            data = {"reason": "timeout", "detail": f"over {spec.timeout} s"}
        if isinstance(error, InDoubtError) or doubt:
            key = error.key if isinstance(error, InDoubtError) else doubt[0]
            board.move(task, State.IN_DOUBT, {**data, "for": f"turn:{key}"})
        elif isinstance(error, BudgetExceededError):
            data["for"] = f"budget:{error.scope}"
            board.move(task, State.WAITING, data)
        elif task.attempt < spec.tries and not isinstance(error, _FOR_GOOD):
            attempt = task.attempt
            board.move(task, State.RETRYING, data)
            loop = asyncio.get_running_loop()
            loop.call_later(board.maestro.backoff(attempt), self._again, task)
        else:
            board.move(task, State.FAILED, data)

    def _again(self, task: TaskView) -> None:
        broken = self.board.context.broken
        if task.state is State.RETRYING and not self.over and not broken:
            self.board.move(task, State.READY, {})
            self.poke()
