"""How far a version must rise, and why. Only plain data here."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from packaging.requirements import Requirement
from packaging.version import Version

from maestro_release.workspace import Package, normalise


class Level(IntEnum):
    """The part of a version that rises."""

    NONE = 0
    PATCH = 1
    MINOR = 2
    MAJOR = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What should become of one package's version."""

    package: Package
    released: Version | None  # the newest tag
    to: Version
    level: Level
    reasons: tuple[str, ...]

    @property
    def rises(self) -> bool:
        """Whether pyproject.toml must change."""
        return str(self.to) != self.package.version

    @property
    def pending(self) -> bool:
        """Whether there is something to release at all."""
        return self.released is None or self.to > self.released


def raised(version: Version, level: Level) -> Version:
    """Return the next version; before 1.0 a break raises the minor part."""
    major, minor, patch = (*version.release, 0, 0)[:3]
    if level is Level.MAJOR and major == 0:
        level = Level.MINOR
    match level:
        case Level.NONE:
            return version
        case Level.PATCH:
            return Version(f"{major}.{minor}.{patch + 1}")
        case Level.MINOR:
            return Version(f"{major}.{minor + 1}.0")
        case Level.MAJOR:
            return Version(f"{major + 1}.0.0")


def propose(
    package: Package,
    released: Version | None,
    *,
    kinds: Sequence[tuple[str, Level]],
    changed: Sequence[str],
    breaks: Sequence[str],
) -> Proposal:
    """Weigh what is known about a package since its last release.

    Args:
        package: as its pyproject.toml stands.
        released: its newest tag; without one this version is the first release.
        kinds: kind and level of each change fragment.
        changed: published files that differ from the tag.
        breaks: breaks of the public interface that nobody waived.
    """
    now = Version(package.version)
    if released is None:
        return Proposal(
            package=package,
            released=None,
            to=now,
            level=Level.NONE,
            reasons=("first release",),
        )
    level = max((level for _, level in kinds), default=Level.NONE)
    counts = Counter(kind for kind, _ in kinds)
    reasons = [f"{count} {kind}" for kind, count in counts.items()]
    if breaks:
        level = Level.MAJOR
        reasons.append(
            f"{len(breaks)} {'break' if len(breaks) == 1 else 'breaks'} of the API"
        )
    if changed and not kinds:
        level = max(level, Level.PATCH)
        number = f"{len(changed)} file{'s' * (len(changed) != 1)}"
        reasons.append(f"{number} changed, no change fragment")
    wanted = raised(released, level)
    if now > released and now >= wanted:
        reasons.append("raised already")
        wanted = now
    return Proposal(
        package=package,
        released=released,
        to=wanted,
        level=level,
        reasons=tuple(reasons) or ("unchanged",),
    )


def left_behind(packages: Sequence[Package], name: str, to: Version) -> tuple[str, ...]:
    """Return the requirements of siblings that the new version leaves."""
    found = []
    for package in packages:
        texts = [*package.requires, *(t for _, extra in package.extras for t in extra)]
        for text in dict.fromkeys(texts):
            requirement = Requirement(text)
            if normalise(requirement.name) != name:
                continue
            if not requirement.specifier.contains(to, prereleases=True):
                found.append(f"{package.name} wants {text}")
    return tuple(found)
