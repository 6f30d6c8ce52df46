"""The link between a breaker and its store.

A closed circuit never waits for the store: trips and reports are sent by one
daemon thread per breaker, which also fetches the shared view every `REFRESH_S`
seconds. Only a caller that wants to be a probe asks the store itself. While the
store does not answer, the breaker is on its own and asks again every `RETRY_S`.
"""

from __future__ import annotations

import queue
import threading
import uuid
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from maestro_resilience._signals import tell
from maestro_resilience._window import FAILED
from maestro_resilience.store import BreakerStore, SharedView

if TYPE_CHECKING:
    from maestro_resilience._breaker import CircuitBreaker

REFRESH_S = 0.2
RETRY_S = 1.0


class SharedProbe:
    """The token of a probe that the store has admitted."""

    __slots__ = ("_breaker", "_id", "_link")

    def __init__(self, link: Link, breaker: CircuitBreaker, probe: str) -> None:
        self._link = link
        self._breaker = breaker
        self._id = probe

    def succeeded(self, started: float) -> None:
        """Report a good probe, unless it was slow."""
        breaker = self._breaker
        slow = breaker._slow_call
        late = slow is not None and breaker._clock.monotonic() - started >= slow
        self._report("failed" if late else "ok")

    def failed(self, error: BaseException, started: float) -> None:
        """Report a bad probe, or give its slot back where the error says nothing."""
        verdict = self._breaker._verdict(error)
        outcome = "released"
        if verdict is not None:
            outcome = "failed" if verdict == FAILED else "ok"
        self._report(outcome)

    def _report(self, outcome: str) -> None:
        breaker = self._breaker
        if outcome == "failed":
            breaker._open_s = min(breaker._open_s * breaker._growth, breaker._max_open)
        probes, open_for, probe = breaker._probes, breaker._open_s, self._id
        self._link.send(
            lambda store: store.report(breaker.name, probe, outcome, probes, open_for)
        )


class Link:
    """Keeps one breaker and the shared view of it alike."""

    def __init__(self, breaker: CircuitBreaker, store: BreakerStore) -> None:
        self._breaker = weakref.ref(breaker)
        self._store = store
        self._version = 0
        self._away_until = 0.0
        self._away = False
        self.renew()

    def renew(self) -> None:
        """Start afresh, also in a forked child: the thread stayed in the parent."""
        self._outbox: queue.SimpleQueue[Callable[[BreakerStore], SharedView]] = (
            queue.SimpleQueue()
        )
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def ensure_thread(self) -> None:
        """Start the daemon thread with the first call, and again after a fork."""
        if self._thread is None:
            with self._start_lock:  # guards _thread
                if self._thread is None:
                    self._thread = threading.Thread(
                        target=_serve,
                        args=(weakref.ref(self), self._outbox),
                        name="maestro-breaker",
                        daemon=True,
                    )
                    self._thread.start()

    def send(self, message: Callable[[BreakerStore], SharedView]) -> None:
        """Have the thread carry a change to the store; never waits."""
        self.ensure_thread()
        self._outbox.put(message)

    def tripped(self, breaker: CircuitBreaker, reason: str) -> None:
        """Tell the others that the circuit was opened here."""
        version, open_for = self._version, breaker._open_s
        self.send(
            lambda store: store.change(breaker.name, version, "open", open_for, reason)
        )

    def steered(self, breaker: CircuitBreaker, state: str, reason: str) -> None:
        """Tell the others what was done by hand."""
        self.send(lambda store: store.change(breaker.name, None, state, 0.0, reason))

    def exchange(self, message: Callable[[BreakerStore], SharedView]) -> None:
        """Talk to the store once and take over what it says."""
        breaker = self._breaker()
        if breaker is None:
            return
        try:
            view = message(self._store)
        except Exception as error:  # whatever the client library raises
            self._failed(breaker, error)
        else:
            self._answered(breaker, view)

    def lease(
        self, breaker: CircuitBreaker
    ) -> tuple[SharedProbe | None, float | None] | None:
        """Ask to be a probe; None means that the store is away: decide alone."""
        if self._away and breaker._clock.monotonic() < self._away_until:
            return None
        probe = uuid.uuid4().hex
        try:
            granted, view = self._store.lease(
                breaker.name, probe, breaker._probes, breaker._probe_lease
            )
        except Exception as error:  # whatever the client library raises
            self._failed(breaker, error)
            return None
        self._answered(breaker, view)
        if granted:
            return SharedProbe(self, breaker, probe), None
        return None, view.left or None

    def _failed(self, breaker: CircuitBreaker, error: Exception) -> None:
        self._away_until = breaker._clock.monotonic() + RETRY_S
        if not self._away:
            self._away = True
            tell(breaker, "StoreFailed", error=error)

    def _answered(self, breaker: CircuitBreaker, view: SharedView) -> None:
        if self._away:
            self._away = False
            tell(breaker, "StoreRecovered")
        if view.version > self._version:
            self._version = view.version
            breaker._follow(view)


def _serve(
    link_ref: weakref.ref[Link],
    outbox: queue.SimpleQueue[Callable[[BreakerStore], SharedView]],
) -> None:
    """Carry messages and refresh the view until the breaker is gone."""
    while True:
        try:
            message = outbox.get(timeout=REFRESH_S)
        except queue.Empty:
            message = None
        link = link_ref()
        breaker = link._breaker() if link is not None else None
        if link is None or breaker is None or link._outbox is not outbox:
            return
        name = breaker.name
        waiting = link._away and breaker._clock.monotonic() < link._away_until
        if message is not None:
            link.exchange(message)
        elif not waiting:
            link.exchange(partial(_load, name))
        del link, breaker, message


def _load(name: str, store: BreakerStore) -> SharedView:
    return store.load(name)


def connect(breaker: CircuitBreaker, store: Any) -> Link:
    """Return the link of a breaker to its store."""
    return Link(breaker, store)
