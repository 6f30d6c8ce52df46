"""Every store passes the same suite."""

import contextlib
import os
import resource
from contextlib import closing

import pytest
from maestro_service_registry import InvalidInput, open_store
from maestro_service_registry._doorbell import BellTower
from maestro_service_registry._sqlite import SqliteStore
from maestro_service_registry._store import BATCH, Delete, Put
from maestro_service_registry.testing import store_checks
from registry_support import fresh

CHECKS = pytest.mark.parametrize("check", store_checks(), ids=lambda c: c.__name__)


@CHECKS
def test_memory(check):
    check(open_store("memory://"))


@CHECKS
def test_sqlite(check, tmp_path):
    check(open_store(f"sqlite:///{tmp_path}/some file.db"))


def test_an_unknown_url_is_refused_with_the_known_ones():
    with pytest.raises(InvalidInput, match="memory://, sqlite:///file.db"):
        open_store("mysql://nowhere")


@CHECKS
def test_redis(check, redis_url):
    check(open_store(fresh(redis_url)))


@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
def test_a_commit_larger_than_a_batch_is_told_whole(kind, tmp_path, request):
    url = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/r.db"}.get(kind)
    url = url or fresh(request.getfixturevalue("redis_url"))
    with closing(open_store(url)) as store:
        since = store.commit([Put("t/0", "")])
        at = store.commit([Put(f"t/{n}", "") for n in range(BATCH + 50)])
        batch = store.events("t/", since, 2)
        assert (len(batch.events), batch.revision) == (BATCH + 50, at)


def test_a_long_batch_is_cut_between_two_commits(tmp_path):
    with closing(open_store(f"sqlite:///{tmp_path}/r.db")) as store:
        since = store.read("").revision
        for _ in range(3):
            last = store.commit([Put(f"t/{n}", "") for n in range(BATCH // 2 - 1)])
        first = store.events("t/", since, 0)
        assert (len(first.events), first.revision) == (BATCH - 2, last - 1)
        rest = store.events("t/", first.revision, 0)
        assert (len(rest.events), rest.revision) == (BATCH // 2 - 1, last)


def test_only_commits_without_a_lease_are_synced(tmp_path):
    with closing(SqliteStore(tmp_path / "r.db")) as store:
        lease = store.grant(60, strict=False, owner=None)
        for owner, level in ((lease, 1), (None, 2), (None, 2), (lease, 1), (None, 2)):
            store.commit([Put("t/x", "", owner)])
            assert store._db.execute("PRAGMA synchronous").fetchone() == (level,)


def test_those_who_wait_for_little_are_woken_before_the_caches(tmp_path):
    tower = BellTower(tmp_path / "r.db")
    bells = [tower.borrow(first=first) for first in (False, True, False, True)]
    tower.ring()
    assert [bell.wait(0) for bell in bells] == [True] * 4
    order = [bells[n]._name for n in (1, 3, 0, 2)]
    assert {*tower._names()[:2]} == {*order[:2]}
    assert {*tower._names()[2:]} == {*order[2:]}
    for bell in bells:
        bell.hush()
        assert not bell.wait(0)
        tower.give_back(bell)
    assert tower.borrow(first=True) in (bells[1], bells[3])
    tower.close()
    for bell in bells:
        bell.close()


def test_a_wait_works_with_more_than_1024_open_files(tmp_path):
    """Where select() gives up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1300:
        pytest.skip("this machine allows fewer open files")
    with closing(SqliteStore(tmp_path / "r.db")) as store:
        with contextlib.ExitStack() as stack:
            # Many systems allow 1,024 until one asks for more.
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1300), hard))
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
            for _ in range(1100):
                stack.enter_context(open(os.devnull, "rb"))
            at = store.read("").revision
            assert store.events("t/", at, 0.01).events == ()


def test_every_revision_can_be_resumed_from(redis_url):
    """Those of commits that changed nothing, and that of an empty store."""
    with closing(open_store(fresh(redis_url))) as store:
        empty = store.read("").revision
        idle = store.commit([Delete("t/none")])
        last = store.commit([Put("t/x", "1")])
        for since in (empty, idle):
            (event,) = store.events("", since, 0).events
            assert (event.key, event.revision) == ("t/x", last)


@CHECKS
def test_etcd(check, etcd_url):
    check(open_store(fresh(etcd_url)))


@CHECKS
def test_http(check, server_url):
    store = open_store(server_url)
    old = [record.key for record in store.read("").records]
    if old:
        store.commit([Delete(key) for key in old])
    check(store)
