"""What the tree as a whole may hold: folders, and no address of the outside."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from policy.finding import Finding

TOP = {
    "packages", "tools", "nexus", "tests", "docs", ".ci",
    "Makefile", "README.md", "INTEGRATION_GUIDE.md", "LICENSE",
    "pyproject.toml", "constraints.txt",
    ".gitignore", ".editorconfig",
}  # fmt: skip
TEXT_LIMIT = 4 * 1024 * 1024  # bytes; larger files are data
# Put together from pieces, so that this file does not hold what it forbids.
HOSTS = re.compile(
    "|".join(
        re.escape(".".join(pieces))
        for pieces in (
            ("pypi", "org"),
            ("files", "pythonhosted", "org"),
            ("registry", "npmjs", "org"),
            ("deb", "debian", "org"),
        )
    ),
    re.IGNORECASE,
)
# A path that exists on one machine only.
HOMES = re.compile(r"(?<![\w.])/(?:" + "|".join(("wor" + "k", "far" + "m")) + r")/")
LOCK_FILES = {"poetry.lock", "uv.lock", "pylock.toml", "package-lock.json", "yarn.lock"}


def check_tree(root: Path) -> Iterator[Finding]:
    """Yield what is wrong with the files that git tracks, or would."""
    names = tracked(root)
    for top in sorted({name.split("/")[0] for name in names} - TOP):
        yield Finding(top, "does not belong at the top level")
    for name in names:
        path = root / name
        if path.name in LOCK_FILES:
            yield Finding(name, "records addresses; constraints.txt pins by hash")
        if path.is_file() and path.stat().st_size <= TEXT_LIMIT:
            yield from check_text(name, path)


def tracked(root: Path) -> list[str]:
    """Return the names of tracked files and of new ones that are not ignored."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    return sorted(name for name in done.stdout.split("\0") if name)


def check_text(name: str, path: Path) -> Iterator[Finding]:
    """Yield each line that names a registry's host or a path of one machine."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return
    for number, line in enumerate(text.splitlines(), 1):
        for pattern, what in ((HOSTS, "a package registry"), (HOMES, "a local path")):
            found = pattern.search(line)
            if found:
                message = f"names {what}: {found.group()!r}"
                yield Finding(name, message, number)
