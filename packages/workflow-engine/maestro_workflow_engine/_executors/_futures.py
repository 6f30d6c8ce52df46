"""Run steps on any `concurrent.futures.Executor`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Executor, Future
from time import time
from typing import Any, final

from .._arguments import hinted, whole, wrong  # noqa: TID252
from .._model import Attempt, Outcome  # noqa: TID252 - a private subpackage
from ..errors import StepCancelledError  # noqa: TID252


@final
@hinted
class FuturesExecutor:
    """An adapter: give it your executor and the number of attempts to keep in flight.

    Args:
        executor: not shut down by the engine; it stays yours.
        slots: attempts in flight at a time.
    """

    def __init__(self, executor: Executor, slots: int) -> None:
        if not callable(getattr(executor, "submit", None)):
            some = "a concurrent.futures.Executor"
            raise wrong("FuturesExecutor", "executor", some, executor)
        self.slots = whole("FuturesExecutor", "slots", slots)
        self._executor = executor
        self._futures: dict[Attempt, Future[Any]] = {}

    def start(
        self, attempts: Sequence[Attempt], done: Callable[[Outcome], None]
    ) -> None:
        """Submit each attempt."""
        for attempt in attempts:
            kwargs, target = attempt.kwargs, attempt.spec.target
            assert target is not None
            if attempt.spec.wants_ctx:
                kwargs = kwargs | {"ctx": attempt.context()}
            try:
                future = self._executor.submit(
                    call_remote, target, tuple(attempt.args), kwargs,
                    attempt.chunked,
                )  # fmt: skip
            except RuntimeError as error:  # shut down, or its pool is broken
                done(
                    Outcome(attempt, None, error, time(), time(), "futures", lost=True)
                )
                continue
            self._futures[attempt] = future
            future.add_done_callback(self._reporter(attempt, done))

    def _reporter(
        self, attempt: Attempt, done: Callable[[Outcome], None]
    ) -> Callable[[Future[Any]], None]:
        submitted = time()

        def report(future: Future[Any]) -> None:
            self._futures.pop(attempt, None)
            try:
                value, started, ended, worker = future.result()
            except CancelledError:
                error = StepCancelledError(attempt.step, attempt.number, "stopped")
                done(Outcome(attempt, None, error, submitted, time(), "futures"))
            except BaseException as error:
                done(Outcome(attempt, None, error, submitted, time(), "futures"))
            else:
                done(Outcome(attempt, value, None, started, ended, worker))

        return report

    def cancel(self, attempt: Attempt) -> None:
        """Cancel a future that has not begun; one that runs is left to finish."""
        future = self._futures.get(attempt)
        if future is not None:
            future.cancel()

    def close(self) -> None:
        """Cancel what has not begun; the executor itself stays open."""
        for future in list(self._futures.values()):
            future.cancel()


def call_remote(
    target: Callable[..., Any],
    args: Sequence[Any],
    kwargs: dict[str, Any],
    chunked: bool,  # noqa: FBT001 - private
) -> tuple[Any, float, float, str]:
    """Call a step's function where the executor runs it, and time it there."""
    import os
    import threading

    started = time()
    if chunked:
        value: Any = [target(item, **kwargs) for item in args[0]]
    else:
        value = target(*args, **kwargs)
    worker = f"{os.getpid()}/{threading.current_thread().name}"
    return value, started, time(), worker
