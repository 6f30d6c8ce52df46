"""For the tests of programs that bring their own schemas."""

from typing import Any

from ._diagnostics import Diagnostic
from ._loading import loads
from .errors import ConfigError

__all__ = ["problems"]


def problems(
    text: str, schema: type | None = None, *, name: str = "test.yaml", **options: Any
) -> list[Diagnostic]:
    """Return what is wrong with a text, warnings last; nothing is raised.

    Args:
        text: the YAML.
        schema: a dataclass that it must fit.
        name: stands for the file in the findings.
        options: passed on to `loads`.
    """
    try:
        document = loads(text, name, **options)
        if schema is not None:
            document.into(schema)
    except ConfigError as e:
        return list(e.diagnostics)
    return list(document.warnings)
