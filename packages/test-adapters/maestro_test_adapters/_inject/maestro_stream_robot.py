"""Listener of Robot Framework 4 or later that tells a file what happens."""

import os
import time

from maestro_stream_base import begin, step
from robot import version

_OUTCOME = {"PASS": "passed", "FAIL": "failed", "SKIP": "skipped", "NOT RUN": "notrun"}


class Listener:
    """Chooses the tests as the root suite starts, then tells each start and end."""

    ROBOT_LISTENER_API_VERSION = 3

    def __init__(self):
        self.stream, self.choice = begin(below=".")
        self.stream.session("robot", version.get_version())
        self.begun = None
        self.depth = 0

    def start_suite(self, data, result):
        if data.parent is not None:
            return
        tests = [(_name(test), test) for test in _tests(data)]
        chosen = [test for _, test in self.choice.apply(tests, self.stream)]
        self.stream.write("cases", cases=[_case(test) for test in chosen])
        kept = set() if self.choice.settings["collect"] else set(map(id, chosen))
        self._prune(data, kept)

    def _prune(self, suite, kept):
        """Keep the chosen tests, those first that failed; no empty suite stays."""
        for inner in suite.suites:
            self._prune(inner, kept)
        suite.tests = sorted(
            (test for test in suite.tests if id(test) in kept), key=self._rank
        )
        suite.suites = sorted(
            (inner for inner in suite.suites if inner.tests or inner.suites),
            key=lambda inner: min(map(self._rank, _tests(inner))),
        )
        if not suite.tests and not suite.suites:
            suite.setup = suite.teardown = None

    def _rank(self, test):
        return not self.choice.is_first(_name(test))

    def start_test(self, data, result):
        self.begun, self.at = time.perf_counter(), time.time()
        self.depth, self.steps, self.log = 0, [], []
        self.stream.start(_name(data), self.at)

    def end_test(self, data, result):
        seconds = time.perf_counter() - self.begun
        outcome = _OUTCOME.get(result.status, "failed")
        setup = ("Setup failed:", "Parent suite setup failed:")
        if outcome == "failed" and result.message.startswith(setup):
            outcome = "error"
        self.stream.end(
            dict(_case(data), tags=sorted(map(str, result.tags))),
            outcome,
            seconds,
            self.at,
            raw=result.status,
            message=result.message,
            trace="" if outcome in ("passed", "skipped") else result.message,
            steps=self.steps,
            log="".join(self.log),
        )
        self.begun = None

    def start_keyword(self, data, result):  # from Robot Framework 7
        self.depth += 1

    def end_keyword(self, data, result):
        self.depth -= 1
        if self.begun is not None and self.depth == 0 and result.status != "NOT RUN":
            outcome = _OUTCOME.get(result.status, "failed")
            words = [getattr(data, "name", None) or "", *map(str, _arguments(data))]
            self.steps.append(step("  ".join(words), outcome))

    def log_message(self, message):
        if self.begun is not None and message.level in ("INFO", "WARN", "ERROR"):
            self.log.append("%s %s\n" % (message.level, message.message))

    def close(self):
        self.stream.finish(None)


def _arguments(data):
    return getattr(data, "args", None) or ()


def _name(item):
    return getattr(item, "full_name", None) or item.longname


def _tests(suite):
    found = list(suite.tests)
    for inner in suite.suites:
        found += _tests(inner)
    return found


def _case(test):
    case = {"id": _name(test), "name": test.name, "suite": []}
    suite = test.parent
    while suite is not None:
        case["suite"].insert(0, suite.name)
        suite = suite.parent
    source = getattr(test, "source", None) or test.parent.source
    if source:
        path = os.path.relpath(str(source))
        case["filePath"] = str(source) if path.startswith("..") else path
    if test.lineno:
        case["line"] = test.lineno
    if test.tags:
        case["tags"] = sorted(map(str, test.tags))
    return case
