"""`${env:NAME:-default}`, `${file:path}`, `${secret:name}` and `${{ ... }}`."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path as FilePath
from typing import Any

from ._builder import Session
from ._diagnostics import did_you_mean
from ._document import Document
from ._expressions import TEMPLATE, ExpressionError, Secret, join_text, substitute
from ._paths import Path
from ._source import Source
from .errors import InterpolationError

_REFERENCE = re.compile(
    r"(?P<escape>\$)?\$\{(?P<kind>env|file|secret):(?P<name>[^}]*?)"
    r"(?::-(?P<default>[^}]*))?\}"
)
SecretSource = Mapping[str, str] | Callable[[str], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Values:
    """Where the references of one load get their values.

    One without a source is refused, or kept as it is with `keep`.
    """

    env: Mapping[str, str] | None
    secrets: SecretSource | None
    names: Mapping[str, Any] | None
    deferred: frozenset[str]
    keep: bool
    read_file: Callable[[Source, str], str] | None

    @property
    def active(self) -> bool:
        """Whether anything was given to replace references with."""
        return any(v is not None for v in (self.env, self.secrets, self.names))


def interpolate(document: Document, values: Values, session: Session) -> None:
    """Replace every reference in the values of a document, in place."""
    root = document.root
    if type(root) is str and "${" in root:
        document.root = _replaced(document, (), root, values, session)
    for path, container, key, value in list(document._walk()):
        if type(value) is str and "${" in value:
            container[key] = _replaced(document, path, value, values, session)


def _replaced(
    document: Document, path: Path, text: str, values: Values, session: Session
) -> Any:
    place = document.places_of(path)[0]
    try:
        made = _references(text, place.source, values)
        typed: Any = made
        quoted = place.source.text[place.value : place.value + 1] in "\"'|>"
        alone = type(made) is str and made != text and _REFERENCE.fullmatch(text)
        if alone and not quoted:
            typed = session.scalars[made]
        if (
            isinstance(typed, str)
            and values.names is not None
            and TEMPLATE.search(made)
        ):
            return substitute(made, values.names, deferred=values.deferred)
        return typed
    except ExpressionError as e:
        found = document.diagnostic(path, str(e), code="interpolation", hint=e.hint)
        raise InterpolationError(found, expression=text) from e


def _references(text: str, source: Source, values: Values) -> str:
    parts: list[str] = []
    at = 0
    for match in _REFERENCE.finditer(text):
        parts.append(text[at : match.start()])
        at = match.end()
        value = match[0][1:] if match["escape"] else _value(match, source, values)
        parts.append(match[0] if value is None else value)
    return join_text([*parts, text[at:]]) if parts else text


def _value(match: re.Match[str], source: Source, values: Values) -> str | None:
    """Return the value of one reference, or None to leave it as it is."""
    kind, name, default = match["kind"], match["name"], match["default"]
    if kind == "env" and values.env is not None:
        return _from_env(name, default, values.env)
    if kind == "secret" and values.secrets is not None:
        return _from_secrets(name, values.secrets)
    if kind == "file" and values.read_file is not None:
        return values.read_file(source, name)
    if values.keep:
        return None
    raise ExpressionError(
        f"{match[0]} has no value: {_MISSING[kind]}",
        hint=f"write ${match[0]} for the text itself",
    )


_MISSING = {
    "env": "pass env=os.environ (maestro-config: --env)",
    "secret": "pass secrets=...",
    "file": "a text has no folder, use load()",
}


def _from_env(name: str, default: str | None, env: Mapping[str, str]) -> str:
    found = env.get(name)
    if found or (found is not None and default is None):
        return found
    if default is not None:
        return default
    hint = did_you_mean(name, env) or f"set it, or write ${{env:{name}:-default}}"
    raise ExpressionError(f"environment variable {name!r} is not set", hint=hint)


def _from_secrets(name: str, secrets: SecretSource) -> str:
    found = secrets.get(name) if isinstance(secrets, Mapping) else secrets(name)
    if found is None:
        known = secrets if isinstance(secrets, Mapping) else ()
        raise ExpressionError(f"no secret {name!r}", hint=did_you_mean(name, known))
    return found if isinstance(found, Secret) else Secret(found)


def inside(root: FilePath, start: FilePath, name: str) -> FilePath | None:
    """Return the file that `name` means beside `start`, or None outside `root`."""
    target = (start.parent / name).resolve()
    return target if target.is_relative_to(root.resolve()) else None
