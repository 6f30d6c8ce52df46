"""Checks that an adapter of your own keeps the promises of ours.

def test_my_adapter(tmp_path):
check_runner_adapter(lambda: MochaAdapter(cwd=tmp_path))
"""

from collections.abc import Callable

from maestro_test_adapters._ctrf import from_ctrf, to_ctrf
from maestro_test_adapters._events import (
    RunFinished,
    RunStarted,
    TestFinished,
    TestStarted,
)
from maestro_test_adapters._runner import RunnerAdapter
from maestro_test_adapters.errors import Unsupported


def check_runner_adapter(make: Callable[[], RunnerAdapter]) -> None:
    """Assert what must hold for every runner adapter.

    Args:
        make: Returns an adapter over a project of at least two tests that all pass.

    Raises:
        AssertionError: Naming the promise that is broken.
    """
    adapter = make()
    assert adapter.name, "an adapter has a name"
    with adapter.start() as run:
        events = list(run)
    assert events, "a run yields events"
    assert isinstance(events[-1], RunFinished), "the last event is RunFinished"
    report = events[-1].report
    assert report == run.report, "the run's report is that of the last event"
    assert report.ok, f"all tests pass here, but: {report.summary()} {report.problems}"
    assert len(report) >= 2, "the project has at least two tests"
    ids = [result.id for result in report]
    assert len(set(ids)) == len(ids), "ids are unique"
    finished = [event.result.id for event in events if isinstance(event, TestFinished)]
    assert finished == ids, "every result was told once, in order"
    started = [event.id for event in events if isinstance(event, TestStarted)]
    assert set(started) <= set(ids), "what starts also ends"
    for result in report:
        assert result.duration >= 0, "a duration is not negative"
        assert from_ctrf(to_ctrf(result)) == result, "results survive CTRF"
    _check_selection(make, ids)
    _check_cancel(make)


def _check_selection(make: Callable[[], RunnerAdapter], ids: list[str]) -> None:
    try:
        named = [case.id for case in make().discover()]
        assert sorted(named) == sorted(ids), "discover names what run runs"
        chosen = make().run(select=[ids[-1]])
    except Unsupported:
        return
    assert [result.id for result in chosen] == [ids[-1]], "select runs what it names"


def _check_cancel(make: Callable[[], RunnerAdapter]) -> None:
    """A run that is left early ends its process."""
    with make().start() as run:
        for event in run:
            if isinstance(event, RunStarted | TestStarted | TestFinished):
                break
    assert list(run) == [], "a cancelled run yields nothing more"
