"""The git commands that workspaces need, with errors that say what git said."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from .errors import GitError


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
