"""Finding and building the workflow that somebody means."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._template import Template
from ._workflow import Workflow
from .errors import DefinitionError, Problem, RunError, did_you_mean

if TYPE_CHECKING:
    from ._journal import RunInfo


def built_from(workflow: Workflow | Template, params: Mapping[str, Any]) -> Workflow:
    if isinstance(workflow, Template):
        return workflow.build(**params)
    if not isinstance(workflow, Workflow):
        raise TypeError(f"expected a workflow or a template, got {workflow!r}")
    if params:
        raise TypeError(
            f"{workflow!r} is built already; parameters {', '.join(params)} are for a "
            "template"
        )
    return workflow


def rebuilt_from(info: RunInfo, workflow: Workflow | Template | None) -> Workflow:
    if isinstance(workflow, Workflow):
        return workflow
    if workflow is not None:
        return workflow.build(**info.params)
    if info.source is None:
        raise RunError(
            info.id,
            f"run {info.id!r} was started from a workflow that cannot be imported again; "
            "pass it to resume",
        )
    return load_target(info.source, info.params)


def load_target(target: str, params: Mapping[str, Any]) -> Workflow:
    """Build a workflow from `module:name`, `file.py:name`, or the path of a document.

    Raises:
        DefinitionError: there is no such thing.
    """
    found = find_target(target)
    if isinstance(found, Path):
        return Workflow.load(found, params)
    workflow = found.build(**params) if isinstance(found, Template) else found
    workflow.source = target
    return workflow


_MADE = re.compile(
    r"^@(?:\w+\.)*workflow\b.*\n(?:(?!def ).*\n)*?def (\w+)|^(\w+) *= *(?:\w+\.)*Workflow\(",
    re.MULTILINE,
)


def _nameless(path: Path) -> str:
    """Say how to name a workflow of a Python file, which is not imported for that."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    found = [first or second for first, second in _MADE.findall(text)]
    names = " or ".join(f"{path}:{name}" for name in found[:5]) or f"{path}:NAME"
    return f"name the workflow in this Python file: {names}"


def find_target(target: str) -> Template | Workflow | Path:
    """Return what a target names: a template, a workflow, or a document's path."""
    place, colon, name = target.rpartition(":")
    if not colon:
        path = Path(target)
        if path.suffix == ".py":
            raise DefinitionError([Problem(where=target, message=_nameless(path))])
        if not path.suffix and not path.exists():
            message = (
                "there is no such file; a workflow in Python is MODULE:NAME or "
                "FILE.py:NAME"
            )
            raise DefinitionError([Problem(where=target, message=message)])
        return path
    try:
        if place.endswith(".py"):
            folder = str(Path(place).resolve().parent)
            if folder not in sys.path:
                sys.path.insert(0, folder)
            module: Any = importlib.import_module(Path(place).stem)
        elif place == "__main__":
            module = sys.modules["__main__"]
        else:
            if "" not in sys.path and str(Path.cwd()) not in sys.path:
                sys.path.insert(0, str(Path.cwd()))
            module = importlib.import_module(place)
    except ImportError as error:
        raise DefinitionError([Problem(where=target, message=str(error))]) from error
    found = getattr(module, name, None)
    if not isinstance(found, Template | Workflow):
        known = [
            n for n, v in vars(module).items() if isinstance(v, Template | Workflow)
        ]
        raise DefinitionError(
            [
                Problem(
                    where=target,
                    message=f"there is no workflow {name!r}{did_you_mean(name, known)}; "
                    f"there is {', '.join(known) or 'none'}",
                )
            ]
        )
    return found
