"""What can go wrong, and where.

ConfigError                       the root; .diagnostics, .file, .line, .column
├── ArgumentError                 a wrong argument (TypeError, ValueError)
├── ConfigReadError               a file cannot be read, or is not UTF-8
├── ConfigSyntaxError             the text is not YAML
├── DuplicateKeyError             a key twice in one mapping; .key, .first_line
├── UnknownTagError               a tag such as !env that nobody handles; .tag
├── LimitExceededError            too big, too deep, too many; .limit, .allowed
├── IncludeError                  an include that is missing, circular or outside
├── LayerError                    overlays or profiles that cannot be combined
├── InterpolationError            ${...} or ${{ ... }} without a value; .expression
├── SchemaError                   the data does not fit; .diagnostics has them all
├── PathNotFoundError             no such place (KeyError, IndexError); .path
└── EditError                     an edit that cannot be made
"""

from collections.abc import Iterable

from ._diagnostics import Diagnostic

__all__ = [
    "ArgumentError",
    "ConfigError",
    "ConfigReadError",
    "ConfigSyntaxError",
    "DuplicateKeyError",
    "EditError",
    "IncludeError",
    "InterpolationError",
    "LayerError",
    "LimitExceededError",
    "PathNotFoundError",
    "SchemaError",
    "UnknownTagError",
]


class ConfigError(Exception):
    """Something is wrong with a configuration; `str()` shows where.

    Attributes:
        diagnostics: every finding, in the order of the file.
        file, line, column: those of the first finding (1-based).
    """

    def __init__(self, diagnostics: Diagnostic | Iterable[Diagnostic]) -> None:
        found = (diagnostics,) if isinstance(diagnostics, Diagnostic) else diagnostics
        self.diagnostics: tuple[Diagnostic, ...] = tuple(found)
        super().__init__("\n".join(d.render() for d in self.diagnostics))

    def __reduce__(self) -> tuple[object, ...]:
        return (_restore, (type(self), self.diagnostics, self.__dict__))

    @property
    def first(self) -> Diagnostic:
        """The first finding."""
        return self.diagnostics[0]

    @property
    def file(self) -> str:
        """The file of the first finding."""
        return self.first.file

    @property
    def line(self) -> int:
        """The line of the first finding, from 1."""
        return self.first.line

    @property
    def column(self) -> int:
        """The column of the first finding, from 1."""
        return self.first.column


def _restore(
    kind: type[ConfigError], found: tuple[Diagnostic, ...], state: dict[str, object]
) -> ConfigError:
    error = kind.__new__(kind)
    ConfigError.__init__(error, found)
    error.__dict__.update(state)
    return error


class ArgumentError(ConfigError, TypeError, ValueError):
    """A function was called with an argument that it cannot take."""


def argument_error(where: str, message: str, hint: str = "") -> ArgumentError:
    """Return the error for an argument of the function `where`."""
    found = Diagnostic(
        file=where, line=0, column=0, message=message, code="argument", hint=hint
    )
    return ArgumentError(found)


class ConfigReadError(ConfigError):
    """A file cannot be read, or its bytes are not UTF-8."""


class ConfigSyntaxError(ConfigError):
    """The text is not YAML."""


class DuplicateKeyError(ConfigError):
    """One mapping has the same key twice."""

    def __init__(self, diagnostic: Diagnostic, *, key: object, first_line: int) -> None:
        super().__init__(diagnostic)
        self.key = key
        self.first_line = first_line


class UnknownTagError(ConfigError):
    """A tag that neither YAML's core schema nor the caller knows."""

    def __init__(self, diagnostic: Diagnostic, *, tag: str) -> None:
        super().__init__(diagnostic)
        self.tag = tag


class LimitExceededError(ConfigError):
    """A document is bigger or deeper than `Limits` allows."""

    def __init__(self, diagnostic: Diagnostic, *, limit: str, allowed: int) -> None:
        super().__init__(diagnostic)
        self.limit = limit
        self.allowed = allowed


class IncludeError(ConfigError):
    """An included file is missing, includes itself or lies outside the root."""


class LayerError(ConfigError):
    """Overlays or profiles that cannot be combined."""


class InterpolationError(ConfigError):
    """An expression that has no value."""

    def __init__(self, diagnostic: Diagnostic, *, expression: str) -> None:
        super().__init__(diagnostic)
        self.expression = expression


class SchemaError(ConfigError):
    """The data does not have the shape that was asked for."""


class PathNotFoundError(ConfigError, KeyError, IndexError):
    """No such place in the document."""

    __str__ = Exception.__str__

    def __init__(self, diagnostic: Diagnostic, *, path: str) -> None:
        super().__init__(diagnostic)
        self.path = path


class EditError(ConfigError):
    """An edit that cannot be made without rewriting more than was asked."""
