"""A loaded document: plain data that remembers where each part was written."""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any, TypeVar

from ._builder import Marks
from ._diagnostics import Diagnostic, did_you_mean
from ._paths import Path, format_path, parse_path
from ._scalars import trap
from ._source import Limits, Source
from .errors import PathNotFoundError

if TYPE_CHECKING:
    from ._edit import Edit
    from ._render import Difference

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a value was written.

    Attributes:
        file: as the caller named it.
        line, column: of the value, from 1.
        key_line, key_column: of its key; the value's own in a list.
        layer: `base`, or the overlay, profile or include that set it.
        overrode: the origins of the values it replaced, newest first.
    """

    file: str
    line: int
    column: int
    key_line: int
    key_column: int
    layer: str = "base"
    overrode: tuple["Origin", ...] = field(default=())

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One value of a document and its origin."""

    value: Any
    path: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class Place:
    """An offset of a key and its value."""

    source: Source
    key: int
    value: int


# For a container that layers changed: key or index to the places it had, newest
# first. A container without an entry has its places in the marks.
History = dict[int, dict[Any, tuple[Place, ...]]]


class Document(Mapping[str, Any]):
    """Plain dicts and lists, with the place of every key and item.

    Reads like a mapping. Treat what it hands out as read-only, since aliases
    share containers: `to_dict()` gives a copy that is yours. Safe to read from
    many threads.
    """

    __slots__ = (
        "_keep",
        "_limits",
        "_marks",
        "_order",
        "_path",
        "history",
        "root",
        "source",
        "start",
        "traps",
    )

    def __init__(
        self,
        root: Any,
        *,
        source: Source,
        start: int,
        marks: Marks,
        keep: list[Any],
        traps: AbstractSet[str] = frozenset(),
        history: History | None = None,
        limits: Limits | None = None,
        path: FilePath | None = None,
    ) -> None:
        self.root = root
        self.source = source
        self.start = start
        self.traps = traps
        self._marks = marks
        self._keep = keep
        self._order: dict[int, dict[Any, int]] = {}  # of mappings that were asked for
        self._limits = limits or Limits()
        self._path = path
        self.history: History = {} if history is None else history

    def __repr__(self) -> str:
        return f"Document({self.file!r}, {type(self.root).__name__})"

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.root[key]
        except (KeyError, IndexError, TypeError):
            raise self._missing(self.root, [], key) from None

    def __contains__(self, key: object) -> bool:
        return isinstance(self.root, dict | list) and key in self.root

    def get(self, key: Any, default: Any = None) -> Any:
        """Return the value of a top-level key, or the default."""
        try:
            return self.root[key]
        except (KeyError, IndexError, TypeError):
            return default

    def __iter__(self) -> Iterator[Any]:
        return iter(self.root if self.root is not None else ())

    def __len__(self) -> int:
        return len(self.root) if isinstance(self.root, dict | list) else 0

    @property
    def file(self) -> str:
        """The name of the (first) file."""
        return self.source.name

    def into(self, cls: type[T]) -> T:
        """Convert to a dataclass; every error is reported at once.

        Raises:
            SchemaError: the findings, in the order of the file.
        """
        from ._schema import into

        return into(self, cls)

    def validate(self, schema: Mapping[str, Any]) -> None:
        """Check against a JSON Schema; needs the extra `schema`.

        Raises:
            SchemaError: the findings, in the order of the file.
        """
        from ._schema_import import validate

        validate(self, schema)

    def explain(self, path: str | Path) -> str:
        """Say where a value comes from and what it replaced, newest first."""
        from ._render import explain

        return explain(self, path)

    def diff(self, other: "Document") -> "tuple[Difference, ...]":
        """Return what `other` changes, by path; secrets are not shown."""
        from ._render import diff

        return diff(self, other)

    def render(self, kind: str = "yaml", *, redact: bool = True) -> str:
        """Return the data as `yaml` or `json` text, secrets as `***`."""
        from ._render import render

        return render(self.root, kind, redact=redact)

    def edit(self) -> "Edit":
        """Open the (base) file for edits that keep every other byte.

        As a context manager it saves at the end; see `Edit`.
        """
        from ._edit import Edit

        return Edit(self.source, self._limits, file=self._path)

    def to_dict(self) -> Any:
        """Return a copy of the data, with nothing shared."""
        return _copy(self.root)

    def at(self, path: str | Path) -> Item:
        """Return the value at a path such as `suites[0].timeout`, with its origin.

        Raises:
            PathNotFoundError: there is no such place; says what is near.
        """
        steps = parse_path(path) if isinstance(path, str) else path
        value = self.root
        places: tuple[Place, ...] = (Place(self.source, self.start, self.start),)
        walked: list[str | int] = []
        for step in steps:
            key = _step(value, step)
            if key is None:
                raise self._missing(value, walked, step)
            places = self.places(value, key[0])
            value = value[key[0]]
            walked.append(key[0])
        return Item(value=value, path=format_path(walked), origin=_origin(places))

    def _missing(
        self, value: Any, walked: list[str | int], step: object
    ) -> PathNotFoundError:
        where = format_path(walked) or "the document"
        place = self.places_of(tuple(walked))[0]
        if isinstance(value, dict):
            message = f"no key {step!r} in {where}"
            near = did_you_mean(step, value)
            hint = near or "there are: " + ", ".join(str(k) for k in [*value][:8])
        elif isinstance(value, list):
            message = f"no item {step!r} in {where}"
            hint = f"it is a list of {len(value)}"
        else:
            message = f"no {step!r} in {where}"
            hint = f"it is {value!r:.40}"
        found = place.source.diagnostic(place.value, message, code="path", hint=hint)
        return PathNotFoundError(found, path=format_path([*walked, str(step)]))

    def places(self, container: Any, key: Any) -> tuple[Place, ...]:
        """Return the places of one item of a container, the valid one first."""
        past = self.history.get(id(container), {}).get(key)
        if past:
            return past
        marks = self._marks.get(id(container))
        if marks is None:
            return (Place(self.source, self.start, self.start),)
        source = marks[0]
        if isinstance(container, list):
            at = 2 + (key if key >= 0 else key + len(container))
            found = marks[at : at + 1] * 2
        else:
            order = self._order.get(id(container))
            if order is None or len(order) != len(container):
                order = {k: i for i, k in enumerate(container)}
                self._order[id(container)] = order
            at = order.get(key, len(container))
            found = marks[2 + 2 * at : 4 + 2 * at]
        if len(found) < 2:
            return (Place(source, marks[1], marks[1]),)
        return (_place(source, found[0], found[1]),)

    def places_of(self, path: Path) -> tuple[Place, ...]:
        """Return the places of a path that exists."""
        value = self.root
        places: tuple[Place, ...] = (Place(self.source, self.start, self.start),)
        for step in path:
            places = self.places(value, step)
            found = _step(value, step)  # a missing key stands for its mapping
            if found is None:
                break
            value = value[found[0]]
        return places

    def diagnostic(
        self, path: Path, message: str, *, code: str, hint: str = "", key: bool = False
    ) -> Diagnostic:
        """Return a finding about the value (or the key) at a path."""
        place = self.places_of(path)[0]
        index = place.key if key else place.value
        return place.source.diagnostic(
            index, message, code=code, hint=hint, path=format_path(path)
        )

    def relabelled(self, root: Any, layer: str) -> "Document":
        """Return a part of this document as a layer of its own."""
        return _Layer(self, root, layer)

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        """Plain values that other readers take for something else: quote them."""
        if not self.traps:
            return ()
        found: dict[tuple[int, int], Diagnostic] = {}
        for path, container, key, value in self._walk():
            for text, is_key in ((key, True), (value, False)):
                if type(text) is not str or text not in self.traps:
                    continue
                place = self.places(container, key)[0]
                index = place.key if is_key else place.value
                if not place.source.text.startswith(text, index):
                    continue  # quoted, or a value from elsewhere
                found[id(place.source), index] = place.source.diagnostic(
                    index,
                    f"{text!r} is kept as text, but is {trap(text)}",
                    code="trap-key" if is_key else "trap-value",
                    hint=f'quote it: "{text}"',
                    path=format_path(path),
                    severity="warning",
                )
        return tuple(found.values())

    def _walk(self) -> Iterator[tuple[Path, Any, Any, Any]]:
        """Visit every item of every container once, however often it is shared."""
        seen: set[int] = set()
        todo: list[tuple[Path, Any]] = [((), self.root)]
        while todo:
            path, container = todo.pop()
            if not isinstance(container, dict | list) or id(container) in seen:
                continue
            seen.add(id(container))
            pairs = (
                container.items()
                if isinstance(container, dict)
                else enumerate(container)
            )
            children = []
            for key, value in pairs:
                here = (*path, key)
                yield here, container, key, value
                children.append((here, value))
            todo.extend(reversed(children))


