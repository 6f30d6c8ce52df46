"""Every format: a golden file with the tool's own count, and its hostile twins."""

import gzip
import io
import json
import time

import pytest
from maestro_test_result_aggregator import (
    Counts,
    ReportError,
    merge,
    read_report,
    sniff,
)

# File -> passed, failed, skipped, pending: what the tool printed when it ran.
# `made.*` is written by hand after the format's documentation; all others are output
# of pytest 9, unittest-xml-reporting, python-subunit, nose2, Robot Framework, behave, node's runner,
# mocha, jest, vitest, cucumber-js and Playwright Test.
GOLDEN = {
    "pytest.junit.xml": (5, 4, 4, 0),
    "pytest-xunit1.junit.xml": (5, 4, 4, 0),
    "pytest-json-report.json": (5, 4, 4, 0),
    "pytest.ctrf.json": (5, 4, 4, 0),
    "pytest.reportlog.jsonl": (5, 4, 4, 0),
    "xmlrunner.junit.xml": (1, 2, 2, 0),
    "nose2.junit.xml": (1, 2, 2, 0),
    "robot.xml": (1, 1, 1, 0),
    "robot-xunit.xml": (1, 1, 1, 0),
    "behave.json": (2, 2, 0, 0),
    "behave.junit.xml": (2, 2, 0, 0),
    "node.tap": (4, 2, 1, 0),
    "node.junit.xml": (3, 2, 2, 0),
    "mocha.json": (2, 2, 2, 0),
    "mocha.tap": (2, 2, 2, 0),
    "mocha-xunit.xml": (2, 2, 2, 0),
    "jest.json": (1, 2, 1, 1),  # and the suite that could not be loaded
    "jest.junit.xml": (2, 1, 1, 0),  # jest-junit has no word for todo
    "vitest.json": (2, 1, 1, 1),
    "vitest.junit.xml": (2, 1, 2, 0),
    "vitest.tap": (3, 1, 1, 0),
    "cucumber.json": (2, 3, 0, 0),
    "cucumber.junit.xml": (2, 3, 0, 0),
    "playwright.json": (2, 2, 2, 0),
    "playwright.junit.xml": (3, 2, 1, 0),
    "made.trx": (1, 1, 1, 0),
    "made.nunit3.xml": (1, 2, 1, 0),
    "made.nunit2.xml": (1, 1, 1, 0),
    "made.xunit2.xml": (1, 1, 1, 0),
    "made.surefire.xml": (2, 2, 0, 0),
    "made.gotest.jsonl": (1, 3, 1, 0),
    "unittest.subunit": (2, 2, 2, 0),  # subunit-stats calls an expected failure passed
}
BOMB = (
    b"""<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>"""
)
FILE = b"""<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>"""


def read(data, name="report"):
    """Results and diagnostics of bytes."""
    told = []
    stream = io.BytesIO(data)
    stream.name = name
    return list(read_report(stream, told=told.append)), told


@pytest.mark.parametrize("name", GOLDEN)
def test_the_counts_are_those_that_the_tool_printed(golden, name):
    """No diagnostics, and nothing that the tool does not count."""
    results, told = read((golden / name).read_bytes(), name)
    counts = Counts.of(results)
    made = (counts.passed, counts.failed, counts.skipped, counts.pending)
    # A parent of subtests is a test of its own to `go test`.
    assert made == ((1, 3, 1, 0) if "gotest" in name else GOLDEN[name])
    assert not [d for d in told if d.level == "error"]
    assert all(r.id and r.message != "" for r in results)


def test_allure_files_are_one_run(golden):
    """One file a result, also in a folder."""
    made = merge(golden / "allure")
    assert (made.counts.passed, made.counts.failed, made.counts.skipped) == (5, 4, 4)
    assert made.diagnostics == ()


