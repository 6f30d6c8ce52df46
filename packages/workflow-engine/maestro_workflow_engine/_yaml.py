"""Reading YAML documents: the one module that needs the extra `yaml`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import DefinitionError, Problem

try:
    import maestro_yaml_config_parser as parser
except ImportError as error:
    raise ImportError(
        "YAML workflows need maestro-yaml-config-parser: "
        'pip install "maestro-workflow-engine[yaml]" (JSON needs nothing)'
    ) from error


def read_yaml(path: Path) -> tuple[Any, Callable[[str], str]]:
    """Return a YAML file's document, and where each part of it stands.

    Raises:
        DefinitionError: it cannot be read.
    """
    try:
        document = parser.load(path, references="keep")
    except parser.ConfigError as error:
        raise DefinitionError([Problem(where=str(path), message=str(error))]) from error

    def place(where: str) -> str:
        # A key that is not there has no place of its own: its parent's will do.
        inside = where.removeprefix("$").removeprefix(".")
        while inside:
            try:
                return f"{document.at(inside).origin}: {where}"
            except parser.ConfigError:
                inside = inside[: max(inside.rfind("."), inside.rfind("["), 0)]
        return f"{path}: {where}"

    return document.to_dict(), place
