"""Results as CTRF, JUnit XML and streams: nothing is lost on the way."""

import json
from xml.etree import ElementTree as ET

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from maestro_test_adapters import Attachment, Attempt, Report, Step, TestResult
from maestro_test_adapters._ctrf import from_ctrf, to_ctrf
from maestro_test_adapters.errors import ReportError

CHECKED = settings(
    deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
OUTCOMES = st.sampled_from(
    [
        "passed",
        "failed",
        "error",
        "crashed",
        "timeout",
        "skipped",
        "xfailed",
        "xpassed",
        "notrun",
    ]
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
MAYBE = st.none() | TEXT
SECONDS = st.floats(0, 1e6)
START = st.none() | st.floats(0, 4e9)
ATTEMPTS = st.lists(
    st.builds(
        Attempt, number=st.integers(1, 9), outcome=OUTCOMES, duration=SECONDS, start=START,
        message=MAYBE, trace=MAYBE, stdout=TEXT, stderr=TEXT,
    ),
    max_size=2,
).map(tuple)  # fmt: skip
RESULTS = st.builds(
    TestResult,
    id=TEXT.filter(bool), name=TEXT, outcome=OUTCOMES, duration=SECONDS, start=START,
    file=MAYBE, line=st.none() | st.integers(1, 10**6), suite=st.lists(TEXT, max_size=3).map(tuple),
    message=MAYBE, trace=MAYBE, stdout=TEXT, stderr=TEXT, log=TEXT,
    tags=st.lists(TEXT, max_size=2).map(tuple),
    parameters=st.dictionaries(TEXT, st.integers() | TEXT, max_size=2),
    attachments=st.lists(st.builds(Attachment, name=TEXT, path=TEXT), max_size=2).map(tuple),
    attempts=ATTEMPTS,
    steps=st.lists(st.builds(Step, name=TEXT, outcome=OUTCOMES, message=MAYBE), max_size=2).map(tuple),
    raw_status=MAYBE, worker=MAYBE, properties=st.dictionaries(TEXT, TEXT, max_size=2),
)  # fmt: skip


@CHECKED
@given(RESULTS)
def test_every_result_survives_ctrf(result):
    assert from_ctrf(json.loads(json.dumps(to_ctrf(result)))) == result


@CHECKED
@given(st.lists(RESULTS, max_size=3, unique_by=lambda one: one.id))
def test_every_report_survives_a_file(tmp_path_factory, results):
    report = Report(
        tool="t", results=tuple(results), started=1.5, finished=2.25, problems=("p",)
    )
    path = report.write(tmp_path_factory.mktemp("r") / "report.json")
    assert Report.read(path) == report


@CHECKED
@given(st.lists(RESULTS, max_size=3))
def test_junit_is_well_formed_whatever_the_texts(tmp_path_factory, results):
    path = Report(tool="t", results=tuple(results)).write(
        tmp_path_factory.mktemp("r") / "r.xml"
    )
    root = ET.parse(path).getroot()
    assert len(root.findall(".//testcase")) == len(results)


def result(**settings):
    return TestResult(**{"id": "a::b", "name": "b", "outcome": "passed", **settings})


def test_only_keys_of_ctrf_are_used():
    full = result(
        outcome="error", duration=0.0004, suite=("a",), stdout="x\ny", log="l"
    )
    told = to_ctrf(full)
    assert told["status"] == "failed"
    assert told["duration"] == 0
    assert told["stdout"] == ["x", "y"]
    assert told["extra"] == {
        "maestro.id": "a::b",
        "maestro.outcome": "error",
        "maestro.seconds": 0.0004,
        "maestro.absent": ["rawStatus"],
        "maestro.log": "l",
    }


def test_ctrf_of_other_tools_is_read():
    read = from_ctrf(
        {"name": "n", "status": "pending", "duration": 1500, "suite": "old"}
    )
    assert (read.outcome, read.duration, read.suite) == ("notrun", 1.5, ("old",))


def test_attempts_in_junit():
    passed = result().after(result(outcome="failed", message="first", trace="t"))
    failed = result(id="c", name="c", outcome="failed").after(result(outcome="failed"))
    report = Report(tool="t", results=(passed, failed))
    from maestro_test_adapters._files import junit_text

    text = junit_text(report)
    assert text.count("<flakyFailure") == 1
    assert text.count("<rerunFailure") == 1
    assert 'message="first"' in text


def test_a_stream_with_a_torn_end_is_read_up_to_there(tmp_path):
    path = Report(tool="t", results=(result(), result(id="c"))).write(
        tmp_path / "s.jsonl"
    )
    text = path.read_text(encoding="utf-8")
    path.write_text(
        text[: text.index('"id": "c"') if '"id": "c"' in text else -90],
        encoding="utf-8",
    )
    read = Report.read(path)
    assert "a::b" in [one.id for one in read]
    assert "torn" in read.warnings[0]


def test_a_bad_line_inside_a_stream_is_refused(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text('{"e":"end"}\n{"e":"finish"}\n', encoding="utf-8")
    with pytest.raises(ReportError, match=r"s\.jsonl:1: not a line of a result stream"):
        Report.read(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [("{", "not JSON"), ("{}", "not a CTRF document"), ("[]", "not a CTRF")],
)
def test_a_bad_document_is_refused(tmp_path, text, why):
    path = tmp_path / "r.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ReportError, match=why):
        Report.read(path)


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected one of \.json, \.jsonl, \.xml"):
        Report(tool="t").write(tmp_path / "r.html")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = Report(tool="old").write(tmp_path / "r.json")
    monkeypatch.setattr(
        "os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space"))
    )
    with pytest.raises(OSError, match="No space"):
        Report(tool="new").write(path)
    assert Report.read(path).tool == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.json"]


def test_a_report_counts_and_finds(tmp_path):
    report = Report(tool="t", results=(result(), result(id="x", outcome="crashed")))
    assert report.counts["passed"] == report.counts["crashed"] == 1
    assert [one.id for one in report.failures] == ["x"]
    assert not report.ok
    with pytest.raises(KeyError):
        report["nothing"]