@pytest.mark.parametrize("name", GOLDEN)
def test_a_truncated_twin_yields_its_beginning_and_a_diagnostic(golden, name):
    """At several places; never an exception, never silence, never a made-up pass."""
    data = (golden / name).read_bytes()
    whole = {r.id: r.outcome for r in read(data)[0]}
    for share in (0.2, 0.5, 0.8, 0.97):
        cut = data[: int(len(data) * share)]
        results, told = read(cut)
        assert told or len(results) == len(whole), f"silent at {share}"
        for result in results:
            if result.outcome == "passed":
                assert (
                    whole.get(result.id, "passed") != "failed"
                    or "tap" in name
                    or "reportlog" in name
                )


@pytest.mark.parametrize("name", GOLDEN)
def test_a_twin_in_the_wrong_encoding_is_told(golden, name):
    """Latin-1 bytes where UTF-8 is promised."""
    data = (golden / name).read_bytes()
    at = (
        data.find(b"basket")
        if b"basket" in data
        else data.find(b"test_")
        if b"test_" in data
        else data.find(b"Basket")
    )
    results, told = read(data[:at] + b"caf\xe9" + data[at:])
    assert told or results
    if data.lstrip().startswith(b"<"):
        assert "broken XML" in str(told[0])


@pytest.mark.parametrize("name", [n for n in GOLDEN if n.endswith((".xml", ".trx"))])
@pytest.mark.parametrize("attack", [BOMB, FILE])
def test_bombs_and_external_entities_are_refused(golden, name, attack):
    """A DOCTYPE ends the reading before anything is expanded."""
    data = (golden / name).read_bytes()
    body = data[data.index(b"?>") + 2 :] if data.startswith(b"<?xml") else data
    results, told = read(attack + body)
    assert results == []
    assert "DOCTYPE" in str(told[0])


@pytest.mark.parametrize(
    "text", [b"[" * 200_000, b'{"results":' * 50_000, b"<testsuite>" * 5000]
)
def test_deep_nesting_is_refused(text):
    """Without a crash of the interpreter."""
    results, told = read(text)
    assert results == []
    assert told


def test_utf16_reports_are_read():
    """PowerShell writes them."""
    results, told = read(
        '<?xml version="1.0" encoding="utf-16"?><testsuite><testcase name="é" classname="c"/></testsuite>'.encode(
            "utf-16"
        )
    )
    assert [r.name for r in results] == ["é"]
    assert told == []
    results, _ = read(
        '{"e":"end","test":{"name":"é","status":"passed","duration":1}}\n'.encode(
            "utf-16"
        )
    )
    assert [r.name for r in results] == ["é"]


def test_surefire_reruns_become_attempts(golden):
    """In the order in which they ran."""
    by_name = {r.name: r for r in read_report(golden / "made.surefire.xml")}
    always, first = by_name["always"], by_name["first"]
    assert [a.outcome for a in always.attempts] == ["error"]
    assert always.message == "boom again"
    assert "boom\n\tat" in always.attempts[0].trace
    assert first.flaky
    assert first.attempts[0].trace.startswith("at shop")
    assert by_name["twice"].duration == 1500.25


def test_playwright_retries_become_attempts(golden):
    """And a failure that was expected is none."""
    by_name = {r.name: r for r in read_report(golden / "playwright.json")}
    assert by_name["flaky"].flaky
    assert by_name["known"].outcome == "xfailed"
    assert by_name["times out"].outcome == "timeout"
    assert len(by_name["sums"].attempts) == 1


@pytest.mark.parametrize(("times", "total"), [
    (["1,234", "0,5"], 1.734), (["2.5", "1,234"], 1236.5), (["1,234.5", "1"], 1235.5),
])  # fmt: skip
def test_a_comma_is_read_as_the_file_means_it(times, total):
    """German decimals, English thousands."""
    cases = "".join(
        f'<testcase classname="c" name="n{i}" time="{t}"/>' for i, t in enumerate(times)
    )
    results, told = read(f"<testsuite>{cases}</testsuite>".encode())
    assert sum(r.duration for r in results) == pytest.approx(total)
    assert [d.level for d in told] == (["warning"] if times[0] == "1,234" else [])


