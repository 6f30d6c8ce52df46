"""What holds for any input."""

import io

from hypothesis import given, settings
from hypothesis import strategies as st
from maestro_test_result_aggregator import Point, judge, read_report, wilson
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
