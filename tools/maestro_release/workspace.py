"""Find the packages of this checkout and read what their pyproject.toml says."""

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from maestro_release.errors import UsageFault


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """One package as its pyproject.toml describes it."""

    name: str  # normalised: maestro-resilience
    version: str
    folder: Path
    requires: tuple[str, ...] = ()  # requirement strings of the core
    extras: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def short(self) -> str:
        """The folder's name, as people type it: `resilience`."""
        return self.folder.name

    @property
    def module(self) -> str:
        """The import name."""
        return self.name.replace("-", "_")

    @property
    def tag(self) -> str:
        """The git tag of this version."""
        return f"{self.name}/v{self.version}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workspace:
    """A checkout with its packages."""

    root: Path
    packages: tuple[Package, ...]

    @property
    def dist(self) -> Path:
        """Where built files go."""
        return self.root / "dist"

    @property
    def state(self) -> Path:
        """Where this tool notes what it did: ignored by git, safe to delete."""
        return self.root / ".maestro"

    def select(self, names: Iterable[str]) -> tuple[Package, ...]:
        """Return the packages with these names (short or full), or all for none.

        Raises:
            UsageFault: a name is not a package of this checkout.
        """
        wanted = list(names)
        if not wanted:
            return self.packages
        known = {p.short: p for p in self.packages} | {p.name: p for p in self.packages}
        for name in wanted:
            if normalise(name) not in known:
                raise UsageFault(f"no package {name!r}{self._hint(name)}")
        chosen = {known[normalise(name)].name for name in wanted}
        return tuple(p for p in self.packages if p.name in chosen)

    def _hint(self, name: str) -> str:
        names = [p.short for p in self.packages]
        close = get_close_matches(name, names, n=1)
        if close:
            return f", did you mean {close[0]!r}?"
        return f"; there are {', '.join(names) or 'none'}"


def normalise(name: str) -> str:
    """Return a project name as indexes compare them (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def find_root(start: Path) -> Path:
    """Return the checkout that holds `start`: the folder with packages/ in it.

    Raises:
        UsageFault: there is none above `start`.
    """
    for folder in (start, *start.parents):
        if any((folder / "packages").glob("*/pyproject.toml")):
            return folder
    raise UsageFault(
        f"no folder packages/ with packages at or above {start}; "
        "run this inside the checkout or give --root"
    )


def read_workspace(root: Path) -> Workspace:
    """Read every package of the checkout, in the order of their folders' names.

    Raises:
        UsageFault: there is no package, or a pyproject.toml cannot be read.
    """
    files = sorted(root.glob("packages/*/pyproject.toml"))
    if not files:
        raise UsageFault(f"no packages/*/pyproject.toml in {root}")
    packages = tuple(read_package(file) for file in files)
    seen: dict[str, Path] = {}
    for package in packages:
        if package.name in seen:
            raise UsageFault(
                f"{package.name} is named by two folders: "
                f"{seen[package.name]} and {package.folder}"
            )
        seen[package.name] = package.folder
    return Workspace(root=root, packages=packages)


def read_package(file: Path) -> Package:
    """Read one pyproject.toml.

    Raises:
        UsageFault: it is no TOML, or lacks the name or the version.
    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageFault(f"{file}: {error}") from error
    project: dict[str, Any] = document.get("project", {})
    for key in ("name", "version"):
        if not isinstance(project.get(key), str):
            raise UsageFault(f"{file}: [project] has no {key} (as text)")
    extras = project.get("optional-dependencies", {})
    return Package(
        name=normalise(project["name"]),
        version=project["version"],
        folder=file.parent,
        requires=tuple(project.get("dependencies", ())),
        extras=tuple((name, tuple(extras[name])) for name in sorted(extras)),
    )
