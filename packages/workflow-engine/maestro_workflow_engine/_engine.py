"""The engine: starts runs, resumes them, and hands back what became of them."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import compress
from typing import TYPE_CHECKING, Any, final

from . import _model as m
from ._arguments import callback, hinted, texts, units
from ._dispatch import POLICIES, Policy
from ._executors._choice import Executors, chosen
from ._model import Event, StepExecutor
from ._run import Run, RunHandle
from ._scheduler import Scheduler
from ._target import built_from, load_target, rebuilt_from
from ._template import Template
from ._workflow import Workflow
from .errors import (
    ChangedError,
    DecisionNeededError,
    JournalError,
    OptionError,
    RunError,
    did_you_mean,
)

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from ._journal import Journal, RunInfo
    from ._past import Past
    from ._plan import Plan
    from ._shape import Shape


@final
@hinted
class WorkflowEngine:
    """Runs workflows. Use it in a `with` block, or call `close`.

    Args:
        executor: where plain functions run: "inline", "threads", "asyncio",
            "processes" (the script needs a main guard), "threads:8" with a number of workers, a `StepExecutor`, or
            any `concurrent.futures.Executor`. Async steps always run on an event
            loop, commands always in processes of their own.
        workers: steps at a time; by default the executor's, else 4.
        journal: a `Journal` or the path of one; without it nothing survives.
        policy: how runs share workers with work that is added to them.
        pools: units of pools, over those that the workflow states.
        on_event: called with each `Event` in the scheduler's thread; be quick.

    Raises:
        OptionError: one of these does not fit.
        JournalError: the journal cannot be opened.

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
            raise OptionError(
                "policy",
                f"expected a policy of {', '.join(POLICIES)}, got {policy!r}"
                f"{did_you_mean(str(policy), POLICIES)}",
                policy,
            )
        main, self.workers = chosen(executor, workers)
        self._executors = Executors(main, self.workers)
        self.executor_name = (
            executor if isinstance(executor, str) else type(executor).__name__
        )
        self.policy: Policy = policy
        self.pools = units("WorkflowEngine", "pools", pools)
        self.on_event = callback("WorkflowEngine", "on_event", on_event)
        self._exits = ExitStack()
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
        with self._exits:
            self._executors.close()

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
        built = built_from(workflow, params)
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
            built_from(workflow, params), run_id, plan, stay=False
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
            built_from(workflow, params), run_id, plan, stay=True
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
        said = {"approve": approve, "retry": retry, "skip": skip, "fail": fail}
        for name, steps in said.items():
            texts("resume()", name, steps)
        self._executors.check()
        journal = self._need_journal()
        info = journal.info(run_id)
        built = rebuilt_from(info, workflow)
        built.pools.update(self.pools)
        built.validate()
        if info.state == "succeeded":
            raise RunError(
                run_id, f"run {run_id!r} has succeeded; nothing is left to do"
            )
        shape = self._compare(journal, info, built, accept_changes=accept_changes)
        past = journal.past(info.key, built.index)
        _decide(
            info.id, built, past, approve=approve, retry=retry, skip=skip, fail=fail
        )
        info = journal.take_over(run_id, shape)
        decisions = {**dict.fromkeys(skip, "skip"), **dict.fromkeys(fail, "fail")}
        with self._freed_on_error(info):
            if journal.last_event(info.key) != past.last:
                # Its owner ended between our look and our taking it over.
                past = journal.past(info.key, built.index)
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
        self._executors.check()
        if self.pools:
            workflow.pools.update(self.pools)
        workflow.validate()
        run_id = run_id or f"{workflow.name}-{secrets.token_hex(4)}"
        priorities = plan.priorities(self.workers) if plan is not None else None
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
        with self._freed_on_error(info):
            scheduler = self._scheduler(
                workflow, run_id=run_id, info=info, stay=stay, priorities=priorities
            )
        return scheduler, info

    @contextmanager
    def _freed_on_error(self, info: RunInfo | None) -> Iterator[None]:
        """Give a run free again when it does not come to be driven."""
        try:
            yield
        except BaseException:
            self._free(info, "interrupted")
            raise

    def _free(self, info: RunInfo | None, state: str) -> None:
        if info is None or self.journal is None:
            return
        from ._lease import disown

        try:
            # Should this fail too, the process table says the same.
            with suppress(JournalError):
                self.journal.finish(info, state)
        finally:
            disown(info.owner)

    def _scheduler(
        self,
        workflow: Workflow,
        *,
        run_id: str,
        info: RunInfo | None,
        past: Past | None = None,
        **more: Any,
    ) -> Scheduler:
        virtual = self._executors.virtual
        if virtual is not None:  # the testing kit's clock
            more |= {"now": virtual.now, "inbox": virtual, "batching": False}
        return Scheduler(
            workflow,
            run_id=run_id,
            executor_of=self._executors.of,
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
        from ._lease import Heartbeat

        with self._freed_on_error(info):
            heartbeat = Heartbeat(self.journal.path, info)
            try:
                scheduler.run()
            finally:
                heartbeat.stop()
            self.journal.remember(info, _times(scheduler))
            self.journal.finish(info, scheduler.final)
        return Run(scheduler, time.perf_counter() - began)


def _storable(params: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return dict(json.loads(json.dumps(dict(params))))
    except (TypeError, ValueError) as error:
        raise RunError(
            "", f"the parameters cannot be kept in a journal: {error}"
        ) from None


def _decide(
    run_id: str, built: Workflow, past: Past, *,
    approve: Sequence[str], retry: Sequence[str], skip: Sequence[str],
    fail: Sequence[str],
) -> None:  # fmt: skip
    """Check what the caller says about steps, and what it has to say."""
    added = tuple(f"{json.loads(note)['prefix']}/" for note in past.added)
    for name in (*approve, *retry, *skip, *fail):
        base = name.partition("[")[0]
        known = name in built.index or base in built.index
        if not known and not (added and name.startswith(added)):
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
    started, ended, state = (
        scheduler.steps.started,
        scheduler.steps.ended,
        scheduler.steps.state,
    )
    nodes, known = scheduler.steps.nodes, scheduler.steps.index.get
    for index in compress(range(len(nodes)), ended):
        name = nodes[index].name
        if state[index] == m.SUCCEEDED and known(name) == index:
            found.append((name, ended[index] - started[index]))
    for index, (first, count) in scheduler.steps.expanded.items():
        items = compress(range(first, first + count), ended[first : first + count])
        times = sorted(ended[i] - started[i] for i in items)
        if times and state[index] == m.SUCCEEDED:
            found.append((nodes[index].name, times[len(times) // 2]))
    return found
