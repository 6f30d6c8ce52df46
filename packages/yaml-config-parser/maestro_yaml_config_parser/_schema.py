"""Dataclasses as schema: convert a document, report every error at once."""

import dataclasses
import enum
import math
import operator
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar, Union

from ._diagnostics import Diagnostic, closest, did_you_mean
from ._document import Document
from ._paths import Path
from ._scalars import PlainTextError, Scalars
from .errors import ArgumentError, SchemaError, argument_error

T = TypeVar("T")
BAD = type("Bad", (), {"__repr__": lambda _: "BAD"})()
_MOST_ERRORS = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Limits of a value, for `Annotated[int, Bounds(ge=0)]`.

    Objects of annotated-types (`Ge`, `Le`, `MinLen`, ...) work as well.
    """

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None


@dataclass(frozen=True, slots=True)
class Alias:
    """Another name of the key in the file: `Annotated[str, Alias("class")]`."""

    name: str


@dataclass(frozen=True, slots=True)
class Doc:
    """What a key means, shown by editors: `Annotated[int, Doc("in seconds")]`."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One key of a dataclass, as a file may write it."""

    name: str
    keys: tuple[str, ...]
    type: Any
    required: bool
    description: str
    default: Any


@lru_cache(maxsize=512)
def fields_of(cls: type) -> tuple[Field, ...]:
    """Return the keys that a dataclass reads."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = []
    for item in dataclasses.fields(cls):
        if not item.init or item.metadata.get("config") == "skip":
            continue
        hint = hints[item.name]
        extras = (
            hint.__metadata__ if typing.get_origin(hint) is typing.Annotated else ()
        )
        aliases = tuple(m.name for m in extras if isinstance(m, Alias))
        required = (
            item.default is dataclasses.MISSING
            and item.default_factory is dataclasses.MISSING
        )
        found.append(
            Field(
                name=item.name,
                keys=(*aliases, item.name),
                type=hint,
                required=required,
                description=" ".join(m.text for m in extras if isinstance(m, Doc)),
                default=item.default,
            )
        )
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Finding:
    """An error whose line nobody has asked for yet: unions try and forget many."""

    path: Path
    message: str
    code: str
    hint: str | Callable[[], str]
    key: bool


class Context:
    """One conversion: the document, and the findings so far."""

    bad = BAD

    def __init__(self, document: Document) -> None:
        self.document = document
        self.found: list[Finding] = []

    def error(
        self,
        path: Path,
        message: str,
        *,
        code: str,
        hint: str | Callable[[], str] = "",
        key: bool = False,
    ) -> Any:
        """Note a finding at a path; return BAD."""
        if len(self.found) < _MOST_ERRORS:
            self.found.append(Finding(path, message, code, hint, key))
        return BAD

    def convert(self, value: Any, kind: Any, path: Path) -> Any:
        """Return the value as `kind`, or BAD after noting why not."""
        if kind is Any or kind is object:
            return value
        origin = typing.get_origin(kind)
        if origin is typing.Annotated:
            return self._annotated(value, kind, path)
        if origin is Union or origin is types.UnionType:
            return self._union(value, typing.get_args(kind), path)
        if origin is Literal:
            return self._literal(value, typing.get_args(kind), path)
        if isinstance(kind, type) and hasattr(kind, "__config__"):
            return kind.__config__(value, self, path)
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            return self._dataclass(value, kind, path)
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return self._enum(value, kind, path)
        plain = origin or kind
        if plain in (list, tuple, set, frozenset) or plain is Sequence:
            return self._list(value, kind, plain, path)
        if plain is dict or plain is Mapping:
            return self._mapping(value, kind, path)
        return self._scalar(value, kind, path)

    def _scalar(self, value: Any, kind: Any, path: Path) -> Any:
        if kind is float and type(value) is int:
            try:
                return float(value)
            except OverflowError:
                pass
        if kind is None or kind is type(None):
            return None if value is None else self.mismatch(value, kind, path)
        if kind is bool or kind is int or kind is float:
            ok = type(value) is kind
        elif isinstance(kind, type):
            ok = isinstance(value, kind)
        else:
            raise argument_error(
                "into()", f"cannot check the type {kind!r}", "such as a dataclass"
            )
        return value if ok else self.mismatch(value, kind, path)

    def mismatch(self, value: Any, kind: Any, path: Path) -> Any:
        """Note that a value has the wrong type."""
        return self.error(
            path,
            f"expected {describe(kind)}{_for(path)}, got {shown(value)}",
            code="type",
            hint=lambda: _advice(value, kind, self.written(path)),
        )

    def written(self, path: Path, *, key: bool = False) -> str:
        """Return the word of the file at a path, such as `0777` or `"8"`."""
        place = self.document.places_of(path)[0]
        index = place.key if key else place.value
        found = _WORD.match(place.source.text, index)
        return found.group() if found else ""

    def _annotated(self, value: Any, kind: Any, path: Path) -> Any:
        inner, *extras = typing.get_args(kind)
        made = self.convert(value, inner, path)
        if made is BAD or made is None:
            return made
        for extra in extras:
            complaint = _outside(made, extra)
            if complaint:
                return self.error(
                    path, f"{complaint}{_for(path)}, got {shown(value)}", code="bounds"
                )
        return made

    def _union(self, value: Any, kinds: Sequence[Any], path: Path) -> Any:
        best: list[Finding] | None = None
        before = self.found
        for kind in kinds:
            self.found = []
            made = self.convert(value, kind, path)
            found, self.found = self.found, before
            if made is not BAD and not found:
                return made
            deep = bool(found) and not any(
                d.code == "type" and d.path == found[0].path for d in found[:1]
            )
            same = _same_shape(value, kind)
            if (
                same
                and (deep or len(kinds) == 2)
                and (best is None or len(found) < len(best))
            ):
                best = found
        if best:
            self.found.extend(best)
            return BAD
        return self.mismatch(value, Union[tuple(kinds)], path)  # noqa: UP007 - built at run time

    def _literal(self, value: Any, allowed: Sequence[Any], path: Path) -> Any:
        for choice in allowed:
            if choice == value and type(choice) is type(value):
                return choice
        listed = ", ".join(repr(c) for c in allowed)
        hint = did_you_mean(value, allowed) if isinstance(value, str) else ""
        return self.error(
            path, f"expected one of {listed}{_for(path)}, got {shown(value)}",
            code="choice", hint=hint,
        )  # fmt: skip

    def _enum(self, value: Any, kind: type[enum.Enum], path: Path) -> Any:
        for member in kind:
            if member.value == value:
                return member
        made = self._literal(value, [m.value for m in kind], path)
        return kind(made) if made is not BAD else BAD

    def _list(self, value: Any, kind: Any, plain: Any, path: Path) -> Any:
        if not isinstance(value, list):
            return self.mismatch(value, kind, path)
        args = [a for a in typing.get_args(kind) if a is not Ellipsis]
        if plain is tuple and args and Ellipsis not in typing.get_args(kind):
            if len(value) != len(args):
                return self.error(
                    path,
                    f"expected {len(args)} items{_for(path)}, got {len(value)}",
                    code="length",
                )
            kinds = args
        else:
            kinds = (args or [Any])[:1] * len(value)
        made = [
            self.convert(v, k, (*path, i))
            for i, (v, k) in enumerate(zip(value, kinds, strict=True))
        ]
        if any(m is BAD for m in made):
            return BAD
        return made if plain in (list, Sequence) else plain(made)

    def _mapping(self, value: Any, kind: Any, path: Path) -> Any:
        if not isinstance(value, dict):
            return self.mismatch(value, kind, path)
        args = typing.get_args(kind) or (Any, Any)
        made = {}
        for key, item in value.items():
            if args[0] is str and not isinstance(key, str):
                self.error(
                    (*path, key), f"expected text as key, got {shown(key)}",
                    code="type", key=True,
                    hint=_quoted(key, self.written((*path, key), key=True)),
                )  # fmt: skip
                continue
            made[key] = self.convert(item, args[1], (*path, key))
        bad = len(made) != len(value) or any(m is BAD for m in made.values())
        return BAD if bad else made

    def _dataclass(self, value: Any, cls: Any, path: Path) -> Any:
        if not isinstance(value, dict):
            return self.mismatch(value, cls, path)
        before = len(self.found)
        fields = fields_of(cls)
        made: dict[str, Any] = {}
        known = {key: f for f in fields for key in f.keys}
        meant: set[str] = set()  # said already: not missing besides
        label = _label(cls, value)
        for key, item in value.items():
            field = known.get(key)
            if field is None:
                names = [f.keys[0] for f in fields]
                near = closest(key, [n for n in names if n not in value] or names)
                hint = f"did you mean {near!r}?" if near is not None else ""
                meant.add(near or "")
                self.error(
                    (*path, key), f"unknown key {key!r} in {label}",
                    code="unknown-key", key=True,
                    hint=hint or "known keys: " + ", ".join(names),
                )  # fmt: skip
            elif field.name in made:
                self.error(
                    (*path, key), f"{key!r} and {field.keys[0]!r} are the same key",
                    code="duplicate-key", key=True,
                )  # fmt: skip
            else:
                made[field.name] = self.convert(item, field.type, (*path, key))
        for field in fields:
            missing = field.required and field.name not in made
            if missing and field.keys[0] not in meant:
                self.error(
                    path,
                    f"missing key {field.keys[0]!r} in {label}",
                    code="missing-key",
                )
        if len(self.found) > before or any(m is BAD for m in made.values()):
            return BAD
        try:
            result = cls(**made)
        except ArgumentError:
            raise
        except (ValueError, TypeError) as e:  # from the class's own __post_init__
            return self.error(path, f"{label}: {e}", code="value")
        check = getattr(result, "__check__", None)
        if check is not None:
            check(self, path)
        return result


def _label(cls: type, value: Mapping[Any, Any]) -> str:
    noun = (
        getattr(cls, "__label__", None)
        or re.sub(r"(?<=[a-z])(?=[A-Z])", " ", cls.__name__).lower()
    )
    name = value.get("name")
    return f"{noun} {name!r}" if isinstance(name, str) and name else str(noun)


def _same_shape(value: Any, kind: Any) -> bool:
    origin = typing.get_origin(kind) or kind
    if origin is typing.Annotated:
        return _same_shape(value, typing.get_args(kind)[0])
    if origin is Literal:
        return any(type(value) is type(a) for a in typing.get_args(kind))
    if isinstance(value, dict):
        return dataclasses.is_dataclass(kind) or origin in (dict, Mapping)
    if isinstance(value, list):
        return origin in (list, tuple, set, frozenset, Sequence)
    return origin is type(value) or (origin is float and type(value) is int)


def shown(value: Any) -> str:
    """Describe a value in a message, shortened, secrets hidden."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, dict):
        return f"a mapping with {len(value)} keys" if value else "an empty mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    names = {bool: "", int: "number ", float: "number ", str: "text "}
    return names.get(type(value), "") + (
        text.lower() if value in (True, False) and isinstance(value, bool) else text
    )


