"""The moved services under load, while one after another is killed."""

import http.client
import random
import threading
import time
from collections import Counter
from typing import Self

import pytest
from maestro_audit_logger import Query, run_query, verify_log
from maestro_workflow_engine import Journal

from .conftest import MODULES, Platform

pytestmark = pytest.mark.timeout(300)

# The engine's clients make four attempts of at most two seconds, with waits between
# them; the rest is what a busy machine adds.
BOUND_S = 25.0


class Load:
    """Callers that ask for previews all the time and note what becomes of them."""

    def __init__(self, platform: Platform, callers: int) -> None:
        self.platform = platform
        self.counts: Counter[str] = Counter()
        self.longest = 0.0
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self._call) for _ in range(callers)]

    def _call(self) -> None:
        while not self.stopping.is_set():
            begun = time.monotonic()
            what = self._ask()
            with self.lock:
                self.counts[what] += 1
                self.longest = max(self.longest, time.monotonic() - begun)
            time.sleep(0.02)

    def _ask(self) -> str:
        path = "/preview?template=greeting&name=Ada"
        try:
            code, answer = self.platform.ask("engine", path, timeout=BOUND_S)
        except TimeoutError:
            return "hung"
        except (OSError, http.client.HTTPException) as error:
            # urllib wraps what happens before the answer in an error of its own.
            hung = isinstance(getattr(error, "reason", None), TimeoutError)
            return "hung" if hung else "no connection"
        if code == 200:
            return "ok" if answer["text"].startswith("Dear Ada, ") else "wrong"
        return "unavailable" if code == 503 else f"code {code}"

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(BOUND_S + 10)
        assert not any(thread.is_alive() for thread in self.threads)


def submit(platform: Platform, job: str) -> None:
    """Hand over a job, again and again until the engine has it."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            platform.submit(job)
        except (OSError, http.client.HTTPException):
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"the engine did not take {job} in 60 s")


def batter(platform: Platform, *, kills: list[str], pause: float, jobs: int) -> Load:
    """Kill the named services one after another under load; wait for the jobs."""
    with Load(platform, callers=3) as load:
        for number in range(jobs):
            submit(platform, f"j-{number}")
        for name in kills:
            time.sleep(pause)  # the load goes on
            platform.kill(name)
            time.sleep(pause / 2)
            platform.start(name)
        done = load.counts["ok"]
        for number in range(jobs):
            platform.wait_for(f"j-{number}")
        end = time.monotonic() + BOUND_S
        while load.counts["ok"] <= done and time.monotonic() < end:
            time.sleep(0.05)
        assert load.counts["ok"] > done  # it works again
    return load


def check(platform: Platform, load: Load, jobs: int) -> None:
    """Nothing hung, nothing is lost, and the audit log tells it all."""
    assert set(load.counts) <= {"ok", "unavailable", "no connection"}, load.counts
    assert load.longest < BOUND_S
    names = {f"j-{number}" for number in range(jobs)}
    assert {path.stem for path in platform.outbox.iterdir()} == names
    report = verify_log(platform.audit)
    assert report.ok, report.explain()
    events = list(run_query(platform.audit, Query()))
    delivered = [e.resource.id for e in events if e.action == "letter.deliver"]
    assert set(delivered) == names
    with Journal(platform.journal) as journal:
        assert {run.state for run in journal.runs()} == {"succeeded"}


@pytest.mark.drill
def test_killed_services_come_back_and_nothing_is_lost(platform):
    load = batter(platform, kills=["template", "quality", "engine"], pause=0.6, jobs=2)
    platform.stop()
    check(platform, load, jobs=2)


@pytest.mark.drill
def test_a_minute_of_kills_loses_nothing(platform):
    chance = random.Random(20)
    kills = [chance.choice(sorted(MODULES)) for _ in range(12)]
    load = batter(platform, kills=kills, pause=1.6, jobs=12)
    platform.stop()
    check(platform, load, jobs=12)
    print(f"{dict(load.counts)}, longest {load.longest:.1f} s")


def test_a_killed_engine_goes_on_with_the_run_where_it_was(platform):
    """The letter that was fetched before the kill is not fetched again."""
    platform.kill("quality")  # so that the run is held between two steps
    platform.submit("j-1")
    end = time.monotonic() + 60
    while time.monotonic() < end and "fetch" not in finished(platform):
        time.sleep(0.05)
    platform.kill("engine")
    assert finished(platform) == ["fetch"]
    platform.start("quality")
    platform.start("engine")
    platform.wait_for("j-1")
    steps = finished(platform)
    assert sorted(steps) == ["deliver", "fetch", "inspect"]
    with Journal(platform.journal) as journal:
        assert "resumed" in [event.kind for event in journal.events("j-1")]


def finished(platform: Platform) -> list[str]:
    """Return the steps whose success is in the journal, one for each success."""
    if not platform.journal.exists():
        return []
    with Journal(platform.journal) as journal:
        if not journal.runs():
            return []
        return [e.step for e in journal.events("j-1") if e.kind == "succeeded"]


def test_without_the_others_a_request_fails_cleanly(platform):
    platform.kill("template")
    begun = time.monotonic()
    code, answer = platform.ask("engine", "/preview?template=greeting&name=Ada")
    assert code == 503
    assert "NoInstances" in answer["error"] or "refused" in answer["error"]
    assert time.monotonic() - begun < BOUND_S
