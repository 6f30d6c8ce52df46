"""Steps planned, run and resumed; run by `make bench`."""

from maestro_workflow_engine import Workflow, WorkflowEngine, step

STEPS = (3_000, 10_000, 30_000)
WIDTH = 100


@step
def noop(*before):
    return None


@step
def last(*before):
    raise ValueError("so that there is something to resume")


def layers(count):
    """Return `count` steps in layers, two needs each, and the last layer."""
    flow, before = Workflow("big"), []
    while len(flow) < count:
        before = [
            flow.add(noop, *((before[i], before[(i + 7) % WIDTH]) if before else ()))
            for i in range(WIDTH)
        ]
    return flow, before


def define(count, _):
    return lambda: layers(count)


def plan(count, _):
    flow, _ = layers(count)
    return lambda: flow.plan(8).makespan(8)


def run(count, _):
    flow, _ = layers(count)

    def call():
        with WorkflowEngine("inline") as engine:
            assert engine.run(flow).state == "succeeded"

    return call


def wide(count, _):
    """One step that `count` others need, and one that needs them all."""
    flow = Workflow("wide")
    root = flow.add(noop)
    flow.add(noop, *[flow.add(noop, root) for _ in range(count)])

    def call():
        with WorkflowEngine("inline") as engine:
            assert engine.run(flow).state == "succeeded"

    return call


def resume(count, folder):
    flow, before = layers(count)
    flow.add(last, *before)
    with WorkflowEngine("inline", journal=folder / "runs.db") as engine:
        engine.run(flow, run_id="r")

    def call():
        with WorkflowEngine("inline", journal=folder / "runs.db") as engine:
            assert engine.resume("r", flow).step("last").attempts == 2

    return call


CASES = {
    "steps defined": (STEPS, define),
    "steps planned": (STEPS, plan),
    "steps run inline": (STEPS, run),
    "steps in one wide fan": (STEPS, wide),
    "finished steps of a resumed run": (STEPS, resume),
}