class _Layer(Document):
    """A part of a document, whose places carry the name of a layer."""

    __slots__ = ("_copies", "_layer")

    def __init__(self, whole: Document, root: Any, layer: str) -> None:
        super().__init__(
            root,
            source=whole.source,
            start=whole.start,
            marks=whole._marks,
            keep=whole._keep,
            history=whole.history,
        )
        self._layer = layer
        self._copies: dict[int, Source] = {}

    def places(self, container: Any, key: Any) -> tuple[Place, ...]:
        """Return the places, the newest under the name of the layer."""
        newest, *older = super().places(container, key)
        source = self._copies.get(id(newest.source))
        if source is None:
            source = newest.source.labelled(self._layer)
            self._copies[id(newest.source)] = source
        return (Place(source, newest.key, newest.value), *older)


def _place(source: Source, key: Any, value: Any) -> Place:
    if isinstance(value, tuple):
        return Place(value[0], key[1] if isinstance(key, tuple) else key, value[1])
    return Place(source, key, value)


def _origin(places: tuple[Place, ...]) -> Origin:
    newest, *older = places
    line, column = newest.source.place(newest.value)
    key_line, key_column = newest.source.place(newest.key)
    return Origin(
        file=newest.source.name,
        line=line,
        column=column,
        key_line=key_line,
        key_column=key_column,
        layer=newest.source.layer or "base",
        overrode=tuple(_origin((p,)) for p in older),
    )


def _step(value: Any, step: object) -> tuple[Any] | None:
    """Return the key or index that a step of a path means, in a 1-tuple."""
    if isinstance(value, list):
        ok = isinstance(step, int) and -len(value) <= step < len(value)
        return (step % len(value) if isinstance(step, int) else 0,) if ok else None
    if not isinstance(value, dict):
        return None
    if step in value:
        return (step,)
    same = (k for k in value if not isinstance(k, str) and str(k) == str(step))
    found = next(same, None)
    return None if found is None else (found,)


def _copy(value: Any) -> Any:
    if type(value) is dict:
        return {k: _copy(v) for k, v in value.items()}
    if type(value) is list:
        return [_copy(v) for v in value]
    return value
