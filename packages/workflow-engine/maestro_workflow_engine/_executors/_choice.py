"""Which executor a step runs on: each is made when it is first needed."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, cast, final

from .._arguments import whole, wrong  # noqa: TID252 - a private subpackage
from .._model import Spec, StepExecutor  # noqa: TID252
from ..errors import OptionError, did_you_mean  # noqa: TID252

if TYPE_CHECKING:
    from concurrent.futures import Executor

KINDS = ("inline", "threads", "asyncio", "processes", "dask")


def chosen(
    executor: str | StepExecutor | Executor, workers: int | None
) -> tuple[str | StepExecutor, int]:
    if workers is not None:
        whole("WorkflowEngine", "workers", workers)
    if isinstance(executor, str):
        name, colon, number = executor.partition(":")
        if name not in KINDS or (colon and not (number.isdecimal() and int(number))):
            raise OptionError(
                "executor",
                f"expected an executor of {', '.join(KINDS)}, optionally with a number "
                f"as in 'threads:8', got {executor!r}{did_you_mean(name, KINDS)}",
                executor,
            )
        count = workers or int(number or (1 if name == "inline" else 4))
        return name, 1 if name == "inline" else count
    if callable(getattr(executor, "start", None)):
        own = cast("StepExecutor", executor)
        if all(hasattr(own, name) for name in ("slots", "cancel", "close")):
            return own, workers or own.slots
    elif callable(getattr(executor, "submit", None)):
        from ._futures import FuturesExecutor

        pool = cast("Executor", executor)
        count = workers or getattr(pool, "_max_workers", None) or 4
        return FuturesExecutor(pool, count), count
    some = "an executor such as 'threads:4', a StepExecutor or a futures Executor"
    given: object = executor
    if isinstance(given, int) and not isinstance(given, bool):
        some += f" (for so many workers: workers={executor})"
    raise wrong("WorkflowEngine", "executor", some, executor)


@final
class Executors:
    """The executors of one engine: the chosen one, one for async steps, one for commands."""

    def __init__(self, main: str | StepExecutor, workers: int) -> None:
        self.main = main
        self.workers = workers
        self.virtual = getattr(main, "virtual", None)  # the testing kit's clock
        self._made: dict[str, StepExecutor] = {}

    def close(self) -> None:
        """Stop what still runs and free threads and processes."""
        with ExitStack() as closing:  # all of them, also when one is interrupted
            for executor in self._made.values():
                closing.callback(executor.close)
            self._made.clear()

    def check(self) -> None:
        """Raise when running here would start the caller's script again and again."""
        if self.main == "processes":
            from ._guard import check_main_guard

            check_main_guard()

    def of(self, spec: Spec) -> StepExecutor:
        """Return the executor for steps like this one."""
        kind: str = spec.kind
        if kind == "python" or self.virtual is not None:
            kind = "main"
        found = self._made.get(kind)
        if found is None:
            found = self._made[kind] = self._make(kind)
        return found

    def _make(self, kind: str) -> StepExecutor:
        if kind == "async":
            main = self.of(Spec(name=""))
            from ._aio import AsyncExecutor

            return (
                main if isinstance(main, AsyncExecutor) else AsyncExecutor(self.workers)
            )
        if kind == "command":
            from ._command import CommandExecutor

            return CommandExecutor(self.workers)
        if not isinstance(self.main, str):
            return self.main
        if self.main == "inline":
            from ._inline import InlineExecutor

            return InlineExecutor()
        if self.main == "threads":
            from ._threads import ThreadExecutor

            return ThreadExecutor(self.workers)
        if self.main == "asyncio":
            from ._aio import AsyncExecutor

            return AsyncExecutor(self.workers)
        if self.main == "dask":
            from ..dask import DaskExecutor  # noqa: TID252

            return DaskExecutor.local(self.workers)
        from ._processes import ProcessExecutor

        return ProcessExecutor(self.workers)
