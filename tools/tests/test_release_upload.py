"""Sending files: with twine, several at once, and what comes back."""

import threading

import pytest
from maestro_release.errors import GateFailed
from maestro_release.plan import PlannedFile, State
from maestro_release.publish import AT_ONCE, run
from maestro_release.upload import Uploader


@pytest.mark.parametrize("name", ["a-1.0-py3-none-any.whl", "a-1.0.tar.gz"])
def test_a_file_that_is_no_archive_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"nothing")
    uploader = Uploader("http://127.0.0.1:9/", "user", "password", timeout=5)
    with pytest.raises(GateFailed, match=name):
        uploader.send(tmp_path / name)


def planned(package, kind):
    return PlannedFile(
        package=package,
        version="1",
        filename=f"{package}-{kind}",
        kind=kind,
        size=1,
        sha256="",
        state=State.NEW,
    )


FILES = [planned(f"p{n}", kind) for n in range(8) for kind in ("wheel", "sdist")]


def test_never_more_at_once_than_the_bound_and_needs_come_first():
    needs = {f"p{n}": [f"p{n - 1}"] for n in range(4, 8)}
    lock, under_way, most, ended, order = threading.Lock(), [], [0], [], []

    def send(file):
        with lock:
            under_way.append(file)
            most[0] = max(most[0], len(under_way))
            order.append((file, list(ended)))
        with lock:
            under_way.remove(file)
            ended.append(file)

    told = []
    run(FILES, needs, send, told.append)
    assert sorted(f.filename for f in told) == sorted(f.filename for f in FILES)
    assert most[0] <= AT_ONCE
    for file, before in order:
        for needed in needs.get(file.package, ()):
            assert {f for f in FILES if f.package == needed} <= set(before)


def test_after_a_failure_nothing_new_begins_and_what_runs_is_waited_for():
    begun, told = [], []
    failing = threading.Event()

    def send(file):
        begun.append(file)
        if file is FILES[1]:
            failing.set()
            raise GateFailed("on purpose")
        assert failing.wait(10)

    with pytest.raises(GateFailed, match="on purpose"):
        run(FILES, {f"p{n}": ["p0"] for n in range(1, 8)}, send, told.append)
    assert set(begun) == set(FILES[:2])
    assert told == [FILES[0]]
