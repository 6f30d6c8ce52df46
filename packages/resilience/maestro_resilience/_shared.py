"""The link between a breaker and its store.

A closed circuit never waits for the store: trips and reports are sent by one
daemon thread per breaker, which also fetches the shared view every `REFRESH_S`
seconds. Only a caller that wants to be a probe asks the store itself. While the
store does not answer, the breaker is on its own and asks again every `RETRY_S`.

When the store answers again, results of probes that did not reach it are sent
once more, and a circuit that was opened meanwhile is opened for all. A store that
has forgotten (restarted without its data) is told again by those who remember.
"""

from __future__ import annotations

import logging
import queue
import threading
import uuid
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from maestro_resilience._signals import tell
from maestro_resilience._state import CLOSED, HALF_OPEN, ISOLATED, OPEN, State
from maestro_resilience._window import FAILED
from maestro_resilience.store import BreakerStore, SharedView

if TYPE_CHECKING:
    from maestro_resilience._breaker import CircuitBreaker

_log = logging.getLogger("maestro_resilience")
REFRESH_S = 0.2
RETRY_S = 1.0
UNSENT = 64  # results of probes that are kept while the store is away

Message = Callable[[BreakerStore], SharedView]


class SharedProbe:
    """The token of a probe that the store has admitted.

    One that is dropped without an answer (its task was cancelled while the store
    was asked, or a ^C came) gives its slot back.
    """

    __slots__ = ("_breaker", "_id", "_link", "_open")

    def __init__(self, link: Link, breaker: CircuitBreaker, probe: str) -> None:
        self._link = link
        self._breaker = breaker
        self._id = probe
        self._open = True

    def succeeded(self, started: float) -> None:
        """Report a good probe, unless it was slow."""
        breaker = self._breaker
        slow = breaker._slow_call
        late = slow is not None and breaker._clock.monotonic() - started >= slow
        self._report("failed" if late else "ok")

    def failed(self, error: BaseException, started: float) -> None:
        """Report a bad probe, or give its slot back where the error says nothing."""
        outcome = "released"
        try:
            verdict = self._breaker._judge.verdict(error)
            if verdict is not None:
                outcome = "failed" if verdict == FAILED else "ok"
        finally:  # a predicate that raises must not keep the slot
            self._report(outcome)

    def __del__(self) -> None:
        if self._open:
            self._report("released")

    def _report(self, outcome: str) -> None:
        breaker = self._breaker
        if outcome == "failed":
            breaker._break_time.grow()
        report = Report(
            breaker.name,
            self._id,
            outcome,
            breaker._probes,
            breaker._break_time.seconds,
        )
        self._open = False
        self._link.send(report)


class Report:
    """The message of a probe's result; may be sent twice, as its lease ends once."""

    __slots__ = ("_fields",)

    def __init__(self, *fields: Any) -> None:
        self._fields = fields

    def __call__(self, store: BreakerStore) -> SharedView:
        return store.report(*self._fields)


class Link:
    """Keeps one breaker and the shared view of it alike."""

    def __init__(self, breaker: CircuitBreaker, store: BreakerStore) -> None:
        self._breaker = weakref.ref(breaker)
        self._store = store
        self._version = 0
        self._away_until = 0.0
        self._away = False
        self._forgotten = 0  # answers in a row that are older than what we know
        self.renew()

    def renew(self) -> None:
        """Start afresh, also in a forked child: the thread stayed in the parent."""
        self._outbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._unsent: deque[Message] = deque(maxlen=UNSENT)
        self._start_lock = threading.RLock()  # a probe may end anywhere
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

    def send(self, message: Message) -> None:
        """Have the thread carry a change to the store; never waits."""
        self.ensure_thread()
        self._outbox.put(message)

    def tripped(self, breaker: CircuitBreaker, reason: str) -> None:
        """Tell the others that the circuit was opened here."""
        version, open_for = self._version, breaker._break_time.seconds
        self.send(
            lambda store: store.change(breaker.name, version, "open", open_for, reason)
        )

    def steered(self, breaker: CircuitBreaker, state: str, reason: str) -> None:
        """Tell the others what was done by hand."""
        self.send(lambda store: store.change(breaker.name, None, state, 0.0, reason))

    def exchange(self, message: Message) -> None:
        """Talk to the store once and take over what it says."""
        breaker = self._breaker()
        if breaker is None:
            return
        try:
            view = _known(message(self._store))
        except Exception as error:  # whatever the client library raises
            if isinstance(message, Report):
                self._unsent.append(message)
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
            _known(view)
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
            _log.warning(  # as text: who keeps the error keeps the breaker alive
                "breaker %r counts alone: its store does not answer: %s: %s",
                breaker.name, type(error).__name__, str(error),
            )  # fmt: skip
            tell(breaker, "StoreFailed", error=error)

    def _answered(self, breaker: CircuitBreaker, view: SharedView) -> None:
        back, self._away = self._away, False
        if view.version > self._version:
            self._version = view.version
            self._forgotten = 0
            breaker._follow(view)
        elif view.version < self._version:
            # One older answer may have been overtaken by a newer one; two in a row
            # mean that the store has lost what it knew.
            self._forgotten += 1
            if self._forgotten > 1:
                self._remind(breaker, view)
        else:
            self._forgotten = 0
            if back and view.state == CLOSED:
                self._remind(breaker, view)
        if back:
            _log.info("breaker %r: its store answers again", breaker.name)
            tell(breaker, "StoreRecovered")
            while self._unsent:
                self.send(self._unsent.popleft())

    def _remind(self, breaker: CircuitBreaker, view: SharedView) -> None:
        """Tell the store where this breaker stands; closed, follow the store."""
        state, reason = breaker._state, breaker._reason
        known, self._version, self._forgotten = self._version, view.version, 0
        open_for, new = 0.0, state.value
        if state in {OPEN, HALF_OPEN}:
            left = breaker._until - breaker._clock.monotonic()
            open_for, new = max(0.001, left), OPEN.value
        elif state is not ISOLATED:
            breaker._follow(view)
            return
        self.send(
            lambda store: store.change(breaker.name, known, new, open_for, reason)
        )


def _serve(
    link_ref: weakref.ref[Link],
    outbox: queue.SimpleQueue[Message],
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


def _known(view: SharedView) -> SharedView:
    """Refuse what only another release can have written: it would end the thread."""
    State(view.state)
    return view


def _load(name: str, store: BreakerStore) -> SharedView:
    return store.load(name)
