"""Upload what a plan names, and nothing else.

Twine sends the files: one process, in the plan's order. It stops at the first
refusal. Whatever it says, the index is asked afterwards: a file that stands
there with the planned hash is published, whoever put it there and however the
answer got lost.
"""

import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from maestro_resilience import Retry

from maestro_release.errors import Conflict, Difference, IndexFault, IndexUnreachable
from maestro_release.index import TRANSIENT, Index
from maestro_release.plan import Plan, PlannedFile

STATUS = re.compile(r"HTTPError: (\d{3})")
UPLOADING = re.compile(r"^Uploading (\S+)$")
REFUSED_FOR_GOOD = frozenset({401, 403, 404, 413, 507})


class _Interrupted(Exception):
    """An upload that ended early for a reason that may pass."""


class _NotListed(IndexFault):
    """The index took a file and does not list it (yet)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a twine process ended."""

    ok: bool
    status: int | None = None  # HTTP status of the refusal
    message: str = ""
    stalled: bool = False


def publish(
    plan: Plan,
    folder: Path,
    index: Index,
    *,
    keep_open: Sequence[int] = (),
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[PlannedFile, ...]:
    """Upload the files that the index lacks; return them.

    Args:
        plan: what to do; must not hold conflicts.
        folder: where the files stand.
        index: where they go.
        keep_open: descriptors that the uploading process inherits (the lock).
        progress: told the name of each file as its upload begins.

    Raises:
        Conflict: somebody else published other bytes meanwhile.
        IndexRefused: user, password, rights or space.
        IndexUnreachable: three attempts ended early; the same command goes on
            where this one stopped.
    """
    plan.refuse_conflicts()
    wanted = plan.uploads

    def attempt() -> None:
        missing = missing_files(wanted, index)
        if not missing:
            return
        ending = run_twine(
            [folder / f.filename for f in missing], index, keep_open, progress
        )
        if ending.ok:
            # Nexus may need a moment to write its page anew.
            Retry(attempts=6, on=_NotListed, wait=0.5).call(
                expect_listed, missing, index
            )
            return
        left = missing_files(missing, index)  # raises Conflict on other bytes
        if not left:
            return
        if ending.status in REFUSED_FOR_GOOD:
            raise index.refusal(ending.status or 0)
        if ending.status is not None and ending.status not in TRANSIENT:
            if len(left) < len(missing):
                raise _Interrupted(ending.message)  # somebody else's file: go on
            raise index.refusal(ending.status, ending.message)
        raise _Interrupted(explain(ending, index))

    if wanted:
        try:
            Retry(attempts=3, on=_Interrupted, wait=[0.5, 2.0]).call(attempt)
        except _Interrupted as error:
            left = missing_files(wanted, index)
            done = len(wanted) - len(left)
            raise IndexUnreachable(
                f"{error}; {done} of {len(wanted)} files are published, "
                "run the same command again to upload the rest"
            ) from error
    return wanted


def missing_files(files: Sequence[PlannedFile], index: Index) -> list[PlannedFile]:
    """Return the files that the index lacks.

    Raises:
        Conflict: one is there with other bytes.
    """
    names = sorted({f.package for f in files})
    there = index.files_of_all(names, index.hosted)
    differences, missing = [], []
    for file in files:
        found = there[file.package].get(file.filename)
        if found is None:
            missing.append(file)
            continue
        digest = index.sha256(file.package, found)
        if digest != file.sha256:
            differences.append(
                Difference(filename=file.filename, built=file.sha256, published=digest)
            )
    if differences:
        raise Conflict(tuple(differences), begun=True)
    return missing


def expect_listed(files: Sequence[PlannedFile], index: Index) -> None:
    """Return when the index lists all these files.

    Raises:
        _NotListed: it took them, but does not list them.
    """
    left = missing_files(files, index)
    if left:
        raise _NotListed(
            f"{index.url} took {left[0].filename} but does not list it in {index.hosted}"
        )


def run_twine(
    files: Sequence[Path],
    index: Index,
    keep_open: Sequence[int],
    progress: Callable[[str], None],
) -> Ending:
    """Upload files in one process; return how it ended."""
    command = [
        *(str(Path(sys.executable).parent / "twine"), "upload"),
        *("--non-interactive", "--disable-progress-bar"),
        *("--repository-url", index.upload_url, *map(str, files)),
    ]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
        env=twine_environment(index, os.environ),
        pass_fds=tuple(keep_open),
    )
    lines: queue.Queue[str | None] = queue.Queue()
    reader = threading.Thread(target=read_lines, args=(process, lines), daemon=True)
    reader.start()
    said: list[str] = []
    stalled = False
    try:
        while True:
            try:
                line = lines.get(timeout=index.upload_timeout)
            except queue.Empty:
                stalled = True
                break
            if line is None:
                break
            said.append(line)
            if match := UPLOADING.match(line):
                progress(match[1])
    finally:
        if stalled or sys.exc_info()[0] is not None:
            process.terminate()
        code = process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()
    text = "\n".join(said)
    refusal = STATUS.search(text)
    return Ending(
        ok=code == 0,
        status=int(refusal[1]) if refusal else None,
        message=last_error(said),
        stalled=stalled,
    )


def read_lines(
    process: subprocess.Popen[str], lines: "queue.Queue[str | None]"
) -> None:
    """Pass on what a process says, then None."""
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line.rstrip())
    lines.put(None)


def twine_environment(index: Index, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that carries user and password, and no other setting.

    Raises:
        IndexFault: user or password is not known.
    """
    if not (index.user and index.password):
        raise IndexFault(
            f"no user and password for {index.url}: set MAESTRO_INDEX_USER and "
            "MAESTRO_INDEX_PASSWORD, or a section [maestro] in .pypirc"
        )
    kept = {
        k: v
        for k, v in environ.items()
        if not k.startswith("TWINE_") or k in {"TWINE_CERT", "TWINE_CLIENT_CERT"}
    }
    return kept | {
        "TWINE_USERNAME": index.user,
        "TWINE_PASSWORD": index.password,
        "NO_COLOR": "1",
        "COLUMNS": "500",  # its lines must not be folded
        "PYTHONUNBUFFERED": "1",
        "PYTHONIOENCODING": "utf-8",
    }


def last_error(lines: Sequence[str]) -> str:
    """Return the last thing twine said about an error."""
    said = [x.removeprefix("ERROR").strip() for x in lines if x.strip()]
    errors = [x for x in said if "Error" in x or "error" in x]
    return (errors or said or ["twine said nothing"])[-1]


def explain(ending: Ending, index: Index) -> str:
    """Say in a sentence why an upload ended early."""
    if ending.stalled:
        limit = index.upload_timeout
        return f"{index.url} took no data for {limit:.0f} s"
    if ending.status is not None:
        return f"{index.url} answered {ending.status} to an upload"
    if "Connection" in ending.message or "Max retries" in ending.message:
        return f"the connection to {index.url} broke"
    return f"the upload ended early: {ending.message}"
