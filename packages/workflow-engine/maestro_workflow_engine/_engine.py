"""The engine: starts runs, resumes them, and hands back what became of them."""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

from . import _model as m
from ._define import Template, Workflow
from ._dispatch import POLICIES, Policy
from ._model import Event, Spec, StepExecutor
from ._scheduler import Scheduler, added_note
from .errors import (
    ChangedError,
    DecisionNeededError,
    DefinitionError,
    JournalError,
    RunError,
    RunNotFinishedError,
    StepError,
    did_you_mean,
)

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ._journal import Journal, Past, RunInfo, Shape
    from ._plan import Plan

_KINDS = ("inline", "threads", "asyncio", "processes", "dask")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What became of one step. Times are epoch seconds, 0 when it did not run."""

    step: str
    state: str
    reason: str
    attempts: int
    started: float
    ended: float
    worker: str
    error: StepError | None

    @property
    def seconds(self) -> float:
        """How long the last attempt took."""
        return self.ended - self.started


@final
class Run:
    """What became of a run: its state, the results and a report of each step."""

    def __init__(self, scheduler: Scheduler, elapsed: float) -> None:
        self._scheduler = scheduler
        self.id = scheduler.run_id
        self.workflow = scheduler.workflow.name
        self.state = scheduler.final
        self.seconds = elapsed
        self.workers = scheduler.workers

    def __getitem__(self, step: str) -> Any:
        """Return a step's result.

        Raises:
            KeyError: there is no such step, or it brought no result.
        """
        index = self._index(step)
        if self._scheduler.state[index] != m.SUCCEEDED:
            state = m.STATE_NAMES[self._scheduler.state[index]]
            raise KeyError(f"step {step!r} has no result, it is {state}")
        return self._scheduler.result(index)

    def _index(self, step: str) -> int:
        scheduler = self._scheduler
        index = scheduler.index.get(step)
        if index is None and step.endswith("]"):
            base, _, number = step[:-1].rpartition("[")
            first, count = scheduler.expanded.get(scheduler.index.get(base, -1), (0, 0))
            if number.isdecimal() and int(number) < count:
                return first + int(number)
        if index is None:
            raise KeyError(f"no step {step!r}{did_you_mean(step, scheduler.index)}")
        return index

    @property
    def results(self) -> dict[str, Any]:
        """The results of all steps that succeeded, by name."""
        scheduler = self._scheduler
        return {
            name: scheduler.result(index)
            for name, index in scheduler.index.items()
            if scheduler.state[index] == m.SUCCEEDED
        }

    def step(self, step: str) -> StepReport:
        """Return the report of one step, or of one item of a map: `"load[3]"`."""
        return self._report(self._index(step))

    @property
    def steps(self) -> Iterator[StepReport]:
        """The reports of all steps, the items of maps included."""
        return (self._report(index) for index in range(len(self._scheduler.nodes)))

    def _report(self, index: int) -> StepReport:
        s = self._scheduler
        return StepReport(
            step=s.nodes[index].name,
            state=m.STATE_NAMES[s.state[index]],
            reason=s.reason(index),
            attempts=s.tries[index],
            started=s.started[index],
            ended=s.ended[index],
            worker=s.worker[index],
            error=s.errors.get(index),
        )

    @property
    def counts(self) -> dict[str, int]:
        """How many steps ended in each state."""
        state = self._scheduler.state
        found = {name: state.count(code) for code, name in enumerate(m.STATE_NAMES)}
        return {name: count for name, count in found.items() if count}

    @property
    def errors(self) -> dict[str, StepError]:
        """The error of each step that failed, in the order of the steps."""
        s = self._scheduler
        return {s.nodes[i].name: s.errors[i] for i in sorted(s.errors)}

    @property
    def waiting(self) -> tuple[str, ...]:
        """The gates that wait for approval."""
        s = self._scheduler
        return tuple(
            node.name
            for i, node in enumerate(s.nodes)
            if s.state[i] == m.WAITING and node.spec.kind == "gate"
        )

    def check(self) -> Run:
        """Return this run when it succeeded, else raise what went wrong.

        Raises:
            StepError: the first error, with its cause.
            RunNotFinishedError: it was cancelled, or waits at a gate.
        """
        errors = self.errors
        if errors:
            raise next(iter(errors.values()))
        if self.state != "succeeded":
            gates = f" at {', '.join(self.waiting)}" if self.waiting else ""
            raise RunNotFinishedError(
                self.id, f"run {self.id!r} is {self.state}{gates}"
            )
        return self

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {name}" for name, n in self.counts.items())
        return f"<run {self.id}: {self.state} ({counts}) in {self.seconds:.3g}s>"


@final
class RunHandle:
    """A run that goes on in the background. Thread-safe."""

    def __init__(self, scheduler: Scheduler, work: Callable[[], Run]) -> None:
        self.id = scheduler.run_id
        self._scheduler = scheduler
        self._result: Run | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=self._run, args=(work,), name=f"maestro-run-{self.id}", daemon=True
        )
        self._thread.start()

    def _run(self, work: Callable[[], Run]) -> None:
        try:
            self._result = work()
        except BaseException as error:
            self._error = error

    @property
    def done(self) -> bool:
        """Whether the run is over."""
        return not self._thread.is_alive()

    def wait(self, timeout: float | None = None) -> Run:
        """Wait for the end and return the run.

        Raises:
            TimeoutError: it still goes on after `timeout` seconds.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"run {self.id!r} still goes on after {timeout} s")
        if self._error is not None:
            raise self._error
        assert self._result is not None
        return self._result

    def counts(self) -> dict[str, int]:
        """Return how many steps are in each state just now."""
        state = self._scheduler.state
        found = {name: state.count(code) for code, name in enumerate(m.STATE_NAMES)}
        return {name: count for name, count in found.items() if count}

    def pause(self) -> None:
        """Start nothing new until `resume`; what runs goes on."""
        self._scheduler.inbox.put(("pause", None))

    def resume(self) -> None:
        """Go on after `pause`."""
        self._scheduler.inbox.put(("continue", None))

    def cancel(self) -> None:
        """Stop what runs and start nothing new."""
        self._scheduler.inbox.put(("cancel", None))

    def approve(self, gate: str) -> None:
        """Let the run pass a gate."""
        self._scheduler.inbox.put(("approve", gate))

    def add(self, workflow: Workflow | Template, *, prefix: str, **params: Any) -> None:
        """Add a workflow's steps to the run, named `prefix/step`.

        The engine's policy decides how they share the workers with the others.
        """
        built = _built(workflow, params)
        built.validate()
        note = added_note(prefix, built)
        self._scheduler.inbox.put(("add", (built, prefix, note)))


