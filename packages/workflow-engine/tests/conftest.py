"""Fixtures of the workflow engine's tests."""

import json
import sys
from pathlib import Path

import pytest

# Steps that run in other processes are imported there by name.
sys.path.insert(0, str(Path(__file__).parent))

STG = Path(__file__).resolve().parents[4] / "shared" / "data" / "stg"


@pytest.fixture
def journal_path(tmp_path):
    return tmp_path / "runs.db"


@pytest.fixture(scope="session")
def stg():
    """The Standard Task Graphs: {name: (durations, needs)} and the proven optima."""
    if not STG.is_dir():
        pytest.skip("the Standard Task Graph Set is not at ../shared/data/stg")
    graphs = {}
    for size in (50, 100):
        texts = json.loads((STG / f"graphs-{size}.json").read_text(encoding="utf-8"))
        for name, text in texts.items():
            graphs[f"{size}/{name}"] = parse_stg(text)
    rows = json.loads((STG / "optimum.json").read_text(encoding="utf-8"))
    optima = [(name, m, low) for name, m, low, high, _ in rows if low == high]
    return graphs, optima


def parse_stg(text):
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    durations, needs = [], []
    for fields in lines[1:]:
        if len(fields) >= 3:
            durations.append(float(fields[1]))
            needs.append([int(x) for x in fields[3 : 3 + int(fields[2])]])
    return durations, needs
