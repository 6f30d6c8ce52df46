"""Plan the migration of a service, show it, carry it out."""

import ast
import difflib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from maestro_migrate import apply, dependencies
from maestro_migrate.errors import GuardError
from maestro_migrate.find import Note, find, is_path
from maestro_migrate.mapping import ModuleMap

SKIPPED = {
    ".git",
    ".venv",
    "venv",
    "node_modules",
    "__pycache__",
    "build",
    "dist",
    ".tox",
}


@dataclass(frozen=True, slots=True)
class Change:
    """A file that will have other contents."""

    path: Path  # relative to the service
    before: str
    after: str

    def diff(self) -> str:
        """Return a unified diff."""
        return "".join(
            difflib.unified_diff(
                self.before.splitlines(keepends=True),
                self.after.splitlines(keepends=True),
                f"a/{self.path}",
                f"b/{self.path}",
            )
        )


@dataclass(slots=True)
class Plan:
    """All that a migration does to one service."""

    root: Path
    changes: list[Change] = field(default_factory=list)
    notes: list[tuple[Path, Note]] = field(default_factory=list)
    packages: set[str] = field(default_factory=set)
    copies: list[Path] = field(default_factory=list)  # the old modules themselves
    files: int = 0  # looked at


def plan(
    root: Path,
    mapping: ModuleMap,
    *,
    strings: bool = False,
    progress: Callable[[int], object] = lambda _count: None,
) -> Plan:
    """Return what would change below `root`; nothing is written.

    Args:
        root: the service; module names are relative to it.
        mapping: old modules to packages.
        strings: also change strings outside known calls.
        progress: called with the number of files looked at.
    """
    found = Plan(root)
    copies = set(old_files(root, mapping))
    found.copies = sorted(copies)
    for path in python_files(root):
        found.files += 1
        progress(found.files)
        inside = path.relative_to(root)
        if inside not in copies:
            _plan_file(found, path, inside, mapping, strings=strings)
    for change in dependencies.plan(root, found.packages, mapping):
        found.changes.append(Change(*change))
    return found


def _plan_file(
    found: Plan, path: Path, inside: Path, mapping: ModuleMap, *, strings: bool
) -> None:
    try:
        text = apply.read(path)
    except (SyntaxError, UnicodeDecodeError, OSError) as error:
        found.notes.append((inside, Note(1, f"cannot be read: {error}")))
        return
    # A cheap look first: most files name no old module.
    if not any(root in text.text for root in mapping.roots):
        return
    try:
        findings = find(
            text.text,
            module_name(inside),
            mapping,
            strings=strings,
            is_module=lambda name: is_module(found.root, name),
        )
    except (SyntaxError, RecursionError) as error:
        line = getattr(error, "lineno", None) or 1
        found.notes.append(
            (inside, Note(line, f"is no Python that can be read: {error}"))
        )
        return
    found.notes += [(inside, note) for note in findings.notes]
    if not findings.edits:
        return
    if text.mixed:
        note = Note(1, "mixes kinds of line ends: make them one kind first")
        found.notes.append((inside, note))
        return
    try:
        after = apply.edited(text.text, findings.edits, findings.tree)
    except GuardError as error:
        found.notes.append((inside, Note(1, f"left alone: {error}")))
        return
    found.packages |= findings.packages
    found.changes.append(Change(inside, text.text, after))


def carry_out(plan: Plan) -> None:
    """Write the changes, each file whole or not at all.

    An interrupted run is finished by the next one: what is done needs no change.
    """
    for change in plan.changes:
        path = plan.root / change.path
        apply.write(path, change.after, apply.read_any(path))


def remove_copies(plan: Plan, mapping: ModuleMap) -> list[Path]:
    """Delete the old modules that nothing names any more, and folders left empty.

    What a file still imports from a copy, or names in a string, keeps all copies of
    that package; `kept` says which and why.
    """
    removed = []
    keeping = kept(plan, mapping)
    for inside in plan.copies:
        if inside in keeping:
            continue
        path = plan.root / inside
        path.unlink()
        removed.append(inside)
        folder = path.parent
        while folder != plan.root and not any(
            entry.name != "__pycache__" for entry in folder.iterdir()
        ):
            for entry in folder.rglob("*"):
                if entry.is_file():
                    entry.unlink()
            for entry in sorted(folder.rglob("*"), reverse=True):
                entry.rmdir()
            folder.rmdir()
            folder = folder.parent
    return removed


def kept(plan: Plan, mapping: ModuleMap) -> dict[Path, str]:
    """Return the copies that are still needed, each with a place that needs it."""
    needed: dict[str, str] = {}
    for path in python_files(plan.root):
        inside = path.relative_to(plan.root)
        if inside in plan.copies:
            continue
        try:
            tree = ast.parse(apply.read(path).text)
        except (SyntaxError, UnicodeDecodeError):
            continue  # has a note of its own
        for line, name in references(tree, module_name(inside), mapping):
            package = mapping.find(name)
            if package is not None:
                needed.setdefault(package.name, f"{inside}:{line}")
    found = {}
    for inside in plan.copies:
        package = mapping.find(module_name(inside).removesuffix(".__init__"))
        if package is not None and package.name in needed:
            found[inside] = needed[package.name]
    return found


def references(
    tree: ast.Module, module: str, mapping: ModuleMap
) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) for what a file imports or names in a string.

    Relative imports are resolved. An import of a name counts by its module, unless
    the name itself is an old module.
    """
    parents = module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = parents[: len(parents) - node.level + 1]
                base = ".".join([*up, *([node.module] if node.module else [])])
            yield node.lineno, base
            if mapping.is_parent(base):
                for alias in node.names:
                    yield node.lineno, f"{base}.{alias.name}"
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and mapping.find(node.value) is not None
            and is_path(node.value)
        ):
            yield node.lineno, node.value


def python_files(root: Path) -> Iterator[Path]:
    """Yield the Python files of a service, sorted, without environments."""
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(set(folders) - SKIPPED)
        for name in sorted(names):
            if name.endswith((".py", ".pyi")):
                yield Path(folder) / name


def module_name(inside: Path) -> str:
    """Return the dotted name of a file, `a.b.__init__` for a package."""
    return ".".join(inside.with_suffix("").parts)


def is_module(root: Path, name: str) -> bool:
    """Tell whether a service has a module of that dotted name."""
    path = root.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def old_files(root: Path, mapping: ModuleMap) -> Iterator[Path]:
    """Yield the files that are old modules, relative to the service."""
    for path in python_files(root):
        inside = path.relative_to(root)
        if mapping.find(module_name(inside).removesuffix(".__init__")):
            yield inside
