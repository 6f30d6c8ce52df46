"""Apply edits to a file: checked first, then whole or not at all."""

import ast
import contextlib
import os
import tempfile
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maestro_migrate.errors import GuardError
from maestro_migrate.find import Edit


@dataclass(frozen=True, slots=True)
class Text:
    """A file's text and what is needed to write it back as it was."""

    text: str  # newlines as \n
    encoding: str
    newline: str  # the first kind found
    mixed: bool  # several kinds of newline


def read(path: Path) -> Text:
    """Read a Python file in the encoding it declares.

    Raises:
        SyntaxError: the encoding it declares does not exist.
        UnicodeDecodeError: the bytes are not in that encoding.
    """
    raw = path.read_bytes()
    with path.open("rb") as file:
        encoding, _ = tokenize.detect_encoding(file.readline)
    text = raw.decode(encoding)
    newline = "\r\n" if "\r\n" in text else "\n"
    rest = text.replace("\r\n", "") if newline == "\r\n" else text
    mixed = (newline == "\r\n" and "\n" in rest) or "\r" in rest
    return Text(text.replace("\r\n", "\n"), encoding, newline, mixed)


def read_any(path: Path) -> Text:
    """Read a file that may be something other than Python, as UTF-8 then."""
    if path.suffix in {".py", ".pyi"}:
        return read(path)
    text = path.read_bytes().decode("utf-8") if path.exists() else ""
    newline = "\r\n" if "\r\n" in text else "\n"
    return Text(text.replace("\r\n", "\n"), "utf-8", newline, mixed=False)


def edited(text: str, edits: Sequence[Edit], tree: ast.Module) -> str:
    """Return the text with the edits, proven to mean what was intended.

    Raises:
        GuardError: the result's tree is not the old tree with exactly the edited
            nodes replaced.
    """
    pieces, at = [], 0
    for edit in edits:
        if edit.start < at:
            raise GuardError(f"line {edit.line}: two edits overlap")
        pieces += [text[at : edit.start], edit.new]
        at = edit.end
    result = "".join([*pieces, text[at:]])
    try:
        got = ast.dump(ast.parse(result))
    except SyntaxError as error:
        raise GuardError(f"line {error.lineno}: the result is no Python") from error
    _Expected({id(edit.node): edit for edit in edits}).generic_visit(tree)
    if ast.dump(tree) != got:
        raise GuardError("the result's tree differs in more than the edits")
    return result


class _Expected(ast.NodeTransformer):
    """The old tree with edited nodes replaced by what they become."""

    def __init__(self, edits: dict[int, Edit]) -> None:
        self.edits = edits

    def visit(self, node: ast.AST) -> ast.AST | list[ast.stmt]:
        edit = self.edits.get(id(node))
        if edit is None:
            self.generic_visit(node)
            return node
        if isinstance(node, ast.alias):
            statement = ast.parse(f"import {edit.becomes}").body[0]
            assert isinstance(statement, ast.Import)
            return statement.names[0]
        if isinstance(node, ast.stmt):
            return ast.parse(edit.becomes).body
        expression = ast.parse(edit.becomes, mode="eval").body
        if hasattr(node, "kind") and hasattr(expression, "kind"):
            expression.kind = node.kind  # the u of u"..."
        if hasattr(node, "ctx") and hasattr(expression, "ctx"):
            expression.ctx = node.ctx
        return expression


def write(path: Path, text: str, like: Text) -> None:
    """Replace a file: same encoding, newlines and mode; whole or not at all."""
    raw = text.replace("\n", like.newline).encode(like.encoding)
    replace(path, raw)


def replace(path: Path, raw: bytes) -> None:
    """Replace a file's bytes and keep its mode."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(raw)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(path.stat().st_mode if path.exists() else 0o644)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise
