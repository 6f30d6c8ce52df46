"""What this package raises.

ResultsError
├── ReportError          a report that cannot be read or written (also a ValueError)
├── HistoryError         the history file is not ours, is newer, or cannot be written
│   ├── RunExists        a run and shard of this name is there with other content
│   └── RunNotFound      no such run (also a LookupError)
├── RulesError           a gate, quarantine or owners file says something wrong
└── InvalidArgument      a call with something it cannot take (also a ValueError)

Broken reports do not raise while a run is ingested or merged: what can be read is
kept, and a `Diagnostic` says what was not. Where no file is found at all,
`ReportError` is raised and nothing is kept.
"""

import difflib
from collections.abc import Iterable


class ResultsError(Exception):
    """Root of all errors of this package."""


class ReportError(ResultsError, ValueError):
    """A report that cannot be read or written.

    Attributes:
        path: The file.
        reason: What is wrong with it.
    """

    def __init__(self, path: object, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(f"{path}: {reason}")


class HistoryError(ResultsError):
    """The history file cannot be used.

    Attributes:
        path: The file.
    """

    def __init__(self, path: object, reason: str) -> None:
        self.path = str(path)
        super().__init__(f"{path}: {reason}")


class RunExists(HistoryError):
    """A run and shard of this name is in the history, with other content.

    Attributes:
        run_id: Its name.
        shard: The shard, "" for none.
    """

    def __init__(
        self, path: object, run_id: str, shard: str, other: str = "content"
    ) -> None:
        self.run_id = run_id
        self.shard = shard
        what = f"run {run_id!r}" + (f", shard {shard!r}" if shard else "")
        super().__init__(
            path, f"{what} is there with other {other}; pass replace=True or a new id"
        )


class RunNotFound(HistoryError, LookupError):
    """The history has no such run.

    Attributes:
        run_id: What was asked for.
    """

    def __init__(self, path: object, run_id: str, known: Iterable[str] = ()) -> None:
        self.run_id = run_id
        super().__init__(path, f"no run {run_id!r}{did_you_mean(run_id, known)}")


class RulesError(ResultsError, ValueError):
    """A gate, quarantine or owners file says something that it may not.

    Attributes:
        path: The file, "" for rules given as a mapping.
        where: The place in it.
    """

    def __init__(self, path: object, where: str, reason: str) -> None:
        self.path = str(path)
        self.where = where
        super().__init__(f"{path or 'rules'}: {where}: {reason}")


class InvalidArgument(ResultsError, ValueError):
    """A call was given something that it cannot take.

    Attributes:
        argument: Its name.
        value: What was given.
    """

    def __init__(self, argument: str, expected: str, value: object) -> None:
        self.argument = argument
        self.value = value
        super().__init__(f"{argument}: expected {expected}, got {value!r}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the nearest known name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
