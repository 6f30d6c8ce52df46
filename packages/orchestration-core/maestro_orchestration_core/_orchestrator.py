"""Who works, where, and under which limits."""

import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import final

from ._agent import Agent, Match, Tool, route
from ._budget import Budget
from ._gates import Gate
from ._journal import Journal, check_run_id
from ._log import Event
from ._messages import Price, Prices
from ._plan import Plan, Task
from ._report import RunReport
from ._retry import Supervisor
from ._run import Run
from ._session import LoopLimits
from ._touches import LeaseStore
from ._worktrees import Worktrees
from .errors import PersonaError, PlanError


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
        return Run(self, plan, check_run_id(run_id or _new_id()), replay)

    async def run(self, plan: Plan, *, run_id: str | None = None) -> RunReport:
        """Run a plan to its end, or until only people can go on."""
        async with self.start(plan, run_id=run_id) as run:
            return await run.result(wait=False)


def _new_id() -> str:
    return f"r-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:6]}"
