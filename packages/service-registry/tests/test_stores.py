"""Every store passes the same suite."""

import pytest
from maestro_service_registry import InvalidInput, open_store
from maestro_service_registry._store import Delete
from maestro_service_registry.testing import store_checks
from registry_support import fresh

CHECKS = pytest.mark.parametrize("check", store_checks(), ids=lambda c: c.__name__)


@CHECKS
def test_memory(check):
    check(open_store("memory://"))


@CHECKS
def test_sqlite(check, tmp_path):
    check(open_store(f"sqlite:///{tmp_path}/some folder/registry.db"))


def test_an_unknown_url_is_refused_with_the_known_ones():
    with pytest.raises(InvalidInput, match="memory://, sqlite:///file.db"):
        open_store("mysql://nowhere")
    with pytest.raises(InvalidInput, match="sqlite:///relative"):
        open_store("sqlite://")


@CHECKS
def test_redis(check, redis_url):
    check(open_store(fresh(redis_url)))


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
