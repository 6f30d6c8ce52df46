"""Test plans and configuration in YAML, with the true line in every error."""

from typing import TYPE_CHECKING

from ._diagnostics import Diagnostic
from ._document import Document, Item, Origin
from ._loading import load, load_all, loads, loads_all
from ._source import Limits
from .errors import (
    ArgumentError,
    ConfigError,
    ConfigReadError,
    ConfigSyntaxError,
    DuplicateKeyError,
    EditError,
    IncludeError,
    InterpolationError,
    LayerError,
    LimitExceededError,
    PathNotFoundError,
    SchemaError,
    UnknownTagError,
)

if TYPE_CHECKING:
    from ._edit import Edit
    from ._expressions import Secret
    from ._jsonschema import json_schema
    from ._matrix import Combination, Matrix
    from ._parser import YamlConfigParser
    from ._plan import Case, Defaults, Environment, Fixture, Suite, TestPlan
    from ._render import Difference
    from ._schema import Alias, Bounds, Doc
    from ._verbs import Step

_LAZY = {
    "Alias": "_schema",
    "Bounds": "_schema",
    "Case": "_plan",
    "Combination": "_matrix",
    "Defaults": "_plan",
    "Difference": "_render",
    "Doc": "_schema",
    "Edit": "_edit",
    "Environment": "_plan",
    "Fixture": "_plan",
    "Matrix": "_matrix",
    "Secret": "_expressions",
    "Step": "_verbs",
    "Suite": "_plan",
    "TestPlan": "_plan",
    "YamlConfigParser": "_parser",
    "json_schema": "_jsonschema",
}

__all__ = [
    "Alias",
    "ArgumentError",
    "Bounds",
    "Case",
    "Combination",
    "ConfigError",
    "ConfigReadError",
    "ConfigSyntaxError",
    "Defaults",
    "Diagnostic",
    "Difference",
    "Doc",
    "Document",
    "DuplicateKeyError",
    "Edit",
    "EditError",
    "Environment",
    "Fixture",
    "IncludeError",
    "InterpolationError",
    "Item",
    "LayerError",
    "LimitExceededError",
    "Limits",
    "Matrix",
    "Origin",
    "PathNotFoundError",
    "SchemaError",
    "Secret",
    "Step",
    "Suite",
    "TestPlan",
    "UnknownTagError",
    "YamlConfigParser",
    "json_schema",
    "load",
    "load_all",
    "loads",
    "loads_all",
]


def __getattr__(name: str) -> object:
    """Load schema, plan and edit parts when they are first used."""
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
