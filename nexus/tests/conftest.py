"""A real index on a free port."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from maestro_index import control

sys.path.insert(0, str(Path(__file__).parent))
from index_client import Client


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Return a client of an index that this module shares."""
    root = tmp_path_factory.mktemp("index")
    running = control.ensure_running(root, 0)
    yield Client(root, running)
    control.stop(root)
