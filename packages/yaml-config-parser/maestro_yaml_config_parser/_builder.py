"""From the parser's event stream to plain values, with the place of each.

No node graph is built: one loop takes PyYAML's events (libyaml's when it is
there) and makes dicts and lists at once. Places are kept beside the values, as
one list of offsets for each container:

    marks[id(container)] = [source, start, p0, p1, p2, ...]

For a mapping p0, p1 are the offsets of its first key and first value, and so on;
for a list each p is an item. An entry is an int, or `(source, int)` where a
merge key brought the item in from another file. Line and column are worked out
from the offset when somebody asks, so a load that succeeds never pays for them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
)

from ._diagnostics import did_you_mean
from ._scalars import MergeKey, PlainTextError, Scalars
from ._source import Limits, Source
from ._strict import refuse_what_libyaml_accepts
from .errors import (
    ConfigError,
    ConfigSyntaxError,
    DuplicateKeyError,
    LimitExceededError,
    UnknownTagError,
)

_CORE = "tag:yaml.org,2002:"
_KINDS = {"str": str, "int": int, "float": float, "bool": bool, "null": type(None)}
_OPEN = object()

type_of_marks = list[Any]
Marks = dict[int, type_of_marks]
TagHandler = Callable[[Any], Any]


class _Parser(Protocol):
    def get_event(self) -> Any: ...


class Reset:
    """`!reset` in an overlay: the value that the layers below gave goes away."""

    def __repr__(self) -> str:
        return "!reset"


@dataclass(slots=True)
class Session:
    """What one load shares over all its files."""

    limits: Limits
    tags: Mapping[str, TagHandler] = field(default_factory=dict)
    unknown_tags: str = "refuse"
    include: Callable[["Session", Source, int, str, int], Any] | None = None
    pure: bool = False
    marks: Marks = field(default_factory=dict)
    strategies: dict[int, str] = field(default_factory=dict)
    nodes: int = 0
    expanded: int = 0
    includes: int = 0
    resets: int = 0
    references: bool = False  # whether any text holds `${`
    keep: list[Any] = field(default_factory=list)
    scalars: Scalars = field(init=False)

    def __post_init__(self) -> None:
        self.scalars = Scalars(self.limits.digits)


STRATEGY_TAGS = {
    "!override": "replace",
    "!replace": "replace",
    "!append": "append",
    "!prepend": "prepend",
    "!merge": "merge",
}


def parser_for(text: str, *, pure: bool = False) -> _Parser:
    """Return PyYAML's C parser, or the Python one where libyaml is missing."""
    loader = getattr(yaml, "CSafeLoader", None)
    chosen: Any = yaml.SafeLoader if pure or loader is None else loader
    parser: _Parser = chosen(text)
    return parser


@dataclass(frozen=True, slots=True)
class Root:
    """One document of a stream."""

    value: Any
    index: int


def build(session: Session, source: Source, *, depth: int = 0) -> list[Root]:
    """Build every document of a source."""
    if "${" in source.text or session.tags:  # a function of a tag may make one
        session.references = True
    try:
        roots = _build(session, source, depth)
        refuse_what_libyaml_accepts(
            source, lambda: parser_for(source.text, pure=session.pure)
        )
        return roots
    except yaml.YAMLError as e:
        raise _syntax_error(source, e) from e


