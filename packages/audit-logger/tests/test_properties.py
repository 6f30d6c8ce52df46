"""Properties that must hold for any data, any split into chunks, any damage."""

import json
import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maestro_audit_logger import Actor, AuditLogger, InvalidEvent, verify_log
from maestro_audit_logger._clean import MAX_INT
from maestro_audit_logger._encode import MAX_LINE, Encoder
from maestro_audit_logger._redact import Redactor

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_INT, MAX_INT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=8), JSON, max_size=5)
EXAMPLES = settings(derandomize=True, max_examples=120, deadline=None)


def body_of(encoder, data):
    raw, _ = encoder.body(
        ts=encoder.now(),
        actor_json=encoder.actor(Actor.user("u")),
        action="a.b",
        resource=None,
        outcome="success",
        ctx_json="{}",
        data=data,
        subject="u",
    )
    return raw


@EXAMPLES
@given(OBJECTS)
def test_whatever_json_is_stored_comes_back(data):
    """The same on the first call, by the walk, and on the second, without it."""
    encoder = Encoder(Redactor([]))
    first = body_of(encoder, data)
    second = body_of(encoder, data)
    assert first.partition(b'"data":')[2] == second.partition(b'"data":')[2]
    assert json.loads(b"{" + second)["data"] == data
    assert second.isascii()
    assert b"\n" not in second
    assert len(second) < MAX_LINE


@EXAMPLES
@given(
    OBJECTS,
    st.lists(st.text(max_size=3), max_size=3),
    st.sampled_from([math.nan, math.inf, 2**63, b"x", object(), {1: 2}]),
)
def test_what_cannot_be_stored_is_refused_wherever_it_is(data, path, bad):
    """Also by an encoder that has seen all the names before."""
    encoder = Encoder(Redactor([]))
    wrong = bad
    for name in reversed(path):
        wrong = {name: wrong}
    everything = {**data, "bad": wrong}
    body_of(encoder, {**data, **dict.fromkeys([*path, "bad"], 1)})
    for _ in range(2):
        with pytest.raises(InvalidEvent) as caught:
            body_of(encoder, everything)
        assert caught.value.where.startswith("$.data.bad")


@EXAMPLES
@given(OBJECTS, st.lists(st.text(max_size=3), max_size=4))
def test_a_hidden_name_is_hidden_at_any_depth(data, path):
    """In whatever it is wrapped, and however often it was seen before."""
    encoder = Encoder(Redactor(["*token*"]))
    wrapped = {"API-Token": "hunter2", **data}
    for name in path:
        wrapped = {name: [wrapped]}
    for _ in range(2):
        assert b"hunter2" not in body_of(encoder, wrapped)


def written(folder, batches):
    with AuditLogger(
        folder, origin="p", actor=Actor.user("u"), durability="os", segment_bytes=3000
    ) as audit:
        for size in batches:
            audit.record_many({"action": "a.b", "data": {"n": n}} for n in range(size))
        return audit.checkpoint()


@settings(derandomize=True, max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=5))
def test_any_sequence_of_batches_makes_a_sound_log(batches):
    """Any sizes, over any number of segments."""
    with tempfile.TemporaryDirectory() as name:
        anchor = written(Path(name) / "log", batches)
        report = verify_log(Path(name) / "log", anchor=anchor, full=True)
        assert report.ok, report.explain()
        assert report.uncovered == 0


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A log of several segments, its anchor and the bytes of each segment."""
    folder = tmp_path_factory.mktemp("sound") / "log"
    anchor = written(folder, [30, 1, 9])
    return folder, anchor, {p: p.read_bytes() for p in sorted(folder.glob("0*.jsonl"))}


@EXAMPLES
@given(st.data())
def test_no_changed_byte_goes_unnoticed(sound, data):
    """Any byte of any segment, to any other value; then cut anywhere."""
    folder, anchor, segments = sound
    path = data.draw(st.sampled_from(sorted(segments)))
    whole = segments[path]
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.integers(1, 255)) ^ whole[at]
    try:
        path.write_bytes(whole[:at] + bytes([byte]) + whole[at + 1 :])
        assert verify_log(folder).status == "tampered"
        path.write_bytes(whole[:at])
        assert verify_log(folder, anchor=anchor).status == "tampered"
    finally:
        path.write_bytes(whole)
    assert verify_log(folder).ok