def test_a_stream_that_stops_names_the_test_in_flight():
    """A crash, not a pass and not nothing."""
    results, _ = read(
        b'{"e":"start","id":"a"}\n{"e":"end","test":{"name":"a","status":"passed","duration":1}}\n{"e":"start","id":"b"}\n'
    )
    assert [(r.id, r.outcome) for r in results] == [("a", "passed"), ("b", "crashed")]
    rows = [
        b'{"pytest_version":"9","$report_type":"SessionStart"}',
        b'{"nodeid":"t.py::a","location":["t.py",1,"a"],"outcome":"passed","when":"setup","duration":0.1,"$report_type":"TestReport"}',
    ]
    results, told = read(b"\n".join(rows))
    assert [(r.id, r.outcome) for r in results] == [("t.py::a", "crashed")]
    assert len(told) == 2


@pytest.mark.parametrize(
    ("text", "hours"), [("T01:00:00", 1), ("T01:00:00Z", 1), ("T01:00:00+09:00", -8)]
)
def test_a_time_without_a_zone_is_utc(text, hours, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        [found], _ = read(
            b'<testsuite><testcase name="a" classname="c" timestamp="1970-01-02%s"/>'
            b"</testsuite>" % text.encode()
        )
    finally:
        monkeypatch.undo()
        time.tzset()
    assert found.start == (24 + hours) * 3600.0


def test_other_dialects_of_junit():
    """ctest, gtest, phpunit, nextest, a suite that failed as a whole."""
    ctest = b'<testsuite name="l" tests="3"><testcase name="a" classname="a" time="1" status="run"/><testcase name="b" classname="b" status="fail"><failure message=""/><system-out>bad</system-out></testcase><testcase name="c" classname="c" status="disabled"><skipped message="SKIP"/></testcase></testsuite>'
    assert [r.outcome for r in read(ctest)[0]] == ["passed", "failed", "skipped"]
    gtest = b'<testsuites name="AllTests"><testsuite name="S"><testcase name="a" status="run" result="completed" time="0.1" timestamp="2026-01-02T03:04:05.678" classname="S" file="s.cc" line="4"/><testcase name="b" status="notrun" result="suppressed" classname="S"/></testsuite></testsuites>'
    a, b = read(gtest)[0]
    assert (a.file, a.line, a.start) == ("s.cc", 4, 1767323045.678)
    assert b.outcome == "notrun"
    php = b'<testsuites><testsuite name="/p/phpunit.xml"><testsuite name="T" file="/p/T.php"><testsuite name="T::a"><testcase name="a with data set #0" class="T" classname="T" file="/p/T.php" line="9" assertions="1" time="0.1"><warning type="W">careful</warning></testcase></testsuite></testsuite></testsuite></testsuites>'
    (case,) = read(php)[0]
    assert (case.outcome, case.suite[-1], case.file) == ("failed", "T::a", "/p/T.php")
    whole = (
        b'<testsuite name="S"><error message="no database">trace</error></testsuite>'
    )
    (case,) = read(whole)[0]
    assert (case.outcome, case.message) == ("error", "no database")
    both = b'<testsuite><testcase name="a" classname="c"><failure message="one"/><error message="teardown"/></testcase></testsuite>'
    (case,) = read(both)[0]
    assert (case.outcome, case.message) == ("failed", "one")
    assert "teardown" in case.trace


def test_a_subunit_stream_among_other_bytes(golden):
    """A program's own output between packets, a broken packet, an end inside a test."""
    data = (golden / "unittest.subunit").read_bytes()
    whole, told = read(data)
    assert told == []
    by_name = {r.name: r for r in whole}
    assert by_name["test_raises"].message == "ValueError: no basket"
    assert by_name["test_fails"].message.startswith("AssertionError: {'total': 3}")
    assert by_name["test_skipped"].message == "no server"
    assert by_name["test_known"].outcome == "xfailed"
    assert all(r.start and 0 < r.duration < 1 for r in whole)

    second = data.index(b"\xb3", 4)
    noisy, told = read(data[:second] + b"warning: hello\n" + data[second:])
    assert noisy == whole
    assert [d.level for d in told] == ["warning"]
    assert "warning: hello" in told[0].message

    wrong = bytearray(data)
    wrong[data.index(b"no basket")] ^= 1
    results, told = read(bytes(wrong))
    assert {r.id for r in whole} - {r.id for r in results} <= {
        by_name["test_raises"].id
    }
    assert "checksum" in str(told[0])

    places = [
        at
        for at in range(len(data))
        if data[at : at + 1] == b"\xb3" and data[at + 1] >> 4 == 2
    ]
    running = next(n for n, at in enumerate(places) if data[at + 2] & 7 == 2)
    cut, told = read(data[: places[running + 1]])
    assert [(r.outcome, r.id) for r in cut] == [("crashed", whole[0].id)]
    assert "ends while" in told[0].message


def test_a_packet_of_impossible_length_is_not_waited_for():
    """Nor one of another version."""
    results, told = read(b"\xb3\x2b\x03\xff\xff\xff\xff" + b"x" * 100)
    assert results == []
    assert "a length of" in str(told[0])
    results, told = read(b"\xb3\x20\x03\x08\0\0\0\0" + b"\xb3\x1b\x03\x08\0\0\0\0")
    assert results == []
    assert "version 1" in " ".join(map(str, told))


def test_an_address_in_an_id_does_not_make_a_new_test():
    """It changes from run to run."""
    results, _ = read(
        b'<testsuite><testcase classname="c" name="t[&lt;A at 0x7f3a12345678&gt;]" time="1"/></testsuite>'
    )
    assert results[0].id == "c::t[<A at 0x?>]"


@pytest.mark.parametrize("suffix", [".json", ".xml", ".jsonl"])
def test_what_is_written_is_read_again(golden, tmp_path, suffix):
    """Ids, outcomes, durations and attempts in every format; CTRF and JSONL keep all."""
    wanted = merge(
        [golden / n for n in GOLDEN if n != "pytest-xunit1.junit.xml"]
        + [golden / "allure"]
    )
    path = wanted.write(tmp_path / f"all{suffix}")
    again = merge(path)
    assert again.diagnostics == ()
    if suffix != ".xml":
        assert again.results == wanted.results
        return
    assert {r.id: r.outcome for r in again} == {r.id: r.outcome for r in wanted}
    assert [r.duration for r in again] == pytest.approx(
        [r.duration for r in wanted], abs=1e-6
    )
    told = {
        "failed": "failed",
        "timeout": "failed",
        "error": "error",
        "crashed": "error",
    }
    tries = {
        r.id: [told[a.outcome] for a in r.attempts if a.outcome in told] for r in wanted
    }
    for result in again:
        assert [a.outcome for a in result.attempts] == tries[result.id]


def test_gzip_and_unknown_formats(tmp_path, golden):
    """Unpacked by content; what is no report says so."""
    path = tmp_path / "report"
    path.write_bytes(gzip.compress((golden / "robot.xml").read_bytes()))
    assert len(list(read_report(path))) == 3
    path.write_bytes(b"hello")
    with pytest.raises(ReportError, match="not a report of a known format"):
        list(read_report(path))
    with pytest.raises(ReportError, match="did you mean 'junit'"):
        list(read_report(path, format="juni"))
    with pytest.raises(ReportError, match="No such file"):
        list(read_report(tmp_path / "none.xml"))


def test_without_a_listener_a_broken_report_raises_after_its_results(tmp_path):
    """So that nobody takes a part for the whole."""
    path = tmp_path / "cut.xml"
    path.write_bytes(b'<testsuite><testcase name="a" classname="c"/><testcase name="b"')
    results = read_report(path)
    assert next(results).id == "c::a"
    with pytest.raises(ReportError, match="broken XML"):
        next(results)


def test_sniffing_names_the_reader(golden):
    """By content alone."""
    wanted = {"made.trx": "trx", "made.nunit2.xml": "nunit", "robot.xml": "robot", "node.tap": "tap",
              "made.gotest.jsonl": "gotest", "unittest.subunit": "subunit", "pytest.reportlog.jsonl": "reportlog", "jest.json": "json",
              "made.xunit2.xml": "xunit", "nose2.junit.xml": "junit"}  # fmt: skip
    assert {n: sniff((golden / n).read_bytes()) for n in wanted} == wanted
    assert sniff(json.dumps({"e": "start"}).encode() + b"\n") == "jsonl"