@final
class WorkflowEngine:
    """Runs workflows. Use it in a `with` block, or call `close`.

    Args:
        executor: where plain functions run: "inline", "threads", "asyncio",
            "processes", "threads:8" with a number of workers, a `StepExecutor`, or
            any `concurrent.futures.Executor`. Async steps always run on an event
            loop, commands always in processes of their own.
        workers: steps at a time; by default the executor's, else 4.
        journal: a `Journal` or the path of one; without it nothing survives.
        policy: how runs share workers with work that is added to them.
        pools: units of pools, over those that the workflow states.
        on_event: called with each `Event` in the scheduler's thread; be quick.

    One engine runs one run at a time; not thread-safe.
    """

    def __init__(
        self,
        executor: str | StepExecutor | Executor = "threads",
        *,
        workers: int | None = None,
        journal: Journal | str | os.PathLike[str] | None = None,
        policy: Policy = "critical-path",
        pools: Mapping[str, int] | None = None,
        on_event: Callable[[Event], None] | None = None,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(
                f"expected a policy of {', '.join(POLICIES)}, got {policy!r}"
                f"{did_you_mean(policy, POLICIES)}"
            )
        self._executor, self.workers = _executor(executor, workers)
        self.executor_name = (
            executor if isinstance(executor, str) else type(executor).__name__
        )
        self.policy: Policy = policy
        self.pools = dict(pools or {})
        self.on_event = on_event
        self._exits = ExitStack()
        self._made: dict[str, StepExecutor] = {}
        self._cache: dict[str, Any] = {}
        self.journal = self._journal(journal)

    def _journal(
        self, journal: Journal | str | os.PathLike[str] | None
    ) -> Journal | None:
        if journal is None:
            return None
        from ._journal import Journal

        if isinstance(journal, Journal):
            return journal
        return self._exits.enter_context(Journal(journal))

    def __enter__(self) -> WorkflowEngine:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop what still runs and free threads, processes and files."""
        for executor in self._made.values():
            executor.close()
        self._made.clear()
        self._exits.close()

    # -- verbs --------------------------------------------------------------

    def plan(
        self,
        workflow: Workflow | Template,
        /,
        workers: int | Iterable[int] | None = None,
        *,
        search: int = 0,
        **params: Any,
    ) -> Plan:
        """Forecast a run with the durations that the journal remembers."""
        built = _built(workflow, params)
        return built.plan(
            workers or self.workers, durations=self._durations(built), search=search
        )

    def run(
        self,
        workflow: Workflow | Template,
        /,
        *,
        run_id: str | None = None,
        plan: Plan | None = None,
        **params: Any,
    ) -> Run:
        """Run a workflow to its end and return what became of it.

        A failed step does not raise: the others go on, and `Run.check()` raises.

        Args:
            workflow: a workflow, or a template with its `params`.
            run_id: a name for the run; by default the workflow's and a random part.
            plan: a plan of this workflow whose schedule the run follows.
            params: the template's parameters.

        Raises:
            DefinitionError: the workflow is not valid.
            JournalError: the journal cannot be written; nothing unwritten was started.
        """
        scheduler, info = self._prepare(
            _built(workflow, params), run_id, plan, stay=False
        )
        return self._drive(scheduler, info)

    def start(
        self,
        workflow: Workflow | Template,
        /,
        *,
        run_id: str | None = None,
        plan: Plan | None = None,
        **params: Any,
    ) -> RunHandle:
        """Run a workflow in the background; gates wait for `RunHandle.approve`."""
        scheduler, info = self._prepare(
            _built(workflow, params), run_id, plan, stay=True
        )
        return RunHandle(scheduler, lambda: self._drive(scheduler, info))

    def resume(
        self,
        run_id: str,
        workflow: Workflow | Template | None = None,
        /,
        *,
        accept_changes: bool = False,
        approve: Sequence[str] = (),
        retry: Sequence[str] = (),
        skip: Sequence[str] = (),
        fail: Sequence[str] = (),
    ) -> Run:
        """Go on with a run that ended early; what succeeded is not run again.

        Args:
            run_id: the run.
            workflow: its workflow; by default what the journal says it came from.
            accept_changes: go on although steps differ from when the run began.
            approve: gates to pass.
            retry: `once` steps that were interrupted and may run again.
            skip: steps to leave out.
            fail: steps to count as failed.

        Raises:
            JournalBusyError: another live process runs it.
            ChangedError: the definition changed.
            DecisionNeededError: a `once` step was interrupted, and nothing is said
                about it.
        """
        journal = self._need_journal()
        info = journal.info(run_id)
        built = _rebuilt(info, workflow)
        built.pools.update(self.pools)
        built.validate()
        if info.state == "succeeded":
            raise RunError(
                run_id, f"run {run_id!r} has succeeded; nothing is left to do"
            )
        shape = self._compare(journal, info, built, accept_changes=accept_changes)
        past = journal.past(info.key, built.index)
        _decide(info.id, built, past, retry=retry, skip=skip, fail=fail)
        info = journal.take_over(run_id, shape)
        if journal.last_event(info.key) != past.last:
            # Its owner ended between our look and our taking it over.
            past = journal.past(info.key, built.index)
        decisions = {**dict.fromkeys(skip, "skip"), **dict.fromkeys(fail, "fail")}
        self._write_decisions(journal, info, past, decisions, retry)
        scheduler = self._scheduler(
            built, run_id=run_id, info=info, past=past, approve=approve
        )
        for note in past.added:
            added = json.loads(note)
            other = load_target(added["source"], added["params"])
            scheduler.add_group(other, added["prefix"], note)
        return self._drive(scheduler, info)

    def _write_decisions(
        self, journal: Journal, info: RunInfo, past: Past,
        decisions: Mapping[str, str], retry: Sequence[str],
    ) -> None:  # fmt: skip
        now = time.time()
        rows = [("decided", step, what) for step, what in decisions.items()]
        rows += [("decided", step, "retry") for step in retry]
        rows.append(("resumed", "", f"epoch {info.epoch}"))
        rows += [("interrupted", step, "") for step in past.interrupted]
        journal.commit(
            info,
            [
                (step, past.tries.get(step, 0), kind, now, None, None, None, note)
                for kind, step, note in rows
            ],
        )
        past.decided.update(decisions)
        for step in retry:
            past.decided.pop(step, None)

    def _compare(
        self, journal: Journal, info: RunInfo, built: Workflow, *, accept_changes: bool
    ) -> Shape | None:
        from ._digest import shape_of

        new = shape_of(built.nodes)
        if new.whole() == info.digest:
            return None
        before, after = journal.shape(info.key).marks(), new.marks()
        if before != after and not accept_changes:
            raise ChangedError(
                info.id,
                changed=[n for n in after if n in before and before[n] != after[n]],
                added=[n for n in after if n not in before],
                removed=[n for n in before if n not in after],
            )
        return new

    # -- inside -------------------------------------------------------------

    def _need_journal(self) -> Journal:
        if self.journal is None:
            raise RunError(
                "", "this engine has no journal; give it one with journal='runs.db'"
            )
        return self.journal

    def _durations(
        self, workflow: Workflow, past: Past | None = None
    ) -> dict[str, float]:
        if self.journal is None:
            return {}
        wanted = None
        if past is not None and None in past.texts:
            wanted = set(
                compress(workflow.index, [text is None for text in past.texts])
            )
        return self.journal.durations(workflow.name, wanted)

    def _prepare(
        self, workflow: Workflow, run_id: str | None, plan: Plan | None, *, stay: bool
    ) -> tuple[Scheduler, RunInfo | None]:
        if self.pools:
            workflow.pools.update(self.pools)
        workflow.validate()
        run_id = run_id or f"{workflow.name}-{secrets.token_hex(4)}"
        info = None
        if self.journal is not None:
            from ._digest import shape_of

            info = self.journal.create(
                run_id,
                workflow=workflow.name,
                source=workflow.source,
                params=_storable(workflow.params),
                shape=shape_of(workflow.nodes),
                workers=self.workers,
                executor=self.executor_name,
            )
        priorities = plan.priorities(self.workers) if plan is not None else None
        scheduler = self._scheduler(
            workflow, run_id=run_id, info=info, stay=stay, priorities=priorities
        )
        return scheduler, info

    def _scheduler(
        self,
        workflow: Workflow,
        *,
        run_id: str,
        info: RunInfo | None,
        past: Past | None = None,
        **more: Any,
    ) -> Scheduler:
        virtual = getattr(self._executor, "virtual", None)
        if virtual is not None:  # the testing kit's clock
            more |= {"now": virtual.now, "inbox": virtual, "batching": False}
        return Scheduler(
            workflow,
            run_id=run_id,
            executor_of=self._executor_of,
            workers=self.workers,
            policy=self.policy,
            durations=self._durations(workflow, past),
            journal=self.journal,
            info=info,
            past=past,
            listener=self.on_event,
            cache=self._cache,
            **more,
        )

    def _drive(self, scheduler: Scheduler, info: RunInfo | None) -> Run:
        began = time.perf_counter()
        if info is None or self.journal is None:
            scheduler.run()
            return Run(scheduler, time.perf_counter() - began)
        from ._journal import Heartbeat, disown

        heartbeat = Heartbeat(self.journal.path, info)
        try:
            try:
                scheduler.run()
            except BaseException:
                # Should this fail too, the process table says the same.
                with suppress(JournalError):
                    self.journal.finish(info, "interrupted")
                raise
            self.journal.remember(info, _times(scheduler))
            self.journal.finish(info, scheduler.final)
        finally:
            heartbeat.stop()
            disown(info)
        return Run(scheduler, time.perf_counter() - began)

    def _executor_of(self, spec: Spec) -> StepExecutor:
        kind = spec.kind
        if kind == "python" or getattr(self._executor, "virtual", None) is not None:
            kind_name = "main"
        else:
            kind_name = kind
        found = self._made.get(kind_name)
        if found is None:
            found = self._made[kind_name] = self._make(kind_name)
        return found

    def _make(self, kind: str) -> StepExecutor:
        if kind == "async":
            main = self._executor_of(Spec(name=""))
            from ._executors._aio import AsyncExecutor

            return (
                main if isinstance(main, AsyncExecutor) else AsyncExecutor(self.workers)
            )
        if kind == "command":
            from ._executors._command import CommandExecutor

            return CommandExecutor(self.workers)
        if not isinstance(self._executor, str):
            return self._executor
        if self._executor == "inline":
            from ._executors._inline import InlineExecutor

            return InlineExecutor()
        if self._executor == "threads":
            from ._executors._threads import ThreadExecutor

            return ThreadExecutor(self.workers)
        if self._executor == "asyncio":
            from ._executors._aio import AsyncExecutor

            return AsyncExecutor(self.workers)
        if self._executor == "dask":
            from .dask import DaskExecutor

            return DaskExecutor.local(self.workers)
        from ._executors._processes import ProcessExecutor

        return ProcessExecutor(self.workers)


def _executor(
    executor: str | StepExecutor | Executor, workers: int | None
) -> tuple[str | StepExecutor, int]:
    if workers is not None and workers < 1:
        raise ValueError(f"expected 1 or more workers, got {workers!r}")
    if isinstance(executor, str):
        name, _, number = executor.partition(":")
        if name not in _KINDS or (number and not number.isdecimal()):
            raise ValueError(
                f"expected an executor of {', '.join(_KINDS)}, optionally with a number "
                f"as in 'threads:8', got {executor!r}{did_you_mean(name, _KINDS)}"
            )
        count = workers or int(number or (1 if name == "inline" else 4))
        return name, 1 if name == "inline" else max(1, count)
    if not hasattr(executor, "submit") or hasattr(executor, "start"):
        own = cast("StepExecutor", executor)
        return own, workers or own.slots
    from ._executors._futures import FuturesExecutor

    count = workers or getattr(executor, "_max_workers", None) or 4
    return FuturesExecutor(executor, count), count


def _built(workflow: Workflow | Template, params: Mapping[str, Any]) -> Workflow:
    if isinstance(workflow, Template):
        return workflow.build(**params)
    if not isinstance(workflow, Workflow):
        raise TypeError(f"expected a workflow or a template, got {workflow!r}")
    if params:
        raise TypeError(
            f"{workflow!r} is built already; parameters {', '.join(params)} are for a "
            "template"
        )
    return workflow


def _rebuilt(info: RunInfo, workflow: Workflow | Template | None) -> Workflow:
    if isinstance(workflow, Workflow):
        return workflow
    if workflow is not None:
        return workflow.build(**info.params)
    if info.source is None:
        raise RunError(
            info.id,
            f"run {info.id!r} was started from a workflow that cannot be imported again; "
            "pass it to resume",
        )
    return load_target(info.source, info.params)


def load_target(target: str, params: Mapping[str, Any]) -> Workflow:
    """Build a workflow from `module:name`, `file.py:name`, or the path of a document.

    Raises:
        DefinitionError: there is no such thing.
    """
    found = find_target(target)
    if isinstance(found, Path):
        return Workflow.load(found, params)
    built = found.build(**params) if isinstance(found, Template) else found
    built.source = target
    return built


def find_target(target: str) -> Template | Workflow | Path:
    """Return what a target names: a template, a workflow, or a document's path."""
    import importlib
    import sys

    from .errors import Problem

    place, colon, name = target.rpartition(":")
    if not colon:
        return Path(target)
    try:
        if place.endswith(".py"):
            folder = str(Path(place).resolve().parent)
            if folder not in sys.path:
                sys.path.insert(0, folder)
            module: Any = importlib.import_module(Path(place).stem)
        elif place == "__main__":
            module = sys.modules["__main__"]
        else:
            if "" not in sys.path and str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            module = importlib.import_module(place)
    except ImportError as error:
        raise DefinitionError([Problem(where=target, message=str(error))]) from error
    found = getattr(module, name, None)
    if not isinstance(found, Template | Workflow):
        known = [
            n for n, v in vars(module).items() if isinstance(v, Template | Workflow)
        ]
        raise DefinitionError(
            [
                Problem(
                    where=target,
                    message=f"there is no workflow {name!r}{did_you_mean(name, known)}; "
                    f"there is {', '.join(known) or 'none'}",
                )
            ]
        )
    return found


def _storable(params: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(json.dumps(dict(params))))
    except (TypeError, ValueError) as error:
        raise RunError(
            "", f"the parameters cannot be kept in a journal: {error}"
        ) from None


def _decide(
    run_id: str, built: Workflow, past: Past, *,
    retry: Sequence[str], skip: Sequence[str], fail: Sequence[str],
) -> None:  # fmt: skip
    """Check what the caller says about steps, and what it has to say."""
    for name in (*retry, *skip, *fail):
        base = name.partition("[")[0]
        if name not in built.index and base not in built.index:
            raise RunError(
                run_id, f"there is no step {name!r}{did_you_mean(name, built.index)}"
            )
    decided = {
        *retry,
        *skip,
        *fail,
        *(s for s, d in past.decided.items() if d != "retry"),
    }
    open_ones = []
    for name in past.interrupted:
        index = built.index.get(name, built.index.get(name.partition("[")[0]))
        if index is not None and built.nodes[index].spec.once and name not in decided:
            open_ones.append(name)
    if open_ones:
        raise DecisionNeededError(run_id, open_ones)


def _times(scheduler: Scheduler) -> list[tuple[str, float]]:
    """The duration of each step, and of the median item of each map."""
    found = []
    started, ended, state = scheduler.started, scheduler.ended, scheduler.state
    nodes, known = scheduler.nodes, scheduler.index.get
    for index in compress(range(len(nodes)), ended):
        name = nodes[index].name
        if state[index] == m.SUCCEEDED and known(name) == index:
            found.append((name, ended[index] - started[index]))
    for index, (first, count) in scheduler.expanded.items():
        items = compress(range(first, first + count), ended[first : first + count])
        times = sorted(ended[i] - started[i] for i in items)
        if times and state[index] == m.SUCCEEDED:
            found.append((nodes[index].name, times[len(times) // 2]))
    return found
