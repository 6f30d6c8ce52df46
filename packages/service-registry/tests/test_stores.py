"""Every store passes the same suite."""

from contextlib import closing

import pytest
from maestro_service_registry import InvalidInput, open_store
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


def test_a_commit_larger_than_a_batch_is_told_whole(redis_url):
    with closing(open_store(fresh(redis_url))) as store:
        since = store.commit([Put("t/0", "")])
        at = store.commit([Put(f"t/{n}", "") for n in range(BATCH + 50)])
        batch = store.events("t/", since, 2)
        assert (len(batch.events), batch.revision) == (BATCH + 50, at)


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
