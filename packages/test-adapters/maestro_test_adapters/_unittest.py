"""unittest of the standard library, in a process of its own."""

import json
import os
from pathlib import Path
from typing import Any

from maestro_test_adapters._arguments import path as check_path
from maestro_test_adapters._runner import (
    INJECT,
    Launch,
    RunnerAdapter,
    Selection,
    injected,
    refuse,
    target_python,
)


class UnittestAdapter(RunnerAdapter):
    """Runs unittest tests of any interpreter from 3.8, and streams what happens.

    Args:
        start: The folder to discover from, as in `python -m unittest discover -s`.
        pattern: Of the files.
        top: The folder that is importable; the start folder unless given.
        python: The interpreter that has the tests' dependencies.
        settings: See `RunnerAdapter`.
    """

    name = "unittest"

    def __init__(
        self,
        start: str | os.PathLike[str] = ".",
        *,
        pattern: str = "test*.py",
        top: str | os.PathLike[str] | None = None,
        python: str | os.PathLike[str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        check_path(type(self).__name__, "start", start)
        self.start_folder = os.fspath(start)
        self.pattern = pattern
        self.top = os.fspath(top) if top is not None else None
        self.python = target_python(python)

    def launch(self, selection: Selection, folder: Path) -> Launch:
        """Return the command line of our runner for unittest."""
        refuse(selection, adapter=self.name, lacks=["markers"])
        chosen = {
            "start": self.start_folder,
            "pattern": self.pattern,
            "top": self.top,
            "only": None if selection.only is None else list(selection.only),
            "skip": list(selection.skip),
            "first": list(selection.first),
            "collect": selection.collect,
        }
        file = folder / "select.json"
        file.write_text(json.dumps(chosen), encoding="utf-8")
        runner = str(INJECT / "maestro_stream_unittest.py")
        return Launch(
            argv=[self.python, runner],
            env={**injected(self.environment()), "MAESTRO_SELECT": str(file)},
            streams=True,
            stacks=True,
        )
