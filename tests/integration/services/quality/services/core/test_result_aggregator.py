"""Count the results of test reports (JUnit XML)."""

import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    name: str
    outcome: str


class Run:
    def __init__(self, results):
        self.results = results
        self.counts = Counter(result.outcome for result in results)

    @property
    def failures(self):
        return [result for result in self.results if result.outcome == "failed"]


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
