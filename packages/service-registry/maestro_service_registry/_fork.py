"""Fork without a thread inside a store.

A thread that is in SQLite, or holds a lock, when another one forks leaves the child
with a lock that nobody will ever release. So a fork waits until the stores' locks are
free, holds them while it happens, and lets them go on both sides.
"""

import os
import weakref
from typing import Any, Final, Protocol

__all__ = ["hold_across_fork"]

_HELD: Final[weakref.WeakKeyDictionary[object, "_Lock"]] = weakref.WeakKeyDictionary()
_TAKEN: Final[list["_Lock"]] = []
_INSTALLED: Final[list[bool]] = []


class _Lock(Protocol):
    def acquire(self) -> Any: ...

    def release(self) -> None: ...


def hold_across_fork(owner: object, lock: _Lock) -> None:
    """Hold `lock` during every fork for as long as `owner` lives."""
    if not _INSTALLED and hasattr(os, "register_at_fork"):
        _INSTALLED.append(True)
        os.register_at_fork(
            before=_take, after_in_parent=_let_go, after_in_child=_let_go
        )
    _HELD[owner] = lock


def _take() -> None:
    for lock in list(_HELD.values()):
        lock.acquire()
        _TAKEN.append(lock)


def _let_go() -> None:
    while _TAKEN:
        _TAKEN.pop().release()
