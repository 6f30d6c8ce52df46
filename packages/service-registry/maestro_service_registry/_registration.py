"""A registered instance, kept registered.

The handle holds the state that is wanted and makes the store agree: when the store
forgot the instance (it restarted, the lease ran out while the machine slept) it is
registered again under the same id. When another process registered the same id, the
newest wins: the old handle is `lost` and stays silent. After `close` nothing is sent
any more. A handle that came through a fork belongs to the parent: in the child it does
nothing.
"""

import contextlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from types import TracebackType
from typing import Any, final

from ._args import refuse
from ._checks import Verdict
from ._clock import Clock
from ._heart import Beat, Heart
from ._model import CheckReport, Health, Instance, changed, instance_key
from ._store import Put, Record, Store
from ._sweep import decode
from .errors import Conflict, LeaseLost, StoreError, StoreUnavailable

__all__ = ["Registration"]

ANTI_ENTROPY_BEATS = 10
_CHANGEABLE = frozenset(
    [
        "checks",
        "health",
        "host",
        "meta",
        "output",
        "port",
        "region",
        "requires",
        "scheme",
        "status",
        "tags",
        "version",
        "weight",
        "zone",
    ]
)


@final
class Registration:
    """The handle of one registered instance; thread-safe."""

    def __init__(
        self,
        wanted: Instance,
        *,
        store: Store,
        heart: Heart,
        clock: Clock,
        closed: Callable[["Registration"], None] = lambda _: None,
    ) -> None:
        self._wanted = wanted
        self._store, self._heart, self._clock = store, heart, clock
        self._on_close = closed
        self._lock = threading.RLock()  # guards the wanted state and the lease
        self._lease: str | None = None
        self._beats = 0
        self._pid = os.getpid()
        self._closed = False
        self.lost = threading.Event()
        self.key = instance_key(wanted.service, wanted.id)
        self._stoppers: list[Callable[[], None]] = []
        self._hearers: list[Callable[[Verdict], CheckReport]] = []
        self._register()

    @property
    def instance(self) -> Instance:
        """Return what is registered, as this handle wants it."""
        return self._wanted

    def up(self) -> None:
        """Take new work (again)."""
        self.update(status="up")

    def drain(self) -> None:
        """Stay registered but get no new work."""
        self.update(status="draining")

    def maintenance(self, reason: str) -> None:
        """Stay registered, out of use, for a reason that others can read."""
        meta = dict(self._wanted.meta) | {"maintenance": reason}
        self.update(status="maintenance", meta=meta)

    def update(self, **changes: Any) -> None:
        """Change fields of the instance, such as weight, meta, tags or status."""
        self._check_process()
        refuse("update()", changes, _CHANGEABLE)
        with self._lock:
            self._change(changed(self._wanted, changes))

    def report(self, *reports: CheckReport) -> None:
        """Write new results of health checks; others keep their last result."""
        self._check_process()
        with self._lock:
            known = {report.id: report for report in self._wanted.checks}
            known |= {report.id: report for report in reports}
            if tuple(known.values()) != self._wanted.checks:
                now = self._store.now()
                self._change(self._wanted.with_reports(known.values(), now))

    def close(self) -> None:
        """Deregister; safe to call again."""
        if self._pid != os.getpid():
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
            lease, self._lease = self._lease, None
        for stop in self._stoppers:
            stop()
        if lease:
            self._heart.remove(lease)
            # Unreachable now: the lease ends by itself, since nobody renews it.
            with contextlib.suppress(StoreUnavailable):
                self._store.revoke([lease])
        self._on_close(self)

    def __enter__(self) -> "Registration":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "lost" if self.lost.is_set() else "closed" if self._closed else "held"
        return f"<Registration {self._wanted.service}/{self._wanted.id} {state}>"

    def attach(
        self, stop: Callable[[], None], hear: Callable[[Verdict], CheckReport] | None
    ) -> None:
        """Tie a running check to this handle (the registry does that)."""
        self._stoppers.append(stop)
        if hear is not None:
            self._hearers.append(hear)

    def beat(self, status: Health = "passing", output: str = "") -> None:
        """Report by yourself, for the `Ttl` checks of this instance."""
        for hear in self._hearers:
            self.report(hear(Verdict(status, output)))

    def _check_process(self) -> None:
        # Before the lock, which a thread of the parent may have held at the fork.
        if self._pid != os.getpid():
            raise LeaseLost(self._lease or "none", "it belongs to the parent process")

    def _change(self, wanted: Instance) -> None:
        if self.lost.is_set():
            raise LeaseLost(self._lease or "none", "another process took the same id")
        if self._closed:
            raise LeaseLost("none", "the registration was closed")
        if wanted == self._wanted:
            return
        self._wanted = wanted
        try:
            self._store.commit([Put(self.key, wanted.to_json(), self._lease)])
        except LeaseLost:
            self._gone("it ran out")

    def _register(self) -> None:
        """Write the instance under a new lease; whoever had the id loses it."""
        started = self._clock.elapsed()
        wanted = self._wanted
        lease = self._store.grant(wanted.ttl, strict=False, owner=wanted.process)
        try:
            while True:
                before = self._stored()
                expect = {self.key: before.revision if before else 0}
                try:
                    put = Put(self.key, wanted.to_json(), lease)
                    self._store.commit([put], expect)
                    break
                except Conflict:
                    continue
        except BaseException:
            with contextlib.suppress(StoreError):
                self._store.revoke([lease])
            raise
        if before and before.lease and before.lease != lease:
            self._store.revoke([before.lease])
        self._lease = lease
        beat = Beat(
            lease, wanted.ttl, strict=False, gone=self._gone, beaten=self._beaten
        )
        self._heart.add(beat, started)

    def _stored(self) -> Record | None:
        for record in self._store.read(self.key).records:
            if record.key == self.key:
                return record
        return None

    def _gone(self, why: str) -> None:
        """Decide what a lost lease means: register again, or give way."""
        with self._lock:
            if self._closed or self._pid != os.getpid():
                return
            if self._lease:
                self._heart.remove(self._lease)
            try:
                now = self._stored()
                if now and now.lease != self._lease and not self._mine(now):
                    self.lost.set()
                    return
                self._register()
            except StoreError:
                # A beat for the dead lease comes back here until the store answers.
                lease = self._lease or "none"
                beat = Beat(lease, self._wanted.ttl, strict=False, gone=self._gone)
                self._heart.add(beat, self._clock.elapsed())

    def _mine(self, record: Record) -> bool:
        return decode(record).process == self._wanted.process

    def _beaten(self) -> None:
        """Now and then, compare the store with what is wanted, and mend it."""
        self._beats += 1
        if self._beats % ANTI_ENTROPY_BEATS:
            return
        with self._lock, contextlib.suppress(StoreError):
            if self._closed:
                return
            now = self._stored()
            if now is None or (now.lease == self._lease and not self._same(now)):
                put = Put(self.key, self._wanted.to_json(), self._lease)
                self._store.commit([put], {self.key: now.revision if now else 0})

    def _same(self, record: Record) -> bool:
        stored = decode(record)
        return stored.to_json() == replace(self._wanted, stale=stored.stale).to_json()
