"""Git worktrees: a folder per attempt, a merge queue, no work lost."""

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from .errors import DirtyWorktreeError, GitError, MergeConflictError, WorkspaceError


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult:
    """What a merge of two commits gives, without touching any checkout."""

    clean: bool
    tree: str
    paths: tuple[str, ...]
    """Files in conflict."""
    messages: str


@final
class Git:
    """One repository. Safe to use from several threads for different worktrees."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def run(
        self, *args: str, cwd: Path | None = None, ok: Sequence[int] = (0,),
        stdin: str | None = None,
    ) -> str:  # fmt: skip
        """Return what git prints; raise GitError."""
        done = self._run(args, cwd, stdin)
        if done.returncode not in ok:
            raise GitError(args, done.returncode, done.stderr)
        return done.stdout.removesuffix("\n")

    def _run(
        self, args: Sequence[str], cwd: Path | None, stdin: str | None = None
    ) -> "subprocess.CompletedProcess[str]":
        # Without the caller's GIT_DIR and the like, which would win over `cwd`.
        env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
        env |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        for role in ("AUTHOR", "COMMITTER"):
            env[f"GIT_{role}_NAME"] = os.environ.get(f"GIT_{role}_NAME", "maestro")
            env[f"GIT_{role}_EMAIL"] = os.environ.get(
                f"GIT_{role}_EMAIL", "maestro@localhost"
            )
        try:
            return subprocess.run(
                ["git", "-c", "core.quotepath=off", "-c", "gc.auto=0", *args],
                cwd=cwd or self.path, env=env, check=False, input=stdin,
                stdin=subprocess.DEVNULL if stdin is None else None,
                capture_output=True, text=True, encoding="utf-8",
                errors="surrogateescape",
            )  # fmt: skip
        except OSError as error:
            raise GitError(args, 127, str(error)) from error

    def common_dir(self) -> Path:
        """Return the folder that all worktrees share."""
        return (self.path / self.run("rev-parse", "--git-common-dir")).resolve()

    def rev(self, name: str) -> str | None:
        """Return the commit that a name means, None when there is none."""
        done = self._run(["rev-parse", "-q", "--verify", f"{name}^{{commit}}"], None)
        return done.stdout.strip() or None

    def dirty(self, cwd: Path | None = None) -> list[str]:
        """Return the files with changes that nobody committed."""
        text = self.run("status", "--porcelain", "-z", cwd=cwd)
        return [entry[3:] for entry in text.split("\0") if len(entry) > 3]

    def is_ancestor(self, old: str, new: str) -> bool:
        """Tell whether `new` contains `old`."""
        return not self._run(["merge-base", "--is-ancestor", old, new], None).returncode

    def merge_tree(self, ours: str, theirs: str) -> MergeResult:
        """Return what merging two commits gives, by `merge-tree --write-tree`."""
        args = ["merge-tree", "--write-tree", "-z", "--name-only", ours, theirs]
        done = self._run(args, None)
        if done.returncode not in {0, 1}:
            raise GitError(args, done.returncode, done.stderr)
        head, _, rest = done.stdout.partition("\0\0")
        tree, *paths = head.split("\0")
        said = [part for part in rest.split("\0") if "\n" in part or "CONFLICT" in part]
        return MergeResult(
            clean=done.returncode == 0,
            tree=tree,
            paths=tuple(dict.fromkeys(p for p in paths if p))
            if done.returncode
            else (),
            messages="".join(p for p in said if "CONFLICT (" in p).strip(),
        )

    def commit_tree(self, tree: str, parents: Sequence[str], message: str) -> str:
        """Make a commit of a tree and return it."""
        flags = [part for parent in parents for part in ("-p", parent)]
        return self.run("commit-tree", tree, *flags, "-F", "-", stdin=message)

    def changed(self, old: str, new: str) -> list[str]:
        """Return the files that differ between two commits."""
        text = self.run("diff", "--name-only", "-z", "--no-renames", old, new)
        return [name for name in text.split("\0") if name]


@dataclass(slots=True, kw_only=True)
class Worktree:
    """The folder of one attempt of one task."""

    path: Path
    base: str
    """The commit it started from."""
    head: str
    """Its last commit."""
    ref: str
    git: Git
    _lock: threading.Lock = field(default_factory=threading.Lock)  # one index

    def snapshot(self, message: str) -> str:
        """Commit whatever is in the folder and return the commit."""
        with self._lock:
            return self._commit(message)

    def _commit(self, message: str) -> str:
        self.git.run("add", "-A", cwd=self.path)
        if self.git.run("status", "--porcelain", cwd=self.path):
            self.git.run(
                "commit", "-q", "--no-verify", "--no-gpg-sign", "-m", message,
                cwd=self.path,
            )  # fmt: skip
        self.head = self.git.run("rev-parse", "HEAD", cwd=self.path)
        self.git.run("update-ref", self.ref, self.head)
        return self.head


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A merge that is not in the integration branch yet."""

    commit: str
    onto: str
    paths: tuple[str, ...]


