"""The automation flow: a job that fails is mended and tried again.

jobs -> (fails) -> errors -> a healer proposes a fix -> healing -> the fix is
applied to the payload -> validation -> valid: back to jobs, not valid: given up.

Four workers, one a stream, in as many processes as you like. You give three
functions; the flow moves the jobs. A job is given up after `max_rounds` fixes.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from maestro_workflow_engine._arguments import whole, wrong
from maestro_workflow_engine.streams._queue import Queue
from maestro_workflow_engine.streams._redis import check_url
from maestro_workflow_engine.streams._topology import AUTOMATION, Topology
from maestro_workflow_engine.streams._worker import Job, Worker
from maestro_workflow_engine.streams.errors import Reject, StreamsError


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What travels through the four streams."""

    name: str
    data: dict[str, Any]
    error: str = ""
    fix: dict[str, Any] = field(default_factory=dict)
    rounds: int = 0  # fixes so far


class AutomationFlow:
    """The four workers of the automation streams.

    Args:
        url: `redis://host:port/db`.
        run: does a task; raises when it cannot.
        propose: given a task with its `error`, returns changes to its data, or
            None when there is no fix.
        validate: given a task with the fix applied, returns whether it may run.
        max_rounds: fixes before a task is given up.
        topology: streams named jobs, errors, healing and validation.
    """

    def __init__(
        self,
        url: str,
        *,
        run: Callable[[Task], object],
        propose: Callable[[Task], dict[str, Any] | None],
        validate: Callable[[Task], bool],
        max_rounds: int = 3,
        topology: Topology = AUTOMATION,
    ) -> None:
        """Nothing is connected before the first use."""
        check_url("AutomationFlow", url)
        whole("AutomationFlow", "max_rounds", max_rounds)
        for name, function in (
            ("run", run),
            ("propose", propose),
            ("validate", validate),
        ):
            if not callable(function):
                raise wrong("AutomationFlow", name, "a function", function)
        self._url = url
        self._topology = topology
        self._run, self._propose, self._validate = run, propose, validate
        self._max_rounds = max_rounds
        self._queues = {
            name: Queue(url, topology[name])
            for name in ("jobs", "errors", "healing", "validation")
        }

    def submit(self, name: str, data: dict[str, Any], *, key: str | None = None) -> str:
        """Put a task and return the id of its job."""
        return self._queues["jobs"].put("task", Task(name=name, data=data), key=key)

    def worker(self, role: str, **options: Any) -> Worker:
        """Return the worker of a stream: jobs, errors, healing or validation.

        Args:
            role: which stream.
            options: as for `Worker`.
        """
        steps = {
            "jobs": self._do,
            "errors": self._heal,
            "healing": self._apply,
            "validation": self._check,
        }
        if role not in steps:
            raise StreamsError(f"no role {role!r}; there are {', '.join(steps)}")
        worker = Worker(self._url, self._topology[role], **options)
        worker.handler("task", Task)(steps[role])
        return worker

    def close(self) -> None:
        """Close the producers' connections."""
        for queue in self._queues.values():
            queue.close()

    def _do(self, job: Job, task: Task) -> None:
        try:
            self._run(task)
        except Exception as error:  # any failure of a task is the healer's business
            if task.rounds >= self._max_rounds:
                raise Reject(f"not mended by {task.rounds} fixes: {error}") from error
            failed = {"error": f"{type(error).__name__}: {error}"}
            self._pass_on("errors", job, task, **failed)

    def _heal(self, job: Job, task: Task) -> None:
        fix = self._propose(task)
        if fix is None:
            raise Reject(f"no fix for: {task.error}")
        self._pass_on("healing", job, task, fix=fix)

    def _apply(self, job: Job, task: Task) -> None:
        data = task.data | task.fix
        self._pass_on("validation", job, task, data=data, rounds=task.rounds + 1)

    def _check(self, job: Job, task: Task) -> None:
        if not self._validate(task):
            raise Reject(f"the fix {task.fix!r} for {task.error!r} is not valid")
        self._pass_on("jobs", job, task, fix={}, error="")

    def _pass_on(self, stream: str, job: Job, task: Task, **changes: Any) -> None:
        # The key makes a second delivery of the same job harmless: the next
        # stream takes it once.
        after = Task(**(asdict(task) | changes))
        self._queues[stream].put("task", after, key=f"{job.id}:{stream}")