def _build(session: Session, source: Source, depth: int) -> list[Root]:
    get_event = parser_for(source.text, pure=session.pure).get_event
    marks, scalars, limits = session.marks, session.scalars, session.limits
    max_depth = limits.depth
    roots: list[Root] = []
    stack: list[tuple[list[Any], list[Any]]] = []
    anchors: dict[str, tuple[Any, int]] = {}
    open_anchors: list[tuple[str, int, str | None] | None] = []
    items: list[Any] = []
    pos: list[Any] = [source, 0]
    while True:
        event = get_event()
        kind = type(event)
        if kind is ScalarEvent:
            index = event.start_mark.index
            value = event.value
            if event.tag is not None:
                value = _tagged(session, source, index, event, depth + len(stack))
            elif not event.style:
                try:
                    value = scalars[value]
                except PlainTextError:
                    raise _bad_plain(session, source, index, value) from None
            if event.anchor is not None:
                anchors[event.anchor] = (value, 1)
            items.append(value)
            pos.append(index)
        elif kind is MappingStartEvent or kind is SequenceStartEvent:
            index = event.start_mark.index
            if len(stack) + depth >= max_depth:
                raise _limit(source, index, "depth", max_depth, "nesting")
            if event.anchor is not None or event.tag is not None:
                tag = _container_tag(session, source, index, event)
                open_anchors.append((event.anchor, session.nodes, tag))
                if event.anchor is not None:
                    anchors[event.anchor] = (_OPEN, 0)
            else:
                open_anchors.append(None)
            stack.append((items, pos))
            items = []
            pos = [source, index]
        elif kind is MappingEndEvent or kind is SequenceEndEvent:
            session.nodes += len(items)
            if session.nodes > limits.nodes:
                raise _limit(source, pos[1], "nodes", limits.nodes, "nodes in all")
            value = items
            if kind is MappingEndEvent:
                keys = items[::2]
                try:
                    value = dict(zip(keys, items[1::2], strict=True))
                except TypeError:
                    raise _unhashable(source, keys, pos) from None
                if len(value) != len(keys):
                    raise _duplicate(source, keys, pos)
                if "<<" in value and any(type(k) is MergeKey for k in keys):
                    value, pos = _merge(session, source, value, keys, pos)
            marks[id(value)] = pos
            index = pos[1]
            opened = open_anchors.pop()
            items, pos = stack.pop()
            if opened is not None:
                value = _close(session, source, index, value, opened, anchors)
            items.append(value)
            pos.append(index)
        elif kind is AliasEvent:
            index = event.start_mark.index
            value, size = anchors.get(event.anchor, (_OPEN, -1))
            if value is _OPEN:
                raise _bad_alias(source, index, event.anchor, size, anchors)
            session.expanded += size
            session.nodes += size
            if session.expanded > limits.aliases:
                raise _limit(
                    source, index, "aliases", limits.aliases, "nodes behind aliases"
                )
            items.append(value)
            pos.append(index)
        elif kind is DocumentStartEvent:
            items, pos, anchors = [], [source, 0], {}
        elif kind is StreamEndEvent:
            return roots
        elif items:  # the end of a document
            session.keep.append(items[0])
            roots.append(Root(items[0], pos[2]))
            items = []


def _close(
    session: Session,
    source: Source,
    index: int,
    value: Any,
    opened: tuple[str | None, int, str | None],
    anchors: dict[str, tuple[Any, int]],
) -> Any:
    """Finish a container that has an anchor or a tag."""
    anchor, before, tag = opened
    if tag is not None:
        value = _apply_tag(session, source, index, value, tag)
    if anchor is not None:
        session.keep.append(value)
        anchors[anchor] = (value, session.nodes - before + 1)
    return value


def _apply_tag(
    session: Session, source: Source, index: int, value: Any, tag: str
) -> Any:
    if tag in STRATEGY_TAGS:
        session.strategies[id(value)] = STRATEGY_TAGS[tag]
        return value
    if tag == "!reset":
        session.resets += 1
        return Reset()
    return _handled(session, source, index, value, tag)


def _handled(session: Session, source: Source, index: int, value: Any, tag: str) -> Any:
    try:
        made = session.tags[tag](value)
    except ConfigError:
        raise
    except Exception as e:  # the caller's own function: its reason, our place
        found = source.diagnostic(
            index, f"tag {tag!r} refused its value: {e}", code="tag"
        )
        raise ConfigError(found) from e
    if isinstance(made, dict | list):
        session.keep.append(made)
        session.marks[id(made)] = session.marks.get(id(value)) or [source, index]
    return made


def _container_tag(
    session: Session, source: Source, index: int, event: Any
) -> str | None:
    """Return the tag of a container when somebody has to act on it."""
    tag: str | None = event.tag
    is_map = type(event) is MappingStartEvent
    if tag is None or tag in ("!", _CORE + ("map" if is_map else "seq")):
        return None
    if tag in session.tags or tag in STRATEGY_TAGS or tag == "!reset":
        return tag
    if session.unknown_tags == "ignore":
        return None
    raise _unknown_tag(session, source, index, tag)


def _bad_plain(session: Session, source: Source, index: int, text: str) -> ConfigError:
    if text == "-":
        found = source.diagnostic(
            index, "'-' alone is not a value here", code="syntax", hint="quote it"
        )
        return ConfigSyntaxError(found)
    what = f"number of {len(text)} characters"
    return _limit(source, index, "digits", session.limits.digits, what)


