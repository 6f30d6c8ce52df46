"""The scheduler: one thread that decides, fed by outcomes.

A turn is: take in what has ended, see what became ready, choose what starts, write
all of that down in one transaction, and only then let it start. Everything a run
knows is in lists indexed by a step's position, so a turn costs O(log n) a step.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from itertools import compress
from operator import attrgetter, not_
from queue import Empty, SimpleQueue
from time import time
from typing import TYPE_CHECKING, Any, Protocol, final

from . import _model as m
from ._dispatch import Dispatcher, Policy
from ._expression import Expression, Text
from ._graph import bottom_levels, compile_graph
from ._model import (
    PENDING,
    READY,
    RUNNING,
    SUCCEEDED,
    Attempt,
    Event,
    Node,
    Outcome,
    Ref,
    Spec,
    StepContext,
    StepExecutor,
)
from .errors import (
    CommandFailedError,
    ResultError,
    StepCancelledError,
    StepError,
    StepFailedError,
    StepTimeoutError,
    WorkerLostError,
)

if TYPE_CHECKING:
    from ._journal import Journal, Row, RunInfo
    from ._past import Past
    from ._workflow import Workflow

_NO_KWARGS: dict[str, Any] = {}
_LOST_TRIES = 3  # a step that kills its workers is not given a fourth
_POLL = 0.2  # seconds between looks at the journal for messages
_RUNNABLE = ("python", "async", "command")
_FAILED, _SKIPPED = 1, 2  # what upset a step: bits
_SPECIAL, _POOLED = 1, 2  # a step that does not simply start once nothing holds it

_spec_of, _name_of = attrgetter("spec"), attrgetter("name")
_is_direct = attrgetter("direct")


class Inbox(Protocol):
    """Where outcomes arrive; the testing kit's has a clock of its own."""

    def put(self, item: Any, /) -> None: ...
    def get(self, block: bool = ..., timeout: float | None = ...) -> Any: ...  # noqa: FBT001 - private
    def qsize(self) -> int: ...


