"""Run the tests of all packages, or of one, against the installed wheels.

python tools/test.py test   [--package NAME] [-- PYTEST ARGUMENTS]
python tools/test.py drills [--package NAME] [-- PYTEST ARGUMENTS]

The exit code is pytest's; a run that finds no drill at all counts as passed.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NO_TESTS_COLLECTED = 5


def main() -> int:
    """Run pytest in its own process and return its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["test", "drills"])
    parser.add_argument("--package")
    # Split here: argparse would take "--" with nothing after it for a mistake.
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:cut])
    command = [sys.executable, "-P", "-m", "pytest", "-q"]
    if args.what == "drills":
        command += ["-m", "drill", "--timeout=600"]
    command += words[cut + 1 :]
    if args.package:
        folder = ROOT / "packages" / args.package
        if not folder.is_dir():
            names = sorted(p.name for p in folder.parent.iterdir() if p.is_dir())
            print(
                f"test: no package {args.package!r}; there are {', '.join(names)}",
                file=sys.stderr,
            )
            return 2
        command.append(str(folder))
    environment = os.environ | {
        "PYTHONSAFEPATH": "1",
        "PYTHONWARNDEFAULTENCODING": "1",
        # Tests that make environments find uv beside this Python.
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
    }
    code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
    if code == NO_TESTS_COLLECTED and args.what == "drills":
        print("test: no drills here")
        return 0
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
