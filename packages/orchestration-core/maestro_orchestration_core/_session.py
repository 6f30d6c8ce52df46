"""What all calls of one run share: journal, budget, memory of answers, limits."""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, final

from ._agent import Tool
from ._budget import Crossing, Ledger, Reservation
from ._context import Calibration
from ._log import Event, EventStore, MemoryLog
from ._messages import Price, Prices, Usage
from ._persona import Persona
from .errors import (
    BudgetExceededError,
    LoopError,
    OrchestrationError,
    UnknownPriceError,
)

Key = tuple[str, int, str]
"""Task, attempt, path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopLimits:
    """When agents that call each other are stopped; children share the counts."""

    max_turns: int = 10_000
    """Calls in the whole run."""
    max_depth: int = 8
    """Agents that wait for each other."""
    repeats: int = 3
    """The same persona with the same input in one attempt of a task."""


class Workspace(Protocol):
    """The folder that a task works in."""

    path: Path

    def snapshot(self, message: str) -> str:
        """Record the present content; return its id."""


@final
class Context:
    """What all calls of one run share."""

    def __init__(
        self,
        log: EventStore,
        *,
        run: str,
        ledger: Ledger | None = None,
        limits: LoopLimits | None = None,
        prices: Prices | None = None,
        unpriced: str | Price = "error",
        tools: Iterable[Tool] = (),
        live: bool = True,
    ) -> None:
        self.log, self.run = log, run
        self.ledger = ledger or Ledger()
        self.limits = limits or LoopLimits()
        self.prices, self.unpriced = prices, unpriced
        self.tools = {tool.name: tool for tool in tools}
        self.live = live
        self.calibration = Calibration()
        self.memo: dict[Key, Mapping[str, Any]] = {}
        self.snapshots: dict[tuple[str, int], str] = {}
        """The last content of a workspace that a call left, by task and attempt."""
        self.open_unsafe: set[Key] = set()
        self.turns = 0
        self.listeners: list[Callable[[Event], None]] = []
        self.observer: Callable[[Event], None] | None = None
        self.broken: Exception | None = None
        self.on_broken: Callable[[Exception], None] | None = None
        self._fresh: list[Event] = []
        self._budget_waiters: list[asyncio.Future[None]] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._memory = isinstance(log, MemoryLog)
        self._chains: dict[tuple[tuple[str, ...], str, str], tuple[str, ...]] = {}

    def remember(self, events: Iterable[Event]) -> None:
        """Take in the calls that a journal knows."""
        for event in events:
            kind, data = event.type, event.data
            if kind.startswith("turn."):
                self._remember_turn(event)
            elif kind == "task.ready" and "resolved" in data:
                key = (event.task, event.attempt, str(data["resolved"]))
                self.open_unsafe.discard(key)
            elif kind == "budget.warning":
                self.ledger.mark_warned(data["scope"], data["unit"], data["share"])
            elif kind == "budget.raised":
                self.ledger.raise_limit(data["scope"], data["unit"], data["limit"])

    def _remember_turn(self, event: Event) -> None:
        data = event.data
        key = (event.task, event.attempt, str(data.get("key", "")))
        if event.type == "turn.started":
            if data.get("effect") == "unsafe":
                self.open_unsafe.add(key)
            return
        self.open_unsafe.discard(key)
        if event.type == "turn.completed":
            self.memo[key] = data
            if "at" in data:
                self.snapshots[event.task, event.attempt] = str(data["at"])
        self.turns += 1
        self.ledger.spend(data.get("chain", ()), amounts(data.get("usage") or {}))

    def emit(
        self,
        type: str,
        data: Mapping[str, Any] | None = None,
        *,
        task: str = "",
        attempt: int = 0,
        actor: str = "",
    ) -> Event:
        """Append an event; listeners see it once it is on disk."""
        event = self.log.append(
            type, data or {}, task=task, attempt=attempt, actor=actor
        )
        if self.observer:
            self.observer(event)
        if self.listeners:
            self._fresh.append(event)
        return event

    def commit_now(self, *, full: bool = False) -> None:
        """Write what was emitted and tell the listeners."""
        if self.broken:
            raise self.broken
        try:
            self.log.flush(full=full)
        except OrchestrationError as error:
            self.broken = error
            if self.on_broken:
                self.on_broken(error)
            raise
        fresh, self._fresh = self._fresh, []
        for event in fresh:
            for listener in self.listeners:
                listener(event)

    async def commit(self) -> None:
        """Wait until what was emitted is on disk; many callers share one write."""
        if self._memory:
            if self._fresh:
                self.commit_now()
            return
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.append(waiter)
        if len(self._waiters) == 1:
            loop.call_soon(self._commit_group)
        await waiter

    def _commit_group(self) -> None:
        waiters, self._waiters = self._waiters, []
        try:
            self.commit_now()
        except Exception as error:  # handed to every waiter
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(error)
            return
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def count_turn(self) -> None:
        """Count a call that is about to be made; raise LoopError after too many."""
        self.turns += 1
        if self.turns > self.limits.max_turns:
            raise LoopError("max_turns", f"{self.limits.max_turns} calls in this run")

    def chain(self, outer: tuple[str, ...], persona: Persona) -> tuple[str, ...]:
        """Return the scopes that a call of a persona counts in; declare its own."""
        known = self._chains.get((outer, persona.name, persona.team))
        if known is not None:
            return known
        own = (f"team:{persona.team}",) if persona.team else ()
        own = (*own, f"persona:{persona.name}")
        if persona.budget:
            self.ledger.add_scopes("persona", {persona.name: persona.budget})
        found = (*(name for name in outer if name not in own), *own)
        self._chains[outer, persona.name, persona.team] = found
        return found

    def cost(self, model: str, usage: Usage, chain: Sequence[str]) -> int | None:
        """Return micro-dollars; None when unknown and nobody limits money."""
        if usage.usd_micro is not None:
            return usage.usd_micro
        if not model:
            return 0
        price = self.prices.price(model) if self.prices else None
        if price is None and isinstance(self.unpriced, Price):
            price = self.unpriced
        if price is not None:
            return price.cost_micro(usage)
        if self.unpriced == "error" and self.ledger.limits_money(chain):
            raise UnknownPriceError(model)
        return None

    async def reserve(
        self, chain: Sequence[str], amounts: Mapping[str, int], *, patient: bool
    ) -> Reservation | None:
        """Hold what a call may take, once it fits.

        A call that would fit if the others took less than they hold waits for
        them. An impatient one (asked by an agent that holds a reservation itself)
        is refused at once, or the two could wait for each other.
        """
        while True:
            try:
                return self.ledger.reserve(chain, amounts)
            except BudgetExceededError as error:
                if not patient or not self.ledger.may_fit_later(error):
                    raise
            waiter = asyncio.get_running_loop().create_future()
            self._budget_waiters.append(waiter)
            await waiter

    def settle(self, reservation: Reservation | None, real: Mapping[str, int]) -> None:
        """Count what a call took and let those try again that wait for room."""
        if reservation is None:
            return
        self.warn(self.ledger.settle(reservation, real))
        self.wake()

    def wake(self) -> None:
        """Let calls that wait for room in the budget try again."""
        waiters, self._budget_waiters = self._budget_waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def warn(self, crossings: Iterable[Crossing]) -> None:
        """Emit what was crossed, in the same write as the use that crossed it."""
        for c in crossings:
            data = {
                "scope": c.scope, "unit": c.unit, "share": c.share,
                "ratio": round(c.spent / c.limit, 4) if c.limit else 1.0,
                "spent": c.spent, "limit": c.limit,
            }  # fmt: skip
            self.emit("budget.warning", data)
            if c.share == 1.0:
                self.emit("budget.exhausted", data)


def amounts(usage: Mapping[str, Any]) -> dict[str, int]:
    """Return what a usage entry of the journal counts in a budget."""
    return {
        "tokens": usage.get("in", 0) + usage.get("out", 0),
        "calls": usage.get("calls", 1),
        "usd_micro": usage.get("usd_micro") or 0,
    }
