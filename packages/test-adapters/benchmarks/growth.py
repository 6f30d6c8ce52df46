"""Results read from reports and streams, and written; run by `make bench`."""

import json
import sys

from maestro_test_adapters import CommandAdapter

SIZES = (3_000, 10_000, 30_000)
SAY = "import sys; sys.stdout.write(open(sys.argv[1], encoding='utf-8').read())"


def junit(count, folder):
    cases = (f'<testcase classname="a" name="t{n}" time="0.1"/>' for n in range(count))
    text = f"<testsuites><testsuite name='s'>{''.join(cases)}</testsuite></testsuites>"
    (folder / "made.xml").write_text(text, encoding="utf-8")
    adapter = CommandAdapter(
        ["cp", "made.xml", "junit.xml"], reads="junit", report="junit.xml", cwd=folder
    )

    def call():
        assert len(adapter.run()) == count

    return call


def go(count, folder):
    lines = (
        json.dumps({"Action": action, "Package": "a", "Test": f"Test{n}"})
        for n in range(count)
        for action in ("run", "pass")
    )
    path = folder / "go.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    adapter = CommandAdapter([sys.executable, "-c", SAY, path], reads="go-json")

    def call():
        assert len(adapter.run()) == count

    return call


def written(count, folder):
    tap = "".join(f"ok {n} - t{n}\n" for n in range(1, count + 1))
    path = folder / "out.tap"
    path.write_text(tap, encoding="utf-8")
    report = CommandAdapter([sys.executable, "-c", SAY, path], reads="tap").run()

    def call():
        report.write(folder / "ctrf.json")
        report.write(folder / "junit.xml")

    return call


CASES = {
    "JUnit results read": (SIZES, junit),
    "results of a stream": (SIZES, go),
    "results written": (SIZES, written),
}
