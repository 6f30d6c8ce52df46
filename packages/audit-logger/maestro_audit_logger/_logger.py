"""The audit log as a service uses it."""

from __future__ import annotations

import logging
import os
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, final

from maestro_audit_logger._action import Action, F, audited
from maestro_audit_logger._checkpoints import Checkpointer
from maestro_audit_logger._clean import Sealed
from maestro_audit_logger._commit import Committer, Durability, sync_interval
from maestro_audit_logger._compose import Composer
from maestro_audit_logger._context import Binding
from maestro_audit_logger._creation import identify
from maestro_audit_logger._encode import Encoder, ResourceLike
from maestro_audit_logger._event import Actor, Outcome, Receipt, how_to_name
from maestro_audit_logger._fallback import Fallback, OnFailure
from maestro_audit_logger._files import Files
from maestro_audit_logger._keeping import Keeping
from maestro_audit_logger._redact import DEFAULT_REDACT, Redactor
from maestro_audit_logger._signers import Signer
from maestro_audit_logger._store import Store
from maestro_audit_logger.errors import AuditUnavailable, InvalidSetting

if TYPE_CHECKING:
    from maestro_audit_logger._handler import AuditHandler
    from maestro_audit_logger._tasks import AsyncCommitter

P = ParamSpec("P")
R = TypeVar("R")
MEGABYTE = 1 << 20
_log = logging.getLogger(__name__)
_loggers: weakref.WeakSet[AuditLogger] = weakref.WeakSet()


