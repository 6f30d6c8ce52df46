"""One attempt at one task: a folder, an answer, promises, gates, a merge."""

import asyncio
import fnmatch
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, final

from ._agent import Agent
from ._board import Board
from ._fold import State, TaskView
from ._messages import Reply
from ._plan import Task
from ._turn import Turn
from .errors import ContractError, GateFailedError, MergeConflictError

if TYPE_CHECKING:
    from ._processes import ProcessId
    from ._worktrees import Candidate, Worktree, Worktrees


def check_consumes(spec: Task, folder: Path, replies: Iterable[Reply | None]) -> None:
    """Raise ContractError for what a task needs and nobody made."""
    answers = [reply.data for reply in replies if reply]
    missing = [
        name
        for name in spec.consumes
        if not (
            any(_has(data, name) for data in answers)
            if name.startswith("data.")
            else _found(folder, name)
        )
    ]
    if missing:
        raise ContractError(spec.name, "needs", missing)


def check_produces(spec: Task, folder: Path, reply: Reply) -> None:
    """Raise ContractError for what a task promised and did not make."""
    missing = [
        name
        for name in spec.produces
        if not (
            _has(reply.data, name) if name.startswith("data.") else _found(folder, name)
        )
    ]
    if missing:
        raise ContractError(spec.name, "promised", missing)


def check_handoff(spec: Task, reply: Reply, allowed: tuple[str, ...]) -> None:
    """Raise ContractError for an answer that hands over to somebody else."""
    if reply.handoff and allowed and reply.handoff not in allowed:
        raise ContractError(
            spec.name, "hands over to",
            [f"{reply.handoff!r}, allowed are {', '.join(allowed)}"],
        )  # fmt: skip


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


_T = TypeVar("_T")