_NOUNS: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "nothing",
    None: "nothing",
    list: "a list",
    tuple: "a list",
    set: "a list",
    frozenset: "a list",
    Sequence: "a list",
    dict: "a mapping",
    Mapping: "a mapping",
}


def describe(kind: Any) -> str:
    """Name a type in words."""
    origin = typing.get_origin(kind)
    if origin is typing.Annotated:
        return describe(typing.get_args(kind)[0])
    if origin is Union or origin is types.UnionType:
        names = [describe(a) for a in typing.get_args(kind) if a is not type(None)]
        return " or ".join(dict.fromkeys(names))
    if origin is Literal:
        return "one of " + ", ".join(repr(a) for a in typing.get_args(kind))
    plain = origin or kind
    if dataclasses.is_dataclass(kind):
        noun = getattr(kind, "__label__", kind.__name__.lower())  # type: ignore[union-attr]
        return f"a mapping ({noun})"
    return _NOUNS.get(plain, getattr(plain, "__name__", str(plain)))


_WORD = re.compile(r"""(["'])?(?(1).*?\1|[^\s,\[\]{}#]+)""")


def _for(path: Path) -> str:
    return f" for {path[-1]!r}" if path and isinstance(path[-1], str) else ""


def _quoted(value: Any, written: str) -> str:
    """Advise to quote a value as the file has it: 1.10 is not 1.1."""
    try:
        same = Scalars(1_000)[written.rstrip(":")] == value if written else False
    except PlainTextError:
        same = False
    plain = str(value).lower() if isinstance(value, bool) else value
    return f'quote it: "{written.rstrip(":") if same else plain}"'