def _tagged(
    session: Session, source: Source, index: int, event: Any, depth: int
) -> Any:
    """Return the value of a scalar with a tag."""
    tag: str = event.tag
    text: str = event.value
    if tag in session.tags:
        plain = session.scalars[text] if not event.style else text
        return _handled(session, source, index, plain, tag)
    if tag == "!include" and session.include is not None:
        return session.include(session, source, index, text, depth)
    if tag == "!reset":
        session.resets += 1
        return Reset()
    if tag == "!":
        return text
    name = tag.removeprefix(_CORE)
    if name in _KINDS and name != tag:
        return _typed(session, source, index, text, name)
    if session.unknown_tags == "ignore":
        return text
    raise _unknown_tag(session, source, index, tag)


def _typed(session: Session, source: Source, index: int, text: str, name: str) -> Any:
    if name == "str":
        return text
    try:
        value = session.scalars[text]
    except PlainTextError:
        raise _limit(source, index, "digits", session.limits.digits, "number") from None
    if name == "float" and type(value) is int:
        return float(value)
    if type(value) is _KINDS[name]:
        return value
    found = source.diagnostic(
        index, f"{text[:60]!r} is not a value of !!{name}", code="tag"
    )
    raise ConfigSyntaxError(found)


def _merge(
    session: Session, source: Source, own: dict[Any, Any], keys: list[Any], pos: Any
) -> tuple[dict[Any, Any], Any]:
    """Apply `<<`: earlier mappings win over later ones, own keys over all."""
    at = next(i for i, k in enumerate(keys) if type(k) is MergeKey)
    merged = own["<<"]
    where = pos[3 + 2 * at]
    del own["<<"]
    own_pos = [*pos[2 : 2 + 2 * at], *pos[4 + 2 * at :]]
    values: dict[Any, Any] = {}
    places: dict[Any, tuple[Any, Any]] = {}
    for mapping in reversed(merged if isinstance(merged, list) else [merged]):
        if not isinstance(mapping, dict):
            found = source.diagnostic(
                where,
                f"<< merges mappings, not {type(mapping).__name__} {mapping!r:.40}",
                code="merge-key",
                hint="give it an alias such as *base, or quote the key",
            )
            raise ConfigSyntaxError(found)
        session.expanded += 2 * len(mapping)
        session.nodes += 2 * len(mapping)
        if session.expanded > session.limits.aliases:
            raise _limit(
                source, where, "aliases", session.limits.aliases, "nodes behind aliases"
            )
        theirs = session.marks.get(id(mapping), [source, where])
        values.update(mapping)
        places.update(zip(mapping, _pairs(theirs, source, len(mapping)), strict=True))
    values.update(own)
    places.update(zip(own, zip(own_pos[::2], own_pos[1::2], strict=True), strict=True))
    flat = [p for pair in places.values() for p in pair]
    return values, [source, pos[1], *flat]


def _pairs(theirs: type_of_marks, source: Source, count: int) -> list[tuple[Any, Any]]:
    """Return key and value places of a mapping, as seen from `source`."""
    if len(theirs) < 2 + 2 * count:
        return [(theirs[1], theirs[1])] * count
    if theirs[0] is source:
        return list(zip(theirs[2::2], theirs[3::2], strict=True))
    there = theirs[0]
    far = [p if isinstance(p, tuple) else (there, p) for p in theirs[2:]]
    return list(zip(far[::2], far[1::2], strict=True))


def _limit(
    source: Source, index: int, limit: str, allowed: int, what: str
) -> LimitExceededError:
    found = source.diagnostic(
        index,
        f"{what}: more than the {allowed} allowed",
        code=f"limit-{limit}",
        hint=f"raise Limits({limit}=...) if that is intended",
    )
    return LimitExceededError(found, limit=limit, allowed=allowed)


def _duplicate(source: Source, keys: list[Any], pos: list[Any]) -> DuplicateKeyError:
    seen: dict[Any, int] = {}
    for i, key in enumerate(keys):
        if key in seen:
            first = source.place(pos[2 + 2 * seen[key]])
            found = source.diagnostic(
                pos[2 + 2 * i],
                f"duplicate key {key!r}, first at line {first[0]}, column {first[1]}",
                code="duplicate-key",
                hint="rename or remove one of the two",
            )
            return DuplicateKeyError(found, key=key, first_line=first[0])
        seen[key] = i
    raise AssertionError(keys)


