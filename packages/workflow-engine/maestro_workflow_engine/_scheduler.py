"""The scheduler: one thread that decides, fed by outcomes.

A turn is: take in what has ended, see what became ready, choose what starts, write
all of that down in one transaction, and only then let it start. Everything a run
knows is in lists indexed by a step's position, so a turn costs O(log n) a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from queue import Empty, SimpleQueue
from time import time
from typing import TYPE_CHECKING, Any, Protocol, final

from . import _model as m
from ._dispatch import Dispatcher, Policy
from ._endings import Endings
from ._growth import CHUNK, Growth, shifted
from ._model import (
    READY,
    RUNNING,
    SUCCEEDED,
    Attempt,
    Event,
    Outcome,
    Spec,
    StepContext,
    StepExecutor,
)
from ._readiness import Readiness
from ._record import Record
from ._steps import Steps

if TYPE_CHECKING:
    from ._journal import Journal, RunInfo
    from ._past import Past
    from ._workflow import Workflow

_NO_KWARGS: dict[str, Any] = {}
_POLL = 0.2  # seconds between looks at the journal for messages


class Inbox(Protocol):
    """Where outcomes arrive; the testing kit's has a clock of its own."""

    def put(self, item: Any, /) -> None: ...
    def get(self, block: bool = ..., timeout: float | None = ...) -> Any: ...  # noqa: FBT001 - private
    def qsize(self) -> int: ...