@final
class Attempt:
    """What one try at a task goes through; `perform` raises why it failed."""

    def __init__(
        self, board: Board, task: TaskView, spec: Task, *, merging: asyncio.Lock
    ) -> None:
        self._board, self._task, self._spec = board, task, spec
        self._merging = merging
        self._workspace = board.maestro.workspace if board.live else None
        self._tree: Worktree | None = None
        self._reply = Reply()

    async def perform(self) -> None:
        """Work, check, merge; leave the task completed, waiting or ready."""
        board, task = self._board, self._task
        board.move(task, State.RUNNING, {})
        agent = board.maestro.agents[task.agent]
        merged = False
        try:
            async with asyncio.timeout(self._spec.timeout):
                if self._workspace is not None:
                    self._tree = await self._acquire(self._workspace)
                await self._answer(agent)
            if self._tree is not None or board.maestro.gates:
                board.move(task, State.GATING, {})
            if board.live:
                merged = await self._pass()
        finally:
            if self._tree is not None and not board.context.broken:
                await self._release(self._tree, merged=merged)
        if task.state not in {State.WAITING, State.READY}:
            data = {"reason": "ok", "reply": self._reply.to_json()}
            board.move(task, State.COMPLETED, data)
            await board.context.commit()

    async def _acquire(self, workspace: "Worktrees") -> "Worktree":
        board, task = self._board, self._task
        at = board.context.snapshots.get((task.name, task.attempt))
        acquire = asyncio.ensure_future(
            asyncio.to_thread(
                workspace.acquire, board.run, task.name, task.attempt, at=at
            )
        )
        try:
            return await asyncio.shield(acquire)
        except asyncio.CancelledError:
            await self._release(await acquire, merged=False)
            raise

    async def _release(self, tree: "Worktree", *, merged: bool) -> None:
        assert self._workspace is not None
        await _to_end(partial(self._workspace.release, tree, merged=merged))

    async def _answer(self, agent: Agent) -> None:
        board, task, spec = self._board, self._task, self._spec
        folder = self._tree.path if self._tree else Path.cwd()
        inputs = {name: board.view.tasks[name].reply or Reply() for name in spec.after}
        check_consumes(spec, folder, inputs.values())
        prompt = spec.prompt
        if agent.model is not None:
            prompt = _told(prompt, inputs, task.feedback)
        turn = Turn(
            board.context, task.name, prompt, task.attempt, "", "", spec.args,
            inputs, self._tree, task.feedback, ("run", f"task:{task.name}"),
        )  # fmt: skip
        self._reply = await turn.ask(agent, prompt, schema=spec.output)
        check_handoff(spec, self._reply, agent.persona.handoff_to)
        if board.live:
            check_produces(spec, folder, self._reply)

    async def _pass(self) -> bool:
        """Run the gates and merge; tell whether the work is in the branch."""
        await self._gates("task", self._tree.path if self._tree else None)
        if self._workspace is None or self._tree is None:
            await self._gates("merged", None)
            self._approved()
            return False
        async with self._merging:
            candidate = await self._candidate(self._workspace, self._tree)
            if candidate is not None:
                await self._check(self._workspace, candidate)
            approved = self._approved()
            if candidate is None or not approved:
                return approved
            return await self._advance(self._workspace, candidate)

    async def _candidate(
        self, workspace: "Worktrees", tree: "Worktree"
    ) -> "Candidate | None":
        title = f"Merge {self._task.name} of {self._board.run}"
        try:
            return await asyncio.to_thread(
                workspace.candidate, tree, self._task.name, title
            )
        except MergeConflictError as error:
            data = {"paths": list(error.paths), "messages": error.messages}
            self._board.emit("workspace.conflict", data, self._task)
            raise

    async def _check(self, workspace: "Worktrees", candidate: "Candidate") -> None:
        with ExitStack() as stack:  # a cancelled attempt leaves no checkout either
            checkout = workspace.checkout(candidate.commit)
            stack.callback(checkout.__exit__, None, None, None)
            folder = await _to_end(checkout.__enter__)
            try:
                await self._gates("merged", folder, candidate.paths)
            finally:
                await _to_end(stack.pop_all().close)

    async def _advance(self, workspace: "Worktrees", candidate: "Candidate") -> bool:
        board, task = self._board, self._task
        board.move(task, State.MERGING, {"candidate": candidate.commit})
        board.context.commit_now(full=True)
        advance = asyncio.ensure_future(asyncio.to_thread(workspace.advance, candidate))
        try:
            moved = await asyncio.shield(advance)
        except asyncio.CancelledError:
            moved = await advance
            if not moved:
                raise
            # It is in the branch: too late to cancel, the task is done.
        if not moved:
            # Somebody else moved the branch: the answer is remembered, merge again.
            board.move(task, State.READY, {"again": "the branch moved"})
            return False
        data = {"commit": candidate.commit, "paths": list(candidate.paths[:200])}
        board.emit("workspace.merged", data, task)
        return True

    def _approved(self) -> bool:
        approval = f"{self._task.name}:after"
        if self._spec.approval not in {"after", "both"}:
            return True
        if self._board.view.approvals.get(approval) == "granted":
            return True
        self._board.request(self._task, approval)
        return False

    async def _gates(
        self, on: str, folder: Path | None, changed: tuple[str, ...] = ()
    ) -> None:
        board, task = self._board, self._task
        if not board.maestro.gates:
            return
        from ._gates import GateInput
        from ._processes import spawn_data

        mark = f"{board.run}/{task.name}/gate:{os.urandom(6).hex()}"

        def spawned(identity: "ProcessId") -> None:
            board.emit("worker.spawned", spawn_data(identity, mark, "gate"), task)
            board.context.commit_now()

        given = GateInput(
            task=task.name, reply=self._reply, folder=folder, changed=changed,
            mark=mark, on_spawn=spawned,
        )  # fmt: skip
        for gate in board.maestro.gates:
            if gate.on != on or (gate.only and task.name not in gate.only):
                continue
            if gate.spawns:
                board.emit(
                    "worker.starting", {"mark": mark, "command": gate.name}, task
                )
                board.context.commit_now()
            result = await gate.run(given)
            if mark in board.view.workers:
                board.emit("worker.exited", {"mark": mark, "code": 0}, task)
            data = {
                "gate": gate.name, "on": on, "counts": dict(result.counts),
                "duration": result.duration, "detail": result.detail[-2000:],
            }  # fmt: skip
            if result.report:
                data["junit"] = result.report
            verdict = "passed" if result.passed else "failed"
            board.emit(f"gate.{verdict}", data, task)
            if not result.passed:
                raise GateFailedError(gate.name, result.detail)


async def _to_end(fn: Callable[[], _T]) -> _T:
    """Call `fn` in a thread; a cancellation waits until it is done."""
    job = asyncio.ensure_future(asyncio.to_thread(fn))
    try:
        return await asyncio.shield(job)
    except asyncio.CancelledError:
        await asyncio.wait([job])
        job.exception()  # looked at, or asyncio complains
        raise


def _told(prompt: str, inputs: dict[str, Reply], feedback: str) -> str:
    """Return what a model reads: the prompt, the results before it, what failed."""
    parts = [prompt, *(f"Result of {n}:\n{r.text}" for n, r in inputs.items())]
    if feedback:
        parts.append(f"The attempt before failed: {feedback}")
    return "\n\n".join(part for part in parts if part)