@final
class Worktrees:
    """Give each attempt a worktree and merge what passes into one branch.

    Args:
        repository: A git repository; its own checkout is never touched.
        into: The integration branch; made from `base` when missing.
        base: Where a new integration branch starts, HEAD when not given.
        folder: Where worktrees are put; inside the git folder when not given.
        allow_dirty: Start although the repository has uncommitted changes, which
            no worktree will see.
    """

    def __init__(
        self,
        repository: str | Path = ".",
        *,
        into: str = "integration",
        base: str = "HEAD",
        folder: str | Path | None = None,
        allow_dirty: bool = False,
    ) -> None:
        self.git = Git(Path(repository).resolve())
        self.into, self.base = into, base
        self.allow_dirty = allow_dirty
        self._folder = Path(folder).resolve() if folder else None
        self._threads = threading.Lock()
        self._made: dict[str, Path] = {}

    @property
    def ref(self) -> str:
        """The full name of the integration branch."""
        return f"refs/heads/{self.into}"

    def prepare(self) -> str:
        """Check the repository, make the branch, return its commit."""
        start = self.examine()
        if self.git.rev(self.ref) is None:
            self.git.run("update-ref", self.ref, start, "0" * 40)
        return start

    def examine(self) -> str:
        """Return the commit that the branch is at, or would be; change nothing."""
        try:
            self.git.run("rev-parse", "--git-dir")
        except GitError as error:
            raise WorkspaceError(f"{self.git.path} is not a git repository") from error
        dirty = [] if self.allow_dirty else self._tracked_changes()
        if dirty:
            raise DirtyWorktreeError(self.git.path, dirty)
        head = self.git.rev(self.ref) or self.git.rev(self.base)
        if head is None:
            raise WorkspaceError(f"{self.git.path} has no commit {self.base!r}")
        if self._checked_out():
            raise WorkspaceError(
                f"branch {self.into!r} is checked out in {self._checked_out()}; a merge "
                "would change it under that folder, choose another `into`"
            )
        return head

    def _tracked_changes(self) -> list[str]:
        if self.git.run("rev-parse", "--is-bare-repository") == "true":
            return []
        return self.git.dirty()

    def _checked_out(self) -> str:
        folder = ""
        for line in self.git.run("worktree", "list", "--porcelain").splitlines():
            if line.startswith("worktree "):
                folder = line.removeprefix("worktree ")
            elif line == f"branch {self.ref}":
                return folder
        return ""

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the repository's lock for worktrees: threads and processes."""
        with self._threads, (self.git.common_dir() / "maestro.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _place(self, run: str, task: str, attempt: int) -> Path:
        if self._folder is None:
            self._folder = self.git.common_dir() / "maestro-worktrees"
        return self._folder / run / f"{task}.{attempt}"

    def acquire(
        self, run: str, task: str, attempt: int, *, at: str | None = None
    ) -> Worktree:
        """Make the worktree of an attempt; `at` is the commit to go on from."""
        ref = f"refs/maestro/{run}/{task}/{attempt}"
        path = self._place(run, task, attempt)
        base = self.git.rev(self.ref)
        if base is None:
            raise WorkspaceError(f"branch {self.into!r} is gone")
        with self.lock():
            self._remove(path)
            path.parent.mkdir(parents=True, exist_ok=True)
            self.git.run("worktree", "add", "-q", "--detach", str(path), at or base)
            self.git.run("worktree", "lock", "--reason", f"maestro {run}", str(path))
        start = self._fork_point(at, base) if at else base
        self._made[str(path)] = path
        return Worktree(path=path, base=start, head=at or base, ref=ref, git=self.git)

    def _fork_point(self, at: str, base: str) -> str:
        return self.git.run("merge-base", at, base, ok=(0, 1)) or base

    def _remove(self, path: Path) -> None:
        if path.exists():
            self.git.run("worktree", "unlock", str(path), ok=(0, 128))
            self.git.run("worktree", "remove", "-f", "-f", str(path), ok=(0, 128))
            shutil.rmtree(path, ignore_errors=True)
        # A folder that somebody deleted by hand leaves a locked entry behind.
        self.git.run("worktree", "unlock", str(path), ok=(0, 128))
        self.git.run("worktree", "prune")

    def release(self, tree: Worktree, *, merged: bool) -> None:
        """Remove the folder; unmerged work stays under its ref."""
        if not merged and tree.path.exists():
            tree.snapshot("work that was not merged")
        with self.lock():
            self._remove(tree.path)
        self._made.pop(str(tree.path), None)
        if merged or tree.head == tree.base:
            self.git.run("update-ref", "-d", tree.ref)

    def sweep(self, run: str) -> list[str]:
        """Remove the worktrees that a run left, keeping their work; return them."""
        left = []
        folder = self._place(run, "x", 1).parent
        for path in sorted(folder.glob("*")) if folder.exists() else ():
            task, _, attempt = path.name.rpartition(".")
            ref = f"refs/maestro/{run}/{task}/{attempt}"
            try:
                head = self.git.run("rev-parse", "HEAD", cwd=path)
                tree = Worktree(path=path, base=head, head=head, ref=ref, git=self.git)
                tree.snapshot("work that was not merged")
            except GitError:
                pass  # half made: there is nothing of value in it
            with self.lock():
                self._remove(path)
            left.append(str(path))
        if folder.exists() and not any(folder.iterdir()):
            folder.rmdir()
        return left

    def candidate(self, tree: Worktree, task: str, message: str) -> Candidate | None:
        """Return the merge of a worktree's work, None when there is none to merge.

        Raises MergeConflictError with the paths.
        """
        onto = self.git.rev(self.ref)
        if onto is None:
            raise WorkspaceError(f"branch {self.into!r} is gone")
        if self.git.is_ancestor(tree.head, onto):
            return None
        found = self.git.merge_tree(onto, tree.head)
        if not found.clean:
            raise MergeConflictError(task, found.paths, found.messages)
        commit = self.git.commit_tree(found.tree, [onto, tree.head], message)
        paths = tuple(self.git.changed(onto, commit))
        return Candidate(commit=commit, onto=onto, paths=paths)

    @contextlib.contextmanager
    def checkout(self, commit: str) -> Iterator[Path]:
        """Yield a folder with a commit checked out, for gates."""
        with tempfile.TemporaryDirectory(prefix="maestro-gate-") as folder:
            path = Path(folder).resolve() / "tree"
            with self.lock():
                self.git.run("worktree", "add", "-q", "--detach", str(path), commit)
            try:
                yield path
            finally:
                with self.lock():
                    self._remove(path)

    def advance(self, candidate: Candidate) -> bool:
        """Move the branch to the candidate; False when somebody moved it first."""
        try:
            self.git.run("update-ref", self.ref, candidate.commit, candidate.onto)
        except GitError:
            if self.git.rev(self.ref) == candidate.onto:
                raise
            return False
        return True
