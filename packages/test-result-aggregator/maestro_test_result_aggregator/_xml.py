"""Streaming XML without entities, document types or a tree that grows."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any
from xml.parsers import expat

from ._source import Source

MAX_DEPTH = 200
MAX_TEXT = 64 << 20


class XmlRefused(Exception):
    """The document holds what no report needs."""


def parser() -> Any:
    """Return an expat parser that refuses DOCTYPE, and with it every entity."""
    made = expat.ParserCreate()
    made.buffer_text = True
    made.buffer_size = 1 << 16
    made.StartDoctypeDeclHandler = _refuse
    return made


def _refuse(name: str, *_: object) -> None:
    raise XmlRefused(f"a DOCTYPE ({name}) is refused: reports need none, attacks do")


def feed(
    source: Source,
    made: Any,
    pending: list[Any],
    unfinished: Callable[[], str],
    *,
    cut: Callable[[bytes], bytes] | None = None,
) -> Iterator[list[Any]]:
    """Push the file through a parser, yielding what its handlers put into `pending`.

    Always the same list, emptied once it was taken. `unfinished` says what was half
    read when the file broke off; `cut` changes each piece before the parser takes it.
    """
    try:
        for chunk in source.chunks():
            made.Parse(cut(chunk) if cut else chunk, False)
            if pending:
                yield pending
                pending.clear()
        made.Parse(b"", True)
    except expat.ExpatError as error:
        yield pending
        what = expat.ErrorString(error.code)
        source.tell(
            f"broken XML ({what}); read up to here{unfinished()}", line=error.lineno
        )
        return
    except (XmlRefused, ValueError, LookupError) as error:
        yield pending
        source.tell(
            f"{error}; read up to here{unfinished()}", line=made.CurrentLineNumber
        )
        return
    yield pending


class Node:
    """An element: its name without a namespace, attributes, text and children."""

    __slots__ = ("attrs", "children", "parts", "tag", "up")

    def __init__(self, tag: str, attrs: dict[str, str], up: "Node | None") -> None:
        self.tag = tag
        self.attrs = attrs
        self.up = up
        self.parts: list[str] = []
        self.children: list[Node] = []

    @property
    def text(self) -> str:
        """Its own text, stripped."""
        return "".join(self.parts).strip()

    def get(self, name: str, default: str = "") -> str:
        """Return an attribute."""
        return self.attrs.get(name, default)

    def child(self, *path: str) -> "Node | None":
        """Return the first descendant along a path of names."""
        node: Node | None = self
        for name in path:
            node = (
                next((c for c in node.children if c.tag == name), None)
                if node
                else None
            )
        return node

    def textat(self, *path: str) -> str:
        """Return the text of the first descendant along a path, or nothing."""
        node = self.child(*path)
        return node.text if node else ""

    def all(self, tag: str) -> "Iterator[Node]":
        """Yield the children of a name."""
        return (child for child in self.children if child.tag == tag)

    def above(self, tag: str) -> "list[Node]":
        """Return the enclosing elements of a name, outermost first."""
        found, node = [], self.up
        while node:
            if node.tag == tag:
                found.append(node)
            node = node.up
        return found[::-1]


def nodes(
    source: Source, wanted: frozenset[str], keep: frozenset[str] = frozenset()
) -> Iterator[Node]:
    """Yield each wanted element when it ends, then forget it.

    Elements named in `keep` stay with their parents, to be looked at from there.
    """
    made = parser()
    ready: list[Node] = []
    stack: list[Node] = []
    depth_inside = 0

    def start(tag: str, attrs: dict[str, str]) -> None:
        nonlocal depth_inside
        tag = tag.rpartition(":")[2]
        if len(stack) >= MAX_DEPTH:
            raise XmlRefused(f"elements are nested over {MAX_DEPTH} deep")
        stack.append(Node(tag, attrs, stack[-1] if stack else None))
        depth_inside += tag in wanted

    def end(_: str) -> None:
        nonlocal depth_inside
        node = stack.pop()
        if node.tag in wanted:
            depth_inside -= 1
            ready.append(node)
        if stack and (depth_inside or node.tag in keep):
            stack[-1].children.append(node)

    def text(piece: str) -> None:
        if stack:
            stack[-1].parts.append(piece)

    made.StartElementHandler = start
    made.EndElementHandler = end
    made.CharacterDataHandler = text

    def unfinished() -> str:
        for node in reversed(stack):
            if node.tag in wanted:
                name = node.get("name") or node.get("testName") or node.get("fullname")
                return f"; <{node.tag}> {name!r} was half read and is lost"
        return ""

    yield from chain.from_iterable(feed(source, made, ready, unfinished))
