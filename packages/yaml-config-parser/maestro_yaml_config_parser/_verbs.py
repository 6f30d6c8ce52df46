"""The verbs of a step, each with the arguments it takes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

from ._diagnostics import did_you_mean
from ._paths import Path
from ._schema import Bounds, Context, Doc

_LOCATOR = ("role", "label", "text", "testid", "css", "xpath", "placeholder")
_STEP_KEYS = ("name", "timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Locator:
    """Which element: by role and name, label, text, test id, CSS or XPath."""

    role: str | None = None
    name: Annotated[str | None, Doc("accessible name, with role")] = None
    label: str | None = None
    text: str | None = None
    testid: str | None = None
    css: str | None = None
    xpath: str | None = None
    placeholder: str | None = None
    nth: int | None = None

    def __post_init__(self) -> None:
        if not any(getattr(self, n) is not None for n in self._needed()):
            raise ValueError(f"says no element; give one of {', '.join(_LOCATOR)}")

    def _needed(self) -> tuple[str, ...]:
        return _LOCATOR


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Open an address, relative to the environment's base_url."""

    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill(Locator):
    """Put a value into a field."""

    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Press(Locator):
    """Press a key, on an element or on the page."""

    key: str

    def _needed(self) -> tuple[str, ...]:
        return (*_LOCATOR, "key")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload(Locator):
    """Choose files in a file field."""

    files: Annotated[list[str], Bounds(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drag(Locator):
    """Drag one element to another."""

    to: Locator


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect(Locator):
    """Wait until an element or the page is as described."""

    contains: str | None = None
    value: str | None = None
    visible: bool | None = None
    enabled: bool | None = None
    checked: bool | None = None
    count: Annotated[int, Bounds(ge=0)] | None = None
    url: str | None = None
    title: str | None = None

    def _needed(self) -> tuple[str, ...]:
        return (*_LOCATOR, "url", "title")


@dataclass(frozen=True, slots=True, kw_only=True)
class Screenshot:
    """Save a picture of the page."""

    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Eval:
    """Run a script in the page; with equals, compare what it returns."""

    script: str
    equals: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """Wait; a last resort, since expect waits by itself."""

    seconds: Annotated[float, Bounds(ge=0, le=3600)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Run a program, without a shell."""

    argv: Annotated[list[str], Bounds(min_length=1)]
    cwd: str | None = None
    variables: dict[str, str] = field(default_factory=dict)
    exit: int = 0
    stdout: Annotated[str | None, Doc("text that must occur")] = None
    stderr: Annotated[str | None, Doc("text that must occur")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pytest:
    """Run tests with pytest; each becomes a result of its own."""

    paths: list[str] = field(default_factory=list)
    select: list[str] = field(default_factory=list)
    markers: str = ""
    arguments: list[str] = field(default_factory=list)


# Verb: its arguments, and the one that a bare value stands for.
VERBS: dict[str, tuple[type, str]] = {
    "open": (Open, "url"),
    "click": (Locator, "css"),
    "dblclick": (Locator, "css"),
    "hover": (Locator, "css"),
    "check": (Locator, "css"),
    "uncheck": (Locator, "css"),
    "fill": (Fill, ""),
    "type": (Fill, ""),
    "select": (Fill, ""),
    "press": (Press, "key"),
    "upload": (Upload, ""),
    "drag": (Drag, ""),
    "expect": (Expect, ""),
    "screenshot": (Screenshot, "path"),
    "eval": (Eval, "script"),
    "wait": (Wait, "seconds"),
    "run": (Run, "argv"),
    "pytest": (Pytest, "paths"),
}
Verb = Literal[
    "open", "click", "dblclick", "hover", "check", "uncheck", "fill", "type",
    "select", "press", "upload", "drag", "expect", "screenshot", "eval", "wait",
    "run", "pytest",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One verb and its arguments, as in `- click: {role: button, name: Save}`."""

    verb: Verb
    arguments: Mapping[str, Any]
    name: str = ""
    timeout: float | None = None
    file: str = ""
    line: int = 0

    def mapping(self) -> dict[str, Any]:
        """Return the step as JSON data."""
        return {
            "verb": self.verb,
            "arguments": dict(self.arguments),
            "name": self.name,
            "timeout": self.timeout,
            "file": self.file,
            "line": self.line,
        }

    @classmethod
    def __config__(cls, value: Any, context: Context, path: Path) -> Any:
        """Read `{verb: arguments, name: ..., timeout: ...}`."""
        if not isinstance(value, dict):
            return context.error(
                path, f"expected a step such as `click: ...`, got {value!r:.40}",
                code="type", hint="steps: " + ", ".join(VERBS),
            )  # fmt: skip
        before = len(context.found)
        verbs = [k for k in value if k not in _STEP_KEYS]
        for key in verbs:
            if key not in VERBS:
                hint = did_you_mean(key, [*VERBS, *_STEP_KEYS])
                context.error(
                    (*path, key), f"unknown verb {key!r} in a step",
                    code="unknown-verb", key=True,
                    hint=hint or "verbs: " + ", ".join(VERBS),
                )  # fmt: skip
        if len(context.found) > before:
            return context.bad
        if len(verbs) != 1:
            message = f"a step has one verb, this one has {', '.join(verbs) or 'none'}"
            return context.error(path, message, code="step", hint="start a new '- '")
        (verb,) = verbs
        name = context.convert(value.get("name", ""), str, (*path, "name"))
        timeout = context.convert(
            value.get("timeout"), Annotated[float | None, Bounds(gt=0)],
            (*path, "timeout"),
        )  # fmt: skip
        arguments = _arguments(verb, value[verb], context, (*path, verb))
        if len(context.found) > before:
            return context.bad
        place = context.document.places_of((*path, verb))[0]
        return cls(
            verb=verb,
            arguments=arguments,
            name=name,
            timeout=timeout,
            file=place.source.name,
            line=place.source.place(place.key)[0],
        )

    @classmethod
    def __config_schema__(cls, defs: dict[str, Any]) -> dict[str, Any]:
        from ._jsonschema import schema_of

        properties: dict[str, Any] = {}
        for verb, (kind, bare) in VERBS.items():
            full = schema_of(kind, defs)
            if bare:
                short = next(
                    schema_of(_hint(kind, f.name), defs)
                    for f in fields(kind)
                    if f.name == bare
                )
                full = {"anyOf": [full, short]}
            properties[verb] = full
        properties["name"] = {"type": "string"}
        properties["timeout"] = {"type": "number", "exclusiveMinimum": 0}
        return {
            "type": "object",
            "description": "One verb and its arguments.",
            "properties": properties,
            "oneOf": [{"required": [verb]} for verb in VERBS],
            "additionalProperties": False,
        }


def _hint(kind: type, name: str) -> Any:
    from ._schema import fields_of

    return next(f.type for f in fields_of(kind) if f.name == name)


def _arguments(verb: str, value: Any, context: Context, path: Path) -> Any:
    """Return the arguments as a mapping without what was not given."""
    kind, bare = VERBS[verb]
    if bare and not isinstance(value, dict):
        made = context.convert(value, _hint(kind, bare), path)
        if made is context.bad:
            return made
        result = kind(**{bare: made})
    else:
        result = context.convert(value, kind, path)
    if result is context.bad:
        return result
    given = asdict(result)
    keep = {"exit"}
    return {
        k: _without_nothing(v)
        for k, v in given.items()
        if k in keep or (v is not None and v not in ({}, [], ""))
        or (isinstance(value, dict) and k in value)
    }  # fmt: skip


def _without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: v for k, v in value.items() if v is not None}
    return value
