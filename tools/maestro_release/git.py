"""What git knows: tags of releases, and what changed since."""

import io
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from packaging.version import InvalidVersion, Version

from maestro_release.errors import UsageFault
from maestro_release.workspace import Package

# Not part of the published files, so a change there is no reason to release.
UNPUBLISHED = ("changes", "benchmarks")


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Where the sources of a release stand."""

    commit: str
    tree: str  # hash of the package's folder
    dirty: bool  # the folder holds changes that are not committed


def git(root: Path, *arguments: str) -> str:
    """Run git; return what it prints.

    Raises:
        UsageFault: it fails, or is not there.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            check=False,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
    except FileNotFoundError:
        raise UsageFault("git is not installed, and versions need it") from None
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise UsageFault(f"`git {' '.join(arguments[:2])}` failed: {said[-1]}")
    return done.stdout


def is_repository(root: Path) -> bool:
    """Tell whether git knows this folder."""
    try:
        git(root, "rev-parse", "--verify", "HEAD")
    except UsageFault:
        return False
    return True


def last_release(root: Path, package: Package) -> Version | None:
    """Return the newest tagged version of a package, None when there is none."""
    prefix = f"{package.name}/v"
    versions = []
    for tag in git(root, "tag", "--list", f"{prefix}*").split():
        try:
            versions.append(Version(tag.removeprefix(prefix)))
        except InvalidVersion:
            continue  # somebody's own tag
    return max(versions, default=None)


def changed_since(root: Path, package: Package, ref: str) -> tuple[str, ...]:
    """Return the files of a package that differ from `ref`, new ones included."""
    folder = str(package.folder)
    excluded = [f":(exclude){folder}/{name}" for name in UNPUBLISHED]
    where = ["--", folder, *excluded]
    changed = git(root, "diff", "--name-only", "--no-renames", ref, *where)
    fresh = git(root, "ls-files", "--others", "--exclude-standard", *where)
    return tuple(sorted({*changed.splitlines(), *fresh.splitlines()}))


def commit_of(root: Path, package: Package) -> Commit:
    """Return where the sources of a package stand now."""
    inside = package.folder.relative_to(root).as_posix()
    return Commit(
        commit=git(root, "rev-parse", "HEAD").strip(),
        tree=git(root, "rev-parse", f"HEAD:{inside}").strip(),
        dirty=bool(git(root, "status", "--porcelain", "--", str(package.folder))),
    )


def export(root: Path, ref: str, package: Package, into: Path) -> Path:
    """Write a package's folder as it was at `ref` below `into`; return it."""
    inside = package.folder.relative_to(root).as_posix()
    command = ["git", "-C", str(root), "archive", "--format=tar", ref, "--", inside]
    done = subprocess.run(command, check=False, capture_output=True)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()
        raise UsageFault(f"{ref} has no {inside}: {said}")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(into, filter="data")
    return into / inside


def tag_exists(root: Path, tag: str) -> bool:
    """Tell whether a tag is there."""
    return bool(git(root, "tag", "--list", tag).strip())


def create_tag(root: Path, tag: str, message: str) -> None:
    """Create an annotated tag on HEAD."""
    git(root, "tag", "--annotate", "--message", message, tag)
