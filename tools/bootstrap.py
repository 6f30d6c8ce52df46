"""Make the environments of this repository: standard library only, any time again.

python3 tools/bootstrap.py dev      .venv: checks, tests and the packages as wheels
python3 tools/bootstrap.py release  .venv-release: the release tool and the index

Both hold what the constraints files pin, by hash. uv does the installing where
it can be had, pip otherwise. The eight packages are built and installed as
wheels, so tests see what users get; only those whose files changed are built
again. The tools and the embedded index are linked, since nobody publishes them.

Options: --venv PATH, --only NAME (a folder of packages/, may be repeated).
Exit codes: 0 done, 1 a step failed, 2 usage or a machine that lacks something.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = {
    "dev": ROOT / "constraints.txt",
    "release": ROOT / "tools" / "constraints-release.txt",
}
VENVS = {"dev": ROOT / ".venv", "release": ROOT / ".venv-release"}
# The release tool retries, reads its settings and records releases with these.
NEEDED_BY_RELEASE = ("resilience", "yaml-config-parser", "audit-logger")
LINKED = ("tools", "nexus")
SKIPPED = {"__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis"}


class BootstrapError(Exception):
    """A step that failed; the message says what to do."""


def main() -> int:
    """Parse the command line, make the environment, say what was done."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=sorted(VENVS))
    parser.add_argument("--venv", type=Path)
    parser.add_argument("--only", action="append", default=[], metavar="NAME")
    args = parser.parse_args()
    try:
        make(args.kind, args.venv or VENVS[args.kind], args.only)
    except BootstrapError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 2
    except subprocess.CalledProcessError as error:
        print(
            f"setup: `{' '.join(map(str, error.cmd))}` failed with exit code "
            f"{error.returncode}; its messages are above",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def make(kind: str, venv: Path, only: list[str]) -> None:
    """Create or bring up to date the environment `venv`."""
    packages = find_packages(only)
    if kind == "release" and not only:
        packages = [p for p in packages if p.name in NEEDED_BY_RELEASE]
    python = venv / "bin" / "python"
    if not (venv / "bin" / "pip").exists():  # the last thing that venv makes
        create(venv)
    stamps = read_stamps(venv)
    constraints = CONSTRAINTS[kind]
    wanted = hashlib.sha256(constraints.read_bytes()).hexdigest()
    if stamps.get("constraints") != wanted:
        install_constraints(python, constraints)
        stamps = {"constraints": wanted}  # a sync removed what it does not name
        write_stamps(venv, stamps)
    for name in LINKED:
        link(python, ROOT / name, stamps)
    install_wheels(python, packages, stamps, venv)
    write_stamps(venv, stamps)


def find_packages(only: list[str]) -> list[Path]:
    """Return the package folders, all or those named."""
    folders = sorted(p.parent for p in (ROOT / "packages").glob("*/pyproject.toml"))
    names = {folder.name for folder in folders}
    for name in only:
        if name not in names:
            raise BootstrapError(f"no package {name!r}; there are {', '.join(names)}")
    return [folder for folder in folders if not only or folder.name in only]


def create(venv: Path) -> None:
    """Create the virtual environment and put uv into it where possible."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this file runs before any check
        raise BootstrapError(
            f"Python 3.11 or later is needed, this is {sys.version.split()[0]}; "
            "run `make PYTHON=/path/to/python3.11 ...`"
        )
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        raise BootstrapError(
            "this Python has no ensurepip, so it cannot make a virtual environment; "
            "on Debian and Ubuntu run `apt install python3-venv`"
        ) from None
    print(f"setup: creating {venv.name}", flush=True)
    # Without --clear: a run that was interrupted here is finished by the next one.
    run(sys.executable, "-m", "venv", venv)


def install_constraints(python: Path, constraints: Path) -> None:
    """Install exactly what the constraints file pins."""
    print(f"setup: installing {constraints.name}", flush=True)
    pip = (python, "-m", "pip", "--disable-pip-version-check", "-q")
    uv = python.with_name("uv")
    if not uv.exists():
        pinned = [x for x in requirements(constraints) if x.startswith("uv==")]
        listing = constraints.parent / f".uv-{os.getpid()}.txt"
        listing.write_text("\n".join(pinned), encoding="utf-8")
        try:
            subprocess.run(
                [*pip, "install", "--require-hashes", "-r", listing], check=False
            )
        finally:
            listing.unlink()
    if uv.exists():
        try:
            run(uv, "pip", "sync", "-q", "-p", python, "--require-hashes", constraints)
        except subprocess.CalledProcessError:
            print("setup: uv could not do it, trying pip", flush=True)
        else:
            return
    run(*pip, "install", "--require-hashes", "-r", constraints)


def requirements(constraints: Path) -> Iterator[str]:
    """Yield each requirement of a constraints file with its hashes, on one line."""
    text = constraints.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line and not line.startswith((" ", "#")):
            yield line


def link(python: Path, folder: Path, stamps: dict[str, str]) -> None:
    """Install a folder of tools so that its sources are used where they stand."""
    pyproject = folder / "pyproject.toml"
    if not pyproject.exists():
        return
    wanted = hashlib.sha256(pyproject.read_bytes() + str(folder).encode()).hexdigest()
    if stamps.get(folder.name) == wanted:
        return
    install(python, "--no-build-isolation", "-e", folder)
    stamps[folder.name] = wanted


def install_wheels(
    python: Path, packages: list[Path], stamps: dict[str, str], venv: Path
) -> None:
    """Build and install the packages whose files changed since the last time."""
    digests = {folder: tree_digest(folder) for folder in packages}
    changed = [f for f in packages if stamps.get(f.name) != digests[f]]
    if not changed:
        return
    out = venv / "wheels"
    shutil.rmtree(out, ignore_errors=True)
    builder = ROOT / "tools" / "maestro_release" / "_build.py"
    done = subprocess.run(
        [python, builder, out, "wheel", *changed], check=False, stdout=subprocess.PIPE
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    for line in lines:
        if "error" in line:
            raise BootstrapError(f"{line['folder']} does not build: {line['error']}")
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, [str(builder)])
    install(python, *(line["file"] for line in lines))
    for folder in changed:
        stamps[folder.name] = digests[folder]
    print(f"setup: installed {', '.join(f.name for f in changed)}", flush=True)


def install(python: Path, *what: object) -> None:
    """Install local things and nothing that they depend on."""
    uv = python.with_name("uv")
    if uv.exists():
        run(uv, "pip", "install", "-q", "-p", python, "--no-deps", "--reinstall", *what)
    else:
        command = (python, "-m", "pip", "install", "-q", "--no-deps")
        run(*command, "--force-reinstall", *what)


def tree_digest(folder: Path) -> str:
    """Return one hash over the names and contents of what a build reads."""
    digest = hashlib.sha256(str(sys.version_info[:2]).encode())
    for path in sorted(folder.rglob("*")):
        inside = path.relative_to(folder)
        if path.is_file() and not SKIPPED.intersection(inside.parts):
            if inside.parts[0] in {"tests", "benchmarks", "changes"}:
                continue
            digest.update(f"{inside}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def read_stamps(venv: Path) -> dict[str, str]:
    """Return what this environment holds, as noted by the last run."""
    try:
        found = json.loads((venv / "maestro-stamps.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return dict(found)


def write_stamps(venv: Path, stamps: dict[str, str]) -> None:
    """Note what this environment holds."""
    path = venv / "maestro-stamps.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(stamps, indent=1), encoding="utf-8")
    partial.replace(path)


def run(*command: object) -> None:
    """Run a command; raise CalledProcessError when it fails."""
    subprocess.run([str(part) for part in command], check=True)


if __name__ == "__main__":
    sys.exit(main())
