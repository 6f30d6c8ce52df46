"""Change fragments: one small file for each change that users notice.

`changes/12.fixed.md` or `changes/+slug.added.md` in a package's folder holds
one sentence. The kind says how far the version must rise; `bump` turns the
fragments into the next section of CHANGELOG.md with towncrier.
"""

import re
import subprocess
import sys
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from maestro_release.errors import GateFailed
from maestro_release.versions import Level
from maestro_release.workspace import Package

KINDS = {
    "breaking": Level.MAJOR,
    "added": Level.MINOR,
    "changed": Level.MINOR,
    "deprecated": Level.MINOR,
    "fixed": Level.PATCH,
    "security": Level.PATCH,
}
NAME = re.compile(r"^(?P<issue>\+?[^.]+)\.(?P<kind>[a-z]+)(\.\d+)?\.md$")
CONFIG = Path(__file__).with_name("towncrier.toml")
UNRELEASED = re.compile(r"^## (?P<version>\S+) \(unreleased\)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fragment:
    """One change."""

    path: Path
    kind: str
    text: str


def read_fragments(package: Package) -> tuple[Fragment, ...]:
    """Return the fragments of a package, by file name.

    Raises:
        GateFailed: a file has another name, an unknown kind, or no text.
    """
    found = []
    for path in sorted((package.folder / "changes").glob("*")):
        if path.name.startswith("."):
            continue
        match = NAME.match(path.name)
        if match is None:
            raise GateFailed(
                f"{path}: a change fragment is called NUMBER.KIND.md or +SLUG.KIND.md"
            )
        kind = match["kind"]
        if kind not in KINDS:
            close = get_close_matches(kind, KINDS, n=1)
            hint = f", did you mean {close[0]!r}?" if close else ""
            raise GateFailed(f"{path}: no kind {kind!r}{hint} ({', '.join(KINDS)})")
        text = path.read_text(encoding="utf-8").strip()
        if not text:
            raise GateFailed(f"{path}: the fragment is empty")
        found.append(Fragment(path=path, kind=kind, text=text))
    return tuple(found)


def assemble(package: Package, version: str, date: str) -> None:
    """Move the fragments into CHANGELOG.md under a heading of this version.

    Raises:
        GateFailed: towncrier refuses.
    """
    command = [
        *(sys.executable, "-P", "-m", "towncrier", "build", "--yes"),
        *("--config", str(CONFIG), "--dir", str(package.folder)),
        *("--name", package.name, "--version", version, "--date", date),
    ]
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=package.folder,  # towncrier runs git where it stands
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise GateFailed(f"towncrier: {said[-1] if said else 'failed'}")
    path = package.folder / "CHANGELOG.md"
    path.write_text(path.read_text(encoding="utf-8").lstrip(), encoding="utf-8")


def date_first_release(package: Package, date: str) -> bool:
    """Give the heading "(unreleased)" of this version its date; tell whether it had one."""
    path = package.folder / "CHANGELOG.md"
    if not path.exists():
        return False
    text = path.read_text(encoding="utf-8")
    dated = UNRELEASED.sub(
        lambda m: (
            f"## {m['version']} ({date})" if m["version"] == package.version else m[0]
        ),
        text,
    )
    if dated != text:
        path.write_text(dated, encoding="utf-8")
    return dated != text
