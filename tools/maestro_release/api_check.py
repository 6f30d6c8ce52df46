"""Breaks of a package's public interface since its last tag, found by griffe.

A break that is meant, or harmless, is waived in tools/api-waivers.toml with a
reason:

    [maestro-resilience]
    "maestro_resilience.Retry(on)" = "was never documented, nobody can use it"

The key is the object's path, with the parameter in parentheses where the
break is about one.
"""

import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from maestro_release.errors import UsageFault
from maestro_release.git import export
from maestro_release.workspace import Package

WAIVERS = Path("tools", "api-waivers.toml")


@dataclass(frozen=True, slots=True, kw_only=True)
class Break:
    """One break of the interface."""

    where: str  # maestro_resilience.Retry or maestro_resilience.Retry(on)
    what: str
    waived: str | None = None  # the reason

    def __str__(self) -> str:
        """Say what broke, and why it does not count."""
        text = f"{self.where}: {self.what}"
        return f"{text} (waived: {self.waived})" if self.waived else text


def api_breaks(root: Path, package: Package, tag: str) -> tuple[Break, ...]:
    """Compare the public interface with a tag; waived breaks carry their reason.

    Raises:
        UsageFault: the waivers cannot be read.
    """
    import griffe

    waivers = read_waivers(root / WAIVERS).get(package.name, {})
    with tempfile.TemporaryDirectory(prefix="maestro-api-") as place:
        before = export(root, tag, package, Path(place))
        try:
            old = griffe.load(
                package.module, search_paths=[before], allow_inspection=False
            )
        except ImportError:
            return ()  # the module has another name since: a first release
        new = griffe.load(
            package.module, search_paths=[package.folder], allow_inspection=False
        )
        found = []
        for breakage in griffe.find_breaking_changes(old, new):
            where = breakage.obj.path
            parameter = getattr(breakage.old_value, "name", None) or getattr(
                breakage.new_value, "name", None
            )
            if parameter and "arameter" in breakage.kind.value:
                where = f"{where}({parameter})"
            found.append(
                Break(where=where, what=breakage.kind.value, waived=waivers.get(where))
            )
    return tuple(sorted(found, key=lambda b: (b.where, b.what)))


def read_waivers(path: Path) -> dict[str, dict[str, str]]:
    """Return the reasons by package and path.

    Raises:
        UsageFault: it is no TOML, or a reason is missing.
    """
    if not path.exists():
        return {}
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageFault(f"{path}: {error}") from error
    for package, waivers in document.items():
        for where, why in waivers.items() if isinstance(waivers, dict) else ():
            if not isinstance(why, str) or not why.strip():
                raise UsageFault(f"{path}: {package}: {where!r} has no reason")
    return document
