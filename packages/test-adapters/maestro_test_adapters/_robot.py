"""Robot Framework and behave, each in a process of its own."""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from maestro_test_adapters._arguments import words
from maestro_test_adapters._runner import (
    INJECT,
    Ending,
    Launch,
    RunnerAdapter,
    Selection,
    injected,
    target_python,
)
from maestro_test_adapters.errors import RunnerFailed, RunnerNotInstalled


class _Streaming(RunnerAdapter):
    """What the adapters of this module share."""

    module = ""
    package = ""

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]] = (),
        *,
        python: str | os.PathLike[str] | None = None,
        args: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.paths = words(type(self).__name__, "paths", paths)
        self.python = target_python(python)
        self.args = words(type(self).__name__, "args", args)

    def launch(self, selection: Selection, folder: Path) -> Launch:
        """Return the runner's command line."""
        chosen = {
            "only": None if selection.only is None else list(selection.only),
            "skip": list(selection.skip),
            "first": list(selection.first),
            "collect": selection.collect,
        }
        file = folder / "select.json"
        file.write_text(json.dumps(chosen), encoding="utf-8")
        return Launch(
            argv=[
                self.python,
                *self._words(selection, folder),
                *self.args,
                *self.paths,
            ],
            env={**injected(self.environment()), "MAESTRO_SELECT": str(file)},
            streams=True,
            stacks=True,
        )

    def _words(self, selection: Selection, folder: Path) -> list[str]:
        raise NotImplementedError

    def judge(self, ending: Ending) -> list[str]:
        """Tell a missing runner and a wrong command line from failed tests."""
        missing = (f"No module named {self.module}", f"No module named '{self.module}'")
        if not ending.started and any(words in ending.output for words in missing):
            raise RunnerNotInstalled(
                self.package,
                where=self.python,
                install=f"{self.python} -m pip install {self.package}",
            )
        code = ending.exit_code
        if not ending.started or (code and not ending.results and not ending.complete):
            raise RunnerFailed(
                f"{self.name} could not start, exit code {code}",
                exit_code=code,
                output=ending.output,
            )
        return []


class RobotAdapter(_Streaming):
    """Runs Robot Framework 4 or later of any interpreter, and streams what happens.

    Ids are full names, such as `Shop.Orders.Pays By Card`; `select=` takes suites too,
    `markers=` is what `--include` takes. Robot's own output files are not written
    unless `args` asks for them.

    Args:
        paths: Files and folders; the working folder unless given.
        python: The interpreter that has Robot Framework and the libraries.
        args: More of Robot's own arguments.
        settings: See `RunnerAdapter`.
    """

    name = "robot"
    module = "robot"
    package = "robotframework"

    def __init__(
        self, paths: Iterable[str | os.PathLike[str]] = (".",), **settings: Any
    ) -> None:
        super().__init__(paths, **settings)

    def _words(self, selection: Selection, folder: Path) -> list[str]:
        words = ["-m", "robot", "--listener", "maestro_stream_robot.Listener"]
        words += ["--output", "NONE", "--log", "NONE", "--report", "NONE"]
        words += ["--outputdir", str(folder), "--runemptysuite", "--console", "quiet"]
        if selection.markers is not None:
            words += ["--include", selection.markers]
        return words


class BehaveAdapter(_Streaming):
    """Runs behave 1.2.6 or later of any interpreter, and streams what happens.

    Ids are `file:line` of a scenario; `select=` takes files and folders too,
    `markers=` is what `--tags` takes.

    Args:
        paths: Features and folders; behave's own default unless given.
        python: The interpreter that has behave.
        args: More of behave's own arguments.
        settings: See `RunnerAdapter`.
    """

    name = "behave"
    module = "behave"
    package = "behave"

    def _words(self, selection: Selection, folder: Path) -> list[str]:
        del folder
        words = [str(INJECT / "maestro_stream_behave.py")]
        if selection.markers is not None:
            words += ["--tags", selection.markers]
        return words
