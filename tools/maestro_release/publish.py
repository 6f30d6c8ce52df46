"""Upload what a plan names, and nothing else.

A few files at once, each package after those that it needs, so that at no
moment the index offers a package whose sibling is missing. Whatever an answer
says, or when none comes, the index is asked: a file that stands there with the
planned hash is published, whoever put it there and however the answer got lost.
"""

import contextlib
import io
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from graphlib import TopologicalSorter
from pathlib import Path

from maestro_resilience import Retry

from maestro_release.errors import Conflict, Difference, IndexFault, IndexUnreachable
from maestro_release.index import TRANSIENT, Index
from maestro_release.plan import Plan, PlannedFile

AT_ONCE = 4  # uploads that run side by side


class _Interrupted(Exception):
    """An upload that ended early for a reason that may pass."""


class _NotListed(IndexFault):
    """The index took a file and does not list it (yet)."""


def publish(
    plan: Plan,
    folder: Path,
    index: Index,
    *,
    needs: Mapping[str, Iterable[str]],
    done: Callable[[PlannedFile], None] = lambda _: None,
) -> tuple[PlannedFile, ...]:
    """Upload the files that the index lacks; return them.

    Args:
        plan: what to do; must not hold conflicts.
        folder: where the files stand.
        index: where they go.
        needs: for each package the packages that must be there before it.
        done: told each file once the index has it; called by one thread.

    Raises:
        Conflict: somebody else published other bytes meanwhile.
        IndexRefused: user, password, rights or space.
        IndexUnreachable: three attempts at a file ended early; the same command
            goes on where this one stopped.
    """
    plan.refuse_conflicts()
    wanted = plan.uploads
    if not wanted:
        return ()
    index.expect_password()
    try:
        # twine prints "Uploading ..."; our own lines say when a file has arrived.
        with contextlib.redirect_stdout(io.StringIO()):
            run(wanted, needs, lambda file: send(file, folder, index), done)
    except Conflict:
        missing_files(wanted, index)  # raises one that names all such files
        raise
    except _Interrupted as error:
        published = len(wanted) - len(missing_files(wanted, index))
        raise IndexUnreachable(
            f"{error}; {published} of {len(wanted)} files are published, "
            "run the same command again to upload the rest"
        ) from error
    # Nexus may need a moment to write its page anew.
    Retry(attempts=6, on=_NotListed, wait=0.5).call(expect_listed, wanted, index)
    return wanted


def run(
    files: Sequence[PlannedFile],
    needs: Mapping[str, Iterable[str]],
    send: Callable[[PlannedFile], None],
    done: Callable[[PlannedFile], None],
) -> None:
    """Send files side by side, each package after those it needs.

    After the first failure nothing new begins, what is under way is waited for,
    and the failure is raised. ^C waits for nothing.
    """
    of_package: dict[str, list[PlannedFile]] = {}
    for file in files:
        of_package.setdefault(file.package, []).append(file)
    order = TopologicalSorter(
        {name: set(needs.get(name, ())) & of_package.keys() for name in of_package}
    )
    order.prepare()
    left = {name: len(found) for name, found in of_package.items()}
    todo: queue.Queue[PlannedFile | None] = queue.Queue()
    ended: queue.Queue[tuple[PlannedFile, BaseException | None]] = queue.Queue()
    for _ in range(min(AT_ONCE, len(files))):
        # Daemons: when this process is interrupted they must not hold it.
        threading.Thread(target=work, args=(send, todo, ended), daemon=True).start()
    running, failure = 0, None
    while True:
        for name in order.get_ready() if failure is None else ():
            for file in of_package[name]:
                todo.put(file)
                running += 1
        if not running:
            break
        file, error = ended.get()
        running -= 1
        if error is not None:
            failure = failure or error
            running -= drain(todo)
            continue
        done(file)
        left[file.package] -= 1
        if not left[file.package]:
            order.done(file.package)
    for _ in range(AT_ONCE):
        todo.put(None)
    if failure is not None:
        raise failure


def work(
    send: Callable[[PlannedFile], None],
    todo: "queue.Queue[PlannedFile | None]",
    ended: "queue.Queue[tuple[PlannedFile, BaseException | None]]",
) -> None:
    """Send one file after the other until there is None."""
    while (file := todo.get()) is not None:
        try:
            send(file)
        except BaseException as error:  # handed to the thread that waits
            ended.put((file, error))
        else:
            ended.put((file, None))


def drain(todo: "queue.Queue[PlannedFile | None]") -> int:
    """Take back what no thread has begun; return how much that was."""
    taken = 0
    while True:
        try:
            todo.get_nowait()
        except queue.Empty:
            return taken
        taken += 1


def send(file: PlannedFile, folder: Path, index: Index) -> None:
    """Upload one file, with some patience.

    Raises:
        Conflict: the index has other bytes under its name.
        IndexRefused: the index will not take it.
        _Interrupted: three attempts ended early.
    """

    def attempt() -> None:
        try:
            response = index.upload(folder / file.filename)
        except IndexUnreachable as error:
            if missing_files([file], index):
                raise _Interrupted(str(error)) from error
            return  # it arrived, only the answer did not
        if response.ok:
            return
        # Not for 401 and 403: who may not write may not be allowed to read.
        if response.status_code in {401, 403}:
            raise index.refusal(response.status_code)
        if not missing_files([file], index):
            return  # somebody else sent the same bytes, or we did, unheard
        if response.status_code in TRANSIENT:
            raise _Interrupted(
                f"{index.url} answered {response.status_code} to an upload"
            )
        raise index.refusal(response.status_code, response.text)

    Retry(attempts=3, on=_Interrupted, wait=[0.5, 2.0]).call(attempt)


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
