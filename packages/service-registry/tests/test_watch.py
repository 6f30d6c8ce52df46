"""Following changes."""

import threading
import time

import pytest
from maestro_service_registry import Added, Changed, Removed, Resync, ServiceRegistry
from maestro_service_registry._memory import MemoryStore
from maestro_service_registry._store import Delete, Put
from registry_support import open_sockets, quick_timing, wait_until


def test_a_watch_tells_added_changed_and_removed(registry):
    with registry.watch("billing") as watch:
        with registry.register("billing", port=1, id="b1") as me:
            me.drain()
        kinds = []
        while len(kinds) < 3:
            kinds += [type(change) for change in watch.poll(5)]
    assert kinds == [Added, Changed, Removed]


def test_a_watch_resumes_from_a_revision_without_gap_or_double(registry):
    with registry.watch("billing") as watch:
        start = watch.revision
    handles = [registry.register("billing", port=1, id=f"b{n}") for n in range(5)]
    seen = []
    with registry.watch("billing", since=start) as watch:
        while len(seen) < 2:
            seen += watch.poll(5)
        middle = seen[1].revision
    with registry.watch("billing", since=middle) as watch:
        rest = []
        while len(rest) < 3:
            rest += watch.poll(5)
    ids = [change.instance.id for change in seen[:2] + rest]
    assert ids == [handle.instance.id for handle in handles]


def test_a_watch_that_fell_behind_gets_one_resync(registry):
    with registry.watch("billing") as watch:
        with registry.register("billing", port=1, id="b1"):
            registry.store.compact()
            (change,) = watch.poll(5)
    assert isinstance(change, Resync)
    assert [instance.id for instance in change.instances] == ["b1"]


def test_a_store_that_started_anew_gives_a_resync(memory):
    with memory.register("billing", port=1, id="b1"):
        with memory.watch("billing", since=10_000) as watch:
            (change,) = watch.poll(1)
    assert isinstance(change, Resync)
    assert change.revision < 10_000


def test_only_the_watchers_of_the_touched_service_see_something(registry):
    with registry.watch("billing") as ours, registry.watch("shop") as theirs:
        with registry.register("billing", port=1):
            assert len(ours.poll(5)) == 1
            assert theirs.poll(0.2) == []


def test_a_listener_may_register_and_watch_and_even_fail(memory):
    seen = []

    def broken(change):
        raise RuntimeError("on purpose")

    def nested(change):
        if isinstance(change, Added) and change.instance.service == "billing":
            memory.on_change(seen.append)
            memory.register("from-callback", port=1, id="c1")

    memory.on_change(broken)
    memory.on_change(nested)
    memory.register("billing", port=1, id="b1")
    wait_until(lambda: any(c.instance.id == "c1" for c in seen))


def test_a_stopped_watch_leaves_no_thread_and_no_file(registry):
    with registry.watch() as watch:
        watch.poll(0.05)
    threads, files = threading.active_count(), open_sockets()
    for _ in range(20):
        with registry.watch() as watch:
            watch.poll(0.01)
    assert threading.active_count() <= threads
    assert open_sockets() <= files + 1


def test_a_slow_reader_delays_no_writer(memory):
    with memory.watch() as watch, memory.register("x", port=1) as me:
        started = time.monotonic()
        for n in range(500):
            me.update(weight=n)
        assert time.monotonic() - started < 20
        assert watch.revision < memory.store.read("i/").revision


def test_a_record_that_cannot_be_read_is_left_out(memory, caplog):
    seen = []
    memory.on_change(seen.append)
    memory.store.commit([Put("i/x/y", "[not an instance]")])
    with memory.register("x", port=1, id="good"):
        wait_until(lambda: seen)
        assert [instance.id for instance in memory.find("x")] == ["good"]
        assert memory.services().keys() == {"x"}
    assert "'i/x/y' cannot be read" in caplog.text


def test_iterating_ends_when_the_registry_is_closed(tmp_path):
    registry = ServiceRegistry.open(f"sqlite:///{tmp_path}/r.db")
    seen = []
    thread = threading.Thread(target=lambda: seen.extend(registry.watch()))
    thread.start()
    wait_until(lambda: len(registry._watches))
    registry.register("billing", port=1, id="b1")
    wait_until(lambda: seen)
    registry.close()
    thread.join(10)
    assert not thread.is_alive()


@pytest.mark.parametrize("left", [0, 1])
def test_a_sudden_loss_of_nearly_all_is_believed_only_twice(left):
    store = MemoryStore()
    with ServiceRegistry(store, timing=quick_timing()) as registry:
        handles = [registry.register("billing", port=1, id=f"b{n}") for n in range(12)]
        feed = registry.service("billing")._feed
        wait_until(lambda: len(feed.services["billing"]) == 12)
        real, looks, asker = store.read, [], threading.get_ident()

        def partial(prefix):
            found = real(prefix)
            if threading.get_ident() != asker:
                return found  # the sweep reads the same records
            looks.append(prefix)
            if len(looks) == 1:
                return type(found)(found.records[:left], found.revision)
            return found

        store.read = partial
        try:
            feed._resync()
        finally:
            store.read = real
        assert looks == ["i/", "i/"]
        assert len(feed.services["billing"]) == 12
        assert len(handles) == 12


def test_a_loss_that_is_said_twice_is_believed():
    store = MemoryStore()
    with ServiceRegistry(store, timing=quick_timing()) as registry:
        for n in range(12):
            registry.register("billing", port=1, id=f"b{n}")
        feed = registry.service("billing")._feed
        wait_until(lambda: len(feed.services["billing"]) == 12)
        store.compact()
        keys = [record.key for record in store.read("i/").records]
        store.commit([Delete(key) for key in keys])
        feed._resync()
        assert feed.services == {}


class SlowEvents:
    """A memory store whose news arrive late."""

    def __init__(self, delay):
        self._store, self._delay = MemoryStore(), delay

    def __getattr__(self, name):
        return getattr(self._store, name)

    def events(self, prefix, since, timeout):
        batch = self._store.events(prefix, since, timeout)
        time.sleep(self._delay)
        return batch


def test_a_view_sees_what_was_written_before_it_was_asked_for():
    """However late the news are, and after a farewell too."""
    with ServiceRegistry(SlowEvents(0.1)) as registry:
        registry.service("billing")
        with registry.register("shop", port=1) as shop:
            assert registry.service("shop").pick().id == shop.instance.id
        assert registry.service("shop").instances == ()
