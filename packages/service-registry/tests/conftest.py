"""Real servers on free ports, and registries that are closed at the end."""

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Importlib mode leaves this folder out of sys.path; the name is this package's own.
sys.path.insert(0, str(Path(__file__).parent))

from maestro_service_registry import ServiceRegistry
from maestro_service_registry._memory import MemoryStore
from maestro_service_registry._sqlite import SqliteStore
from maestro_service_registry.testing import FakeClock
from registry_support import etcd_command, free_port, quick_timing, running, serving


@pytest.fixture(scope="session")
def redis_url(require_program, tmp_path_factory) -> Iterator[str]:
    port, folder = free_port(), tmp_path_factory.mktemp("redis")
    command = [require_program("redis-server"), "--port", str(port), "--save", ""]
    with running(*command, "--dir", str(folder), port=port):
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture(scope="session")
def etcd_url(require_program, tmp_path_factory) -> Iterator[str]:
    port, folder = free_port(), tmp_path_factory.mktemp("etcd")
    command = etcd_command(require_program("etcd"), port, folder)
    with running(*command, port=port):
        yield f"etcd://127.0.0.1:{port}"


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "sqlite"])
def local_store(request, tmp_path, clock):
    """A store on this host with a clock that obeys."""
    if request.param == "memory":
        store = MemoryStore(clock=clock)
    else:
        store = SqliteStore(tmp_path / "registry.db", clock=clock)
    yield store
    store.close()


@pytest.fixture
def registry(tmp_path) -> Iterator[ServiceRegistry]:
    """A registry in a new SQLite file, by real clocks."""
    url = f"sqlite:///{tmp_path}/registry.db"
    with ServiceRegistry.open(url, timing=quick_timing()) as found:
        yield found


@pytest.fixture
def memory() -> Iterator[ServiceRegistry]:
    """A registry in memory, by real clocks."""
    with ServiceRegistry.open(timing=quick_timing(), rng=random.Random(7)) as found:
        yield found


@pytest.fixture(scope="session")
def server_url(tmp_path_factory) -> Iterator[str]:
    """One server for the tests that need nothing of their own."""
    folder = tmp_path_factory.mktemp("server")
    with serving(f"sqlite:///{folder}/registry.db") as (url, _):
        yield url
