"""The package's folder of golden files, and a history to ask."""

from pathlib import Path

import pytest
from maestro_test_result_aggregator import TestResultAggregator

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def golden():
    """Folder of real reports."""
    return GOLDEN


@pytest.fixture
def agg(tmp_path):
    """An aggregator with a history on disk."""
    with TestResultAggregator(tmp_path / "history.db") as made:
        yield made
