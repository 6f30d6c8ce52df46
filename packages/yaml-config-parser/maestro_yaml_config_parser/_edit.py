"""Change values in a YAML text and leave every other byte as it was.

An edit finds the characters of one node, replaces those, and reads the result
again: when it does not hold exactly the value that was asked for, the edit is
refused and the text stays as it was.
"""

import json
import os
import re
import tempfile
from contextlib import suppress
from pathlib import Path as FilePath
from typing import Any, Self

import yaml

from ._builder import Session, build
from ._document import _copy, _step
from ._paths import Path, format_path, parse_path
from ._scalars import Scalars
from ._source import Limits, Source, read_source
from .errors import ConfigError, EditError, PathNotFoundError, argument_error

_PROPERTY = re.compile(r"(?:&\S+[ \t]+)|(?:!\S*[ \t]+)")
_HEADER = re.compile(r"[ \t]*(?:[&!]\S+[ \t]+)*[|>]\S*")
_SAFE = re.compile(r"[A-Za-z_/.][\w ./@+-]*\Z")


class Edit:
    """The edits of one text; a context manager that saves at the end.

    Raises:
        EditError: a change that cannot be made without touching more.
    """

    def __init__(
        self, source: Source, limits: Limits, *, file: FilePath | None = None
    ) -> None:
        self.source = source
        self._limits = limits
        self._file = file
        self._loaded = source.text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._file is not None:
            self.save()

    @property
    def text(self) -> str:
        """The text as it is now, a byte order mark included."""
        return ("\ufeff" if self.source.bom else "") + self.source.text

    def set(self, path: str | Path, value: Any) -> None:
        """Change a value, or add a key to its mapping."""
        steps = _steps(path)
        parent, key = self._find(steps[:-1]), steps[-1]
        data = self._data()
        holder = _get(data, steps[:-1])
        if isinstance(holder, dict):
            found = _step(holder, key)
            actual = key if found is None else found[0]
            holder[actual] = value
            node = self._child(parent, actual)
            if node is None:
                self._commit(self._with_key(parent, actual, value), data)
                return
        else:
            if not isinstance(holder, list) or not isinstance(key, int):
                raise self._refusal(parent, f"{format_path(steps)!r} is not in a list")
            if not -len(holder) <= key < len(holder):
                raise self._refusal(
                    parent, f"no item {key}, the list has {len(holder)}", "use append"
                )
            actual = key
            holder[key] = value
            node = parent.value[key]
        self._refuse_alias(node, parent, actual)
        self._commit(self._with_value(node, value), data)

    def remove(self, path: str | Path) -> None:
        """Remove a key or an item, with its line when it has one of its own."""
        steps = _steps(path)
        parent, key = self._find(steps[:-1]), steps[-1]
        data = self._data()
        holder = _get(data, steps[:-1])
        found = _step(holder, key)
        if found is None:
            raise self._missing(steps)
        del holder[found[0]]
        if isinstance(parent, yaml.MappingNode):
            pairs = [(k, v) for k, v in parent.value]
            at = next(
                (i for i, (k, _) in enumerate(pairs) if self._is_key(k, found[0])), None
            )
            if at is None:
                raise self._refusal(parent, f"{key!r} comes from a merge key")
        else:
            pairs = [(v, v) for v in parent.value]
            at = found[0]
        self._commit(self._without(parent, pairs, at), data)

    def append(self, path: str | Path, value: Any) -> None:
        """Add an item at the end of a list."""
        steps = _steps(path) if path not in ("", "$", ()) else ()
        node = self._find(steps)
        data = self._data()
        holder = _get(data, steps)
        if not isinstance(holder, list):
            raise self._refusal(node, f"{format_path(steps)!r} is not a list")
        holder.append(value)
        self._commit(self._with_item(node, value), data)

    def comment(self, path: str | Path, text: str | None) -> None:
        """Set the comment at the end of a value's line; None takes it away.

        The comment of a nested block stands behind its key.
        """
        if text is not None and not text.isprintable():
            raise ValueError(f"a comment is one line of printable text, got {text!r}")
        steps = _steps(path)
        parent, key = self._find(steps[:-1]), steps[-1]
        node = self._find(steps)
        end = self._end(node)
        if self._is_block(node):
            pairs = parent.value if isinstance(parent, yaml.MappingNode) else []
            keys = [k for k, _ in pairs if self._is_key(k, key)]
            if not keys:
                raise self._refusal(node, "an item that is a block has no line")
            end = self.source.text.index(":", self._end(keys[0])) + 1
            if isinstance(node, yaml.ScalarNode):
                header = _HEADER.match(self.source.text, end)
                end = header.end() if header else end
        rest = self.source.text[end : self._line_end(end)]
        before, mark, _ = rest.partition("#")
        if before.strip() or (mark and not before):
            raise self._refusal(
                node, f"{before.strip()!r} stands behind it on its line",
                "put each value on a line of its own",
            )  # fmt: skip
        new = "" if text is None else (before if mark else "  ") + f"# {text}".rstrip()
        after = self.source.text[end + len(rest) :]
        self._commit(self.source.text[:end] + new + after, self._data())

    def save(self) -> None:
        """Write the file: a new one beside it, then renamed over it, and synced.

        Raises:
            EditError: somebody else changed the file since it was read.
        """
        if self._file is None or self.source.text == self._loaded:
            return
        now = read_source(self._file, limits=self._limits)
        if now.text != self._loaded:
            found = now.diagnostic(0, "the file changed since it was read", code="edit")
            raise EditError(found)
        _write(self._file.resolve(), self.text.encode())
        self._loaded = self.source.text

    # Finding

    def _compose(self) -> Any:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return yaml.compose(self.source.text, Loader=loader)

    def _session(self) -> Session:
        return Session(limits=self._limits, unknown_tags="ignore")

    def _data(self) -> Any:
        roots = build(self._session(), self.source)
        return _copy(roots[0].value) if roots else None

    def _find(self, steps: Path) -> Any:
        node = self._compose()
        walked: list[Any] = []
        for step in steps:
            walked.append(step)
            if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
                inside = -len(node.value) <= step < len(node.value)
                child = node.value[step] if inside else None
            else:
                child = self._child(node, step)
            if child is None:
                raise self._missing(tuple(walked))
            self._refuse_alias(child, node, step)
            node = child
        return node

    def _child(self, node: Any, key: Any) -> Any:
        if not isinstance(node, yaml.MappingNode):
            return None
        return next((v for k, v in node.value if self._is_key(k, key)), None)

    def _is_key(self, node: Any, key: Any) -> bool:
        if not isinstance(node, yaml.ScalarNode):
            return False
        if node.style:
            return bool(node.value == key)
        value = Scalars(self._limits.digits)[node.value]
        same = value == key and isinstance(value, bool) is isinstance(key, bool)
        return same or (isinstance(key, str) and node.value == key)

    def _refuse_alias(self, node: Any, parent: Any, key: Any) -> None:
        """A node is an alias when its anchor stands before its key or neighbour."""
        before = parent.start_mark.index
        if isinstance(parent, yaml.MappingNode):
            keys = (k for k, _ in parent.value if self._is_key(k, key))
            before = next(keys).start_mark.index
        else:
            earlier = parent.value[: key % len(parent.value)]
            before = max([before, *(v.start_mark.index + 1 for v in earlier)])
        if node.start_mark.index < before:
            raise self._refusal(
                node, "this value is an alias", "change it where the anchor is"
            )

    # Writing

    def _with_value(self, node: Any, value: Any) -> str:
        text = self.source.text
        start, end = node.start_mark.index, self._end(node)
        properties = _PROPERTY.match(text, start)
        kept = ""
        while properties is not None and properties.end() <= end:
            if properties[0].startswith("&"):
                kept += properties[0]
            start_of_rest = properties.end()
            properties = _PROPERTY.match(text, start_of_rest)
        new = kept + self._inline(value, single=self._style(node))
        if start == end:
            gap = "" if start and text[start - 1] in " \t" else " "
            return text[:start] + gap + new + text[end:]
        return text[:start] + new + text[end:]

    def _style(self, node: Any) -> str:
        style = node.style if isinstance(node, yaml.ScalarNode) else None
        return style if style in ("'", '"') else ""

    def _inline(self, value: Any, *, single: str = "") -> str:
        """Write a value on one line."""
        if isinstance(value, str):
            return _quoted(value, single)
        if isinstance(value, dict):
            pairs = (f"{self._inline(k)}: {self._inline(v)}" for k, v in value.items())
            return "{" + ", ".join(pairs) + "}"
        if isinstance(value, list | tuple):
            return "[" + ", ".join(self._inline(v) for v in value) + "]"
        if value is None or isinstance(value, bool):
            return json.dumps(value)
        if isinstance(value, float):
            return _float(value)
        if isinstance(value, int):
            return str(value)
        raise TypeError(f"YAML has no {type(value).__name__}: {value!r:.60}")

    def _end(self, node: Any) -> int:
        """Return the offset after the last character of a node."""
        text, end = self.source.text, int(node.end_mark.index)
        block = isinstance(node, yaml.CollectionNode) and not node.flow_style
        if block and node.value:
            last = node.value[-1]
            child = last[1] if isinstance(last, tuple) else last
            if child.start_mark.index >= node.start_mark.index:
                inner = self._end(child)
                key_end = self._end(last[0]) if isinstance(last, tuple) else 0
                return max(inner, key_end)
        if isinstance(node, yaml.ScalarNode) and node.style not in ("|", ">"):
            return end
        start = int(node.start_mark.index)
        return start + len(text[start:end].rstrip())

    def _is_block(self, node: Any) -> bool:
        if isinstance(node, yaml.CollectionNode):
            return not node.flow_style and bool(node.value)
        return node.style in ("|", ">")

    def _line_end(self, index: int) -> int:
        text = self.source.text
        while index < len(text) and text[index] not in "\r\n":
            index += 1
        return index

    def _newline(self) -> str:
        match = re.search(r"\r\n|\r|\n", self.source.text)
        return match[0] if match else "\n"

    def _with_key(self, node: Any, key: Any, value: Any) -> str:
        text = self.source.text
        entry = f"{self._inline(key)}: {self._inline(value)}"
        if not isinstance(node, yaml.MappingNode):
            raise self._refusal(node, "a key can be added to a mapping only")
        if node.flow_style or not node.value:
            return self._into_flow(node, entry)
        end = self._line_end(self._end(node))
        indent = " " * self._column(node.value[0][0])
        return text[:end] + self._newline() + indent + entry + text[end:]

    def _with_item(self, node: Any, value: Any) -> str:
        text = self.source.text
        if node.flow_style or not node.value:
            return self._into_flow(node, self._inline(value))
        end = self._line_end(self._end(node))
        dash = self._dash(node.value[-1])
        indent = " " * (dash - self._line_start(dash))
        prefix = text[self._line_start(dash) : dash]
        if prefix.strip():  # as in `- - a`
            indent = " " * len(prefix)
        return (
            text[:end]
            + self._newline()
            + f"{indent}- {self._inline(value)}"
            + text[end:]
        )

    def _into_flow(self, node: Any, entry: str) -> str:
        text = self.source.text
        close = node.end_mark.index - 1
        if text[close : close + 1] not in ("}", "]"):
            raise self._refusal(node, "cannot be extended")
        if not node.value:
            return text[:close] + entry + text[close:]
        last = node.value[-1]
        end = self._end(last[1] if isinstance(last, tuple) else last)
        return text[:end] + ", " + entry + text[end:]

    def _without(self, parent: Any, pairs: list[tuple[Any, Any]], at: int) -> str:
        text = self.source.text
        flow = bool(parent.flow_style)
        if len(pairs) == 1:
            empty = "{}" if isinstance(parent, yaml.MappingNode) else "[]"
            start = self._start(parent, pairs, 0) if not flow else None
            begin = parent.start_mark.index if start is None else start
            return text[:begin] + empty + text[self._end(parent) :]
        start = self._start(parent, pairs, at)
        if at + 1 < len(pairs) and (flow or not self._alone(start)):
            return text[:start] + text[self._start(parent, pairs, at + 1) :]
        end = max(self._end(pairs[at][0]), self._end(pairs[at][1]))
        if flow:
            before = max(self._end(pairs[at - 1][0]), self._end(pairs[at - 1][1]))
            return text[:before] + text[end:]
        end = self._line_end(end)
        newline = re.compile(r"\r\n|\r|\n").match(text, end)
        if newline is not None:
            return text[: self._line_start(start)] + text[newline.end() :]
        begin = self._line_start(start)
        return text[:begin].removesuffix(self._newline()) + text[end:]

    def _start(self, parent: Any, pairs: list[tuple[Any, Any]], at: int) -> int:
        node = pairs[at][0]
        if isinstance(parent, yaml.SequenceNode) and not parent.flow_style:
            return self._dash(node)
        return int(node.start_mark.index)

    def _dash(self, node: Any) -> int:
        return self.source.text.rindex("-", 0, max(node.start_mark.index, 1))

    def _alone(self, index: int) -> bool:
        """Whether only blanks stand before an offset on its line."""
        return not self.source.text[self._line_start(index) : index].strip()

    def _line_start(self, index: int) -> int:
        text = self.source.text
        return max(text.rfind("\n", 0, index), text.rfind("\r", 0, index)) + 1

    def _column(self, node: Any) -> int:
        index: int = node.start_mark.index
        return index - self._line_start(index)

    def _commit(self, text: str, expected: Any) -> None:
        """Take the new text when it holds exactly what was asked for."""
        new = Source(
            text, self.source.name, layer=self.source.layer, bom=self.source.bom
        )
        try:
            roots = build(self._session(), new)
        except ConfigError as e:
            raise self._broken(e.first.message) from e
        if (roots[0].value if roots else None) != expected:
            raise self._broken("the result would hold something else")
        self.source = new

    def _broken(self, why: str) -> EditError:
        found = self.source.diagnostic(
            0, f"this edit needs more of the text rewritten: {why}", code="edit",
            hint="change the file by hand here",
        )  # fmt: skip
        return EditError(found)

    def _refusal(self, node: Any, message: str, hint: str = "") -> EditError:
        index = node.start_mark.index if node is not None else 0
        return EditError(self.source.diagnostic(index, message, code="edit", hint=hint))

    def _missing(self, steps: Path) -> PathNotFoundError:
        path = format_path(steps)
        found = self.source.diagnostic(0, f"no {path!r} in the text", code="path")
        return PathNotFoundError(found, path=path)


