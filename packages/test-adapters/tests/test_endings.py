"""Nothing outlives a script, however it ends: seen from outside, with real scripts."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from maestro_test_adapters import _reaper

ENDS = {
    "forgotten": "",
    "an exception": "raise RuntimeError('mine')",
    "os._exit": "import os; os._exit(0)",
    "SIGTERM": "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
    "SIGKILL": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "dropped": "del b\nfor t in threading.enumerate():\n"
    "    t.name == 'maestro-close' and t.join()\nprint(flush=True); input()",
    "a fork": "import os; pid = os.fork()\nif not pid: raise SystemExit\n"
    "os.waitpid(pid, 0); assert b.title == 'hi'",
}
ALWAYS = {"forgotten", "SIGTERM", "SIGKILL", "dropped"}  # the others are drills


def marked(mark):
    """The command lines of all processes that have a mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    command = (entry / "cmdline").read_bytes()
                    found.append(command.replace(b"\0", b" ")[:100])
            except OSError:
                continue
    return found


def none_left(look, limit=40.0):
    """What is still seen once nothing was, or once the time is over."""
    until = time.monotonic() + limit
    while (left := look()) and time.monotonic() < until:
        time.sleep(0.05)
    return left


@pytest.mark.parametrize("adapter", ["SeleniumAdapter", "PlaywrightAdapter"])
@pytest.mark.parametrize(
    "end",
    [
        pytest.param(end, marks=[] if end in ALWAYS else [pytest.mark.drill])
        for end in ENDS
    ],
)
def test_a_browser_ends_with_its_script(
    tmp_path_factory, require_program, adapter, end
):
    """Also the profile is gone, and the driver's helpers that live by themselves."""
    require_program("chromium")
    require_program("chromedriver")
    tmp_path = tmp_path_factory.mktemp("e")  # a short name: sockets lie below it
    script = tmp_path / "script.py"
    script.write_text(
        f"import threading\nfrom maestro_test_adapters import {adapter}\n"
        f"b = {adapter}()\nb.open('data:text/html,<title>hi</title>')\n{ENDS[end]}\n",
        encoding="utf-8",
    )
    mark = f"MAESTRO_ENDING_TEST={tmp_path.name}-{os.getpid()}"
    name, _, value = mark.partition("=")
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", script.name],
        cwd=tmp_path,
        env={**os.environ, name: value, "TMPDIR": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        if end == "dropped":
            child.stdout.readline()
            drivers = lambda: [  # noqa: E731
                c for c in marked(mark) if b"chrom" in c or b"node" in c
            ]
            assert none_left(drivers) == []  # while the script still runs
        _, err = child.communicate(b"\n", timeout=60)
    finally:
        child.kill()
        child.wait()
    expected = {
        "an exception": 1, "SIGTERM": -signal.SIGTERM, "SIGKILL": -signal.SIGKILL,
    }  # fmt: skip
    assert child.returncode == expected.get(end, 0), err
    left = lambda: [*marked(mark), *tmp_path.glob("maestro-browser-*")]  # noqa: E731
    assert none_left(left) == []


def test_a_folder_that_is_still_written_to_is_removed_later(tmp_path):
    """A helper of Chromium that lost the mark may write for as long as it ends."""
    folder = tmp_path / "profile"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, _reaper.__file__, "MAESTRO_ENDING_TEST=nobody"],
        stdin=subprocess.PIPE, encoding="utf-8",
    ) as process:  # fmt: skip
        process.stdin.write(f"{folder}\n")
        process.stdin.close()
        until, made = time.monotonic() + 1, 0
        while time.monotonic() < until and folder.exists():
            try:
                (folder / f"{made}").mkdir()
            except FileNotFoundError:
                break
            made += 1
        assert process.wait(60) == 0
    assert not folder.exists()
