"""The audit log as a service uses it."""

from __future__ import annotations

import logging
import os
import secrets
import time
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, final

from maestro_audit_logger._action import Action, F, audited
from maestro_audit_logger._checkpoints import Checkpointer
from maestro_audit_logger._commit import Committer, Stored
from maestro_audit_logger._context import UNBOUND, Binding, Bound, carried
from maestro_audit_logger._encode import Encoder, ResourceLike, Sealed
from maestro_audit_logger._event import Actor, Event, Outcome, Receipt
from maestro_audit_logger._fallback import Fallback, OnFailure
from maestro_audit_logger._files import Files, FolderLock
from maestro_audit_logger._redact import DEFAULT_REDACT, Redactor
from maestro_audit_logger._segments import (
    IDENTITY,
    Identity,
    list_segments,
    segment_path,
)
from maestro_audit_logger._signers import Signer
from maestro_audit_logger._store import Store
from maestro_audit_logger.errors import (
    AuditUnavailable,
    LogDamaged,
    LogNotFound,
    MissingActor,
)

if TYPE_CHECKING:
    from datetime import datetime

    from maestro_audit_logger._handler import AuditHandler
    from maestro_audit_logger._note import VerificationKey
    from maestro_audit_logger._query import Query
    from maestro_audit_logger._tasks import AsyncCommitter
    from maestro_audit_logger._verify import VerifyReport
    from maestro_audit_logger.exporters import Exporter

P = ParamSpec("P")
R = TypeVar("R")
Durability = Literal["commit", "os"] | float
MEGABYTE = 1 << 20
SYSTEM_ACTOR = '{"type":"system","id":"maestro-audit"}'
_log = logging.getLogger(__name__)
_loggers: weakref.WeakSet[AuditLogger] = weakref.WeakSet()


