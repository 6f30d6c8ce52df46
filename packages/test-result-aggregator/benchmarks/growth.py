"""Results read, stored, judged and shown; run by `make bench`."""

from maestro_test_result_aggregator import TestResultAggregator, read_report
from maestro_test_result_aggregator.testing import result

SIZES = (5_000, 15_000, 50_000)


def junit(count, folder):
    path = folder / "junit.xml"
    cases = (
        f'<testcase classname="a.b{n // 100}" name="t{n}" time="0.01">'
        + ("<failure message='no'>trace</failure>" if n % 30 == 0 else "")
        + "</testcase>"
        for n in range(count)
    )
    text = f"<testsuites><testsuite name='s'>{''.join(cases)}</testsuite></testsuites>"
    path.write_text(text, encoding="utf-8")
    return path


def read(count, folder):
    path = junit(count, folder)

    def call():
        assert sum(1 for _ in read_report(path)) == count

    return call


def made(tests, run):
    return [
        result(f"t::{n}", "failed" if (n * 7 + run) % 90 == 0 else "passed")
        for n in range(tests)
    ]


def filled(path, tests, runs):
    aggregator = TestResultAggregator(path)
    for run in range(runs):
        aggregator.add(made(tests, run), run_id=str(run), started=run * 60.0)
    return aggregator


def store(count, folder):
    results = made(count, 0)

    def call():
        with TestResultAggregator(folder / "h.db") as aggregator:
            aggregator.add(results, run_id="r", started=0.0)

    return call


def flaky_runs(count, folder):
    filled(folder / "h.db", 200, count).close()

    def call():
        with TestResultAggregator(folder / "h.db") as aggregator:
            aggregator.flaky(last=count, classes=None)

    return call


def flaky_tests(count, folder):
    filled(folder / "h.db", count, 20).close()

    def call():
        with TestResultAggregator(folder / "h.db") as aggregator:
            aggregator.flaky(last=20, classes=None)

    return call


def page(count, folder):
    filled(folder / "h.db", count, 20).close()

    def call():
        with TestResultAggregator(folder / "h.db") as aggregator:
            aggregator.report_html(folder / "r.html", last=20)

    return call


CASES = {
    "JUnit cases read": (SIZES, read),
    "results stored": (SIZES, store),
    "flaky statistics, runs": ((50, 150, 500), flaky_runs),
    "flaky statistics, tests": ((1_000, 3_000, 10_000), flaky_tests),
    "page, tests": ((500, 1_500, 5_000), page),
}
