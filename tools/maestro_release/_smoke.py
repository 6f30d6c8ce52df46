"""Runs inside a clean environment: does what pip installed work?

Usage: python -I _smoke.py STRICT SCRIPTS DISTRIBUTION VERSION MODULE ...

For each distribution: imports the module in a process of its own, looks up every
public name and, with SCRIPTS=1, asks every command of the package for its help. A
name that needs an extra may say so with an ImportError that names the install
line, unless STRICT is 1. Prints a JSON list of what is wrong for each, in the
order given.
"""

import contextlib
import importlib
import importlib.metadata
import io
import json
import os
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


def in_a_fork(
    name: str, version: str, module: str, *, strict: bool, scripts: bool
) -> list[str]:
    """Return `faults`, found in a child: an import must not lean on an earlier one."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with contextlib.redirect_stdout(io.StringIO()):  # an import may print
            found = faults(name, version, module, strict=strict, scripts=scripts)
        with os.fdopen(writer, "w", encoding="utf-8") as answer:
            json.dump(found, answer)
        os._exit(0)  # what an import has registered for the exit is not our subject
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if status or not text:
        return [f"import {module} ended the process, status {status}"]
    wrong: list[str] = json.loads(text)
    return wrong


if __name__ == "__main__":
    be_strict, with_scripts, *given = sys.argv[1:]
    triples = [given[i : i + 3] for i in range(0, len(given), 3)]
    found = [
        in_a_fork(*triple, strict=be_strict == "1", scripts=with_scripts == "1")
        for triple in triples
    ]
    print(json.dumps(found))
