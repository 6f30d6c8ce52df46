"""Runs inside a clean environment: does what pip installed work?

Usage: python -I _smoke.py DISTRIBUTION VERSION MODULE STRICT SCRIPTS

Imports the module, looks up every public name and, with SCRIPTS=1, asks every
command of the package for its help. A name that needs an extra may say so with
an ImportError that names the install line, unless STRICT is 1. Prints a JSON
list of what is wrong.
"""

import contextlib
import importlib
import importlib.metadata
import io
import json
import subprocess
import sys
from pathlib import Path


def faults(
    name: str, version: str, module: str, *, strict: bool, scripts: bool
) -> list[str]:
    """Return a line for each thing that does not work."""
    distribution = importlib.metadata.distribution(name)
    if distribution.version != version:
        return [f"{name} is {distribution.version}, wanted {version}"]
    try:
        imported = importlib.import_module(module)
    except Exception as error:
        return [f"import {module}: {type(error).__name__}: {error}"]
    found = []
    for public in getattr(imported, "__all__", ()):
        try:
            getattr(imported, public)
        except ImportError as error:
            if strict or "pip install" not in str(error):
                found.append(f"{module}.{public}: {error}")
        except Exception as error:
            found.append(f"{module}.{public}: {type(error).__name__}: {error}")
    if scripts:
        found += [
            fault for point in commands(distribution) if (fault := ask_help(point))
        ]
    return found


def commands(distribution: importlib.metadata.Distribution) -> list[str]:
    """Return the names of the commands that the package installs."""
    points = distribution.entry_points.select(group="console_scripts")
    return [point.name for point in points]


def ask_help(command: str) -> str | None:
    """Run `command --help`; return what went wrong, or None."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name(command)), "--help"],
        check=False,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=60,
    )
    if done.returncode == 0 and done.stdout.strip():
        return None
    said = (done.stderr or done.stdout).strip().splitlines()
    return f"{command} --help: exit code {done.returncode}: {said[-1] if said else ''}"


if __name__ == "__main__":
    given, wanted, imports, be_strict, with_scripts = sys.argv[1:]
    with contextlib.redirect_stdout(io.StringIO()):  # an import may print
        wrong = faults(
            given, wanted, imports, strict=be_strict == "1", scripts=with_scripts == "1"
        )
    print(json.dumps(wrong))