@final
class AuditLogger(Keeping):
    """An append-only audit log in a folder. Safe for threads, tasks, processes.

    Args:
        path: the folder; created with `origin` when there is no log yet.
        origin: the log's name in checkpoints, such as `app.example/audit`.
        durability: `commit` syncs before `record` returns (group commit); a
            number syncs at most every so many seconds; `os` leaves it to the
            operating system. In all three the bytes have left the process.
        on_failure: what happens to an event that cannot be stored: `raise`,
            `spill` to the folder `spill_to`, or `drop` (counted).
        redact: names and dotted paths whose values are hidden.
        actor: who acts when nothing else says so.
        signer: who signs checkpoints; without one they prove integrity only.
        checkpoint_every: make one after so many records,
        checkpoint_interval_s: or so many seconds, whichever comes first.
        on_checkpoint: called with each note, to keep it outside this machine.
        segment_bytes: a segment is sealed at this size, and each day if `daily`.
        clock_ns: nanoseconds since the epoch, for the recorded times.
        files: the file operations, for tests.

    Raises:
        LogNotFound: there is no log and no `origin` to create one.
        AuditUnavailable: the folder cannot be used.
        InvalidSetting: an argument is not what it should be; WrongOrigin is one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        origin: str | None = None,
        durability: Durability = "commit",
        on_failure: OnFailure = "raise",
        spill_to: str | os.PathLike[str] | None = None,
        redact: Iterable[str] = DEFAULT_REDACT,
        actor: Actor | None = None,
        signer: Signer | None = None,
        checkpoint_every: int = 1024,
        checkpoint_interval_s: float = 60.0,
        on_checkpoint: Sequence[Callable[[str], object]] = (),
        segment_bytes: int = 64 * MEGABYTE,
        daily: bool = True,
        clock_ns: Callable[[], int] = time.time_ns,
        files: Files | None = None,
    ) -> None:
        self.closed = True  # until everything below has worked
        if not isinstance(path, str | os.PathLike):
            raise InvalidSetting("path", "a folder", path)
        self.path = Path(path)
        if actor is not None and not isinstance(actor, Actor):
            raise InvalidSetting("actor", f"an Actor{how_to_name(actor)}", actor)
        if signer is not None and not callable(getattr(signer, "sign", None)):
            raise InvalidSetting("signer", "an HmacRatchet or Ed25519Signer", signer)
        _check_number("checkpoint_every", checkpoint_every, int)
        _check_number("checkpoint_interval_s", checkpoint_interval_s, int, float)
        _check_number("segment_bytes", segment_bytes, int)
        hooks = _hooks(on_checkpoint)
        self._files = files or Files()
        self._clock_ns = clock_ns
        encoder = Encoder(Redactor(redact), clock_ns=clock_ns)
        self._now = encoder.now
        self._composer = Composer(encoder, actor)
        sync_every_s = sync_interval(durability)
        spill = Path(spill_to) if spill_to is not None else None
        self._fallback = Fallback(on_failure, spill)
        self.identity = identify(
            self.path, origin, self._files, self._composer.first_body
        )
        self._store = Store(
            self.path,
            self.identity,
            system_body=self._composer.system_body,
            max_bytes=segment_bytes,
            daily=daily,
            files=self._files,
        )
        self._committer = Committer(
            self._store, sync_every_s=sync_every_s, after=self._checkpoint_if_due
        )
        self._async: AsyncCommitter | None = None
        self._checkpointer = Checkpointer(
            self._store,
            signer=signer,
            files=self._files,
            now=self._now,
            hooks=hooks,
            durable=sync_every_s is not None,
        )
        self._checkpoint_every = checkpoint_every
        self._checkpoint_interval_ns = int(checkpoint_interval_s * 1e9)
        self._checkpoint_seq = 0
        self._checkpoint_time = clock_ns()
        self.closed = False
        _loggers.add(self)

    # Writing

    def record(
        self,
        action: str,
        *,
        actor: Actor | None = None,
        resource: ResourceLike = None,
        outcome: Outcome = "success",
        data: Mapping[str, Any] | None = None,
        ctx: Mapping[str, Any] | None = None,
        on_failure: OnFailure | None = None,
    ) -> Receipt:
        """Store one event; when this returns it is durable.

        Args:
            action: what was done, as `noun.verb` such as `invoice.approve`.
            actor: who did it; what `bind` says when left out.
            resource: on what, as `(type, id)`.
            outcome: success, failure, denied or unknown.
            data: anything else; redacted, and may hold Private and Secret.
            ctx: added to the bound context (request id, address, session).
            on_failure: this event's own failure policy.

        Raises:
            InvalidEvent: the event cannot be stored as it is; `.where` says what.
            AuditUnavailable: it is not stored, and the policy is to refuse.
        """
        ts = self._now()
        body, sealed = self._composer.body(
            ts, action, actor, resource, outcome, data, ctx
        )
        try:
            if sealed:
                self._keep(sealed)
            if self._fallback.gap:
                self._tell_gap()
            seq, leaf = self._committer.commit(body)
        except AuditUnavailable as error:
            return self._fallback.handle(error, body, ts, on_failure)
        return Receipt(seq, ts, leaf)

    async def arecord(
        self,
        action: str,
        *,
        actor: Actor | None = None,
        resource: ResourceLike = None,
        outcome: Outcome = "success",
        data: Mapping[str, Any] | None = None,
        ctx: Mapping[str, Any] | None = None,
        on_failure: OnFailure | None = None,
    ) -> Receipt:
        """Store one event without blocking the loop; see `record`.

        Tasks that wait at the same time share one write and one sync. A
        cancelled call is not acknowledged, but its record may be stored.
        """
        ts = self._now()
        body, sealed = self._composer.body(
            ts, action, actor, resource, outcome, data, ctx
        )
        try:
            if sealed:
                await self._in_thread(self._keep, sealed)
            if self._fallback.gap:
                await self._in_thread(self._tell_gap)
            seq, leaf = await self._tasks().commit(body)
        except AuditUnavailable as error:
            return self._fallback.handle(error, body, ts, on_failure)
        return Receipt(seq, ts, leaf)

    def record_many(self, events: Iterable[Mapping[str, Any]]) -> list[Receipt]:
        """Store several events in order with one sync.

        Args:
            events: each the keyword arguments of `record`, with `action`.

        Raises:
            InvalidEvent: one of them is refused; none is stored then.
            AuditUnavailable: the rest after the stored ones is not stored.
        """
        stamps, bodies, private = [], [], []
        for event in events:
            ts = self._now()
            body, sealed = self._composer.body(
                ts,
                event["action"],
                event.get("actor"),
                event.get("resource"),
                event.get("outcome", "success"),
                event.get("data"),
                event.get("ctx"),
            )
            stamps.append(ts)
            bodies.append(body)
            private += sealed
        if not bodies:
            return []
        if private:
            self._keep(private)
        if self._fallback.gap:
            self._tell_gap()
        stored, error = self._committer.commit_many(bodies)
        receipts = [
            Receipt(seq, ts, leaf)
            for (seq, leaf), ts in zip(stored, stamps, strict=False)
        ]
        left = list(zip(bodies, stamps, strict=True))[len(stored) :]
        for body, ts in left:
            if not isinstance(error, AuditUnavailable):
                raise error or RuntimeError("no result")
            receipts.append(self._fallback.handle(error, body, ts, None))
        return receipts

    def bind(self, *, actor: Actor | None = None, **ctx: Any) -> Binding:
        """Set actor and context for the events of a `with` block.

        Holds for this thread or task and the tasks it starts; blocks nest.
        """
        return self._composer.bind(actor, ctx)

    def carry(self, function: Callable[P, R]) -> Callable[P, R]:
        """Wrap a function for an executor, so that what is bound now goes along."""
        return self._composer.carry(function)

    def action(
        self,
        name: str,
        *,
        actor: Actor | None = None,
        resource: ResourceLike = None,
        data: Mapping[str, Any] | None = None,
    ) -> Action:
        """Record the intent, run the block, record the outcome.

        For `with` and `async with`. The block does not run when the intent
        cannot be stored.
        """
        return Action(self, name, actor=actor, resource=resource, data=data)

    def audited(
        self,
        action: str,
        *,
        resource: ResourceLike | Callable[..., ResourceLike] = None,
        capture: Iterable[str] = (),
        actor: Actor | None = None,
    ) -> Callable[[F], F]:
        """Decorate a function or coroutine function with `action()`.

        Args:
            action: what it does.
            resource: on what; a function of the same arguments may say.
            capture: names of the parameters to record.
            actor: who acts; what `bind` says when left out.
        """
        return audited(self, action, resource=resource, capture=capture, actor=actor)

    def handler(self, *, actor: Actor | None = None) -> AuditHandler:
        """Return a `logging.Handler` that records what reaches it."""
        from maestro_audit_logger._handler import AuditHandler

        return AuditHandler(self, actor=actor)

    # Keeping

    def close(self) -> None:
        """Make a last checkpoint, sync and close; idempotent."""
        if self.closed:
            return
        self.closed = True
        if self._fallback.gap:
            try:
                self._tell_gap()
            except AuditUnavailable as error:
                _log.error("the audit log was not told about a gap: %s", error)
        with self._committer.exclusively():
            if self._store.seq > self._checkpoint_seq:
                self._try_checkpoint()
        self._committer.close()

    def __enter__(self) -> AuditLogger:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"seq={self._store.seq}"
        return (
            f"AuditLogger({str(self.path)!r}, origin={self.identity.origin!r}, {state})"
        )

    def __del__(self) -> None:
        if not getattr(self, "closed", True):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2)
            self._store.close()

    @property
    def stats(self) -> dict[str, int]:
        """Return counts of this process: syncs, lost and spilled events."""
        return {
            "seq": self._store.seq,
            "syncs": self._committer.syncs,
            "lost": self._fallback.lost,
            "spilled": self._fallback.spilled,
        }

    # Inside

    def _keep(self, sealed: list[Sealed]) -> None:
        import sqlite3

        from maestro_audit_logger._private import PrivateValues

        try:
            PrivateValues(self.path).put(sealed)
        except sqlite3.Error as error:
            raise AuditUnavailable(
                str(self.path), f"private values: {error}"
            ) from error

    def _tell_gap(self) -> None:
        gap = self._fallback.take_gap()
        if not gap:
            return
        try:
            self._committer.commit(self._composer.system_body("audit.gap", gap))
        except BaseException:
            self._fallback.give_back(gap)
            raise

    def _tasks(self) -> AsyncCommitter:
        if self._async is None:
            from maestro_audit_logger._tasks import AsyncCommitter

            self._async = AsyncCommitter(self._committer)
        return self._async

    @staticmethod
    async def _in_thread(
        function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        import asyncio

        return await asyncio.to_thread(function, *args, **kwargs)


def _check_number(setting: str, value: object, *kinds: type) -> None:
    if type(value) not in kinds or not 0 < value < float("inf"):  # type: ignore[operator]  # a number, as tested
        what = "a number" if float in kinds else "a whole number"
        raise InvalidSetting(setting, f"{what} above 0", value)


def _hooks(given: object) -> tuple[Callable[[str], object], ...]:
    hooks = tuple(given) if isinstance(given, Iterable) else (given,)
    if not isinstance(given, Iterable) or not all(map(callable, hooks)):
        raise InvalidSetting("on_checkpoint", "a list of functions of a note", given)
    return hooks


def _reset_in_child() -> None:
    for audit in list(_loggers):
        audit._fallback.after_fork()
        audit._async = None


os.register_at_fork(after_in_child=_reset_in_child)