@final
class AuditLogger:
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
        self.path = Path(path)
        self.closed = True  # until everything below has worked
        self._files = files or Files()
        self._clock_ns = clock_ns
        self._encoder = Encoder(Redactor(redact), clock_ns=clock_ns)
        sync_every_s = _sync_every(durability)
        spill = Path(spill_to) if spill_to is not None else None
        self._fallback = Fallback(on_failure, spill)
        self.identity = self._identify(origin)
        self._store = Store(
            self.path,
            self.identity,
            system_body=self._system_body,
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
            now=self._encoder.now,
            hooks=on_checkpoint,
            durable=sync_every_s is not None,
        )
        self._checkpoint_every = checkpoint_every
        self._checkpoint_interval_ns = int(checkpoint_interval_s * 1e9)
        self._checkpoint_seq = 0
        self._checkpoint_time = clock_ns()
        self._var: ContextVar[Bound] = ContextVar("maestro_audit", default=UNBOUND)
        self._base = UNBOUND
        if actor is not None:
            self._base = Bound(actor, self._encoder.actor(actor), {}, "{}")
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
        ts = self._encoder.now()
        body, sealed = self._body(ts, action, actor, resource, outcome, data, ctx)
        try:
            if sealed:
                self._keep(sealed)
            if self._fallback.pending:
                self._tell_gap()
            seq, leaf = self._committer.commit(body)
        except AuditUnavailable as error:
            return self._fallback.handle(error, body, ts, on_failure)
        return Receipt(seq=seq, ts=ts, leaf_hash=leaf)

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
        ts = self._encoder.now()
        body, sealed = self._body(ts, action, actor, resource, outcome, data, ctx)
        try:
            if sealed:
                await self._in_thread(self._keep, sealed)
            if self._fallback.pending:
                await self._in_thread(self._tell_gap)
            seq, leaf = await self._tasks().commit(body)
        except AuditUnavailable as error:
            return self._fallback.handle(error, body, ts, on_failure)
        return Receipt(seq=seq, ts=ts, leaf_hash=leaf)

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
            ts = self._encoder.now()
            body, sealed = self._body(
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
        if self._fallback.pending:
            self._tell_gap()
        stored, error = self._committer.commit_many(bodies)
        receipts = [
            Receipt(seq=seq, ts=ts, leaf_hash=leaf)
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
        outer = self._bound()
        merged = {**outer.ctx, **ctx}
        return Binding(
            self._var,
            Bound(
                actor=actor or outer.actor,
                actor_json=self._encoder.actor(actor) if actor else outer.actor_json,
                ctx=merged,
                ctx_json=self._encoder.mapping(merged, "$.ctx")
                if ctx
                else outer.ctx_json,
            ),
        )

    def carry(self, function: Callable[P, R]) -> Callable[P, R]:
        """Wrap a function for an executor, so that what is bound now goes along."""
        return carried(self._var, function)

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

    # Reading

    def query(self, **criteria: Any) -> Iterator[Event]:
        """Yield matching events; see `maestro_audit_logger.Query` for the criteria."""
        from maestro_audit_logger._query import Query, run_query

        query: Query = Query.from_criteria(criteria)
        return run_query(self.path, query)

    def reveal(self, event: Event) -> dict[str, Any]:
        """Return the event's data with private values filled in.

        An erased one stays as its commitment.
        """
        from maestro_audit_logger._reveal import revealed

        return revealed(self.path, event)

    def verify(
        self,
        *,
        anchor: str | None = None,
        keys: Sequence[str | VerificationKey] = (),
        full: bool = False,
    ) -> VerifyReport:
        """Check the log; see `maestro_audit_logger.verify_log`."""
        from maestro_audit_logger._verify import verify_log

        return verify_log(self.path, anchor=anchor, keys=keys, full=full)

    def prove(self, seq: int) -> str:
        """Return the C2SP tlog-proof that record `seq` is in the log.

        A checkpoint is made first when the latest does not cover it.
        """
        from maestro_audit_logger._prove import prove

        self.checkpoint()
        return prove(self.path, seq)

    def export(
        self,
        format: str | Exporter,
        *,
        to: str | os.PathLike[str],
        options: Mapping[str, Any] | None = None,
        **criteria: Any,
    ) -> int:
        """Write matching events to a file in a format; return how many.

        Args:
            format: one of `maestro_audit_logger.exporters.names()`, or an
                exporter of your own.
            to: the file, replaced when complete.
            options: of the exporter, such as `{"version": "1.8.0"}` for ocsf.
            criteria: as in `query`.
        """
        from maestro_audit_logger.exporters import export_to

        return export_to(to, format, self.query(**criteria), options or {})

    # Keeping

    def checkpoint(self) -> str:
        """Sign and publish the present state; return the note, to be kept elsewhere."""
        with self._committer.exclusively():
            return self._checkpoint()

    def seal(self) -> str:
        """Close the current segment, then make a checkpoint; return its note."""
        with self._committer.exclusively():
            try:
                self._store.seal()
            except OSError as error:
                raise AuditUnavailable(str(self.path), str(error)) from error
            return self._checkpoint()

    def prune(self, before: str | datetime) -> list[int]:
        """Remove sealed segments that are older than a time; see `query` for times.

        The hashes stay, so checkpoints and anchors keep their meaning. Returns
        the first line of each removed segment.
        """
        from maestro_audit_logger._retention import prune

        return prune(self, before)

    def pack(self) -> list[Path]:
        """Compress sealed segments; return the new files."""
        from maestro_audit_logger._retention import pack

        return pack(self)

    def hold(self, name: str, first: int, last: int) -> None:
        """Keep lines first to last from `prune`, as a legal hold asks."""
        from maestro_audit_logger._retention import hold

        hold(self, name, first, last)

    def release(self, name: str) -> None:
        """End a hold; KeyError when there is none of that name."""
        from maestro_audit_logger._retention import release

        release(self, name)

    def evidence(
        self,
        to: str | os.PathLike[str],
        *,
        keys: Sequence[str] = (),
        **criteria: Any,
    ) -> int:
        """Write a zip of events, proofs and a verifier for an auditor.

        Args:
            to: the file.
            keys: the public keys to state in it.
            criteria: as in `query`.
        """
        from maestro_audit_logger._evidence import write_bundle

        self.checkpoint()
        return write_bundle(to, self.path, self.query(**criteria), keys=keys)

    def erase(self, subject: str) -> int:
        """Remove the private values of a subject from the disk; return how many.

        The chain stays as it is, and a record says that this was done.
        """
        from maestro_audit_logger._private import PrivateValues

        gone = PrivateValues(self.path).erase(subject)
        self.record_system("audit.erased", {"subject": subject, "count": gone})
        return gone

    def record_system(self, action: str, data: dict[str, Any]) -> Stored:
        """Store a record of the log about itself; the acting person goes along."""
        bound = self._bound()
        return self._committer.commit(
            self._system_body(action, data, bound.actor_json or SYSTEM_ACTOR)
        )

    def sync(self) -> None:
        """Return once everything acknowledged is on the device."""
        try:
            self._committer.sync()
        except OSError as error:
            raise AuditUnavailable(
                str(self.path), str(error), uncertain=True
            ) from error

    def close(self) -> None:
        """Make a last checkpoint, sync and close; idempotent."""
        if self.closed:
            return
        self.closed = True
        if self._fallback.pending:
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

    def _bound(self) -> Bound:
        bound = self._var.get()
        return self._base if bound is UNBOUND else bound

    def _body(
        self,
        ts: str,
        action: str,
        actor: Actor | None,
        resource: ResourceLike,
        outcome: str,
        data: Mapping[str, Any] | None,
        ctx: Mapping[str, Any] | None,
    ) -> tuple[bytes, list[Sealed]]:
        bound, encoder = self._var.get(), self._encoder
        if bound is UNBOUND:
            bound = self._base
        if actor is not None:
            actor_json = encoder.actor(actor)
        elif bound.actor_json:
            actor, actor_json = bound.actor, bound.actor_json
        else:
            raise MissingActor
        if ctx:
            ctx_json = encoder.mapping({**bound.ctx, **ctx}, "$.ctx")
        else:
            ctx_json = bound.ctx_json
        return encoder.body(
            ts=ts,
            actor_json=actor_json,
            action=action,
            resource=resource,
            outcome=outcome,
            ctx_json=ctx_json,
            data=data,
            subject=actor.id if actor else "",
        )

    def _system_body(
        self, action: str, data: dict[str, Any], actor_json: str = SYSTEM_ACTOR
    ) -> bytes:
        body, _ = self._encoder.body(
            ts=self._encoder.now(),
            actor_json=actor_json,
            action=action,
            resource=None,
            outcome="success",
            ctx_json="{}",
            data=data,
            subject="",
            system=True,
        )
        return body

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
            self._committer.commit(self._system_body("audit.gap", gap))
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

    def _checkpoint_if_due(self) -> None:
        """Run by the leader after a batch, when its followers are on their way."""
        new = self._store.seq - self._checkpoint_seq
        if (
            new >= self._checkpoint_every
            or self._clock_ns() - self._checkpoint_time >= self._checkpoint_interval_ns
        ):
            self._try_checkpoint()

    def _try_checkpoint(self) -> None:
        try:
            self._checkpoint()
        except Exception as error:  # the records are stored; the next one covers them
            self._checkpoint_seq = self._store.seq
            self._checkpoint_time = self._clock_ns()
            _log.error("no checkpoint of %s: %s", self.path, error)

    def _checkpoint(self) -> str:
        try:
            note = self._checkpointer.run()
        except OSError as error:
            raise AuditUnavailable(str(self.path), f"no checkpoint: {error}") from error
        self._checkpoint_seq = self._store.seq
        self._checkpoint_time = self._clock_ns()
        return note

    def _identify(self, origin: str | None) -> Identity:
        try:
            found = Identity.load(self.path)
        except LogNotFound:
            if origin is None:
                raise
            try:
                return self._create(origin)
            except OSError as error:
                raise AuditUnavailable(str(self.path), str(error)) from error
        if origin not in {None, found.origin}:
            raise LogDamaged(
                str(self.path),
                f"expected the log of {origin!r}, found that of {found.origin!r}",
            )
        return found

    def _create(self, origin: str) -> Identity:
        """Make a log with its first record; log.json comes last and makes it one."""
        if not origin or any(c.isspace() or c == "+" for c in origin):
            raise ValueError(
                f"origin: expected a name without spaces and '+', got {origin!r}"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(self.path)
        try:
            with lock.held():
                return self._create_locked(origin)
        finally:
            lock.close()

    def _create_locked(self, origin: str) -> Identity:
        if (self.path / IDENTITY).exists():
            return Identity.load(self.path)
        self._refuse_leftovers()
        identity = Identity.make(
            origin=origin, log_id=secrets.token_hex(16), created=self._encoder.now()
        )
        body = self._system_body("audit.created", {"log_id": identity.log_id})
        prev = identity.chain_start.encode()
        line = b'{"seq":1,"prev":"%s",%s\n' % (prev, body)
        self._files.replace(segment_path(self.path, 1), line)
        self._files.replace(self.path / IDENTITY, identity.raw)
        return identity

    def _refuse_leftovers(self) -> None:
        """Take over a creation that a crash cut short, but no log without log.json."""
        segments = list_segments(self.path)
        if not segments:
            return
        if len(segments) > 1 or segments[0].read().count(b"\n") > 1:
            raise LogDamaged(
                str(self.path), "there are segments, but log.json is missing"
            )


def _sync_every(durability: object) -> float | None:
    if durability == "commit":
        return 0
    if durability == "os":
        return None
    if isinstance(durability, int | float) and durability > 0:
        return float(durability)
    raise ValueError(
        "durability: expected 'commit', 'os' or a number of seconds, "
        f"got {durability!r}"
    )


def _reset_in_child() -> None:
    for audit in list(_loggers):
        audit._fallback.after_fork()
        audit._async = None


os.register_at_fork(after_in_child=_reset_in_child)
