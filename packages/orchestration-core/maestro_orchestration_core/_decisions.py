"""What people decide about a run: here, or from another process by the inbox."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

from ._budget import Budget
from ._messages import Reply
from ._plan import Task
from ._states import State
from .errors import ApprovalError, PlanError

if TYPE_CHECKING:
    from ._driver import Driver


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
