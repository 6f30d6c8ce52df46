"""A job: fetch a letter, have it checked, deliver it."""

import json
import os
import queue
import threading
from pathlib import Path

import src.libraries.audit_logger.core
from src.workflow import (
    WorkflowEngine,  # one run at a time
    step,
    workflow,
)


class Rejected(ValueError):
    """The letter is not fit to be sent."""


def write(path: Path, text: str) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def letter(clients, audit, outbox: Path):
    """Return the workflow of one letter."""

    @step(retry=2)
    def fetch(template, name):
        return clients["template"].render(template, name)

    @step(retry=2)
    def inspect(text):
        return clients["quality"].check(text)

    @step
    def deliver(job, text, verdict):
        if not verdict["ok"]:
            audit.record("letter.reject", resource=("job", job), outcome="denied")
            raise Rejected(f"{job}: {', '.join(verdict['failed'])}")
        write(outbox / f"{job}.txt", text)
        audit.record("letter.deliver", resource=("job", job), data={"words": len(text.split())})
        return job

    @workflow
    def send(job: str = "", template: str = "", name: str = ""):
        text = fetch(template, name)
        verdict = inspect(text)
        deliver(job, text, verdict)

    return send


class Jobs:
    """Accepts jobs durably and works them off, one after another."""

    def __init__(self, folder, clients, audit) -> None:
        self.folder = Path(folder)
        for name in ("jobs", "outbox"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        self.audit = audit
        self.letter = letter(clients, audit, self.folder / "outbox")
        self.queue: queue.Queue = queue.Queue()
        self.states: dict[str, str] = {}
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._work, daemon=True)

    @staticmethod
    def open_audit(path, name):
        return src.libraries.audit_logger.core.AuditLogger(
            path,
            origin="letters.example/audit",
            actor=src.libraries.audit_logger.core.Actor.service(name),
        )

    def start(self) -> None:
        """Take up what was accepted before the last stop, then whatever comes."""
        for path in sorted((self.folder / "jobs").glob("*.json")):
            self._put(json.loads(path.read_text(encoding="utf-8")))
        self.thread.start()

    def accept(self, job: dict) -> None:
        path = self.folder / "jobs" / f"{job['job']}.json"
        if path.exists():
            return  # asked again: the same job
        self.audit.record("job.accept", resource=("job", job["job"]))
        write(path, json.dumps(job))
        self._put(job)

    def _put(self, job: dict) -> None:
        self.states[job["job"]] = "accepted"
        self.queue.put(job)

    def stop(self) -> None:
        self.stopping.set()
        self.queue.put(None)
        self.thread.join(30)

    def _work(self) -> None:
        while (job := self.queue.get()) is not None and not self.stopping.is_set():
            state = self.states[job["job"]] = self.run(job)
            if state == "failed":  # by what is away now; tried again behind the others
                self.stopping.wait(0.2)
                self.queue.put(job)

    def run(self, job: dict) -> str:
        """Run a job, or go on with it; return succeeded, rejected or failed."""
        with WorkflowEngine("threads:2", journal=self.folder / "runs.db") as engine:
            known = {run.id: run.state for run in engine.journal.runs(limit=100_000)}
            if known.get(job["job"]) == "succeeded":
                return "succeeded"
            if job["job"] in known:
                run = engine.resume(job["job"], self.letter)
            else:
                run = engine.run(self.letter, run_id=job["job"], **job)
            try:
                run.check()
            except Exception as error:
                cause = error.__cause__
                return "rejected" if isinstance(cause, ValueError) else "failed"
        return run.state
