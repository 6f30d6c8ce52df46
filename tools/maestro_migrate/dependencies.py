"""Add the packages to what a service declares: pyproject.toml or requirements.txt."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomlkit

from maestro_migrate import apply
from maestro_migrate.mapping import ModuleMap

NAME = re.compile(r"^\s*([A-Za-z0-9][A-Za-z0-9._-]*)")


def plan(
    root: Path, packages: set[str], mapping: ModuleMap
) -> Iterator[tuple[Path, str, str]]:
    """Yield (path, before, after) of the file that declares dependencies.

    pyproject.toml with a [project] or Poetry table comes first, then
    requirements.txt; without either, a requirements.txt is made.
    """
    if not packages:
        return
    ranges = {p.name: p.range for p in mapping.packages}
    wanted = {name: ranges[name] for name in sorted(packages)}
    pyproject = root / "pyproject.toml"
    if pyproject.exists():
        before = apply.read_any(pyproject).text
        after = edit_pyproject(before, wanted)
        if after is not None:
            if after != before:
                yield Path("pyproject.toml"), before, after
            return
    requirements = root / "requirements.txt"
    before = apply.read_any(requirements).text
    after = edit_requirements(before, wanted)
    if after != before:
        yield Path("requirements.txt"), before, after


def edit_pyproject(text: str, wanted: dict[str, str]) -> str | None:
    """Return the text with the dependencies; None when it declares none at all."""
    document: Any = tomlkit.parse(text)
    if "project" in document:
        project = document["project"]
        if "dependencies" not in project:
            if "dependencies" in project.get("dynamic", []):
                return None
            project["dependencies"] = tomlkit.array().multiline(multiline=True)
        listed = project["dependencies"]
        have = {normal(str(line)) for line in listed}
        for name, versions in wanted.items():
            if name not in have:
                listed.append(f"{name}{versions}")
        return tomlkit.dumps(document)
    poetry = document.get("tool", {}).get("poetry", {})
    if "dependencies" in poetry:
        table = poetry["dependencies"]
        have = {normal(str(name)) for name in table}
        for name, versions in wanted.items():
            if name not in have:
                table[name] = versions
        return tomlkit.dumps(document)
    return None


def edit_requirements(text: str, wanted: dict[str, str]) -> str:
    """Return the text with a line for each package that has none."""
    have = {normal(line) for line in text.splitlines()}
    lines = [
        f"{name}{versions}" for name, versions in wanted.items() if name not in have
    ]
    if not lines:
        return text
    if text and not text.endswith("\n"):
        text += "\n"
    return text + "\n".join(lines) + "\n"


def declared(root: Path) -> dict[str, str]:
    """Return the version range of each requirement a service declares."""
    found: dict[str, str] = {}
    pyproject = root / "pyproject.toml"
    if pyproject.exists():
        document: Any = tomlkit.parse(apply.read_any(pyproject).text)
        for line in document.get("project", {}).get("dependencies", []):
            found[normal(str(line))] = str(line)[len(normal(str(line))) :]
        poetry = document.get("tool", {}).get("poetry", {}).get("dependencies", {})
        found |= {normal(str(name)): str(value) for name, value in poetry.items()}
    requirements = root / "requirements.txt"
    if requirements.exists():
        for line in apply.read_any(requirements).text.splitlines():
            name = normal(line)
            if name:
                found[name] = line.strip()[len(name) :]
    return found


def normal(requirement: str) -> str:
    """Return the normalised project name of a requirement line, or ''."""
    match = NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", match.group(1)).lower() if match else ""
