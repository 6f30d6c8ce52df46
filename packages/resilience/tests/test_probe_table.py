"""Our column of the behaviour table, which benchmarks/probe_table.py prints."""

import importlib.util
import inspect
import threading
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "probe_table.py"


@pytest.fixture
def script():
    """Load the script; an unpacked sdist has none."""
    if not SCRIPT.exists():
        pytest.skip("benchmarks/ is not shipped")
    spec = importlib.util.spec_from_file_location("probe_table", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_our_column_has_no_failure(script):
    answers = {title: script.answer(title, script.ours) for title in script.PROBES}
    assert len(answers) == 9
    assert set(answers.values()) == {"ok"}


def test_our_retry_keeps_nothing_alive_and_our_timeout_is_capped(script):
    assert script.kept_alive(script.retry_ours()) == "0 of 2"
    threads, context = script.hung_calls(script.timeout_ours()).split(", ")
    assert 1 <= int(threads.removesuffix(" threads")) <= 16
    assert context == "context kept"


class Careless:
    """A breaker with every mistake that the probes look for but one."""

    def __init__(self, *, stuck: bool) -> None:
        self.failures, self.until, self.probing = 0, 0.0, False
        self.lock, self.stuck = threading.Lock(), stuck

    def enter(self) -> None:
        if self.failures >= 5:
            if time.monotonic() < self.until or self.probing:
                raise RuntimeError("open")
            self.probing = self.stuck  # and never given back

    def failed(self) -> None:
        self.failures += 1
        self.until = time.monotonic() + 0.2

    def __call__(self, fn):
        def guarded(*args):
            with self.lock:
                self.enter()
                try:
                    result = fn(*args)
                except BaseException:
                    self.failed()
                    raise
                self.failures = 0
                return result

        async def guarded_async(*args):
            self.enter()
            try:
                result = await fn(*args)
            except BaseException:
                if not self.stuck:
                    self.failed()
                raise
            self.failures = 0
            return result

        return guarded_async if inspect.iscoroutinefunction(fn) else guarded


@pytest.mark.drill
def test_every_probe_finds_its_mistake(script):
    answers = {
        title: {
            script.answer(title, lambda stuck=stuck: Careless(stuck=stuck))
            for stuck in (False, True)
        }
        for title in script.PROBES
    }
    assert [title for title, found in answers.items() if found == {"ok"}] == []
