"""pytest, in a process of its own."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from maestro_test_adapters._arguments import words, wrong
from maestro_test_adapters._runner import (
    Ending,
    Launch,
    RunnerAdapter,
    Selection,
    injected,
    target_python,
)
from maestro_test_adapters.errors import RunnerFailed, RunnerNotInstalled

_USAGE_ERROR, _INTERNAL_ERROR, _INTERRUPTED = 4, 3, 2


class PytestAdapter(RunnerAdapter):
    """Runs pytest 7 or later of any interpreter, and streams what happens.

    The target environment needs pytest alone: a single-file plugin travels along by
    PYTHONPATH.

    Args:
        paths: Files and folders, as on pytest's command line.
        python: The interpreter that has pytest and the tests' dependencies.
        workers: Processes, by pytest-xdist of the target: a number or `auto`.
        args: More of pytest's own arguments.
        settings: See `RunnerAdapter`: cwd, env, timeout, timeout_per_test, retries,
            shard, after_crash.
    """

    name = "pytest"

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]] = (),
        *,
        python: str | os.PathLike[str] | None = None,
        workers: int | str | None = None,
        args: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        where = type(self).__name__
        self.paths = words(where, "paths", paths)
        known = workers in (None, "auto", "logical") or str(workers).isdecimal()
        if not known or isinstance(workers, bool):
            raise wrong(where, "workers", "a whole number or 'auto'", workers)
        self.python = target_python(python)
        self._default_python = python is None
        self.workers = workers
        self.args = words(where, "args", args)

    def launch(self, selection: Selection, folder: Path) -> Launch:
        """Return pytest's command line."""
        argv = [self.python, "-m", "pytest", "-p", "maestro_stream_pytest", *self.args]
        if selection.markers is not None:
            argv += ["-m", selection.markers]
        if selection.collect:
            argv += ["--collect-only", "-q"]
        elif self.workers is not None:
            argv += ["-n", str(self.workers)]
        env = injected(self.environment())
        chosen = {
            key: list(value)
            for key, value in (
                ("only", selection.only),
                ("skip", selection.skip),
                ("first", selection.first),
            )
            if value
        }
        if chosen:
            file = folder / "select.json"
            file.write_text(json.dumps(chosen), encoding="utf-8")
            env["MAESTRO_SELECT"] = str(file)
        argv += self.paths
        return Launch(argv=argv, env=env, streams=True, stacks=True)

    def judge(self, ending: Ending) -> list[str]:
        """Translate pytest's exit codes."""
        self._explain_absence(ending)
        if ending.exit_code == _USAGE_ERROR or not ending.started:
            raise RunnerFailed(
                f"pytest could not start, exit code {ending.exit_code}",
                exit_code=ending.exit_code,
                output=ending.output,
            )
        if ending.exit_code == _INTERNAL_ERROR:
            return [f"pytest had an internal error: {ending.output[-2000:]}"]
        if ending.exit_code == _INTERRUPTED and not ending.results:
            return ["pytest was interrupted"]
        return []

    def _explain_absence(self, ending: Ending) -> None:
        if ending.started:
            return
        if "No module named pytest" in ending.output:
            raise RunnerNotInstalled(
                "pytest", where=self.python, install=self._install("pytest")
            )
        if "unrecognized arguments: -n" in ending.output:
            raise RunnerNotInstalled(
                "pytest-xdist",
                where=self.python,
                install=f"{self.python} -m pip install pytest-xdist",
            )

    def _install(self, package: str) -> str:
        if self._default_python:
            return 'pip install "maestro-test-adapters[pytest]"'
        return f"{self.python} -m pip install {package}"
