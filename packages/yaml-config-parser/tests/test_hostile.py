"""Bombs and rubbish: refused at once, with a line, in little memory."""

import subprocess
import sys
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from maestro_yaml_config_parser import (
    ConfigError,
    LimitExceededError,
    TestPlan,
    load,
    loads,
    loads_all,
)

ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 8)}]}}\n" for i in range(1, 9)
)
BOMBS = {
    "aliases": (ALIASES, 7),
    "merge keys": (MERGES, 7),
    "brackets": ("[" * 100_000, 1),
    "braces": ("{" * 100_000, 1),
    "block nesting": ("- " * 100_000, 1),
    "question marks": ("? " * 100_000, 1),
    "nested keys": ("{a: " * 50_000, 1),
    "self-reference": ("a: 1\nx: &x [*x]\n", 2),
    "self-merge": ("a: 1\nx: &x {<<: *x}\n", 2),
    "long number": ("a: 1\nb: " + "9" * 200_000 + "\n", 2),
    "long hex": ("a: 1\nb: 0x" + "f" * 200_000 + "\n", 2),
    "tagged number": ("a: 1\nb: !!int " + "9" * 200_000 + "\n", 2),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_at_once(name):
    """Under 50 ms of processor time, the best of three."""
    text, line = BOMBS[name]
    times = []
    for _ in range(3):
        start = time.process_time()
        with pytest.raises(ConfigError) as caught:
            loads(text)
        times.append(time.process_time() - start)
        assert caught.value.line == line
    assert min(times) < 0.05


def test_a_bomb_of_files_is_refused_at_once(tmp_path):
    """Cycles, escapes and doubling includes; the best of three."""
    (tmp_path / "a.yaml").write_text("x: !include a.yaml\n", encoding="utf-8")
    (tmp_path / "b.yaml").write_text("x: !include ../../etc/passwd\n", encoding="utf-8")
    for i in range(20):
        (tmp_path / f"d{i}.yaml").write_text(
            f"- !include d{i + 1}.yaml\n" * 2, encoding="utf-8"
        )
    (tmp_path / "d20.yaml").write_text("1\n", encoding="utf-8")
    for name, allowed in (("a.yaml", 0.05), ("b.yaml", 0.05), ("d0.yaml", 0.5)):
        times = []
        for _ in range(3):
            start = time.process_time()
            with pytest.raises(ConfigError) as caught:
                load(tmp_path / name)
            times.append(time.process_time() - start)
            assert caught.value.line >= 1
        assert min(times) < allowed


def test_bombs_stay_small():
    """All of them in one process, within 64 MB more than the import needs."""
    code = (
        "import resource\n"
        "from maestro_yaml_config_parser import ConfigError, loads\n"
        "loads('a: 1')\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"for text in {[ALIASES, MERGES]!r} + ['[' * 100_000, 'a: ' + '9' * 200_000]:\n"
        "    try:\n        loads(text)\n        raise SystemExit('accepted')\n"
        "    except ConfigError:\n        pass\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True, text=True, encoding="utf-8", check=True,
    )  # fmt: skip
    assert int(done.stdout) < 64_000


def test_depth_counts_over_includes(tmp_path):
    """Nesting cannot be split over files."""
    (tmp_path / "a.yaml").write_text(
        "[" * 60 + "!include b.yaml" + "]" * 60, encoding="utf-8"
    )
    (tmp_path / "b.yaml").write_text("[" * 60 + "]" * 60, encoding="utf-8")
    with pytest.raises(LimitExceededError) as caught:
        load(tmp_path / "a.yaml")
    assert caught.value.limit == "depth"
    assert caught.value.file.endswith("b.yaml")


PIECES = st.sampled_from(
    [
        "a", "b", ": ", "- ", "\n", "\n  ", "\n    ", "{", "}", "[", "]", ", ", "&a ", "*a",
        "<<", "!x ", "!!int ", "!!str ", "? ", "| ", ">\n", "'", '"', "#", "---\n", "...\n",
        "%YAML 1.2\n", "\t", "0x", "1e3", "é", "\U0001f600", "\x85", "\u2028", "no", "~",
        "${{ ", " }}", "${env:A}", "!include x", "!reset", "!append ", "name", "suites",
    ]
)  # fmt: skip


@settings(
    max_examples=400,
    deadline=5_000,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(PIECES, max_size=40).map("".join))
@example("? \n: \n")
@example("!!int ''")
@example("!!int")
@example("!include x")
@example("a: !reset")
@example("<<: [[1]]")
@example("&a a: *a")
def test_any_text_is_read_or_refused(text):
    """Nothing but ConfigError comes out; every place is inside the text."""
    lines = text.splitlines() or [""]
    try:
        documents = loads_all(text)
    except ConfigError as e:
        assert 1 <= e.line <= text.count("\n") + text.count("\r") + 1
        assert len(lines) < 2 or e.column >= 1
        return
    for document in documents:
        list(document.warnings)
        try:
            document.into(TestPlan)
        except ConfigError as e:
            assert e.line >= 1


@settings(max_examples=300, deadline=5_000, derandomize=True)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    """Wrong UTF-8 and control characters included."""
    try:
        loads(data, env={}, values={})
    except ConfigError as e:
        assert str(e)
