"""A real index on a free port."""

from collections.abc import Iterator

import pytest
from maestro_index import control

from .conformance import Server, a_server
from .index_client import Client


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Return a client of an index that this module shares."""
    root = tmp_path_factory.mktemp("index")
    running = control.ensure_running(root, 0)
    yield Client(root, running)
    control.stop(root)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Return the server under conformance test: embedded, or named by its URL."""
    with a_server(tmp_path_factory.mktemp("conformance")) as found:
        yield found
