"""What every package folder has in common: files, metadata, README."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from policy.finding import Finding

BUILD_SYSTEM = {
    "requires": ["poetry-core>=2.0"],
    "build-backend": "poetry.core.masonry.api",
}
SHARED_METADATA = {
    "license": "Apache-2.0",
    "license-files": ["LICENSE"],
    "readme": "README.md",
    "requires-python": ">=3.11",
    "authors": [{"name": "Maestro maintainers"}],
}
CLASSIFIERS = {
    "Development Status :: 5 - Production/Stable",
    "Intended Audience :: Developers",
    "Operating System :: POSIX",
    "Programming Language :: Python :: 3",
    "Typing :: Typed",
}
# Everything else in the core is the standard library.
CORE_DEPENDENCIES = {"resilience": {"tenacity"}, "yaml-config-parser": {"pyyaml"}}
# Sections a README must have, in this order; others may stand between them.
SECTIONS = (
    "Install",
    "First example",
    "When things fail",
    "Testing your code",
    "Performance",
    "Not for",
    "Changelog",
)
README_LINES = 220
FIRST_EXAMPLE_LINE = 30
FILES = (
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "changes/.gitkeep",
    "{module}/__init__.py",
    "{module}/py.typed",
    "{module}/errors.py",
    "{module}/testing.py",
)
VERSION = re.compile(r"\d+\.\d+\.\d+")
NAME_OF_REQUIREMENT = re.compile(r"[A-Za-z0-9._-]+")


def check_package(root: Path, folder: Path) -> Iterator[Finding]:
    """Yield what is wrong with one package."""
    module = f"maestro_{folder.name.replace('-', '_')}"
    inside = folder.relative_to(root)
    for pattern in FILES:
        name = pattern.format(module=module)
        if not (folder / name).is_file():
            yield Finding(f"{inside}/{name}", "is missing; every package has it")
    yield from check_license(root, folder)
    if (folder / "tests" / "__init__.py").exists():
        message = "must not be there: with it tests see the sources, not the wheel"
        yield Finding(f"{inside}/tests/__init__.py", message)
    if not list((folder / "tests").glob("test_*.py")):
        yield Finding(f"{inside}/tests", "holds no test_*.py")
    pyproject = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    for message in check_pyproject(folder.name, module, pyproject):
        yield Finding(f"{inside}/pyproject.toml", message)
    if (folder / "README.md").is_file():
        text = (folder / "README.md").read_text(encoding="utf-8")
        for line, message in check_readme(text, folder.name):
            yield Finding(f"{inside}/README.md", message, line)


def check_license(root: Path, folder: Path) -> Iterator[Finding]:
    """Yield a finding when the licence differs from the root's."""
    own, shared = folder / "LICENSE", root / "LICENSE"
    if own.is_file() and shared.is_file() and own.read_bytes() != shared.read_bytes():
        path = str(own.relative_to(root))
        yield Finding(path, "differs from the LICENSE at the root; copy that")


def check_pyproject(name: str, module: str, pyproject: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with a package's pyproject.toml."""
    project = pyproject.get("project", {})
    if pyproject.get("build-system") != BUILD_SYSTEM:
        yield f"[build-system] must be {BUILD_SYSTEM}"
    if project.get("name") != f"maestro-{name}":
        yield f"name must be 'maestro-{name}', is {project.get('name')!r}"
    if not VERSION.fullmatch(str(project.get("version"))):
        yield f"version must be MAJOR.MINOR.PATCH, is {project.get('version')!r}"
    for key, expected in SHARED_METADATA.items():
        if project.get(key) != expected:
            yield f"{key} must be {expected!r}, is {project.get(key)!r}"
    missing = CLASSIFIERS - set(project.get("classifiers", []))
    if missing:
        yield f"classifiers lack {sorted(missing)}"
    description = project.get("description", "")
    if not description or description.endswith("."):
        yield "description must be one sentence without a full stop"
    if not project.get("keywords"):
        yield "keywords are missing"
    yield from check_tool_tables(module, pyproject.get("tool", {}))
    yield from check_dependencies(name, project)


def check_tool_tables(module: str, tool: dict[str, Any]) -> Iterator[str]:
    """Yield a message for each tool configured outside the root."""
    for table in sorted(set(tool) - {"poetry", "deptry"}):
        yield f"[tool.{table}] belongs into the root's pyproject.toml"
    if {"include": module} not in tool.get("poetry", {}).get("packages", []):
        yield f"[tool.poetry] packages must include {module!r}"


def check_dependencies(name: str, project: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the dependencies and the extras."""
    core = project.get("dependencies", [])
    extras: dict[str, list[str]] = project.get("optional-dependencies", {})
    allowed = CORE_DEPENDENCIES.get(name, set())
    for requirement in core:
        if requirement_name(requirement) not in allowed:
            yield f"core dependency {requirement!r}: make it an extra, or a decision"
    for requirement in [*core, *(r for rs in extras.values() for r in rs)]:
        if "@" in requirement or "file:" in requirement:
            yield f"{requirement!r} names a place; publish plain version ranges"
    if extras:
        union = {r for key, rs in extras.items() if key != "all" for r in rs}
        everything = set(extras.get("all", []))
        if everything != union:
            difference = sorted(everything ^ union)
            yield f"extra 'all' must be the union of the others; differs in {difference}"


def requirement_name(requirement: str) -> str:
    """Return the lower-case project name of a requirement."""
    found = NAME_OF_REQUIREMENT.match(requirement)
    return found.group().lower() if found else requirement


def check_readme(text: str, name: str) -> Iterator[tuple[int | None, str]]:
    """Yield (line, message) for what is wrong with a README."""
    lines = text.splitlines()
    if len(lines) > README_LINES:
        yield len(lines), f"has {len(lines)} lines; at most {README_LINES}"
    if not lines or lines[0] != f"# maestro-{name}":
        yield 1, f"must start with '# maestro-{name}'"
    code = next((i for i, x in enumerate(lines, 1) if x.startswith("```python")), None)
    if code is None or code > FIRST_EXAMPLE_LINE:
        yield code, f"the first example must start by line {FIRST_EXAMPLE_LINE}"
    titles = [line.removeprefix("## ").strip() for line in lines if line[:3] == "## "]
    present = [title for title in titles if title in SECTIONS]
    for section in SECTIONS:
        if section not in present:
            yield None, f"lacks the section '## {section}'"
    if present != sorted(present, key=SECTIONS.index):
        yield None, f"sections must come in the order {', '.join(SECTIONS)}"
