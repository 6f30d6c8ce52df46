"""Checked by a type checker, not run: what users write has the types they expect."""

from maestro_workflow_engine import (
    Plan,
    Run,
    Template,
    Workflow,
    WorkflowEngine,
    step,
    workflow,
)


@step(retry=3, timeout="1m", pool="db")
def load(day: str) -> list[int]:
    return [1]


@workflow(pools={"db": 2})
def nightly(day: str = "today") -> None:
    load(day)


template: Template = nightly
built: Workflow = nightly.build(day="x")
plan: Plan = built.plan((1, 2))
with WorkflowEngine("inline") as engine:
    run: Run = engine.run(nightly, day="x").check()
