"""What type checkers must agree on."""

from collections.abc import Iterator
from typing import assert_type

from maestro_test_result_aggregator import (
    FailureCluster,
    Flake,
    Gate,
    GateResult,
    Merged,
    Run,
    TestResult,
    TestResultAggregator,
    merge,
    read_report,
)


def check(agg: TestResultAggregator) -> None:
    """Nothing here runs."""
    assert_type(agg.ingest("out/*.xml"), Run)
    assert_type(agg.run().failures(), list[FailureCluster])
    assert_type(agg.flaky(), list[Flake])
    assert_type(agg.gate({}), Gate)
    assert_type(agg.gate().check(agg.run()), GateResult)
    assert_type(merge(["a.xml"]), Merged)
    assert_type(read_report("a.xml"), Iterator[TestResult])
    assert_type(agg.shards(2), list[list[str]])
