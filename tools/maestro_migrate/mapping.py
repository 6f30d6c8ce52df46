"""Which old module became which package, and which names the package has."""

import ast
import importlib.util
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from maestro_migrate.errors import MappingError

DEFAULT = Path(__file__).with_name("mappings.toml")
KEYS = {"name", "module", "old", "rename", "names", "range"}


@dataclass(frozen=True, kw_only=True)
class Package:
    """One package and the modules it replaces."""

    name: str  # maestro-resilience
    module: str  # maestro_resilience
    old: tuple[str, ...]  # src.resilience, ...
    rename: Mapping[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()  # instead of reading __all__
    range: str = ">=1.0,<2"

    @cached_property
    def public(self) -> frozenset[str]:
        """The names that can be imported from the package.

        Raises:
            MappingError: the package is not installed and no `names` are given.
        """
        if self.names:
            return frozenset(self.names)
        spec = importlib.util.find_spec(self.module)
        if spec is None or spec.origin is None:
            raise MappingError(
                f"{self.name} is not installed here, so its names are not known: "
                f"`pip install {self.name}`, or list `names` in the mapping"
            )
        names = read_all(Path(spec.origin))
        if names is None:  # computed: the package itself knows
            names = importlib.import_module(self.module).__all__
        return frozenset(names)

    def new_name(self, old: str) -> str | None:
        """Return what an old name is called in the package; None if it is not there."""
        new = self.rename.get(old, old)
        return new if new in self.public else None


@dataclass(frozen=True, slots=True)
class ModuleMap:
    """All packages, by old module."""

    packages: tuple[Package, ...]

    def find(self, module: str) -> Package | None:
        """Return the package that replaces a module or one of its parents."""
        for package in self.packages:
            for old in package.old:
                if module == old or module.startswith(f"{old}."):
                    return package
        return None

    def is_parent(self, module: str) -> bool:
        """Tell whether something below a module is replaced."""
        return any(old.startswith(f"{module}.") for p in self.packages for old in p.old)

    @property
    def roots(self) -> frozenset[str]:
        """The last parts of old modules: a file without any of them has no edits."""
        return frozenset(old.rpartition(".")[2] for p in self.packages for old in p.old)


def load_mapping(path: Path = DEFAULT) -> ModuleMap:
    """Read a mapping file.

    Raises:
        MappingError: naming the file, the entry and the key.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise MappingError(f"{path}: {error}") from error
    entries = data.get("package", [])
    if not entries:
        raise MappingError(f"{path}: no [[package]] entry")
    return ModuleMap(tuple(_package(path, entry) for entry in entries))


def _package(path: Path, entry: dict[str, Any]) -> Package:
    where = f"{path}: package {entry.get('name', '?')!r}"
    for key in sorted(set(entry) - KEYS):
        raise MappingError(f"{where}: unknown key {key!r}; known are {sorted(KEYS)}")
    for key in ("name", "module", "old"):
        if not entry.get(key):
            raise MappingError(f"{where}: {key!r} is missing")
    return Package(
        **{
            **entry,
            "old": tuple(entry["old"]),
            "names": tuple(entry.get("names", ())),
        }
    )


def read_all(path: Path) -> Iterable[str] | None:
    """Return the strings in a module's `__all__` without importing it.

    None when it is computed rather than written out.

    Raises:
        MappingError: there is none.
    """
    tree = ast.parse(path.read_bytes())
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if isinstance(node, ast.AnnAssign):
            targets = [node.target]
        for target in targets:
            if isinstance(target, ast.Name) and target.id == "__all__":
                value = getattr(node, "value", None)
                try:
                    return [str(name) for name in ast.literal_eval(value or target)]
                except ValueError:
                    return None
    raise MappingError(f"{path} has no __all__")
