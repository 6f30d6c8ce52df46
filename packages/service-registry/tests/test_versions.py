"""Versions and ranges."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from maestro_service_registry import InvalidInput, parse_range, parse_version

ORDERED = "1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 1.0.0-beta.11 1.0.0-rc.1 1.0.0"


def test_the_order_of_the_specification_holds():
    versions = [parse_version(text) for text in ORDERED.split()]
    assert sorted(versions) == versions


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("^1.4", "1.4.0 1.99.3", "1.3.9 2.0.0 2.0.0-rc.1 1.5.0-beta"),
        ("^0.2.3", "0.2.3 0.2.9", "0.2.2 0.3.0"),
        ("^0.0.3", "0.0.3", "0.0.4 0.0.2"),
        ("~1.4.2", "1.4.2 1.4.9", "1.4.1 1.5.0"),
        ("~1", "1.0.0 1.9.0", "2.0.0"),
        (">=1.2 <2", "1.2.0 1.9.9", "1.1.9 2.0.0"),
        (">=1.2, <2", "1.2.0", "2.0.0"),
        ("1.x || 3.*", "1.0.0 3.5.1", "2.0.0 4.0.0"),
        ("1.2 - 1.4.5", "1.2.0 1.4.5", "1.4.6 1.1.0"),
        ("1.2.3", "1.2.3 v1.2.3+build.5", "1.2.4"),
        ("*", "0.0.1 9.9.9", "1.0.0-rc.1"),
        ("", "1.0.0", "1.0.0-rc.1"),
        (">1.2", "1.3.0", "1.2.9 1.2.0"),
        ("<=1.2", "1.2.9 1.0.0", "1.3.0"),
        (">=2.0.0-rc.1", "2.0.0-rc.2 2.0.0 3.1.0", "2.0.0-beta 3.0.0-rc.1"),
    ],
)
def test_ranges_follow_npm(text, inside, outside):
    wanted = parse_range(text)
    for version in inside.split():
        assert version in wanted, version
    for version in outside.split():
        assert version not in wanted, version


@pytest.mark.parametrize(
    "text", ["^", "^^1", "1.2.3.4", ">=", "a", "1 2x", "01.2.3", ">*", "x" * 300, None]
)
def test_what_is_no_range_is_refused(text):
    with pytest.raises(InvalidInput, match="a range such as"):
        parse_range(text)


@pytest.mark.parametrize("text", ["", "1.2.3.4", "1.02.3", "1.0.0-01", "x", None])
def test_what_is_no_version_is_refused(text):
    with pytest.raises(InvalidInput, match="a version such as"):
        parse_version(text)


@given(st.tuples(*[st.integers(0, 30)] * 3), st.tuples(*[st.integers(0, 30)] * 3))
@settings(derandomize=True)
def test_caret_means_not_older_and_the_same_left_most_number(base, other):
    text = ".".join(map(str, base))
    same = next((n for n in range(3) if base[n]), 2)
    expected = other >= base and other[: same + 1] == base[: same + 1]
    assert (".".join(map(str, other)) in parse_range(f"^{text}")) == expected
