"""For tests: a clock that obeys, and the checks that every store must pass.

@pytest.mark.parametrize("check", store_checks(), ids=lambda c: c.__name__)
def test_my_store(check):
check(MyStore())
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import final

from ._store import Batch, Delete, Put, Store
from .errors import Compacted, Conflict, LeaseLost

__all__ = ["FakeClock", "store_checks"]


@final
class FakeClock:
    """Time that moves only when told; sleeping moves it."""

    def __init__(self, utc: float = 1_800_000_000.0) -> None:
        self._lock = threading.Lock()
        self._elapsed = 1_000.0
        self._utc = utc

    def elapsed(self) -> float:
        """Return the seconds that leases count on."""
        return self._elapsed

    def utc(self) -> float:
        """Return the calendar's seconds."""
        return self._utc

    def sleep(self, seconds: float) -> None:
        """Move on instead of waiting."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        with self._lock:
            self._elapsed += seconds
            self._utc += seconds

    def set_wall_clock(self, shift: float) -> None:
        """Move the calendar alone, as an administrator or NTP would."""
        with self._lock:
            self._utc += shift


StoreCheck = Callable[[Store], None]


def store_checks() -> tuple[StoreCheck, ...]:
    """Return the conformance suite; each check takes a new, empty store."""
    return (
        reads_what_was_written,
        revisions_rise,
        expectations_guard_commits,
        a_failed_commit_changes_nothing,
        prefixes_are_exact,
        a_lease_takes_its_records_along,
        a_dead_lease_is_refused,
        renewing_tells_what_is_gone,
        a_record_can_change_its_lease,
        events_resume_without_gap,
        looking_without_waiting_skips_nothing,
        events_of_other_prefixes_are_left_out,
        a_revision_of_the_future_is_compacted,
        waiting_ends_with_the_next_event,
        waiting_ends_at_its_time,
        odd_keys_and_values_survive,
        only_one_of_many_writers_wins,
        the_calendar_is_utc,
    )


@contextmanager
def _closing(store: Store) -> Iterator[None]:
    try:
        yield
    finally:
        store.close()


def reads_what_was_written(store: Store) -> None:
    """Records come back in key order with their revisions."""
    with _closing(store):
        first = store.commit([Put("t/b", "1"), Put("t/a", "2")])
        second = store.commit([Put("t/b", "3")])
        found = store.read("t/")
        assert [(r.key, r.value) for r in found.records] == [("t/a", "2"), ("t/b", "3")]
        b = found.records[1]
        assert (b.created, b.revision, b.lease) == (first, second, None)
        assert found.revision >= second
        store.commit([Delete("t/a"), Delete("t/none")])
        assert [r.key for r in store.read("t/").records] == ["t/b"]


def revisions_rise(store: Store) -> None:
    """Every commit gets a higher revision, a key created anew too."""
    with _closing(store):
        seen = [store.commit([Put("t/x", str(n))]) for n in range(5)]
        store.commit([Delete("t/x")])
        seen.append(store.commit([Put("t/x", "again")]))
        assert seen == sorted(set(seen))
        assert store.read("t/x").records[0].created == seen[-1]


def expectations_guard_commits(store: Store) -> None:
    """A commit goes through only at the expected revisions; 0 means absent."""
    with _closing(store):
        at = store.commit([Put("t/x", "1")], {"t/x": 0})
        _raises_conflict(store, {"t/x": 0})
        _raises_conflict(store, {"t/x": at + 1})
        _raises_conflict(store, {"t/y": at})
        store.commit([Put("t/x", "2")], {"t/x": at, "t/y": 0})
        assert store.read("t/x").records[0].value == "2"


def a_failed_commit_changes_nothing(store: Store) -> None:
    """All of a commit happens or none of it."""
    with _closing(store):
        store.commit([Put("t/x", "1")])
        before = store.read("t/")
        try:
            store.commit([Put("t/new", "1"), Delete("t/x")], {"t/x": 0})
        except Conflict as error:
            assert error.key == "t/x"  # noqa: PT017 - pytest is not needed here
        else:
            raise AssertionError("the commit went through")
        assert store.read("t/").records == before.records


def prefixes_are_exact(store: Store) -> None:
    """A prefix holds what starts with it, whatever follows."""
    with _closing(store):
        keys = ["t/a", "t/a/b", "t/ab", "t/b", "t/a\U0001f600"]
        store.commit([Put(key, "") for key in keys])
        assert {r.key for r in store.read("t/a").records} == set(keys) - {"t/b"}
        assert {r.key for r in store.read("t/a/").records} == {"t/a/b"}


def a_lease_takes_its_records_along(store: Store) -> None:
    """Revoking a lease removes its records, as events too."""
    with _closing(store):
        lease = store.grant(60, strict=False, owner=None)
        at = store.commit([Put("t/x", "1", lease), Put("t/y", "1", lease)])
        store.commit([Put("t/z", "1")])
        assert store.read("t/x").records[0].lease == lease
        assert lease in {found.id for found in store.leases()}
        assert store.revoke([lease]) == 1
        assert store.revoke([lease]) == 0
        assert [r.key for r in store.read("t/").records] == ["t/z"]
        gone = [e.key for e in store.events("t/", at, 2).events if e.record is None]
        assert sorted(gone) == ["t/x", "t/y"]


def a_dead_lease_is_refused(store: Store) -> None:
    """No record can be tied to a lease that ended."""
    with _closing(store):
        lease = store.grant(60, strict=True, owner=None)
        store.revoke([lease])
        try:
            store.commit([Put("t/x", "1", lease)])
        except LeaseLost as error:
            assert error.lease == lease  # noqa: PT017 - pytest is not needed here
        else:
            raise AssertionError("the commit went through")
        assert store.read("t/").records == ()


def renewing_tells_what_is_gone(store: Store) -> None:
    """The caller learns which of its leases the store does not know."""
    with _closing(store):
        kept = store.grant(60, strict=True, owner=None)
        gone = store.grant(60, strict=False, owner=None)
        store.revoke([gone])
        assert store.renew([kept, gone]) == {gone}
        assert store.renew([]) == frozenset()


def a_record_can_change_its_lease(store: Store) -> None:
    """A record that was written under another lease survives its first one."""
    with _closing(store):
        first = store.grant(60, strict=False, owner=None)
        second = store.grant(60, strict=False, owner=None)
        store.commit([Put("t/x", "1", first)])
        store.commit([Put("t/x", "2", second)])
        store.revoke([first])
        assert [r.value for r in store.read("t/").records] == ["2"]
        store.revoke([second])
        assert store.read("t/").records == ()


def events_resume_without_gap(store: Store) -> None:
    """Reading in pieces gives every event once, in order."""
    with _closing(store):
        since = store.commit([Put("t/0", "")])
        for n in range(1, 30):
            store.commit([Put(f"t/{n}", str(n)), Put(f"u/{n}", "")])
        seen: list[str] = []
        while len(seen) < 29:
            batch = store.events("t/", since, 2)
            assert batch.events, "an event is missing"
            seen += [event.key for event in batch.events]
            since = batch.revision
        assert seen == [f"t/{n}" for n in range(1, 30)]


def looking_without_waiting_skips_nothing(store: Store) -> None:
    """However often a reader looks, each event comes once, in order."""
    with _closing(store):
        since = store.commit([Put("t/0", "")])
        for n in range(1, 6):
            store.commit([Put(f"u/{n}", ""), Put(f"t/{n}", "")])
            seen: list[str] = []
            deadline = time.monotonic() + 20
            while not seen:
                assert time.monotonic() < deadline, f"t/{n} was skipped"
                batch = store.events("t/", since, 0)
                seen, since = [event.key for event in batch.events], batch.revision
            assert seen == [f"t/{n}"]


def events_of_other_prefixes_are_left_out(store: Store) -> None:
    """A watcher sees its own keys, creations told from changes."""
    with _closing(store):
        since = store.commit([Put("t/x", "1")])
        store.commit([Put("u/x", "1")])
        store.commit([Put("t/x", "2")])
        (event,) = store.events("t/", since, 2).events
        assert event.record is not None
        assert event.record.value == "2"
        assert event.record.created == since < event.revision


def a_revision_of_the_future_is_compacted(store: Store) -> None:
    """A store that started anew says so instead of waiting for ever."""
    with _closing(store):
        now = store.commit([Put("t/x", "1")])
        try:
            store.events("t/", now + 1_000_000, 0.2)
        except Compacted as error:
            assert error.since == now + 1_000_000  # noqa: PT017 - pytest is not needed here
        else:
            raise AssertionError("a revision of the future was accepted")


def waiting_ends_with_the_next_event(store: Store) -> None:
    """A waiter wakes up well before its time is over."""
    with _closing(store):
        since = store.commit([Put("t/x", "1")])
        found: list[Batch] = []
        waiter = threading.Thread(
            target=lambda: found.append(store.events("t/", since, 30)), daemon=True
        )
        started = time.monotonic()
        waiter.start()
        time.sleep(0.05)
        at = store.commit([Put("t/x", "2")])
        waiter.join(15)
        assert found, "the waiter slept on"
        assert [event.revision for event in found[0].events] == [at]
        assert time.monotonic() - started < 15


def waiting_ends_at_its_time(store: Store) -> None:
    """A wait without events returns empty, with a revision to go on from."""
    with _closing(store):
        since = store.commit([Put("t/x", "1")])
        started = time.monotonic()
        batch = store.events("t/", since, 0.3)
        assert batch.events == ()
        assert batch.revision >= since
        assert 0.2 < time.monotonic() - started < 10


def odd_keys_and_values_survive(store: Store) -> None:
    """Any text may be stored."""
    with _closing(store):
        odd = "t/\u00fc \u4e2d \U0001f600 'quote\" %2F \\ {}"
        value = '{"a": "\\u0000 \n \u2028"}' + "x" * 70_000
        store.commit([Put(odd, value)])
        (record,) = store.read("t/").records
        assert (record.key, record.value) == (odd, value)


def only_one_of_many_writers_wins(store: Store) -> None:
    """Of concurrent compare-and-sets exactly one goes through."""
    with _closing(store):
        won: list[int] = []

        def write() -> None:
            try:
                won.append(store.commit([Put("t/x", "")], {"t/x": 0}))
            except Conflict:
                pass

        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(won) == 1


def the_calendar_is_utc(store: Store) -> None:
    """The store's calendar reads as seconds since 1970."""
    with _closing(store):
        assert 1_600_000_000 < store.now() < 8_000_000_000


def _raises_conflict(store: Store, expect: dict[str, int]) -> None:
    try:
        store.commit([Put("t/x", "wrong")], expect)
    except Conflict:
        return
    raise AssertionError(f"{expect} was accepted")
