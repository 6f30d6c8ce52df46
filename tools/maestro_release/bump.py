"""Raise versions and write changelogs, and tag what is released."""

from collections.abc import Sequence
from pathlib import Path

import tomlkit
from packaging.version import Version

from maestro_release import git
from maestro_release.api_check import Break, api_breaks
from maestro_release.errors import GateFailed, UsageFault
from maestro_release.fragments import (
    KINDS,
    assemble,
    date_first_release,
    read_fragments,
)
from maestro_release.plan import Plan, State
from maestro_release.versions import Proposal, propose
from maestro_release.workspace import Package


def proposals(
    root: Path, packages: Sequence[Package]
) -> tuple[tuple[Proposal, tuple[Break, ...]], ...]:
    """Return what should become of each version, with the breaks that were found.

    Raises:
        UsageFault: this is no git checkout.
        GateFailed: a change fragment is misnamed.
    """
    return tuple(propose_one(root, package) for package in packages)


def propose_one(root: Path, package: Package) -> tuple[Proposal, tuple[Break, ...]]:
    """Look at one package."""
    released = git.last_release(root, package)
    fragments = read_fragments(package)
    changed: tuple[str, ...] = ()
    breaks: tuple[Break, ...] = ()
    if released is not None:
        tag = f"{package.name}/v{released}"
        changed = git.changed_since(root, package, tag)
        if any(name.endswith((".py", ".pyi")) for name in changed):
            breaks = api_breaks(root, package, tag)
    proposal = propose(
        package,
        released,
        kinds=[(f.kind, KINDS[f.kind]) for f in fragments],
        changed=changed,
        breaks=[b.where for b in breaks if b.waived is None],
    )
    return proposal, breaks


def apply(proposal: Proposal, date: str) -> None:
    """Write the version into pyproject.toml and the fragments into CHANGELOG.md."""
    package = proposal.package
    if proposal.rises:
        write_version(package.folder / "pyproject.toml", proposal.to)
    if read_fragments(package):
        assemble(package, str(proposal.to), date)
    date_first_release(package, date)


def write_version(path: Path, version: Version) -> None:
    """Set the version and leave everything else as it stands."""
    document = tomlkit.parse(path.read_text(encoding="utf-8"))
    document["project"]["version"] = str(version)
    partial = path.with_suffix(".partial")
    partial.write_text(tomlkit.dumps(document), encoding="utf-8")
    partial.replace(path)


def tag_released(
    root: Path, packages: Sequence[Package], plan: Plan
) -> tuple[tuple[str, bool], ...]:
    """Tag HEAD for each package whose published files are the ones built here.

    Returns:
        each tag and whether it is new.

    Raises:
        GateFailed: a package is not published as it stands, or has changes that
            are not committed: the tag would not name what was released.
        UsageFault: the tag exists on other sources.
    """
    for package in packages:
        states = {f.state for f in plan.files if f.package == package.name}
        if not states <= {State.SAME, State.EQUIVALENT}:
            raise GateFailed(
                f"{package.name} {package.version} is not published as it stands; "
                "publish first, then tag"
            )
        if git.tag_exists(root, package.tag):
            if changed := git.changed_since(root, package, package.tag):
                raise UsageFault(
                    f"{package.tag} exists, and {changed[0]} differs from it; "
                    "raise the version with `maestro-release bump --write`"
                )
        elif git.commit_of(root, package).dirty:
            raise GateFailed(f"{package.name} has changes that are not committed")
    done = []
    for package in packages:
        fresh = not git.tag_exists(root, package.tag)
        if fresh:
            git.create_tag(root, package.tag, f"{package.name} {package.version}")
        done.append((package.tag, fresh))
    return tuple(done)
