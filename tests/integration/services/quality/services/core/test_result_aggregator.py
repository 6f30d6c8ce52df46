"""Count the results of test reports (JUnit XML)."""

import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from types import SimpleNamespace


@dataclass(frozen=True)
class Result:
    name: str
    outcome: str


class Run:
    def __init__(self, results):
        self._results = results
        counts = Counter(result.outcome for result in results)
        self.counts = SimpleNamespace(passed=counts["passed"], failed=counts["failed"])
        self.failed_results = [result for result in results if result.outcome == "failed"]

    def results(self):
        return self._results


class TestResultAggregator:
    __test__ = False

    def ingest(self, path):
        results = []
        for case in ElementTree.parse(path).iter("testcase"):
            tags = {child.tag for child in case}
            outcome = "failed" if tags & {"failure", "error"} else "passed"
            if "skipped" in tags:
                outcome = "skipped"
            results.append(Result(case.get("name"), outcome))
        return Run(results)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass
