"""Test reports of gates to a test result aggregator: extra `results`."""

import tempfile
from pathlib import Path

from maestro_orchestration_core._journal import Journal

try:
    from maestro_test_result_aggregator import Run, TestResultAggregator
except ImportError as error:
    raise ImportError(
        'test results need pip install "maestro-orchestration-core[results]"'
    ) from error


def send_results(
    journal: Journal, run: str, aggregator: TestResultAggregator, *, branch: str = ""
) -> list[Run]:
    """Give every JUnit report of a run's gates to the aggregator, oldest first.

    Each gate that ran is one run there, named `RUN-SEQ` after its event. Sent again,
    nothing changes. Reports that `gc` dropped are left out.
    """
    journal.require(run)
    sent = []
    for event in journal.events(run):
        report = event.data.get("junit")
        if not report or not event.type.startswith("gate."):
            continue
        with tempfile.TemporaryDirectory(prefix="maestro-results-") as folder:
            path = Path(folder) / "report.xml"
            path.write_text(report, encoding="utf-8")
            sent.append(
                aggregator.ingest(
                    path, run_id=f"{run}-{event.seq}", branch=branch,
                    started=event.at_ns / 1e9,
                    environment={"run": run, "task": event.task,
                                 "gate": str(event.data["gate"])},
                )
            )  # fmt: skip
    return sent
