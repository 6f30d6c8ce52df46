"""What holds for any input."""

import io
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maestro_test_result_aggregator import (
    Point,
    _junit,
    _plain,
    judge,
    read_report,
    wilson,
)
from maestro_test_result_aggregator._sharding import shards

SETTINGS = settings(derandomize=True, deadline=None, max_examples=100)


@SETTINGS
@given(
    st.binary(max_size=400),
    st.sampled_from(
        [
            b"",
            b"<testsuite>",
            b"{",
            b"[",
            b"TAP version 14\n",
            b'{"e":"start"}\n',
            b"<TestRun>",
            b'{"Action":"run"}\n',
        ]
    ),
)
def test_no_bytes_make_a_reader_raise_anything_unexpected(data, head):
    """A diagnostic or a ReportError, nothing else."""
    for kind in (
        "junit",
        "nunit",
        "xunit",
        "trx",
        "robot",
        "tap",
        "jsonl",
        "reportlog",
        "gotest",
        "json",
    ):
        list(read_report(io.BytesIO(head + data), format=kind, told=lambda _: None))


@SETTINGS
@given(st.integers(0, 50), st.integers(0, 50))
def test_an_interval_holds_its_rate(failures, passes):
    """Between 0 and 1."""
    made = wilson(failures, failures + passes)
    assert 0 <= made.low <= made.value + 1e-12
    assert made.value <= made.high + 1e-12 <= 1 + 1e-9


@SETTINGS
@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.booleans(),
            st.floats(0, 1),
            st.sampled_from(["", "a", "b"]),
        ),
        max_size=60,
    )
)
def test_a_score_is_a_probability(history):
    """Also of odd histories."""
    made = judge(
        [
            Point(failed=f, recovered=r and not f, outage=w, commit=c)
            for f, r, w, c in history
        ]
    )
    assert 0 <= made.score <= 1


@SETTINGS
@given(
    st.dictionaries(st.text(max_size=5), st.floats(0, 1e6), max_size=40),
    st.integers(1, 9),
)
def test_shards_hold_each_test_once(times, count):
    """And none is empty while there are tests for it."""
    made = shards(times, count)
    assert sorted(t for part in made for t in part) == sorted(times)
    assert sum(not part for part in made) == max(0, count - len(times))


class Dripping(io.BytesIO):
    """A stream that hands out a few bytes at a time."""

    name = "report"

    def __init__(self, data, first, size):
        super().__init__(data)
        self.sizes = itertools.chain([first], itertools.repeat(size))

    def read(self, size=-1):
        return super().read(min(size, next(self.sizes)))


CASE = '<testcase classname="c.d" name="n{}" time="{}"{}>'
PIECES = st.sampled_from([
    CASE.format(1, "0.5", " /"), CASE.format(2, "3", "/"), CASE.format(3, "1.25", "") + "</testcase>",
    CASE.format(4, "1,5", "/"), '<testcase classname="n5" name="n5" time="1"/>', CASE.format("6[0x7f3a12345678]", "1", "/"),
    CASE.format(7, "2", "") + '<failure message="m">at <![CDATA[' + CASE.format(8, "9.5", "/") + "\r\n " + CASE.format(9, "9", " /") + "]]> end</failure></testcase>",
    "<!-- " + CASE.format(10, "7", "/") + "\n" + CASE.format(11, "7", "/") + " -->", "\n", "  \r\n", "&amp;", "text",
    CASE.format(12, "1", "") + "<system-out>" + CASE.format(13, "4", "/") + "</system-out></testcase>",
    '<testsuite name="in" file="f.py">', "</testsuite>", "<properties><property name='a' value='b'/></properties>",
    CASE.format("é", "1", "/"), CASE.format("&lt;", "1", "/"), "<error message='down'>" + CASE.format(14, "1", "/") + "</error>",
    "<broken", "<![CDATA[" + CASE.format(15, "1", "/"), '<testcase name="n16" time="1" classname="c"/>',
])  # fmt: skip


@SETTINGS
@given(
    st.lists(PIECES, max_size=25),
    st.integers(120, 800),
    st.integers(1, 300),
    st.sampled_from(
        ["", 'encoding="utf-8"', 'encoding="iso-8859-1"', 'encoding="cp1252"']
    ),
)
def test_the_short_cut_for_plain_cases_changes_nothing(pieces, first, size, encoding):
    """Every result and every diagnostic is what the parser alone makes of the file."""
    head = f'<?xml version="1.0" {encoding}?>' if encoding else ""
    text = f'{head}<testsuites><testsuite name="s" tests="3">{"".join(pieces)}</testsuite></testsuites>'
    data = text.encode("utf-8" if "utf" in encoding or not encoding else "cp1252")
    made = []
    for cut in (_plain.plain_cases, lambda head: None):
        told = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_junit, "plain_cases", cut)
            stream = Dripping(data, first, size)
            made.append(
                (list(read_report(stream, format="junit", told=told.append)), told)
            )
    assert made[0] == made[1]


def test_the_short_cut_is_taken():
    """Else the test above would compare the parser with itself."""
    case = b'<testcase classname="c" name="a" time="1.5" />'
    cut = _plain.plain_cases(b"<testsuite>" + case)
    made = cut.cut(b"<testsuite>" + case + b"\n" + case + b"</testsuite>")
    assert b"testcase" not in made
    assert made.count(b"plain-") == 1
    assert made.count(b"\n") == 1
    assert cut.take("1") == [("c", "a", "1.5")] * 2
    assert _plain.plain_cases(b'<?xml version="1.0" encoding="utf-16"?>' + case) is None
