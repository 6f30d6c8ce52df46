"""What a task promises and needs: files in its folder, keys of answers."""

import fnmatch
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ._messages import Reply
from ._plan import Task
from .errors import ContractError


def check_consumes(spec: Task, folder: Path, replies: Iterable[Reply | None]) -> None:
    """Raise ContractError for what a task needs and nobody made."""
    answers = [reply.data for reply in replies if reply]
    missing = [
        name
        for name in spec.consumes
        if not (
            any(_has(data, name) for data in answers)
            if name.startswith("data.")
            else _found(folder, name)
        )
    ]
    if missing:
        raise ContractError(spec.name, "needs", missing)


def check_produces(spec: Task, folder: Path, reply: Reply) -> None:
    """Raise ContractError for what a task promised and did not make."""
    missing = [
        name
        for name in spec.produces
        if not (
            _has(reply.data, name) if name.startswith("data.") else _found(folder, name)
        )
    ]
    if missing:
        raise ContractError(spec.name, "promised", missing)


def check_handoff(spec: Task, reply: Reply, allowed: tuple[str, ...]) -> None:
    """Raise ContractError for an answer that hands over to somebody else."""
    if reply.handoff and allowed and reply.handoff not in allowed:
        raise ContractError(
            spec.name, "hands over to",
            [f"{reply.handoff!r}, allowed are {', '.join(allowed)}"],
        )  # fmt: skip


def _found(folder: Path, pattern: str) -> bool:
    if not any(c in pattern for c in "*?["):
        return (folder / pattern).exists()
    return any(
        fnmatch.fnmatch(str(p.relative_to(folder)), pattern) for p in folder.rglob("*")
    )


def _has(data: Any, name: str) -> bool:
    for part in name.split(".")[1:]:
        if not isinstance(data, dict) or part not in data:
            return False
        data = data[part]
    return True