def _number_for(value: str, kind: Any) -> list[str]:
    """Return how a text can be written as a number that fits the type."""
    plain = value.replace("_", "")
    digits = plain.lstrip("+-")
    sign = plain[: len(plain) - len(digits)]
    writings = [plain]
    if re.fullmatch("0[0-9]+", digits):
        writings = [sign + (digits.lstrip("0") or "0")]
        if re.fullmatch("0[0-7]*[1-7]", digits) and not sign and writings != [digits]:
            writings.insert(0, "0o" + digits.lstrip("0"))
    elif re.fullmatch("[0-9]+[eE][0-9]+", digits):
        writings = [re.sub("[eE]", "e+", plain)]
    scalars, found = Scalars(1_000), []
    for writing in writings:
        try:
            number = scalars[writing]
        except PlainTextError:
            continue
        whole = type(number) is int
        if whole or ("a number" in describe(kind) and type(number) is float):
            found.append(writing)
    return found


def _as_number(value: str, kind: Any, written: str) -> str:
    found = _number_for(value, kind)
    if len(found) == 2:
        octal, decimal = found
        return f"write {octal} if it is octal ({int(octal, 8)}), {decimal} if it is not"
    without = " without quotes" if written[:1] in ("'", '"') else ""
    return f"write {found[0]}{without}" if found else ""


