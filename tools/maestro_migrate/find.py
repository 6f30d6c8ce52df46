"""Find what must change in one file: pure, nothing is written.

Each edit replaces the smallest span that has to change: the module path of an
import, a dotted name, a string. So comments, line breaks and quotes stay. What
cannot be changed safely becomes a note with its line.
"""

import ast
import io
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from maestro_migrate.mapping import ModuleMap, Package

# Calls whose string argument names a module or an attribute of one.
STRING_CALLS = {
    "patch", "import_module", "importorskip", "setattr", "delattr", "find_spec",
    "resolve_name",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the characters `start:end` by `new`."""

    start: int
    end: int
    new: str
    line: int
    # For the guard: the node that changes and what the whole of it becomes.
    node: ast.AST = field(compare=False, repr=False)
    becomes: str = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Note:
    """Something left for a person."""

    line: int
    message: str


@dataclass(slots=True)
class Findings:
    """What one file needs."""

    tree: ast.Module  # of the text as it is; `edited` compares against it
    edits: list[Edit] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    packages: set[str] = field(default_factory=set)  # used after the edits


class Source:
    """A file's text with its tree, and spans of nodes in characters."""

    def __init__(self, text: str) -> None:
        """Parse the text.

        Raises:
            SyntaxError: it is no Python.
        """
        self.text = text
        self.tree = ast.parse(text)
        self._lines = text.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def offset(self, line: int, column: int) -> int:
        """Return a position in characters; `column` is in UTF-8 bytes, as ast has it."""
        text = self._lines[line - 1]
        if not text.isascii():
            column = len(text.encode()[:column].decode())
        return self._starts[line - 1] + column

    def span(self, node: ast.stmt | ast.expr | ast.alias) -> tuple[int, int]:
        """Return where a node starts and ends."""
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self.offset(node.lineno, node.col_offset),
            self.offset(node.end_lineno, node.end_col_offset),
        )

    def indent(self, node: ast.stmt) -> str | None:
        """Return the white space before a statement; None if code stands there."""
        line_start = self._starts[node.lineno - 1]
        before = self.text[line_start : self.span(node)[0]]
        return before if not before.strip() else None

    def alone(self, node: ast.stmt) -> bool:
        """Tell whether no other statement shares the lines of this one."""
        rest = self.text[self.span(node)[1] :].split("\n", 1)[0].strip()
        return self.indent(node) is not None and (not rest or rest.startswith("#"))


def find(
    text: str,
    module: str,
    mapping: ModuleMap,
    *,
    strings: bool = False,
    is_module: Callable[[str], bool] = lambda _name: False,
) -> Findings:
    r"""Return the edits and notes of one file.

    Args:
        text: the source, newlines as `\n`.
        module: its dotted name, for relative imports; a package's ends in `.__init__`.
        mapping: old to new.
        strings: also change strings outside the calls known to name modules.
        is_module: tells whether a dotted name is a module of the service.

    Raises:
        SyntaxError: the file is no Python.
    """
    source = Source(text)
    finder = _Finder(source, module, mapping, strings=strings, is_module=is_module)
    finder.visit(source.tree)
    finder.finish()
    found = finder.found
    found.edits.sort(key=lambda edit: edit.start)
    found.notes.sort(key=lambda note: note.line)
    return found


