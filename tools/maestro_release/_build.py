"""Build wheels and sdists of several packages in one process.

Runs as a child of the release tool and of `tools/bootstrap.py`, never inside
them: the PEP 517 hooks need `chdir`, and a crash must name its package. Only
poetry-core is needed, so that a fresh environment can run it first.

Usage: python _build.py OUT KINDS FOLDER...      (KINDS: wheel, sdist or wheel,sdist)

One JSON line per artefact goes to standard output:
`{"folder": ..., "kind": ..., "file": ...}`; a failure prints
`{"folder": ..., "kind": ..., "error": ...}` and the exit code is 1.
"""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path


def build(out: Path, kinds: list[str], folders: list[Path]) -> int:
    """Build every folder; return 0, or 1 at the first package that fails."""
    # SOURCE_DATE_EPOCH changes the bytes, so one setting must hold everywhere: none.
    os.environ.pop("SOURCE_DATE_EPOCH", None)
    from poetry.core.masonry import api

    hooks: dict[str, Callable[[str], str]] = {
        "wheel": api.build_wheel,
        "sdist": api.build_sdist,
    }
    for folder in folders:
        os.chdir(folder)
        for kind in kinds:
            line = {"folder": str(folder), "kind": kind}
            try:
                line["file"] = str(out / hooks[kind](str(out)))
            except Exception as error:  # a process edge: report and stop
                line["error"] = f"{type(error).__name__}: {error}"
            print(json.dumps(line), flush=True)
            if "error" in line:
                return 1
    return 0


if __name__ == "__main__":
    destination = Path(sys.argv[1]).absolute()
    destination.mkdir(parents=True, exist_ok=True)
    sys.exit(
        build(
            destination,
            sys.argv[2].split(","),
            [Path(name).absolute() for name in sys.argv[3:]],
        )
    )
