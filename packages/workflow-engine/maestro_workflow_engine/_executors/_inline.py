"""Run steps one after the other in the scheduler's own thread."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import time
from typing import final

from .._cause import as_failure  # noqa: TID252
from .._model import Attempt, Outcome  # noqa: TID252 - a private subpackage


@final
class InlineExecutor:
    """The simplest executor: no threads; a timeout is noticed when the step returns."""

    slots = 1

    def start(
        self, attempts: Sequence[Attempt], done: Callable[[Outcome], None]
    ) -> None:
        """Run each attempt and report it."""
        for attempt in attempts:
            done(run_here(attempt, "inline"))

    def cancel(self, attempt: Attempt) -> None:
        """Do nothing: whoever could call this waits for the step itself."""

    def close(self) -> None:
        """Do nothing: there is nothing to free."""


def run_here(attempt: Attempt, worker: str) -> Outcome:
    """Call a step's function and turn whatever happens into an outcome."""
    started = time()
    try:
        if attempt.chunked:
            value = attempt.call()
        else:  # what that does, without the call: this is every step's way
            value = attempt.spec.target(*attempt.args, **attempt.kwargs)  # type: ignore[misc]
    except Exception as error:
        return Outcome(attempt, None, error, started, time(), worker)
    except SystemExit as error:  # a step must not end the engine
        return Outcome(attempt, None, as_failure(error), started, time(), worker)
    # What calling the class does, at half the cost.
    fields = (attempt, value, None, started, time(), worker, False, False)
    return tuple.__new__(Outcome, fields)
