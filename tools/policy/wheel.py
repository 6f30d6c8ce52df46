"""Small stays a promise: the size of each wheel has a limit."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from policy.finding import Finding

LIMIT = 60 * 1024  # bytes
LARGER = {
    "workflow-engine": 120 * 1024,
    "service-registry": 120 * 1024,
    "orchestration-core": 120 * 1024,
}
# Over their limit today: these may shrink and not grow. The way down is to move
# pages and exporters into distributions of their own.
OVER = {
    "audit-logger": 124 * 1024,
    "orchestration-core": 144 * 1024,
    "resilience": 94 * 1024,
    "service-registry": 146 * 1024,
    "test-adapters": 123 * 1024,
    "test-result-aggregator": 122 * 1024,
    "workflow-engine": 170 * 1024,
    "yaml-config-parser": 80 * 1024,
}


def check_wheels(root: Path, folders: list[Path]) -> Iterator[Finding]:
    """Build the wheels and yield those that are too large."""
    if not folders:
        return
    builder = Path(__file__).resolve().parent.parent / "maestro_release" / "_build.py"
    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run(
            [sys.executable, str(builder), out, "wheel", *map(str, folders)],
            check=False,
            stdout=subprocess.PIPE,
        )
        for text in done.stdout.splitlines():
            line = json.loads(text)
            folder = Path(line["folder"])
            path = str(folder.relative_to(root))
            if "error" in line:
                yield Finding(path, f"does not build: {line['error']}")
                continue
            size = Path(line["file"]).stat().st_size
            limit = OVER.get(folder.name) or LARGER.get(folder.name, LIMIT)
            if size > limit:
                yield Finding(path, f"wheel has {size} bytes; at most {limit}")