class _Finder(ast.NodeVisitor):
    def __init__(
        self,
        source: Source,
        module: str,
        mapping: ModuleMap,
        *,
        strings: bool,
        is_module: Callable[[str], bool],
    ) -> None:
        self.source, self.mapping, self.strings = source, mapping, strings
        self.is_module = is_module
        self.parents = module.split(".")[:-1]
        self.found = Findings(source.tree)
        self.plain: dict[str, tuple[ast.Import, ast.alias, Package]] = {}
        self.roots: dict[str, int] = {}  # how many plain imports bind a root name
        self.dotted: list[tuple[str, ast.Attribute]] = []
        self.root_uses: dict[str, int] = {}
        self.in_call: set[int] = set()

    # Imports

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = self._resolve(node)
        if base is None:
            return
        package = self.mapping.find(base)
        submodules = any(self.is_module(f"{base}.{a.name}") for a in node.names)
        if package is not None and not submodules:
            self._from_old_module(node, package, base)
        elif package is not None or self.mapping.is_parent(base):
            self._from_parent(node, base)

    def _resolve(self, node: ast.ImportFrom) -> str | None:
        if not node.level:
            return node.module
        if node.level > len(self.parents):
            return None
        parts = self.parents[: len(self.parents) - node.level + 1]
        return ".".join([*parts, *([node.module] if node.module else [])])

    def _from_old_module(
        self, node: ast.ImportFrom, package: Package, base: str
    ) -> None:
        if any(alias.name == "*" for alias in node.names):
            self._note(node, f"star import from {base}: name what is used")
            return
        moved = {a: package.new_name(a.name) for a in node.names}
        staying = [alias for alias, new in moved.items() if new is None]
        for alias in staying:
            message = f"{package.module} has no {alias.name!r}; it stays in {base}"
            self._note(alias, message)
        going = [alias for alias, new in moved.items() if new is not None]
        if not going:
            return
        new_text = _render_from(package, [(a, moved[a]) for a in going])
        renamed = any(moved[a] != a.name for a in going)
        if not staying and not renamed:
            start, end = self._module_path(node)
            self._edit(node, start, end, package.module, new_text)
        elif not staying:
            start, end = self.source.span(node)
            self._edit(node, start, end, new_text, new_text)
        else:
            self._split(node, staying, new_text)
        self.found.packages.add(package.name)

    def _from_parent(self, node: ast.ImportFrom, base: str) -> None:
        """Handle `from src.resilience import circuit_breaker` and its like."""
        modules = {}
        for alias in node.names:
            package = self.mapping.find(f"{base}.{alias.name}")
            known = self.mapping.find(base) is None or self.is_module(
                f"{base}.{alias.name}"
            )
            if package is not None and known:
                modules[alias] = package
        if not modules:
            return
        lines = [
            f"import {package.module} as {alias.asname or alias.name}"
            for alias, package in modules.items()
        ]
        staying = [alias for alias in node.names if alias not in modules]
        if staying and self.mapping.find(base) is not None:
            self._note(node, "names and modules in one import: split it first")
            return
        if not staying and len(lines) == 1:
            start, end = self.source.span(node)
            self._edit(node, start, end, lines[0], lines[0])
        elif self.source.alone(node):
            indent = self.source.indent(node) or ""
            text = f"\n{indent}".join(lines)
            if staying:
                self._split(node, staying, text, becomes="\n".join(lines))
            else:
                start, end = self.source.span(node)
                self._edit(node, start, end, text, "\n".join(lines))
        else:
            self._note(
                node, "several imports share a line: put them on lines of their own"
            )
            return
        self.found.packages |= {package.name for package in modules.values()}

    def _split(
        self,
        node: ast.ImportFrom,
        staying: list[ast.alias],
        text: str,
        becomes: str = "",
    ) -> None:
        if not self.source.alone(node):
            self._note(
                node, "several statements share a line: put this on its own line"
            )
            return
        rest = f"from {'.' * node.level}{node.module or ''} import "
        rest += ", ".join(ast.unparse(alias) for alias in staying)
        start, end = self.source.span(node)
        if "#" in self.source.text[start:end]:
            self._note(node, "split by hand: a comment stands between the names")
            return
        indent = self.source.indent(node) or ""
        new = f"{text}\n{indent}{rest}"
        self._edit(node, start, end, new, f"{becomes or text}\n{rest}")

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            package = self.mapping.find(alias.name)
            if alias.asname is None:
                root = alias.name.partition(".")[0]
                self.roots[root] = self.roots.get(root, 0) + 1
            if package is None:
                continue
            if alias.asname is None:
                self.plain[alias.name] = (node, alias, package)
                continue
            start = self.source.span(alias)[0]
            end = start + len(alias.name)
            if self.source.text[start:end] != alias.name:
                self._note(node, f"cannot read this import of {alias.name}")
                continue
            self._edit(
                alias, start, end, package.module, f"{package.module} as {alias.asname}"
            )
            self.found.packages.add(package.name)

    # Uses

    def visit_Attribute(self, node: ast.Attribute) -> None:
        name = _dotted(node)
        if name is None:
            self.generic_visit(node)
            return
        self.dotted.append((name, node))
        root = name.partition(".")[0]
        self.root_uses[root] = self.root_uses.get(root, 0) + 1

    def visit_Name(self, node: ast.Name) -> None:
        self.root_uses[node.id] = self.root_uses.get(node.id, 0) + 1

    def visit_Call(self, node: ast.Call) -> None:
        name = _dotted(node.func) or ""
        if name.rpartition(".")[2] in STRING_CALLS or ".patch." in f".{name}.":
            arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
            self.in_call |= {id(a) for a in arguments if isinstance(a, ast.Constant)}
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if not isinstance(node.value, str):
            return
        package = self.mapping.find(node.value)
        if package is None or not is_path(node.value):
            return
        new = _new_path(node.value, package)
        if new is None:
            self._note(
                node, f"string {node.value!r} names something {package.module} lacks"
            )
        elif self.strings or id(node) in self.in_call:
            start, end = self.source.span(node)
            text = self.source.text[start:end]
            at = text.find(node.value)
            if at < 0 or text.count(node.value) != 1:
                self._note(node, f"string {node.value!r} is written in pieces")
                return
            start += at
            old_end = start + len(node.value)
            self._edit(node, start, old_end, new, repr(new))
            self.found.packages.add(package.name)
        else:
            self._note(
                node, f"string {node.value!r} looks like an old module (--strings)"
            )

    def finish(self) -> None:
        """Decide about plain `import x.y` once all uses of `x` are known."""
        for name, (node, alias, package) in self.plain.items():
            uses = [
                (d, n) for d, n in self.dotted if d == name or d.startswith(f"{name}.")
            ]
            root = name.partition(".")[0]
            others = self.root_uses.get(root, 0) - len(uses)
            if others and self.roots[root] == 1:
                message = f"import {name}: {root!r} is used for other modules too"
                self._note(node, message)
                continue
            targets = []
            for dotted, use in uses:
                new = _new_path(dotted, package)
                if new is None:
                    break
                targets.append((dotted, use, new))
            if len(targets) != len(uses):
                self._note(
                    node, f"import {name}: uses a name that {package.module} lacks"
                )
                continue
            start, end = self.source.span(alias)
            self._edit(alias, start, end, package.module, package.module)
            for dotted, use, new in targets:
                self._edit_dotted(use, dotted, new)
            self.found.packages.add(package.name)

    def _edit_dotted(self, use: ast.Attribute, dotted: str, new: str) -> None:
        start, end = self.source.span(use)
        if self.source.text[start:end] != dotted:
            self._note(use, f"{dotted} is written over several lines")
            return
        self._edit(use, start, end, new, new)

    # Bookkeeping

    def _module_path(self, node: ast.ImportFrom) -> tuple[int, int]:
        """Return the span between `from` and `import`."""
        start, end = self.source.span(node)
        text = self.source.text[start:end]
        first = last = 0
        names = list(_tokens(text))
        for index, token in enumerate(names):
            if token.string == "import" and token.type == tokenize.NAME:
                first, last = names[1].start[1], names[index - 1].end[1]
                lines = text.splitlines(keepends=True)
                first += sum(len(x) for x in lines[: names[1].start[0] - 1])
                last += sum(len(x) for x in lines[: names[index - 1].end[0] - 1])
                break
        return start + first, start + last

    def _edit(
        self, node: ast.AST, start: int, end: int, new: str, becomes: str
    ) -> None:
        line = self.source.text.count("\n", 0, start) + 1
        self.found.edits.append(Edit(start, end, new, line, node, becomes))

    def _note(self, node: ast.stmt | ast.expr | ast.alias, message: str) -> None:
        self.found.notes.append(Note(node.lineno, message))


def _tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    skipped = {tokenize.NL, tokenize.NEWLINE, tokenize.COMMENT, tokenize.INDENT}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            yield token


def _render_from(package: Package, names: list[tuple[ast.alias, str | None]]) -> str:
    parts = []
    for alias, new in names:
        bound = alias.asname or alias.name
        parts.append(str(new) if new == bound else f"{new} as {bound}")
    return f"from {package.module} import {', '.join(parts)}"


def _dotted(node: ast.AST) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(parts)])


def is_path(text: str) -> bool:
    """Tell whether a text could be a dotted name."""
    return all(part.isidentifier() for part in text.split("."))


def _new_path(dotted: str, package: Package) -> str | None:
    """Return `maestro_x.Name.rest` for `old.module.Name.rest`.

    The name is the first part that the package has; what stands before it are
    modules.
    """
    old = max((o for o in package.old if f"{dotted}.".startswith(f"{o}.")), key=len)
    rest = dotted[len(old) :].strip(".").split(".") if dotted != old else []
    for index, part in enumerate(rest):
        new = package.new_name(part)
        if new is not None:
            return ".".join([package.module, new, *rest[index + 1 :]])
    modules_only = all(part.islower() for part in rest)
    return package.module if modules_only else None