def _steps(path: str | Path) -> Path:
    steps = parse_path(path) if isinstance(path, str) else path
    if not steps:
        raise argument_error("edit", "no path was given", "such as 'suites[0].name'")
    return steps


def _get(data: Any, steps: Path) -> Any:
    for step in steps:
        found = _step(data, step)
        data = data[step if found is None else found[0]]
    return data


def _quoted(text: str, style: str) -> str:
    plain = _SAFE.match(text) and text == text.strip() and not style
    if plain and Scalars(1_000)[text] == text and " #" not in text and ": " not in text:
        scalars = Scalars(1_000)
        if type(scalars[text]) is str and not scalars.traps:
            return text
    if style == "'" and text.isprintable():
        return "'" + text.replace("'", "''") + "'"
    return '"' + "".join(_escaped(c) for c in text) + '"'


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\U{code:08X}" if code > 0xFFFF else f"\\u{code:04X}"


def _float(value: float) -> str:
    if value != value:  # noqa: PLR0124 - nan
        return ".nan"
    if value in (float("inf"), float("-inf")):
        return ".inf" if value > 0 else "-.inf"
    text = repr(value)
    return text if "." in text or "e-" in text or "e+" in text else text + ".0"


def _write(file: FilePath, data: bytes) -> None:
    mode = file.stat().st_mode & 0o7777
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        FilePath(name).replace(file)
    except BaseException:
        FilePath(name).unlink(missing_ok=True)
        raise
    with suppress(PermissionError):  # who may write in a folder may still not read it
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
