"""`load`, `loads` and `load_all`: from files to documents."""

import os
from collections.abc import Mapping

from ._builder import Root, Session, TagHandler, build
from ._document import Document
from ._source import Limits, Source, decode, read_source
from .errors import ConfigSyntaxError

DEFAULT_LIMITS = Limits()


def load(
    path: str | os.PathLike[str],
    *,
    limits: Limits = DEFAULT_LIMITS,
    tags: Mapping[str, TagHandler] | None = None,
) -> Document:
    """Read one YAML document from a file.

    Args:
        path: the file, UTF-8.
        limits: how much the document may ask for.
        tags: functions for tags of your own, as in `{"!env": os.environ.get}`.

    Raises:
        ConfigError: a leaf of it, with file, line and column.
    """
    session = Session(limits=limits, tags=tags or {})
    source = read_source(path, limits=limits)
    return _single(session, source)


def loads(
    text: str | bytes,
    name: str = "<string>",
    *,
    limits: Limits = DEFAULT_LIMITS,
    tags: Mapping[str, TagHandler] | None = None,
) -> Document:
    """Read one YAML document from a text; `name` stands for the file in errors."""
    session = Session(limits=limits, tags=tags or {})
    data = text.encode() if isinstance(text, str) else text
    return _single(session, decode(data, name, limits=limits))


def _single(session: Session, source: Source) -> Document:
    roots = build(session, source)
    if len(roots) > 1:
        found = source.diagnostic(
            roots[1].index,
            f"a second document starts here, of {len(roots)} in the file",
            code="multi-document",
            hint="use load_all() to read them all",
        )
        raise ConfigSyntaxError(found)
    return _document(session, source, roots[0] if roots else Root(None, 0))


def _document(session: Session, source: Source, root: Root) -> Document:
    return Document(
        root.value,
        source=source,
        start=root.index,
        marks=session.marks,
        keep=session.keep,
        traps=frozenset(session.scalars.traps),
    )


def load_all(
    path: str | os.PathLike[str],
    *,
    limits: Limits = DEFAULT_LIMITS,
    tags: Mapping[str, TagHandler] | None = None,
) -> list[Document]:
    """Read every document of a file, in its order."""
    session = Session(limits=limits, tags=tags or {})
    source = read_source(path, limits=limits)
    return [_document(session, source, root) for root in build(session, source)]
