"""Check that the packages look alike and that the tree names nothing it must not.

python -m policy [--root FOLDER] [--json]

Exit codes: 0 nothing found, 1 findings, 2 usage.
"""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from policy.package import check_package
from policy.tree import check_tree
from policy.wheel import check_wheels

ROOT = Path(__file__).resolve().parent.parent.parent


def main(argv: list[str] | None = None) -> int:
    """Print each finding; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m policy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    root: Path = args.root
    folders = sorted(p.parent for p in (root / "packages").glob("*/pyproject.toml"))
    found = list(check_tree(root))
    for folder in folders:
        found += check_package(root, folder)
    if not found:  # a package that is wrong as text is not built
        found += check_wheels(root, folders)
    if args.json:
        print(json.dumps([asdict(finding) for finding in found], indent=1))
    else:
        for finding in found:
            print(finding)
        print(f"policy: {len(folders)} packages, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
