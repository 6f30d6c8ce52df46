from .engine import WorkflowEngine, WorkflowError
from .steps import step, workflow
