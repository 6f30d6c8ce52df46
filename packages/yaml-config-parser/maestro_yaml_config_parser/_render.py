"""Documents as text: YAML, JSON, differences, explanations; secrets hidden."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from ._arguments import check_is
from ._document import Document, Origin
from ._expressions import Secret
from ._paths import Path, format_path
from ._scalars import PlainTextError, Scalars
from .errors import argument_error

_ABSENT = object()


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One place where two documents differ; `str()` is one line."""

    path: str
    kind: str
    old: Any
    new: Any
    old_origin: Origin | None
    new_origin: Origin | None

    def __str__(self) -> str:
        sign = {"added": "+", "removed": "-", "changed": "~"}[self.kind]
        old, new = _short(self.old), _short(self.new)
        values = {"added": new, "removed": old}.get(self.kind, f"{old} -> {new}")
        origin = self.new_origin or self.old_origin
        return f"{sign} {self.path}: {values}  ({origin})"


def redacted(value: Any) -> Any:
    """Return a copy with `***` for every secret."""
    if isinstance(value, Secret):
        return "***"
    if isinstance(value, dict):
        return {k: redacted(v) for k, v in value.items()}
    if isinstance(value, list):
        return [redacted(v) for v in value]
    return value


def _revealed(value: Any) -> Any:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, dict):
        return {k: _revealed(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_revealed(v) for v in value]
    return value


class _Dumper(yaml.SafeDumper):
    """Quotes what our loader would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, value: str) -> Any:
    scalars = Scalars(1_000)
    try:
        quote = type(scalars[value]) is not str or bool(scalars.traps)
    except PlainTextError:
        quote = True
    style = "'" if quote else ("|" if "\n" in value else None)
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def render(root: Any, kind: str = "yaml", *, redact: bool = True) -> str:
    """Return data as YAML or JSON."""
    shown = redacted(root) if redact else _revealed(root)
    if kind == "json":
        return json.dumps(shown, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if kind != "yaml":
        message = f"kind is 'yaml' or 'json', got {kind!r}"
        raise argument_error("render()", message)
    text: str = yaml.dump(shown, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text


def explain(document: Document, path: str | Path) -> str:
    """Say where a value comes from."""
    item = document.at(path)
    lines = [f"{item.path or '$'} = {_short(item.value)}"]
    for i, origin in enumerate((item.origin, *item.origin.overrode)):
        verb = "set at" if i == 0 else "over"
        lines.append(f"  {verb} {origin}  ({origin.layer})")
    return "\n".join(lines)


def _short(value: Any) -> str:
    text = json.dumps(redacted(value), ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def diff(old: Document, new: Document) -> tuple[Difference, ...]:
    """Return what differs, in the order of the documents."""
    check_is("diff()", "other", "a Document", new, Document, "load() makes one")
    return tuple(_differences(old, new, old.root, new.root, ()))


def _differences(
    one: Document, two: Document, old: Any, new: Any, path: Path
) -> Iterator[Difference]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = dict.fromkeys([*old, *new])
        pairs = [(k, old.get(k, _ABSENT), new.get(k, _ABSENT)) for k in keys]
    elif isinstance(old, list) and isinstance(new, list):
        length = max(len(old), len(new))
        pairs = [(i, _item(old, i), _item(new, i)) for i in range(length)]
    else:
        if old is not new and (type(old) is not type(new) or old != new):
            yield _difference(one, two, old, new, path)
        return
    for key, left, right in pairs:
        yield from _differences(one, two, left, right, (*path, key))


def _item(values: list[Any], index: int) -> Any:
    return values[index] if index < len(values) else _ABSENT


def _difference(
    one: Document, two: Document, old: Any, new: Any, path: Path
) -> Difference:
    kind = "added" if old is _ABSENT else "removed" if new is _ABSENT else "changed"
    return Difference(
        path=format_path(path) or "$",
        kind=kind,
        old=None if old is _ABSENT else redacted(old),
        new=None if new is _ABSENT else redacted(new),
        old_origin=None if old is _ABSENT else one.at(path).origin,
        new_origin=None if new is _ABSENT else two.at(path).origin,
    )
