"""`load`, `loads` and `load_all`: from files to documents."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ._arguments import (
    check_file,
    check_files,
    check_is,
    check_options,
    known_names,
)
from ._builder import Root, Session, TagHandler, build
from ._diagnostics import near_file
from ._document import Document
from ._interpolation import SecretSource, Values, inside, interpolate
from ._layers import Layering, refuse_leftover_resets, take_profile
from ._source import Limits, Source, decode, read_source
from .errors import (
    ConfigReadError,
    ConfigSyntaxError,
    IncludeError,
    LimitExceededError,
)

DEFAULT_LIMITS = Limits()
# Known only when a plan runs, so an expression that names one waits until then.
LATER = frozenset({"matrix", "parameters", "variables", "environment"})
StrPath = str | os.PathLike[str]


@known_names
def load(
    path: StrPath,
    *,
    overlays: Iterable[StrPath] = (),
    profile: str | None = None,
    merge: Mapping[str, str] | None = None,
    env: Mapping[str, str] | None = None,
    secrets: SecretSource | None = None,
    values: Mapping[str, Any] | None = None,
    root: StrPath | None = None,
    limits: Limits = DEFAULT_LIMITS,
    tags: Mapping[str, TagHandler] | None = None,
    unknown_tags: str = "refuse",
    references: str = "refuse",
) -> Document:
    """Read one YAML document from a file, with what lies over it.

    Args:
        path: the file, UTF-8.
        overlays: files put over it, later ones on top.
        profile: a name under the key `profiles`, put over all files.
        merge: strategy by path, such as `{"suites[*].cases": "merge:name"}`;
            one of merge, replace, append, prepend, `merge:<key>`.
        env: values for `${env:NAME}`, as in `env=os.environ`.
        secrets: values for `${secret:name}`; they print as `***`.
        values: names for `${{ ... }}`; None leaves such texts alone.
        root: the folder that includes and `${file:...}` must stay in; the
            file's own folder unless given.
        limits: how much the documents may ask for, together.
        tags: functions for tags of your own, as in `{"!upper": str.upper}`.
        unknown_tags: `refuse`, or `ignore` to take the plain value.
        references: `refuse` a `${env:...}` or `${secret:...}` for which no values
            were given, or `keep` such texts as they are. `$${env:X}` is the
            text `${env:X}`.

    Raises:
        ConfigError: a leaf of it, with file, line and column.
    """
    check_file("load()", "path", path, "use loads() for a text")
    over_files = check_files("load()", "overlays", overlays)
    check_options(
        "load()", profile=profile, merge=merge, env=env, secrets=secrets,
        values=values, root=root, references=references,
    )  # fmt: skip
    session = _session("load()", limits, tags, unknown_tags)
    files = _Files(Path(root) if root is not None else Path(path).parent)
    session.include = files.include
    source = read_source(path, limits=limits)
    files.open.append(Path(path).resolve())
    document = _single(session, source, Path(path))
    over = []
    for overlay in over_files:
        upper = read_source(overlay, limits=limits, layer=f"overlay {overlay}")
        files.open[:] = [Path(overlay).resolve()]
        over.append(_single(session, upper))
    document = _layered(session, document, over, profile, merge or {})
    keep = references == "keep"
    _interpolated(session, document, files, env, secrets, values, keep=keep)
    return document


@known_names
def loads(
    text: str | bytes,
    name: str = "<string>",
    *,
    env: Mapping[str, str] | None = None,
    secrets: SecretSource | None = None,
    values: Mapping[str, Any] | None = None,
    profile: str | None = None,
    limits: Limits = DEFAULT_LIMITS,
    tags: Mapping[str, TagHandler] | None = None,
    unknown_tags: str = "refuse",
    references: str = "refuse",
) -> Document:
    """Read one YAML document from a text; `name` stands for the file in errors.

    The arguments are those of `load`; there are no includes.
    """
    check_options(
        "loads()", name=name, env=env, secrets=secrets, values=values,
        profile=profile, references=references,
    )  # fmt: skip
    session = _session("loads()", limits, tags, unknown_tags)
    document = _single(session, _decoded("loads()", text, name, limits))
    document = _layered(session, document, [], profile, {})
    keep = references == "keep"
    _interpolated(session, document, None, env, secrets, values, keep=keep)
    return document


@known_names
def load_all(
    path: StrPath,
    *,
    limits: Limits = DEFAULT_LIMITS,
    tags: Mapping[str, TagHandler] | None = None,
    unknown_tags: str = "refuse",
) -> list[Document]:
    """Read every document of a file, in its order; references stay as they are."""
    check_file("load_all()", "path", path, "use loads_all() for a text")
    session = _session("load_all()", limits, tags, unknown_tags)
    source = read_source(path, limits=limits)
    return [_document(session, source, root) for root in build(session, source)]


@known_names
def loads_all(
    text: str | bytes,
    name: str = "<string>",
    *,
    limits: Limits = DEFAULT_LIMITS,
    tags: Mapping[str, TagHandler] | None = None,
    unknown_tags: str = "refuse",
) -> list[Document]:
    """Read every document of a text; references stay as they are."""
    check_options("loads_all()", name=name)
    session = _session("loads_all()", limits, tags, unknown_tags)
    source = _decoded("loads_all()", text, name, limits)
    return [_document(session, source, root) for root in build(session, source)]


def _session(
    where: str,
    limits: Limits,
    tags: Mapping[str, TagHandler] | None,
    unknown_tags: str,
) -> Session:
    check_options(where, limits=limits, tags=tags, unknown_tags=unknown_tags)
    return Session(limits=limits, tags=tags or {}, unknown_tags=unknown_tags)


def _decoded(where: str, text: str | bytes, name: str, limits: Limits) -> Source:
    hint = "use load() for a file" if isinstance(text, os.PathLike) else ""
    check_is(where, "text", "the YAML itself", text, str | bytes, hint)
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    return decode(data, name, limits=limits)


def _single(session: Session, source: Source, path: Path | None = None) -> Document:
    roots = build(session, source)
    if len(roots) > 1:
        found = source.diagnostic(
            roots[1].index,
            f"a second document starts here, of {len(roots)} in the file",
            code="multi-document",
            hint="use load_all() to read them all",
        )
        raise ConfigSyntaxError(found)
    return _document(session, source, roots[0] if roots else Root(None, 0), path)


def _document(
    session: Session, source: Source, root: Root, path: Path | None = None
) -> Document:
    return Document(
        root.value,
        source=source,
        start=root.index,
        marks=session.marks,
        keep=session.keep,
        traps=session.scalars.traps,
        limits=session.limits,
        path=path,
    )


def _layered(
    session: Session,
    base: Document,
    over: list[Document],
    profile: str | None,
    merge: Mapping[str, str],
) -> Document:
    if over or profile is not None:
        layering = Layering(session, base, merge)
        for overlay in over:
            base.root = layering.over(base.root, overlay)
        if profile is not None:
            top = take_profile(base, profile)
            renamed = base.relabelled(top, f"profile {profile}")
            rest = layering.without(base.root, "profiles")
            base.root = layering.over(rest, renamed)
    if session.resets:
        refuse_leftover_resets(base)
    return base


def _interpolated(
    session: Session,
    document: Document,
    files: "_Files | None",
    env: Mapping[str, str] | None,
    secrets: SecretSource | None,
    names: Mapping[str, Any] | None,
    *,
    keep: bool,
) -> None:
    if not session.references:
        return
    values = Values(
        env=env,
        secrets=secrets,
        names=names,
        deferred=LATER,
        keep=keep,
        read_file=None if files is None else files.reader(session.limits),
    )
    if values.active or not keep:
        interpolate(document, values, session)


class _Files:
    """The files of one load: what is open, and the folder they stay in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.open: list[Path] = []

    def include(
        self, session: Session, source: Source, index: int, name: str, depth: int
    ) -> Any:
        """Return the root of an included file."""
        target = self._inside(source, index, name)
        if target in self.open:
            at = self.open.index(target)
            chain = " -> ".join(p.name for p in [*self.open[at:], target])
            raise _include_error(source, index, f"include cycle: {chain}", "")
        session.includes += 1
        if session.includes > session.limits.includes:
            allowed = session.limits.includes
            found = source.diagnostic(
                index,
                f"includes: more than the {allowed} allowed",
                code="limit-includes",
            )
            raise LimitExceededError(found, limit="includes", allowed=allowed)
        shown = os.path.join(os.path.dirname(source.name), name)  # noqa: PTH118, PTH120 - the name as shown
        try:
            inner = read_source(target, limits=session.limits)
        except ConfigReadError as e:
            raise _include_error(
                source, index, f"cannot include {name!r}: {e.first.message}",
                e.first.hint or near_file(target),
            ) from e  # fmt: skip
        inner.name = shown
        inner.layer = f"include {name}"
        self.open.append(target)
        try:
            return _single_root(session, inner, depth)
        finally:
            self.open.pop()

    def _inside(self, source: Source, index: int, name: str) -> Path:
        target = inside(self.root, Path(source.name), name)
        if target is None:
            raise _include_error(
                source, index, f"{name!r} lies outside {str(self.root)!r}",
                "pass root=... to allow a wider folder",
            )  # fmt: skip
        return target

    def reader(self, limits: Limits) -> Any:
        """Return a function for `${file:...}`."""

        def read(source: Source, name: str) -> str:
            from ._expressions import ExpressionError

            target = inside(self.root, Path(source.name), name)
            if target is None:
                raise ExpressionError(
                    f"{name!r} lies outside {str(self.root)!r}",
                    hint="pass root=... to allow a wider folder",
                )
            try:
                text = read_source(target, limits=replace(limits)).text
            except (ConfigReadError, LimitExceededError) as e:
                raise ExpressionError(
                    f"file {name!r} {e.first.message}", hint=e.first.hint
                ) from e
            return text.removesuffix("\n")

        return read


def _single_root(session: Session, source: Source, depth: int) -> Any:
    roots = build(session, source, depth=depth)
    if len(roots) > 1:
        raise _include_error(
            source, roots[1].index, "an included file has one document", ""
        )
    return roots[0].value if roots else None


def _include_error(source: Source, index: int, message: str, hint: str) -> IncludeError:
    found = source.diagnostic(index, message, code="include", hint=hint)
    return IncludeError(found)
