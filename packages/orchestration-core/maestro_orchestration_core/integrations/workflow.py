"""A run as one step of a workflow: extra `workflow`."""

import hashlib
from typing import Any

from maestro_orchestration_core._plan import Plan
from maestro_orchestration_core._run import Orchestrator
from maestro_orchestration_core.errors import OrchestrationError

try:
    from maestro_workflow_engine import Step, StepContext, step
except ImportError as error:
    raise ImportError(
        'workflow steps need pip install "maestro-orchestration-core[workflow]"'
    ) from error


def as_step(
    maestro: Orchestrator, plan: Plan, *, name: str = "agents", **options: Any
) -> Step:
    """Return a workflow step that runs the plan; its result is the report's JSON.

    The run's name is made from the workflow's run and the step, so a workflow that
    is resumed or retries the step goes on with the same run: with a journal, no
    completed call is made again. The step fails unless every task completes.

    Args:
        maestro: Who works; give it a journal.
        plan: What is to be done.
        name: The step's name.
        options: As for `maestro_workflow_engine.step`.
    """

    async def agents(ctx: StepContext) -> dict[str, Any]:
        whole = f"{ctx.run_id}/{ctx.step}"
        digest = hashlib.sha256(whole.encode()).hexdigest()[:16]
        report = await maestro.run(plan, run_id=f"w-{digest}")
        if not report.ok:
            raise OrchestrationError(report.why())
        return report.to_json()

    return step(name=name, **options)(agents)
