"""Budgets that hold: reserve before a call, settle after it.

A check before a call without a reservation lets parallel agents overshoot by
their number. Here the reservation counts as spent until it is settled, for
the whole chain run > team > persona > task, in whole numbers (micro-dollars).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal, final

from .errors import BudgetError, BudgetExceededError, did_you_mean

UNITS: Final = ("usd_micro", "tokens", "calls", "wall_ms")
Mode = Literal["warn", "soft", "hard"]
_WALL: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_KEYS: Final = {
    "usd", "tokens", "calls", "wall", "warn", "mode",
    "per_team", "per_persona", "per_task",
}  # fmt: skip


def usd_to_micro(value: Decimal | str | float) -> int:
    """Return micro-dollars for dollars, rounded up."""
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        raise BudgetError(f"{value!r} is not an amount of dollars", key="usd") from None
    if not amount.is_finite():
        raise BudgetError(f"{value!r} is not an amount of dollars", key="usd")
    return -int(-amount * 1_000_000 // 1)


def seconds(value: str | float) -> float:
    """Return the seconds in a number or a text such as `90s`, `30m`, `2h`."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    found = _WALL.fullmatch(str(value).strip())
    if not found:
        raise BudgetError(
            f"{value!r} is not a time; write seconds or such as '90s', '30m', '2h'",
            key="wall",
        )
    return float(found[1]) * _SECONDS[found[2] or "s"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Limits on money, tokens, calls and wall time; None is no limit.

    `warn` mode only tells. `soft` starts nothing new once the limit is reached.
    `hard` refuses a call whose upper estimate does not fit, so it is never passed.
    """

    usd: Decimal | str | float | None = None
    tokens: int | None = None
    calls: int | None = None
    wall: str | float | None = None
    """Seconds, or such as `90s`, `30m`, `2h`."""
    warn: Sequence[float] = (0.8, 0.95)
    """Shares of the limit at which to warn once."""
    mode: Mode = "soft"
    per_team: Mapping[str, "Budget"] = field(default_factory=dict)
    per_persona: Mapping[str, "Budget"] = field(default_factory=dict)
    per_task: Mapping[str, "Budget"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.mode not in {"warn", "soft", "hard"}:
            raise BudgetError(
                f"{self.mode!r} is not one of warn, soft, hard"
                f"{did_you_mean(str(self.mode), ('warn', 'soft', 'hard'))}",
                key="mode",
            )
        for key in ("tokens", "calls"):
            value = getattr(self, key)
            if value is not None and (
                isinstance(value, bool) or not isinstance(value, int)
            ):
                raise BudgetError(f"expected a whole number, got {value!r}", key=key)
        for unit, limit in self.limits().items():
            if limit < 0:
                key = {"usd_micro": "usd", "wall_ms": "wall"}.get(unit, unit)
                given = getattr(self, key)
                raise BudgetError(f"{given!r} is below zero", key=key)
        if not isinstance(self.warn, (list, tuple)):
            raise BudgetError(f"expected a list, got {self.warn!r}", key="warn")
        for share in self.warn:
            if not isinstance(share, (int, float)) or not 0 < share <= 1:
                raise BudgetError(f"{share!r} is not between 0 and 1", key="warn")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Budget":
        """Make a budget from plain data, with nested tables for scopes."""
        if not isinstance(data, Mapping):
            raise BudgetError(f"expected a table, got {data!r}", key="budget")
        values = dict(data)
        for key in values:
            if key not in _KEYS:
                raise BudgetError(
                    f"unknown key{did_you_mean(key, _KEYS)}", key=f"budget.{key}"
                )
        for key in ("per_team", "per_persona", "per_task"):
            if key in values:
                if not isinstance(values[key], Mapping):
                    raise BudgetError(f"expected a table, got {values[key]!r}", key=key)
                values[key] = {k: cls.from_dict(v) for k, v in values[key].items()}
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that from_dict takes."""
        limits = self.limits()
        found: dict[str, Any] = {"mode": self.mode, "warn": list(self.warn)}
        if "usd_micro" in limits:
            found["usd"] = str(Decimal(limits["usd_micro"]) / 1_000_000)
        if "wall_ms" in limits:
            found["wall"] = limits["wall_ms"] / 1000
        found |= {k: limits[k] for k in ("tokens", "calls") if k in limits}
        for key in ("per_team", "per_persona", "per_task"):
            if scopes := getattr(self, key):
                found[key] = {name: b.to_dict() for name, b in scopes.items()}
        return found

    def limits(self) -> dict[str, int]:
        """Return the limits in whole units."""
        found: dict[str, int] = {}
        if self.usd is not None:
            found["usd_micro"] = usd_to_micro(self.usd)
        if self.tokens is not None:
            found["tokens"] = self.tokens
        if self.calls is not None:
            found["calls"] = self.calls
        if self.wall is not None:
            found["wall_ms"] = int(seconds(self.wall) * 1000)
        return found


@dataclass(slots=True)
class _Scope:
    name: str
    limits: dict[str, int]
    mode: Mode
    warn: tuple[float, ...]
    spent: dict[str, int] = field(default_factory=dict)
    reserved: dict[str, int] = field(default_factory=dict)
    warned: set[tuple[str, float]] = field(default_factory=set)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What one call may spend, held for its chain of scopes."""

    chain: tuple[str, ...]
    amounts: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A threshold that was crossed for the first time."""

    scope: str
    unit: str
    share: float
    spent: int
    limit: int


@final
class Ledger:
    """What was spent and reserved, per scope. One event loop, no threads."""

    def __init__(self, budget: Budget | None = None) -> None:
        self._scopes: dict[str, _Scope] = {}
        if budget:
            self._declare("run", budget)
            self.add_scopes("team", budget.per_team)
            self.add_scopes("persona", budget.per_persona)
            self.add_scopes("task", budget.per_task)

    @property
    def limited(self) -> bool:
        """Tell whether any scope has limits."""
        return bool(self._scopes)

    def add_scopes(self, kind: str, budgets: Mapping[str, Budget]) -> None:
        """Declare limits for scopes such as `persona:coder`; the first stays."""
        for name, budget in budgets.items():
            if f"{kind}:{name}" not in self._scopes:
                self._declare(f"{kind}:{name}", budget)

    def _declare(self, name: str, budget: Budget) -> None:
        limits = budget.limits()
        self._scopes[name] = _Scope(name, limits, budget.mode, tuple(budget.warn))

    def limits_money(self, chain: Iterable[str]) -> bool:
        """Tell whether a scope of the chain has a money limit."""
        return any(
            name in self._scopes and "usd_micro" in self._scopes[name].limits
            for name in chain
        )

    def reserve(
        self, chain: Sequence[str], amounts: Mapping[str, int]
    ) -> Reservation | None:
        """Hold `amounts` in every scope, or in none; raise BudgetExceededError.

        None means that no scope of the chain has limits.
        """
        scopes = [self._scopes[name] for name in chain if name in self._scopes]
        if not scopes:
            return None
        for scope in scopes:
            self._check(scope, amounts)
        for scope in scopes:
            for unit, amount in amounts.items():
                scope.reserved[unit] = scope.reserved.get(unit, 0) + amount
        return Reservation(chain=tuple(s.name for s in scopes), amounts=dict(amounts))

    def _check(self, scope: _Scope, amounts: Mapping[str, int]) -> None:
        if scope.mode == "warn":
            return
        for unit, limit in scope.limits.items():
            spent = scope.spent.get(unit, 0)
            held = spent + scope.reserved.get(unit, 0)
            wanted = amounts.get(unit, 0)
            hard_no = scope.mode == "hard" and (
                held + wanted > limit or (unit == "wall_ms" and spent >= limit)
            )
            if hard_no or (scope.mode == "soft" and spent >= limit):
                raise BudgetExceededError(
                    scope.name, unit, limit=limit, spent=held, wanted=wanted
                )

    def may_fit_later(self, refused: BudgetExceededError) -> bool:
        """Tell whether a refused call may fit once others have settled."""
        scope = self._scopes[refused.scope]
        spent = scope.spent.get(refused.unit, 0)
        return scope.mode == "hard" and spent + refused.wanted <= refused.limit

    def settle(
        self, reservation: Reservation | None, real: Mapping[str, int]
    ) -> list[Crossing]:
        """Replace a reservation by what it really took; return new crossings."""
        if reservation is None:
            return []
        self.release(reservation)
        return self.spend(reservation.chain, real)

    def release(self, reservation: Reservation | None) -> None:
        """Give back a reservation of a call that never happened."""
        if reservation is None:
            return
        for name in reservation.chain:
            reserved = self._scopes[name].reserved
            for unit, amount in reservation.amounts.items():
                reserved[unit] -= amount

    def spend(self, chain: Iterable[str], real: Mapping[str, int]) -> list[Crossing]:
        """Count real use, as read from a journal or just made."""
        crossed: list[Crossing] = []
        for name in chain:
            scope = self._scopes.get(name)
            if scope is None:
                continue
            for unit, amount in real.items():
                scope.spent[unit] = scope.spent.get(unit, 0) + amount
                crossed += self._crossings(scope, unit)
        return crossed

    def set_wall(self, elapsed_s: float) -> list[Crossing]:
        """Set the wall time of the run so far."""
        scope = self._scopes.get("run")
        if scope is None or "wall_ms" not in scope.limits:
            return []
        scope.spent["wall_ms"] = int(elapsed_s * 1000)
        return self._crossings(scope, "wall_ms")

    def _crossings(self, scope: _Scope, unit: str) -> list[Crossing]:
        limit = scope.limits.get(unit)
        if limit is None:
            return []
        spent = scope.spent.get(unit, 0)
        new = [
            share
            for share in (*scope.warn, 1.0)
            if spent >= share * limit and (unit, share) not in scope.warned
        ]
        scope.warned.update((unit, share) for share in new)
        return [
            Crossing(scope=scope.name, unit=unit, share=s, spent=spent, limit=limit)
            for s in dict.fromkeys(new)
        ]

    def mark_warned(self, scope: str, unit: str, share: float) -> None:
        """Remember a warning that was given before a restart."""
        if scope in self._scopes:
            self._scopes[scope].warned.add((unit, share))

    def raise_limit(self, scope: str, unit: str, limit: int) -> None:
        """Set a new limit; thresholds count anew."""
        if scope not in self._scopes:
            self._scopes[scope] = _Scope(scope, {}, "soft", (0.8, 0.95))
        found = self._scopes[scope]
        found.limits[unit] = limit
        spent = found.spent.get(unit, 0)
        found.warned = {
            (u, s) for u, s in found.warned if u != unit or spent >= s * limit
        }