@final
class Stored:
    """A result that is text, as the journal keeps it."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


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
        self.nodes: list[Node] = []
        self.state = bytearray()
        self.waits: list[int] = []
        self.successors: list[list[int]] = []
        self.results: list[Any] = []
        # Results that are still text, as the journal keeps them: most are never looked
        # at again. Without a journal there are none.
        self.texts: list[str | None] = []
        self.tries: list[int] = []
        self.priority: list[float] = []
        self.started = array("d")
        self.ended = array("d")
        self.worker: list[str] = []
        self.reasons: dict[int, str] = {}
        self.errors: dict[int, StepError] = {}
        self.index: dict[str, int] = {}
        self.expanded: dict[int, tuple[int, int]] = {}
        self.final = ""  # the run's state once it is over
        self._executor_of = executor_of
        self._now = now
        self._durations = durations or {}
        self._journal = journal
        self._info = info
        self._listener = listener
        self._silent = journal is None and listener is None
        self._epoch = info.epoch if info is not None else 0
        self._rows: list[Row] = []
        self._starts: list[tuple[str, int]] = []
        self._cache = cache if cache is not None else {}
        self._cache_keys: dict[int, str] = {}
        self._cache_rows: list[tuple[str, str]] = []
        self._approved = {*approve, *(past.approved if past else ())}
        self._past = past
        self._stored = False  # whether some results are still text
        self._stay = stay
        self._batching = batching
        self._special = bytearray()
        self._earlier = bytearray()  # 1 for what succeeded before this resume
        self._kinds: set[str] = set()
        self._group: list[int] | None = None
        self._groups = 0
        self._upset: dict[int, int] = {}
        self._arrived: list[int] = []
        self._gates: set[int] = set()
        self._timers: list[tuple[float, int]] = []
        self._deadlines: list[tuple[float, int, Attempt]] = []
        self._lost: dict[int, int] = {}
        self._running: dict[int, Attempt] = {}
        self._mean = 1.0
        self._paused = False
        self._cancelling = ""
        self._compensated = False
        self._heard = 0
        self._next_poll = 0.0
        pools = dict(workflow.pools)
        self._dispatcher = Dispatcher(pools, policy)
        self._fair = policy == "fair"
        if journal is not None and info is not None:
            self._heard = journal.last_control(info.key)
        self._add_all(workflow, priorities)

    # -- the graph ----------------------------------------------------------

    def _add_all(self, workflow: Workflow, priorities: Sequence[float] | None) -> None:
        """Append a workflow's nodes, whose positions must follow those we have."""
        nodes = workflow.nodes
        shift = len(self.nodes)
        texts = self._remembered(nodes, known=not shift)
        if shift:
            own = [[i - shift for i in n.needs] for n in nodes]
            graph = compile_graph(own, _which(texts))
        elif texts:
            graph = compile_graph([n.needs for n in nodes], _which(texts))
        else:
            graph = workflow.graph()
        keys = list(map(id, map(_spec_of, nodes)))
        specs = dict(zip(keys, map(_spec_of, nodes), strict=True))
        if priorities is None:
            times = self._estimates(nodes, keys, specs)
            priorities = bottom_levels(graph, times)
        count = len(nodes)
        self.nodes += nodes
        self.waits += graph.waits
        after = graph.successors
        self.successors += [[i + shift for i in s] for s in after] if shift else after
        self.priority += priorities[:count]
        self._grow(count)
        if self._group is not None:
            self._group += [self._groups] * count
        marks = {key: self._mark(spec) for key, spec in specs.items()}
        self._special[shift:] = bytes(map(marks.__getitem__, keys))
        for index in compress(range(count), map(not_, map(_is_direct, nodes))):
            if nodes[index].when is not True or nodes[index].mapping is not None:
                self._special[shift + index] = _SPECIAL
        if shift or len(workflow.index) != count:
            names = map(_name_of, nodes)
            self.index.update(zip(names, range(shift, shift + count), strict=False))
        else:
            self.index = workflow.index.copy()
        self._recall(shift, texts)
        state, waits = self.state, self.waits
        self._arrived += [
            i for i in range(shift, len(self.nodes)) if not waits[i] and not state[i]
        ]

    def _grow(self, count: int) -> None:
        self.state += bytes(count)
        self._earlier += bytes(count)
        self._special += bytes(count)
        self.results += [None] * count
        if self._journal is not None:
            self.texts += [None] * count
        self.tries += [0] * count
        self.started.frombytes(bytes(8 * count))
        self.ended.frombytes(bytes(8 * count))
        self.worker += [""] * count

    def _mark(self, spec: Spec) -> int:
        """Tell how much there is to do before steps of this kind start."""
        self._kinds.add(spec.kind)
        if spec.timeout is not None or spec.once:
            # A queued attempt's clock would run already; and after a crash a `once`
            # step that had only waited its turn would look as if it had begun.
            self._batching = False
        if spec.kind not in _RUNNABLE or spec.run_on != "success" or spec.cache:
            return _SPECIAL
        return _POOLED if spec.pools else 0

    def _estimates(
        self, nodes: Sequence[Node], keys: Sequence[int], specs: Mapping[int, Spec]
    ) -> list[float]:
        known = self._durations
        guesses = {key: _guess(spec) for key, spec in specs.items()}
        guessed = map(guesses.__getitem__, keys)
        if not known:
            return list(guessed)
        return list(map(known.get, map(_name_of, nodes), guessed))

    def _remembered(
        self, nodes: Sequence[Node], *, known: bool = False
    ) -> list[str | None]:
        """The results of steps that succeeded earlier; nothing in a new run."""
        if self._past is None:
            return []
        if known:
            return self._past.texts
        return list(map(self._past.extra.get, map(_name_of, nodes)))

    def _recall(self, shift: int, texts: list[str | None]) -> None:
        """Take over what the journal says about the steps from `shift` on."""
        past = self._past
        if past is None:
            return
        names = list(map(_name_of, self.nodes[shift:]))
        done = _which(texts)
        self.tries[shift:] = map(past.tries.get, names, done)
        self.state[shift:] = done.translate(_TO_SUCCEEDED)
        self.texts[shift:] = texts
        self._stored = True
        self._earlier[shift:] = done
        if not past.decided:
            names = []
        for index, name in enumerate(names, shift):
            if texts[index - shift] is not None:
                continue
            if past.decided.get(name) == "skip":
                self.reasons[index] = "decided"
                self.state[index] = m.SKIPPED
                self._pass_on(index, 0)
            elif past.decided.get(name) == "fail":
                message = f"step {name!r} was declared failed"
                error = StepFailedError(name, self.tries[index], message)
                self.errors[index] = error
                self.state[index] = m.FAILED
                self.reasons[index] = "decided"
                self._pass_on(index, _FAILED)
        # What waits for nothing else now arrives with the other roots: see the callers.
        self._arrived[:] = [i for i in self._arrived if i < shift]

    def _recall_new(self, first: int) -> None:
        """Do so for steps that this run has just added; they know who waits for them."""
        texts = self._remembered(self.nodes[first:])
        self._recall(first, texts)
        waits, successors = self.waits, self.successors
        for index, text in enumerate(texts, first):
            if text is not None:
                for other in successors[index]:
                    waits[other] -= 1

    # -- the loop -----------------------------------------------------------

    def run(self) -> str:
        """Run until nothing is left to do; return the run's state.

        Raises:
            JournalError: what happened could not be written down. Nothing that was
                not written down has been started.
        """
        if self._past is not None and self._past.compensating:
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
            self._settle()
            starts = self._choose()
            if not starts and self._idle():
                self._flush()
                self.final = self._verdict()
                return self.final
            self._flush()
            if starts:
                self._launch(starts)
            elif self._arrived:
                continue  # undo steps have just been added
            self._receive()

    def _idle(self) -> bool:
        """Tell whether nothing can happen any more without help from outside."""
        if self._running or self._timers or self._arrived:
            return False
        if self._paused or (self._gates and self._stay and not self._cancelling):
            return False
        if len(self._dispatcher):
            return False
        return not self._compensate()

    def _verdict(self) -> str:
        if self._cancelling == "cancelled":
            return "cancelled"
        if self.errors:
            return "failed"
        if self._gates:
            return "waiting"
        return "succeeded"

    def _choose(self) -> list[Attempt]:
        """Take the best ready steps while there is room for them."""
        if self._paused or self._cancelling == "cancelled":
            return []
        room = self.workers
        if self._batching and self._mean < 0.002:
            # Very short steps: as many as take 4 ms, so that workers never wait for
            # the next turn and a transaction covers many steps.
            room *= min(64, int(0.004 / max(self._mean, 1e-6)))
        room -= len(self._running)
        starts: list[Attempt] = []
        take = self._dispatcher.take_up_to
        while room > 0 and (indexes := take(room)):
            before = len(starts)
            self._attempts(indexes, starts)
            room -= len(starts) - before
        if not starts and self._arrived:  # preparing one failed at once
            self._settle()
            return self._choose()
        return starts

    def _attempts(self, indexes: list[int], made: list[Attempt]) -> None:
        """Do what `_attempt` does, for direct steps without a call each."""
        nodes, results, tries = self.nodes, self.results, self.tries
        state, running, run_id = self.state, self._running, self.run_id
        epoch, stored = self._epoch, self._stored
        began = None if self._silent else self._starts
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
                if self._listener is not None:
                    self._tell(node.name, number, "started", self._now())

    def _attempt(self, index: int) -> Attempt | None:
        node = self.nodes[index]
        spec = node.spec
        args: Sequence[Any] = node.args
        kwargs = _NO_KWARGS
        try:
            if args:
                args = self._arguments(args)
            if node.kwargs:
                kwargs = self._resolve(node.kwargs)
        except Exception as error:
            self._move(index, m.RUNNING)
            self._release(index, spec)
            self._fail(index, self._wrapped(index, error), "inputs")
            return None
        number = self.tries[index] = self.tries[index] + 1
        attempt = Attempt(
            self.run_id, index, node.name, number, spec, args, kwargs,
            node.when is _CHUNK, self._epoch,
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
        if self.state[index] != m.READY:
            self._move(index, m.RUNNING)  # which raises
        self.state[index] = m.RUNNING
        self._running[index] = attempt
        if not self._silent:
            self._starts.append((node.name, number))
            if self._listener is not None:
                self._tell(node.name, number, "started", self._now())
        return attempt

    def _launch(self, starts: list[Attempt]) -> None:
        put = self.inbox.put
        if not self._batching:
            now = self._now()
            for attempt in starts:
                if attempt.spec.timeout is not None:
                    due = now + attempt.spec.timeout
                    heappush(self._deadlines, (due, attempt.index, attempt))
        if len(starts) == 1 or len(self._kinds) == 1:
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
        if self._silent and self._batching and not self._fair:
            self._take_in()
        else:
            for _ in range(inbox.qsize()):
                self._on(inbox.get())
        if self._timers or self._deadlines:
            self._tick()
        if self._journal is not None and self._now() >= self._next_poll:
            self._listen()

    def _take_in(self) -> None:
        """Do what `_finish` does, for plain steps that succeed without a call each."""
        get, running, results = self.inbox.get, self._running, self.results
        started, ended, worker = self.started, self.ended, self.worker
        state, waits, arrived = self.state, self.waits, self._arrived
        successors, special = self.successors, self._special
        mean = self._mean
        for _ in range(self.inbox.qsize()):
            item = get()
            if type(item) is not Outcome:
                self._obey(*item)
                continue
            attempt, value, error, began, end, name, _, _ = item
            index = attempt.index
            if error is not None or special[index]:
                self._mean = mean
                self._finish(item)
                mean = self._mean
                continue
            if running.get(index) is not attempt:
                continue  # an outcome too late: its attempt was given up
            del running[index]
            started[index] = began
            ended[index] = end
            worker[index] = name
            mean += 0.1 * (end - began - mean)
            if state[index] != RUNNING:
                self._move(index, SUCCEEDED)  # which raises
            state[index] = SUCCEEDED
            results[index] = value
            for other in successors[index]:
                left = waits[other] = waits[other] - 1
                if not left:
                    arrived.append(other)
        self._mean = mean

    def _patience(self) -> float | None:
        due = [queue[0][0] for queue in (self._timers, self._deadlines) if queue]
        if self._journal is not None:
            due.append(self._next_poll)
        return max(0.0, min(due) - self._now()) if due else None

    def _tick(self) -> None:
        now = self._now()
        while self._timers and self._timers[0][0] <= now:
            index = heappop(self._timers)[1]
            if self.state[index] == m.WAITING:
                self._make_ready(index)
        while self._deadlines and self._deadlines[0][0] <= now:
            attempt = heappop(self._deadlines)[2]
            if self._running.get(attempt.index) is attempt and not attempt.stopped:
                attempt.stopped = "timed_out"
                self._executor_of(attempt.spec).cancel(attempt)

    # -- messages -----------------------------------------------------------

    def _listen(self) -> None:
        """Look for what other processes told this run."""
        assert self._journal is not None
        assert self._info is not None
        self._next_poll = self._now() + _POLL
        for seq, verb, argument in self._journal.told(self._info.key, self._heard):
            self._heard = seq
            self._obey(verb, argument)

    def _on(self, item: Any) -> None:
        if type(item) is Outcome:
            self._finish(item)
        else:
            self._obey(*item)

    def _obey(self, verb: str, argument: Any) -> None:
        """Do what a handle or another process asks: pause, continue, cancel, ..."""
        if verb == "cancel" and not self._cancelling:
            self._cancel_rest("cancelled")
            for attempt in list(self._running.values()):
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
        self._log("", 0, "paused" if paused else "continued")
        if self._journal is not None and self._info is not None:
            self._journal.set_state(self._info, "paused" if paused else "running")

    def _approve(self, name: str) -> None:
        self._approved.add(name)
        index = self.index.get(name)
        if index is not None and index in self._gates:
            self._gates.discard(index)
            self._arrived.append(index)

    def _cancel_rest(self, why: str) -> None:
        """Give up everything that has not started."""
        self._cancelling = why
        self._paused = False
        self._dispatcher.clear()
        self._timers.clear()
        self._arrived.clear()
        self._gates.clear()
        for index, state in enumerate(self.state):
            if state in (m.PENDING, m.READY, m.WAITING):
                self._move(index, m.CANCELLED)
                self.reasons[index] = why

    def _stop_running(self, why: str) -> None:
        """Stop what is in flight, as when this process must end at once."""
        for attempt in self._running.values():
            attempt.stopped = why
            self._executor_of(attempt.spec).cancel(attempt)

    def add_group(self, workflow: Workflow, prefix: str, note: str) -> None:
        """Add another workflow's steps to this run, under a prefix."""
        if self._group is None:
            self._group = [0] * len(self.nodes)
        self._groups += 1
        for pool, units in workflow.pools.items():
            self._dispatcher.free.setdefault(pool, units)
        self._log(prefix, 0, "added", note=note)
        self._add_all(_shifted(workflow, len(self.nodes), prefix), None)

    # -- becoming ready -----------------------------------------------------

    def _settle(self) -> None:
        """See what each arrived step does now. A list, not recursion: chains are long."""
        arrived, special, upset = self._arrived, self._special, self._upset
        state = self.state
        if not upset and self._group is None:
            # Most steps only become ready; the rest goes through the loop below.
            plain: list[int] = []
            rest: list[int] = []
            for index in arrived:
                if special[index] or state[index]:
                    rest.append(index)
                else:
                    state[index] = READY
                    plain.append(index)
            arrived[:] = rest
            self._dispatcher.add(plain, self.priority)
        while arrived:
            index = arrived.pop()
            if state[index] != m.PENDING and state[index] != m.WAITING:
                continue
            if special[index] != _SPECIAL and (not upset or index not in upset):
                self._make_ready(index)
            elif index in self.expanded:
                self._join(index)
            else:
                self._consider(index)

    def _make_ready(self, index: int) -> None:
        if not m.MOVES[self.state[index] * 16 + m.READY]:
            self._move(index, m.READY)  # which raises
        self.state[index] = m.READY
        self._dispatcher.push(
            index,
            self.priority[index],
            self.nodes[index].spec.pools,
            self._group[index] if self._group is not None else 0,
        )

    def _consider(self, index: int) -> None:
        """Decide about a step that may be skipped, or that is not a plain call."""
        node = self.nodes[index]
        spec = node.spec
        upset = self._upset.get(index, 0)
        if spec.run_on == "success" and upset:
            self._skip(
                index, "upstream_failed" if upset & _FAILED else "upstream_skipped"
            )
            return
        if spec.run_on == "failure" and not upset & _FAILED:
            self._skip(index, "nothing_failed")
            return
        try:
            wanted = node.when is True or node.when is _CHUNK or self._value(node.when)
        except Exception as error:
            self._fail(index, self._wrapped(index, error), "condition")
            return
        if not wanted:
            self._skip(index, "condition_false")
        elif spec.kind == "barrier":
            self._succeed(index, None)
        elif spec.kind == "gate":
            self._gate(index)
        elif node.mapping is not None:
            self._expand(index)
        elif spec.cache and self._from_cache(index):
            pass
        else:
            self._make_ready(index)

    def _gate(self, index: int) -> None:
        name = self.nodes[index].name
        if name in self._approved:
            self._log(name, 0, "approved")
            self._succeed(index, True)
        elif self.state[index] != m.WAITING:
            self._move(index, m.WAITING)
            self._gates.add(index)
            self._log(name, 0, "waiting")
        else:
            self._gates.add(index)

    def _from_cache(self, index: int) -> bool:
        from ._digest import cache_key

        node = self.nodes[index]
        try:
            key = cache_key(
                node.spec, self._resolve(node.args), self._resolve(node.kwargs or {})
            )
        except Exception as error:
            told = StepFailedError(
                node.name, 0, f"step {node.name!r} cannot be cached: {error}"
            )
            self._fail(index, told, "inputs")
            return True
        self._cache_keys[index] = key
        if self._journal is not None:
            text = self._journal.cached(key)
            if text is None:
                return False
            self._succeed(index, Stored(text), note="cached")
            return True
        if key in self._cache:
            self._succeed(index, self._cache[key], note="cached")
            return True
        return False

    def _expand(self, index: int) -> None:
        """Make a step for each item of a map, or each chunk of items."""
        node = self.nodes[index]
        mapping = node.mapping
        assert mapping is not None
        try:
            items = list(self._resolve(mapping.items))
        except Exception as error:
            self._fail(index, self._wrapped(index, error), "inputs")
            return
        size = mapping.chunk
        parts: list[tuple[Any]]
        if size > 1:
            parts = [(items[i : i + size],) for i in range(0, len(items), size)]
        else:
            parts = [(item,) for item in items]
        if not parts:
            self._succeed(index, [])
            return
        first, count = len(self.nodes), len(parts)
        spec, name, kwargs = node.spec, node.name, node.kwargs
        marker = _CHUNK if size > 1 else True
        self.nodes += [
            Node(f"{name}[{k}]", spec, part, kwargs, (), (), marker)
            for k, part in enumerate(parts)
        ]
        self._grow(count)
        special = self._mark(spec)
        self._special[first:] = bytes([special]) * count
        self.waits += [0] * count
        self.successors += [[index]] * count  # one list for all: nobody adds to it
        self.priority += [self.priority[index]] * count
        if self._group is not None:
            self._group += [self._group[index]] * count
        self.expanded[index] = (first, count)
        self.waits[index] = count
        self._move(index, m.WAITING)
        if not self._silent:
            self._log(name, 0, "expanded", note=str(count))
        fresh = range(first, first + count)
        if self._past is not None:
            self._recall_new(first)
            fresh = [i for i in fresh if not self.state[i]]  # type: ignore[assignment]
        if not self.waits[index]:
            self._arrived.append(index)
        elif special or self._group is not None:
            self._arrived += reversed(fresh)
        else:
            self.state[first:] = bytes(state or m.READY for state in self.state[first:])
            self._dispatcher.extend(fresh, self.priority[index])

    def _join(self, index: int) -> None:
        """Collect the results of a map's items."""
        first, count = self.expanded[index]
        states = self.state[first : first + count]
        if states.count(m.SUCCEEDED) == count:
            values = [self.result(i) for i in range(first, first + count)]
            mapping = self.nodes[index].mapping
            assert mapping is not None
            if mapping.chunk > 1:
                values = [item for part in values for item in part]
            self._succeed(index, values)
            return
        failed = [i for i in range(first, first + count) if i in self.errors]
        if not failed:
            self._skip(index, "upstream_skipped")
            return
        name = self.nodes[index].name
        error = StepFailedError(
            name,
            self.tries[failed[0]],
            f"{len(failed)} of {count} items of {name!r} failed; the first: "
            f"{self.errors[failed[0]]}",
        )
        error.__cause__ = self.errors[failed[0]]
        self._fail(index, error, "item_failed")

    # -- values -------------------------------------------------------------

    def reason(self, index: int) -> str:
        """Return why a step is in its state, where that needs saying."""
        return self.reasons.get(index, "earlier" if self._earlier[index] else "")

    def result(self, index: int) -> Any:
        """Return a step's result, decoded when it came from the journal."""
        if self._stored and (text := self.texts[index]) is not None:
            assert self._journal is not None
            self.results[index] = self._journal.decode(text)
            self.texts[index] = None
        return self.results[index]

    def _arguments(self, args: Sequence[Any]) -> list[Any]:
        """Fill in a step's arguments: `_resolve` for the most frequent shapes."""
        result = self.result
        found = []
        for value in args:
            kind = type(value)
            if kind is Ref and not value.path:
                value = result(value.index)  # noqa: PLW2901
            elif kind is not str and kind is not int:
                value = self._resolve(value)  # noqa: PLW2901
            found.append(value)
        return found

    def _resolve(self, value: Any) -> Any:
        kind = type(value)
        if kind is Ref:
            found = self.result(value.index)
            return value.pick(found) if value.path else found
        if kind is tuple or kind is list:
            return [self._resolve(item) for item in value]
        if kind is dict:
            return {key: self._resolve(item) for key, item in value.items()}
        if kind is Expression or kind is Text:
            return self._value(value)
        return value

    def _value(self, value: Any) -> Any:
        if isinstance(value, Expression | Text):
            return value.evaluate(self._by_name, self.workflow.params)
        return self._resolve(value)

    def _by_name(self, name: str) -> Any:
        return self.result(self.index[name])

    # -- ending -------------------------------------------------------------

    def _finish(self, outcome: Outcome) -> None:
        attempt, value, error, started, ended, worker, lost, unstarted = outcome
        index = attempt.index
        if self._running.get(index) is not attempt:
            return  # an outcome too late: its attempt was given up
        del self._running[index]
        spec = attempt.spec
        if spec.pools or self._fair:
            self._release(index, spec)
        self.started[index] = started
        self.ended[index] = ended
        self.worker[index] = worker
        self._mean += 0.1 * (ended - started - self._mean)
        if error is None:
            if spec.timeout is not None and ended - started > spec.timeout:
                # Only an inline step gets here: nobody could stop it.
                attempt.stopped = "timed_out"
                self._failed(attempt, StepCancelledError(attempt.step, 0, ""), lost)
                return
            self._succeed(index, value, attempt)
        elif unstarted:
            self.tries[index] -= 1
            self._make_ready(index)
        else:
            self._failed(attempt, error, lost)

    def _release(self, index: int, spec: Spec) -> None:
        self._dispatcher.release(
            spec.pools, self._group[index] if self._group is not None else 0
        )

    def _succeed(
        self,
        index: int,
        value: Any,
        attempt: Attempt | None = None,
        note: str | None = None,
    ) -> None:
        if not self._silent:
            name = self.nodes[index].name
            number = attempt.number if attempt is not None else 0
            text: str | None = None
            if self._journal is not None:
                if type(value) is Stored:
                    text = self.texts[index] = value.text
                    self._stored = True
                else:
                    try:
                        text = self._journal.encode(name, number, value)
                    except ResultError as error:
                        self._fail(index, error, "result")
                        return
                if index in self._cache_keys:
                    self._cache_rows.append((self._cache_keys.pop(index), text))
            at, length = self._now(), None
            if attempt is not None:
                at = self.ended[index]
                length = at - self.started[index]
            worker = self.worker[index] or None
            if self._journal is not None:
                row = (name, number, "succeeded", at, length, worker, text, note)
                self._rows.append(row)
            if self._listener is not None:
                self._tell(name, number, "succeeded", at, length, worker, note)
        elif index in self._cache_keys:
            self._cache[self._cache_keys.pop(index)] = value
        if not m.MOVES[self.state[index] * 16 + m.SUCCEEDED]:
            self._move(index, m.SUCCEEDED)  # which raises
        self.state[index] = m.SUCCEEDED
        if note:
            self.reasons[index] = note
        self.results[index] = value
        waits, arrived = self.waits, self._arrived
        for other in self.successors[index]:
            left = waits[other] = waits[other] - 1
            if not left:
                arrived.append(other)

    def _failed(self, attempt: Attempt, error: BaseException, lost: bool) -> None:  # noqa: FBT001 - private
        """Decide whether an attempt that failed is worth another."""
        index, spec, number = attempt.index, attempt.spec, attempt.number
        reason = attempt.stopped or ("lost" if lost else "error")
        told = self._told(attempt, error, reason)
        if reason == "cancelled" or (self._cancelling == "cancelled"):
            self._move(index, m.CANCELLED)
            self.reasons[index] = "cancelled"
            self._log(attempt.step, number, "cancelled", worker=self.worker[index])
            return
        if self._retries(index, spec, number, error, reason):
            delay = spec.retry.delay(number) if spec.retry is not None else 0.0
            self._move(index, m.WAITING)
            self._log(
                attempt.step, number, "retrying", note=str(told),
                seconds=self.ended[index] - self.started[index],
                worker=self.worker[index] or None,
            )  # fmt: skip
            if delay:
                heappush(self._timers, (self._now() + delay, index))
            else:
                self._make_ready(index)
            return
        self._fail(index, told, reason)

    def _retries(
        self, index: int, spec: Spec, number: int, error: BaseException, reason: str
    ) -> bool:
        if reason == "lost":
            lost = self._lost[index] = self._lost.get(index, 0) + 1
            return not spec.once and lost < _LOST_TRIES
        retry = spec.retry
        if retry is None or number >= retry.attempts:
            return False
        return reason == "timed_out" or isinstance(error, retry.on)

    def _told(self, attempt: Attempt, error: BaseException, reason: str) -> StepError:
        """Put what happened to an attempt into one of our errors."""
        step, number = attempt.step, attempt.number
        told: StepError
        if reason == "timed_out":
            told = StepTimeoutError(
                step, number,
                f"step {step!r} took longer than its timeout of {attempt.spec.timeout:g}s "
                f"(attempt {number})",
            )  # fmt: skip
        elif isinstance(error, CommandFailedError):
            return error
        elif reason == "lost":
            told = WorkerLostError(step, number, str(error))
        else:
            return self._wrapped(attempt.index, error)
        told.__cause__ = error
        return told

    def _wrapped(self, index: int, error: BaseException) -> StepError:
        name, number = self.nodes[index].name, self.tries[index]
        told = StepFailedError(
            name, number, f"step {name!r} failed: {type(error).__name__}: {error}"
        )
        told.__cause__ = error
        return told

    def _fail(self, index: int, error: StepError, reason: str) -> None:
        name = self.nodes[index].name
        self._move(index, m.FAILED)
        self.errors[index] = error
        self.reasons[index] = reason
        length = self.ended[index] - self.started[index]
        self._log(
            name, self.tries[index], "failed", note=str(error),
            seconds=length or None, worker=self.worker[index] or None,
        )  # fmt: skip
        self._pass_on(index, _FAILED)

    def _skip(self, index: int, reason: str) -> None:
        self._move(index, m.SKIPPED)
        self.reasons[index] = reason
        self._log(self.nodes[index].name, 0, "skipped", note=reason)
        self._pass_on(index, _FAILED if reason == "upstream_failed" else _SKIPPED)

    def _pass_on(self, index: int, bad: int) -> None:
        """Tell those that wait for a step that it brings no result."""
        waits = self.waits
        for other in self.successors[index]:
            # A step that was skipped upsets only those who use its result.
            if bad & _FAILED or index not in self.nodes[other].after:
                self._upset[other] = self._upset.get(other, 0) | bad
            waits[other] -= 1
            if not waits[other]:
                self._arrived.append(other)

    def _compensate(self) -> bool:
        """After a failure, add the undo steps of what had succeeded; latest first."""
        if self._compensated or not (self.errors or self._cancelling):
            return False
        self._compensated = True
        todo = [
            (self.ended[i], i)
            for i, node in enumerate(self.nodes)
            if node.spec.compensate is not None and self.state[i] == m.SUCCEEDED
        ]
        if not todo or self._cancelling == "cancelled":
            return False
        self._log("", 0, "compensating")
        before: tuple[int, ...] = ()
        first = len(self.nodes)
        for _, index in sorted(todo, reverse=True):
            node = self.nodes[index]
            undo = node.spec.compensate
            assert undo is not None
            name = f"undo:{node.name}"
            args = undo.argv or (Ref(index, node.name),)
            args = tuple(
                Text(a) if isinstance(a, str) and "${" in a else a for a in args
            )
            # Always: one that fails must not keep the others from being undone.
            self._mark(undo)
            self.nodes.append(Node(name, _always(undo), args, None, before, before))
            self.index[name] = len(self.nodes) - 1
            before = (len(self.nodes) - 1,)
        count = len(self.nodes) - first
        self._grow(count)
        self._special[first:] = b"\1" * count
        self.waits += [0] + [1] * (count - 1)
        self.successors += [[i + 1] for i in range(first, first + count - 1)] + [[]]
        self.priority += [0.0] * count
        if self._group is not None:
            self._group += [0] * count
        self._cancelling = ""
        self._recall_new(first)
        self._arrived += [
            i
            for i in range(first, first + count)
            if not self.waits[i] and not self.state[i]
        ]
        return bool(self._arrived)

    # -- writing down -------------------------------------------------------

    def _move(self, index: int, new: int) -> None:
        """Change a step's state: the one place where that happens."""
        old = self.state[index]
        if not m.MOVES[old * 16 + new]:
            raise AssertionError(
                f"step {self.nodes[index].name!r} cannot go from {m.STATE_NAMES[old]} "
                f"to {m.STATE_NAMES[new]}"
            )
        self.state[index] = new

    def _log(
        self,
        step: str,
        attempt: int,
        kind: str,
        *,
        at: float | None = None,
        seconds: float | None = None,
        worker: str | None = None,
        value: str | None = None,
        note: str | None = None,
    ) -> None:
        if self._silent:
            return
        if at is None:
            at = self._now()
        if self._journal is not None:
            self._rows.append((step, attempt, kind, at, seconds, worker, value, note))
        if self._listener is not None:
            self._tell(step, attempt, kind, at, seconds, worker, note)

    def _tell(
        self,
        step: str,
        attempt: int,
        kind: str,
        at: float,
        seconds: float | None = None,
        worker: str | None = None,
        note: str | None = None,
    ) -> None:
        assert self._listener is not None
        self._listener(
            Event(
                run_id=self.run_id, step=step, attempt=attempt, kind=kind, at=at,
                note=note, seconds=seconds, worker=worker,
            )
        )  # fmt: skip

    def _flush(self) -> None:
        """Write this turn down, before anything that it starts begins."""
        rows, starts = self._rows, self._starts
        if rows or starts:
            if self._journal is not None and self._info is not None:
                self._journal.commit(self._info, rows, starts, self._now())
            rows.clear()
            starts.clear()
        if self._cache_rows and self._journal is not None:
            self._journal.keep(self._cache_rows)
            self._cache_rows.clear()


class _Marker:
    """Stands in a node's `when` for "an item list of a chunked map"."""

    __slots__ = ()


_CHUNK = _Marker()


def _which(texts: Sequence[str | None]) -> bytes:
    """A 1 for each step that has a result."""
    return bytes([text is not None for text in texts])


_TO_SUCCEEDED = bytes([PENDING, SUCCEEDED, *range(2, 256)])


def _guess(spec: Spec) -> float:
    if spec.kind in ("gate", "barrier"):
        return 0.0
    return 1.0 if spec.estimate is None else spec.estimate


def _always(spec: Spec) -> Spec:
    from dataclasses import replace

    return replace(spec, run_on="always")


def _shifted(workflow: Workflow, shift: int, prefix: str) -> Workflow:
    """Copy a workflow so that its nodes follow those of a run."""
    from ._workflow import Workflow, moved

    copy = Workflow(workflow.name, params=workflow.params)
    for node in workflow.nodes:
        new = moved(node, shift, prefix)
        new.name = f"{prefix}/{node.name}"
        copy.nodes.append(new)
    return copy


def added_note(prefix: str, workflow: Workflow) -> str:
    """Describe a workflow added to a run, so that a resume can add it again."""
    return json.dumps(
        {"prefix": prefix, "source": workflow.source, "params": workflow.params},
        default=str,
    )
