"""Runs unittest tests and tells a file what happens, line by line, as it happens.

A single file for Python 3.8 or later. The settings come in the JSON file that
MAESTRO_SELECT names; the events go to the file that MAESTRO_STREAM names.
"""

import inspect
import io
import json
import os
import sys
import time
import traceback
import unittest

sys.path[0] = os.getcwd()


class Stream:
    """The file, opened for appending: one write a line."""

    def __init__(self, path):
        self.file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def write(self, event):
        line = json.dumps(event, separators=(",", ":")) + "\n"
        try:
            os.write(self.file, line.encode("utf-8", "backslashreplace"))
        except OSError:
            pass  # a full disk must not fail the tests; the adapter misses the line


def flat(suite):
    """Yield the tests of a suite."""
    for item in suite:
        if isinstance(item, unittest.TestSuite):
            for test in flat(item):
                yield test
        else:
            yield item


def case_of(test):
    """Describe a test as CTRF does."""
    identity = test.id()
    case = {"id": identity, "name": identity.rpartition(".")[2]}
    suite = identity.split(".")[:-1]
    if suite:
        case["suite"] = suite
    try:
        method = getattr(test, test._testMethodName)
        method = inspect.unwrap(getattr(method, "__func__", method))
        path = os.path.relpath(inspect.getsourcefile(method))
        case["filePath"] = path
        case["line"] = method.__code__.co_firstlineno
    except (AttributeError, TypeError, OSError, ValueError):
        pass  # a test that is no function of a file
    return case


STATUS = {
    "passed": "passed",
    "failed": "failed",
    "error": "failed",
    "skipped": "skipped",
    "xfailed": "skipped",
    "xpassed": "passed",
}


class Result(unittest.TestResult):
    """Tells each test when it starts and when it ends."""

    def __init__(self, stream):
        super().__init__()
        self.stream = stream
        self.outcome = None

    def startTest(self, test):
        super().startTest(test)
        self.begun, self.at = time.perf_counter(), time.time()
        self.outcome, self.message, self.trace, self.steps = "passed", None, [], []
        self.out, self.err = io.StringIO(), io.StringIO()
        self.real = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = self.out, self.err
        self.stream.write({"e": "start", "id": test.id(), "at": self.at})

    def stopTest(self, test):
        sys.stdout, sys.stderr = self.real
        super().stopTest(test)
        self._tell(case_of(test), time.perf_counter() - self.begun, self.at)
        self.outcome = None

    def _tell(self, case, seconds, at):
        told = dict(case)
        extra = {
            "maestro.id": told.pop("id"),
            "maestro.outcome": self.outcome,
            "maestro.seconds": seconds,
            "maestro.start": at,
        }
        told.update(
            status=STATUS[self.outcome],
            rawStatus=self.outcome,
            duration=int(round(seconds * 1000)),
            start=int(at * 1000),
            extra=extra,
        )
        if self.message:
            told["message"] = self.message
        if self.trace:
            told["trace"] = "\n".join(self.trace)
        for key, text in (("stdout", self.out), ("stderr", self.err)):
            if text.getvalue():
                told[key] = text.getvalue().split("\n")
        if self.steps:
            told["steps"] = self.steps
        self.stream.write({"e": "end", "test": told})

    def _bad(self, test, outcome, error):
        if self.outcome is None:  # setUpClass, setUpModule, an import
            self.outcome, self.steps = outcome, []
            self.out, self.err = io.StringIO(), io.StringIO()
            self.message, self.trace = last_line(error), [format_error(error)]
            self._tell({"id": test.id(), "name": test.id()}, 0.0, time.time())
            self.outcome = None
            return
        if self.outcome in ("passed", "skipped"):
            self.outcome, self.message = outcome, last_line(error)
        self.trace.append(format_error(error))

    def addError(self, test, err):
        super().addError(test, err)
        self._bad(test, "error", err)

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._bad(test, "failed", err)

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        word = "passed"
        if err is not None:
            word = "failed" if issubclass(err[0], test.failureException) else "error"
            self._bad(test, word, err)
        step = {
            "name": subtest._subDescription(),
            "status": STATUS[word],
            "extra": {"maestro.outcome": word},
        }
        if err is not None:
            step["extra"]["maestro.message"] = last_line(err)
        self.steps.append(step)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        if self.outcome is None:  # a whole class is skipped: its tests never start
            self.outcome, self.message, self.trace, self.steps = (
                "skipped",
                reason,
                [],
                [],
            )
            self.out, self.err = io.StringIO(), io.StringIO()
            self._tell({"id": test.id(), "name": test.id()}, 0.0, time.time())
            self.outcome = None
            return
        self.outcome, self.message = "skipped", reason

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self.outcome, self.message = "xfailed", last_line(err)

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self.outcome, self.message = "failed", "unexpected success"


def format_error(error):
    return "".join(traceback.format_exception(*error))


def last_line(error):
    return "".join(traceback.format_exception_only(error[0], error[1])).strip()


def wanted(identity, names):
    return any(identity == n or identity.startswith(n + ".") for n in names)


def choose(tests, settings, stream):
    """Apply the selection to the discovered tests."""
    only, skip = settings["only"], set(settings["skip"])
    if only is not None:
        ids = [test.id() for test in tests]
        missing = [name for name in only if not any(wanted(i, [name]) for i in ids)]
        if missing:
            stream.write({"e": "missing", "ids": missing, "known": ids})
        tests = [test for test in tests if wanted(test.id(), only)]
    tests = [test for test in tests if test.id() not in skip]
    first = settings["first"]
    if first:
        tests.sort(key=lambda test: not wanted(test.id(), first))
    return tests


def main():
    """Discover, choose, run."""
    with open(os.environ.pop("MAESTRO_SELECT"), encoding="utf-8") as file:
        settings = json.load(file)
    stream = Stream(os.environ.pop("MAESTRO_STREAM"))
    stacks = os.environ.pop("MAESTRO_STACKS", None)
    if stacks:
        import faulthandler
        import signal

        kept = open(stacks, "a", encoding="utf-8")
        faulthandler.register(signal.SIGUSR2, file=kept, all_threads=True)
    stream.write(
        {
            "e": "session",
            "tool": "unittest",
            "version": "%d.%d.%d" % sys.version_info[:3],
            "python": "%d.%d.%d" % sys.version_info[:3],
            "at": time.time(),
            "root": os.getcwd(),
        }
    )
    found = unittest.defaultTestLoader.discover(
        settings["start"], settings["pattern"], settings["top"]
    )
    tests = choose(list(flat(found)), settings, stream)
    stream.write({"e": "cases", "cases": [case_of(test) for test in tests]})
    result = Result(stream)
    if not settings["collect"]:
        unittest.TestSuite(tests).run(result)
    code = 0 if result.wasSuccessful() else 1
    stream.write({"e": "finish", "exit": code, "at": time.time(), "counts": {}})
    return code


if __name__ == "__main__":
    sys.exit(main())
