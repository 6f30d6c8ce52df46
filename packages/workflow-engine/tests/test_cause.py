"""Where a step raised: kept up to a bound, from every executor; scripts and guards."""

import concurrent.futures
import os
import subprocess
import sys
import textwrap

import pytest
import wf_steps as w
from maestro_workflow_engine import Workflow, WorkflowEngine
from maestro_workflow_engine._cause import said, traceback_of
from maestro_workflow_engine._status import read_status, why
from maestro_workflow_engine.errors import StepFailedError

EXECUTORS = ("inline", "threads:2", "asyncio", "processes:2")


def outcome(function, *args, executor="threads:2"):
    with Workflow("w") as flow:
        flow.add(function, *args)
    with WorkflowEngine(executor) as engine:
        return next(iter(engine.run(flow).errors.values()))


@pytest.mark.parametrize("executor", EXECUTORS)
def test_every_executor_keeps_where_a_step_raised(executor, journal_path):
    with WorkflowEngine(executor, journal=journal_path) as engine:
        run = engine.run(w.failing, run_id="r")
        status = read_status(engine.journal, "r")
    text = status.steps["fails"].traceback
    assert text.splitlines()[0] == "Traceback (most recent call last):"
    assert "in fails" in text
    assert text.splitlines()[-1] == "ValueError: broken on purpose"
    assert "maestro_workflow_engine" not in text
    assert any("in fails" in line for line in why(status, "fails"))
    assert traceback_of(run.errors["fails"].__cause__) == text


def test_an_executor_of_pythons_own_sends_it_too():
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        error = outcome(deep, 2, "far away", executor=pool)
    assert "in deep" in traceback_of(error.__cause__)


def test_a_retry_keeps_it_and_a_success_forgets_no_history(journal_path):
    with WorkflowEngine("inline", journal=journal_path) as engine:
        engine.run(w.everything, run_id="r").check()
        status = read_status(engine.journal, "r")
    step_ = status.steps["third_time"]
    assert "ValueError: attempt 2" in step_.traceback
    assert [line.split(" ")[0] for line in step_.history].count("retrying") == 2


def deep(depth, text):
    if depth:
        return deep(depth - 1, text)
    raise ValueError(text)


def alternating(depth):
    return other(depth) if depth else deep(0, "x" * 100_000)


def other(depth):
    return alternating(depth - 1)


@pytest.mark.parametrize(
    ("function", "args"),
    [
        (deep, (3, "y" * 1_000_000)),
        (deep, (900, "z")),
        (alternating, (300,)),
        (deep, (0, "\n" * 50_000)),
    ],
)
def test_the_length_is_bounded_and_keeps_both_ends(function, args):
    try:
        function(*args)
    except ValueError as error:
        text = traceback_of(error)
    assert len(text.encode()) <= 3_100
    assert text.startswith("Traceback (most recent call last):")
    assert "ValueError" in text
    assert "raise ValueError(text)" in text


def raise_chain():
    try:
        deep(0, "first")
    except ValueError as error:
        raise KeyError("second") from error


async def aio_exit():
    sys.exit(3)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_an_error_without_a_text_fails_only_its_step(executor):
    error = outcome(w.raise_mute, executor=executor)
    assert isinstance(error, StepFailedError)
    assert "Mute: (its text raised RuntimeError)" in str(error)
    assert "raise_mute" in traceback_of(error.__cause__)
    assert said(ValueError("x")) == "ValueError: x"


@pytest.mark.parametrize("executor", EXECUTORS)
def test_a_step_that_exits_fails_only_itself(executor):
    assert "the step called sys.exit(3)" in str(
        outcome(w.raise_exit, executor=executor)
    )
    assert "the step called sys.exit(3)" in str(outcome(aio_exit, executor="inline"))


@pytest.mark.parametrize("executor", ["threads:2", "asyncio", "processes:2"])
def test_an_interrupt_that_a_step_raises_fails_only_it(executor):
    error = outcome(w.raise_interrupt, executor=executor)
    assert "KeyboardInterrupt" in str(error)


def test_causes_are_kept():
    text = traceback_of(outcome(raise_chain).__cause__)
    assert text.index("ValueError: first") < text.index("KeyError: 'second'")


def test_commands_have_their_output_instead(journal_path):
    with WorkflowEngine("inline", journal=journal_path) as engine:
        flow = Workflow.from_dict(
            {"workflow": "c", "steps": {"a": {"run": ["ls", "/none"]}}}
        )
        engine.run(flow, run_id="r")
        found = read_status(engine.journal, "r").steps["a"]
    assert "No such file" in found.note
    assert found.traceback == ""


def test_half_characters_are_stored_and_read_back(journal_path):
    def path(*args):
        return "a\udc80b"

    def bad(*args):
        raise ValueError("c\udc80d")

    with Workflow("w") as flow:
        flow.add(bad, flow.add(path))
    with WorkflowEngine("inline", journal=journal_path) as engine:
        assert engine.run(flow, run_id="r").state == "failed"
        assert engine.resume("r", flow)["path"] == "a\udc80b"
        note = read_status(engine.journal, "r").steps["bad"]
    assert "ValueError: c\\udc80d" in note.note
    assert "ValueError: c\\udc80d" in note.traceback


SCRIPT = """
from maestro_workflow_engine import Workflow, WorkflowEngine, step
print("body", flush=True)

@step
def double(x):
    return 2 * x

def everything():
    with Workflow("w") as flow:
        double(4)
    with WorkflowEngine("processes:2", journal="runs.db") as engine:
        print(engine.run(flow).check()["double"])
"""


def run_script(tmp_path, end):
    script = tmp_path / "flow.py"
    script.write_text(SCRIPT + textwrap.dedent(end), encoding="utf-8")
    return subprocess.run(
        [sys.executable, script], cwd=tmp_path, check=False, capture_output=True,
        text=True, encoding="utf-8", timeout=60,
    )  # fmt: skip


def test_a_script_without_a_main_guard_is_refused_before_it_runs_again(tmp_path):
    done = run_script(tmp_path, "everything()\n")
    assert done.returncode == 1
    assert done.stdout == "body\n"
    assert "RunError" in done.stderr
    assert "flow.py:14: worker processes import your script again" in done.stderr
    assert "if __name__ == '__main__':" in done.stderr


@pytest.mark.parametrize(
    "end",
    [
        "def main():\n    everything()\nif __name__ == '__main__':\n    main()\n",
        "try:\n    if __name__ == '__main__':\n        everything()\nfinally:\n    pass\n",
        "__name__ == '__main__' and everything()\n",
        "everything() if __name__ == '__main__' else None\n",
    ],
)
def test_a_script_with_a_main_guard_runs(tmp_path, end):
    done = run_script(tmp_path, end)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "8"


def test_a_guard_of_another_kind_is_found_out_by_the_process(tmp_path):
    done = run_script(tmp_path, "if True:\n    everything()\n")
    assert done.returncode == 1
    assert "this process was started to run steps" in done.stderr
    assert "bootstrapping" not in done.stderr


def test_python_without_a_script_needs_no_guard(tmp_path):
    code = (
        "import wf_steps as w\n"
        "from maestro_workflow_engine import WorkflowEngine\n"
        "with WorkflowEngine('processes:1') as engine:\n"
        "    print(engine.run(w.everything).check()['total'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True,
        encoding="utf-8", env=os.environ | {"PYTHONPATH": os.path.dirname(w.__file__)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
