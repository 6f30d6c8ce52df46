"""Claims: who is modifying which services, at human scale.

A claim on several services is given for all of them or for none, in one commit, so two
claimants never wait for each other. It ends at `until` by the store's clock, whatever
became of its holder; its `fence` is higher than that of every earlier claim. A claim
inside a freeze window is refused with the window's name. An override needs a reason
and an approver; it is stored and told to `on_notice`.
"""

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Literal, Self, final, get_args

from ._args import named, words
from ._model import check_name
from ._notice import Notice, Override, dump, guarded, instant, iso, load, some_text
from ._store import Delete, Op, Put, Record, Store, join_key
from ._windows import Windows
from .errors import ClaimRefused, InvalidInput, LockLost, UnknownEntry

__all__ = ["Claim", "Claims"]

Mode = Literal["exclusive", "shared"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim that was given; leaving its `with` block releases it."""

    id: str
    services: tuple[str, ...]
    by: str
    reason: str
    since: float
    until: float
    mode: Mode = "exclusive"
    fence: int = 0
    _claims: "Claims | None" = field(default=None, repr=False, compare=False)

    def guard(self) -> int:
        """Return the fence, or raise LockLost when the claim has ended."""
        if self._claims is None:
            raise UnknownEntry("claim", self.id)
        return self._claims.guard(self)

    def release(self) -> None:
        """End the claim; nothing happens when it has ended."""
        if self._claims is not None:
            self._claims.release(self.id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def __str__(self) -> str:
        return (
            f"claim {self.id} of {self.by} on {', '.join(self.services)} "
            f"until {iso(self.until)} ({self.reason})"
        )


@final
class Claims:
    """The claims of a registry."""

    def __init__(
        self, store: Store, *, notify: Callable[[Notice], None] = lambda _: None
    ) -> None:
        self._store, self._notify = store, notify

    @named
    def take(
        self,
        services: Iterable[str],
        *,
        by: str,
        reason: str,
        until: Any,
        mode: Mode = "exclusive",
        override: Override | None = None,
    ) -> Claim:
        """Claim all of these services, or none.

        Args:
            services: their names.
            by: the claimant.
            reason: what for; others read it when they are refused.
            until: when it ends by itself.
            mode: shared claims of a service go together, exclusive ones stand alone.
            override: ignore freeze windows, for a reason and with an approver.

        Raises:
            ClaimRefused: each reason names the claim or window in the way.
        """
        given = words("services", services)
        names = tuple(sorted({check_name("service", s) for s in given}))
        if not names:
            raise InvalidInput("services", names, "at least one service")
        if mode not in get_args(Mode):
            raise InvalidInput("mode", mode, "exclusive or shared")
        now = self._store.now()
        claim = Claim(
            id=uuid.uuid4().hex[:12],
            services=names,
            by=some_text("by", by),
            reason=some_text("reason", reason),
            since=now,
            until=instant("until", until),
            mode=mode,
        )
        _check_end(claim.until, now)

        def decide() -> tuple[Sequence[Op], list[str]]:
            ops, against, frozen = self._against(claim)
            if against or (frozen and override is None):
                raise ClaimRefused(names, [*against, *frozen])
            if frozen and override is not None:
                raw: dict[str, Any] = {"claim": claim.id, "windows": frozen}
                raw |= {
                    "reason": override.reason,
                    "approver": override.approver,
                }
                raw |= {"by": by, "at": now}
                ops.append(Put(join_key("o", claim.id), dump(raw)))
            return [*ops, Put(join_key("c", claim.id), dump(_raw(claim)))], frozen

        fence, frozen = guarded(self._store, decide)
        if frozen and override is not None:
            details = {"claim": claim.id, "windows": tuple(frozen)}
            details |= {"reason": override.reason, "approver": override.approver}
            self._notify(Notice(kind="claim-override", at=now, by=by, details=details))
        return replace(claim, fence=fence, _claims=self)

    def extend(self, id: str, until: Any) -> Claim:
        """Let a claim last longer; a claim that has ended is not revived."""
        end = instant("until", until)
        _check_end(end, self._store.now())

        def decide() -> tuple[Sequence[Op], Claim]:
            claim = self.get(id)
            longer = replace(claim, until=end)
            return [Put(join_key("c", id), dump(_raw(longer)))], longer

        return guarded(self._store, decide)[1]

    def release(self, id: str) -> None:
        """End a claim; nothing happens when it has ended."""
        # Guarded: an `extend` that has read the claim already must decide anew.
        guarded(self._store, lambda: ([Delete(join_key("c", id))], None))

    def get(self, id: str) -> Claim:
        """Return a claim that holds now, or raise UnknownEntry."""
        for claim in self.active():
            if claim.id == id:
                return claim
        raise UnknownEntry("claim", id)

    def active(self) -> tuple[Claim, ...]:
        """Return the claims that hold now, oldest first."""
        now = self._store.now()
        found = [self._claim(record) for record in self._store.read("c/").records]
        held = [claim for claim in found if claim.until > now]
        return tuple(sorted(held, key=lambda claim: claim.fence))

    def overrides(self) -> tuple[Mapping[str, Any], ...]:
        """Return every override that was ever used, oldest first."""
        found = [load(record) for record in self._store.read("o/").records]
        return tuple(sorted(found, key=lambda raw: raw["at"]))

    def guard(self, claim: Claim) -> int:
        """Return the claim's fence, or raise LockLost when it has ended."""
        if not any(held.id == claim.id for held in self.active()):
            raise LockLost(f"claim {claim.id}", claim.fence, "it ended or was released")
        return claim.fence

    def _against(self, wanted: Claim) -> tuple[list[Op], list[str], list[str]]:
        """Return the removal of ended claims, claims and windows in the way."""
        now = self._store.now()
        ops, against = list[Op](), list[str]()
        for record in self._store.read("c/").records:
            other = self._claim(record)
            if other.until <= now:
                ops.append(Delete(record.key))
            elif set(other.services) & set(wanted.services) and (
                other.mode == "exclusive" or wanted.mode == "exclusive"
            ):
                against.append(str(other))
        windows = Windows(self._store)
        frozen = {
            str(window)
            for service in wanted.services
            for window in windows.covering(service, now, by=wanted.by)
        }
        return ops, against, sorted(frozen)

    def _claim(self, record: Record) -> Claim:
        raw = load(record)
        raw["services"] = tuple(raw["services"])
        known = {k: v for k, v in raw.items() if k in _FIELDS}
        return Claim(**known, fence=record.created, _claims=self)


def _check_end(until: float, now: float) -> None:
    if not until > now:
        raise InvalidInput("until", until, f"a time after now, {iso(now)}")


_FIELDS = ("id", "services", "by", "reason", "since", "until", "mode")


def _raw(claim: Claim) -> dict[str, Any]:
    return {name: getattr(claim, name) for name in _FIELDS}
