"""Runs unittest tests and tells a file what happens, line by line, as it happens."""

import inspect
import io
import os
import sys
import time
import traceback
import unittest

from maestro_stream_base import begin, step

sys.path.insert(0, os.getcwd())


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


class Result(unittest.TestResult):
    """Tells each test when it starts and when it ends."""

    def __init__(self, stream):
        super().__init__()
        self.stream = stream
        self.outcome = None

    def startTest(self, test):  # noqa: N802
        super().startTest(test)
        self.begun, self.at = time.perf_counter(), time.time()
        self.outcome, self.message, self.trace, self.steps = "passed", None, [], []
        self.out, self.err = io.StringIO(), io.StringIO()
        self.real = sys.stdout, sys.stderr
        sys.stdout, sys.stderr = self.out, self.err
        self.stream.start(test.id(), self.at)

    def stopTest(self, test):  # noqa: N802
        sys.stdout, sys.stderr = self.real
        super().stopTest(test)
        self._tell(case_of(test), time.perf_counter() - self.begun, self.at)
        self.outcome = None

    def _tell(self, case, seconds, at):
        self.stream.end(
            case,
            self.outcome,
            seconds,
            at,
            message=self.message,
            trace="\n".join(self.trace),
            stdout=self.out.getvalue(),
            stderr=self.err.getvalue(),
            steps=self.steps,
        )

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

    def addError(self, test, err):  # noqa: N802
        super().addError(test, err)
        self._bad(test, "error", err)

    def addFailure(self, test, err):  # noqa: N802
        super().addFailure(test, err)
        self._bad(test, "failed", err)

    def addSubTest(self, test, subtest, err):  # noqa: N802
        super().addSubTest(test, subtest, err)
        word = "passed"
        if err is not None:
            word = "failed" if issubclass(err[0], test.failureException) else "error"
            self._bad(test, word, err)
        told = None if err is None else last_line(err)
        self.steps.append(step(subtest._subDescription(), word, told))

    def addSkip(self, test, reason):  # noqa: N802
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

    def addExpectedFailure(self, test, err):  # noqa: N802
        super().addExpectedFailure(test, err)
        self.outcome, self.message = "xfailed", last_line(err)

    def addUnexpectedSuccess(self, test):  # noqa: N802
        super().addUnexpectedSuccess(test)
        self.outcome, self.message = "failed", "unexpected success"


def format_error(error):
    return "".join(traceback.format_exception(*error))


def last_line(error):
    return "".join(traceback.format_exception_only(error[0], error[1])).strip()


def main():
    """Discover, choose, run."""
    stream, choice = begin(below=".")
    stream.session("unittest", "%d.%d.%d" % sys.version_info[:3])
    settings = choice.settings
    found = unittest.defaultTestLoader.discover(
        settings["start"], settings["pattern"], settings["top"]
    )
    pairs = choice.apply([(test.id(), test) for test in flat(found)], stream)
    tests = [test for _, test in pairs]
    stream.write("cases", cases=[case_of(test) for test in tests])
    result = Result(stream)
    if not settings["collect"]:
        unittest.TestSuite(tests).run(result)
    code = 0 if result.wasSuccessful() else 1
    stream.finish(code)
    return code


if __name__ == "__main__":
    sys.exit(main())