def _advice(value: Any, kind: Any, written: str) -> str:
    text = describe(kind)
    if isinstance(value, str) and _REFERENCE.match(value):
        return "pass env=os.environ or secrets=... to load (maestro-config: --env)"
    if isinstance(value, str):
        if "true or false" in text:
            lowered = value.casefold()
            if lowered in ("yes", "on", "y"):
                return "write true"
            if lowered in ("no", "off", "n"):
                return "write false"
        if "number" in text:
            return _as_number(value, kind, written)
        if text == "a list":
            safe = re.fullmatch(r"[\w./-]+", value)
            return f"write [{value}]" if safe else f"write [{_json(value)}]"
    if text == "text" and isinstance(value, bool | int | float):
        return _quoted(value, written)
    return ""


_REFERENCE = re.compile(r"\$\{(?:env|file|secret):")


def _json(text: str) -> str:
    from json import dumps

    return dumps(text, ensure_ascii=False)


_ORDER: tuple[tuple[str, str, Callable[[Any, Any], bool]], ...] = (
    ("ge", "at least", operator.ge),
    ("gt", "more than", operator.gt),
    ("le", "at most", operator.le),
    ("lt", "less than", operator.lt),
)


def _outside(value: Any, extra: Any) -> str:
    """Say what a value should have been, or return an empty string."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and isinstance(value, float) and math.isnan(value):
        bounded = any(getattr(extra, n, None) is not None for n in ("ge", "gt", "le"))
        return "expected a number" if bounded else ""
    for name, words, ok in _ORDER:
        bound = getattr(extra, name, None)
        if number and bound is not None and not ok(value, bound):
            return f"expected {words} {bound}"
    low, high = getattr(extra, "min_length", None), getattr(extra, "max_length", None)
    if hasattr(value, "__len__"):
        if low is not None and len(value) < low:
            return f"expected at least {low} items or characters"
        if high is not None and len(value) > high:
            return f"expected at most {high} items or characters"
    pattern = getattr(extra, "pattern", None)
    if pattern is not None and isinstance(value, str) and not re.search(pattern, value):
        return f"expected text that matches {pattern!r}"
    return ""


def into(document: Document, cls: type[T]) -> T:
    """Convert a whole document.

    Raises:
        SchemaError: with every finding, in the order of the file.
    """
    context = Context(document)
    made = context.convert(document.root, cls, ())
    if context.found:
        raise SchemaError(
            in_order(
                document.diagnostic(
                    f.path,
                    f.message,
                    code=f.code,
                    hint=f.hint if isinstance(f.hint, str) else f.hint(),
                    key=f.key,
                )
                for f in context.found
            )
        )
    return typing.cast("T", made)


def in_order(found: Iterable[Diagnostic]) -> list[Diagnostic]:
    """Sort findings by place, each once."""
    unique = dict.fromkeys(found)
    return sorted(unique, key=lambda d: (d.file, d.line, d.column))
