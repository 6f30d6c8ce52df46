"""The registry: register, find, watch, pick, lock and coordinate through one store.

One `ServiceRegistry` per process is enough; it is thread-safe. Threads start when they
are needed: one for heartbeats, one for the cache, one for checks, one that waits for
processes to die. `close` deregisters what was registered and stops them; after it
returns nothing is sent any more. After a fork the child can use the registry, but what
the parent registered and locked stays the parent's.
"""

import contextlib
import os
import random
import socket
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, final

from ._args import check_kind, check_number, named, near, pairs, words
from ._clock import Clock, Process, SystemClock
from ._graph import Graph, graph_of
from ._heart import Heart
from ._lock import FenceGate, Lock, LockHolder, holder_of
from ._model import CheckReport, Health, Instance, Status, check_name, check_ttl
from ._outliers import Ejection
from ._pickers import Policy
from ._registration import Registration
from ._semver import parse_range
from ._service import Selection, Service
from ._store import Store, join_key, open_store
from ._sweep import Eviction, Reaper, Sweeper, decode_all
from ._watch import Change, Feed, Watch
from .errors import InvalidInput, NotReady, StoreError

if TYPE_CHECKING:
    from ._checks import Check
    from ._claims import Claim, Claims
    from ._contracts import Contracts
    from ._notice import Notice
    from ._policy import Decision, Rules
    from ._probe import Prober, Running
    from ._windows import Windows

__all__ = ["ServiceRegistry", "Timing"]

_ALIVE: Final[weakref.WeakSet["ServiceRegistry"]] = weakref.WeakSet()
_HOOKED: Final[list[bool]] = []


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """How often the registry looks; times in seconds.

    Attributes:
        sweep: between two looks for late leases.
        confirm: before a sudden loss of nearly all instances is believed.
        eviction: when many are late at once.
    """

    sweep: float = 1.0
    confirm: float = 1.0
    eviction: Eviction = field(default_factory=Eviction)

    def __post_init__(self) -> None:
        check_number("sweep", self.sweep, 0.001, 3600, "seconds")
        check_number("confirm", self.confirm, 0, 3600, "seconds")
        check_kind("eviction", self.eviction, Eviction, "Eviction(share=0.3)")