@final
class Scheduler:
    """One run. Not thread-safe: other threads only put into `inbox`."""

    def __init__(
        self,
        workflow: Workflow,
        *,
        run_id: str,
        executor_of: Callable[[Spec], StepExecutor],
        workers: int,
        policy: Policy = "critical-path",
        durations: Mapping[str, float] | None = None,
        priorities: Sequence[float] | None = None,
        journal: Journal | None = None,
        info: RunInfo | None = None,
        past: Past | None = None,
        listener: Callable[[Event], None] | None = None,
        cache: dict[str, Any] | None = None,
        approve: Sequence[str] = (),
        stay: bool = False,
        now: Callable[[], float] = time,
        inbox: Inbox | None = None,
        batching: bool = True,
    ) -> None:
        self.workflow = workflow
        self.run_id = run_id
        self.workers = workers
        self.inbox: Inbox = inbox if inbox is not None else SimpleQueue()
        self.final = ""  # the run's state once it is over
        dispatcher = Dispatcher(dict(workflow.pools), policy)
        self.steps = Steps(workflow.params, dispatcher, journal)
        self.record = Record(run_id, journal, info, listener, now)
        self.growth = Growth(
            self.steps,
            self.record,
            past=past,
            durations=durations or {},
            batching=batching,
        )
        kept = cache if cache is not None else {}
        self.endings = Endings(self.steps, self.record, kept, fair=policy == "fair")
        approved = (*approve, *(past.approved if past else ()))
        self.readiness = Readiness(
            self.steps, self.record, self.growth, self.endings, approved
        )
        self._executor_of = executor_of
        self._epoch = info.epoch if info is not None else 0
        self._stay = stay
        self._deadlines: list[tuple[float, int, Attempt]] = []
        self._paused = False
        self._heard = 0
        self._next_poll = 0.0
        if journal is not None and info is not None:
            self._heard = journal.last_control(info.key)
        self.growth.add(workflow, priorities)

    def run(self) -> str:
        """Run until nothing is left to do; return the run's state.

        Raises:
            JournalError: what happened could not be written down. Nothing that was
                not written down has been started.
        """
        if self.growth.past is not None and self.growth.past.compensating:
            self._cancel_rest("compensating")
        try:
            return self._loop()
        except KeyboardInterrupt:
            self._stop_running("interrupted")
            raise
        except BaseException:
            self._stop_running("cancelled")
            raise

    def _loop(self) -> str:
        while True:
            self.readiness.settle()
            starts = self._choose()
            if not starts and self._idle():
                self.record.flush()
                self.final = self._verdict()
                return self.final
            self.record.flush()
            if starts:
                self._launch(starts)
            elif self.steps.arrived:
                continue  # undo steps have just been added
            self._receive()

    def _idle(self) -> bool:
        """Tell whether nothing can happen any more without help from outside."""
        if self.steps.running or self.endings.timers or self.steps.arrived:
            return False
        if self._paused or (
            self.readiness.gates and self._stay and not self.steps.cancelling
        ):
            return False
        if len(self.steps.dispatcher):
            return False
        return not self.growth.compensate()

    def _verdict(self) -> str:
        if self.steps.cancelling == "cancelled":
            return "cancelled"
        if self.steps.errors:
            return "failed"
        if self.readiness.gates:
            return "waiting"
        return "succeeded"

    def _choose(self) -> list[Attempt]:
        """Take the best ready steps while there is room for them."""
        if self._paused or self.steps.cancelling == "cancelled":
            return []
        room = self.workers
        if self.growth.batching and self.endings.mean < 0.002:
            # Very short steps: as many as take 4 ms, so that workers never wait for
            # the next turn and a transaction covers many steps.
            room *= min(64, int(0.004 / max(self.endings.mean, 1e-6)))
        room -= len(self.steps.running)
        starts: list[Attempt] = []
        take = self.steps.dispatcher.take_up_to
        while room > 0 and (indexes := take(room)):
            before = len(starts)
            self._attempts(indexes, starts)
            room -= len(starts) - before
        if not starts and self.steps.arrived:  # preparing one failed at once
            self.readiness.settle()
            return self._choose()
        return starts

    def _attempts(self, indexes: list[int], made: list[Attempt]) -> None:
        """Do what `_attempt` does, for direct steps without a call each."""
        steps = self.steps
        nodes, results, tries = steps.nodes, steps.results, steps.tries
        state, running, run_id = steps.state, steps.running, self.run_id
        epoch, stored = self._epoch, steps.stored
        began = None if self.record.silent else self.record.starts
        for index in indexes:
            node = nodes[index]
            spec = node.spec
            if stored or not node.direct or spec.wants_ctx or state[index] != READY:
                attempt = self._attempt(index)
                if attempt is not None:
                    made.append(attempt)
                continue
            given = []
            for other in node.needs:
                given.append(results[other])  # noqa: PERF401 - half the time, for two
            number = tries[index] = tries[index] + 1
            attempt = Attempt(
                run_id, index, node.name, number, spec, given, _NO_KWARGS, False, epoch
            )
            state[index] = RUNNING
            running[index] = attempt
            made.append(attempt)
            if began is not None:
                began.append((node.name, number))
                if self.record.listener is not None:
                    self.record.tell(node.name, number, "started", self.record.now())

    def _attempt(self, index: int) -> Attempt | None:
        node = self.steps.nodes[index]
        spec = node.spec
        args: Sequence[Any] = node.args
        kwargs = _NO_KWARGS
        try:
            if args:
                args = self.steps.arguments(args)
            if node.kwargs:
                kwargs = self.steps.resolve(node.kwargs)
        except Exception as error:
            self.steps.move(index, m.RUNNING)
            self.steps.release(index, spec)
            self.endings.fail(index, self.endings.wrapped(index, error), "inputs")
            return None
        number = self.steps.tries[index] = self.steps.tries[index] + 1
        attempt = Attempt(
            self.run_id, index, node.name, number, spec, args, kwargs,
            node.when is CHUNK, self._epoch,
        )  # fmt: skip
        if spec.wants_ctx:
            attempt.flag = []
            attempt.kwargs = kwargs | {
                "ctx": StepContext(
                    run_id=self.run_id,
                    step=node.name,
                    attempt=number,
                    idempotency_key=attempt.idempotency_key,
                    flag=attempt.flag,
                )
            }
        if self.steps.state[index] != m.READY:
            self.steps.move(index, m.RUNNING)  # which raises
        self.steps.state[index] = m.RUNNING
        self.steps.running[index] = attempt
        if not self.record.silent:
            self.record.starts.append((node.name, number))
            if self.record.listener is not None:
                self.record.tell(node.name, number, "started", self.record.now())
        return attempt

    def _launch(self, starts: list[Attempt]) -> None:
        put = self.inbox.put
        if not self.growth.batching:
            now = self.record.now()
            for attempt in starts:
                if attempt.spec.timeout is not None:
                    due = now + attempt.spec.timeout
                    heappush(self._deadlines, (due, attempt.index, attempt))
        if len(starts) == 1 or len(self.growth.kinds) == 1:
            self._executor_of(starts[0].spec).start(starts, put)
            return
        batches: dict[str, list[Attempt]] = {}
        for attempt in starts:
            batches.setdefault(attempt.spec.kind, []).append(attempt)
        # Plain functions last: the inline executor blocks this thread.
        for name in sorted(batches, key="python".__eq__):
            attempts = batches[name]
            self._executor_of(attempts[0].spec).start(attempts, put)

    def _receive(self) -> None:
        """Wait for something to happen, then take in all that has."""
        inbox = self.inbox
        if not inbox.qsize():
            with suppress(Empty):
                self._on(inbox.get(True, self._patience()))
        if self.record.silent and self.growth.batching and not self.endings.fair:
            self._take_in()
        else:
            for _ in range(inbox.qsize()):
                self._on(inbox.get())
        if self.endings.timers or self._deadlines:
            self._tick()
        if self.record.journal is not None and self.record.now() >= self._next_poll:
            self._listen()

    def _take_in(self) -> None:
        """Do what `Endings.finish` does, for plain steps that succeed without a call each."""
        steps = self.steps
        get, running, results = self.inbox.get, steps.running, steps.results
        started, ended, worker = steps.started, steps.ended, steps.worker
        state, waits, arrived = steps.state, steps.waits, steps.arrived
        successors, special = steps.successors, steps.special
        mean = self.endings.mean
        for _ in range(self.inbox.qsize()):
            item = get()
            if type(item) is not Outcome:
                self._obey(*item)
                continue
            attempt, value, error, began, end, name, _, _ = item
            index = attempt.index
            if error is not None or special[index]:
                self.endings.mean = mean
                self.endings.finish(item)
                mean = self.endings.mean
                continue
            if running.get(index) is not attempt:
                continue  # an outcome too late: its attempt was given up
            del running[index]
            started[index] = began
            ended[index] = end
            worker[index] = name
            mean += 0.1 * (end - began - mean)
            if state[index] != RUNNING:
                steps.move(index, SUCCEEDED)  # which raises
            state[index] = SUCCEEDED
            results[index] = value
            for other in successors[index]:
                left = waits[other] = waits[other] - 1
                if not left:
                    arrived.append(other)
        self.endings.mean = mean

    def _patience(self) -> float | None:
        due = [queue[0][0] for queue in (self.endings.timers, self._deadlines) if queue]
        if self.record.journal is not None:
            due.append(self._next_poll)
        return max(0.0, min(due) - self.record.now()) if due else None

    def _tick(self) -> None:
        now = self.record.now()
        while self.endings.timers and self.endings.timers[0][0] <= now:
            index = heappop(self.endings.timers)[1]
            if self.steps.state[index] == m.WAITING:
                self.steps.make_ready(index)
        while self._deadlines and self._deadlines[0][0] <= now:
            attempt = heappop(self._deadlines)[2]
            if self.steps.running.get(attempt.index) is attempt and not attempt.stopped:
                attempt.stopped = "timed_out"
                self._executor_of(attempt.spec).cancel(attempt)

    def _listen(self) -> None:
        """Look for what other processes told this run."""
        assert self.record.journal is not None
        assert self.record.info is not None
        self._next_poll = self.record.now() + _POLL
        for seq, verb, argument in self.record.journal.told(
            self.record.info.key, self._heard
        ):
            self._heard = seq
            self._obey(verb, argument)

    def _on(self, item: Any) -> None:
        if type(item) is Outcome:
            self.endings.finish(item)
        else:
            self._obey(*item)

    def _obey(self, verb: str, argument: Any) -> None:
        """Do what a handle or another process asks: pause, continue, cancel, ..."""
        if verb == "cancel" and not self.steps.cancelling:
            self._cancel_rest("cancelled")
            for attempt in list(self.steps.running.values()):
                attempt.stopped = "cancelled"
                self._executor_of(attempt.spec).cancel(attempt)
        elif verb == "pause" and not self._paused:
            self._set_paused(True)
        elif verb == "continue" and self._paused:
            self._set_paused(False)
        elif verb == "approve":
            self._approve(argument)
        elif verb == "add":
            self.add_group(*argument)

    def _set_paused(self, paused: bool) -> None:  # noqa: FBT001 - private
        self._paused = paused
        self.record.log("", 0, "paused" if paused else "continued")
        if self.record.journal is not None and self.record.info is not None:
            self.record.journal.set_state(
                self.record.info, "paused" if paused else "running"
            )

    def _approve(self, name: str) -> None:
        self.readiness.approved.add(name)
        index = self.steps.index.get(name)
        if index is not None and index in self.readiness.gates:
            self.readiness.gates.discard(index)
            self.steps.arrived.append(index)

    def _cancel_rest(self, why: str) -> None:
        """Give up everything that has not started."""
        steps = self.steps
        steps.cancelling = why
        self._paused = False
        steps.dispatcher.clear()
        self.endings.timers.clear()
        steps.arrived.clear()
        self.readiness.gates.clear()
        for index, state in enumerate(steps.state):
            if state in (m.PENDING, m.READY, m.WAITING):
                steps.move(index, m.CANCELLED)
                steps.reasons[index] = why

    def _stop_running(self, why: str) -> None:
        """Stop what is in flight, as when this process must end at once."""
        for attempt in self.steps.running.values():
            attempt.stopped = why
            self._executor_of(attempt.spec).cancel(attempt)

    def add_group(self, workflow: Workflow, prefix: str, note: str) -> None:
        """Add another workflow's steps to this run, under a prefix."""
        if self.steps.group is None:
            self.steps.group = [0] * len(self.steps.nodes)
        self.steps.groups += 1
        for pool, units in workflow.pools.items():
            self.steps.dispatcher.free.setdefault(pool, units)
        self.record.log(prefix, 0, "added", note=note)
        self.growth.add(shifted(workflow, len(self.steps.nodes), prefix), None)
