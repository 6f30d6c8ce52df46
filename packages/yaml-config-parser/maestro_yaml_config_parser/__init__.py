"""Test plans and configuration in YAML, with the true line in every error."""

from ._diagnostics import Diagnostic
from ._document import Document, Item, Origin
from ._loading import load, load_all, loads
from ._source import Limits
from .errors import (
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

__all__ = [
    "ConfigError",
    "ConfigReadError",
    "ConfigSyntaxError",
    "Diagnostic",
    "Document",
    "DuplicateKeyError",
    "EditError",
    "IncludeError",
    "InterpolationError",
    "Item",
    "LayerError",
    "LimitExceededError",
    "Limits",
    "Origin",
    "PathNotFoundError",
    "SchemaError",
    "UnknownTagError",
    "load",
    "load_all",
    "loads",
]