def _unhashable(source: Source, keys: list[Any], pos: list[Any]) -> ConfigSyntaxError:
    at = next(i for i, k in enumerate(keys) if k.__hash__ is None)
    kind = "mapping" if isinstance(keys[at], dict) else "list"
    found = source.diagnostic(
        pos[2 + 2 * at],
        f"a {kind} cannot be a key",
        code="complex-key",
        hint='quote it if text was meant, as in "{name}"',
    )
    return ConfigSyntaxError(found)


def _bad_alias(
    source: Source, index: int, name: str, size: int, anchors: Mapping[str, Any]
) -> ConfigSyntaxError:
    if size == 0:
        message, hint = f"alias *{name} contains itself", "anchors cannot be recursive"
    else:
        message = f"alias *{name} has no anchor &{name} before it"
        hint = did_you_mean(name, anchors) or "quote it if a text was meant"
    return ConfigSyntaxError(source.diagnostic(index, message, code="alias", hint=hint))


def _unknown_tag(
    session: Session, source: Source, index: int, tag: str
) -> UnknownTagError:
    shown = f"!!{tag.removeprefix(_CORE)}" if tag.startswith(_CORE) else tag
    known = [*session.tags, *STRATEGY_TAGS, "!reset", "!include"]
    hint = did_you_mean(shown, known) or f"pass tags={{{shown!r}: ...}} to handle it"
    found = source.diagnostic(
        index, f"unknown tag {shown!r}", code="unknown-tag", hint=hint
    )
    return UnknownTagError(found, tag=tag)


_SENTENCES = {
    "mapping values are not allowed": (
        "a second ': ' in one value, or a key indented too far",
        "align the key with its neighbours, or quote the value",
    ),
    "expected <block end>": (
        "this line does not line up with the block it belongs to",
        "check the indentation",
    ),
    "did not find expected key": (
        "expected a key here",
        "check the indentation, and quotes and brackets above",
    ),
    "did not find expected '-' indicator": (
        "expected '- ' here",
        "check the indentation",
    ),
    "cannot start any token": (
        "this character cannot start a value",
        "indent with spaces, and quote texts that start with @, ` or %",
    ),
    "could not find expected ':'": (
        "this line is not a `key: value`",
        "add ': ', or indent it to continue the text above",
    ),
    "found unexpected end of stream": ("a quote or bracket is never closed", ""),
    "undefined alias": ("this alias has no anchor", ""),
}


def _syntax_error(source: Source, error: yaml.YAMLError) -> ConfigSyntaxError:
    """Turn PyYAML's error into ours, at the same place."""
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", error))
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    position = getattr(error, "position", None)
    index = 0
    if mark is not None:
        index = mark.index
    elif isinstance(position, int):
        index = _bad_character(source, position)
        problem = f"character {source.text[index : index + 1]!r} is not allowed"
    sentence, hint = next(
        (s for text, s in _SENTENCES.items() if text in problem), (problem, "")
    )
    if "mapping values are not allowed" in problem:
        index = _key_before(source, index)
    context = getattr(error, "context", None)
    start = getattr(error, "context_mark", None)
    if context and start is not None and start.index != index:
        line = source.place(start.index)[0]
        sentence += f" ({context}, started at line {line})"
    found = source.diagnostic(index, sentence, code="syntax", hint=hint)
    return ConfigSyntaxError(found)


def _key_before(source: Source, index: int) -> int:
    """Return the start of the key when the colon at `index` is its line's first."""
    column = source.place(index)[1] - 1
    before = source.text[index - column : index]
    return index if ": " in before else index - len(before.lstrip())


def _bad_character(source: Source, position: int) -> int:
    """Find the character that libyaml refused; its offset is in bytes."""
    for i, c in enumerate(source.text):
        code = ord(c)
        if (code < 32 and c not in "\t\n\r") or (0x7F <= code < 0xA0 and code != 0x85):
            return i
        if 0xD800 <= code < 0xE000 or code in (0xFFFE, 0xFFFF):
            return i
    return min(position, len(source.text))
