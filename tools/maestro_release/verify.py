"""Prove that the index delivers what was published.

Everything happens in new environments, through the group's address alone: pip
and uv read no configuration, no local find-links and no cache of ours, or the
proof would not be about the index. The hash that the installer reports must be
the planned one, and the file must come from the group.
"""

import json
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pip

from maestro_release.build import last_line
from maestro_release.errors import IndexFault, VerifyFailed
from maestro_release.workspace import normalise

if TYPE_CHECKING:  # requests takes 0.1 s, in which the build has begun
    from maestro_release.index import Index

SMOKE = Path(__file__).with_name("_smoke.py")
BIN = Path(sys.executable).parent
PIP_RUNNER = Path(pip.__file__).with_name("__pip-runner__.py")
AT_ONCE = 4
LIMIT = 600.0  # seconds for one installer run
# Certificates and proxies are the machine's business; everything else of pip
# and uv would change what is proven.
KEPT = frozenset({"PIP_CERT", "PIP_CLIENT_CERT", "PIP_PROXY"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One published version to be proven."""

    name: str
    version: str
    extras: tuple[str, ...]
    files: tuple[tuple[str, str], ...]  # file name and sha256
    within_all: frozenset[str] = frozenset()  # extras that `all` holds completely

    @property
    def sha256(self) -> frozenset[str]:
        """The hashes of its files."""
        return frozenset(digest for _, digest in self.files)

    @property
    def module(self) -> str:
        """The import name."""
        return self.name.replace("-", "_")

    def requirement(self, extra: str | None = None) -> str:
        """Return what an installer is asked for."""
        return (
            f"{self.name}[{extra}]=={self.version}"
            if extra
            else (f"{self.name}=={self.version}")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One distribution that an installer chose."""

    name: str
    version: str
    url: str
    sha256: str


def find_uv() -> Path | None:
    """Return uv, when it is in this environment."""
    found = BIN / "uv"
    return found if found.exists() else None


class Proof:
    """A place for environments, with the index as the only source."""

    def __init__(
        self,
        index: "Index",
        folder: Path,
        subjects: Sequence[Subject],
        everyone: Sequence[Subject],
    ) -> None:
        self._index = index
        self._folder = folder
        self._subjects = tuple(subjects)
        self._known = {(s.name, s.version): s for s in (*everyone, *subjects)}
        self._names = {name for name, _ in self._known}
        self._environment = clean_environment(os.environ)
        if index.needs_password and index.user and index.password:
            netrc = folder / "netrc"
            netrc.touch(mode=0o600)
            host = urlsplit(index.url).hostname
            netrc.write_text(
                f"machine {host} login {index.user} password {index.password}\n",
                encoding="utf-8",
            )
            self._environment["NETRC"] = str(netrc)

    def bare(self, installer: str, progress: Callable[[str], None]) -> None:
        """Install all subjects into one environment and import each.

        Raises:
            VerifyFailed: an install or an import fails, or a file is not ours.
        """
        python = self._new_environment("bare")
        self._install(installer, python, [s.requirement() for s in self._subjects])
        self._smoke(python, self._subjects, strict=False, scripts=False)
        for subject in self._subjects:
            progress(f"{subject.name} {subject.version} installed and imported")

    def resolve_extras(
        self, progress: Callable[[str], None]
    ) -> dict[str, list[Installed]]:
        """Let an installer resolve every extra through the group.

        A solution of `all` is one of each extra that it holds, so only the
        others are asked for by themselves.

        Returns:
            for each subject what its largest installation brings along.

        Raises:
            VerifyFailed: one has no solution, or a file of ours is not ours.
        """
        pairs: list[tuple[Subject, str | None]] = []
        for subject in self._subjects:
            asked = [e for e in subject.extras if e not in subject.within_all]
            pairs += [(subject, extra) for extra in asked]
            if "all" not in subject.extras:
                pairs.append((subject, None))
        resolve = self._uv_resolve if find_uv() else self._pip_resolve

        def one(pair: tuple[Subject, str | None]) -> list[Installed]:
            requirement = pair[0].requirement(pair[1])
            chosen = resolve(requirement)
            self._check_origin(requirement, chosen)
            return chosen

        largest: dict[str, list[Installed]] = {}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for pair, chosen in zip(pairs, pool.map(one, pairs), strict=True):
                progress(f"{pair[0].requirement(pair[1])} resolved")
                if pair[1] in {"all", None}:
                    largest[pair[0].name] = chosen
        return largest

    def install_all(self, installer: str, progress: Callable[[str], None]) -> int:
        """Install each subject, bare and with each extra, each in its own place.

        Returns:
            how many environments were made.

        Raises:
            VerifyFailed: an install, an import or a command's help fails.
        """
        cases = [(s, extra) for s in self._subjects for extra in (None, *s.extras)]

        def one(case: tuple[Subject, str | None]) -> str:
            subject, extra = case
            label = f"{subject.name}-{extra or 'bare'}"
            python = self._new_environment(label)
            requirement = subject.requirement(extra)
            self._install(installer, python, [requirement])
            self._smoke(python, [subject], strict=extra == "all", scripts=True)
            return requirement

        with ThreadPoolExecutor(2) as pool:
            for requirement in pool.map(one, cases):
                progress(f"{requirement} installed by {installer} and imported")
        return len(cases)

    def _new_environment(self, label: str) -> Path:
        where = self._folder / label
        venv.EnvBuilder(symlinks=True, with_pip=False).create(where)
        return where / "bin" / "python"

    def _install(
        self, installer: str, python: Path, requirements: Sequence[str]
    ) -> None:
        install = self._uv_install if installer == "uv" else self._pip_install
        install(python, requirements)

    def _pip_install(self, python: Path, requirements: Sequence[str]) -> None:
        report = python.parent.parent / "report.json"
        self._run(
            *self._pip(python),
            *("install", "--quiet", "--no-compile"),
            *self._pip_options(),
            *("--report", str(report)),
            *requirements,
            task=f"installing {', '.join(requirements)} by pip",
        )
        what = ", ".join(requirements)
        self._check_origin(what, pip_report(report))

    def _pip_resolve(self, requirement: str) -> list[Installed]:
        label = requirement.replace("[", "-").split("]")[0]
        report = self._folder / f"{label}.json"
        self._run(
            *(sys.executable, "-m", "pip", "install", *self._pip_options(), "--quiet"),
            *("--dry-run", "--ignore-installed", "--report", str(report)),
            requirement,
            task=f"resolving {requirement} by pip",
        )
        return pip_report(report)

    def _pip(self, python: Path) -> tuple[str, ...]:
        # What `pip --python` starts in the end, without the first of its two
        # processes; where pip has no such file any more, the public way.
        if PIP_RUNNER.exists():
            return (str(python), str(PIP_RUNNER))
        return (sys.executable, "-m", "pip", "--python", str(python))

    def _pip_options(self) -> tuple[str, ...]:
        index = ("--index-url", self._index.install_url)
        return (*index, "--no-cache-dir", "--no-input", "--disable-pip-version-check")

    def _uv_resolve(self, *requirements: str) -> list[Installed]:
        label = requirements[0].replace("[", "-").split("]")[0]
        label += f"-{len(requirements)}"  # many at once and one alone run side by side
        asked = self._folder / f"{label}.in"
        asked.write_text("\n".join(requirements) + "\n", encoding="utf-8")
        lock = self._folder / f"pylock.{label.replace('.', '-')}.toml"
        self._run(
            *(str(find_uv()), "pip", "compile", "--quiet", *self._uv_options()),
            *("--python", sys.executable, "--output-file", str(lock), str(asked)),
            task=f"resolving {', '.join(requirements)} by uv",
        )
        return list(lock_entries(lock))

    def _uv_install(self, python: Path, requirements: Sequence[str]) -> None:
        what = ", ".join(requirements)
        self._check_origin(what, self._uv_resolve(*requirements))
        self._run(
            *(str(find_uv()), "pip", "install", "--quiet", *self._uv_options()),
            *("--python", str(python), *requirements),
            task=f"installing {what} by uv",
        )

    def _uv_options(self) -> tuple[str, ...]:
        cache = ("--cache-dir", str(self._folder / "uv-cache"))
        return ("--no-config", "--default-index", self._index.install_url, *cache)

    def _check_origin(self, what: str, chosen: Sequence[Installed]) -> None:
        group = f"{self._index.url}/repository/{self._index.group}/"
        for found in chosen:
            if not (found.name in self._names or found.name.startswith("maestro-")):
                continue
            if not found.url.startswith(group):
                raise VerifyFailed(
                    f"{what}: {found.name} comes from {found.url}, not from {group}"
                )
            if found.name not in self._names:
                raise VerifyFailed(f"{what}: {found.name} is none of our packages")
            subject = self._known.get((found.name, found.version))
            if subject is not None and found.sha256 not in subject.sha256:
                raise VerifyFailed(
                    f"{what}: the index delivers {found.name} {found.version} with "
                    f"sha256 {found.sha256}, published was "
                    f"{' or '.join(sorted(subject.sha256))}"
                )

    def _smoke(
        self, python: Path, subjects: Sequence[Subject], *, strict: bool, scripts: bool
    ) -> None:
        named = (part for s in subjects for part in (s.name, s.version, s.module))
        switches = (str(int(strict)), str(int(scripts)))
        said = self._run(str(python), "-I", str(SMOKE), *switches, *named)
        for subject, wrong in zip(subjects, json.loads(said), strict=True):
            if wrong:
                raise VerifyFailed(
                    f"{subject.name} {subject.version} does not work after its install:"
                    "\n" + "\n".join(f"  {line}" for line in wrong)
                )

    def _run(self, *command: str, task: str = "") -> str:
        task = task or f"`{' '.join(command[:6])} ...`"
        try:
            done = subprocess.run(
                command,
                check=False,
                capture_output=True,
                text=True,
                encoding="utf-8",
                errors="replace",
                env=self._environment,
                cwd=self._folder,
                timeout=LIMIT,
            )
        except subprocess.TimeoutExpired:
            raise VerifyFailed(f"{task} did not end in {LIMIT:.0f} s") from None
        if done.returncode:
            raise VerifyFailed(
                f"{task} failed{self._upstream_trouble()}:\n"
                + indent(done.stderr or done.stdout)
            )
        return done.stdout

    def _upstream_trouble(self) -> str:
        """Say whether other packages can be had: installers hide a 502 of a page."""
        try:
            self._index.files("pip", self._index.group)
        except IndexFault:
            return (
                f", and {self._index.group} cannot reach its upstream: "
                "is this machine offline?"
            )
        return ""


@contextmanager
def proof(
    index: "Index", subjects: Sequence[Subject], everyone: Sequence[Subject] = ()
) -> Iterator[Proof]:
    """Give a place to prove things in; it is gone afterwards.

    Args:
        index: the only source of packages.
        subjects: what is proven.
        everyone: further packages of ours that a subject may pull in.
    """
    index.files(subjects[0].name, index.group)  # finds out whether reading needs us
    with tempfile.TemporaryDirectory(prefix="maestro-verify-") as folder:
        yield Proof(index, Path(folder), subjects, everyone)


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without what would lead pip or uv elsewhere."""
    unwanted = ("PIP_", "UV_", "PYTHON", "VIRTUAL_ENV", "MAESTRO_INDEX_", "TWINE_")
    kept = {k: v for k, v in environ.items() if k in KEPT or not k.startswith(unwanted)}
    return kept | {"PIP_CONFIG_FILE": os.devnull}


def pip_report(path: Path) -> list[Installed]:
    """Read what pip's installation report says about origins."""
    report: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return [
        Installed(
            name=normalise(item["metadata"]["name"]),
            version=item["metadata"]["version"],
            url=item["download_info"]["url"],
            sha256=item["download_info"]
            .get("archive_info", {})
            .get("hashes", {})
            .get("sha256", ""),
        )
        for item in report["install"]
    ]


def lock_entries(path: Path) -> Iterator[Installed]:
    """Read what a pylock.toml says about origins: a line for each file."""
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    for package in document.get("packages", ()):
        files = [*package.get("wheels", ())]
        files += [package["sdist"]] if "sdist" in package else []
        for file in files:
            yield Installed(
                name=normalise(package["name"]),
                version=package.get("version", ""),
                url=file.get("url", ""),
                sha256=file.get("hashes", {}).get("sha256", ""),
            )


def indent(text: str) -> str:
    """Return the last lines of a text, indented."""
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return "\n".join(f"  {line}" for line in lines[-15:]) or f"  {last_line(text)}"
