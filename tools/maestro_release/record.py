"""Remember which bytes were proven on which index, in .maestro/verified.json.

The second `publish` of the same bytes to the same index uploads nothing and
need not prove again what it proved before.
"""

import hashlib
import json
from pathlib import Path

from maestro_release.plan import Plan

NAME = "verified.json"


def key(plan: Plan) -> str:
    """Return one hash over the index and every planned file."""
    lines = [plan.server.url, *sorted(f"{f.filename} {f.expected}" for f in plan.files)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def proven_at(folder: Path, plan: Plan) -> str | None:
    """Return when exactly these files were proven on this index, if they were."""
    when = read(folder / NAME).get(key(plan))
    return when if isinstance(when, str) else None


def note(folder: Path, plan: Plan, when: str) -> None:
    """Note that these files were proven; the oldest of 50 notes is dropped."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    noted = read(path) | {key(plan): when}
    newest = dict(sorted(noted.items(), key=lambda item: item[1])[-50:])
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(newest, indent=1), encoding="utf-8")
    partial.replace(path)


def read(path: Path) -> dict[str, str]:
    """Return the notes, none when there are none or they cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
