"""Runs workflows and remembers the results of steps in SQLite."""

import json
import sqlite3
from types import SimpleNamespace

from .steps import running


class WorkflowError(Exception):
    pass


class Journal:
    def __init__(self, path):
        self.db = sqlite3.connect(path, isolation_level=None, timeout=10)
        self.db.execute("CREATE TABLE IF NOT EXISTS run (id PRIMARY KEY, params, state)")
        self.db.execute(
            "CREATE TABLE IF NOT EXISTS done (run, step, result, PRIMARY KEY (run, step))"
        )

    def runs(self, limit=100):
        rows = self.db.execute("SELECT id, params, state FROM run LIMIT ?", (limit,))
        return [SimpleNamespace(id=a, params=json.loads(b), state=c) for a, b, c in rows]

    def close(self):
        self.db.close()


class Run:
    def __init__(self, journal, id):
        self.journal, self.id, self.state, self.error = journal, id, "running", None
        rows = journal.db.execute("SELECT step, result FROM done WHERE run = ?", (id,))
        self.results = {name: json.loads(text) for name, text in rows}

    def execute(self, step, args, kwargs):
        if step.name in self.results:
            return self.results[step.name]
        for attempt in range(1, step.retry + 1):
            try:
                result = step.function(*args, **kwargs)
                break
            except Exception:
                if attempt == step.retry:
                    raise
        self.journal.db.execute(
            "INSERT INTO done VALUES (?, ?, ?)", (self.id, step.name, json.dumps(result))
        )
        self.results[step.name] = result
        return result

    def __getitem__(self, name):
        return self.results[name]

    def check(self):
        if self.error is not None:
            raise WorkflowError(f"run {self.id!r} failed") from self.error
        return self


class WorkflowEngine:
    def __init__(self, executor="threads", *, journal):
        self.journal = Journal(journal)

    def run(self, template, /, *, run_id, **params):
        self.journal.db.execute(
            "INSERT INTO run VALUES (?, ?, 'running')", (run_id, json.dumps(params))
        )
        return self._drive(template, run_id, params)

    def resume(self, run_id, template):
        params = {run.id: run.params for run in self.journal.runs(limit=-1)}[run_id]
        return self._drive(template, run_id, params)

    def _drive(self, template, run_id, params):
        run = Run(self.journal, run_id)
        token = running.set(run)
        try:
            template.function(**params)
            run.state = "succeeded"
        except Exception as error:
            run.state, run.error = "failed", error
        finally:
            running.reset(token)
        self.journal.db.execute("UPDATE run SET state = ? WHERE id = ?", (run.state, run_id))
        return run

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.journal.close()