@final
class ServiceRegistry:
    """A registry on a store; open one with `ServiceRegistry.open(url)`."""

    def __init__(
        self,
        store: Store,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        timing: Timing | None = None,
        rules: "Rules | None" = None,
        on_notice: "Callable[[Notice], None] | None" = None,
    ) -> None:
        _check_parts(store, timing, rules)
        self.store = store
        self._clock = clock or SystemClock()
        self._rng = rng or random.Random()
        self._timing = timing or Timing()
        self._rules, self._on_notice = rules, on_notice
        self._lock = threading.RLock()  # guards the lists and the lazy parts
        self._closed = False
        self._start_parts()
        _ALIVE.add(self)
        if not _HOOKED and hasattr(os, "register_at_fork"):
            _HOOKED.append(True)
            os.register_at_fork(after_in_child=_after_fork)

    @classmethod
    def open(cls, url: str = "memory://", **options: Any) -> "ServiceRegistry":
        """Open the registry that lives at a URL.

        Args:
            url: see `open_store`: memory://, sqlite:///file.db, http://, redis://,
                etcd://.
            options: `clock`, `rng`, `timing`, `rules`, `on_notice` as for the class;
                the rest (`token`, `busy_timeout`, ...) goes to the store.
        """
        mine = {k: options.pop(k) for k in _OPTIONS & set(options)}
        clock = mine.get("clock")
        store = open_store(url, **({"clock": clock} if clock else {}), **options)
        try:
            return cls(store, **mine)
        except BaseException:
            store.close()
            raise

    @named
    def register(
        self,
        service: str,
        *,
        port: int,
        host: str = "127.0.0.1",
        id: str | None = None,
        ttl: float = 15.0,
        checks: "Sequence[Check]" = (),
        tags: Iterable[str] = (),
        meta: Mapping[str, str] | None = None,
        requires: Mapping[str, str] | None = None,
        version: str = "0.0.0",
        zone: str = "",
        region: str = "",
        weight: int = 100,
        scheme: str = "http",
        status: Status = "up",
    ) -> Registration:
        """Register an instance and keep it registered until the handle is closed.

        Args:
            service: its name, a DNS label.
            port: where it listens, 0 for none.
            host: how others reach it.
            id: its own name; without one it is made of host name, port and pid, so
                that each worker of a pre-forking server has its own.
            ttl: seconds after the last heartbeat when others may forget it.
            checks: made by this process; a check's result decides about its health.
            tags: words to select by.
            meta: up to 64 texts of up to 512 bytes.
            requires: services it needs, each with a version range.
            version: its own, as in SemVer.
            zone: callers in the same zone prefer it.
            region: then those in the same region.
            weight: its part of the load for policies that weigh.
            scheme: how its URLs start.
            status: "draining" or "maintenance" to get no work yet.

        Raises:
            InvalidInput: a value that cannot be; nothing was registered.
        """
        me = Process.current()
        wanted = Instance(
            service=service,
            id=id or f"{socket.gethostname()}-{port}-{me.pid}",
            host=host,
            port=port,
            version=version,
            zone=zone,
            region=region,
            weight=weight,
            scheme=scheme,
            status=status,
            tags=frozenset(words("tags", tags)),
            meta=pairs("meta", meta),
            requires=pairs("requires", requires),
            ttl=check_ttl(ttl),
            process=me,
            since=self.store.now(),
        )
        return self.keep(wanted, checks)

    def keep(self, wanted: Instance, checks: "Sequence[Check]" = ()) -> Registration:
        """Register a complete `Instance`, as servers do for others."""
        if checks != ():
            from ._checks import checks_of

            checks = checks_of(checks)
        _refuse_foreign(wanted, checks)
        if checks:
            now = self.store.now()
            wanted = wanted.with_reports(
                map(_first_report, enumerate(checks), checks), now
            )
        registration = Registration(
            wanted,
            store=self.store,
            heart=self._heart,
            clock=self._clock,
            closed=self._forget,
        )
        with self._lock:
            self._registrations.append(registration)
        for i, check in enumerate(checks):
            self.run_check(registration, f"{check.kind}-{i + 1}", check)
        return registration

    def find(
        self, service: str, *, version: str | None = None, tags: Iterable[str] = ()
    ) -> tuple[Instance, ...]:
        """Return the registered instances, read from the store just now.

        All of them, whatever their health; `service()` is the fast and choosy way.
        """
        check_name("service", service)
        wanted = parse_range(version) if version else None
        needed = frozenset(words("tags", tags))
        records = self.store.read(join_key("i", service) + "/").records
        return tuple(
            i
            for i in decode_all(records)
            if (wanted is None or i.version in wanted) and needed <= i.tags
        )

    def services(self) -> dict[str, tuple[Instance, ...]]:
        """Return all services with their instances, read from the store just now."""
        found: dict[str, list[Instance]] = {}
        for instance in decode_all(self.store.read("i/").records):
            found.setdefault(instance.service, []).append(instance)
        return {name: tuple(group) for name, group in found.items()}

    @named
    def service(
        self,
        name: str,
        *,
        version: str | None = None,
        tags: Iterable[str] = (),
        zone: str = "",
        region: str = "",
        policy: Policy = "p2c",
        panic: float = 0.5,
        slow_start: float = 0.0,
        ejection: Ejection | None = None,
    ) -> Service:
        """Return a view that picks instances from a cache; keep it and use it often.

        The cache follows the store within milliseconds; what was registered before
        this call is seen by the view.

        Args:
            name: the service.
            version: only instances in this range.
            tags: only instances with all of these.
            zone: prefer this zone; others take over as far as it lacks instances.
            region: then prefer this region.
            policy: p2c, ewma, round_robin, weighted, least_request or hash.
            panic: below this share of healthy ones all are used, 0 for never.
            slow_start: seconds until a newcomer gets its full share.
            ejection: when failing instances are left out.
        """
        selection = Selection(
            version=parse_range(version) if version else None,
            tags=frozenset(words("tags", tags)),
            zone=zone,
            region=region,
            policy=policy,
            panic=panic,
            slow_start=slow_start,
            ejection=ejection or Ejection(),
        )
        self._follow()
        self._feed.catch_up(name)
        return Service(
            name, selection, feed=self._feed, clock=self._clock, rng=self._rng
        )

    def watch(self, service: str | None = None, *, since: int | None = None) -> Watch:
        """Follow changes of one service or of all, from now or from a revision on."""
        prefix = "i/" if service is None else join_key("i", service) + "/"
        if service is not None:
            check_name("service", service)
        self._follow()
        watch = Watch(self.store, prefix, since)
        self._watches.add(watch)
        return watch

    def on_change(self, listener: Callable[[Change], None]) -> Callable[[], None]:
        """Call a function with every change, on the cache's thread; return a stopper."""
        self._follow()
        return self._feed.listen(listener)

    @named
    def lock(
        self,
        name: str,
        *,
        ttl: float = 15.0,
        timeout: float | None = None,
        holder: str | None = None,
    ) -> Lock:
        """Return a lock to use with `with`; entering it waits up to `timeout` seconds.

        Args:
            name: any text; contenders use the same one.
            ttl: seconds until a holder that cannot be heard loses it.
            timeout: seconds to wait, None for ever.
            holder: how to call this contender in messages.
        """
        return Lock(
            name,
            store=self.store,
            heart=self._heart,
            sweeper=self._sweeper,
            reaper=self._reaper,
            clock=self._clock,
            ttl=ttl,
            timeout=timeout,
            holder=holder,
        )

    def lock_holder(self, name: str) -> LockHolder | None:
        """Return who holds a lock, or leads an election, now."""
        self._sweeper.sweep_strict()
        return holder_of(self.store, name)

    def gate(self, name: str) -> FenceGate:
        """Return a gate that refuses writes with an old fence."""
        return FenceGate(self.store, name)

    def graph(self, extra: Mapping[str, Mapping[str, str]] | None = None) -> Graph:
        """Return which service requires which, with further requirements if given."""
        found = self.services()
        return graph_of((i for group in found.values() for i in group), extra)

    def wait_ready(self, services: Iterable[str], timeout: float = 30.0) -> None:
        """Wait until these services and all they require have passing instances.

        Raises:
            NotReady: says for each what it lacks.
            CycleError: they require each other.
        """
        names = [check_name("service", name) for name in words("services", services)]
        check_number("timeout", timeout, 0, float("inf"), "seconds")
        self._follow()
        lacking: dict[str, str] = {}

        def ready() -> bool:
            instances = self._feed.services
            graph = graph_of(i for group in instances.values() for i in group)
            lacking.clear()
            for layer in graph.order(names):
                for name in layer:
                    why = graph.unmet(name, instances)
                    if why:
                        lacking[name] = why
            return not lacking

        if not self._feed.wait_for(ready, timeout):
            known = self._feed.services
            raise NotReady(
                {n: why + _misspelt(n, known) for n, why in lacking.items()}, timeout
            )

    @property
    def claims(self) -> "Claims":
        """Return what is being modified by whom."""
        from ._claims import Claims

        return Claims(self.store, notify=self._notify)

    @property
    def windows(self) -> "Windows":
        """Return the freeze windows."""
        from ._windows import Windows

        return Windows(self.store)

    @property
    def contracts(self) -> "Contracts":
        """Return the announced changes."""
        from ._contracts import Contracts

        return Contracts(self.store, rules=self._rules, notify=self._notify)

    def claim(self, services: Iterable[str], **details: Any) -> "Claim":
        """Claim several services at once or none; see `Claims.take`."""
        return self.claims.take(services, **details)

    def freeze(self, pattern: str, start: Any, end: Any, **details: Any) -> Any:
        """Forbid modifications for a time; see `Windows.add`."""
        return self.windows.add(pattern, start, end, **details)

    def may(
        self,
        action: str,
        service: str,
        version: str | None = None,
        *,
        by: str | None = None,
    ) -> "Decision":
        """Tell whether an action is allowed now, with the reasons when it is not."""
        from ._policy import decide

        return decide(self.store, action, service, version, by=by, rules=self._rules)

    def sweep(self) -> int:
        """End late leases now instead of within a second; return how many."""
        return self._sweeper.sweep()

    def close(self) -> None:
        """Deregister, let go of locks, stop all threads, close the store."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            registrations = list(self._registrations)
        for watch in list(self._watches):
            watch.close()
        if self._prober is not None:
            self._prober.close()
        for registration in registrations:
            registration.close()
        self._feed.close()
        held = self._heart.close()
        if held:
            with contextlib.suppress(StoreError):  # else they end by their TTL
                self.store.revoke(held)
        self._reaper.close()
        self.store.close()
        self._feed.join()

    def __enter__(self) -> "ServiceRegistry":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<ServiceRegistry on {type(self.store).__name__}>"

    def _start_parts(self) -> None:
        timing = self._timing
        self._sweeper = Sweeper(
            self.store,
            clock=self._clock,
            rng=self._rng,
            eviction=timing.eviction,
            interval=timing.sweep,
        )
        self._reaper = Reaper(self.store)
        self._heart = Heart(self.store, self._sweeper, clock=self._clock, rng=self._rng)
        self._feed = Feed(
            self.store, self._reaper, rng=self._rng, confirm_after=timing.confirm
        )
        self._prober: Prober | None = None
        self._registrations: list[Registration] = []
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()

    def _follow(self) -> None:
        self._feed.start()
        if not self.store.expires_itself:
            self._heart.watch_over()

    def run_check(
        self, registration: Registration, id: str, check: "Check"
    ) -> "Running":
        """Make a further check of an instance that this registry holds."""
        from ._checks import Ttl
        from ._probe import Prober

        with self._lock:
            if self._prober is None:
                self._prober = Prober(rng=self._rng)
        instance = registration.instance
        place = (instance.host, instance.port, instance.scheme)

        def tell(report: CheckReport) -> None:
            if not registration.lost.is_set():
                registration.report(report)

        running = self._prober.add(id, check, place, tell)
        registration.attach(
            running.stop, running.hear if isinstance(check, Ttl) else None
        )
        return running

    def _forget(self, registration: Registration) -> None:
        with self._lock:
            if registration in self._registrations:
                self._registrations.remove(registration)

    def _notify(self, notice: "Notice") -> None:
        if self._on_notice is not None:
            self._on_notice(notice)

    def _restart_in_child(self) -> None:
        self._lock = threading.RLock()
        feed = self._feed
        self._start_parts()
        if not self._closed:  # views that came along keep their feed
            self._feed = feed
            feed.restart_in_child(self._reaper)


def _check_parts(store: Any, timing: Any, rules: Any) -> None:
    if not hasattr(store, "expires_itself") or not hasattr(store, "commit"):
        url = store if isinstance(store, str) else "sqlite:///registry.db"
        expected = f'a store; for a URL use ServiceRegistry.open("{url}")'
        raise InvalidInput("store", store, expected)
    if timing is not None:
        check_kind("timing", timing, Timing, "Timing(sweep=0.5)")
    if rules is not None:
        from ._policy import Rules

        check_kind("rules", rules, Rules, "Rules(notice=86_400)")


def _misspelt(name: str, known: Mapping[str, object]) -> str:
    return "" if name in known else near(name, known)


_OPTIONS = {"rng", "timing", "rules", "on_notice", "clock"}


def _after_fork() -> None:
    for registry in list(_ALIVE):
        registry._restart_in_child()


def _first_report(numbered: "tuple[int, Check]", check: "Check") -> CheckReport:
    id = f"{check.kind}-{numbered[0] + 1}"
    health: Health = check.initial
    return CheckReport(id=id, name=check.name or id, kind=check.kind, status=health)


def _refuse_foreign(wanted: Instance, checks: "Sequence[Check]") -> None:
    from ._checks import Http

    for check in checks:
        if isinstance(check, Http):
            check.url_for(wanted.host, wanted.port, wanted.scheme)
